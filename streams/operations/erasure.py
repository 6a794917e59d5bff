"""Erasure requests: how one is made, and what they erase outside the store and the archive."""

import time
from collections.abc import Sequence

from features.served_feature_files import ServedFeatureFiles
from reaseq.errors import ReaSeqError
from reaseq.records import ID_LIMIT_CHARS
from reaseq.settings import KafkaSettings, Settings
from streams.delivery.messages import RawRecord
from streams.delivery.topics import EVENTS
from streams.operations.dead_letter_queue import DeadLetterQueue
from streams.runtime.kafka.producer import Producer
from streams.stages.archive import OnErasure


def request_erasure(settings: KafkaSettings, user_id: str) -> None:
    """Produce a user's erasure request: a tombstone in `events`, which covers all events up to now.

    Raises DeliveryError, or ReaSeqError for what cannot be a user's id.
    """
    if not user_id.strip() or len(user_id) > ID_LIMIT_CHARS:
        raise ReaSeqError(
            f"{user_id[:ID_LIMIT_CHARS]!r} is no user's id: it is blank, or has more than {ID_LIMIT_CHARS} characters"
        )
    producer = Producer(settings)
    try:
        producer.send_raw([RawRecord(EVENTS.name, user_id.encode(), None, int(time.time() * 1000))])
    finally:
        producer.close()


def build_erasure(settings: Settings) -> OnErasure:
    """Erases users' dead letters and their rows of the served-feature log. Raises Unavailable."""
    dead_letters = DeadLetterQueue(settings.kafka, settings.guard.quarantine_attempts)
    served = ServedFeatureFiles(settings.served_features_dir)

    def erase(user_ids: Sequence[str]) -> None:
        served.erase(user_ids)
        dead_letters.erase(user_ids)

    return erase

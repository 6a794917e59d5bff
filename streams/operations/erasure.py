"""Erasure requests."""

import time

from reaseq.settings import KafkaSettings
from streams.delivery.messages import RawRecord
from streams.delivery.topics import EVENTS
from streams.runtime.kafka.producer import Producer


def request_erasure(settings: KafkaSettings, user_id: str) -> None:
    """Produce a user's erasure request: a tombstone in `events`, which covers all events up to now. Raises DeliveryError."""
    producer = Producer(settings)
    try:
        producer.send_raw([RawRecord(EVENTS.name, user_id.encode(), None, int(time.time() * 1000))])
    finally:
        producer.close()

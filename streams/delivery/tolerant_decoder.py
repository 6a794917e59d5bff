"""Decodes records for readers outside the delivery contract: they have no dead letters, so they skip and count invalid ones."""

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import structlog

from reaseq.errors import InvalidRecord
from streams.delivery import metrics
from streams.delivery.messages import Decoder, Message, RawRecord
from streams.delivery.topics import Topic

log = structlog.get_logger()


class TolerantDecoder:
    """Decodes the records of one topic, and leaves out those that a stage would dead-letter.

    `skipped` counts them. The metric `reaseq_skipped_records_total` does so by reason, and a log line per call and reason
    names the first one.
    """

    def __init__(self, topic: Topic, future_limit_s: float = 0.0) -> None:
        self._topic = topic
        self._decoder = Decoder(topic, future_limit_s)
        self.skipped = 0

    def decode(self, records: Sequence[RawRecord]) -> list[Message]:
        """The messages of the valid records, in order. A tombstone's body is None."""
        now_ms = int(time.time() * 1000)
        messages, errors = [], defaultdict[str, list[tuple[RawRecord, InvalidRecord]]](list)
        for record in records:
            try:
                messages.append(self._decoder.decode(record, now_ms))
            except InvalidRecord as error:
                errors[error.reason].append((record, error))
        for reason, failures in errors.items():
            record, first = failures[0]
            where = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
            about = where if self._topic.personal else where | {"error": str(first)}
            log.warning("records_skipped", **about, reason=reason, records=len(failures))
            self.count_skipped(reason, len(failures))
        return messages

    def decode_bodies(self, records: Sequence[RawRecord]) -> list[Any]:
        """The bodies of the valid records, in order and without tombstones."""
        return [message.body for message in self.decode(records) if message.body is not None]

    def count_skipped(self, reason: str, records: int = 1) -> None:
        """Count records that the caller skips although they are valid."""
        self.skipped += records
        metrics.SKIPPED.labels(self._topic.name, reason).inc(records)

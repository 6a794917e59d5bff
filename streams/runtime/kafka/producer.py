"""Produces records with confirmation: for commands and clients (`Producer`), and for stages (`KafkaRecordProducer`)."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer
from kafka import KafkaProducer

from reaseq.settings import KafkaSettings
from streams.delivery.messages import RawRecord, encode
from streams.runtime.kafka.connection import COMPRESSION, broker_errors, client_options

CONFIRM_TIMEOUT_S = 60.0
BULK_LINGER_MS = 20
STAGE_LINGER_MS = 5


def _options(settings: KafkaSettings) -> dict[str, Any]:
    """Durable: idempotent, acknowledged by all in-sync replicas."""
    return client_options(settings) | {
        "acks": "all",
        "enable_idempotence": True,
        "compression_type": COMPRESSION,
        "max_request_size": settings.record_limit_bytes,
    }


class Producer:
    """A blocking producer. Every method raises BrokerUnavailable if a record is not confirmed."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        with broker_errors(settings):
            self._producer = KafkaProducer(**_options(settings), linger_ms=BULK_LINGER_MS)

    def send(self, records: Iterable[msgspec.Struct]) -> int:
        """Produce records, timestamped now; returns their number once all are confirmed."""
        now_ms = int(time.time() * 1000)
        return self.send_raw(encode(record, now_ms) for record in records)

    def send_raw(self, records: Iterable[RawRecord]) -> int:
        """Produce encoded records; returns their number once all are confirmed."""
        with broker_errors(self._settings):
            sent = [
                self._producer.send(
                    record.topic,
                    key=record.key,
                    value=record.value,
                    headers=list(record.headers),
                    timestamp_ms=record.timestamp_ms,
                )
                for record in records
            ]
            self._producer.flush(timeout=CONFIRM_TIMEOUT_S)
            for future in sent:
                future.get(timeout=CONFIRM_TIMEOUT_S)
        return len(sent)

    def close(self) -> None:
        """Close the connections."""
        self._producer.close()


class KafkaRecordProducer:
    """The `RecordProducer` of stages on Kafka. Connects on first use. Belongs to one event loop."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self.max_message_bytes = settings.max_message_bytes
        self._producer: AIOKafkaProducer | None = None

    async def produce(self, records: Sequence[RawRecord]) -> None:
        """Append the records; returns once the brokers have confirmed all of them."""
        if not records:
            return
        producer = await self._connected()
        pending = [
            await producer.send(
                record.topic,
                value=record.value,
                key=record.key,
                timestamp_ms=record.timestamp_ms,
                headers=list(record.headers),
            )
            for record in records
        ]
        await asyncio.gather(*pending)

    async def close(self) -> None:
        """Send buffered records and close the connections."""
        if self._producer:
            await self._producer.stop()

    async def _connected(self) -> AIOKafkaProducer:
        if self._producer is None:
            self._producer = AIOKafkaProducer(**_options(self._settings), linger_ms=STAGE_LINGER_MS)
            await self._producer.start()
        return self._producer

"""Produces the records of stages with confirmation, on an event loop."""

import asyncio
from collections.abc import Sequence

from aiokafka import AIOKafkaProducer

from reaseq.settings import KafkaSettings
from streams.delivery.messages import RawRecord
from streams.runtime.kafka.producer import producer_options

LINGER_MS = 5


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
            self._producer = AIOKafkaProducer(**producer_options(self._settings), linger_ms=LINGER_MS)
            await self._producer.start()
        return self._producer

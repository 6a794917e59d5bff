"""Reads a topic once: all of it, or a sample."""

import random
import time
from collections.abc import Iterator, Sequence

from kafka import TopicPartition

from reaseq.errors import BrokerUnavailable
from reaseq.settings import KafkaSettings
from streams.delivery.messages import RawRecord
from streams.delivery.topics import Topic
from streams.runtime.kafka.consumer import POLL_MS, list_partitions, query_consumer

SILENCE_LIMIT_S = 30.0


Ends = dict[TopicPartition, int]  # the offset after the last record, by partition


def read_ends(settings: KafkaSettings, topics: Sequence[Topic]) -> Ends:
    """Where the topics end now. Raises BrokerUnavailable."""
    with query_consumer(settings) as consumer:
        partitions = [partition for topic in topics for partition in list_partitions(consumer, topic.name)]
        ends: Ends = consumer.end_offsets(partitions)
        return ends


def read_all(
    settings: KafkaSettings, topic: Topic, last_records: int | None = None, since: Ends | None = None
) -> Iterator[RawRecord]:
    """Every record that the topic holds now, or the last ones of each partition, or those behind earlier ends.

    Raises BrokerUnavailable.
    """
    with query_consumer(settings) as consumer:
        partitions = list_partitions(consumer, topic.name)
        consumer.assign(partitions)
        starts, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
        for tp in partitions:
            first = since.get(tp, 0) if since else 0 if last_records is None else ends[tp] - last_records
            consumer.seek(tp, max(starts[tp], first))
        reached, advanced_s = 0, time.monotonic()
        while any(consumer.position(tp) < end for tp, end in ends.items()):
            for batch in consumer.poll(timeout_ms=POLL_MS).values():
                yield from map(RawRecord.from_broker, batch)
            if (position := sum(map(consumer.position, partitions))) != reached:
                reached, advanced_s = position, time.monotonic()
            elif time.monotonic() - advanced_s > SILENCE_LIMIT_S:
                raise BrokerUnavailable(f"the brokers at {settings.bootstrap_servers} stopped sending {topic.name}")


def read_sample(settings: KafkaSettings, topic: Topic, records: int, generator: random.Random) -> list[RawRecord]:
    """About `records` consecutive records from a random offset of a random partition. Raises BrokerUnavailable."""
    with query_consumer(settings) as consumer:
        tp = generator.choice(list_partitions(consumer, topic.name))
        start, end = consumer.beginning_offsets([tp])[tp], consumer.end_offsets([tp])[tp]
        found: list[RawRecord] = []
        consumer.assign([tp])
        consumer.seek(tp, max(start, generator.randrange(start, end + 1) - records))
        while len(found) < records and consumer.position(tp) < end:
            polled = consumer.poll(timeout_ms=POLL_MS, max_records=records - len(found))
            found += [RawRecord.from_broker(record) for batch in polled.values() for record in batch]
        return found

"""How far a consumer group is behind."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kafka import KafkaConsumer, TopicPartition

from reaseq.settings import KafkaSettings
from streams.delivery.topics import Topic
from streams.runtime.kafka.consumer import QUERY_TIMEOUT_MS, list_partitions, query_consumer


class Offsets(NamedTuple):
    """A group's offsets in one partition. Its lag is 0 if `committed` is `end`.

    This holds behind transaction markers, aborted records and gaps that compaction left, which are offsets without a record:
    workers commit how far they have read, not the offset after the last record. The records of an open transaction, and all
    records behind them, are beyond `end`.
    """

    start: int
    committed: int  # 0 if the group has never committed
    end: int

    @property
    def reached(self) -> int:
        """Where the group is, or would start: it cannot read what the topic has deleted."""
        return max(self.committed, self.start)


def read_offsets(consumer: KafkaConsumer, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Offsets]:
    """The offsets of the consumer's group in each partition. Raises KafkaError."""
    starts, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
    committed = {tp: consumer.committed(tp, timeout_ms=QUERY_TIMEOUT_MS) or 0 for tp in partitions}
    return {tp: Offsets(starts[tp], committed[tp], ends[tp]) for tp in partitions}


@dataclass(frozen=True)
class Lag:
    """A group's lag in one topic, in offsets summed over all partitions."""

    records: int  # in the topic
    uncommitted: int  # of these, not yet committed by the group
    committed: int  # by the group since the topic exists; 0 if it has never committed


def lags(settings: KafkaSettings, group_id: str, topics: Sequence[Topic]) -> dict[str, Lag]:
    """The lag of a group in each topic, by topic name. Raises BrokerUnavailable."""
    with query_consumer(settings, group_id) as consumer:
        found = {}
        for topic in topics:
            offsets = read_offsets(consumer, list_partitions(consumer, topic.name)).values()
            records = sum(partition.end - partition.start for partition in offsets)
            uncommitted = sum(max(partition.end - partition.reached, 0) for partition in offsets)
            found[topic.name] = Lag(records, uncommitted, sum(partition.committed for partition in offsets))
        return found

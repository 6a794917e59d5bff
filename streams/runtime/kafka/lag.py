"""How far a consumer group is behind."""

from collections.abc import Sequence
from dataclasses import dataclass

from reaseq.settings import KafkaSettings
from streams.delivery.topics import Topic
from streams.runtime.kafka.consumer import QUERY_TIMEOUT_MS, list_partitions, query_consumer


@dataclass(frozen=True)
class Lag:
    """A group's lag in one topic, in offsets summed over all partitions."""

    records: int  # in the topic
    uncommitted: int  # of these, not yet committed by the group
    has_commits: bool  # whether the group has ever committed in this topic


def lags(settings: KafkaSettings, group_id: str, topics: Sequence[Topic]) -> dict[str, Lag]:
    """The lag of a group in each topic, by topic name. Raises BrokerUnavailable."""
    with query_consumer(settings, group_id) as consumer:
        found = {}
        for topic in topics:
            partitions = list_partitions(consumer, topic.name)
            starts, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
            committed = {tp: consumer.committed(tp, timeout_ms=QUERY_TIMEOUT_MS) for tp in partitions}
            uncommitted = sum(max(ends[tp] - (committed[tp] or starts[tp]), 0) for tp in partitions)
            records = sum(ends[tp] - starts[tp] for tp in partitions)
            found[topic.name] = Lag(records, uncommitted, any(committed.values()))
        return found

"""Stand-ins for what delivery works with: a log and store that write down what happens, and a stage that counts."""

import json
from collections.abc import Sequence

from msgspec.structs import replace

from reaseq.errors import DeliveryError, StoreUnavailable
from reaseq.records import FeatureRecord, History, UserFeatures
from streams.contract.delivery import Backoff, Delivery
from streams.contract.messages import Message, RawRecord
from streams.contract.stage import BatchPolicy, Effects
from streams.contract.topics import DEAD_LETTERS, EVENTS

EVENT = {"schema": "event.1", "event_id": "e", "user_id": "u", "item_id": "i", "type": "view", "event_time_ms": 1}


class Journal:
    """A stand-in for log and store that writes down what happens in which order."""

    limit_bytes = 1_000_000

    def __init__(self, produce_fails: bool = False, store_is_away: int = 0) -> None:
        self.steps: list[str] = []
        self.held = 0  # the revision that the store has of everybody
        self.overtaken_meanwhile = 0  # by a revision that another worker writes between the check and the write
        self.produced: list[RawRecord] = []
        self.written: list[FeatureRecord] = []
        self._produce_fails = produce_fails
        self._store_is_away = store_is_away

    async def produce(self, records: Sequence[RawRecord]) -> None:
        if self._produce_fails:
            raise DeliveryError("not confirmed")
        self.steps.append("produce")
        self.produced += records

    def drop_stale(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        return [record for record in records if record.revision >= self.held]

    def newest(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        return [replace(record, events_seen=self.held) for record in records if isinstance(record, UserFeatures)]

    def write(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        if self._store_is_away:
            self._store_is_away -= 1
            self.steps.append("store away")
            raise StoreUnavailable("gone")
        self.steps.append("write")
        self.written += records
        if self.overtaken_meanwhile:
            self.held, self.overtaken_meanwhile = self.overtaken_meanwhile, 0
        return [record for record in records if record.revision < self.held]

    @property
    def letters(self) -> list[RawRecord]:
        return [record for record in self.produced if record.topic == DEAD_LETTERS.name]


class CountEvents:
    """A stage that counts a user's events, and fails on what it is told to."""

    name, source, batch = "count", EVENTS, BatchPolicy(10, 0)

    def __init__(self, poison: str = "", most: int = 100) -> None:
        self._poison = poison
        self._most = most

    async def process(self, batch: Sequence[Message]) -> Effects:
        counts: dict[str, int] = {}
        for message in batch:
            if message.body.event_id == self._poison:
                raise ValueError("poisonous")
            counts[message.key] = counts.get(message.key, 0) + 1
        if max(counts.values()) > self._most:
            raise OverflowError("too many")
        return Effects([UserFeatures(user_id=u, event_time_ms=1, events_seen=n, history=History()) for u, n in counts.items()])


def raw(event_id: str, user_id: str = "u", headers: tuple[tuple[str, bytes], ...] = ()) -> RawRecord:
    value = json.dumps(EVENT | {"event_id": event_id, "user_id": user_id}).encode()
    return RawRecord(EVENTS.name, user_id.encode(), value, 1, headers)


def deliver(stage: CountEvents, journal: Journal) -> Delivery:
    return Delivery(stage, journal, journal, 300, backoff=Backoff(first_s=0.001))

"""Fakes for delivery: a producer and store that record the order of calls, and a stage that counts events."""

import json
from collections.abc import Sequence

from msgspec.structs import replace

from reaseq.backoff import Backoff
from reaseq.errors import DeliveryError, StoreUnavailable
from reaseq.records import EARLIEST_TIME_MS, FeatureRecord, History, UserFeatures
from streams.delivery.delivery import Delivery
from streams.delivery.messages import Headers, Message, RawRecord
from streams.delivery.stage import BatchPolicy, Effects
from streams.delivery.topics import DEAD_LETTERS, EVENTS

EVENT = {
    "schema": "event.1",
    "event_id": "e",
    "user_id": "u",
    "item_id": "i",
    "type": "view",
    "event_time_ms": EARLIEST_TIME_MS,
}


class Journal:
    """A producer and store that records calls in order."""

    max_message_bytes = 1_000_000

    def __init__(self, produce_fails: bool = False, store_outages: int = 0) -> None:
        self.steps: list[str] = []
        self.stored_events = 0  # of every user
        self.superseding_events = 0  # written by another worker between `drop_stale` and `write`; 0 for none
        self.produced: list[RawRecord] = []
        self.written: list[FeatureRecord] = []
        self._produce_fails = produce_fails
        self._store_outages = store_outages

    async def produce(self, records: Sequence[RawRecord]) -> None:
        if self._produce_fails:
            raise DeliveryError("not confirmed")
        self.steps.append("produce")
        self.produced += records

    def drop_stale(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        return [record for record in records if not self._is_stale(record)]

    def newest(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        return [replace(record, events_seen=self.stored_events) for record in records if isinstance(record, UserFeatures)]

    def write(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        if self._store_outages:
            self._store_outages -= 1
            self.steps.append("store unavailable")
            raise StoreUnavailable("connection lost")
        self.steps.append("write")
        self.written += records
        if self.superseding_events:
            self.stored_events, self.superseding_events = self.superseding_events, 0
        return [record for record in records if self._is_stale(record)]

    def _is_stale(self, record: FeatureRecord) -> bool:
        return isinstance(record, UserFeatures) and record.events_seen < self.stored_events

    @property
    def dead_letters(self) -> list[RawRecord]:
        return [record for record in self.produced if record.topic == DEAD_LETTERS.name]


class CountEvents:
    """A stage that counts each user's events. Fails on the event `poison` and on more than `limit` events of a user."""

    name, source, batch = "count", EVENTS, BatchPolicy(10, 0)

    def __init__(self, poison: str = "", limit: int = 100) -> None:
        self._poison = poison
        self._limit = limit

    async def process(self, batch: Sequence[Message]) -> Effects:
        counts: dict[str, int] = {}
        for message in batch:
            if message.body.event_id == self._poison:
                raise ValueError("poisonous")
            counts[message.key] = counts.get(message.key, 0) + 1
        if max(counts.values()) > self._limit:
            raise OverflowError("too many")
        return Effects([UserFeatures(user_id=u, event_time_ms=1, events_seen=n, history=History()) for u, n in counts.items()])


def event_record(event_id: str, user_id: str = "u", headers: Headers = ()) -> RawRecord:
    """A valid record of `events`."""
    value = json.dumps(EVENT | {"event_id": event_id, "user_id": user_id}).encode()
    return RawRecord(EVENTS.name, user_id.encode(), value, 1, headers)


def build_delivery(stage: CountEvents, journal: Journal) -> Delivery:
    """A delivery that retries without noticeable delay."""
    return Delivery(stage, journal, journal, 300, backoff=Backoff(first_s=0.001, limit_s=5.0))

"""Deltas are produced before the rows they belong to are servable, few records for many, in order of offset."""

import asyncio
from collections.abc import Sequence
from itertools import chain, pairwise

import msgspec

from reaseq.records import EventDelta, EventDeltas, History, UserFeatures
from streams.delivery.delivery import Delivery
from streams.delivery.event_deltas import encode_deltas
from streams.delivery.messages import Message, RawRecord
from streams.delivery.stage import BatchPolicy, Effects
from streams.delivery.topics import DEAD_LETTERS, EVENT_DELTAS, EVENTS
from tests.fakes.delivery import Journal, event_record

LIMIT_BYTES = 400


def delta(offset: int, source: str = "0", item_id: str = "i", value: int | None = None) -> EventDelta:
    return EventDelta(source, offset, 1_000 + offset, 1, item_id, "view", 700_000_000_000, value)


def decode(records: Sequence[RawRecord]) -> list[list[EventDelta]]:
    return [list(msgspec.json.decode(record.value or b"", type=EventDeltas)) for record in records]


def test_each_source_has_one_record_in_order_of_offset() -> None:
    deltas = [delta(5), delta(3, source="2", value=7), delta(1), delta(9, source="2")]

    records = encode_deltas(deltas, 1_000_000)

    assert [record.key for record in records] == [b"0", b"2"]
    assert decode(records) == [[delta(1), delta(5)], [delta(3, source="2", value=7), delta(9, source="2")]]


def test_large_record_is_cut_between_offsets_and_stays_in_order() -> None:
    deltas = [delta(offset, item_id=f"{offset}-{part}") for offset in (4, 2, 9, 7, 1) for part in range(3)]

    records = encode_deltas(deltas, LIMIT_BYTES)

    offsets = [[delta.offset for delta in part] for part in decode(records)]
    assert len(records) > 1 and [*chain(*offsets)] == sorted(delta.offset for delta in deltas)
    assert all(before[-1] < after[0] for before, after in pairwise(offsets))


def test_deltas_of_one_offset_stay_together_whatever_their_size() -> None:
    deltas = [delta(2, item_id=f"item {number}") for number in range(50)]

    assert decode(encode_deltas([delta(1), *deltas, delta(3)], LIMIT_BYTES)) == [[delta(1)], deltas, [delta(3)]]


def test_no_deltas_make_no_record() -> None:
    assert encode_deltas([], LIMIT_BYTES) == []


class DeltaStage:
    """A stage that has a delta for each message. Fails on a batch of several users."""

    name, source, batch = "deltas", EVENTS, BatchPolicy(10, 0)

    def __init__(self, title: str = "") -> None:
        self._title = title

    async def process(self, batch: Sequence[Message]) -> Effects:
        if len({message.key for message in batch}) > 1:
            raise ValueError("several users")
        history = History(item_ids=(self._title,), types=(1,), times_ms=(1,), event_keys=(1,)) if self._title else History()
        user = UserFeatures(user_id=batch[0].key, event_time_ms=1, events_seen=len(batch), history=history)
        return Effects([user], deltas=[delta(message.offset, item_id=message.key) for message in batch])


def batch(*users: str) -> list[RawRecord]:
    return [event_record(f"e{offset}", user)._replace(offset=offset) for offset, user in enumerate(users)]


def test_deltas_of_messages_that_were_processed_apart_are_in_order_and_produced_before_the_write() -> None:
    journal = Journal()

    asyncio.run(Delivery(DeltaStage(), journal, journal, 300.0).handle(batch("u", "v", "u", "v")))

    assert journal.steps == ["produce", "write"]
    [deltas] = decode([record for record in journal.produced if record.topic == EVENT_DELTAS.name])
    assert [(delta.offset, delta.item_id) for delta in deltas] == [(0, "u"), (1, "v"), (2, "u"), (3, "v")]


def test_messages_that_become_dead_letters_because_their_result_is_too_large_have_no_deltas() -> None:
    journal = Journal()
    journal.max_message_bytes = 700

    asyncio.run(Delivery(DeltaStage("x" * 100), journal, journal, 300.0).handle(batch("u")))
    journal.max_message_bytes = 300
    asyncio.run(Delivery(DeltaStage("x" * 100), journal, journal, 300.0).handle(batch("v")))

    by_topic = [record.topic for record in journal.produced if record.topic in (EVENT_DELTAS.name, DEAD_LETTERS.name)]
    assert by_topic == [EVENT_DELTAS.name, DEAD_LETTERS.name]

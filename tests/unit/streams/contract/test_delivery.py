"""The delivery contract, step by step, on stand-ins for the log and the store."""

import asyncio
import json
import time
from collections.abc import Sequence

import pytest

from reaseq.errors import DeliveryError
from reaseq.records import UserFeatures
from streams.contract import dead_letters
from streams.contract.delivery import Delivery
from streams.contract.key_locks import KeyLocks
from streams.contract.messages import ORIGIN_HEADER, RawRecord
from streams.contract.topics import USER_FEATURES
from tests.fakes.delivery import CountEvents, Journal, deliver, raw


async def test_records_are_confirmed_before_they_are_servable() -> None:
    journal = Journal()

    await deliver(CountEvents(), journal).handle([raw("a"), raw("b", "v")])

    assert journal.steps == ["produce", "write"]
    assert [record.topic for record in journal.produced] == [USER_FEATURES.name] * 2
    assert len(journal.written) == 2


async def test_what_is_not_confirmed_is_neither_written_nor_acknowledged() -> None:
    journal = Journal(produce_fails=True)

    with pytest.raises(DeliveryError):
        await deliver(CountEvents(), journal).handle([raw("a")])

    assert journal.written == []


async def test_a_dead_letter_that_is_not_confirmed_stops_the_worker() -> None:
    with pytest.raises(DeliveryError):
        await deliver(CountEvents(), Journal(produce_fails=True)).handle([raw("a")._replace(value=b"{")])


async def test_while_the_store_is_away_the_batch_waits_and_loses_nothing() -> None:
    journal = Journal(store_is_away=3)

    await deliver(CountEvents(), journal).handle([raw("a")])

    assert journal.steps == ["produce", "store away", "store away", "store away", "write"]
    assert journal.letters == []


async def test_a_poisonous_message_is_buried_alone() -> None:
    journal = Journal()

    await deliver(CountEvents(poison="bad"), journal).handle([raw("a"), raw("bad"), raw("b"), raw("c", "v")])

    assert [dead_letters.read(letter).reason for letter in journal.letters] == ["failed_ValueError"]
    assert {record.user_id: record.events_seen for record in journal.written if isinstance(record, UserFeatures)} == {
        "u": 2,
        "v": 1,
    }


async def test_messages_that_fail_only_together_are_buried_together() -> None:
    journal = Journal()

    await deliver(CountEvents(most=1), journal).handle([raw("a"), raw("b"), raw("c", "v")])

    assert [dead_letters.read(letter).reason for letter in journal.letters] == ["failed_OverflowError"] * 2
    assert [record.user_id for record in journal.written if isinstance(record, UserFeatures)] == ["v"]


async def test_a_dead_letter_keeps_the_bytes_and_headers_and_says_why() -> None:
    journal = Journal()
    broken = raw("a", headers=(("trace", b"1"),))._replace(value=b"{broken")

    await deliver(CountEvents(), journal).handle([broken])

    (letter,) = journal.letters
    told = dead_letters.read(letter)
    assert told.record._replace(timestamp_ms=broken.timestamp_ms) == broken
    assert (told.stage, told.reason, told.attempts) == ("count", "malformed_json", 1)
    assert told.first_failure_ms == told.last_failure_ms > 0


async def test_a_replayed_dead_letter_that_fails_again_counts_on() -> None:
    journal = Journal()
    delivery = deliver(CountEvents(), journal)
    await delivery.handle([raw("a", headers=(("trace", b"1"),))._replace(value=b"{")])
    first = dead_letters.read(journal.letters[0])

    await delivery.handle([first.again(now_ms=5)._replace(offset=1)])

    told = dead_letters.read(journal.letters[1])
    assert (first.attempts, told.attempts) == (1, 2)
    assert told.first_failure_ms == first.first_failure_ms
    assert told.record.headers == (("trace", b"1"),)
    assert told.id != first.id


async def test_a_record_that_is_delivered_twice_leaves_one_letter() -> None:
    journal = Journal()
    delivery = deliver(CountEvents(), journal)
    for _ in range(2):
        await delivery.handle([raw("a")._replace(value=b"{", partition=3, offset=7)])

    assert {letter.key for letter in journal.letters} == {b"events/3/7/count"}


async def test_a_letter_tells_a_null_from_an_empty_value() -> None:
    journal = Journal()
    await deliver(CountEvents(), journal).handle([raw("a")._replace(value=None), raw("a")._replace(value=b"")])

    assert {dead_letters.read(letter).record.value for letter in journal.letters} == {None, b""}
    assert all(letter.value is not None for letter in journal.letters)  # it would take the letter away


@pytest.mark.parametrize("lie", [b"99999999999999", b"9" * 5000, b"-1", b"soon"])
async def test_headers_that_lie_stop_nothing(lie: bytes) -> None:
    journal = Journal()
    names = (ORIGIN_HEADER, dead_letters.ATTEMPTS, dead_letters.FIRST_FAILURE)
    lies = tuple((name, lie) for name in names)

    await deliver(CountEvents(), journal).handle([raw("a", headers=lies), raw("b", headers=lies)._replace(value=b"{")])

    assert 0 <= journal.produced[0].timestamp_ms <= time.time() * 1000  # a broker rejects what is from the future
    assert len(journal.letters) == 1


async def test_what_the_store_already_holds_newer_is_neither_produced_nor_written() -> None:
    journal = Journal()
    journal.held = 3

    await deliver(CountEvents(), journal).handle([raw("a", "one"), raw("b", "two"), raw("c", "two")])

    assert [record.key for record in journal.produced] == [b"two"]
    assert [record.user_id for record in journal.written if isinstance(record, UserFeatures)] == ["two"]


async def test_who_is_overtaken_by_another_worker_leaves_the_newer_record_last_in_the_topic() -> None:
    journal = Journal()
    journal.overtaken_meanwhile = 10

    await deliver(CountEvents(), journal).handle([raw("a")])

    assert [json.loads(record.value or b"")["events_seen"] for record in journal.produced] == [1, 10]


async def test_two_stages_that_write_one_topic_write_a_key_one_after_the_other() -> None:
    journal, locks = Journal(), KeyLocks()
    slow = asyncio.Event()

    class SlowLog(Journal):
        async def produce(self, records: Sequence[RawRecord]) -> None:
            await slow.wait()
            await journal.produce(records)

    first = Delivery(CountEvents(), SlowLog(), journal, 300, locks=locks)
    second = Delivery(CountEvents(), journal, journal, 300, locks=locks)
    held_up = asyncio.create_task(first.handle([raw("a")]))
    await asyncio.sleep(0.01)
    waiting = asyncio.create_task(second.handle([raw("b"), raw("c")]))
    await second.handle([raw("d", "somebody else")])
    assert not waiting.done() and len(journal.produced) == 1

    slow.set()
    await asyncio.gather(held_up, waiting)
    assert [record.revision for record in journal.written] == [2, 2, 4]

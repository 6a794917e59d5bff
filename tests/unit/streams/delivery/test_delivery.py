"""The delivery contract, step by step, with a fake producer and store."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from msgspec import structs
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from reaseq.backoff import Backoff
from reaseq.errors import DeliveryError, InvalidRecord
from reaseq.records import FeatureRecord, Inferred, UserFeatures
from streams.delivery.dead_letters import ATTEMPTS, FIRST_FAILURE, DeadLetter
from streams.delivery.delivery import Delivery
from streams.delivery.key_locks import KeyLocks
from streams.delivery.messages import ORIGIN_HEADER, Message, RawRecord
from streams.delivery.stage import Effects
from streams.delivery.topics import USER_FEATURES
from tests.fakes.delivery import CountEvents, Journal, build_delivery, event_record

TRACE = (("trace", b"1"),)


def dead_letters(journal: Journal) -> list[DeadLetter]:
    return [DeadLetter.from_record(record) for record in journal.dead_letters]


async def test_records_are_confirmed_before_they_are_servable() -> None:
    journal = Journal()

    await build_delivery(CountEvents(), journal).handle([event_record("a"), event_record("b", "v")])

    assert journal.steps == ["produce", "write"]
    assert [record.topic for record in journal.produced] == [USER_FEATURES.name] * 2
    assert len(journal.written) == 2


async def test_unconfirmed_records_are_neither_written_nor_committed() -> None:
    journal = Journal(produce_fails=True)

    with pytest.raises(DeliveryError):
        await build_delivery(CountEvents(), journal).handle([event_record("a")])

    assert journal.written == []


async def test_unconfirmed_dead_letter_stops_the_worker() -> None:
    with pytest.raises(DeliveryError):
        await build_delivery(CountEvents(), Journal(produce_fails=True)).handle([event_record("a")._replace(value=b"{")])


async def test_batch_waits_for_an_unavailable_store_less_and_less_often() -> None:
    attempts: list[int] = []

    class NoWait(Backoff):
        def wait_s(self, attempt: int, jitter: Random | None = None) -> float:
            attempts.append(attempt)
            return 0.0

    journal = Journal(store_outages=3)

    await Delivery(CountEvents(), journal, journal, 300, backoff=NoWait(1, 1)).handle([event_record("a")])

    assert journal.steps == ["produce", "store unavailable", "store unavailable", "store unavailable", "write"]
    assert journal.dead_letters == []
    assert attempts == [0, 1, 2]


async def test_cancelled_batch_is_neither_in_flight_nor_waiting() -> None:
    delivery = build_delivery(CountEvents(), Journal(store_outages=10**6))
    handling = asyncio.create_task(delivery.handle([event_record("a")]))
    async with asyncio.timeout(30):
        while not delivery.waiting_for:
            await asyncio.sleep(0.001)
    assert delivery.in_flight == 1

    handling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handling

    assert delivery.in_flight == 0 and not delivery.waiting_for


async def test_poison_message_becomes_the_only_dead_letter_of_its_batch() -> None:
    journal = Journal()
    batch = [event_record("a"), event_record("bad"), event_record("b"), event_record("c", "v")]

    await build_delivery(CountEvents(poison="bad"), journal).handle(batch)

    assert [dead_letter.reason for dead_letter in dead_letters(journal)] == ["failed_ValueError"]
    assert {record.user_id: record.events_seen for record in journal.written if isinstance(record, UserFeatures)} == {
        "u": 2,
        "v": 1,
    }


async def test_messages_beside_a_poison_message_are_counted_and_those_of_a_key_stay_in_order() -> None:
    seen: list[list[str]] = []

    class RecordOrder(CountEvents):
        async def process(self, batch: Sequence[Message]) -> Effects:
            effects = await super().process(batch)
            seen.append([message.body.event_id for message in batch])
            effects.counts["in order"] += len(batch)
            return effects

    batch = [event_record(event_id) for event_id in ("a", "b", "bad", "c")]
    await build_delivery(RecordOrder(poison="bad"), Journal()).handle([*batch, event_record("d", "v")])

    assert ["a", "b", "c"] in seen
    assert REGISTRY.get_sample_value("reaseq_outcomes_total", {"stage": "count", "what": "in order"}) == 4


async def test_feature_record_carries_the_time_of_its_oldest_input() -> None:
    journal = Journal()
    origins = [((ORIGIN_HEADER, time_ms),) for time_ms in (b"3000", b"2000", b"4000")]

    await build_delivery(CountEvents(), journal).handle([event_record(f"{n}", headers=h) for n, h in enumerate(origins)])

    assert [(record.timestamp_ms, record.headers) for record in journal.produced] == [(2000, origins[1])]


async def test_messages_that_fail_only_together_all_become_dead_letters() -> None:
    journal = Journal()

    await build_delivery(CountEvents(limit=1), journal).handle([event_record("a"), event_record("b"), event_record("c", "v")])

    assert [dead_letter.reason for dead_letter in dead_letters(journal)] == ["failed_OverflowError"] * 2
    assert [record.user_id for record in journal.written if isinstance(record, UserFeatures)] == ["v"]


async def test_dead_letter_keeps_bytes_and_headers_and_the_reason() -> None:
    journal = Journal()
    broken = event_record("a", headers=TRACE)._replace(value=b"{broken")

    await build_delivery(CountEvents(), journal).handle([broken])

    (dead_letter,) = dead_letters(journal)
    assert dead_letter.record._replace(timestamp_ms=broken.timestamp_ms) == broken
    assert (dead_letter.stage, dead_letter.reason, dead_letter.attempts) == ("count", "malformed_json", 1)
    assert dead_letter.first_failure_ms == dead_letter.last_failure_ms > 0


async def test_dead_letter_distinguishes_no_key_from_an_empty_one() -> None:
    journal = Journal()

    await build_delivery(CountEvents(), journal).handle([event_record("a")._replace(key=key) for key in (None, b"")])

    assert [dead_letter.record.key for dead_letter in dead_letters(journal)] == [None, b""]


async def test_dead_letter_names_the_reason_that_the_stage_gives() -> None:
    class Picky(CountEvents):
        async def process(self, batch: Sequence[Message]) -> Effects:
            raise InvalidRecord("too_picky", "no event is good enough. " * 1000)

    journal = Journal()
    await build_delivery(Picky(), journal).handle([event_record("a")])

    (dead_letter,) = dead_letters(journal)
    assert dead_letter.reason == "too_picky" and len(dead_letter.message) == 2000


async def test_record_too_large_to_be_produced_leaves_a_cut_dead_letter() -> None:
    journal, limit = Journal(), Journal.max_message_bytes
    fits, too_large = (event_record("a")._replace(value=b" " * (limit - 1 + extra), offset=extra) for extra in (0, 1))
    headers = event_record("a", headers=(("h", b"v" * limit),))._replace(value=b"{", key=b"k" * 5000, offset=3)

    await build_delivery(CountEvents(), journal).handle([fits, too_large, headers])

    whole, cut, without_headers = dead_letters(journal)
    assert whole.record.value == fits.value and whole.cut_bytes == 0
    assert cut.record.value == b" " * 64 * 1024 and cut.cut_bytes == limit - 64 * 1024
    assert without_headers.record.headers == () and without_headers.record.key == b"k" * 1024
    assert without_headers.cut_bytes == limit + 1 + 5000 - 1024


async def test_messages_whose_result_is_too_large_to_be_produced_become_dead_letters_and_stop_nothing() -> None:
    class LargeForOne(CountEvents):
        async def process(self, batch: Sequence[Message]) -> Effects:
            effects = await super().process(batch)
            large = Inferred(latent=bytes(Journal.max_message_bytes))
            effects.records = [
                structs.replace(record, inferred=large) if record.entity_id == "u" else record for record in effects.records
            ]
            return effects

    journal = Journal()
    batch = [event_record("a", "u"), event_record("b", "v"), event_record("c", "u")]

    await build_delivery(LargeForOne(), journal).handle([raw._replace(offset=offset) for offset, raw in enumerate(batch)])

    assert [(letter.reason, letter.record.value) for letter in dead_letters(journal)] == [
        ("result_too_large", batch[0].value),
        ("result_too_large", batch[2].value),
    ]
    assert [record.entity_id for record in journal.written] == ["v"]
    assert [record.key for record in journal.produced if record.topic == USER_FEATURES.name] == [b"v"]


async def test_replayed_dead_letter_that_fails_again_continues_the_attempt_count() -> None:
    journal = Journal()
    delivery = build_delivery(CountEvents(), journal)
    await delivery.handle([event_record("a", headers=TRACE)._replace(value=b"{")])
    first = replace(dead_letters(journal)[0], first_failure_ms=4)  # long ago

    await delivery.handle([first.to_replay(now_ms=5)._replace(offset=1)])

    second = dead_letters(journal)[1]
    assert (first.attempts, second.attempts) == (1, 2)
    assert second.first_failure_ms == 4
    assert second.record.headers == TRACE
    assert second.id != first.id


async def test_redelivered_record_leaves_one_dead_letter() -> None:
    journal = Journal()
    delivery = build_delivery(CountEvents(), journal)
    for _ in range(2):
        await delivery.handle([event_record("a")._replace(value=b"{", partition=3, offset=7)])

    assert {record.key for record in journal.dead_letters} == {b"events/3/7/count"}


async def test_dead_letter_distinguishes_null_from_an_empty_value() -> None:
    journal = Journal()
    await build_delivery(CountEvents(), journal).handle(
        [event_record("a")._replace(value=None), event_record("a")._replace(value=b"")]
    )

    assert {dead_letter.record.value for dead_letter in dead_letters(journal)} == {None, b""}
    assert all(record.value is not None for record in journal.dead_letters)  # a null would delete the dead letter


@pytest.mark.parametrize("lie", [b"99999999999999", b"9" * 5000, b"-1", b"soon"])
async def test_invalid_header_values_are_ignored(lie: bytes) -> None:
    journal = Journal()
    lies = tuple((name, lie) for name in (ORIGIN_HEADER, ATTEMPTS, FIRST_FAILURE))

    await build_delivery(CountEvents(), journal).handle(
        [event_record("a", headers=lies), event_record("b", headers=lies)._replace(value=b"{")]
    )

    assert 0 <= journal.produced[0].timestamp_ms <= time.time() * 1000  # a broker rejects timestamps in the future
    assert len(journal.dead_letters) == 1


@pytest.mark.parametrize(
    "bad",
    [
        event_record("a", "user-7")._replace(key=b"user-8"),  # its message would quote both ids
        event_record("a", "user-7")._replace(value=b"{"),
        event_record("bad", "user-7"),
    ],
)
async def test_log_has_no_user_id(bad: RawRecord) -> None:
    """Erasure does not reach the log. The dead letter, which it names, has the user's id and the message."""
    journal = Journal()
    with capture_logs() as logs:
        await build_delivery(CountEvents(poison="bad"), journal).handle([bad])

    assert "user-" not in repr(logs)
    line = next(line for line in logs if line["event"] == "dead_letter")
    (dead_letter,) = dead_letters(journal)
    assert line["id"] == dead_letter.id and line["reason"] == dead_letter.reason
    assert dead_letter.message


async def test_stale_records_are_neither_produced_nor_written() -> None:
    journal = Journal()
    journal.stored_events = 2

    await build_delivery(CountEvents(), journal).handle(
        [event_record("a", "one"), event_record("b", "two"), event_record("c", "two")]
    )

    assert [record.key for record in journal.produced] == [b"two"]
    assert [record.user_id for record in journal.written if isinstance(record, UserFeatures)] == ["two"]

    await build_delivery(CountEvents(), journal).handle([event_record("d", "three")])  # nothing but a stale record
    assert len(journal.produced) == len(journal.written) == 1


async def test_batch_is_measured() -> None:
    class MeasuredStage(CountEvents):
        name = "measured"

    def metric(name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(name, {"stage": "measured", **labels})

    journal, observed, started_s = Journal(), list[str](), time.time()
    journal.stored_events = 2
    delivery = Delivery(MeasuredStage(), journal, journal, 300, lambda stage, message, seconds: observed.append(message.key))
    broken = event_record("e")._replace(value=b"{")
    await delivery.handle([event_record("a", "stale"), event_record("b", "u"), event_record("c", "u"), broken])

    assert observed == ["u", "u"]  # only what is servable now
    assert metric("reaseq_records_total", outcome="processed") == 3
    assert metric("reaseq_records_total", outcome="dead_letter") == 1
    assert metric("reaseq_dead_letters_total", reason="malformed_json") == 1
    assert metric("reaseq_outcomes_total", what="stale") == 1
    assert metric("reaseq_feature_records_total") == metric("reaseq_freshness_seconds_count") == 1
    assert (metric("reaseq_last_progress_timestamp_seconds") or 0) >= started_s


async def test_superseded_worker_leaves_the_newer_record_last_in_the_topic() -> None:
    journal = Journal()
    journal.superseding_events = 10

    await build_delivery(CountEvents(), journal).handle([event_record("a")])

    assert [json.loads(record.value or b"")["events_seen"] for record in journal.produced] == [1, 10]


async def test_worker_that_is_superseded_again_and_again_leaves_the_newest_record_last() -> None:
    later = [30, 70]  # events seen

    class BusyRival(Journal):
        def newest(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
            found = super().newest(records)
            if later:
                self.stored_events = later.pop(0)
            return found

    journal = BusyRival()
    journal.superseding_events = 10

    await build_delivery(CountEvents(), journal).handle([event_record("a")])

    assert [json.loads(record.value or b"")["events_seen"] for record in journal.produced] == [1, 10, 30, 70]


async def test_stages_that_share_a_topic_write_each_key_one_at_a_time() -> None:
    journal, locks = Journal(), KeyLocks()
    confirmed = asyncio.Event()

    class SlowProducer(Journal):
        async def produce(self, records: Sequence[RawRecord]) -> None:
            await confirmed.wait()
            await journal.produce(records)

    first = Delivery(CountEvents(), SlowProducer(), journal, 300, locks=locks)
    second = Delivery(CountEvents(), journal, journal, 300, locks=locks)
    slow = asyncio.create_task(first.handle([event_record("a")]))
    await asyncio.sleep(0.01)
    waiting = asyncio.create_task(second.handle([event_record("b"), event_record("c")]))
    await second.handle([event_record("d", "other user")])
    assert not waiting.done() and len(journal.produced) == 1

    confirmed.set()
    await asyncio.gather(slow, waiting)
    assert [record.events_seen for record in journal.written if isinstance(record, UserFeatures)] == [1, 1, 2]

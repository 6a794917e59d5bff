"""Replay: in order of event time, nothing lost or repeated, no faster than asked for."""

from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from reaseq.records import Event, Item
from streams.operations import replay as module
from streams.operations.replay import TICK_S, at_rate, replay


class Clock:
    """Stands in for the module `time`: only sleeping takes time."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


class FakeProducer(SimpleNamespace):
    """Keeps what was sent, and when."""

    def send(self, records: Sequence[Item | Event]) -> int:
        self.sent += [(self.clock.now_s, record) for record in records]
        return len(records)


def event(number: int, time_ms: int) -> Event:
    return Event(event_id=f"{number}", user_id="u", item_id="i", type="view", event_time_ms=time_ms)


def item(time_ms: int) -> Item:
    return Item(item_id="i", title="thing", event_time_ms=time_ms)


def test_records_are_produced_once_in_order_of_event_time_and_items_before_events(clock: Clock) -> None:
    items, events = [item(1000 * time) for time in range(3)], [event(number, number) for number in range(2001)]
    producer, progress = FakeProducer(clock=clock, sent=[]), list[int]()

    assert replay(producer, items, events, 0, progress.append) == 2004 == sum(progress)  # type: ignore[arg-type]

    expected = [items[0], *events[:1000], items[1], *events[1000:2000], items[2], events[2000]]
    assert [record for _, record in producer.sent] == expected
    assert clock.now_s == 0.0


def test_replay_produces_each_record_when_it_is_due(clock: Clock) -> None:
    events = [event(number, 5_000 + 700 * number) for number in range(20)]
    producer = FakeProducer(clock=clock, sent=[])

    replay(producer, [], events, speed=2.0)  # type: ignore[arg-type]

    assert [record for _, record in producer.sent] == events
    for sent_s, record in producer.sent:
        assert 0 <= sent_s - (record.event_time_ms - 5_000) / 2000 <= 1.01 * TICK_S


@pytest.mark.parametrize(("records", "rate_per_s"), [(2_600, 1_000.0), (3, 0.5)])
def test_records_are_passed_on_no_faster_than_the_rate(clock: Clock, records: int, rate_per_s: float) -> None:
    before: list[int] = []
    for chunk in at_rate(range(records), rate_per_s):
        assert len(before) <= rate_per_s * clock.now_s * 1.001
        assert len(chunk) <= max(1, rate_per_s)  # a second's worth
        before += chunk

    assert before == list(range(records))
    assert clock.now_s == pytest.approx(records / rate_per_s)

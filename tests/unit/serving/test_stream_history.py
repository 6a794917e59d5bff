"""The hour behind the stream page's charts."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
from structlog.testing import capture_logs

from reaseq.errors import BrokerUnavailable
from serving.console import stream_history
from serving.console.stream import DeadLetterCount, Observation, StreamHealth, StreamMonitor, WorkerStatus
from serving.console.stream_history import SAMPLES, Series, StreamHistory
from streams.operations.status import Buckets, TopicStatus

ADDRESS = "http://worker:9100"


class ScriptedMonitor(StreamMonitor):
    """A monitor that returns given observations; None stands for brokers that do not answer."""

    def __init__(self, *observations: Observation | None) -> None:
        self._observations = iter(observations)

    def observe(self) -> Observation:
        observation = next(self._observations)
        if observation is None:
            raise BrokerUnavailable("no broker")
        return observation


def observe(
    second: float,
    topics: Sequence[TopicStatus] = (),
    dead_letters: Sequence[DeadLetterCount] = (),
    freshness: Mapping[str, Buckets] | None = None,
) -> Observation:
    freshness = freshness or {}
    workers = tuple(WorkerStatus(address, "") for address in freshness)
    return Observation(StreamHealth(int(second * 1000), tuple(topics), (), tuple(dead_letters), workers), freshness)


def topic(acknowledged: int, lag: int = 0, name: str = "events", group: str = "reaseq") -> TopicStatus:
    return TopicStatus(name, group, acknowledged + lag, lag, acknowledged, 0.0)


def buckets(*counts: tuple[float, int]) -> Buckets:
    """Cumulative counts of the history stage."""
    return Counter({("history", bound): count for bound, count in counts})


def sampled(*observations: Observation | None) -> StreamHistory:
    history = StreamHistory(ScriptedMonitor(*observations))
    for _ in observations:
        history.sample()
    return history


def test_rate_is_the_mean_since_the_sample_before() -> None:
    hour = sampled(observe(0, [topic(100, lag=50)]), observe(20, [topic(150)]), observe(30, [topic(150)])).read()

    assert hour.times_ms == (0, 20_000, 30_000)
    assert hour.acknowledged_per_s == (Series("events", (None, 2.5, 0.0)),)
    assert hour.lag == (Series("events", (50, 0, 0)),)


def test_topic_that_several_groups_read_has_a_line_for_each() -> None:
    topics = [topic(1), topic(2, name="item-features"), topic(3, name="item-features", group="reaseq-reasoning")]

    names = [series.name for series in sampled(observe(0, topics)).read().lag]

    assert names == ["events", "item-features (reaseq)", "item-features (reaseq-reasoning)"]


def test_unanswered_sample_is_a_gap_and_the_next_rate_spans_it() -> None:
    hour = sampled(observe(0, [topic(0)]), None, observe(40, [topic(100)])).read()

    assert hour.acknowledged_per_s == (Series("events", (None, None, 2.5)),)
    assert hour.lag == (Series("events", (0, None, 0)),)


def test_offsets_that_were_reset_are_no_negative_rate() -> None:
    hour = sampled(observe(0, [topic(100)]), observe(10, [topic(0, lag=100)])).read()

    assert hour.acknowledged_per_s == (Series("events", (None, 0.0)),)


def test_freshness_covers_what_became_servable_since_the_sample_before() -> None:
    hour = sampled(
        observe(0, freshness={ADDRESS: buckets((0.1, 0), (1.0, 0), (60.0, 500), (float("inf"), 500))}),
        observe(15, freshness={ADDRESS: buckets((0.1, 200), (1.0, 201), (60.0, 701), (float("inf"), 701))}),
        observe(30, freshness={ADDRESS: buckets((0.1, 200), (1.0, 201), (60.0, 701), (float("inf"), 701))}),
        observe(45, freshness={ADDRESS: buckets((0.1, 200), (1.0, 201), (60.0, 701), (float("inf"), 702))}),
    ).read()

    assert hour.freshness_p99_s == (Series("history", (None, 0.1, None, 3600.0)),)


def test_freshness_of_restarted_silent_and_new_workers_is_not_counted_twice() -> None:
    before, slow = buckets((1.0, 1000), (60.0, 1000)), buckets((1.0, 1000), (60.0, 1001))
    silent = Observation(StreamHealth(15_000, (), (), (), (WorkerStatus(ADDRESS, "does not answer"),)), {})
    hour = sampled(
        observe(0, freshness={ADDRESS: before}),
        silent,
        observe(30, freshness={ADDRESS: slow}),
        observe(45, freshness={ADDRESS: buckets((1.0, 7), (60.0, 7))}),
        observe(60, freshness={ADDRESS: buckets((1.0, 7), (60.0, 7)), "http://new:9100": buckets((1.0, 0), (60.0, 3))}),
    ).read()

    assert hour.freshness_p99_s == (Series("history", (None, None, 60.0, 1.0, 60.0)),)


def test_dead_letters_are_zero_until_the_first() -> None:
    dead = [DeadLetterCount("onboarding", "malformed_json", 2), DeadLetterCount("onboarding", "too_large", 1)]

    hour = sampled(observe(0), None, observe(30, dead_letters=dead)).read()

    assert hour.dead_letters == (Series("onboarding", (0, None, 3)),)


def test_observation_that_was_sampled_before_adds_nothing() -> None:
    cached = observe(0, [topic(1)])

    assert sampled(cached, cached).read().times_ms == (0,)


def test_memory_is_bounded_to_the_last_hour() -> None:
    hour = sampled(*(observe(second, [topic(second)]) for second in range(SAMPLES + 5))).read()

    assert len(hour.times_ms) == SAMPLES and hour.times_ms[0] == 5000


async def test_sampling_runs_with_the_application_and_survives_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_history, "INTERVAL_S", 0.001)

    class FailingMonitor(StreamMonitor):
        observed = 0

        def observe(self) -> Observation:
            self.observed += 1
            raise RuntimeError("unexpected")

    monitor = FailingMonitor.__new__(FailingMonitor)
    history = StreamHistory(monitor)
    with capture_logs() as logs:
        async with history.sampling(None):
            deadline = time.monotonic() + 10
            while monitor.observed < 3 and time.monotonic() < deadline:
                time.sleep(0.001)
        assert monitor.observed >= 3
        time.sleep(0.05)
    stopped_at = monitor.observed
    time.sleep(0.05)
    assert monitor.observed == stopped_at == len(history.read().times_ms)
    assert logs[0]["event"] == "stream_not_sampled"

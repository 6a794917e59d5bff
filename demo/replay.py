"""Replays the bundled sample to the topics."""

from collections.abc import Callable

from demo import ORDER_LINES
from evaluation.datasets.online_retail import read_retail
from reaseq.days import DAY_MS
from reaseq.settings import KafkaSettings
from streams.operations.replay import replay
from streams.runtime.kafka.producer import Producer


def replay_sample(settings: KafkaSettings, days: int, speed: float, progress: Callable[[int, int], None]) -> tuple[int, int]:
    """Produce the items listed before the last `days` of the sample at once, then those days in order of event time.

    `speed` is in seconds of event time per second; 0 is unlimited. Calls `progress` with the records produced and their total.
    Returns the number of earlier items, and of later items and events.
    """
    retail = read_retail(ORDER_LINES)
    events = [event for order in retail.orders for event in order.events]
    since_ms = events[-1].event_time_ms - days * DAY_MS
    events = [event for event in events if event.event_time_ms >= since_ms]
    earlier = [item for item in retail.items if item.event_time_ms < since_ms]
    later = [item for item in retail.items if item.event_time_ms >= since_ms]
    produced, total = 0, len(retail.items) + len(events)

    def advance(count: int) -> None:
        nonlocal produced
        produced += count
        progress(produced, total)

    producer = Producer(settings)
    try:
        return replay(producer, earlier, [], 0, advance), replay(producer, later, events, speed, advance)
    finally:
        producer.close()

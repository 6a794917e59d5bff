"""What the demo writes down of the stream: freshness, outcomes, latencies."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from evaluation.datasets.online_retail import Order
from reaseq.days import DAY_MS
from reaseq.records import Event, UserFeatures
from streams.contract.messages import Message

SHOWN_HISTORY = 20
SHOWN_LINES = range(8, 41)
SHOWN_RANKED = 20


@dataclass(frozen=True)
class Shown:
    """One customer at one basket: what was known, how the products were ranked, what was taken."""

    order: Order
    user: UserFeatures
    ranked: tuple[str, ...]


@dataclass
class Recorder:
    """Listens to deliveries during the live replay; quiet before it."""

    live: bool = False
    freshness_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    freshness_by_day: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    rank_s: list[float] = field(default_factory=list)
    score_s: list[float] = field(default_factory=list)
    dead_letters: int = 0
    shown: Shown | None = None  # the last basket of a customer with some history

    def servable(self, stage: str, message: Message, freshness_s: float) -> None:
        """A message's effect has become servable."""
        if not self.live:
            return
        self.freshness_s[stage].append(freshness_s)
        if isinstance(message.body, Event):
            self.freshness_by_day[message.body.event_time_ms // DAY_MS].append(freshness_s)

    def remember(self, order: Order, user: UserFeatures | None, ids: Sequence[str], scores: NDArray[np.float32]) -> None:
        """Keep the basket to show, if it is one to read: enough history, and neither a single line nor a bulk order.

        The last such basket of the replay is shown, whether the ranking was good or not.
        """
        if user and len(user.history.item_ids) >= SHOWN_HISTORY and len(order.item_ids) in SHOWN_LINES:
            best = np.argsort(-scores, kind="stable")[:SHOWN_RANKED]
            self.shown = Shown(order, user, tuple(ids[place] for place in best))


def percentile_ms(seconds: Sequence[float], percent: float) -> float | None:
    """A percentile in milliseconds; None of nothing."""
    return round(float(np.percentile(seconds, percent)) * 1000, 2) if seconds else None

"""Records the demo's live replay: freshness, latencies, and one customer's basket to show."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from evaluation.datasets.online_retail import Order
from reaseq.days import DAY_MS
from reaseq.records import Event, UserFeatures
from streams.delivery.messages import Message

SHOWN_HISTORY = 20
SHOWN_LINES = range(8, 41)
SHOWN_RANKED = 20


@dataclass(frozen=True)
class CustomerExample:
    """One customer before a basket: the features, the ranked products and what was bought."""

    order: Order
    user: UserFeatures
    ranked: tuple[str, ...]


@dataclass
class Recorder:
    """Measurements of the live replay; records nothing before it."""

    live: bool = False
    freshness_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    freshness_by_day: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    rank_s: list[float] = field(default_factory=list)
    score_s: list[float] = field(default_factory=list)
    dead_letters: int = 0
    example: CustomerExample | None = None

    def servable(self, stage: str, message: Message, freshness_s: float) -> None:
        """Record that a message's effect became servable."""
        if not self.live:
            return
        self.freshness_s[stage].append(freshness_s)
        if isinstance(message.body, Event):
            self.freshness_by_day[message.body.event_time_ms // DAY_MS].append(freshness_s)

    def remember(self, order: Order, user: UserFeatures | None, ids: Sequence[str], scores: NDArray[np.float32]) -> None:
        """Keep the basket as the example if its customer has enough history and it is neither a single line nor a bulk order.

        The last such basket of the replay is shown, whether the ranking was good or not.
        """
        if user and len(user.history.item_ids) >= SHOWN_HISTORY and len(order.item_ids) in SHOWN_LINES:
            best = np.argsort(-scores, kind="stable")[:SHOWN_RANKED]
            self.example = CustomerExample(order, user, tuple(ids[row] for row in best))


def percentile_ms(seconds: Sequence[float], percent: float) -> float | None:
    """A percentile in milliseconds; None for an empty sequence."""
    return round(float(np.percentile(seconds, percent)) * 1000, 2) if seconds else None

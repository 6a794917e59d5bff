"""What the demo does when: the cuts between its blocks of time, and the sizes of the two variants."""

from dataclasses import dataclass

from reaseq.behavior.training import TrainingPlan
from reaseq.days import time_ms
from reaseq.ranker.training import RankerPlan


@dataclass(frozen=True)
class Plan:
    """Blocks of time, each model trained on earlier blocks only.

    [start, inference_ms)       histories only; trains the first behaviour model
    [inference_ms, replay_ms)   that model infers; trains the ranker on what was inferred, and the second behaviour model
    [replay_ms, end)            the live replay: the second behaviour model infers, the ranker is judged
    """

    name: str
    customers_share: float
    start_ms: int
    inference_ms: int
    replay_ms: int
    behavior: TrainingPlan
    behavior_update: TrainingPlan
    ranker: RankerPlan


FULL = Plan(
    name="full",
    customers_share=1.0,
    start_ms=time_ms("2010-12-01"),
    inference_ms=time_ms("2011-06-01"),
    replay_ms=time_ms("2011-11-25"),
    behavior=TrainingPlan(epochs=3),
    behavior_update=TrainingPlan(epochs=1),
    ranker=RankerPlan(batch_baskets=32),
)
QUICK = Plan(
    name="quick",
    customers_share=0.02,
    start_ms=time_ms("2011-07-01"),
    inference_ms=time_ms("2011-09-01"),
    replay_ms=time_ms("2011-11-01"),
    behavior=TrainingPlan(epochs=5, batch_baskets=32),
    behavior_update=TrainingPlan(epochs=3, batch_baskets=32),
    ranker=RankerPlan(epochs=3),
)

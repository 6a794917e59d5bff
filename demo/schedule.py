"""The demo's schedule: its blocks of time, and the sizes of the full and the quick variant."""

from dataclasses import dataclass

from reaseq.behavior.training import BehaviorTrainingConfig
from reaseq.days import time_ms
from reaseq.ranker.training import RankerTrainingConfig


@dataclass(frozen=True)
class Schedule:
    """Blocks of time. Each model is trained on earlier blocks only.

    [start_ms, inference_ms)    histories only; trains the first behavior model
    [inference_ms, replay_ms)   the first behavior model infers; trains the ranker and the second behavior model
    [replay_ms, end)            live replay: the second behavior model infers, the ranker is evaluated
    """

    name: str
    customers_share: float
    start_ms: int
    inference_ms: int
    replay_ms: int
    behavior: BehaviorTrainingConfig
    behavior_update: BehaviorTrainingConfig
    ranker: RankerTrainingConfig


FULL = Schedule(
    name="full",
    customers_share=1.0,
    start_ms=time_ms("2010-12-01"),
    inference_ms=time_ms("2011-06-01"),
    replay_ms=time_ms("2011-11-25"),
    behavior=BehaviorTrainingConfig(epochs=3),
    behavior_update=BehaviorTrainingConfig(epochs=1),
    ranker=RankerTrainingConfig(),
)
QUICK = Schedule(
    name="quick",
    customers_share=0.02,
    start_ms=time_ms("2011-07-01"),
    inference_ms=time_ms("2011-09-01"),
    replay_ms=time_ms("2011-11-01"),
    behavior=BehaviorTrainingConfig(epochs=5, batch_baskets=32),
    behavior_update=BehaviorTrainingConfig(epochs=3, batch_baskets=32),
    ranker=RankerTrainingConfig(epochs=3, batch_baskets=8),
)

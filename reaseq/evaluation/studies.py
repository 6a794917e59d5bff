"""The two public data sets that inferred behaviours are judged on, and how each is cut in time."""

from dataclasses import replace
from pathlib import Path

from reaseq.behavior.model import BehaviorConfig
from reaseq.behavior.training import TrainingPlan
from reaseq.days import time_ms
from reaseq.evaluation.inferred import Study
from reaseq.evaluation.log import amazon_beauty, online_retail
from reaseq.representation.encoder import Encoder

RETAIL_DAYS = ("2011-03-15", "2011-05-01", "2011-06-15", "2011-07-25", "2011-09-01")
BEAUTY_DAYS = ("2013-09-01", "2013-12-15", "2014-03-15")


def retail_study(order_lines: Path, answers: Path, encoder: Encoder, cache: Path) -> Study:
    """Online Retail: the ranker trains from March to August 2011, the test is 18 September to October."""
    cuts = tuple(time_ms(day) for day in RETAIL_DAYS)
    config = BehaviorConfig(history=48, response=16)
    log = online_retail(order_lines, answers, encoder, cache, known_ms=cuts[-1], history=config.history)
    return Study(
        log=log,
        cuts=cuts,
        test=(time_ms("2011-09-18"), time_ms("2011-11-01")),
        config=replace(config, claims=log.claims),
        plan=TrainingPlan(epochs=8),
        code_sizes=(64, 64, 64),
        moments_limit=6000,
    )


def beauty_study(folder: Path, encoder: Encoder, cache: Path) -> Study:
    """Amazon Beauty: the ranker trains from September 2013 to mid-March 2014, the test is all that follows."""
    cuts = tuple(time_ms(day) for day in BEAUTY_DAYS)
    config = BehaviorConfig(history=24, response=6)
    log = amazon_beauty(folder, encoder, cache, since_ms=time_ms("2009-01-01"), history=config.history)
    return Study(
        log=log,
        cuts=cuts,
        test=(cuts[-1], time_ms("2014-07-24")),
        config=replace(config, claims=log.claims),
        plan=TrainingPlan(epochs=2, batch_baskets=256),
        code_sizes=(128, 128, 128),
        moments_limit=6000,
    )

"""Explanations: a contribution is what the score loses without it."""

import math

import msgspec
import pytest

from reaseq.ranker.explain import explain
from reaseq.records import History, Inferred
from tests.fakes.catalog import LISTED_MS, NOW_MS
from tests.fakes.ranker import USER, engine


def test_contribution_is_what_the_score_loses_without_the_behavior() -> None:
    ranker = engine()
    (explanation,) = explain(ranker, USER, ["i5"], NOW_MS)
    log_odds = math.log(explanation.probability / (1 - explanation.probability))

    assert len(explanation.behaviors) == len(USER.history.item_ids) + 2
    inferred = {behavior.item_id: behavior for behavior in explanation.behaviors if behavior.time_ms is None}
    assert set(inferred) == {"i5", "i6"} and inferred["i5"].confidence == pytest.approx(0.4)
    without = msgspec.structs.replace(USER, inferred=Inferred(item_ids=("i6",), confidences=(0.1,)))
    p = float(ranker.score(without, ["i5"], NOW_MS)[0])
    assert inferred["i5"].log_odds == pytest.approx(log_odds - math.log(p / (1 - p)), abs=1e-3)
    p = float(ranker.score(msgspec.structs.replace(USER, history=History()), ["i5"], NOW_MS)[0])
    assert explanation.groups["real behaviors"] == pytest.approx(log_odds - math.log(p / (1 - p)), abs=1e-3)
    assert explanation.history_time_ms == USER.history.times_ms[-1] and explanation.item_time_ms == LISTED_MS


def test_unknown_user_is_explained_by_context() -> None:
    (explanation,) = explain(engine(), None, ["i5"], NOW_MS)

    assert explanation.behaviors == ()
    assert explanation.groups["real behaviors"] == 0 and explanation.groups["recent popularity"] != 0

"""Evaluation commands whose dependencies are not installed say what to do."""

import sys
from types import SimpleNamespace
from typing import cast

import pytest

from cli.evaluate import _evaluate_baskets
from evaluation import experiments
from pipelines.evaluation import DataSets
from reaseq.errors import ReaSeqError


def test_basket_evaluation_names_a_missing_dependency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(experiments, "baskets", raising=False)  # another test may have imported it
    monkeypatch.delitem(sys.modules, "evaluation.experiments.baskets", raising=False)
    monkeypatch.delitem(sys.modules, "evaluation.baselines.lambdarank", raising=False)
    monkeypatch.setitem(sys.modules, "lightgbm", None)

    with pytest.raises(ReaSeqError, match=r"lightgbm is not installed: run `make .venv/dev`"):
        _evaluate_baskets(cast(DataSets, SimpleNamespace()), validation=False, seed=0, report=print)

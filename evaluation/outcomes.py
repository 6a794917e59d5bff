"""Outcomes of a ranking evaluation: what each variant scored with one seed, in memory and in an npz file."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation import metrics

Array = NDArray[np.float32]


@dataclass(frozen=True)
class KindOutcome:
    """One variant on n candidate sets, with one kind of negatives.

    Attributes:
        ranks: rank of each target (n, T), NaN for padding.
        negatives: how many negatives each target was ranked among (n, T).
        log_loss: of each set (n,); only for the kind that probabilities are measured on.
        auc: pooled over all sets; only for the same kind.
    """

    ranks: Array
    negatives: Array
    log_loss: Array | None = None
    auc: float | None = None

    @property
    def target_auc(self) -> Array:
        """AUC of each target within its set (n, T)."""
        return metrics.target_auc(self.ranks, self.negatives)


@dataclass(frozen=True)
class VariantOutcome:
    """One variant, by kind of negatives."""

    kinds: dict[str, KindOutcome] = field(default_factory=dict)


RankingOutcomes = dict[str, VariantOutcome]  # by name of the variant; one seed


def save_outcomes(outcomes: RankingOutcomes, path: Path) -> None:
    """Write one seed's outcomes, so that a long evaluation can resume."""
    arrays: dict[str, NDArray[np.float32]] = {}
    for variant, outcome in outcomes.items():
        for kind, result in outcome.kinds.items():
            arrays[f"{variant}|{kind}|ranks"] = result.ranks
            arrays[f"{variant}|{kind}|negatives"] = result.negatives
            if result.log_loss is not None:
                arrays[f"{variant}|{kind}|log_loss"] = result.log_loss
            if result.auc is not None:
                arrays[f"{variant}|{kind}|auc"] = np.array(result.auc, np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def load_outcomes(path: Path) -> RankingOutcomes:
    """The inverse of `save_outcomes`."""
    outcomes: RankingOutcomes = {}
    with np.load(path) as stored:
        for key in (key for key in stored.files if key.endswith("|ranks")):
            variant, kind, _ = key.split("|")
            prefix = f"{variant}|{kind}"
            outcomes.setdefault(variant, VariantOutcome()).kinds[kind] = KindOutcome(
                stored[key],
                stored[f"{prefix}|negatives"],
                stored[f"{prefix}|log_loss"] if f"{prefix}|log_loss" in stored else None,
                float(stored[f"{prefix}|auc"]) if f"{prefix}|auc" in stored else None,
            )
    return outcomes

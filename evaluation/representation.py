"""Judges the alignment head and semantic IDs on public data. Both are built from the data before the test."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.baselines.item_knn import ItemKnn
from evaluation.candidate_scorers import build_history_sequences
from evaluation.datasets.interaction_log import InteractionLog
from evaluation.experiments.experiment import Experiment
from evaluation.instances import RankingInstance, build_candidate_mask, build_instances, number_users
from evaluation.intervals import estimate_mean
from evaluation.recall import CUTOFFS, TOP_K, compute_recall
from reaseq.behavior.examples import build_pairs
from reaseq.representation.alignment import AlignmentTrainingConfig, train_head
from reaseq.representation.semantic_ids import drift, examine, fit

HISTORY = 48
SHAPES = ((2, 256), (3, 64), (3, 128), (3, 256), (4, 128))  # (levels, codes) of the codebooks


def evaluate_representation(experiment: Experiment, seeds: int, report: Callable[[str], None]) -> dict[str, Any]:
    """Recall of new items by content-kNN in the text space and the aligned space, and the quality of several codebooks."""
    log, cut_ms = experiment.log, experiment.cuts_ms[-1]
    instances = build_instances(log, *experiment.test_ms)
    instances = instances[:: max(1, len(instances) // experiment.instances_limit)]
    users = number_users(instances)
    before = log.between(0, cut_ms)
    spaces = {"text": [_compute_recall(log, instances, experiment.cold_items)], "aligned": []}
    for seed in range(seeds):
        head = train_head(log.table.vectors, build_pairs(before, log.table, seed), AlignmentTrainingConfig(seed=seed))
        with torch.inference_mode():
            contents = replace(log.table.contents, vectors=head(log.table.contents.vectors))
            aligned = replace(log, table=replace(log.table, contents=contents))
        spaces["aligned"].append(_compute_recall(aligned, instances, experiment.cold_items))
        report(f"aligned, seed {seed}: recall@{TOP_K} {np.nanmean(spaces['aligned'][-1][0][:, 1]):.4f}")
    content_knn = {
        name: {
            f"recall_{cutoff}{suffix}": asdict(estimate_mean([outcome[part][:, column] for outcome in outcomes], users))
            for part, suffix in enumerate(("", "_cold"))
            for column, cutoff in enumerate(CUTOFFS)
        }
        for name, outcomes in spaces.items()
    }
    codebooks = [_judge_codebook(log, cut_ms, *shape) for shape in SHAPES]
    return {"data": log.name, "content_knn": content_knn, "codebooks": codebooks}


def _compute_recall(
    log: InteractionLog, instances: list[RankingInstance], cold_items: Tensor
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    knn = ItemKnn([], log.table, 0)

    def retrieve(part: Sequence[RankingInstance]) -> Tensor:
        scores = torch.from_numpy(knn.score_by_content(build_history_sequences(part, log, HISTORY)))
        return scores.masked_fill(~build_candidate_mask(part, log.table), -torch.inf).topk(TOP_K).indices

    return compute_recall(retrieve, instances, cold_items)


def _judge_codebook(log: InteractionLog, cut_ms: int, levels: int, codes: int) -> dict[str, Any]:
    """The quality of a codebook fitted to the items listed before the cut, and its drift over those listed since."""
    vectors, listed_ms = log.table.vectors[1:].numpy(), log.table.listed_ms[1:].numpy()
    known = listed_ms < cut_ms
    codebook = fit(vectors[known], log.name, levels, codes)
    fitted = examine(codebook, vectors[known], listed_ms[known])
    drifted = drift(fitted, codebook, vectors, listed_ms, log.name)
    return {"levels": levels, "codes": codes, **asdict(fitted), "after_the_cut": asdict(drifted)}

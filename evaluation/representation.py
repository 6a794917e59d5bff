"""What the alignment head and semantic IDs do on public data: both made of what was known before the test."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.baselines.item_knn import ItemKnn
from evaluation.candidate_scorers import sequences_at
from evaluation.datasets.interaction_log import InteractionLog
from evaluation.experiments import Experiment
from evaluation.instances import RankingInstance, build_instances, open_to
from evaluation.intervals import interval
from evaluation.recall import BEST, CUTOFFS, recalls
from reaseq.behavior.examples import build_pairs
from reaseq.representation.alignment import AlignmentTrainingConfig, train_head
from reaseq.representation.semantic_ids import drift, examine, fit

HISTORY = 48
SHAPES = ((2, 256), (3, 64), (3, 128), (3, 256), (4, 128))


def judge(experiment: Experiment, seeds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Recall of what was new to the user by content-kNN in both spaces, and the quality of codebooks of several shapes."""
    log, cut_ms = experiment.log, experiment.cuts[-1]
    instances = build_instances(log, *experiment.test)
    instances = instances[:: max(1, len(instances) // experiment.instances_limit)]
    users = np.unique([instance.basket.user_id for instance in instances], return_inverse=True)[1]
    before = log.between(0, cut_ms)
    unseen = _unseen(log, cut_ms)
    spaces = {"text": [_recall(log, instances, unseen)], "aligned": []}
    for seed in range(seeds):
        head = train_head(log.table.vectors, build_pairs(before, log.table, seed), AlignmentTrainingConfig(seed=seed))
        with torch.inference_mode():
            contents = replace(log.table.contents, vectors=head(log.table.contents.vectors))
            bent = replace(log, table=replace(log.table, contents=contents))
        spaces["aligned"].append(_recall(bent, instances, unseen))
        say(f"aligned, seed {seed}: recall@{BEST} {np.nanmean(spaces['aligned'][-1][0][:, 1]):.4f}")
    found = {
        name: {
            f"recall_{cutoff}{part}": asdict(interval([outcome[place][:, column] for outcome in outcomes], users))
            for place, part in enumerate(("", "_cold"))
            for column, cutoff in enumerate(CUTOFFS)
        }
        for name, outcomes in spaces.items()
    }
    return {"data": log.name, "content_knn": found, "codebooks": [_codebook(log, cut_ms, *shape) for shape in SHAPES]}


def _unseen(log: InteractionLog, cut_ms: int) -> Tensor:
    taken = torch.zeros(len(log.table), dtype=torch.bool)
    for basket in log.between(0, cut_ms):
        taken[log.table.rows(basket.item_ids)] = True
    return ~taken


def _recall(
    log: InteractionLog, instances: list[RankingInstance], unseen: Tensor
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    knn = ItemKnn([], log.table, 0)

    def best(part: Sequence[RankingInstance]) -> Tensor:
        scores = torch.from_numpy(knn.by_content(sequences_at(part, log, HISTORY)))
        return scores.masked_fill(~open_to(part, log.table), -torch.inf).topk(BEST).indices

    return recalls(best, instances, unseen)


def _codebook(log: InteractionLog, cut_ms: int, levels: int, codes: int) -> dict[str, Any]:
    vectors, listed_ms = log.table.vectors[1:].numpy(), log.table.listed_ms[1:].numpy()
    old = listed_ms < cut_ms
    book = fit(vectors[old], log.name, levels, codes)
    fitted = examine(book, vectors[old], listed_ms[old])
    moved = drift(fitted, book, vectors, listed_ms, log.name)
    return {"levels": levels, "codes": codes, **asdict(fitted), "after_the_cut": asdict(moved)}

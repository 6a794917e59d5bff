"""Builds the ranker's input tensors from features of users and candidates, by the same code in training and serving."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reaseq.behavior.sequence import build_sequences
from reaseq.ranker.model import RankerBatch, RankerConfig
from reaseq.records import History, Inferred
from reaseq.representation.item_table import Snapshot

FEATURES_VERSION = "ranker-features.3"  # version of the model's inputs and weights; a ranker of another version is rejected


def build_batch(
    histories: Sequence[History],
    inferred: Sequence[Inferred],
    candidates: Tensor,
    counts: NDArray[np.float32],
    now_ms: Sequence[int],
    scores: Tensor,
    table: Snapshot,
    config: RankerConfig,
) -> RankerBatch:
    """The batch of B users with candidates' rows (B, C), their counts (B, C, COUNTS) and scores (B, C, config.scores)."""
    rows = torch.zeros(len(inferred), config.inferred, dtype=torch.long)
    confidences = torch.zeros(len(inferred), config.inferred)
    for user, behaviors in enumerate(inferred):
        count = min(len(behaviors.item_ids), config.inferred)
        rows[user, :count] = table.rows(behaviors.item_ids[:count]).cpu()
        confidences[user, :count] = torch.tensor(behaviors.confidences[:count])
    device = candidates.device
    return RankerBatch(
        history=build_sequences(histories, now_ms, table, config.history).to(device),
        inferred=rows.to(device),
        confidences=(confidences * (rows > 0)).to(device),
        candidates=candidates,
        counts=torch.from_numpy(counts).to(device),
        now_ms=torch.tensor(now_ms, dtype=torch.long, device=device),
        scores=scores,
    )

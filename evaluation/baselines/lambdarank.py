"""LightGBM lambdarank (Burges 2010, Ke et al. 2017) over every number that the ranker reads of a candidate."""

import lightgbm
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reaseq.behavior.sequence import to_month, to_weekday
from reaseq.ranker.matching import cosines, lifts, similarity_tiers
from reaseq.ranker.model import RankerBatch
from reaseq.ranker.training import RankerExamples
from reaseq.representation.item_table import Snapshot

ROUNDS = 150
WEIGHT_LIMIT = 60.0  # of a candidate: how many items a drawn one stands for, at most
CHUNK = 64  # examples whose features are computed at a time
PARAMETERS = {
    "objective": "lambdarank",
    "lambdarank_truncation_level": 30,
    "learning_rate": 0.1,
    "num_leaves": 31,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.6,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "num_threads": 1,
    "verbose": -1,
}


class LambdaRank:
    """Gradient-boosted trees that order each basket's candidates: those that were bought before those that were not.

    A negative weighs as many items as it stands for, which is 1 / (mean number of its draws).
    """

    def __init__(self, examples: RankerExamples, table: Snapshot, rates: Tensor, seed: int) -> None:
        """Train on examples; `rates` (V,) are the shares of the items on sale with each claim."""
        self._table, self._rates = table, rates
        exists = torch.cat([examples.positives, examples.negatives], dim=1)  # (B, C)
        drawn = torch.exp(-examples.log_q).clamp(max=WEIGHT_LIMIT)
        weights = torch.cat([torch.ones_like(examples.positives, dtype=drawn.dtype), drawn], dim=1)
        features = [
            self._build_features(examples.batch[part])[exists[part].numpy()]
            for part in torch.split(torch.arange(len(examples)), CHUNK)
        ]
        data = lightgbm.Dataset(
            np.concatenate(features),
            examples.labels[exists].numpy(),
            weight=weights[exists].numpy(),
            group=exists.sum(1).numpy(),
        )
        self._trees = lightgbm.train({**PARAMETERS, "seed": seed}, data, ROUNDS)

    def score(self, batch: RankerBatch) -> NDArray[np.float32]:
        """Scores (C,) of the candidates of a batch with one user."""
        scores = self._trees.predict(self._build_features(batch)[0], num_threads=1)
        return np.asarray(scores, np.float32)

    @torch.inference_mode()
    def _build_features(self, batch: RankerBatch) -> NDArray[np.float32]:
        """Features (B, C, F): the numbers, lifts of claims, similarity to the history, month and day of the week."""
        slots, history_slots = self._table.slots[batch.candidates], self._table.slots[batch.history.rows]
        contents = self._table.contents
        claims, history_claims = contents.claims[slots], contents.claims[history_slots]
        claim_lifts = lifts(batch.history, claims, history_claims, self._rates)  # (B, C, K)
        tiers, summary = similarity_tiers(cosines(contents, slots, history_slots), (batch.history.rows > 0).float())
        when = torch.stack([to_month(batch.now_ms), to_weekday(batch.now_ms)], dim=-1)  # (B, 2)
        calendar = when.unsqueeze(1).expand(-1, slots.shape[1], -1)
        of_claims = torch.stack([claim_lifts.sum(-1), claim_lifts.amax(-1)], dim=-1)
        features: NDArray[np.float32] = torch.cat([batch.numbers, of_claims, tiers, summary, calendar], dim=-1).numpy()
        return features

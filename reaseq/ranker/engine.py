"""The scoring engine: a user's features and candidate ids in, scores out, in one forward pass."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reaseq.artefacts import Artefact
from reaseq.behavior.sequence import sequences_of
from reaseq.published import load_weights, sizes_of, trained_ids_of
from reaseq.ranker.model import Embedded, Ranker, RankerConfig, Request
from reaseq.ranker.popularity import Popularity
from reaseq.records import History, Inferred, UserFeatures
from reaseq.representation.item_table import ItemTable, Snapshot
from reaseq.representation.trained_ids import TrainedIds

KIND = "ranker"


class Engine:
    """A published ranker bound to an item table and to recent popularity."""

    def __init__(self, model: Ranker, ids: TrainedIds, version: str, table: ItemTable, popularity: Popularity) -> None:
        self.version = version
        self.table = table
        self.popularity = popularity
        self._model = model.eval()
        self._ids = ids
        self._embedded: Embedded | None = None

    @staticmethod
    def load(artefact: Artefact, table: ItemTable, popularity: Popularity) -> "Engine":
        """The published ranker."""
        model = load_weights(artefact, Ranker(RankerConfig(**sizes_of(artefact))))
        return Engine(model, trained_ids_of(artefact), artefact.version, table, popularity)

    def score(self, user: UserFeatures | None, candidate_ids: Sequence[str], now_ms: int) -> NDArray[np.float32]:
        """Scores (C,) of the candidates for the user at that moment; greater is better.

        A user without features is ranked by context; a candidate that the table does not know as an unknown item.
        """
        return self.score_rows(user, self.table.snapshot, self.table.snapshot.rows(candidate_ids), now_ms)

    def score_rows(self, user: UserFeatures | None, table: Snapshot, rows: Tensor, now_ms: int) -> NDArray[np.float32]:
        """The same for rows (C,) of a snapshot."""
        with torch.inference_mode():
            history = user.history if user else History()
            inferred = user.inferred if user else Inferred()
            request = request_of(
                [history],
                [inferred],
                rows.unsqueeze(0),
                self.popularity.counts(rows.numpy())[None],
                [now_ms],
                table,
                self._model.config,
            )
            scores: NDArray[np.float32] = self._model(request, self._items(table))[0].numpy()
            return scores

    def _items(self, table: Snapshot) -> Embedded:
        if self._embedded is None or self._embedded.table is not table:
            self._embedded = self._model.embed(table, self._ids.of(table))
        return self._embedded


def request_of(
    histories: Sequence[History],
    inferred: Sequence[Inferred],
    candidates: Tensor,
    counts: NDArray[np.float32],
    now_ms: Sequence[int],
    table: Snapshot,
    config: RankerConfig,
) -> Request:
    """Features of B users with C candidates each, the same in training and in serving."""
    rows = torch.zeros(len(inferred), config.inferred, dtype=torch.long)
    confidences = torch.zeros(len(inferred), config.inferred)
    for place, behaviors in enumerate(inferred):
        count = min(len(behaviors.item_ids), config.inferred)
        rows[place, :count] = table.rows(behaviors.item_ids[:count])
        confidences[place, :count] = torch.tensor(behaviors.confidences[:count])
    return Request(
        history=sequences_of(histories, now_ms, table, config.history),
        inferred=rows,
        confidences=confidences,
        candidates=candidates,
        counts=torch.from_numpy(counts),
        now_ms=torch.tensor(now_ms, dtype=torch.long),
    )

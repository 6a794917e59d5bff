"""The scoring engine: scores the candidates of several queries in one forward pass."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reaseq.aggregates import AggregateTable
from reaseq.artifacts import Artifact
from reaseq.declaration import Field
from reaseq.model_artifacts import load_sizes, load_trained_ids, load_weights
from reaseq.ranker import onnx_forward
from reaseq.ranker.batch import FEATURES_VERSION, RankedUser, build_batch
from reaseq.ranker.item_statistics import ItemStatistics, load_statistics, save_statistics
from reaseq.ranker.latent import LatentModels
from reaseq.ranker.model import Embedded, Ranker, RankerBatch, RankerConfig
from reaseq.ranker.onnx_forward import OnnxForward
from reaseq.records import History, Inferred, UserFeatures
from reaseq.representation.derived import DerivedTensors
from reaseq.representation.item_table import ItemTable, Snapshot
from reaseq.representation.trained_ids import TrainedIds

KIND = "ranker"


def engine_files(model: Ranker, statistics: ItemStatistics) -> dict[str, bytes]:
    """The files of a ranker's artifact that an engine reads besides its weights, sizes and ids."""
    return {**save_statistics(statistics), onnx_forward.FILE: onnx_forward.export(model)}


@dataclass(frozen=True)
class ScoringQuery:
    """One user and the candidates to score at a time."""

    user: UserFeatures | None  # None if nothing is known of the user
    rows: Tensor  # (C,) candidates' rows of a snapshot
    now_ms: int


@dataclass(frozen=True)
class ScoringResult:
    """The result of one query."""

    probabilities: NDArray[np.float32]  # (C,) of the candidates
    latent_read: bool  # whether the user's latent state could be read


class Engine:
    """A published ranker with the item table, the aggregates by its rows, and the behavior models that it reads."""

    def __init__(
        self,
        model: Ranker,
        ids: TrainedIds,
        version: str,
        table: ItemTable,
        aggregates: AggregateTable,
        latents: LatentModels,
        statistics: ItemStatistics | None = None,
        onnx: OnnxForward | None = None,  # the same model for the CPU; without it, the eager model runs
    ) -> None:
        self.version = version
        self._onnx = onnx
        self._statistics = statistics
        self.table = table
        self.aggregates = aggregates
        self.latents = latents
        self._device = table.snapshot.live.device
        self._model = model.eval().to(self._device)
        self._embedded = DerivedTensors(model.embed, ids)

    @staticmethod
    def load(artifact: Artifact, table: ItemTable, aggregates: AggregateTable, latents: LatentModels) -> "Engine":
        """The published ranker, ready to score.

        Raises ArtifactError if it was trained on another version of the features, or if it cannot be loaded or cannot score.
        """
        artifact.require(features=FEATURES_VERSION)
        with artifact.reading():
            model = load_weights(artifact, Ranker(load_sizes(artifact, RankerConfig)))
            ids, statistics = load_trained_ids(artifact, model.config.items), load_statistics(artifact)
            exported = (artifact.path / onnx_forward.FILE).read_bytes()
            onnx = OnnxForward(exported) if table.snapshot.live.device.type == "cpu" else None
            engine = Engine(model, ids, artifact.version, table, aggregates, latents, statistics, onnx)
            engine._prepare()
        return engine

    def score(self, user: UserFeatures | None, candidate_ids: Sequence[str], now_ms: int) -> NDArray[np.float32]:
        """Probabilities (C,) of the candidates for the user at `now_ms`.

        A user without features is ranked by context; a candidate that the table does not know is scored as the unknown item.
        """
        table = self.table.snapshot
        return self.score_all([ScoringQuery(user, table.rows(candidate_ids), now_ms)], table)[0].probabilities

    def score_all(self, queries: Sequence[ScoringQuery], table: Snapshot) -> list[ScoringResult]:
        """One result per query on one snapshot, in one forward pass; results do not depend on the other queries."""
        batch, read = self.batch(queries, table)
        probabilities = self.score_batch(batch, table).cpu().numpy()
        return [
            ScoringResult(p[: len(query.rows)], latent) for p, query, latent in zip(probabilities, queries, read, strict=True)
        ]

    @property
    def config(self) -> RankerConfig:
        """What the ranker reads."""
        return self._model.config

    @torch.inference_mode()
    def score_batch(self, batch: RankerBatch, table: Snapshot, hidden: Field | None = None) -> Tensor:
        """Probabilities (B, C) of a batch, with the category `hidden` missing from the candidates."""
        if self._onnx and not hidden:
            return torch.from_numpy(self._onnx.probability(batch, self.items(table)))
        with self._precision():
            return self._model.probability(self._model(batch, self.items(table), hidden).float())

    @torch.inference_mode()
    def batch(self, queries: Sequence[ScoringQuery], table: Snapshot) -> tuple[RankerBatch, list[bool]]:
        """The batch of several queries, and which users' latent states could be read.

        Shorter candidate lists are padded with the unknown item.
        """
        width = max(len(query.rows) for query in queries)
        candidates = torch.zeros(len(queries), width, dtype=torch.long, device=self._device)
        for user, query in enumerate(queries):
            candidates[user, : len(query.rows)] = query.rows
        counts = self.aggregates.evaluate(candidates.cpu().numpy(), np.array([[query.now_ms] for query in queries]))
        inferred = [query.user.inferred if query.user else Inferred() for query in queries]
        scores, read = candidates.new_zeros(*candidates.shape, 0, dtype=torch.float), [True] * len(queries)
        if self._model.config.scores:
            scores, read = self.latents.scores(inferred, candidates, table)
        users = [
            RankedUser(query.user.history if query.user else History(), behaviors, query.now_ms, self._statistics)
            for query, behaviors in zip(queries, inferred, strict=True)
        ]
        return build_batch(users, candidates, counts, scores, table, self._model.config), read

    @torch.inference_mode()
    def items(self, table: Snapshot) -> Embedded:
        """The embedded snapshot; only slots that are new since the last call are computed."""
        return Embedded(table.slots, table.contents, *self._embedded.get(table).tensors)

    def _prepare(self) -> None:
        """Score an item for a user with a history, which embeds the current table, so that the first request does not have to.

        Raises if that fails.
        """
        table = self.table.snapshot
        behavior = History(item_ids=(table.ids[-1],), types=(1,), times_ms=(0,), event_keys=(0,))
        user = UserFeatures(user_id="", event_time_ms=0, events_seen=1, history=behavior)
        (result,) = self.score_all([ScoringQuery(user, table.rows([table.ids[-1]]), 0)], table)
        if not np.isfinite(result.probabilities).all():
            raise ValueError("a score is not finite")

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast("cuda", torch.bfloat16) if self._device.type == "cuda" else nullcontext()

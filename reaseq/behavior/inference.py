"""Inference of behaviors with a published model and the item table, in batches of one fixed shape."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reaseq import float16
from reaseq.artifacts import Artifact, load_version
from reaseq.behavior import calibration, diffusion
from reaseq.behavior.diffusion import Draw, Sampling, Slots, build_slots
from reaseq.behavior.examples import build_canvas
from reaseq.behavior.history import InferenceRequest
from reaseq.behavior.model import BehaviorConfig, BehaviorModel
from reaseq.behavior.sequence import build_sequences
from reaseq.behavior.token_table import TokenTable, build_trie
from reaseq.model_artifacts import load_sizes, load_trained_ids, load_weights
from reaseq.records import History, Inferred
from reaseq.representation.item_table import ItemTable, Snapshot
from reaseq.representation.semantic_ids import KIND as SEMANTIC_IDS
from reaseq.representation.semantic_ids import Codebook
from reaseq.representation.trained_ids import TrainedIds
from reaseq.settings import SamplerSettings

KIND = "behavior"


@dataclass(frozen=True)
class _Catalog:
    """What the model needs of a snapshot, computed once per snapshot."""

    source: Snapshot
    table: Snapshot
    token_table: TokenTable
    prior: Tensor  # (N,)


class BehaviorInference:
    """Infers behaviors that the log never saw, out of the items listed by the time of the request."""

    def __init__(
        self,
        model: BehaviorModel,
        ids: TrainedIds,
        version: str,
        table: ItemTable,
        settings: SamplerSettings,
        codebook: Codebook | None = None,
    ) -> None:
        self._model = model
        self._ids = ids
        self._table = table
        self._settings = settings
        self._codebook = codebook
        self._cached: _Catalog | None = None
        self.version = version

    @staticmethod
    def load(artifact: Artifact, models: Path, table: ItemTable, settings: SamplerSettings) -> "BehaviorInference":
        """The published model on an item table, with the codebook it was trained with if it uses semantic IDs.

        Raises ArtifactError if the model or its codebook cannot be loaded, or if it cannot infer.
        """
        codebook = None
        with artifact.reading():
            model = load_weights(artifact, BehaviorModel(load_sizes(artifact, BehaviorConfig)))
            ids = load_trained_ids(artifact, model.config.items)
            if model.config.codes:
                codebook = Codebook.load(load_version(models, SEMANTIC_IDS, artifact.facts["codebook"]))
            inference = BehaviorInference(model, ids, artifact.version, table, settings, codebook)
            inference.infer([InferenceRequest(History(), 0, 0)])  # a model that cannot infer would fail every user's record
        return inference

    async def answer(self, requests: Sequence[InferenceRequest]) -> list[Inferred | None]:
        """`infer` in a thread, off the event loop."""
        return [*await asyncio.to_thread(self.infer, requests)]

    def infer(self, requests: Sequence[InferenceRequest]) -> list[Inferred]:
        """One result per request, in order; each depends on its own request alone."""
        results = []
        size = self._settings.batch_users  # every forward pass has this shape, so results do not depend on the batch
        with torch.inference_mode():
            catalog = self._catalog()
            for start in range(0, len(requests), size):
                part = requests[start : start + size]
                padding = [InferenceRequest(History(), 0, 0)] * (size - len(part))
                results += self._infer_batch([*part, *padding], catalog)[: len(part)]
        return results

    def _catalog(self) -> _Catalog:
        newest = self._table.snapshot
        if self._cached is None or self._cached.source is not newest:
            table = newest.by_id()
            numbers = self._ids.number(table)
            # The caller has checked that the artifact is of the table's space, which all vectors in the table share.
            trie = build_trie(self._codebook, table.vectors, self._codebook.space_id) if self._codebook else None
            prior = torch.log1p(self._model.sales[numbers])
            self._cached = _Catalog(newest, table, self._model.token_table(table, numbers, trie), prior)
        return self._cached

    def _infer_batch(self, requests: Sequence[InferenceRequest], catalog: _Catalog) -> list[Inferred]:
        table, settings = catalog.table, self._settings
        as_of_ms = [request.as_of_ms for request in requests]
        histories = [request.history for request in requests]
        sequences = build_sequences(histories, as_of_ms, table, self._model.config.history)
        times_ms = torch.tensor(as_of_ms)
        canvas = build_canvas(sequences, times_ms, catalog.token_table, catalog.prior.expand(len(requests), -1))
        allowed = table.live & (table.listed_ms <= times_ms[:, None])  # (B, N)
        for user, history in enumerate(histories):
            allowed[user, table.rows(history.item_ids)] = False  # the log already has these
        slots = build_slots(canvas, settings.behaviors, settings.infilled_behaviors)
        sampling = Sampling(settings.behaviors, settings.steps, settings.temperature, settings.tolerance)
        draws = []
        for sample in range(settings.samples):
            noise = _gumbel(requests, slots, len(table), sample) if settings.temperature else None
            draws.append(diffusion.denoise(self._model, canvas, catalog.token_table, allowed, slots, sampling, noise))
        return self._build_results(requests, table, merge(draws, settings.behaviors), draws[0].latent)

    def _build_results(
        self, requests: Sequence[InferenceRequest], table: Snapshot, merged: tuple[Tensor, Tensor], latent: Tensor
    ) -> list[Inferred]:
        rows, p = merged
        confidences = calibration.apply(self._model.calibration, p).numpy().astype(np.float16)
        return [
            Inferred(
                item_ids=tuple(table.ids[row] for row in rows[user][p[user] > 0].tolist()),
                confidences=tuple(confidences[user][p[user].numpy() > 0].tolist()),
                model=self.version,
                as_of_ms=request.as_of_ms,
                events_seen=request.events_seen,
                latent=float16.pack(latent[user].numpy()),
            )
            for user, request in enumerate(requests)
        ]


def merge(draws: Sequence[Draw], behaviors: int) -> tuple[Tensor, Tensor]:
    """Merge samples into one: rows (B, K) and probabilities (B, K), most probable first; K is `behaviors`.

    An item's probability is its mean over the samples, counted as 0 in those that did not choose it.
    """
    rows = torch.cat([draw.rows for draw in draws], dim=1)  # (B, S·K)
    p = torch.cat([draw.confidences for draw in draws], dim=1) / len(draws)
    same = rows.unsqueeze(2) == rows.unsqueeze(1)  # (B, S·K, S·K)
    total = (same * p.unsqueeze(1)).sum(-1)
    duplicate = same.tril(-1).any(-1)  # the item already occurs further left
    best, order = total.masked_fill(duplicate, 0.0).sort(dim=1, descending=True, stable=True)
    return rows.gather(1, order)[:, :behaviors], best[:, :behaviors]


def _gumbel(requests: Sequence[InferenceRequest], slots: Slots, items: int, sample: int) -> Tensor:
    """Gumbel noise (B, Q, N), seeded by each user's request and the sample."""
    noise = torch.empty(len(requests), slots.positions.shape[1], items)
    for user, request in enumerate(requests):
        seed = hash((request.as_of_ms, request.events_seen, request.history.event_keys[-1:], sample))
        noise[user].exponential_(generator=torch.Generator().manual_seed(seed % 2**63))
    return -noise.log()

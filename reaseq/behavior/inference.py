"""Inference of behaviours on the stream: a published model, the item table, and batches of one fixed shape."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from reaseq.artifacts import Artefact, version_of
from reaseq.behavior import calibration, diffusion
from reaseq.behavior.diffusion import Draw, Sampling, Slots, slots_of
from reaseq.behavior.examples import canvas_of
from reaseq.behavior.history import Question
from reaseq.behavior.model import BehaviorConfig, BehaviorModel
from reaseq.behavior.sequence import sequences_of
from reaseq.behavior.token_table import Lexicon, tree_of
from reaseq.model_artifacts import load_weights, sizes_of, trained_ids_of
from reaseq.records import History, Inferred
from reaseq.representation.item_table import ItemTable, Snapshot
from reaseq.representation.semantic_ids import KIND as SEMANTIC_IDS
from reaseq.representation.semantic_ids import Codebook
from reaseq.representation.trained_ids import TrainedIds
from reaseq.settings import SamplerSettings

KIND = "behavior"


@dataclass(frozen=True)
class _Catalogue:
    """A snapshot as the model reads it: computed once."""

    source: Snapshot
    table: Snapshot
    lexicon: Lexicon
    prior: Tensor  # (N,)


class BehaviorInference:
    """Infers the behaviours that the log never saw, out of the items that were listed by then."""

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
        self._read: _Catalogue | None = None
        self.version = version

    @staticmethod
    def load(artefact: Artefact, models: Path, table: ItemTable, settings: SamplerSettings) -> "BehaviorInference":
        """The published model, bound to a table; its semantic IDs, where it writes with them, are published beside it."""
        model = load_weights(artefact, BehaviorModel(msgspec.convert(sizes_of(artefact), BehaviorConfig)))
        codebook = None
        if model.config.codes:
            codebook = Codebook.load(version_of(models, SEMANTIC_IDS, artefact.facts["codebook"]))
        return BehaviorInference(model, trained_ids_of(artefact), artefact.version, table, settings, codebook)

    async def answer(self, questions: Sequence[Question]) -> list[Inferred | None]:
        """The same as `infer`, off the event loop."""
        return [*await asyncio.to_thread(self.infer, questions)]

    def infer(self, questions: Sequence[Question]) -> list[Inferred]:
        """Answers in order, each from its own question alone."""
        answers = []
        size = self._settings.batch_users  # of every forward pass, so a user's result does not depend on the batch
        with torch.inference_mode():
            catalogue = self._catalogue()
            for start in range(0, len(questions), size):
                part = questions[start : start + size]
                padding = [Question(History(), 0, 0)] * (size - len(part))
                answers += self._batch([*part, *padding], catalogue)[: len(part)]
        return answers

    def _catalogue(self) -> _Catalogue:
        newest = self._table.snapshot
        if self._read is None or self._read.source is not newest:
            table = newest.by_id()
            numbers = self._ids.of(table)
            # The table holds vectors of one space only, the one that the artefact was required to be of.
            tree = tree_of(self._codebook, table.vectors, self._codebook.space_id) if self._codebook else None
            prior = torch.log1p(self._model.sales[numbers])
            self._read = _Catalogue(newest, table, self._model.lexicon(table, numbers, tree), prior)
        return self._read

    def _batch(self, questions: Sequence[Question], catalogue: _Catalogue) -> list[Inferred]:
        table, settings = catalogue.table, self._settings
        as_of_ms = [question.as_of_ms for question in questions]
        histories = [question.history for question in questions]
        sequences = sequences_of(histories, as_of_ms, table, self._model.config.history)
        times_ms = torch.tensor(as_of_ms)
        canvas = canvas_of(sequences, times_ms, catalogue.lexicon, catalogue.prior.expand(len(questions), -1))
        allowed = table.live & (table.listed_ms <= times_ms[:, None])  # (B, N)
        for user, history in enumerate(histories):
            allowed[user, table.rows(history.item_ids)] = False  # what the log has is not to be inferred
        slots = slots_of(canvas, settings.behaviors, settings.infilled_behaviors)
        sampling = Sampling(settings.behaviors, settings.steps, settings.temperature, settings.tolerance)
        draws = []
        for sample in range(settings.samples):
            noise = _gumbel(questions, slots, len(table), sample) if settings.temperature else None
            draws.append(diffusion.denoise(self._model, canvas, catalogue.lexicon, allowed, slots, sampling, noise))
        return self._answers(questions, table, merge(draws, settings.behaviors), draws[0].latent)

    def _answers(
        self, questions: Sequence[Question], table: Snapshot, merged: tuple[Tensor, Tensor], latent: Tensor
    ) -> list[Inferred]:
        rows, p = merged
        confidences = calibration.apply(self._model.calibration, p).numpy().astype(np.float16)
        states = latent.numpy().astype(np.float16)
        return [
            Inferred(
                item_ids=tuple(table.ids[row] for row, sure in zip(rows[user].tolist(), p[user].tolist(), strict=True) if sure),
                confidences=tuple(confidences[user][p[user].numpy() > 0].tolist()),
                model=self.version,
                as_of_ms=question.as_of_ms,
                events_seen=question.events_seen,
                latent=states[user].tobytes(),
            )
            for user, question in enumerate(questions)
        ]


def merge(draws: Sequence[Draw], behaviors: int) -> tuple[Tensor, Tensor]:
    """Several samples as one: rows (B, K) and probabilities (B, K), most probable first.

    An item's probability is its mean over the samples, 0 in those that did not choose it.
    """
    rows = torch.cat([draw.rows for draw in draws], dim=1)  # (B, S·K)
    p = torch.cat([draw.confidences for draw in draws], dim=1) / len(draws)
    same = rows.unsqueeze(2) == rows.unsqueeze(1)  # (B, S·K, S·K)
    total = (same * p.unsqueeze(1)).sum(-1)
    again = same.tril(-1).any(-1)  # stands earlier already
    best, order = total.masked_fill(again, 0.0).sort(dim=1, descending=True, stable=True)
    return rows.gather(1, order)[:, :behaviors], best[:, :behaviors]


def _gumbel(questions: Sequence[Question], slots: Slots, items: int, sample: int) -> Tensor:
    """Noise (B, Q, N) that hangs on each user's question and on the sample alone."""
    noise = torch.empty(len(questions), slots.positions.shape[1], items)
    for place, question in enumerate(questions):
        seed = hash((question.as_of_ms, question.events_seen, question.history.event_keys[-1:], sample))
        noise[place].exponential_(generator=torch.Generator().manual_seed(seed % 2**63))
    return -noise.log()

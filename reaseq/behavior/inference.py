"""Inference of behaviours on the stream: a published model, the item table, and batches of one fixed shape."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from reaseq.artefacts import Artefact
from reaseq.behavior import diffusion
from reaseq.behavior.diffusion import Items
from reaseq.behavior.history import Question
from reaseq.behavior.model import BehaviorConfig, BehaviorModel
from reaseq.behavior.sequence import Sequences, sequences_of
from reaseq.published import load_weights, sizes_of, trained_ids_of
from reaseq.records import History, Inferred
from reaseq.representation.item_table import ItemTable, Snapshot
from reaseq.representation.trained_ids import TrainedIds

KIND = "behavior"
BATCH_USERS = 4  # every forward pass has this shape, so a user's result does not depend on the batch
STEPS = 2  # forward passes of the sampler


class BehaviorInference:
    """Infers the behaviours that the log never saw, out of the items that were listed by then."""

    def __init__(self, model: BehaviorModel, ids: TrainedIds, version: str, table: ItemTable, places: int) -> None:
        self._model = model
        self._ids = ids
        self._table = table
        self._places = places
        self._source: Snapshot | None = None  # what `_ordered` was made of
        self._ordered: tuple[Snapshot, Items]
        self.version = version

    @staticmethod
    def load(artefact: Artefact, table: ItemTable, places: int) -> "BehaviorInference":
        """The published model, bound to a table."""
        model = load_weights(artefact, BehaviorModel(BehaviorConfig(**sizes_of(artefact))))
        return BehaviorInference(model, trained_ids_of(artefact), artefact.version, table, places)

    def infer(self, questions: Sequence[Question]) -> list[Inferred]:
        """Answers in order, each from its own question alone."""
        answers = []
        with torch.inference_mode():
            table, items = self._catalogue()
            for start in range(0, len(questions), BATCH_USERS):
                answers += self._batch(questions[start : start + BATCH_USERS], table, items)
        return answers

    def _catalogue(self) -> tuple[Snapshot, Items]:
        newest = self._table.snapshot
        if self._source is not newest:
            table = newest.by_id()
            self._ordered = (table, self._model.items(table, self._ids.of(table)))
            self._source = newest
        return self._ordered

    def _batch(self, questions: Sequence[Question], table: Snapshot, items: Items) -> list[Inferred]:
        padding = [Question(History(), 0, 0)] * (BATCH_USERS - len(questions))
        padded = [*questions, *padding]
        as_of_ms = [question.as_of_ms for question in padded]
        full = sequences_of(
            [question.history for question in padded], as_of_ms, table, max(len(q.history.item_ids) for q in questions)
        )
        allowed = table.live & (table.listed_ms <= torch.tensor(as_of_ms)[:, None])  # (B, N)
        allowed.scatter_(1, full.rows, False)  # what the log has is not to be inferred
        seen = self._model.config.history
        recent = _latest(full, seen)
        rows, confidences, latent = diffusion.denoise(self._model, recent, items, allowed, min(self._places, len(table)), STEPS)
        return [
            self._answer(question, table, rows[place], confidences[place], latent[place])
            for place, question in enumerate(questions)
        ]

    def _answer(self, question: Question, table: Snapshot, rows: Tensor, confidences: Tensor, latent: Tensor) -> Inferred:
        order = torch.argsort(confidences, descending=True, stable=True)
        kept = [place for place in order.tolist() if confidences[place] > 0]
        rounded = confidences.numpy().astype(np.float16)
        return Inferred(
            item_ids=tuple(table.ids[int(rows[place])] for place in kept),
            confidences=tuple(float(rounded[place]) for place in kept),
            model=self.version,
            as_of_ms=question.as_of_ms,
            events_seen=question.events_seen,
            latent=latent.numpy().astype(np.float16).tobytes(),
        )


def _latest(sequences: Sequences, length: int) -> Sequences:
    short = length - sequences.rows.shape[1]
    if short > 0:  # pad on the left to the one shape that the model always sees
        pad = torch.nn.functional.pad
        return Sequences(pad(sequences.rows, (short, 0)), pad(sequences.types, (short, 0)), pad(sequences.gaps, (short, 0)))
    return Sequences(sequences.rows[:, -length:], sequences.types[:, -length:], sequences.gaps[:, -length:])

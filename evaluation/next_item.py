"""The behavior model under leave-one-out: trained to infer a user's next item, blind to time, and judged by what it infers."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evaluation.item_links import count_items
from evaluation.leave_one_out import HeldOut, Rows, Scores, UserSequences
from reaseq.behavior import diffusion
from reaseq.behavior.diffusion import Canvas, Sampling, build_slots
from reaseq.behavior.examples import build_canvas
from reaseq.behavior.model import BehaviorConfig, BehaviorModel
from reaseq.behavior.sequence import Sequences
from reaseq.behavior.token_table import ABSENT, TokenTable
from reaseq.behavior.training import response_loss
from reaseq.representation.contents import Contents
from reaseq.representation.item_table import NO_PRICE, Snapshot, build_snapshot
from reaseq.training_loop import fit

INFERRED = 64  # items inferred for each user; the others score 0
PURCHASE = 1  # every behavior is of one type


@dataclass(frozen=True)
class NextItemConfig:
    """Sizes and hyperparameters of training."""

    sizes: BehaviorConfig = field(default_factory=lambda: BehaviorConfig(history=20, response=4, dropout=0.3))
    passes: int = 30  # over the users; in each, the history of each user ends at a place drawn at random
    epochs: int = 1  # over what the passes drew
    batch_baskets: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    infill_share: float = 0.0  # share of the rows whose history may be masked too, not only what follows it
    seed: int = 0


def build_table(vectors: NDArray[np.float32], labels: Sequence[Rows]) -> Snapshot:
    """The item table of texts' unit vectors (N − 1, D) and each kind of label (N,), 0 for none. Row 0 is the unknown item."""
    starts = np.cumsum([0, *(kind.max() for kind in labels)])[: len(labels)]
    claims = np.stack([np.where(kind > 0, kind + start, 0) for kind, start in zip(labels, starts, strict=True)], axis=1)
    ids = torch.from_numpy(claims)  # (N, kinds)
    with_unknown = torch.from_numpy(np.concatenate([np.zeros_like(vectors[:1]), vectors]))
    items = len(with_unknown)
    return build_snapshot(
        [str(row) if row else "" for row in range(items)],
        Contents.without_attributes(with_unknown, ids, (ids > 0).float()),
        prices=torch.full((items,), NO_PRICE),
        listed_ms=torch.zeros(items, dtype=torch.long),
        live=torch.arange(items) > 0,
    )


class NextItemModel:
    """A trained behavior model, and the items it infers from."""

    def __init__(self, model: BehaviorModel, token_table: TokenTable) -> None:
        self._model, self._token_table = model.eval(), token_table

    @torch.inference_mode()
    def score(self, held_out: HeldOut) -> Scores:
        """The probability (B, N) of each item that the model infers as one of the next `INFERRED`, 0 of the others."""
        rows = pad_left([rows[-self._model.config.history :] for rows in held_out.histories.rows], self._model.config.history)
        canvas = _write(rows, self._token_table)
        allowed = (torch.arange(len(self._token_table.codes)) > 0).expand(len(rows), -1)
        sampling = Sampling(INFERRED)
        draw = diffusion.denoise(self._model, canvas, self._token_table, allowed, build_slots(canvas, INFERRED), sampling)
        scores: Scores = torch.zeros(allowed.shape).scatter(1, draw.rows.clamp(min=0), draw.confidences).numpy()
        return scores


def train_next_item(sequences: UserSequences, table: Snapshot, config: NextItemConfig) -> NextItemModel:
    """A behavior model trained on items of the sequences, each masked after those before it."""
    torch.manual_seed(config.seed)
    ids = torch.from_numpy(np.where(count_items(sequences) > 0, np.arange(sequences.items), 0))
    claims = int(table.contents.claims.max()) + 1
    dimensions = table.contents.vectors.shape[1]
    model = BehaviorModel(replace(config.sizes, vector_dim=dimensions, claims=claims, items=sequences.items))
    histories, responses = draw_examples(sequences, config)
    loss_module = _NextItemLoss(model, histories, responses, table, ids, config.infill_share)
    fit(model, loss_module, len(histories), config, held_out=lambda: 0.0)
    model.eval()
    with torch.inference_mode():
        return NextItemModel(model, model.token_table(table, ids))


def draw_examples(sequences: UserSequences, config: NextItemConfig) -> tuple[Tensor, Tensor]:
    """In each pass, of each user: a history, and the items that follow it.

    The histories (passes · users, history) are padded with 0 on the left, what follows them (passes · users, response) with
    ABSENT on the right.
    """
    generator, sizes = np.random.default_rng(config.seed), config.sizes
    histories, responses = [], []
    for rows in sequences.rows:
        if len(rows) > 1:
            for end in generator.integers(1, len(rows), config.passes):
                histories.append(rows[max(0, end - sizes.history) : end])
                responses.append(rows[end : end + sizes.response])
    following = np.full((len(responses), sizes.response), ABSENT, np.int64)
    for example, response in enumerate(responses):
        following[example, : len(response)] = response
    return pad_left(histories, sizes.history), torch.from_numpy(following)


def pad_left(rows: Sequence[Rows], length: int) -> Tensor:
    """Rows as a tensor (B, length), padded with 0 on the left."""
    padded = np.zeros((len(rows), length), np.int64)
    for user, part in enumerate(rows):
        padded[user, length - len(part) :] = part
    return torch.from_numpy(padded)


class _NextItemLoss(nn.Module):
    """The diffusion loss of a batch of examples."""

    def __init__(
        self, model: BehaviorModel, histories: Tensor, responses: Tensor, table: Snapshot, ids: Tensor, infill_share: float
    ) -> None:
        super().__init__()
        self.model, self._table, self._ids, self._infill_share = model, table, ids, infill_share
        self._histories, self._responses = histories, responses

    def forward(self, index: Tensor) -> Tensor:
        """The loss of examples (B,), with new masks at every call."""
        rows, response = self._histories[index], self._responses[index]
        rows = rows[:, int((rows > 0).any(0).int().argmax()) :]  # without padding that all share
        token_table = self.model.token_table(self._table, self._ids)
        return response_loss(self.model, _write(rows, token_table), response, token_table, self._infill_share)


def _write(rows: Tensor, token_table: TokenTable) -> Canvas:
    """Histories (B, L), padded with 0 on the left, as a canvas that tells the order and nothing of the time."""
    history = Sequences(rows, torch.where(rows > 0, PURCHASE, 0), torch.zeros_like(rows))
    return build_canvas(history, torch.zeros(len(rows), dtype=torch.long), token_table, None)

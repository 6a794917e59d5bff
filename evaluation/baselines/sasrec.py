"""SASRec, self-attentive sequential recommendation (Kang and McAuley 2018), with sampled softmax as in eSASRec (2025).

Every position is contrasted with the same negatives of a batch, drawn uniformly and corrected to the size of the catalog, which
approximates full cross-entropy (Klenitskiy and Vasilev 2023) at a fraction of its cost.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.leave_one_out import HeldOut, Rows, Scores, UserSequences
from reaseq.optimizer import Optimizer

SORTED_BATCHES = 16  # as many random batches are sorted by length together, so that little of a batch is padding


@dataclass(frozen=True)
class SasRecConfig:
    """Sizes and hyperparameters of training."""

    width: int = 64
    layers: int = 1
    heads: int = 1
    length: int = 50  # latest items that the model sees
    dropout: float = 0.3
    negatives: int = 1024
    epochs: int = 24
    batch: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.01


class SasRec(nn.Module):
    """A causal transformer: the state at an item is compared with the embedding of every item that may come next."""

    def __init__(self, items: int, config: SasRecConfig) -> None:
        super().__init__()
        self._length = config.length
        self._items = nn.Embedding(items, config.width, padding_idx=0)
        self._positions = nn.Embedding(config.length, config.width)
        for table in (self._items, self._positions):
            nn.init.normal_(table.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(
            config.width, config.heads, 2 * config.width, config.dropout, "gelu", batch_first=True, norm_first=True
        )
        self._encoder = nn.TransformerEncoder(layer, config.layers, nn.LayerNorm(config.width), enable_nested_tensor=False)
        self._dropout = nn.Dropout(config.dropout)

    def states(self, rows: Tensor) -> Tensor:
        """States (B, L, d) after each item of rows (B, L), which are padded with 0 on the right."""
        length = rows.shape[1]
        x = self._dropout(self._items(rows) + self._positions.weight[:length])
        return self._encoder(x, nn.Transformer.generate_square_subsequent_mask(length), is_causal=True)  # type: ignore[no-any-return]

    def loss(self, rows: Tensor, negatives: int) -> Tensor:
        """Mean sampled cross-entropy of each item of rows (B, L) after those before it."""
        targets = rows[:, 1:][rows[:, 1:] > 0]  # (M,)
        states = self.states(rows[:, :-1])[rows[:, 1:] > 0]  # (M, d)
        items = len(self._items.weight) - 1
        drawn = torch.randint(1, items + 1, (negatives,))
        of_target = (states * self._items(targets)).sum(-1, keepdim=True)
        of_drawn = states @ self._items(drawn).T + math.log(items / negatives)
        of_drawn = of_drawn.masked_fill(drawn == targets.unsqueeze(-1), -torch.inf)
        logits = torch.cat([of_target, of_drawn], dim=-1)
        return nn.functional.cross_entropy(logits, torch.zeros_like(targets))

    def score(self, held_out: HeldOut) -> Scores:
        """Probabilities (B, N) of every item as the next one."""
        rows = pad([rows[-self._length :] for rows in held_out.histories.rows])
        last = (rows > 0).sum(1) - 1
        with torch.inference_mode():
            logits = self.states(rows)[torch.arange(len(rows)), last] @ self._items.weight.T
        scores: Scores = logits.softmax(-1).numpy()
        return scores


def train_sasrec(sequences: UserSequences, config: SasRecConfig, seed: int) -> SasRec:
    """A model trained to predict each item of the sequences from those before it."""
    torch.manual_seed(seed)
    model = SasRec(sequences.items, config)
    rows = [part[-config.length - 1 :] for part in sequences.rows if len(part) > 1]
    lengths = torch.tensor([len(part) for part in rows])
    optimizer = Optimizer(model, config.learning_rate, config.weight_decay, config.epochs * -(-len(rows) // config.batch))
    for _ in range(config.epochs):
        for group in torch.split(torch.randperm(len(rows)), config.batch * SORTED_BATCHES):
            for users in torch.split(group[lengths[group].argsort()], config.batch):
                optimizer.step(model.loss(pad([rows[int(user)] for user in users]), config.negatives))
    return model.eval()


def pad(rows: list[Rows]) -> Tensor:
    """Rows as a tensor (B, L), padded with 0 on the right."""
    padded = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for user, part in enumerate(rows):
        padded[user, : len(part)] = part
    return torch.from_numpy(padded)

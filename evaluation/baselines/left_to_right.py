"""The left-to-right baseline: the behavior model's tokens, sizes and training budget in a causal transformer."""

import torch
from torch import Tensor

from reaseq.behavior.diffusion import TO_COME, Canvas
from reaseq.behavior.examples import BehaviorExamples, build_canvas
from reaseq.behavior.model import BehaviorModel
from reaseq.behavior.popularity import RecentSales
from reaseq.behavior.token_table import ABSENT, TokenTable


class LeftToRight(BehaviorModel):
    """A causal transformer: the state at a position predicts the next behavior."""

    def hidden(self, canvas: Canvas, token_table: TokenTable) -> Tensor:
        """Hidden states (B, L, d); each position sees itself and those before it."""
        x = self.types(canvas.types) + self.gaps(canvas.gaps) + self.months(canvas.months).unsqueeze(1)
        x = x + token_table.tables[0][canvas.tokens[..., 0].clamp(min=0)]  # (B, L, d)
        length = x.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).tril() & canvas.present.unsqueeze(1)  # (B, L, L)
        causal = causal | torch.eye(length, dtype=torch.bool)  # an absent position sees itself; softmax needs one key
        return self.backbone(self.dropout(x), causal, canvas.positions)  # type: ignore[no-any-return]


def loss(
    model: LeftToRight, examples: BehaviorExamples, token_table: TokenTable, sales: RecentSales, history_share: float
) -> Tensor:
    """Mean cross-entropy of next behaviors: the new items of the basket, and a random share of the history.

    Every basket counts the same.
    """
    history = build_canvas(examples.history, examples.times_ms, token_table, None)
    length = examples.history.rows.shape[1]
    after = torch.full_like(examples.response, length)
    canvas = history.followed_by(token_table.to_tokens(examples.response), after, torch.full_like(after, TO_COME))
    tokens = canvas.tokens[..., 0]
    predicted = (tokens[:, 1:] != ABSENT) & (tokens[:, :-1] != ABSENT)  # (B, L − 1) pairs of neighboring positions
    predicted[:, : length - 1] &= torch.rand(len(tokens), length - 1) < history_share
    row, position = predicted.nonzero(as_tuple=True)
    hidden = model.hidden(canvas, token_table)[row, position]
    logits = model.logits(hidden, token_table, 0, sales.prior(examples.times_ms)[row])
    nll = torch.nn.functional.cross_entropy(logits, tokens[row, position + 1], reduction="none")  # (M,)
    counts = torch.zeros(len(tokens)).index_add(0, row, torch.ones(len(row)))
    return (nll / counts[row]).sum() / len(tokens)


def score_next(model: LeftToRight, history: Canvas, token_table: TokenTable) -> Tensor:
    """Scores (B, N) of every item as the next behavior after a history."""
    hidden = model.hidden(history, token_table)[:, -1]
    return model.logits(hidden, token_table, 0, history.prior)

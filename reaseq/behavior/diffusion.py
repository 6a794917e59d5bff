"""Masked diffusion over behaviors, the algorithm on one page: forward process, loss, and the parallel sampler.

After LLaDA (Nie et al. 2025, arXiv 2502.09992): tokens are masked at a rate t, a bidirectional network tells what stood
there, and inference unmasks the most confident first. A behavior is D tokens: one, the item itself, or the digits of its
semantic ID. Behaviors of one moment have no order: they share a position, and their masks are interchangeable.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from reaseq.behavior.token_table import ABSENT, MASK, TokenTable

MIN_MASK_RATE = 0.15  # below it the weight 1/t lets single tokens dominate a step
TO_COME = 0  # the gap of a behavior that is still to come, shared with "within the hour"


@dataclass(frozen=True)
class Canvas:
    """B users with L behaviors each, any token of which may be masked. A masked behavior does not tell its type."""

    tokens: Tensor  # (B, L, D) codes of the token_table, MASK or ABSENT
    types: Tensor  # (B, L) type of event, 0 where masked or absent
    gaps: Tensor  # (B, L) bucket of the time from the behavior to now
    positions: Tensor  # (B, L) order in the sequence
    months: Tensor  # (B,) month of now, 0…11
    prior: Tensor | None = None  # (B, N) what speaks for each item whoever the user is: log of its recent sales

    @property
    def present(self) -> Tensor:
        """Which places hold a behavior, masked or not (B, L)."""
        return (self.tokens != ABSENT).any(-1)

    def with_tokens(self, tokens: Tensor) -> "Canvas":
        """The same places holding other tokens; what they mask has no type."""
        return replace(self, tokens=tokens, types=self.types * (tokens >= 0).all(-1))

    def followed_by(self, tokens: Tensor, positions: Tensor, gaps: Tensor) -> "Canvas":
        """With more places: tokens (B, P, D) at positions and gaps (B, P)."""
        return replace(
            self,
            tokens=torch.cat([self.tokens, tokens], dim=1),
            types=torch.cat([self.types, torch.zeros_like(positions)], dim=1),
            gaps=torch.cat([self.gaps, gaps], dim=1),
            positions=torch.cat([self.positions, positions], dim=1),
        )


class Denoiser(Protocol):
    """The network in its two halves: reading the canvas, and scoring the codes of one digit."""

    def hidden(self, canvas: Canvas, token_table: TokenTable) -> Tensor:
        """Hidden states (B, L, d)."""
        ...

    def logits(self, hidden: Tensor, token_table: TokenTable, digit: int, prior: Tensor | None) -> Tensor:
        """Scores (…, V) of a digit's codes for hidden states (…, d); `prior` (…, N) where a code is an item."""
        ...


# ---- training


def draw_rates(rows: int, device: torch.device | None = None) -> Tensor:
    """t ~ U(MIN_MASK_RATE, 1) for each row (B, 1)."""
    return MIN_MASK_RATE + (1 - MIN_MASK_RATE) * torch.rand(rows, 1, device=device)


def mask(tokens: Tensor, t: Tensor, maskable: Tensor) -> Tensor:
    """The forward process: tokens (B, L, D) with those of `maskable` (B, L) places masked, each with probability t (B, 1).

    In every other row a behavior's digits are masked together, which is what inference starts from; in the others one by
    one, which is what it meets on its way. Each token's rate is t in both.
    """
    draw = torch.rand(tokens.shape, device=tokens.device)
    together = torch.rand(len(tokens), 1, 1, device=tokens.device) < 0.5
    draw = torch.where(together, draw[..., :1], draw)
    hit = (draw < t.unsqueeze(-1)) & maskable.unsqueeze(-1) & (tokens != ABSENT)
    return torch.where(hit, MASK, tokens)


def loss(model: Denoiser, canvas: Canvas, masked: Tensor, t: Tensor, maskable: Tensor, token_table: TokenTable) -> Tensor:
    """Cross-entropy on the masked tokens, each weighted 1/t, per maskable token of its row; the mean over rows.

        L = E_rows [ 1/(t · n) · Σ_masked −log p(token | everything that is not masked) ],   n = tokens that might be masked

    `masked` (B, L, D) is what `mask` made of the canvas at rates t (B, 1).
    """
    hidden = model.hidden(canvas.with_tokens(masked), token_table)  # (B, L, d)
    hit = (masked == MASK) & (canvas.tokens != MASK)  # (B, L, D)
    might = (maskable.unsqueeze(-1) & (canvas.tokens != ABSENT)).flatten(1).sum(-1).clamp(min=1)  # (B,)
    total = hidden.new_zeros(())
    for digit in range(token_table.digits):
        row, place = hit[..., digit].nonzero(as_tuple=True)  # (M,) each
        prior = None if canvas.prior is None else canvas.prior[row]
        logits = model.logits(hidden[row, place], token_table, digit, prior).float()  # (M, V)
        nll = torch.nn.functional.cross_entropy(logits, canvas.tokens[row, place, digit], reduction="none")  # (M,)
        total = total + (nll / (t.squeeze(-1) * might)[row]).sum()
    return total / len(masked)


# ---- inference


@dataclass(frozen=True)
class Slots:
    """Where behaviors are to be inferred: Q places a user, each at a moment, taking so many behaviors."""

    positions: Tensor  # (B, Q)
    gaps: Tensor  # (B, Q)
    capacity: Tensor  # (B, Q)


def build_slots(canvas: Canvas, behaviors: int, infilled: int = 0) -> Slots:
    """Slots for the behaviors to come, and for `infilled` more, one at the moment of each of the latest behaviors.

    With less history than that, infilled slots fall on moments that nothing stands at, and take nothing.
    """
    batch, length, _ = canvas.tokens.shape
    after = canvas.positions.new_full((batch, 1), length)
    positions = torch.cat([after, canvas.positions[:, length - infilled :]], dim=1)
    gaps = torch.cat([torch.full_like(after, TO_COME), canvas.gaps[:, length - infilled :]], dim=1)
    capacity = torch.cat([torch.full_like(after, behaviors - infilled), canvas.present[:, length - infilled :].long()], dim=1)
    return Slots(positions, gaps, capacity)


@dataclass(frozen=True)
class Sampling:
    """How to unmask. One token a step and no tolerance is the reference schedule of LLaDA."""

    behaviors: int = 16  # to infer for each user
    steps: int = 2  # rounds of unmasking, in each of which equally many are unmasked
    temperature: float = 0.0  # 0: the most confident; above: drawn with Gumbel noise of that scale
    tolerance: float = 0.0  # where no more than so much probability moved since the last round, the rest is unmasked at once


@dataclass(frozen=True)
class Draw:
    """What was inferred: K behaviors a user, ABSENT where nothing was left to choose."""

    rows: Tensor  # (B, K)
    confidences: Tensor  # (B, K) probability in the round that chose it
    slots: Tensor  # (B, K) which slot it was put into
    latent: Tensor  # (B, d) hidden state of the first slot before anything was unmasked
    rounds: Tensor  # (B,) how many it took


def denoise(
    model: Denoiser,
    canvas: Canvas,
    token_table: TokenTable,
    allowed: Tensor,
    slots: Slots,
    sampling: Sampling,
    noise: Tensor | None = None,
) -> Draw:
    """Infer behaviors for the slots of a canvas, out of `allowed` (B, N) items, each at most once a user.

    In each round the network reads the canvas with what has been unmasked and one mask for each slot, and the most
    confident items are unmasked. `noise` (B, Q, N) are Gumbel draws, needed where the temperature is above 0. A user's
    result depends on its own rows alone.
    """
    batch, count = len(allowed), sampling.behaviors
    rows = allowed.new_full((batch, count), ABSENT, dtype=torch.long)
    at = torch.zeros_like(rows)
    confidences = torch.zeros(batch, count, device=rows.device)
    filled = rows.new_zeros(batch)
    rounds = torch.zeros_like(filled)
    available, room = allowed.clone(), slots.capacity.clone()
    latent, before = None, None
    for step in range(1, sampling.steps + 1):
        known = round(count * (step - 1) / sampling.steps)  # places; whoever has more is done
        held_at = at[:, :known]
        written = canvas.followed_by(
            token_table.to_tokens(rows[:, :known]), slots.positions.gather(1, held_at), slots.gaps.gather(1, held_at)
        )
        states, scores = _score(model, written, token_table, available, slots, count)  # (B, Q, d), (B, Q, N)
        latent = states[:, 0] if latent is None else latent
        p = torch.softmax(scores, dim=-1).nan_to_num()  # (B, Q, N)
        quota = torch.full_like(filled, round(count * step / sampling.steps)) - filled
        if before is not None and sampling.tolerance:
            quota = torch.where(_moved(before, p, available) <= sampling.tolerance, count - filled, quota)
        rounds += filled < count
        before = p
        ranked = scores if noise is None else scores + sampling.temperature * noise
        items, chosen, taken = _pick(ranked.masked_fill(p == 0, -torch.inf), count, quota, room)  # (B, M) each
        user, turn = taken.nonzero(as_tuple=True)
        item, slot, place = items[user, turn], chosen[user, turn], filled[user] + turn
        rows[user, place], at[user, place] = item, slot
        confidences[user, place] = p[user, slot, item].float()
        filled += taken.sum(-1)
        room.index_put_((user, slot), torch.full_like(slot, -1), accumulate=True)
        available[user, item] = False
        if bool((filled == count).all()):
            break
    assert latent is not None  # noqa: S101  there is at least one round
    return Draw(rows, confidences, at, latent, rounds)


def _pick(ranked: Tensor, most: int, quota: Tensor, room: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best items over all slots, each once, as many as the user's quota (B,) and the slots' room (B, Q) allow.

    ranked (B, Q, N), −inf where an item is out of the request. Returns items, their slots, and which of the M are taken,
    (B, M) each, best first. Of each slot only its best M items can be among them, M being `most`, whatever the quotas are:
    which of two equals comes first must not hang on other users.
    """
    most = min(most, ranked.shape[-1])
    values, items = ranked.topk(most)  # (B, Q, M)
    turns = torch.arange(most, device=ranked.device)
    if ranked.shape[1] == 1:
        taken = (turns < torch.minimum(quota, room[:, 0]).unsqueeze(-1)) & values[:, 0].isfinite()
        return items[:, 0], torch.zeros_like(items[:, 0]), taken
    everyone, room = torch.arange(len(ranked), device=ranked.device), room.clone()
    picked, slots = items.new_zeros(2, len(ranked), most)
    taken = torch.zeros_like(picked, dtype=torch.bool)
    for turn in range(most):
        values = values.masked_fill((room == 0).unsqueeze(-1), -torch.inf)
        best, place = values.flatten(1).max(-1)  # (B,)
        slots[:, turn] = place // most
        picked[:, turn] = items.flatten(1)[everyone, place]
        taken[:, turn] = (turn < quota) & best.isfinite()
        room[everyone, slots[:, turn]] -= taken[:, turn].long()
        values = values.masked_fill(items == picked[:, turn, None, None], -torch.inf)
    return picked, slots, taken


def _moved(before: Tensor, now: Tensor, available: Tensor) -> Tensor:
    """Greatest total-variation distance (B,) over slots between the last round's probabilities, of what is left, and these."""
    left = before * available.unsqueeze(1)
    left = left / left.sum(-1, keepdim=True).clamp(min=1e-9)
    return 0.5 * (left - now).abs().sum(-1).amax(-1)


def _score(
    model: Denoiser, canvas: Canvas, token_table: TokenTable, available: Tensor, slots: Slots, width: int
) -> tuple[Tensor, Tensor]:
    """Hidden states of the slots (B, Q, d), and scores (B, Q, N) of the items, −inf where an item is not available.

    One pass where the item is the token. Digits are unmasked coarse to fine, a pass each: the `width` best prefixes of
    a semantic ID stand side by side in each slot and see each other. Only prefixes of available items are kept, so an ID
    that does not exist cannot come about. Items that share an ID share its probability.
    """
    batch, queries = slots.positions.shape
    held = canvas.tokens.shape[1]
    mask_only = canvas.tokens.new_full((batch, queries, token_table.digits), MASK)
    states = model.hidden(canvas.followed_by(mask_only, slots.positions, slots.gaps), token_table)[:, held:]  # (B, Q, d)
    if token_table.digits == 1:
        prior = None if canvas.prior is None else canvas.prior.unsqueeze(1)
        logits = model.logits(states, token_table, 0, prior).float()
        return states, logits.masked_fill(~available.unsqueeze(1), -torch.inf)
    hidden = states.unsqueeze(2)  # (B, Q, W, d)
    prefix = hidden.new_zeros((batch, queries, 1), dtype=torch.long)  # (B, Q, W) of the token_table's tree, its root at first
    score = hidden.new_zeros((batch, queries, 1), dtype=torch.float)
    for digit in range(token_table.digits):
        children = token_table.children[digit][prefix]  # (B, Q, W, V) the longer beginning, −1 where none exists
        exists = token_table.holds(digit, available)  # (B, P)
        open_ = (children >= 0) & exists.gather(1, children.clamp(min=0).flatten(1)).view_as(children)
        logits = model.logits(hidden, token_table, digit, None).float().masked_fill(~open_, -torch.inf)
        joint = score.unsqueeze(-1) + torch.log_softmax(logits, -1).nan_to_num(nan=-torch.inf)  # (B, Q, W, V)
        score, best = joint.flatten(2).topk(min(width, joint[0, 0].numel()))  # (B, Q, W')
        prefix = children.flatten(2).gather(2, best).clamp(min=0)
        if digit + 1 < token_table.digits:
            tokens = token_table.prefixes(digit, prefix)  # (B, Q, W', D) the rest masked
            each = prefix.shape[-1]
            positions, gaps = (part.repeat_interleave(each, dim=1) for part in (slots.positions, slots.gaps))
            written = canvas.followed_by(tokens.flatten(1, 2), positions, gaps)
            hidden = model.hidden(written, token_table)[:, held:].view(batch, queries, each, -1)
    ids = torch.full((batch, queries, token_table.children_count), -torch.inf, device=score.device)
    ids.scatter_reduce_(2, prefix, score, "amax")
    scores = ids[:, :, token_table.leaf] - torch.log(token_table.sharing(available)).unsqueeze(1)  # (B, Q, N)
    return states, scores.masked_fill(~available.unsqueeze(1), -torch.inf)

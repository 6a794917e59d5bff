"""Masked diffusion over behaviors, the algorithm on one page: forward process, loss, and the parallel sampler.

After LLaDA (Nie et al. 2025, arXiv 2502.09992): tokens are masked at a rate t, a bidirectional network predicts the masked
ones, and inference unmasks the most confident first. A behavior is D tokens: one, the item itself, or the digits of its
semantic ID. Behaviors of one basket have no order: they share a position, and their masks are interchangeable.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from reaseq.behavior.token_table import ABSENT, MASK, SemanticIdTrie, TokenTable

MIN_MASK_RATE = 0.15  # below it the weight 1/t lets single tokens dominate a step
TO_COME = 0  # gap bucket of a behavior in the future: no time has passed since it


@dataclass(frozen=True)
class Canvas:
    """B users with L behaviors each, any token of which may be masked. A masked behavior does not reveal its type."""

    tokens: Tensor  # (B, L, D) codes of the token table, MASK or ABSENT
    types: Tensor  # (B, L) type of event, 0 where masked or absent
    gaps: Tensor  # (B, L) bucket of the time from the behavior to now
    positions: Tensor  # (B, L) order in the sequence
    months: Tensor  # (B,) month of now, 0…11
    prior: Tensor | None = None  # (B, N) prior of each item, the same for every user: log of its recent sales

    @property
    def present(self) -> Tensor:
        """Which positions hold a behavior, masked or not (B, L)."""
        return (self.tokens != ABSENT).any(-1)

    def with_tokens(self, tokens: Tensor) -> "Canvas":
        """The same positions with other tokens (B, L, D); behaviors with a masked token lose their type."""
        return replace(self, tokens=tokens, types=self.types * (tokens >= 0).all(-1))

    def followed_by(self, tokens: Tensor, positions: Tensor, gaps: Tensor) -> "Canvas":
        """Extended by tokens (B, P, D) of unknown type at positions and gaps (B, P)."""
        return replace(
            self,
            tokens=torch.cat([self.tokens, tokens], dim=1),
            types=torch.cat([self.types, torch.zeros_like(positions)], dim=1),
            gaps=torch.cat([self.gaps, gaps], dim=1),
            positions=torch.cat([self.positions, positions], dim=1),
        )


class Denoiser(Protocol):
    """The network in two parts: encode the canvas, then score the codes of one digit."""

    def hidden(self, canvas: Canvas, token_table: TokenTable) -> Tensor:
        """Hidden states (B, L, d)."""
        ...

    def logits(self, hidden: Tensor, token_table: TokenTable, digit: int, prior: Tensor | None) -> Tensor:
        """Scores (…, V) of a digit's codes for hidden states (…, d); `prior` (…, N) if a code is an item."""
        ...


# ---- training


def draw_rates(tokens: Tensor, maskable: Tensor) -> Tensor:
    """t ~ U(MIN_MASK_RATE, 1) for each row (B, 1) of tokens (B, L, D), and 1 for a row with a single maskable token.

    At a lower rate such a row often has no masked token and teaches nothing; its expected loss, weighted 1/t, is the same.
    """
    t = MIN_MASK_RATE + (1 - MIN_MASK_RATE) * torch.rand(len(tokens), 1, device=tokens.device)
    single = _candidate_mask(tokens, maskable).flatten(1).sum(-1, keepdim=True) == 1
    return torch.where(single, 1.0, t)


def mask(tokens: Tensor, t: Tensor, maskable: Tensor) -> Tensor:
    """The forward process: tokens (B, L, D) with each token at `maskable` (B, L) masked with probability t (B, 1).

    In about half of the rows, the digits of a behavior are masked together, as at the start of inference; in the others,
    independently, as in its later steps. Each token is masked at rate t in both cases.
    """
    draw = torch.rand(tokens.shape, device=tokens.device)
    together = torch.rand(len(tokens), 1, 1, device=tokens.device) < 0.5
    draw = torch.where(together, draw[..., :1], draw)
    mask_index = (draw < t.unsqueeze(-1)) & _candidate_mask(tokens, maskable)
    return torch.where(mask_index, MASK, tokens)


def loss(model: Denoiser, canvas: Canvas, masked: Tensor, t: Tensor, maskable: Tensor, token_table: TokenTable) -> Tensor:
    """Cross-entropy on the masked tokens, each weighted 1/t, per maskable token of its row; the mean over rows.

        L = E_rows [ 1/(t · n) · Σ_masked −log p(token | everything that is not masked) ],   n = maskable tokens

    `masked` (B, L, D) is what `mask` made of the canvas's tokens at rates t (B, 1).
    """
    hidden = model.hidden(canvas.with_tokens(masked), token_table)  # (B, L, d)
    mask_index = (masked == MASK) & (canvas.tokens != MASK)  # (B, L, D)
    candidates = _candidate_mask(canvas.tokens, maskable).flatten(1).sum(-1).clamp(min=1)  # (B,)
    total = hidden.new_zeros(())
    for digit in range(token_table.digits):
        row, position = mask_index[..., digit].nonzero(as_tuple=True)  # (M,) each
        prior = None if canvas.prior is None else canvas.prior[row]
        logits = model.logits(hidden[row, position], token_table, digit, prior).float()  # (M, V)
        nll = torch.nn.functional.cross_entropy(logits, canvas.tokens[row, position, digit], reduction="none")  # (M,)
        total = total + (nll / (t.squeeze(-1) * candidates)[row]).sum()
    return total / len(masked)


def _candidate_mask(tokens: Tensor, maskable: Tensor) -> Tensor:
    """Which tokens may be masked (B, L, D): those of a behavior at a maskable position (B, L)."""
    return maskable.unsqueeze(-1) & (tokens != ABSENT)


# ---- inference


@dataclass(frozen=True)
class Slots:
    """Where to infer behaviors: Q slots per user, each at one time, with room for `capacity` behaviors."""

    positions: Tensor  # (B, Q)
    gaps: Tensor  # (B, Q)
    capacity: Tensor  # (B, Q)


def build_slots(canvas: Canvas, behaviors: int, infilled: int = 0) -> Slots:
    """One slot after the history, and one at the time of each of the latest `infilled` behaviors.

    They have room for `behaviors` in total. If the history is shorter than `infilled`, the excess slots have capacity 0.
    """
    batch, length, _ = canvas.tokens.shape
    after = canvas.positions.new_full((batch, 1), length)
    positions = torch.cat([after, canvas.positions[:, length - infilled :]], dim=1)
    gaps = torch.cat([torch.full_like(after, TO_COME), canvas.gaps[:, length - infilled :]], dim=1)
    capacity = torch.cat([torch.full_like(after, behaviors - infilled), canvas.present[:, length - infilled :].long()], dim=1)
    return Slots(positions, gaps, capacity)


@dataclass(frozen=True)
class Sampling:
    """How to unmask. LLaDA's reference schedule has as many steps as behaviors, and no tolerance."""

    behaviors: int = 16  # to infer for each user
    steps: int = 1  # unmasking steps; each unmasks an equal share of the behaviors
    temperature: float = 0.0  # scale of the Gumbel noise; 0 takes the most confident
    tolerance: float = 0.0  # unmask the rest once at most this much probability moved since the last step


@dataclass(frozen=True)
class Draw:
    """The inferred behaviors, K per user, ABSENT where no item was left to choose."""

    rows: Tensor  # (B, K)
    confidences: Tensor  # (B, K) probability in the step that chose it
    slots: Tensor  # (B, K) the slot it fills
    latent: Tensor  # (B, d) hidden state of the first slot before anything is unmasked
    steps: Tensor  # (B,) how many were needed


def denoise(
    model: Denoiser,
    canvas: Canvas,
    token_table: TokenTable,
    allowed: Tensor,
    slots: Slots,
    sampling: Sampling,
    noise: Tensor | None = None,
) -> Draw:
    """Infer behaviors for the slots of a canvas, out of `allowed` (B, N) items, each at most once per user.

    `noise` (B, Q, N) are Gumbel draws, required if the temperature is above 0. A user's result depends on that user's rows
    alone. Each step:

    1) writes the behaviors unmasked so far and one mask per slot on the canvas,
    2) turns the network's scores into probabilities of the available items,
    3) determines how many behaviors to unmask,
    4) transfers the most confident items from the slots to the result.
    """
    batch, count = len(allowed), sampling.behaviors
    rows = allowed.new_full((batch, count), ABSENT, dtype=torch.long)
    slot_index = torch.zeros_like(rows)
    confidences = torch.zeros(batch, count, device=rows.device)
    filled = rows.new_zeros(batch)
    steps = torch.zeros_like(filled)
    candidate_mask, remaining = allowed.clone(), slots.capacity.clone()  # (B, N), (B, Q)
    latent, previous = None, None
    for step in range(1, sampling.steps + 1):
        known = round(count * (step - 1) / sampling.steps)  # users with more than this are done
        at = slot_index[:, :known]
        written = canvas.followed_by(
            token_table.to_tokens(rows[:, :known]), slots.positions.gather(1, at), slots.gaps.gather(1, at)
        )
        hidden, scores = _score(model, written, token_table, candidate_mask, slots, count)  # (B, Q, d), (B, Q, N)
        latent = hidden[:, 0] if latent is None else latent
        p = torch.softmax(scores, dim=-1).nan_to_num()  # (B, Q, N)
        num_transfer = torch.full_like(filled, round(count * step / sampling.steps)) - filled
        if previous is not None and sampling.tolerance:
            settled = _moved(previous, p, candidate_mask) <= sampling.tolerance
            num_transfer = torch.where(settled, count - filled, num_transfer)
        steps += filled < count
        previous = p
        noisy = scores if noise is None else scores + sampling.temperature * noise
        items, chosen, transfer_index = _select(noisy.masked_fill(p == 0, -torch.inf), count, num_transfer, remaining)
        user, rank = transfer_index.nonzero(as_tuple=True)
        item, slot, column = items[user, rank], chosen[user, rank], filled[user] + rank
        rows[user, column], slot_index[user, column] = item, slot
        confidences[user, column] = p[user, slot, item].float()
        filled += transfer_index.sum(-1)
        remaining.index_put_((user, slot), torch.full_like(slot, -1), accumulate=True)
        candidate_mask[user, item] = False
        if bool((filled == count).all()):
            break
    assert latent is not None  # noqa: S101  there is at least one step
    return Draw(rows, confidences, slot_index, latent, steps)


def _select(scores: Tensor, limit: int, num_transfer: Tensor, remaining: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best items over all slots, each once: `num_transfer` (B,) per user and `remaining` (B, Q) per slot at most.

    `scores` (B, Q, N) are −inf for items that cannot be chosen. Returns items, their slots, and the transfer index (B, M) bool
    of those to unmask, best first; M is `limit`, or N if that is less. The best M items of each slot are considered
    even for a user with fewer to transfer, so that tie-breaking does not depend on other users.
    """
    limit = min(limit, scores.shape[-1])
    values, items = scores.topk(limit)  # (B, Q, M)
    ranks = torch.arange(limit, device=scores.device)
    if scores.shape[1] == 1:
        count = torch.minimum(num_transfer, remaining[:, 0])
        return items[:, 0], torch.zeros_like(items[:, 0]), (ranks < count.unsqueeze(-1)) & values[:, 0].isfinite()
    users, remaining = torch.arange(len(scores), device=scores.device), remaining.clone()
    picked, slots = items.new_zeros(2, len(scores), limit)
    transfer_index = torch.zeros_like(picked, dtype=torch.bool)
    for rank in range(limit):
        values = values.masked_fill((remaining == 0).unsqueeze(-1), -torch.inf)
        best, flat_index = values.flatten(1).max(-1)  # (B,)
        slots[:, rank] = flat_index // limit
        picked[:, rank] = items.flatten(1)[users, flat_index]
        transfer_index[:, rank] = (rank < num_transfer) & best.isfinite()
        remaining[users, slots[:, rank]] -= transfer_index[:, rank].long()
        values = values.masked_fill(items == picked[:, rank, None, None], -torch.inf)
    return picked, slots, transfer_index


def _moved(previous: Tensor, p: Tensor, candidate_mask: Tensor) -> Tensor:
    """How much probability moved since the last step (B,): the largest total-variation distance over the slots.

    The previous probabilities are renormalized over the items that are still candidates.
    """
    left = previous * candidate_mask.unsqueeze(1)
    left = left / left.sum(-1, keepdim=True).clamp(min=1e-9)
    return 0.5 * (left - p).abs().sum(-1).amax(-1)


def _score(
    model: Denoiser, canvas: Canvas, token_table: TokenTable, candidate_mask: Tensor, slots: Slots, width: int
) -> tuple[Tensor, Tensor]:
    """Hidden states of the slots (B, Q, d), and scores (B, Q, N) of the items, −inf for those that are not candidates."""
    batch, queries = slots.positions.shape
    length = canvas.tokens.shape[1]
    masks = canvas.tokens.new_full((batch, queries, token_table.digits), MASK)
    hidden = model.hidden(canvas.followed_by(masks, slots.positions, slots.gaps), token_table)[:, length:]  # (B, Q, d)
    if token_table.trie is None:
        prior = None if canvas.prior is None else canvas.prior.unsqueeze(1)
        scores = model.logits(hidden, token_table, 0, prior).float()
    else:
        scores = _beam_search(model, canvas, token_table, token_table.trie, candidate_mask, slots, width, hidden)
    return hidden, scores.masked_fill(~candidate_mask.unsqueeze(1), -torch.inf)


def _beam_search(
    model: Denoiser,
    canvas: Canvas,
    token_table: TokenTable,
    trie: SemanticIdTrie,
    candidate_mask: Tensor,
    slots: Slots,
    width: int,
    hidden: Tensor,
) -> Tensor:
    """Scores (B, Q, N) of items by the digits of their semantic IDs, for hidden states (B, Q, d) of the masked slots.

    Digits are unmasked coarse to fine, one pass each: a slot holds its `width` best prefixes side by side, and they attend to
    each other. Only prefixes of candidate items are kept, so an ID that does not exist cannot be inferred. Items that share an
    ID share its probability.
    """
    batch, queries, _ = hidden.shape
    length = canvas.tokens.shape[1]
    beam = hidden.unsqueeze(2)  # (B, Q, W, d)
    prefix = beam.new_zeros((batch, queries, 1), dtype=torch.long)  # (B, Q, W), the root of the trie at first
    score = beam.new_zeros((batch, queries, 1), dtype=torch.float)
    for digit in range(token_table.digits):
        children = trie.children[digit][prefix]  # (B, Q, W, V) the extended prefix, −1 if it does not exist
        available = trie.has_available(digit, candidate_mask)  # (B, P)
        possible = (children >= 0) & available.gather(1, children.clamp(min=0).flatten(1)).view_as(children)
        logits = model.logits(beam, token_table, digit, None).float().masked_fill(~possible, -torch.inf)
        joint = score.unsqueeze(-1) + torch.log_softmax(logits, -1).nan_to_num(nan=-torch.inf)  # (B, Q, W, V)
        score, best = joint.flatten(2).topk(min(width, joint[0, 0].numel()))  # (B, Q, W')
        prefix = children.flatten(2).gather(2, best).clamp(min=0)
        if digit + 1 < token_table.digits:
            tokens = trie.prefixes[digit][prefix]  # (B, Q, W', D) the rest masked
            beams = prefix.shape[-1]
            positions, gaps = (part.repeat_interleave(beams, dim=1) for part in (slots.positions, slots.gaps))
            written = canvas.followed_by(tokens.flatten(1, 2), positions, gaps)
            beam = model.hidden(written, token_table)[:, length:].view(batch, queries, beams, -1)
    by_id = torch.full((batch, queries, trie.leaves), -torch.inf, device=score.device)
    by_id.scatter_reduce_(2, prefix, score, "amax")
    return by_id[:, :, trie.leaf] - torch.log(trie.count_sharing(candidate_mask)).unsqueeze(1)

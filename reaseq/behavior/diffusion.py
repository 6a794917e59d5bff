"""Masked diffusion over behaviours, the algorithm on one page: noise, loss, and parallel denoising.

Follows the supervised objective of LLaDA (Nie et al. 2025, arXiv 2502.09992, algorithm 2): the history is the prompt and
stays visible, the behaviours to come are the response. A token is an item; behaviours of one basket have no order, so all
places of the response are exchangeable: they share one position and, while masked, one embedding.
"""

from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from reaseq.behavior.sequence import Sequences

MIN_MASK_RATE = 0.15  # below it the weight 1/t lets single tokens dominate a step
MASK = -1  # stands where a response token is masked
ABSENT = -2  # stands where a response is shorter than its tensor


Items = tuple[Tensor, Tensor]  # embeddings (N, d) and output biases (N,)


class Denoiser(Protocol):
    """The network, in its two halves: reading the sequence, and scoring items for a place of the response."""

    def hidden(self, history: Sequences, response: Tensor, items: Items) -> Tensor:
        """Hidden states (B, K, d) of the response (B, K) after the history (B, H)."""
        ...

    def logits(self, hidden: Tensor, items: Items) -> Tensor:
        """Scores (…, N) of every item for hidden states (…, d)."""
        ...


def mask(response: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """The forward process: draw t ~ U(MIN_MASK_RATE, 1) per row and mask each token with probability t.

    Takes response rows (B, K); returns the masked response (B, K) and t (B, 1).
    """
    draw = torch.rand(response.shape[0], 1, generator=generator)
    t = MIN_MASK_RATE + (1 - MIN_MASK_RATE) * draw
    hit = torch.rand(response.shape, generator=generator) < t
    return torch.where(hit & (response != ABSENT), MASK, response), t


def loss(model: Denoiser, history: Sequences, response: Tensor, items: Items, masked: Tensor, t: Tensor) -> Tensor:
    """Cross-entropy on the masked tokens, each weighted 1/t, per token of the response.

        L = E_t [ 1/t · Σ_masked −log p(token | history, masked response) ] / (number of response tokens)

    response and masked (B, K); t (B, 1). Only masked places are scored: the others add nothing, and scoring is dear.
    """
    hit = masked == MASK  # (B, K)
    logits = model.logits(model.hidden(history, masked, items)[hit], items)  # (M, N)
    nll = torch.nn.functional.cross_entropy(logits, response[hit], reduction="none")  # (M,)
    weights = 1 / t.expand_as(hit)[hit]  # (M,)
    return (weights * nll).sum() / (response != ABSENT).sum().clamp(min=1)


def denoise(
    model: Denoiser, history: Sequences, items: Items, allowed: Tensor, places: int, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Infer `places` behaviours after the history, the most confident first, a few in each of `steps` forward passes.

    `allowed` (B, N) says which items a user may be given; an item is given once. Masked places are exchangeable, so the
    last one speaks for all. Returns rows (B, places), confidences (B, places) as the probability at the step that chose
    the item (0 where nothing was left to choose), and the hidden state (B, d) of a masked place before any was filled.
    """
    batch = history.rows.shape[0]
    response = torch.full((batch, places), MASK)
    confidences = torch.zeros(batch, places)
    open_items = allowed.clone()
    latent = None
    bounds = [round(places * step / steps) for step in range(steps + 1)]
    for start, end in pairwise(bounds):
        hidden = model.hidden(history, response, items)[:, -1]  # (B, d)
        latent = hidden if latent is None else latent
        logits = model.logits(hidden, items).masked_fill(~open_items, -torch.inf)
        p = torch.softmax(logits, dim=-1).nan_to_num()  # (B, N)
        chosen_p, chosen = p.topk(end - start, dim=-1)  # (B, end - start)
        response[:, start:end] = chosen
        confidences[:, start:end] = chosen_p
        open_items.scatter_(1, chosen, False)
    assert latent is not None  # noqa: S101  there is at least one step
    return response, confidences, latent

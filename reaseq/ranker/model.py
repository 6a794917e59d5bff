"""The ranker: target attention over a user's real and inferred behaviours, by id and by meaning.

The history is encoded once per user, candidates are the queries; so hundreds of candidates cost one forward pass.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reaseq.behavior.sequence import GAP_BUCKETS, TYPES, Sequences, month_of
from reaseq.representation.item_table import Snapshot

TIERS = 8  # of cosine similarity, from 0 to 1
COUNTS = 3  # in all, last 7 days, last 30 days
SIDE = COUNTS + 2  # and price, times in the history


@dataclass(frozen=True)
class RankerConfig:
    """Sizes, and which features the model reads beside ids and context."""

    vector_dim: int = 384
    claims: int = 1
    items: int = 1
    width: int = 48
    hidden: int = 96
    history: int = 64
    inferred: int = 16
    id_dropout: float = 0.2
    semantic: bool = True  # content vectors, claims and their similarities
    reads_inferred: bool = True  # inferred behaviours
    scores: int = 0  # what other models say of each candidate


@dataclass(frozen=True)
class Request:
    """B users with C candidates each."""

    history: Sequences  # (B, H)
    inferred: Tensor  # (B, K) rows
    confidences: Tensor  # (B, K)
    candidates: Tensor  # (B, C) rows
    counts: Tensor  # (B, C, COUNTS)
    now_ms: Tensor  # (B,)
    scores: Tensor | None = None  # (B, C, scores)

    def __getitem__(self, places: Tensor) -> "Request":
        return Request(
            history=self.history[places],
            inferred=self.inferred[places],
            confidences=self.confidences[places],
            candidates=self.candidates[places],
            counts=self.counts[places],
            now_ms=self.now_ms[places],
            scores=None if self.scores is None else self.scores[places],
        )


@dataclass(frozen=True)
class Embedded:
    """The item table as the model sees it: computed once a snapshot."""

    table: Snapshot
    ids: Tensor  # (N, d)
    meanings: Tensor  # (N, d)


class Ranker(nn.Module):
    """Scores candidates; greater is better. A score orders the candidates of one request, it is no probability."""

    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.ids = nn.Embedding(config.items, width, padding_idx=0)
        self.unknown = nn.Parameter(torch.zeros(width))
        self.types = nn.Embedding(TYPES, width)
        self.gaps = nn.Embedding(GAP_BUCKETS + 1, width)
        self.repeat = nn.Embedding(GAP_BUCKETS + 1, 8)
        self.months = nn.Embedding(12, width)
        self.id_attention = TargetAttention(width)
        features = 2 * width + 8 + SIDE + config.scores
        if config.semantic:
            self.content = nn.Linear(config.vector_dim, width)
            self.claims = nn.EmbeddingBag(config.claims, width, mode="sum", padding_idx=0)
            self.meaning_attention = TargetAttention(width)
            features += 2 * width + TIERS + 3
        if config.reads_inferred:
            self.inferred_attention = TargetAttention(width)
            features += width + 2 + (2 if config.semantic else 0)
        self.head = nn.Sequential(nn.Linear(features, config.hidden), nn.SiLU(), nn.Dropout(0.1), nn.Linear(config.hidden, 1))
        for table in (self.ids, self.types, self.gaps, self.months):
            nn.init.normal_(table.weight, std=0.05)

    def embed(self, table: Snapshot, numbers: Tensor) -> Embedded:
        """Every row of the table as the model sees it; `numbers` (N,) are the rows' trained ids, 0 where unknown."""
        if self.training:
            numbers = numbers * (torch.rand(numbers.shape, device=numbers.device) >= self.config.id_dropout)
        ids = torch.where((numbers > 0).unsqueeze(-1), self.ids(numbers), self.unknown)
        if not self.config.semantic:
            return Embedded(table, ids, ids)
        claims = self.claims(table.claims, per_sample_weights=table.claim_shares)  # (N, d)
        return Embedded(table, ids, self.content(table.vectors) + claims)

    def forward(self, request: Request, items: Embedded) -> Tensor:
        """Scores (B, C)."""
        history, candidates = request.history, request.candidates
        known = history.rows > 0  # (B, H)
        when = self.types(history.types) + self.gaps(history.gaps)  # (B, H, d)
        ids = items.ids[candidates]  # (B, C, d)
        attended = self.id_attention(ids, items.ids[history.rows] + when, known.float())
        same = (candidates.unsqueeze(-1) == history.rows.unsqueeze(1)) & known.unsqueeze(1)  # (B, C, H)
        features = [ids, attended, self._repeats(history, same), self._side(request, items.table, same)]
        if request.scores is not None:
            features.append(request.scores)
        if self.config.semantic:
            features += self._by_meaning(request, items, known, when)
        if self.config.reads_inferred:
            features += self._by_inferred(request, items)
        return self.head(torch.cat(features, dim=-1)).squeeze(-1)  # type: ignore[no-any-return]

    def _repeats(self, history: Sequences, same: Tensor) -> Tensor:
        """How long ago the candidate was last taken (B, C, 8)."""
        latest = torch.where(same, history.gaps.unsqueeze(1), GAP_BUCKETS).amin(-1)  # (B, C)
        return self.repeat(latest)  # type: ignore[no-any-return]

    def _side(self, request: Request, table: Snapshot, same: Tensor) -> Tensor:
        """Recent popularity, price and repeats (B, C, SIDE)."""
        columns = [table.prices[request.candidates].clamp(min=0), same.sum(-1).float()]
        return torch.log1p(torch.cat([request.counts, torch.stack(columns, dim=-1)], dim=-1))

    def _by_meaning(self, request: Request, items: Embedded, known: Tensor, when: Tensor) -> list[Tensor]:
        history, candidates = request.history, request.candidates
        meaning = items.meanings[candidates]  # (B, C, d)
        attended = self.meaning_attention(meaning, items.meanings[history.rows] + when, known.float())
        cosine = _cosine(items.table, candidates, history.rows)  # (B, C, H)
        season = (meaning * self.months(month_of(request.now_ms)).unsqueeze(1)).sum(-1, keepdim=True)
        return [meaning, attended, _tiers(cosine, known), season]

    def _by_inferred(self, request: Request, items: Embedded) -> list[Tensor]:
        """The same over inferred behaviours, gated by their confidence."""
        candidates, inferred, confidences = request.candidates, request.inferred, request.confidences
        keys = items.meanings[inferred]  # (B, K, d)
        attended = self.inferred_attention(items.meanings[candidates], keys, confidences)
        same = candidates.unsqueeze(-1) == inferred.unsqueeze(1)  # (B, C, K)
        own = (same * confidences.unsqueeze(1)).sum(-1, keepdim=True)  # (B, C, 1)
        features = [attended, own.sqrt(), torch.log(own + 1e-4) / 10]
        if self.config.semantic:
            cosine = _cosine(items.table, candidates, inferred)  # (B, C, K)
            share = confidences / confidences.sum(-1, keepdim=True).clamp(min=1e-6)
            features += [cosine.amax(-1, keepdim=True), (cosine * share.unsqueeze(1)).sum(-1, keepdim=True)]
        return features


class TargetAttention(nn.Module):
    """Candidates (B, C, d) attend over a sequence (B, L, d), each place weighted by its gate (B, L) in [0, 1]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)

    def forward(self, candidates: Tensor, sequence: Tensor, gate: Tensor) -> Tensor:
        """What the sequence says of each candidate (B, C, d). A gate of 0 hides a place; all hidden gives zeros."""
        scores = self.query(candidates) @ self.key(sequence).transpose(1, 2) / candidates.shape[-1] ** 0.5  # (B, C, L)
        opened = torch.log(gate).masked_fill(gate == 0, torch.finfo(gate.dtype).min)  # (B, L)
        weights = torch.softmax(scores + opened.unsqueeze(1), dim=-1)
        told = gate.amax(-1).gt(0)[:, None, None]
        return weights @ self.value(sequence) * told  # type: ignore[no-any-return]


def _cosine(table: Snapshot, candidates: Tensor, rows: Tensor) -> Tensor:
    """Cosine (B, C, L) of candidates (B, C) and a sequence (B, L)."""
    return table.vectors[candidates] @ table.vectors[rows].transpose(1, 2)


def _tiers(cosine: Tensor, known: Tensor) -> Tensor:
    """SimTier: the histogram of similarities to the history, log-counted, with mean and maximum (B, C, TIERS + 2)."""
    hidden = ~known.unsqueeze(1)
    edges = torch.linspace(0, 1, TIERS + 1, device=cosine.device)[1:-1].contiguous()
    tier = torch.bucketize(cosine.contiguous(), edges).masked_fill(hidden, TIERS)  # (B, C, L)
    counts = torch.zeros(*cosine.shape[:2], TIERS + 1, device=cosine.device)
    counts.scatter_add_(-1, tier, torch.ones_like(cosine))
    shown = cosine.masked_fill(hidden, 0.0)
    mean = shown.sum(-1) / known.sum(-1).clamp(min=1).unsqueeze(1)
    return torch.cat([torch.log1p(counts[..., :TIERS]), torch.stack([mean, shown.amax(-1)], dim=-1)], dim=-1)

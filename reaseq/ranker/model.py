"""The ranker: target attention over a user's real and inferred behaviors, by id and by meaning.

The history is encoded once per user, candidates are the queries; so hundreds of candidates cost one forward pass.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reaseq.behavior.sequence import GAP_BUCKETS, TYPES, Sequences, to_month, to_weekday
from reaseq.ranker.popularity import HALF_LIVES_DAYS
from reaseq.representation.contents import Contents

TIERS = 8  # of cosine similarity, from 0 to 1
COUNTS = len(HALF_LIVES_DAYS)
REPEAT_WIDTH = 8
DOUBT = 0.02  # how sure an inferred behavior must be to count as much as nothing does
CLAIM_FLOOR = 0.01  # share of a history that a claim has for nothing


@dataclass(frozen=True)
class RankerConfig:
    """Sizes, which are also switches: a size of nothing leaves the feature out.

    `search`: of a longer history than that, each candidate attends to so many behaviors, those most like it.
    """

    vector_dim: int = 384  # of the content vectors; 0: none
    claims: int = 1  # ids of shared claims with 0 for padding; 1: none
    items: int = 1  # ids that training knew, with 0 for all others
    width: int = 48
    hidden: int = 96
    history: int = 128  # behaviors
    inferred: int = 16  # inferred behaviors; 0: none
    scores: int = 0  # what other models say of each candidate
    search: int = 0  # 0: attend to the whole history
    price: bool = True
    id_dropout: float = 0.2  # share of items trained as if unknown, so that an unseen item is not a random one


@dataclass(frozen=True)
class RankerBatch:
    """B users with C candidates each."""

    history: Sequences  # (B, H)
    inferred: Tensor  # (B, K) rows
    confidences: Tensor  # (B, K)
    candidates: Tensor  # (B, C) rows
    counts: Tensor  # (B, C, COUNTS)
    now_ms: Tensor  # (B,)
    scores: Tensor  # (B, C, scores)

    def __getitem__(self, places: Tensor) -> "RankerBatch":
        return RankerBatch(
            history=self.history[places],
            inferred=self.inferred[places],
            confidences=self.confidences[places],
            candidates=self.candidates[places],
            counts=self.counts[places],
            now_ms=self.now_ms[places],
            scores=self.scores[places],
        )

    def to(self, device: torch.device) -> "RankerBatch":
        """The same on a device."""
        return RankerBatch(
            history=self.history.to(device),
            inferred=self.inferred.to(device),
            confidences=self.confidences.to(device),
            candidates=self.candidates.to(device),
            counts=self.counts.to(device),
            now_ms=self.now_ms.to(device),
            scores=self.scores.to(device),
        )


@dataclass(frozen=True)
class Embedded:
    """The item table as the model sees it. Rows point to slots, which hold what items are."""

    slots: Tensor  # (N,)
    prices: Tensor  # (N,)
    contents: Contents  # (S, …)
    ids: Tensor  # (S, d)
    content_embeddings: Tensor  # (S, d)


class Ranker(nn.Module):
    """Scores candidates; greater is better. `probability` says what a score means."""

    calibration: Tensor
    claim_rates: Tensor

    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.ids = nn.Embedding(config.items, width, padding_idx=0)
        self.unknown = nn.Parameter(torch.zeros(width))
        self.types = nn.Embedding(TYPES, width)
        self.gaps = nn.Embedding(GAP_BUCKETS + 1, width)
        self.repeat = nn.Embedding(GAP_BUCKETS + 1, REPEAT_WIDTH)
        self.months = nn.Embedding(12, width)
        self.weekdays = nn.Embedding(7, width)
        self.id_attention = TargetAttention(width)
        features = 2 * width + REPEAT_WIDTH + COUNTS + 1 + config.price + 1 + config.scores
        if config.vector_dim:
            self.content = nn.Linear(config.vector_dim, width)
            features += TIERS + 2
        if config.claims > 1:
            self.claims = nn.EmbeddingBag(config.claims, width, mode="sum", padding_idx=0)
            nn.init.normal_(self.claims.weight, std=0.05)
            self.claim_weights = nn.Embedding(config.claims, 1, padding_idx=0)
            nn.init.zeros_(self.claim_weights.weight)
            features += 3
        if self._has_content:
            self.content_attention = TargetAttention(width)
            features += 2 * width
        if config.inferred:
            self.inferred_attention = TargetAttention(width, doubt=DOUBT)
            features += width + 2 + (TIERS + 2 if config.vector_dim else 0)
        self.head = nn.Sequential(nn.Linear(features, config.hidden), nn.SiLU(), nn.Dropout(0.1), nn.Linear(config.hidden, 1))
        self.register_buffer("claim_rates", torch.zeros(config.claims))  # share of the catalog that bears each claim
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))  # see `reaseq.behavior.calibration`
        for table in (self.ids, self.types, self.gaps, self.months, self.weekdays):
            nn.init.normal_(table.weight, std=0.05)

    @property
    def _has_content(self) -> bool:
        return self.config.vector_dim > 0 or self.config.claims > 1

    def embed(self, contents: Contents, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Slots as the model sees them, by id (S, d) and by meaning (S, d); `numbers` (S,) are trained ids, 0 where unknown.

        Without content and claims an item means its id.
        """
        if self.training:
            numbers = numbers * (torch.rand(numbers.shape, device=numbers.device) >= self.config.id_dropout)
        ids = torch.where((numbers > 0).unsqueeze(-1), self.ids(numbers), self.unknown)
        if not self._has_content:
            return ids, ids
        content_embeddings = torch.zeros_like(ids)
        if self.config.vector_dim:
            content_embeddings = content_embeddings + self.content(contents.vectors)
        if self.config.claims > 1:
            content_embeddings = content_embeddings + self.claims(
                contents.claims, per_sample_weights=F.normalize(contents.confidences, dim=-1)
            )
        return ids, content_embeddings

    def forward(self, batch: RankerBatch, items: Embedded) -> Tensor:
        """Scores (B, C)."""
        history = batch.history
        known = (history.rows > 0).float()  # (B, H)
        slots, past = items.slots[batch.candidates], items.slots[history.rows]  # (B, C), (B, H)
        when = self.types(history.types) + self.gaps(history.gaps)  # (B, H, d)
        same = (batch.candidates.unsqueeze(-1) == history.rows.unsqueeze(1)) * known.unsqueeze(1)  # (B, C, H)
        cosine = _cosine(items, slots, past) if self.config.vector_dim else None  # (B, C, H)
        places = self._search(cosine, known)
        ids, content_embeddings = F.embedding(slots, items.ids), F.embedding(slots, items.content_embeddings)  # (B, C, d)
        features = [ids, self.id_attention(ids, F.embedding(past, items.ids) + when, known, places)]
        features += [self._repeats(history, same), self._side(batch, items, same), batch.scores]
        features.append(self._calendar(batch.now_ms, content_embeddings))
        if self._has_content:
            features += [
                content_embeddings,
                self.content_attention(content_embeddings, F.embedding(past, items.content_embeddings) + when, known, places),
            ]
        if self.config.claims > 1:
            features.append(self._by_claims(history, items, slots, past))
        if cosine is not None:
            tiers, summary = _similarity(cosine, known)
            features += [torch.log1p(tiers), summary]
        if self.config.inferred:
            features += self._by_inferred(batch, items, slots, content_embeddings)
        return self.head(torch.cat(features, dim=-1)).squeeze(-1)  # type: ignore[no-any-return]

    def probability(self, scores: Tensor) -> Tensor:
        """How probable it is that the user's next basket holds the candidate, for scores of any shape."""
        return torch.sigmoid(self.calibration[0] * scores + self.calibration[1])

    def _search(self, cosine: Tensor | None, known: Tensor) -> Tensor | None:
        """The places (B, C, s) of the behaviors most like each candidate; None where all are attended to."""
        if cosine is None or not 0 < self.config.search < known.shape[1]:
            return None
        return cosine.masked_fill(known.unsqueeze(1) == 0, -2.0).topk(self.config.search, dim=-1).indices

    def _repeats(self, history: Sequences, same: Tensor) -> Tensor:
        """How long ago the candidate was last taken (B, C, 8)."""
        latest = torch.where(same > 0, history.gaps.unsqueeze(1), GAP_BUCKETS).amin(-1)  # (B, C)
        return self.repeat(latest)  # type: ignore[no-any-return]

    def _side(self, batch: RankerBatch, items: Embedded, same: Tensor) -> Tensor:
        """Recent popularity, repeats and price (B, C, …)."""
        columns = [batch.counts, same.sum(-1, keepdim=True)]
        if self.config.price:
            columns.append(items.prices[batch.candidates].clamp(min=0).unsqueeze(-1))
        return torch.log1p(torch.cat(columns, dim=-1))

    def _calendar(self, now_ms: Tensor, content_embeddings: Tensor) -> Tensor:
        """How well the candidate goes with the month and the day of the week (B, C, 1)."""
        when = self.months(to_month(now_ms)) + self.weekdays(to_weekday(now_ms))  # (B, d)
        return content_embeddings @ when.unsqueeze(-1)  # type: ignore[no-any-return]

    def _by_claims(self, history: Sequences, items: Embedded, slots: Tensor, past: Tensor) -> Tensor:
        """How much more often than the catalog's items those of the history bear what is claimed of the candidate (B, C, 3).

        For each claim v: log( (p_v + ε) / (rate_v + ε) ), p_v the share of the history that bears it, recent behaviors
        counting more. Their sum weighted claim by claim, their mean, and the greatest.
        """
        recent = (history.rows > 0) / (1.0 + history.gaps)  # (B, H)
        recent = recent / recent.sum(-1, keepdim=True).clamp(min=1e-6)
        borne = items.contents.claims[past]  # (B, H, K)
        each = (recent.unsqueeze(-1) * (borne > 0)).flatten(1)
        share = each.new_zeros(len(past), self.config.claims).scatter_add(1, borne.flatten(1), each)  # (B, V)
        lift = torch.log((share + CLAIM_FLOOR) / (self.claim_rates + CLAIM_FLOOR)) * (recent.sum(-1, keepdim=True) > 0)
        claimed = items.contents.claims[slots]  # (B, C, K)
        sure = items.contents.confidences[slots]
        of_each = lift.gather(1, claimed.flatten(1)).view(claimed.shape) * (claimed > 0)
        weighted = (of_each * self.claim_weights(claimed).squeeze(-1)).sum(-1)
        mean = (of_each * sure).sum(-1) / sure.sum(-1).clamp(min=1e-6)
        return torch.stack([weighted, mean, of_each.amax(-1)], dim=-1)

    def _by_inferred(self, batch: RankerBatch, items: Embedded, slots: Tensor, content_embeddings: Tensor) -> list[Tensor]:
        """The same over inferred behaviors, gated by their confidence."""
        confidences, inferred = batch.confidences, items.slots[batch.inferred]  # (B, K) each
        attended = self.inferred_attention(content_embeddings, items.content_embeddings[inferred], confidences)
        same = batch.candidates.unsqueeze(-1) == batch.inferred.unsqueeze(1)  # (B, C, K)
        own = (same * confidences.unsqueeze(1)).sum(-1, keepdim=True)  # (B, C, 1)
        features = [attended, own.sqrt(), torch.log(own + 1e-4) / 10]
        if self.config.vector_dim:
            tiers, summary = _similarity(_cosine(items, slots, inferred), confidences)
            sure = confidences.sum(-1) / (confidences.sum(-1) + DOUBT)  # (B,)
            features += [tiers.sqrt(), summary * sure[:, None, None]]
        return features


class TargetAttention(nn.Module):
    """Candidates (B, C, d) attend over a sequence (B, L, d), each place weighted by its gate (B, L) in [0, 1].

    With `doubt`, nothing at all is one more place, of that gate to begin with: the less the places are sure, the less is said.
    """

    def __init__(self, width: int, doubt: float = 0.0) -> None:
        super().__init__()
        self.doubt = nn.Parameter(torch.tensor(doubt).log()) if doubt else None
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)

    def forward(self, candidates: Tensor, sequence: Tensor, gate: Tensor, places: Tensor | None = None) -> Tensor:
        """What the sequence says of each candidate (B, C, d). A gate of 0 hides a place; all hidden gives zeros.

        With `places` (B, C, s), each candidate attends to those alone.
        """
        scores = self.query(candidates) @ self.key(sequence).transpose(1, 2) / candidates.shape[-1] ** 0.5  # (B, C, L)
        opened = torch.log(gate).masked_fill(gate == 0, torch.finfo(gate.dtype).min)  # (B, L)
        scores = scores + opened.unsqueeze(1)
        if places is not None:
            found = torch.full_like(scores, torch.finfo(scores.dtype).min)
            scores = found.scatter(-1, places, scores.gather(-1, places))
        if self.doubt is not None:
            scores = torch.cat([scores, self.doubt.expand(*scores.shape[:2], 1)], dim=-1)
        told = gate.amax(-1).gt(0)[:, None, None]
        weights = torch.softmax(scores, dim=-1)[..., : sequence.shape[1]]
        return weights @ self.value(sequence) * told  # type: ignore[no-any-return]


def _cosine(items: Embedded, slots: Tensor, others: Tensor) -> Tensor:
    """Cosine (B, C, L) of candidates (B, C) and a sequence (B, L)."""
    vectors = items.contents.vectors
    return F.embedding(slots, vectors) @ F.embedding(others, vectors).transpose(1, 2)


def _similarity(cosine: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """SimTier: the histogram (B, C, TIERS) of similarities (B, C, L), each weighing its gate (B, L); mean and maximum."""
    weights = gate.unsqueeze(1).expand_as(cosine)  # (B, C, L)
    tier = (cosine * TIERS).long().clamp(0, TIERS - 1)
    counts = cosine.new_zeros(*cosine.shape[:2], TIERS).scatter_add(-1, tier, weights)
    total = gate.sum(-1).clamp(min=1e-6)[:, None, None]
    mean = (cosine * weights).sum(-1, keepdim=True) / total
    return counts, torch.cat([mean, (cosine * (weights > 0)).amax(-1, keepdim=True)], dim=-1)

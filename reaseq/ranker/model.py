"""The ranker: target attention over a user's real and inferred behaviors, by id and by content.

The history is encoded once per user and the candidates are the queries, so hundreds of candidates cost one forward pass.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reaseq.behavior.sequence import GAP_BUCKETS, TYPES, Sequences, to_month, to_weekday
from reaseq.declaration import Field
from reaseq.ranker.matching import TIERS, cosines, lifts, similarity_tiers
from reaseq.ranker.number_encoding import NumberEncoding
from reaseq.ranker.numbers import NUMBERS, OWN_ITEMS, PRICE
from reaseq.representation.attributes import code_fields, field_columns, number_fields
from reaseq.representation.contents import Contents

NUMBER_BINS = 12  # quantile bins of each number
NULL_PRIOR = 0.02  # attention prior of the null slot


@dataclass(frozen=True)
class RankerConfig:
    """Sizes of the model, which are also switches: the smallest size turns a feature off.

    With `search`, each candidate attends only to that many behaviors of a longer history, the most similar ones.
    """

    vector_dim: int = 384  # of the content vectors; 0: none
    claims: int = 1  # claim ids of the vocabulary, 0 is padding; 1: none
    items: int = 1  # trained item ids, 0 is every other item
    width: int = 48
    hidden: int = 96
    history: int = 64  # latest behaviors that attention reads
    inferred: int = 16  # inferred behaviors; 0: none
    scores: int = 0  # scores of each candidate by other models
    search: int = 0  # 0: attend to the whole history
    own_items: bool = True
    price: bool = True
    id_dropout: float = 0.2  # share of items trained without their id, so that items without a trained id are embedded sensibly
    attributes: tuple[Field, ...] = ()  # the declared attributes of items that it reads

    @property
    def score_columns(self) -> slice:
        """Where the scores by other models are among the numbers."""
        return slice(NUMBERS, NUMBERS + self.scores)

    @property
    def attribute_columns(self) -> slice:
        """Where the declared numbers are among the numbers."""
        return slice(NUMBERS + self.scores, self.numbers)

    @property
    def numbers(self) -> int:
        """How many numbers it reads of each candidate."""
        return NUMBERS + self.scores + len(number_fields(self.attributes))

    @property
    def codes(self) -> int:
        """How many codes all declared categories have, and 0 for none."""
        return 1 + sum(field.size for field in self.attributes)


@dataclass(frozen=True)
class RankerBatch:
    """The tensors of a batch: B users with C candidates each."""

    history: Sequences  # (B, H)
    inferred: Tensor  # (B, K) rows of inferred behaviors, 0 is padding
    confidences: Tensor  # (B, K) of the inferred behaviors, 0 where padded or unknown
    candidates: Tensor  # (B, C) rows
    numbers: Tensor  # (B, C, config.numbers), NaN where unknown
    now_ms: Tensor  # (B,)

    def __getitem__(self, users: Tensor | slice) -> "RankerBatch":
        return RankerBatch(
            history=self.history[users],
            inferred=self.inferred[users],
            confidences=self.confidences[users],
            candidates=self.candidates[users],
            numbers=self.numbers[users],
            now_ms=self.now_ms[users],
        )

    def to(self, device: torch.device) -> "RankerBatch":
        """A copy on a device."""
        return RankerBatch(
            history=self.history.to(device),
            inferred=self.inferred.to(device),
            confidences=self.confidences.to(device),
            candidates=self.candidates.to(device),
            numbers=self.numbers.to(device),
            now_ms=self.now_ms.to(device),
        )


@dataclass(frozen=True)
class Embedded:
    """The item table with the model's embeddings. Rows point to slots, which hold the contents of items."""

    slots: Tensor  # (N,)
    contents: Contents  # (S, …)
    ids: Tensor  # (S, d) id embeddings
    content_embeddings: Tensor  # (S, d)
    codes: Tensor  # (S, K) codes of the declared categories, each category with a range of its own; 0 is missing


class Ranker(nn.Module):
    """Scores candidates, higher is better; `probability` calibrates the scores."""

    calibration: Tensor
    claim_rates: Tensor
    code_rates: Tensor

    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.ids = nn.Embedding(config.items, width, padding_idx=0)
        self.unknown = nn.Parameter(torch.zeros(width))
        self.types = nn.Embedding(TYPES, width)
        self.gaps = nn.Embedding(GAP_BUCKETS + 1, width)
        self.months = nn.Embedding(12, width)
        self.weekdays = nn.Embedding(7, width)
        self.id_attention = TargetAttention(width)
        self.number_encoding = NumberEncoding(config.numbers, NUMBER_BINS)
        features = 2 * width + self.number_encoding.width + 1
        if config.vector_dim:
            self.content = nn.Linear(config.vector_dim, width)
            features += TIERS + 2
        if config.claims > 1:
            self.claims = nn.EmbeddingBag(config.claims, width, mode="sum", padding_idx=0)
            nn.init.normal_(self.claims.weight, std=0.05)
            self.claim_weights = nn.Embedding(config.claims, 1, padding_idx=0)
            nn.init.zeros_(self.claim_weights.weight)
            features += 3
        if config.codes > 1:
            self.codes = nn.Embedding(config.codes, width, padding_idx=0)
            nn.init.normal_(self.codes.weight[1:], std=0.05)
            self.code_weights = nn.Embedding(config.codes, 1, padding_idx=0)
            nn.init.zeros_(self.code_weights.weight)
            self.register_buffer("code_rates", torch.zeros(config.codes))  # share of the items on sale with each code
            features += 2 * len(code_fields(config.attributes))
        if self._has_content:
            self.content_attention = TargetAttention(width)
            features += 2 * width
        if config.inferred:
            self.inferred_attention = TargetAttention(width, null_prior=NULL_PRIOR)
            features += width + 2 + (TIERS + 2 if config.vector_dim else 0)
        self.head = nn.Sequential(
            nn.Linear(features, config.hidden),
            nn.SiLU(),
            nn.Dropout(0.1),
            nn.Linear(config.hidden, config.hidden // 2),
            nn.SiLU(),
            nn.Dropout(0.1),
            nn.Linear(config.hidden // 2, 1),
        )
        self.register_buffer("claim_rates", torch.zeros(config.claims))  # share of the items on sale with each claim
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))  # see `reaseq.behavior.calibration`
        for table in (self.ids, self.types, self.gaps, self.months, self.weekdays):
            nn.init.normal_(table.weight, std=0.05)

    @property
    def _has_content(self) -> bool:
        return self.config.vector_dim > 0 or self.config.claims > 1 or self.config.codes > 1

    def embed(self, contents: Contents, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Id embeddings (S, d), content embeddings (S, d) and codes (S, K) of slots, whose trained ids are `numbers` (S,).

        Without content, the id embedding is returned as both.
        """
        if self.training:
            numbers = numbers * (torch.rand(numbers.shape, device=numbers.device) >= self.config.id_dropout)
        ids = torch.where((numbers > 0).unsqueeze(-1), self.ids(numbers), self.unknown)
        codes = self.codes_of(contents)
        if not self._has_content:
            return ids, ids, codes
        content_embeddings = torch.zeros_like(ids)
        if self.config.vector_dim:
            content_embeddings = content_embeddings + self.content(contents.vectors)
        if self.config.claims > 1:
            content_embeddings = content_embeddings + self.claims(
                contents.claims, per_sample_weights=F.normalize(contents.confidences, dim=-1)
            )
        if self.config.codes > 1:
            content_embeddings = content_embeddings + self.codes(codes).sum(-2)
        return ids, content_embeddings, codes

    def codes_of(self, contents: Contents) -> Tensor:
        """The codes (S, K) of slots, each category with a range of its own."""
        codes, shift = contents.attributes.select(self.config.attributes).codes, 0
        shifts = []
        for field in code_fields(self.config.attributes):
            shifts += [shift] * field.slots
            shift += field.size
        return torch.where(codes > 0, codes + torch.tensor(shifts, dtype=torch.long, device=codes.device), 0)

    def forward(self, batch: RankerBatch, items: Embedded, hidden: Field | None = None) -> Tensor:
        """Scores (B, C) of the candidates, with the category `hidden` missing from them."""
        history = batch.history
        known = (history.rows > 0).float()  # (B, H)
        slots, history_slots = items.slots[batch.candidates], items.slots[history.rows]  # (B, C), (B, H)
        when = self.types(history.types) + self.gaps(history.gaps)  # (B, H, d)
        cosine = cosines(items.contents, slots, history_slots) if self.config.vector_dim else None  # (B, C, H)
        nearest = self._search(cosine, known)
        ids, content_embeddings = F.embedding(slots, items.ids), F.embedding(slots, items.content_embeddings)  # (B, C, d)
        codes = items.codes[slots]  # (B, C, K)
        if hidden:
            removed = torch.zeros_like(codes)
            columns = field_columns(self.config.attributes, hidden)
            removed[..., columns] = codes[..., columns]
            content_embeddings, codes = content_embeddings - self.codes(removed).sum(-2), codes - removed
        features = [ids, self.id_attention(ids, F.embedding(history_slots, items.ids) + when, known, nearest)]
        features += [self.number_encoding(self._select(batch.numbers)), self._calendar(batch.now_ms, content_embeddings)]
        if self._has_content:
            sequence = F.embedding(history_slots, items.content_embeddings) + when  # (B, H, d)
            features += [content_embeddings, self.content_attention(content_embeddings, sequence, known, nearest)]
        if self.config.claims > 1:
            features.append(self._claim_features(history, items, slots, history_slots))
        if self.config.codes > 1:
            features.append(self._category_features(history, codes, items.codes[history_slots]))
        if cosine is not None:
            tiers, summary = similarity_tiers(cosine, known)
            features += [torch.log1p(tiers), summary]
        if self.config.inferred:
            features += self._inferred_features(batch, items, slots, content_embeddings)
        return self.head(torch.cat(features, dim=-1)).squeeze(-1)  # type: ignore[no-any-return]

    def probability(self, scores: Tensor) -> Tensor:
        """The probability that the user's next basket contains the candidate, for scores of any shape."""
        return torch.sigmoid(self.calibration[0] * scores + self.calibration[1])

    def _search(self, cosine: Tensor | None, known: Tensor) -> Tensor | None:
        """Indices (B, C, s) of the behaviors most similar to each candidate; None to attend to all."""
        if cosine is None or not 0 < self.config.search < self.config.history:
            return None
        return cosine.masked_fill(known.unsqueeze(1) == 0, -2.0).topk(self.config.search, dim=-1).indices

    def _select(self, numbers: Tensor) -> Tensor:
        """The numbers (B, C, F) without those that are turned off."""
        if self.config.own_items and self.config.price:
            return numbers
        numbers = numbers.clone()
        if not self.config.own_items:
            numbers[..., OWN_ITEMS] = torch.nan
        if not self.config.price:
            numbers[..., PRICE] = torch.nan
        return numbers

    def _calendar(self, now_ms: Tensor, content_embeddings: Tensor) -> Tensor:
        """How well the candidate fits the month and the day of the week (B, C, 1)."""
        when = self.months(to_month(now_ms)) + self.weekdays(to_weekday(now_ms))  # (B, d)
        return content_embeddings @ when.unsqueeze(-1)  # type: ignore[no-any-return]

    def _claim_features(self, history: Sequences, items: Embedded, slots: Tensor, history_slots: Tensor) -> Tensor:
        """How much more frequent the candidate's claims are in the history than in the catalog (B, C, 3).

        The features are the sum of the lifts with a learned weight per claim, their mean weighted by the candidate's
        confidences, and their maximum.
        """
        claim_ids, confidence = items.contents.claims[slots], items.contents.confidences[slots]  # (B, C, K)
        claim_lifts = lifts(history, claim_ids, items.contents.claims[history_slots], self.claim_rates)
        weighted = (claim_lifts * self.claim_weights(claim_ids).squeeze(-1)).sum(-1)
        mean = (claim_lifts * confidence).sum(-1) / confidence.sum(-1).clamp(min=1e-6)
        return torch.stack([weighted, mean, claim_lifts.amax(-1)], dim=-1)

    def _category_features(self, history: Sequences, codes: Tensor, history_codes: Tensor) -> Tensor:
        """How much more frequent the candidate's categories are in the history than in the catalog (B, C, 2 · categories).

        The features of a category are the maximum of its lifts, and their sum with a learned weight per code.
        """
        code_lifts = lifts(history, codes, history_codes, self.code_rates)  # (B, C, K)
        weighted = code_lifts * self.code_weights(codes).squeeze(-1)
        fields = self.config.attributes
        columns = [field_columns(fields, field) for field in code_fields(fields)]
        greatest, sums = [code_lifts[..., own].amax(-1) for own in columns], [weighted[..., own].sum(-1) for own in columns]
        return torch.stack([*greatest, *sums], dim=-1)

    def _inferred_features(
        self, batch: RankerBatch, items: Embedded, slots: Tensor, content_embeddings: Tensor
    ) -> list[Tensor]:
        """Attention, match with the candidate and similarity over the inferred behaviors, gated by their confidences."""
        confidences, inferred = batch.confidences, items.slots[batch.inferred]  # (B, K) each
        attended = self.inferred_attention(content_embeddings, items.content_embeddings[inferred], confidences)
        same = batch.candidates.unsqueeze(-1) == batch.inferred.unsqueeze(1)  # (B, C, K)
        own = (same * confidences.unsqueeze(1)).sum(-1, keepdim=True)  # (B, C, 1)
        features = [attended, own.sqrt(), torch.log(own + 1e-4) / 10]
        if self.config.vector_dim:
            tiers, summary = similarity_tiers(cosines(items.contents, slots, inferred), confidences)
            confidence = confidences.sum(-1) / (confidences.sum(-1) + NULL_PRIOR)  # (B,)
            features += [tiers.sqrt(), summary * confidence[:, None, None]]
        return features


class TargetAttention(nn.Module):
    """Candidates (B, C, d) attend over a sequence (B, L, d), each position weighted by its gate (B, L) in [0, 1].

    With `null_prior`, a null slot with a value of zero joins the sequence. Its gate is learned and starts at the prior: the
    smaller the gates of the sequence, the smaller the output.
    """

    def __init__(self, width: int, null_prior: float = 0.0) -> None:
        super().__init__()
        self.null_logit = nn.Parameter(torch.tensor(null_prior).log()) if null_prior else None
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)

    def forward(self, candidates: Tensor, sequence: Tensor, gate: Tensor, indices: Tensor | None = None) -> Tensor:
        """The attended sequence per candidate (B, C, d). A gate of 0 hides a position; if all are hidden, the output is zero.

        With `indices` (B, C, s), each candidate attends only to those positions.
        """
        scores = self.query(candidates) @ self.key(sequence).transpose(1, 2) / candidates.shape[-1] ** 0.5  # (B, C, L)
        log_gate = torch.log(gate).masked_fill(gate == 0, torch.finfo(gate.dtype).min)  # (B, L)
        scores = scores + log_gate.unsqueeze(1)
        if indices is not None:
            hidden = torch.full_like(scores, torch.finfo(scores.dtype).min)
            scores = hidden.scatter(-1, indices, scores.gather(-1, indices))
        if self.null_logit is not None:
            scores = torch.cat([scores, self.null_logit.expand(*scores.shape[:2], 1)], dim=-1)
        any_visible = gate.amax(-1).gt(0)[:, None, None]
        weights = torch.softmax(scores, dim=-1)[..., : sequence.shape[1]]
        return weights @ self.value(sequence) * any_visible  # type: ignore[no-any-return]

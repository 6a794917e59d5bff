"""The behavior model: a LLaMA-style backbone over behaviors whose tokens are embedded from the content of their items."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from reaseq.behavior.backbone import Backbone, BackboneConfig
from reaseq.behavior.diffusion import Canvas
from reaseq.behavior.sequence import GAP_BUCKETS, TYPES
from reaseq.behavior.token_table import MASK, SemanticIdTrie, TokenTable, build_item_token_table
from reaseq.representation.contents import Contents
from reaseq.representation.item_table import Snapshot


@dataclass(frozen=True)
class BehaviorConfig:
    """Sizes of the model, and how a behavior is written: as its item, or as the digits of its semantic ID."""

    vector_dim: int = 384
    claims: int = 1  # claim ids of the vocabulary, 0 is padding
    items: int = 1  # trained item ids, 0 is every other item
    codes: tuple[int, ...] = ()  # number of codes of each digit; if empty, the item is the token
    history: int = 48  # behaviors that the model sees
    response: int = 16  # future behaviors that it is trained to infer at once
    id_dropout: float = (
        0.15  # share of items trained without their id, so that items without a trained id are embedded sensibly
    )
    dropout: float = 0.1  # of the backbone's input
    backbone: BackboneConfig = field(default_factory=BackboneConfig)

    @property
    def tokens(self) -> Literal["items", "codes"]:
        """Whether a token is an item or a code."""
        return "codes" if self.codes else "items"


class ContentEmbedding(nn.Module):
    """Embeds items by content vector and claims; similar items have similar embeddings."""

    def __init__(self, config: BehaviorConfig) -> None:
        super().__init__()
        self.content = nn.Linear(config.vector_dim, config.backbone.width)
        self.claims = nn.EmbeddingBag(config.claims, config.backbone.width, mode="sum", padding_idx=0)
        nn.init.normal_(self.claims.weight, std=0.02)

    def forward(self, contents: Contents) -> Tensor:
        """Embeddings (S, d)."""
        claims = self.claims(contents.claims, per_sample_weights=contents.claim_shares)
        return self.content(contents.vectors) + claims  # type: ignore[no-any-return]


class ItemTokens(nn.Module):
    """One token per item: its content embedding, plus an id embedding if the item was trained on."""

    def __init__(self, config: BehaviorConfig) -> None:
        super().__init__()
        self.content_embedding = ContentEmbedding(config)
        self.ids = nn.Embedding(config.items, config.backbone.width, padding_idx=0)
        self.bias = nn.Embedding(config.items, 1, padding_idx=0)
        self.id_dropout = config.id_dropout
        nn.init.normal_(self.ids.weight, std=0.02)
        nn.init.zeros_(self.bias.weight)

    def forward(self, table: Snapshot, ids: Tensor) -> TokenTable:
        """The tokens of every row of the table; `ids` (N,) are the rows' trained ids."""
        if self.training:
            ids = ids * (torch.rand(ids.shape, device=ids.device) >= self.id_dropout)
        return build_item_token_table(
            self.content_embedding(table.contents[table.slots]) + self.ids(ids), self.bias(ids).squeeze(-1)
        )


class CodeTokens(nn.Module):
    """One token per code of a semantic ID: the mean content embedding of its items, projected, plus an embedding of its own."""

    def __init__(self, config: BehaviorConfig) -> None:
        super().__init__()
        width = config.backbone.width
        self.content_embedding = ContentEmbedding(config)
        self.own = nn.ParameterList(nn.Parameter(torch.randn(size, width) * 0.02) for size in config.codes)
        self.project = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in config.codes)
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(size)) for size in config.codes)

    def forward(self, table: Snapshot, trie: SemanticIdTrie) -> TokenTable:
        """The tokens of every row of the table, whose semantic IDs are in `trie`."""
        content_embeddings = self.content_embedding(table.contents[table.slots])  # (N, d)
        tables = []
        for digit, (own, project) in enumerate(zip(self.own, self.project, strict=True)):
            codes = trie.codes[:, digit]
            items = torch.bincount(codes, minlength=len(own)).clamp(min=1).unsqueeze(-1)
            mean = torch.zeros_like(own).index_add(0, codes, content_embeddings) / items
            tables.append(own + project(mean))
        return TokenTable(trie.codes, tuple(tables), tuple(self.bias), trie)


class BehaviorModel(nn.Module):
    """Predicts the masked tokens of a canvas. The algorithm around it is `reaseq.behavior.diffusion`."""

    sales: Tensor
    calibration: Tensor

    def __init__(self, config: BehaviorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.backbone.width
        self.tokens = CodeTokens(config) if config.codes else ItemTokens(config)
        self.masks = nn.Parameter(torch.randn(max(1, len(config.codes)), width) * 0.02)
        self.types = nn.Embedding(TYPES, width)
        self.gaps = nn.Embedding(GAP_BUCKETS, width)
        self.months = nn.Embedding(12, width)
        self.dropout = nn.Dropout(config.dropout)
        self.backbone = Backbone(config.backbone)
        self.scale = nn.Parameter(torch.tensor(width**-0.5))
        self.prior = None if config.codes else nn.Parameter(torch.tensor(0.5))  # weight of the prior; codes have no sales
        self.register_buffer("sales", torch.zeros(config.items))  # of each trained id in the 30 days before the cut
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))  # see `reaseq.behavior.calibration`
        for table in (self.types, self.gaps, self.months):
            nn.init.normal_(table.weight, std=0.02)

    def token_table(self, table: Snapshot, ids: Tensor, trie: SemanticIdTrie | None = None) -> TokenTable:
        """The tokens of every row of the table; `ids` (N,) are the rows' trained ids, `trie` holds their semantic IDs."""
        if isinstance(self.tokens, CodeTokens):
            assert trie is not None  # noqa: S101  for the type checker
            return self.tokens(table, trie)  # type: ignore[no-any-return]
        return self.tokens(table, ids)  # type: ignore[no-any-return]

    def hidden(self, canvas: Canvas, token_table: TokenTable) -> Tensor:
        """Hidden states (B, L, d) of every position."""
        x = self.types(canvas.types) + self.gaps(canvas.gaps)  # (B, L, d)
        x = x + self.months(canvas.months).unsqueeze(1) * (canvas.tokens == MASK).any(-1, keepdim=True)
        for digit, table in enumerate(token_table.tables):
            token = canvas.tokens[..., digit]  # (B, L)
            x = x + torch.where((token == MASK).unsqueeze(-1), self.masks[digit], table[token.clamp(min=0)])
        attend = canvas.present.unsqueeze(1)  # (B, 1, L)
        return self.backbone(self.dropout(x), attend, canvas.positions)  # type: ignore[no-any-return]

    def logits(self, hidden: Tensor, token_table: TokenTable, digit: int, prior: Tensor | None) -> Tensor:
        """Scores (…, V) of a digit's codes for hidden states (…, d); `prior` (…, N) if a code is an item."""
        scores = (hidden * self.scale) @ token_table.tables[digit].T + token_table.biases[digit]
        return scores if prior is None or self.prior is None else scores + self.prior * prior

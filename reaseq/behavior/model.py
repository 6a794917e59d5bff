"""The behaviour model: a small bidirectional transformer of LLaMA-style blocks over item tokens tied to content."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reaseq.behavior.diffusion import ABSENT, MASK, Items
from reaseq.behavior.sequence import GAP_BUCKETS, TYPES, Sequences
from reaseq.representation.item_table import Snapshot


@dataclass(frozen=True)
class BehaviorConfig:
    """Sizes of the model."""

    vector_dim: int = 384
    claims: int = 1  # ids of the vocabulary, with 0 for padding
    items: int = 1  # ids that training knew, with 0 for all others
    width: int = 96
    layers: int = 2
    heads: int = 4
    history: int = 32  # behaviours that the model sees
    response: int = 16  # behaviours that it is trained to infer at once
    id_dropout: float = 0.15  # share of items trained as if unknown, so that an unseen item is not a random one


class ItemEmbedding(nn.Module):
    """Item tokens: content vector, claims, and an id where training knew the item."""

    def __init__(self, config: BehaviorConfig) -> None:
        super().__init__()
        self.content = nn.Linear(config.vector_dim, config.width)
        self.claims = nn.EmbeddingBag(config.claims, config.width, mode="sum", padding_idx=0)
        self.ids = nn.Embedding(config.items, config.width, padding_idx=0)
        self.bias = nn.Embedding(config.items, 1, padding_idx=0)
        self.id_dropout = config.id_dropout
        for table in (self.claims, self.ids):
            nn.init.normal_(table.weight, std=0.02)
        nn.init.zeros_(self.bias.weight)

    def forward(self, table: Snapshot, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (N, d) and output biases (N,) of every row of the table; `ids` (N,) are the rows' trained ids."""
        if self.training:
            ids = ids * (torch.rand(ids.shape, device=ids.device) >= self.id_dropout)
        claims = self.claims(table.claims, per_sample_weights=table.claim_shares)  # (N, d)
        return self.content(table.vectors) + claims + self.ids(ids), self.bias(ids).squeeze(-1)


class BehaviorModel(nn.Module):
    """Scores every item for the masked places of a response, given the history. See `reaseq.behavior.diffusion`."""

    def __init__(self, config: BehaviorConfig) -> None:
        super().__init__()
        self.config = config
        self.items = ItemEmbedding(config)
        self.types = nn.Embedding(TYPES, config.width)
        self.gaps = nn.Embedding(GAP_BUCKETS, config.width)
        self.mask = nn.Parameter(torch.randn(config.width) * 0.02)
        self.response = nn.Parameter(torch.randn(config.width) * 0.02)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width)
        self.scale = nn.Parameter(torch.tensor(config.width**-0.5))

    def logits(self, hidden: Tensor, items: Items) -> Tensor:
        """Scores (…, N) of every item for hidden states (…, d)."""
        table, bias = items
        return (hidden * self.scale) @ table.T + bias

    def hidden(self, history: Sequences, response: Tensor, items: Items) -> Tensor:
        """Hidden states (B, K, d) of the response (B, K) after the history (B, H)."""
        table, _ = items
        known = history.rows > 0  # (B, H)
        past = table[history.rows] + self.types(history.types) + self.gaps(history.gaps)  # (B, H, d)
        future = torch.where((response == MASK).unsqueeze(-1), self.mask, table[response.clamp(min=0)]) + self.response
        x = torch.cat([past, future], dim=1)  # (B, H + K, d)
        seen = torch.cat([known, response != ABSENT], dim=1)
        # Places of the response share one position: they have no order.
        length = history.rows.shape[1]
        positions = torch.arange(x.shape[1], device=x.device).clamp(max=length)
        for block in self.blocks:
            x = block(x, seen, positions)
        return self.norm(x[:, length:])  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-norm attention with rotary positions and a SwiGLU feed-forward, bidirectional."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm_feed = nn.RMSNorm(width)
        self.gate_up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor, seen: Tensor, positions: Tensor) -> Tensor:
        """x (B, L, d); seen (B, L) bool, what may be attended to; positions (L,)."""
        batch, length, width = x.shape
        split = self.qkv(self.norm_attention(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)  # (B, heads, L, d/heads) each
        attended = F.scaled_dot_product_attention(
            _rotate(q, positions), _rotate(k, positions), v, attn_mask=seen[:, None, None, :]
        )
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        gate, up = self.gate_up(self.norm_feed(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)  # type: ignore[no-any-return]


def _rotate(x: Tensor, positions: Tensor, base: float = 10_000.0) -> Tensor:
    """Rotary position embedding (Su et al. 2021): x (B, heads, L, e)."""
    half = x.shape[-1] // 2
    frequencies = base ** (-torch.arange(half, device=x.device) / half)
    angles = positions[:, None] * frequencies  # (L, e/2)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()], dim=-1)

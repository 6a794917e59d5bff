"""The transformer of the behavior model: LLaMA-style blocks without a causal mask, as in LLaDA.

Pre-norm attention with rotary positions and grouped keys, SwiGLU feed-forward, no biases. The shapes are those of LLaMA, so
that published checkpoints of that family can be loaded (see `reaseq.behavior.llada`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class BackboneConfig:
    """Sizes of the transformer."""

    width: int = 96
    layers: int = 2
    heads: int = 4
    kv_heads: int = 4
    feed: int = 192  # hidden width of the feed-forward
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5


PRESETS = {
    "tiny": BackboneConfig(),  # trains in minutes on one core
    "small": BackboneConfig(width=256, layers=4, heads=8, kv_heads=8, feed=768),
    "base": BackboneConfig(width=768, layers=12, heads=12, kv_heads=12, feed=2048),
    "llada-8b": BackboneConfig(4096, 32, 32, 32, feed=12_288, rope_base=500_000.0),
}


class Backbone(nn.Module):
    """Transformer blocks and a final norm over positions (B, L, d)."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, config.norm_eps)

    def forward(self, x: Tensor, attend: Tensor, positions: Tensor) -> Tensor:
        """Hidden states (B, L, d) of x (B, L, d).

        `attend` (B, 1, L) or (B, L, L) bool: what each position may attend to. `positions` (B, L) or (1, L) may repeat:
        behaviors of one timestamp share one.
        """
        rotation = _rotation(positions, self.config)
        attend = attend.unsqueeze(1)
        for block in self.blocks:
            x = block(x, attend, rotation)
        return self.norm(x)  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and feed-forward, each with a residual connection."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        width, head = config.width, config.width // config.heads
        self.head = head
        self.attention_norm = nn.RMSNorm(width, config.norm_eps)
        self.q = nn.Linear(width, config.heads * head, bias=False)
        self.k = nn.Linear(width, config.kv_heads * head, bias=False)
        self.v = nn.Linear(width, config.kv_heads * head, bias=False)
        self.o = nn.Linear(config.heads * head, width, bias=False)
        self.feed_norm = nn.RMSNorm(width, config.norm_eps)
        self.gate = nn.Linear(width, config.feed, bias=False)
        self.up = nn.Linear(width, config.feed, bias=False)
        self.down = nn.Linear(config.feed, width, bias=False)

    def forward(self, x: Tensor, attend: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """x (B, L, d); attend (B, 1, 1 or L, L); rotation: cosines and sines (B or 1, 1, L, e/2)."""
        normed = self.attention_norm(x)
        q, k, v = (
            project(normed).unflatten(-1, (-1, self.head)).transpose(1, 2)  # (B, heads, L, e)
            for project in (self.q, self.k, self.v)
        )
        attended = F.scaled_dot_product_attention(
            _rotate(q, rotation), _rotate(k, rotation), v, attn_mask=attend, enable_gqa=k.shape[1] != q.shape[1]
        )
        x = x + self.o(attended.transpose(1, 2).flatten(-2))
        normed = self.feed_norm(x)
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed))  # type: ignore[no-any-return]


def _rotation(positions: Tensor, config: BackboneConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines (B, 1, L, e/2) of rotary positions (Su et al. 2021)."""
    half = config.width // config.heads // 2
    frequencies = config.rope_base ** (-torch.arange(half, device=positions.device) / half)
    angles = positions[:, None, :, None] * frequencies
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """x (B, heads, L, e) rotated, its two halves being the real and imaginary parts."""
    cosines, sines = (part.to(x.dtype) for part in rotation)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cosines - b * sines, a * sines + b * cosines], dim=-1)

"""How well candidates match a history by content, without anything learned: cosines, their histogram, and lifts of labels."""

import torch
from torch import Tensor
from torch.nn import functional as F

from reaseq.behavior.sequence import Sequences
from reaseq.representation.contents import Contents

TIERS = 8  # bins of cosine similarity, from 0 to 1
SHARE_FLOOR = 0.01  # ε, added to both shares in a lift


def cosines(contents: Contents, slots: Tensor, others: Tensor) -> Tensor:
    """Cosine (B, C, L) of candidates' slots (B, C) and the slots of a sequence (B, L)."""
    return F.embedding(slots, contents.vectors) @ F.embedding(others, contents.vectors).transpose(1, 2)


def similarity_tiers(cosine: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """SimTier: the histogram (B, C, TIERS) of similarities (B, C, L) weighted by gate (B, L), and their mean and maximum."""
    weights = gate.unsqueeze(1).expand_as(cosine)  # (B, C, L)
    tier = (cosine * TIERS).long().clamp(0, TIERS - 1)
    counts = cosine.new_zeros(*cosine.shape[:2], TIERS).scatter_add(-1, tier, weights)
    total = gate.sum(-1).clamp(min=1e-6)[:, None, None]
    mean = (cosine * weights).sum(-1, keepdim=True) / total
    return counts, torch.cat([mean, (cosine * (weights > 0)).amax(-1, keepdim=True)], dim=-1)


def lifts(history: Sequences, labels: Tensor, history_labels: Tensor, rates: Tensor) -> Tensor:
    """Lifts (B, C, K) of the candidates' labels (B, C, K) for histories of items with labels (B, H, K); 0 for padding.

    Labels are claims or codes of categories. The lift of label v is log( (p_v + ε) / (rate_v + ε) ), with p_v its share of the
    history, recent behaviors counting more, and rates (V,) its share of the catalog. Without a history, every lift is 0.
    """
    recent = (history.rows > 0) / (1.0 + history.gaps)  # (B, H)
    recent = recent / recent.sum(-1, keepdim=True).clamp(min=1e-6)
    weights = (recent.unsqueeze(-1) * (history_labels > 0)).flatten(1)
    share = weights.new_zeros(recent.shape[0], rates.shape[0]).scatter_add(1, history_labels.flatten(1), weights)  # (B, V)
    lift = torch.log((share + SHARE_FLOOR) / (rates + SHARE_FLOOR)) * (recent.sum(-1, keepdim=True) > 0)
    return lift.gather(1, labels.flatten(1)).view(labels.shape) * (labels > 0)

"""Piecewise linear encoding of numbers (Gorishniy et al. 2022), which lets a small network bend as freely as a tree splits."""

import torch
from torch import Tensor, nn


class NumberEncoding(nn.Module):
    """Encodes each number by how much of each quantile bin of the training data lies below it, and a flag if it is missing.

    For bin k with edges l < u: clamp((x − l) / (u − l), 0, 1). A missing number (NaN) is below every bin.
    """

    edges: Tensor

    def __init__(self, numbers: int, bins: int) -> None:
        super().__init__()
        self.width = numbers * (bins + 1)
        self.register_buffer("edges", torch.linspace(0, 1, bins + 1).repeat(numbers, 1))  # (F, bins + 1)

    def fit(self, values: Tensor) -> None:
        """Take the edges from values (M, F), of which some are NaN. A number that is always missing keeps its edges."""
        levels = torch.linspace(0, 1, self.edges.shape[1])
        for number, column in enumerate(values.T):
            present = column[~column.isnan()]
            if len(present):
                self.edges[number] = torch.quantile(present, levels)

    def forward(self, values: Tensor) -> Tensor:
        """The encoding (…, width) of values (…, F)."""
        lower, upper = self.edges[:, :-1], self.edges[:, 1:]
        missing = values.isnan()
        position = torch.where(missing, lower[:, 0], values).unsqueeze(-1)  # (…, F, 1)
        bins = ((position - lower) / (upper - lower).clamp(min=1e-6)).clamp(0, 1)  # (…, F, bins)
        return torch.cat([bins, missing.unsqueeze(-1).to(bins.dtype)], dim=-1).flatten(-2)

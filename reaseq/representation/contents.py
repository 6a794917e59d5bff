"""The contents of items as tensors (vectors, claims, attributes), and buffers that such tensors are appended to."""

from dataclasses import dataclass

import torch
from torch import Tensor

from reaseq.representation.attributes import Attributes, no_attributes


@dataclass(frozen=True)
class Contents:
    """Content vectors, claims and declared attributes of S items."""

    vectors: Tensor  # (S, D) float32, unit length
    claims: Tensor  # (S, C) int64 claim ids, 0 is padding
    confidences: Tensor  # (S, C) float32 of the claims
    attributes: Attributes

    @staticmethod
    def without_attributes(vectors: Tensor, claims: Tensor, confidences: Tensor) -> "Contents":
        """Contents where no attribute is declared."""
        return Contents(vectors, claims, confidences, no_attributes(len(vectors)))

    def __getitem__(self, index: Tensor | slice) -> "Contents":
        return Contents(self.vectors[index], self.claims[index], self.confidences[index], self.attributes[index])

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def claim_shares(self) -> Tensor:
        """The weight of each claim in its item (S, C): the confidences, scaled to sum to 1."""
        return self.confidences / self.confidences.sum(-1, keepdim=True).clamp(min=1e-6)

    def to(self, device: torch.device) -> "Contents":
        """A copy on a device."""
        parts = self.vectors.to(device), self.claims.to(device), self.confidences.to(device), self.attributes.to(device)
        return Contents(*parts)


class GrowableTensors:
    """Tensors of equal length that rows are appended to. Each row is written once, so a view never changes.

    Full buffers are replaced by ones twice as large, so the amortized cost of appending is proportional to what is appended.
    """

    def __init__(self, *first: Tensor) -> None:
        self._buffers = first
        self._length = len(first[0])

    def __len__(self) -> int:
        return self._length

    @property
    def nbytes(self) -> int:
        """Bytes that the buffers take, spare rows included."""
        return sum(buffer.nbytes for buffer in self._buffers)

    @property
    def spare_rows(self) -> int:
        """How many rows fit before the buffers grow."""
        return len(self._buffers[0]) - self._length

    def append(self, *rows: Tensor) -> None:
        """Append rows, one tensor per buffer."""
        end = self._length + len(rows[0])
        if end > len(self._buffers[0]):
            self._buffers = tuple(_enlarged(buffer[: self._length], 2 * end) for buffer in self._buffers)
        for buffer, added in zip(self._buffers, rows, strict=True):
            buffer[self._length : end] = added
        self._length = end

    def view(self) -> tuple[Tensor, ...]:
        """The tensors' current rows."""
        return tuple(buffer[: self._length] for buffer in self._buffers)


def _enlarged(tensor: Tensor, rows: int) -> Tensor:
    enlarged = tensor.new_zeros((rows, *tensor.shape[1:]))
    enlarged[: len(tensor)] = tensor
    return enlarged

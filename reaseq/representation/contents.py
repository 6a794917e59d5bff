"""What items are, as tensors: content vectors and claims; and buffers to which such tensors are appended."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Contents:
    """S items by what they are."""

    vectors: Tensor  # (S, D) float32, unit length
    claims: Tensor  # (S, C) int64, 0 is padding
    confidences: Tensor  # (S, C) float32

    def __getitem__(self, places: Tensor | slice) -> "Contents":
        return Contents(self.vectors[places], self.claims[places], self.confidences[places])

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def claim_shares(self) -> Tensor:
        """What each claim weighs in its item (S, C): the confidences, adding up to 1."""
        return self.confidences / self.confidences.sum(-1, keepdim=True).clamp(min=1e-6)

    def to(self, device: torch.device) -> "Contents":
        """The same on a device."""
        return Contents(self.vectors.to(device), self.claims.to(device), self.confidences.to(device))


class GrowableTensors:
    """Tensors of equal length that rows are appended to. What a view shows never changes: a row is written once.

    Room doubles when it is used up, so that appending costs what is appended and, now and then, a copy of the whole.
    """

    def __init__(self, *first: Tensor) -> None:
        self._buffers = first
        self._length = len(first[0])

    def __len__(self) -> int:
        return self._length

    @property
    def nbytes(self) -> int:
        """Bytes that the buffers take, with their room to grow."""
        return sum(buffer.nbytes for buffer in self._buffers)

    @property
    def room(self) -> int:
        """How many rows fit in before the buffers grow."""
        return len(self._buffers[0]) - self._length

    def append(self, *rows: Tensor) -> None:
        """Append rows, one tensor for each of the buffers."""
        end = self._length + len(rows[0])
        if end > len(self._buffers[0]):
            self._buffers = tuple(_with_room(buffer[: self._length], 2 * end) for buffer in self._buffers)
        for buffer, added in zip(self._buffers, rows, strict=True):
            buffer[self._length : end] = added
        self._length = end

    def view(self) -> tuple[Tensor, ...]:
        """The tensors as they are now."""
        return tuple(buffer[: self._length] for buffer in self._buffers)


def _with_room(tensor: Tensor, rows: int) -> Tensor:
    grown = tensor.new_zeros((rows, *tensor.shape[1:]))
    grown[: len(tensor)] = tensor
    return grown

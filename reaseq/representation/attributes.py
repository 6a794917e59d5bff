"""Declared attributes of items as tensors, which say themselves how they are encoded."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reaseq.declaration import Field
from reaseq.declaration.attributes import Value


@dataclass(frozen=True)
class Attributes:
    """The attributes of S items: a column for each number, and as many columns for each other field as it has slots."""

    fields: tuple[Field, ...]
    numbers: Tensor  # (S, numbers) float32, NaN where missing
    codes: Tensor  # (S, slots) int64, 0 where missing

    def __getitem__(self, index: Tensor | slice) -> "Attributes":
        return Attributes(self.fields, self.numbers[index], self.codes[index])

    def to(self, device: torch.device) -> "Attributes":
        """A copy on a device."""
        return Attributes(self.fields, self.numbers.to(device), self.codes.to(device))

    def select(self, fields: Sequence[Field]) -> "Attributes":
        """The attributes in these fields, as a model knows them; a field that these items do not have is missing."""
        if tuple(fields) == self.fields:
            return self
        numbers = [_columns(self.fields, self.numbers, field, torch.nan) for field in number_fields(fields)]
        codes = [_columns(self.fields, self.codes, field, 0) for field in code_fields(fields)]
        return Attributes(
            tuple(fields),
            torch.cat([self.numbers[..., :0], *numbers], dim=-1),
            torch.cat([self.codes[..., :0], *codes], dim=-1),
        )


def no_attributes(count: int) -> Attributes:
    """The attributes of `count` items where none is declared."""
    return Attributes((), torch.zeros(count, 0), torch.zeros(count, 0, dtype=torch.long))


def build_attributes(fields: tuple[Field, ...], items: Sequence[Sequence[Value | None]]) -> Attributes:
    """The attributes of items, each with its values in order of the fields."""
    numbers = torch.full((len(items), len(number_fields(fields))), torch.nan)
    codes = torch.zeros(len(items), sum(field.slots for field in code_fields(fields)), dtype=torch.long)
    starts = [field_columns(fields, field).start for field in fields]
    for row, values in enumerate(items):
        for start, value in zip(starts, values, strict=True):
            if isinstance(value, tuple):
                codes[row, start : start + len(value)] = torch.tensor(value)
            elif value is not None:
                numbers[row, start] = value
    return Attributes(fields, numbers, codes)


def number_fields(fields: Sequence[Field]) -> list[Field]:
    """The fields that are numbers."""
    return [field for field in fields if not field.size]


def code_fields(fields: Sequence[Field]) -> list[Field]:
    """The fields that are codes."""
    return [field for field in fields if field.size]


def field_columns(fields: Sequence[Field], field: Field) -> slice:
    """Where a field is, among the columns of the numbers or of the codes."""
    before = [other for other in fields[: fields.index(field)] if bool(other.size) == bool(field.size)]
    start = sum(other.slots for other in before)
    return slice(start, start + field.slots)


def _columns(fields: tuple[Field, ...], tensor: Tensor, field: Field, missing: float) -> Tensor:
    if field in fields:
        return tensor[..., field_columns(fields, field)]
    return tensor.new_full((*tensor.shape[:-1], field.slots), missing)

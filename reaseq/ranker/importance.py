"""How much a trained ranker owes to each declared attribute, by permutation (Breiman 2001).

An attribute is shuffled among the items, so that each has the value of another one, and the examples are scored again.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from reaseq.declaration import Field
from reaseq.ranker.training import RankerExamples
from reaseq.representation.attributes import Attributes, field_columns
from reaseq.representation.item_table import Snapshot

SEED = 0


def permutation_losses(
    quality: Callable[[RankerExamples, Snapshot], float], examples: RankerExamples, table: Snapshot, columns: slice
) -> dict[str, float]:
    """By attribute, what the quality of the examples loses; `columns` are those of the declared numbers in their batch."""
    base = quality(examples, table)
    losses = {}
    for field in table.contents.attributes.fields:
        shuffled = _shuffled(table, field)
        attributes = shuffled.contents.attributes
        numbers = examples.batch.numbers.clone()
        numbers[..., columns] = attributes.numbers[shuffled.slots[examples.batch.candidates]]
        batch = replace(examples.batch, numbers=numbers)
        losses[field.name] = base - quality(replace(examples, batch=batch), shuffled)
    return losses


def _shuffled(table: Snapshot, field: Field) -> Snapshot:
    """The table with one field shuffled among the items; the unknown item keeps its own."""
    attributes, columns = table.contents.attributes, field_columns(table.contents.attributes.fields, field)
    order = torch.randperm(len(table) - 1, generator=torch.Generator().manual_seed(SEED)) + 1
    slots, others = table.slots[1:], table.slots[order]

    def shuffle(values: Tensor) -> Tensor:
        shuffled = values.clone()
        shuffled[slots, columns] = values[others, columns]
        return shuffled

    numbers = attributes.numbers if field.size else shuffle(attributes.numbers)
    codes = shuffle(attributes.codes) if field.size else attributes.codes
    return replace(table, contents=replace(table.contents, attributes=Attributes(attributes.fields, numbers, codes)))

"""The declaration: which features of its own a shop brings to the ranker.

It is a Python module of the shop's with a `DECLARATION`. `reaseq init` writes a commented example.
"""

from reaseq.aggregates import Aggregate
from reaseq.declaration.attributes import Attribute, Category, Flag, Number, Tags
from reaseq.declaration.declaration import Declaration, load_declaration
from reaseq.declaration.fields import Field

__all__ = ["Aggregate", "Attribute", "Category", "Declaration", "Field", "Flag", "Number", "Tags", "load_declaration"]

"""A declaration as a whole, and how it is loaded from the shop's module."""

import runpy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reaseq.aggregates import BUILT_IN, Aggregate
from reaseq.declaration.attributes import Attribute, Value
from reaseq.declaration.fields import Field
from reaseq.errors import InvalidDeclaration

NAME = "DECLARATION"


@dataclass(frozen=True)
class Declaration:
    """The features that a shop declares."""

    item_attributes: Sequence[Attribute] = ()
    aggregates: Sequence[Aggregate] = ()

    def __post_init__(self) -> None:
        for attribute in self.item_attributes:
            if not isinstance(attribute, Attribute):
                raise InvalidDeclaration(f"item_attributes has {attribute!r}, which is no Number, Flag, Category or Tags")
        if twice := _find_twice(attribute.name for attribute in self.item_attributes):
            raise InvalidDeclaration(f"item_attributes has {twice!r} twice")
        for aggregate in self.aggregates:
            if not isinstance(aggregate, Aggregate):
                raise InvalidDeclaration(f"aggregates has {aggregate!r}, which is no Aggregate")
        if twice := _find_twice(span.feature for aggregate in self.kept_aggregates for span in aggregate.spans):
            raise InvalidDeclaration(f"two aggregates have the feature {twice!r}: rename one")

    @property
    def item_fields(self) -> tuple[Field, ...]:
        """How the items' attributes are encoded."""
        return tuple(attribute.field for attribute in self.item_attributes)

    @property
    def kept_aggregates(self) -> tuple[Aggregate, ...]:
        """The aggregates that the stream keeps: the built-in ones, then the declared ones."""
        return (*BUILT_IN, *self.aggregates)

    def read_item(self, attributes: Mapping[str, str]) -> list[Value | None]:
        """The value of each declared attribute, None where it is missing."""
        return [attribute.value(attributes.get(attribute.name, "")) for attribute in self.item_attributes]

    def check_item(self, attributes: Mapping[str, str]) -> None:
        """Raise InvalidRecord if a required attribute is missing or cannot be read."""
        for attribute in self.item_attributes:
            attribute.check(attributes.get(attribute.name, ""))


def _find_twice(names: Iterable[str]) -> str:
    """The first name that is there more than once; empty if all differ."""
    return next((name for name, count in Counter(names).items() if count > 1), "")


NOTHING_DECLARED = Declaration()


def load_declaration(file: Path | None) -> Declaration:
    """The declaration in a module of the shop's; an empty one without a file. The module runs, as any import does.

    Raises InvalidDeclaration, whose message names the file.
    """
    if file is None:
        return NOTHING_DECLARED
    try:
        found = runpy.run_path(str(file)).get(NAME)
    except InvalidDeclaration as error:
        raise InvalidDeclaration(f"{file}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever the shop's code raises
        raise InvalidDeclaration(f"{file} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(found, Declaration):
        raise InvalidDeclaration(f"{file} has no {NAME} = Declaration(…)")
    return found

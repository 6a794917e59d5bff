"""The kinds of attributes. Each reads its value from text, because catalogs have attributes as text."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import ClassVar

from reaseq.declaration.fields import Field
from reaseq.errors import InvalidDeclaration, InvalidRecord
from reaseq.knowledge.content import clean, digest

BUCKETS_LIMIT = 65_536
TAGS_LIMIT = 32
TRUE, FALSE = ("1", "true", "yes", "y", "t"), ("0", "false", "no", "n", "f")

Value = float | tuple[int, ...]  # a number, or codes
PlainValue = float | str | list[str] | None


@dataclass(frozen=True)
class Attribute(ABC):
    """An attribute, by its name in the catalog.

    A required attribute that is missing or cannot be read makes its record a dead letter. Any other attribute counts as
    `default` then, or as missing without one.
    """

    kind: ClassVar[str]
    name: str
    required: bool = False
    default: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        if not self.name or self.name != clean(self.name):
            raise InvalidDeclaration(f"an attribute cannot have the name {self.name!r}: write {clean(self.name) or 'a name'!r}")
        if self.required and self.default:
            raise InvalidDeclaration(f"attribute {self.name!r}: it is required, so leave out the default")
        if self.default and self.read(self.default) is None:
            raise InvalidDeclaration(f"attribute {self.name!r}: the default {self.default!r} is no {self.kind}")

    @property
    @abstractmethod
    def field(self) -> Field:
        """How it is encoded."""

    @property
    def details(self) -> str:
        """The parameters of this kind, for humans."""
        return ""

    @abstractmethod
    def read(self, text: str) -> Value | None:
        """The value in a text that is not empty; None if it is not of this kind."""

    def plain(self, text: str) -> PlainValue:
        """The value in a text as people read it; None if it is missing or cannot be read."""
        return self.read(text) if text else None  # type: ignore[return-value]  # kinds with codes have their own

    def value(self, text: str) -> Value | None:
        """The value of an entity, whose text may be empty; None if it is missing or cannot be read."""
        found = self.read(text) if text else None
        return self.read(self.default) if found is None and self.default else found

    def check(self, text: str) -> None:
        """Raise InvalidRecord if the attribute is required, and missing or not of this kind."""
        if self.required and (not text or self.read(text) is None):
            problem = f"is no {self.kind}: {text!r}" if text else "is missing"
            raise InvalidRecord("invalid_attribute", f"the required attribute {self.name!r} {problem}")


@dataclass(frozen=True)
class Number(Attribute):
    """A finite number. It needs no transform and no scale: the ranker encodes it by quantile bins of what it was trained on."""

    kind = "number"

    @property
    def field(self) -> Field:
        return Field(self.name)

    def read(self, text: str) -> float | None:
        try:
            number = float(text)
        except ValueError:
            return None
        return number if math.isfinite(number) else None


@dataclass(frozen=True)
class Flag(Attribute):
    """Yes or no, as 1 or 0. Also read: true and false, y and n, t and f, 1 and 0, in upper or lower case."""

    kind = "flag"

    @property
    def field(self) -> Field:
        return Field(self.name)

    def read(self, text: str) -> float | None:
        word = text.casefold()
        return float(word in TRUE) if word in TRUE or word in FALSE else None


@dataclass(frozen=True)
class Category(Attribute):
    """One value: of the closed list `values`, or else hashed into one of `buckets`. Upper and lower case are the same.

    Values that are not in a closed list share one code, and so do values in one bucket.
    """

    kind = "category"
    values: Sequence[str] = ()
    buckets: int = 1024

    def __post_init__(self) -> None:
        if isinstance(self.values, str):
            raise InvalidDeclaration(f"attribute {self.name!r}: write the values as a list")
        object.__setattr__(self, "values", tuple(self.values))  # a list is easier to write
        folded = [_fold(value) for value in self.values]
        if "" in folded or len(set(folded)) < len(folded):
            raise InvalidDeclaration(
                f"attribute {self.name!r}: a value is empty or there twice; upper and lower case are the same"
            )
        if not 2 <= self.buckets <= BUCKETS_LIMIT or len(folded) >= BUCKETS_LIMIT:
            raise InvalidDeclaration(f"attribute {self.name!r}: it can have 2 to {BUCKETS_LIMIT} buckets, not {self.buckets}")
        super().__post_init__()

    @property
    def field(self) -> Field:
        closed = digest(*map(_fold, self.values)) if self.values else ""
        return Field(self.name, len(self.values) + 1 if self.values else self.buckets, 1, closed)

    @property
    def details(self) -> str:
        return ", ".join(self.values) if self.values else f"{self.buckets} buckets"

    def read(self, text: str) -> tuple[int, ...] | None:
        return (self._code(text),)

    def plain(self, text: str) -> PlainValue:
        return text or None

    def _code(self, text: str) -> int:
        folded = _fold(text)
        if not self.values:
            return 1 + int.from_bytes(blake2b(folded.encode(), digest_size=8).digest(), "big") % self.buckets
        known = [_fold(value) for value in self.values]
        return 1 + (known.index(folded) if folded in known else len(known))


@dataclass(frozen=True)
class Tags(Category):
    """Several values of a category in one text, between separators. Those after the first `limit` are left out."""

    kind = "tags"
    separator: str = ","
    limit: int = 8

    def __post_init__(self) -> None:
        if not self.separator:
            raise InvalidDeclaration(f"attribute {self.name!r}: the separator is empty")
        if not 1 <= self.limit <= TAGS_LIMIT:
            raise InvalidDeclaration(f"attribute {self.name!r}: the limit can be 1 to {TAGS_LIMIT}, not {self.limit}")
        super().__post_init__()

    @property
    def field(self) -> Field:
        one = super().field
        return Field(one.name, one.size, self.limit, one.values)

    @property
    def details(self) -> str:
        return f"{super().details}; at most {self.limit}, separated by {self.separator!r}"

    def read(self, text: str) -> tuple[int, ...] | None:
        codes = dict.fromkeys(map(self._code, self._split(text)))
        return tuple(codes)[: self.limit] or None

    def plain(self, text: str) -> PlainValue:
        return self._split(text) or None

    def _split(self, text: str) -> list[str]:
        return [part.strip() for part in text.split(self.separator) if part.strip()]


def _fold(text: str) -> str:
    return clean(text).casefold()

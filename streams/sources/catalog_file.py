"""A shop's catalog file: one item per row."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from reaseq.errors import CatalogError
from reaseq.knowledge.content import digest
from reaseq.records import ATTRIBUTES_LIMIT, TITLE_LIMIT_CHARS, Item
from streams.delivery.topics import ITEMS
from streams.sources.source_file import DEFAULTS, TIME_UNITS, ReadOptions, RowFields, SourceFile
from streams.sources.values import Row, is_missing, to_attributes, to_id, to_price, to_text, to_title

FIELDS = {"item_id", "title", "price", "seller_id", "attributes", *TIME_UNITS}


class CatalogFile(SourceFile):
    """Items: `item_id` and `title`; optionally `price`, `seller_id` and an event time. Other columns become attributes.

    An item without an event time gets `listed_ms` or, by default, the file's modification time. So reading the same file again
    changes nothing, and the items of a modified file are newer. Titles and attributes are cut at TITLE_LIMIT_CHARS, and
    attributes after the first ATTRIBUTES_LIMIT are left out.
    """

    topic = ITEMS
    key_field = "item_id"
    required = frozenset({"item_id", "title"})

    def __init__(self, path: Path, options: ReadOptions = DEFAULTS, listed_ms: int | None = None) -> None:
        super().__init__(path, options)
        self._listed_ms = self.modified_ms if listed_ms is None else listed_ms
        self.identity = digest(self.identity, str(self._listed_ms))

    def items(self) -> Iterator[Item]:
        """The item of each row. Raises CatalogError with the row number if one is invalid."""
        for record in self.records():
            if record.refusal:
                raise CatalogError(f"{self._path}, {record.refusal}")
            yield msgspec.convert(record.message, Item)

    def build_message(self, fields: RowFields) -> Row:
        """The message of an item."""
        time_field = fields.time_field()
        listed_ms = fields.take(time_field, fields.to_time_ms(time_field)) if time_field else None
        message: Row = {
            "schema": "item.1",
            "item_id": fields.require("item_id", to_id),
            "event_time_ms": self._listed_ms if listed_ms is None else listed_ms,
            "title": _cut(fields, "title", fields.require("title", to_title)),
        }
        seller_id = None if is_missing(fields.values.get("seller_id")) else fields.take("seller_id", to_id)
        optional = {"price": fields.take("price", to_price), "seller_id": seller_id}
        message |= {name: value for name, value in optional.items() if value is not None}
        return message | {"attributes": _read_attributes(fields)}


def _read_attributes(fields: RowFields) -> dict[str, str]:
    other = {name: value for name, value in fields.values.items() if name not in FIELDS}
    values = (fields.take("attributes", to_attributes) or {}) | other
    attributes: dict[str, str] = {}
    for name, value in values.items():
        text = None if is_missing(value) else _take_text(fields, name, value)
        if not text:
            continue
        if len(attributes) == ATTRIBUTES_LIMIT:
            fields.note("attributes", f"left out: more than {ATTRIBUTES_LIMIT}", name)
            break
        if not name.strip() or len(name) > TITLE_LIMIT_CHARS:
            problem = "has no name" if not name.strip() else f"has a name of more than {TITLE_LIMIT_CHARS} characters"
            fields.note("attributes", f"left out: {problem}", value)
            continue
        attributes[name] = _cut(fields, name, text)
    return attributes


def _take_text(fields: RowFields, name: str, value: object) -> str | None:
    try:
        return to_text(value)
    except ValueError as error:
        fields.note(name, f"left out: {error}", value)
        return None


def _cut(fields: RowFields, name: str, text: str) -> str:
    if len(text) > TITLE_LIMIT_CHARS:
        fields.note(name, f"cut at {TITLE_LIMIT_CHARS} characters", text)
    return text[:TITLE_LIMIT_CHARS]

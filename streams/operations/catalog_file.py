"""A shop's catalog file: one item per row."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from reaseq.errors import CatalogError
from reaseq.knowledge.content import digest
from reaseq.records import Item
from streams.delivery.topics import ITEMS
from streams.operations.source_file import SourceFile
from streams.operations.source_values import TIME_COLUMNS, Row, to_attributes, to_event_time_ms, to_number, to_text


class CatalogFile(SourceFile):
    """Items: `item_id` and `title`; optionally `price`, `seller_id` and an event time. Other columns become attributes.

    An item without an event time gets `listed_ms` or, by default, the file's modification time. So reading the same file again
    changes nothing, and the items of a modified file are newer.
    """

    topic = ITEMS
    required = frozenset({"item_id", "title"})

    def __init__(self, path: Path, names: Mapping[str, str] | None = None, listed_ms: int | None = None) -> None:
        super().__init__(path, names)
        self._listed_ms = self._modified_ms if listed_ms is None else listed_ms

    @property
    def identity(self) -> str:
        """The identity of the file and its column names, hashed with the listing time."""
        return digest(super().identity, str(self._listed_ms))

    def items(self) -> Iterator[Item]:
        """The item of each row. Raises CatalogError with the row number if one is invalid."""
        for number, message in enumerate(self.messages()):
            try:
                yield msgspec.convert(message, Item)
            except msgspec.ValidationError as error:
                raise CatalogError(f"{self._path}, row {number}: {error}") from error

    def _build_message(self, row: Row) -> Row:
        message: Row = {name: to_text(row[name]) for name in ("item_id", "title", "seller_id") if name in row}
        message |= {"price": to_number(row["price"])} if "price" in row else {}
        other = row.keys() - self.required - TIME_COLUMNS - {"price", "seller_id", "attributes"}
        attributes = to_attributes(row.get("attributes")) | {name: to_text(row[name]) for name in sorted(other)}
        event_time_ms = to_event_time_ms(row, self._listed_ms)
        return {"schema": "item.1", "event_time_ms": event_time_ms, **message, "attributes": attributes}

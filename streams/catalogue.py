"""A parquet catalogue of any size, as items: onto the topics at a bounded rate, or into the hands of a command."""

import json
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from reaseq.errors import CatalogueError
from reaseq.knowledge.content import digest
from reaseq.records import Item
from streams.kafka import Producer
from streams.messages import RawRecord
from streams.replay import at_rate
from streams.topics import ITEMS

READ_ROWS = 1000
REQUIRED = {"item_id", "title"}
OPTIONAL = {"event_time_ms", "price", "seller_id", "attributes"}
SCHEMA = "item.1"


class Catalogue:
    """The rows of a parquet file with `item_id`, `title`, and where it has them `event_time_ms`, `price`, `seller_id`.

    Every further column of text becomes an attribute of that name. Without `event_time_ms` an item's event time is the time
    at which the file was last changed, so that reading the file again changes nothing.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise CatalogueError(f"{path}: {error}") from error
        names = set(self._file.schema_arrow.names)
        if missing := REQUIRED - names:
            raise CatalogueError(f"{path}: no column {', '.join(sorted(missing))}; it has {', '.join(sorted(names))}")
        self._attributes = sorted(names - REQUIRED - OPTIONAL)
        self._time_ms = int(path.stat().st_mtime * 1000)
        self._path = path

    def __len__(self) -> int:
        rows: int = self._file.metadata.num_rows
        return rows

    @property
    def identity(self) -> str:
        """Changes when the file does."""
        size = self._path.stat().st_size
        return digest(str(self._path.resolve()), str(size), str(self._time_ms))

    def messages(self) -> Iterator[dict[str, Any]]:
        """Each row as the fields of an item message, right or wrong: what is wrong with it, the stream says."""
        for batch in self._file.iter_batches(READ_ROWS):
            for row in batch.to_pylist():
                yield self._message(row)

    def items(self) -> Iterator[Item]:
        """Each row as an item. Raises CatalogueError, which names the row, where one is not valid."""
        for number, message in enumerate(self.messages()):
            try:
                yield msgspec.convert(message, Item)
            except msgspec.ValidationError as error:
                raise CatalogueError(f"{self._path}, row {number}: {error}") from error

    def _message(self, row: dict[str, Any]) -> dict[str, Any]:
        message = {name: row[name] for name in REQUIRED | OPTIONAL if row.get(name) is not None}
        told = dict(message.get("attributes") or {})
        told |= {name: row[name] if isinstance(row[name], str) else str(row[name]) for name in self._attributes if row[name]}
        return {"schema": SCHEMA, "event_time_ms": self._time_ms, **message, "attributes": told}


def backfill(
    catalogue: Catalogue, producer: Producer, progress_file: Path, rate_items_per_s: float, progress: Callable[[int], None]
) -> int:
    """Produce a catalogue's rows to `items`, at most so many a second; goes on where an earlier run was stopped.

    A row that is no valid item is produced as it is: the stream buries it with the reason. Returns how many were produced.
    """
    done = int(json.loads(progress_file.read_text())["rows"]) if progress_file.exists() else 0
    progress(done)
    progress_file.parent.mkdir(parents=True, exist_ok=True)
    produced = 0
    for chunk in at_rate(islice(catalogue.messages(), done, None), rate_items_per_s):
        produced += producer.send_raw([_record(message) for message in chunk])
        partial = progress_file.with_suffix(".partial")
        partial.write_text(json.dumps({"rows": done + produced}))
        partial.replace(progress_file)
        progress(len(chunk))
    return produced


def _record(message: dict[str, Any]) -> RawRecord:
    key = str(message.get("item_id", "")).encode()
    return RawRecord(ITEMS.name, key, json.dumps(message).encode(), int(time.time() * 1000))

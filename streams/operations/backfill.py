"""A shop's own files, parquet or CSV of any size, as messages: catalogs and logs of events, onto the topics at a rate."""

import csv
import json
import math
import time
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from reaseq.errors import CatalogError
from reaseq.knowledge.content import digest
from reaseq.records import TIME_LIMIT_MS, Item
from streams.contract.messages import RawRecord
from streams.contract.topics import EVENTS, ITEMS, Topic
from streams.operations.replay import at_rate
from streams.runtime.kafka_clients import Producer

READ_ROWS = 1000
TIMES = {"event_time_ms", "event_time_s", "event_time"}
IDENTIFYING = ("user_id", "item_id", "type", "event_time_ms", "quantity")
LIST_SEPARATOR = " > "  # as of a path of categories
_UNREADABLE = (pa.ArrowInvalid, OSError, UnicodeDecodeError, csv.Error)

Row = dict[str, Any]


class SourceFile(ABC):
    """The rows of a parquet file, or of a CSV file with a line of names, as messages of a topic.

    `names` says which column stands for which field, where it is called otherwise. An event time is in `event_time_ms`, in
    `event_time_s`, or as a date in `event_time` (UTC where it says nothing else). What is empty is not there. Raises
    CatalogError.
    """

    topic: Topic
    required: frozenset[str]

    def __init__(self, path: Path, names: Mapping[str, str] | None = None) -> None:
        self._path = path
        self._field_by_column = {column: field for field, column in (names or {}).items()}
        try:
            self.columns = [self._field_by_column.get(column, column) for column in self._read_columns()]
            self._time_ms = int(path.stat().st_mtime * 1000)
        except _UNREADABLE as error:
            raise CatalogError(f"{path}: {error}") from error
        if missing := self.required - set(self.columns):
            raise CatalogError(f"{path}: no column {', '.join(sorted(missing))}; it has {', '.join(sorted(self.columns))}")

    def __len__(self) -> int:
        if self._is_csv:
            return sum(1 for _ in self._rows())
        rows: int = pq.ParquetFile(self._path).metadata.num_rows
        return rows

    @property
    def identity(self) -> str:
        """Changes when the file does, or how it is read."""
        size = self._path.stat().st_size
        return digest(
            str(self._path.resolve()), str(size), str(self._time_ms), *sorted(map("=".join, self._field_by_column.items()))
        )

    def messages(self) -> Iterator[Row]:
        """Each row as the fields of a message, right or wrong: what is wrong with it, the stream says."""
        for row in self._rows():
            told = {name: value for name, value in row.items() if not _is_empty(value)}
            yield self._message({self._field_by_column.get(name, name): value for name, value in told.items()})

    @abstractmethod
    def _message(self, row: Row) -> Row:
        """The message that a row is."""

    @property
    def _is_csv(self) -> bool:
        return self._path.suffix.lower() == ".csv"

    def _read_columns(self) -> list[str]:
        if self._is_csv:
            with self._path.open(newline="", encoding="utf-8-sig") as file:
                return next(csv.reader(file), [])
        return list(pq.ParquetFile(self._path).schema_arrow.names)

    def _rows(self) -> Iterator[Row]:
        try:
            yield from self._csv_rows() if self._is_csv else self._parquet_rows()
        except _UNREADABLE as error:
            raise CatalogError(f"{self._path}: {error}") from error

    def _csv_rows(self) -> Iterator[Row]:
        with self._path.open(newline="", encoding="utf-8-sig") as file:
            yield from csv.DictReader(file, restkey="", restval="")

    def _parquet_rows(self) -> Iterator[Row]:
        for batch in pq.ParquetFile(self._path).iter_batches(READ_ROWS):
            yield from batch.to_pylist()


class CatalogFile(SourceFile):
    """Items: `item_id`, `title`, and where it has them `price`, `seller_id` and an event time.

    Every further column becomes an attribute of that name. Without an event time an item has been listed since `listed_ms`,
    or else since the file was last changed: reading the file again changes nothing, a changed file is newer.
    """

    topic = ITEMS
    required = frozenset({"item_id", "title"})

    def __init__(self, path: Path, names: Mapping[str, str] | None = None, listed_ms: int | None = None) -> None:
        super().__init__(path, names)
        self._listed_ms = self._time_ms if listed_ms is None else listed_ms

    @property
    def identity(self) -> str:
        """Changes with the time of listing as well."""
        return digest(super().identity, str(self._listed_ms))

    def items(self) -> Iterator[Item]:
        """Each row as an item. Raises CatalogError, which names the row, where one is not valid."""
        for number, message in enumerate(self.messages()):
            try:
                yield msgspec.convert(message, Item)
            except msgspec.ValidationError as error:
                raise CatalogError(f"{self._path}, row {number}: {error}") from error

    def _message(self, row: Row) -> Row:
        message: Row = {name: _text(row[name]) for name in ("item_id", "title", "seller_id") if name in row}
        message |= {"price": _number(row["price"])} if "price" in row else {}
        further = row.keys() - self.required - TIMES - {"price", "seller_id", "attributes"}
        attributes = _attributes(row.get("attributes")) | {name: _text(row[name]) for name in sorted(further)}
        return {"schema": "item.1", "event_time_ms": _event_time_ms(row, self._listed_ms), **message, "attributes": attributes}


class EventLogFile(SourceFile):
    """Events: `user_id`, `item_id`, an event time, and where it has them `type` (else a purchase), `quantity` and `event_id`.

    Without `event_id` it is made of the rest, so that equal rows are one event, however often they are read.

    They come in order of event time, whatever the file's is, and end before `until_ms`: only so does the archive learn what was
    known of a user before each event. For that the whole log is held in memory.
    """

    topic = EVENTS
    required = frozenset({"user_id", "item_id"})

    def __init__(self, path: Path, names: Mapping[str, str] | None = None, until_ms: int = TIME_LIMIT_MS) -> None:
        super().__init__(path, names)
        if not TIMES & set(self.columns):
            raise CatalogError(f"{path}: no column {', '.join(sorted(TIMES))}; it has {', '.join(sorted(self.columns))}")
        events = sorted(super().messages(), key=_moment)
        self._in_order = events[: bisect_left(events, until_ms, key=_moment)]

    def __len__(self) -> int:
        return len(self._in_order)

    def messages(self) -> Iterator[Row]:
        """As those of any table, in order of event time; first comes what has none that makes sense."""
        return iter(self._in_order)

    def _message(self, row: Row) -> Row:
        message: Row = {name: _text(row[name]) for name in ("user_id", "item_id", "event_id") if name in row}
        message |= {"type": _text(row.get("type", "purchase")), "event_time_ms": _event_time_ms(row, None)}
        message |= {"quantity": _number(row["quantity"])} if "quantity" in row else {}
        message.setdefault("event_id", digest(*(str(message.get(name)) for name in IDENTIFYING)))
        return {"schema": "event.1", **message}


def backfill(
    table: SourceFile, producer: Producer, progress_file: Path, rate_per_s: float, progress: Callable[[int], None]
) -> int:
    """Produce a table's rows to its topic, at most so many a second; goes on where an earlier run was stopped.

    A row that is not valid is produced as it is: the stream buries it with the reason. Returns how many were produced.
    """
    done = int(json.loads(progress_file.read_text())["rows"]) if progress_file.exists() else 0
    progress(done)
    progress_file.parent.mkdir(parents=True, exist_ok=True)
    produced = 0
    for chunk in at_rate(islice(table.messages(), done, None), rate_per_s):
        produced += producer.send_raw([_record(table.topic, message) for message in chunk])
        partial = progress_file.with_suffix(".partial")
        partial.write_text(json.dumps({"rows": done + produced}))
        partial.replace(progress_file)
        progress(len(chunk))
    return produced


def _moment(message: Row) -> int:
    time_ms = message["event_time_ms"]
    return time_ms if isinstance(time_ms, int) else -1


def _record(topic: Topic, message: Row) -> RawRecord:
    key = message.get("item_id" if topic is ITEMS else "user_id", "")
    return RawRecord(topic.name, key.encode(), json.dumps(message, default=str).encode(), int(time.time() * 1000))


def _is_empty(value: object) -> bool:
    return value in (None, "") or (isinstance(value, float) and math.isnan(value))


def _attributes(value: object) -> dict[str, str]:
    """Those of a column of that name: a struct, a map's pairs, or one text."""
    pairs = value.items() if isinstance(value, dict) else value if isinstance(value, list) else [("attributes", value)]
    return {name: _text(of) for name, of in pairs if not _is_empty(of)}


def _text(value: object) -> str:
    return LIST_SEPARATOR.join(map(str, value)) if isinstance(value, list) else str(value)


def _number(value: object) -> object:
    with suppress(ValueError, TypeError):
        return float(value)  # type: ignore[arg-type]
    return value


def _event_time_ms(row: Row, otherwise: int | None) -> object:
    """In milliseconds; what makes no sense is left as it is."""
    with suppress(ValueError, TypeError, OverflowError):
        if "event_time_ms" in row:
            return int(row["event_time_ms"])
        if "event_time_s" in row:
            return int(float(row["event_time_s"]) * 1000)
        if "event_time" in row:
            moment = row["event_time"]
            moment = moment if isinstance(moment, datetime) else datetime.fromisoformat(str(moment))
            return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    return next((row[name] for name in sorted(TIMES) if name in row), otherwise)

"""Reads a shop's own files, parquet or CSV of any size, as messages of a topic."""

import csv
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from reaseq.errors import CatalogError
from reaseq.knowledge.content import digest
from streams.delivery.topics import Topic
from streams.operations.source_values import Row, is_empty

READ_ROWS = 1000  # of a parquet file at a time
_UNREADABLE = (pa.ArrowInvalid, OSError, UnicodeDecodeError, csv.Error)


class SourceFile(ABC):
    """The rows of a parquet file, or of a CSV file with a header, as messages of a topic.

    `names` maps a field to its column, where their names differ. The event time is in column `event_time_ms`,
    in `event_time_s`, or as a date in `event_time` (UTC unless it has a time zone). Empty values count as missing.
    Raises CatalogError if the file cannot be read or lacks a required column.
    """

    topic: Topic
    required: frozenset[str]

    def __init__(self, path: Path, names: Mapping[str, str] | None = None) -> None:
        self._path = path
        self._field_by_column = {column: field for field, column in (names or {}).items()}
        try:
            self.columns = [self._field_by_column.get(column, column) for column in self._read_columns()]
            self._modified_ms = int(path.stat().st_mtime * 1000)
        except _UNREADABLE as error:
            raise CatalogError(f"{path}: {error}") from error
        if missing := self.required - set(self.columns):
            raise self._missing_column(", ".join(sorted(missing)))

    def __len__(self) -> int:
        if self._is_csv:
            return sum(1 for _ in self._rows())
        rows: int = pq.ParquetFile(self._path).metadata.num_rows
        return rows

    @property
    def identity(self) -> str:
        """A hash of the file's path, size and modification time, and of `names`."""
        size = self._path.stat().st_size
        names = sorted(map("=".join, self._field_by_column.items()))
        return digest(str(self._path.resolve()), str(size), str(self._modified_ms), *names)

    def messages(self) -> Iterator[Row]:
        """The fields of a message for each row. Rows are not validated here: the stream does that."""
        for row in self._rows():
            present = {name: value for name, value in row.items() if not is_empty(value)}
            yield self._build_message({self._field_by_column.get(name, name): value for name, value in present.items()})

    @abstractmethod
    def _build_message(self, row: Row) -> Row:
        """The message of a row."""

    def _missing_column(self, missing: str) -> CatalogError:
        return CatalogError(f"{self._path}: no column {missing}; the columns are {', '.join(sorted(self.columns))}")

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

"""Puts the records of a source file in order of event time, in bounded memory."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import NamedTuple

import duckdb
import msgspec
import pyarrow as pa

from streams.sources.source_file import SourceFile, SourceRecord

BATCH_ROWS = 10_000
MEMORY_LIMIT = "512MB"  # beyond which DuckDB sorts on disk
FIRST_MS = -1  # refused rows have no time, so they come first
_SCHEMA = pa.schema(
    [("time_ms", pa.int64()), ("row", pa.int64()), ("key", pa.string()), ("value", pa.binary()), ("refusal", pa.string())]
)


class SpooledRecord(NamedTuple):
    """A record in the form in which it is produced, or what a refused row held and why it was refused."""

    row: int
    key: str
    value: bytes
    refusal: str


class Spool:
    """All records of a file, by event time and row; refused ones first. A context manager, which deletes what is on disk.

    Filling it reads the whole file, so nothing has been produced when this raises CatalogError.
    """

    def __init__(self, source: SourceFile, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = TemporaryDirectory(prefix="spool-", dir=folder)
        self._database = duckdb.connect(str(Path(self._folder.name) / "records.duckdb"))
        for name, value in (("memory_limit", MEMORY_LIMIT), ("temp_directory", self._folder.name)):
            self._database.execute(f"set {name} = ?", [value])
        self._database.execute("set preserve_insertion_order = false")
        self._database.execute("set enable_progress_bar = false")
        self._database.register("empty", _SCHEMA.empty_table())
        self._database.execute("create table spool as select * from empty")
        try:
            for batch in _encode(source.records()):
                self._database.register("batch", batch)
                self._database.execute("insert into spool select * from batch")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Delete what is on disk."""
        self._database.close()
        self._folder.cleanup()

    def count(self, until_ms: int) -> int:
        """The number of records before `until_ms`."""
        found = self._database.execute("select count(*) from spool where time_ms < ?", [until_ms]).fetchone()
        return int(found[0]) if found else 0

    def read(self, until_ms: int, skip: int) -> Iterator[SpooledRecord]:
        """The records before `until_ms` in order, without the first `skip`."""
        query = "select row, key, value, refusal from spool where time_ms < ? order by time_ms, row offset ?"
        cursor = self._database.cursor()
        for batch in cursor.execute(query, [until_ms, skip]).fetch_record_batch(BATCH_ROWS):
            for row, key, value, refusal in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                yield SpooledRecord(row, key, value, refusal)


def _encode(records: Iterable[SourceRecord]) -> Iterator[pa.Table]:
    remaining = iter(records)
    while batch := list(islice(remaining, BATCH_ROWS)):
        columns = zip(*map(_to_columns, batch), strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
        yield pa.Table.from_arrays(arrays, schema=_SCHEMA)


def _to_columns(record: SourceRecord) -> tuple[int, int, str, bytes, str]:
    time_ms = FIRST_MS if record.refusal else record.message["event_time_ms"]
    return time_ms, record.row, record.key, msgspec.json.encode(record.message, enc_hook=str), record.refusal

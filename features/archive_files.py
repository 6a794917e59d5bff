"""Files of the archive: the parquet schema of each view, atomic and durable writes, and the lock for rewriting files."""

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureView, Field
from feast.types import Bytes, Float64, Int64, String

from features.definitions import join_key
from features.record_mapping import Row

_ARROW = {Bytes: pa.binary(), Float64: pa.float64(), Int64: pa.int64(), String: pa.string()}
_TIMESTAMP = pa.timestamp("us", tz="UTC")


def build_schema(view: FeatureView) -> pa.Schema:
    """The parquet schema of a view: entity id, event time, version, features."""
    fields: list[Field] = view.features
    return pa.schema(
        [
            pa.field(join_key(view), pa.string()),
            pa.field("event_timestamp", _TIMESTAMP),
            pa.field("version_timestamp", _TIMESTAMP),
            *(pa.field(field.name, _ARROW[field.dtype]) for field in fields),
        ]
    )


def build_table(rows: list[Row]) -> pa.Table:
    """The table of rows of one view."""
    view = rows[0].view
    entries = [
        {
            join_key(view): row.entity_id,
            "event_timestamp": row.event_time_ms * 1000,
            "version_timestamp": row.event_time_ms * 1000 + int(row.values["revision"]),
            **row.values,
        }
        for row in rows
    ]
    return pa.Table.from_pylist(entries, schema=build_schema(view))


def split_by_month(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each month of event time (`YYYY-MM`)."""
    months = pc.strftime(table["event_timestamp"], format="%Y-%m")
    for month in pc.unique(months).to_pylist():
        yield month, table.filter(pc.equal(months, month))


def write_table(path: Path, table: pa.Table) -> None:
    """Write a parquet file atomically; it is on disk when the call returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _atomic(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; it is on disk when the call returns."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically; it is on disk when the call returns."""
    with _atomic(path) as partial:
        partial.write_bytes(content)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder` for rewriting its files. Appending does not need it."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _atomic(path: Path) -> Iterator[Path]:
    """A temporary file to write to, unique to this call. It is synced and renamed to `path` when the block succeeds."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)  # after a failed write, free the space

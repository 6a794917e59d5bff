"""The archive: every feature record as append-only parquet, one folder a view, read by Feast's offline store."""

import fcntl
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureView, Field
from feast.types import Bytes, Float64, Int64, String

from features.definitions import USER_KEY, VIEWS, join_key
from features.rows import Row, rows_by_view
from reaseq.errors import ArchiveUnavailable
from reaseq.records import ItemFeatures, UserFeatures

_ARROW = {Bytes: pa.binary(), Float64: pa.float64(), Int64: pa.int64(), String: pa.string()}
_TIMESTAMP = pa.timestamp("us", tz="UTC")


class Archive:
    """Appends records as immutable files. A file appears whole or not at all: it is written aside, then renamed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self) -> None:
        """Give every view a folder with an empty file, so that a join over an empty archive has its columns."""
        for view in VIEWS:
            empty = self._folder / view.name / "empty.parquet"
            if not empty.exists():
                _write(empty, _schema(view).empty_table())

    def append(self, records: Sequence[ItemFeatures | UserFeatures]) -> None:
        """Write the rows of `records`, durable when the call returns. A record may be appended twice without harm.

        Of a user who has asked to be forgotten, whatever is older than that goes.

        Raises ArchiveUnavailable.
        """
        for name, rows in rows_by_view(records).items():
            try:
                _write(self._folder / name / f"part-{uuid.uuid4().hex}.parquet", _table(rows))
            except OSError as error:
                raise ArchiveUnavailable(f"the archive cannot be written: {error}") from error
        forgotten = {
            record.user_id: record.history.forgotten_ms
            for record in records
            if isinstance(record, UserFeatures) and record.is_forgotten
        }
        if forgotten:
            self._forget(forgotten)

    def _forget(self, until_ms: Mapping[str, int]) -> None:
        """Remove the rows of users up to a moment each. Every file of theirs is written anew, one worker at a time."""
        with (self._folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for view in (view for view in VIEWS if join_key(view) == USER_KEY):
                for path in sorted((self._folder / view.name).glob("*.parquet")):
                    table = pq.read_table(path)
                    rows = zip(table[USER_KEY].to_pylist(), table["event_timestamp"].cast(pa.int64()).to_pylist(), strict=True)
                    kept = [time_us > until_ms.get(user_id, -1) * 1000 for user_id, time_us in rows]
                    if not all(kept):
                        _write(path, table.filter(pa.array(kept)))


def _schema(view: FeatureView) -> pa.Schema:
    fields: list[Field] = view.features
    return pa.schema(
        [
            pa.field(join_key(view), pa.string()),
            pa.field("event_timestamp", _TIMESTAMP),
            pa.field("version_timestamp", _TIMESTAMP),
            *(pa.field(field.name, _ARROW[field.dtype]) for field in fields),
        ]
    )


def _table(rows: list[Row]) -> pa.Table:
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
    return pa.Table.from_pylist(entries, schema=_schema(view))


def _write(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp")
    try:
        pq.write_table(table, aside, compression="zstd")
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)  # what is cut short would take the space that is missing

"""The archive: every feature record as append-only parquet, `view/month of event time/files`, read by Feast's offline store.

A file appears whole or not at all: it is written aside, then renamed. A worker that dies behind a file and before its commit
appends the same rows again: readers take one of equals, and compaction leaves one.
"""

import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureView, Field
from feast.types import Bytes, Float64, Int64, String

from features.definitions import USER_KEY, VIEWS, join_key
from features.record_mapping import Row, rows_by_view
from reaseq.errors import ArchiveUnavailable
from reaseq.knowledge.vocabulary import Vocabulary
from reaseq.records import ItemFeatures, UserFeatures

COMPACT_FILES = 64  # of a month are made fewer
WHOLE_ROWS = 100_000  # a file of so many is left as it is
SETTLED_S = 600.0  # for so long a file that has been replaced stays, for who is reading it

_ARROW = {Bytes: pa.binary(), Float64: pa.float64(), Int64: pa.int64(), String: pa.string()}
_TIMESTAMP = pa.timestamp("us", tz="UTC")
_REPLACES = ".replaces"
_FORGOTTEN = ".forgotten.json"


class Archive:
    """Appends records as immutable files, and makes few of many."""

    def __init__(self, folder: Path, vocabulary: Vocabulary, settled_s: float = SETTLED_S) -> None:
        self._folder = folder
        self._vocabulary = vocabulary
        self._settled_s = settled_s
        self._read: dict[str, int] = {}  # who has been forgotten, as of
        self._read_ns = 0

    def create(self) -> None:
        """Give every view an empty file, so that a join over an empty archive has its columns."""
        for view in VIEWS:
            empty = self._folder / view.name / "empty" / "empty.parquet"
            if not empty.exists():
                _write(empty, _schema(view).empty_table())

    def append(self, records: Sequence[ItemFeatures | UserFeatures]) -> None:
        """Write the rows of `records`, durable when the call returns. A record may be appended twice without harm.

        Of users who have asked to be forgotten (`wishes`), whatever is older than that goes. Raises ArchiveUnavailable.
        """
        try:
            wishes = self.wishes(records)
            gone = self._forgotten() | wishes
            kept = [
                record
                for record in records
                if isinstance(record, ItemFeatures) or record.event_time_ms > gone.get(record.user_id, -1)
            ]
            for name, rows in rows_by_view(kept, self._vocabulary).items():
                for month, table in _by_month(_table(rows)):
                    _write(self._folder / name / month / f"part-{uuid.uuid4().hex}.parquet", table)
            if wishes:
                self._forget(wishes)
        except OSError as error:
            raise ArchiveUnavailable(f"the archive cannot be written: {error}") from error

    def wishes(self, records: Sequence[ItemFeatures | UserFeatures]) -> dict[str, int]:
        """Who of the records' users has asked that everything up to a moment (ms) be forgotten, and has not been yet.

        Asked of every record: the one that tells of nothing else may never come, where the user was back at once.
        """
        asked = {
            record.user_id: record.history.forgotten_ms
            for record in records
            if isinstance(record, UserFeatures) and record.history.forgotten_ms
        }
        done = self._forgotten() if asked else {}
        return {user_id: until_ms for user_id, until_ms in asked.items() if until_ms > done.get(user_id, 0)}

    def _forgotten(self) -> dict[str, int]:
        """Up to which moment each user has been forgotten."""
        known = self._folder / _FORGOTTEN
        if not known.exists():
            return {}
        if (written := known.stat().st_mtime_ns) != self._read_ns:
            self._read, self._read_ns = json.loads(known.read_text()), written
        return self._read

    def compact(self, least_files: int = COMPACT_FILES) -> int:
        """ScorerFactory few files of many, wherever a month has at least so many, with one of each row; returns how many were replaced.

        What has been replaced goes once whoever reads it must be done. Raises ArchiveUnavailable.
        """
        try:
            with self._alone():
                return sum(
                    self._compact(month, view, least_files)
                    for view in VIEWS
                    for month in sorted((self._folder / view.name).iterdir())
                )
        except OSError as error:
            raise ArchiveUnavailable(f"the archive cannot be compacted: {error}") from error

    def _compact(self, folder: Path, view: FeatureView, least_files: int) -> int:
        for aside in folder.glob("*.tmp"):
            if time.time() - aside.stat().st_mtime >= self._settled_s:  # whoever wrote it has died of it
                aside.unlink(missing_ok=True)
        replaced = self._replaced(folder)
        small = [
            path
            for path in sorted(folder.glob("*.parquet"))
            if path.name not in replaced and pq.read_metadata(path).num_rows < WHOLE_ROWS
        ]
        if len(small) < max(2, least_files):
            return 0
        for group in _groups(small):
            tables = [pq.read_table(path, partitioning=None) for path in group]
            table = pa.concat_tables(tables, promote_options="default").select(_schema(view).names)
            distinct = table.group_by(table.column_names, use_threads=False).aggregate([])
            name = f"whole-{uuid.uuid4().hex}.parquet"
            _write(folder / name, distinct.sort_by([(join_key(view), "ascending"), ("event_timestamp", "ascending")]))
            # Only behind the file itself: until then, these are all there is.
            _write_text(folder / f".{name}{_REPLACES}", json.dumps([path.name for path in group]))
        return len(small)

    def _replaced(self, folder: Path) -> set[str]:
        """The files that others stand for; those that have settled are removed."""
        names: set[str] = set()
        for note in folder.glob(f".*{_REPLACES}"):
            replaced = json.loads(note.read_text())
            if time.time() - note.stat().st_mtime >= self._settled_s:
                for name in replaced:
                    (folder / name).unlink(missing_ok=True)
                note.unlink()
            else:
                names.update(replaced)
        return names

    def _forget(self, until_ms: dict[str, int]) -> None:
        """Remove the rows of users up to a moment each. Every file of theirs is written anew."""
        with self._alone():
            for view in (view for view in VIEWS if join_key(view) == USER_KEY):
                for path in sorted((self._folder / view.name).glob("*/*.parquet")):
                    table = pq.read_table(path, partitioning=None)
                    rows = zip(table[USER_KEY].to_pylist(), table["event_timestamp"].cast(pa.int64()).to_pylist(), strict=True)
                    kept = [time_us > until_ms.get(user_id, -1) * 1000 for user_id, time_us in rows]
                    if not all(kept):
                        _write(path, table.filter(pa.array(kept)))
            _write_text(self._folder / _FORGOTTEN, json.dumps(self._forgotten() | until_ms))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else rewrites files meanwhile; to append is allowed."""
        with (self._folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _groups(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """The paths in stretches of `WHOLE_ROWS` or a little more."""
    group: list[Path] = []
    rows = 0
    for path in paths:
        group.append(path)
        rows += pq.read_metadata(path).num_rows
        if rows >= WHOLE_ROWS:
            yield group
            group, rows = [], 0
    if group:
        yield group


def _by_month(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    months = pc.strftime(table["event_timestamp"], format="%Y-%m")
    for month in pc.unique(months).to_pylist():
        yield month, table.filter(pc.equal(months, month))


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
    with _aside(path) as aside:
        pq.write_table(table, aside, compression="zstd")


def _write_text(path: Path, text: str) -> None:
    with _aside(path) as aside:
        aside.write_text(text)


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """Where to write what is to appear at `path`, whole and on disk, behind the context."""
    aside = path.with_name(f".{path.name}.tmp")
    try:
        yield aside
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)  # what is cut short would take the space that is missing

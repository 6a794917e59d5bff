"""Compaction of the archive: merges small files and drops duplicate rows, without disturbing readers.

The files of a month are merged into a new one, then a note beside it lists the files that it replaces. They are deleted once
the note has been there for `settle_s`, so that readers that have listed them can finish.
"""

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureView

from features.archive_files import build_schema, write_table, write_text
from features.definitions import join_key

TARGET_ROWS = 100_000  # files of this size are not compacted any further
_NOTE_SUFFIX = ".replaces"


def compact_month(folder: Path, view: FeatureView, min_files: int, settle_s: float) -> int:
    """Compact the files of one view and month if at least `min_files` are small. Returns the number of files replaced."""
    _delete_abandoned(folder, settle_s)
    replaced = _delete_settled(folder, settle_s)
    small = [
        path
        for path in sorted(folder.glob("*.parquet"))
        if path.name not in replaced and pq.read_metadata(path).num_rows < TARGET_ROWS
    ]
    if len(small) < max(2, min_files):
        return 0
    for group in _group_by_rows(small):
        tables = [pq.read_table(path, partitioning=None) for path in group]
        table = pa.concat_tables(tables, promote_options="default").select(build_schema(view).names)
        distinct = table.group_by(table.column_names, use_threads=False).aggregate([])
        name = f"compacted-{uuid.uuid4().hex}.parquet"
        write_table(folder / name, distinct.sort_by([(join_key(view), "ascending"), ("event_timestamp", "ascending")]))
        # The note must not exist before the file: until then, the old files are the only copy.
        write_text(folder / f".{name}{_NOTE_SUFFIX}", json.dumps([path.name for path in group]))
    return len(small)


def _delete_abandoned(folder: Path, settle_s: float) -> None:
    """Delete temporary files of writers that died."""
    for partial in folder.glob("*.tmp"):
        if time.time() - partial.stat().st_mtime >= settle_s:
            partial.unlink(missing_ok=True)


def _delete_settled(folder: Path, settle_s: float) -> set[str]:
    """Delete replaced files that have settled. Returns the names of those that have not."""
    waiting: set[str] = set()
    for note in folder.glob(f".*{_NOTE_SUFFIX}"):
        replaced = json.loads(note.read_text())
        if time.time() - note.stat().st_mtime >= settle_s:
            for name in replaced:
                (folder / name).unlink(missing_ok=True)
            note.unlink()
        else:
            waiting.update(replaced)
    return waiting


def _group_by_rows(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Consecutive paths in groups of `TARGET_ROWS` or slightly more; the last group may be smaller."""
    group: list[Path] = []
    rows = 0
    for path in paths:
        group.append(path)
        rows += pq.read_metadata(path).num_rows
        if rows >= TARGET_ROWS:
            yield group
            group, rows = [], 0
    if group:
        yield group

"""The archive: every feature record as append-only parquet, `view/month of event time/files`, read by Feast's offline store.

Files appear atomically. If a worker dies after a file is written and before its commit, the same rows are appended again:
readers keep one of equal rows, and so does compaction.
"""

import uuid
from collections.abc import Sequence
from pathlib import Path

from features.archive_compaction import compact_month
from features.archive_erasure import Erasure
from features.archive_files import build_schema, build_table, exclusive, split_by_month, write_table
from features.definitions import VIEWS
from features.record_mapping import rows_by_view
from reaseq.errors import ArchiveUnavailable
from reaseq.knowledge.vocabulary import Vocabulary
from reaseq.records import FeatureRecord, UserFeatures

COMPACT_FILES = 64  # a month with this many small files is compacted
SETTLE_S = 600.0  # how long a replaced file is kept for readers that have already listed it


class Archive:
    """Appends records as immutable files, compacts small files, and erases users on request."""

    def __init__(self, folder: Path, vocabulary: Vocabulary, settle_s: float = SETTLE_S) -> None:
        self._folder = folder
        self._vocabulary = vocabulary
        self._settle_s = settle_s
        self._erasure = Erasure(folder)

    def create(self) -> None:
        """Give every view an empty file, so that a join over an empty archive has its columns."""
        for view in VIEWS:
            empty = self._folder / view.name / "empty" / "empty.parquet"
            if not empty.exists():
                write_table(empty, build_schema(view).empty_table())

    def append(self, records: Sequence[FeatureRecord]) -> None:
        """Write the rows of `records`; they are durable when the call returns. Appending a record twice does no harm.

        Carries out the records' erasure requests: older rows of those users are removed. Raises ArchiveUnavailable.
        """
        try:
            requests = self._erasure.pending(records)
            erased_until_ms = self._erasure.erased_until_ms() | requests
            kept = [
                record
                for record in records
                if not isinstance(record, UserFeatures) or record.event_time_ms > erased_until_ms.get(record.user_id, -1)
            ]
            for name, rows in rows_by_view(kept, self._vocabulary).items():
                for month, table in split_by_month(build_table(rows)):
                    write_table(self._folder / name / month / f"part-{uuid.uuid4().hex}.parquet", table)
            if requests:
                self._erasure.erase(requests)
        except OSError as error:
            raise ArchiveUnavailable(f"cannot write to the archive: {error}") from error

    def erasure_requests(self, records: Sequence[FeatureRecord]) -> dict[str, int]:
        """The records' erasure requests that this archive has not carried out yet: user id → erase up to this time in ms."""
        return self._erasure.pending(records)

    def compact(self, min_files: int = COMPACT_FILES) -> int:
        """Merge the small files of every month that has at least `min_files` of them, and drop duplicate rows.

        Replaced files are deleted by a later call, once readers are done with them. Returns the number of files replaced.
        Raises ArchiveUnavailable.
        """
        try:
            with exclusive(self._folder):
                self._erasure.forget_expired()
                return sum(
                    compact_month(month, view, min_files, self._settle_s)
                    for view in VIEWS
                    for month in sorted((self._folder / view.name).iterdir())
                )
        except OSError as error:
            raise ArchiveUnavailable(f"cannot compact the archive: {error}") from error

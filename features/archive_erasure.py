"""Erasure of users from the archive.

A record of a user carries the latest erasure request: everything up to `history.forgotten_ms` must go. A file in the archive
lists the requests that have been carried out, so that each request rewrites files only once, and late records are dropped.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from features.archive_files import exclusive, write_table, write_text
from features.definitions import USER_KEY, VIEWS, join_key
from reaseq.records import FeatureRecord, UserFeatures

_ERASED_FILE = ".forgotten.json"
_EARLIER_FILE = ".forgotten.1.json"
REMEMBER_S = 5 * 7 * 24 * 3600.0  # as long as `events` keeps what it was requested for; superseded records leave earlier


class Erasure:
    """Carries out erasure requests in the archive in `folder`, and remembers them there for half of REMEMBER_S or longer.

    A request that is no longer remembered, of a user who has come back, is carried out again, and finds nothing to erase.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cached: dict[str, int] = {}
        self._cached_mtimes_ns: list[int] = []

    def erased_until_ms(self) -> dict[str, int]:
        """The erased users, each with the time up to which their rows were removed."""
        files = [file for name in (_EARLIER_FILE, _ERASED_FILE) if (file := self._folder / name).exists()]
        if (mtimes_ns := [file.stat().st_mtime_ns for file in files]) != self._cached_mtimes_ns:
            self._cached = {user_id: until_ms for file in files for user_id, until_ms in json.loads(file.read_text()).items()}
            self._cached_mtimes_ns = mtimes_ns
        return self._cached

    def forget_expired(self) -> None:
        """Forget requests after at most REMEMBER_S: a file of earlier requests is replaced when it is half as old.

        The caller holds the lock of the folder.
        """
        latest, earlier = self._folder / _ERASED_FILE, self._folder / _EARLIER_FILE
        if earlier.exists():
            if time.time() - earlier.stat().st_mtime < REMEMBER_S / 2:
                return
            earlier.unlink()
        if latest.exists():
            latest.rename(earlier)
            earlier.touch()  # its age counts from now on

    def pending(self, records: Sequence[FeatureRecord]) -> dict[str, int]:
        """The records' erasure requests that have not been carried out yet: user id → erase up to this time in ms.

        Every record is checked, not only an empty one: if the user comes back at once, there may be no empty record. The
        latest request of a user counts, although a late record may carry an earlier one.
        """
        requests: dict[str, int] = {}
        for record in records:
            if isinstance(record, UserFeatures) and record.history.forgotten_ms:
                requests[record.user_id] = max(record.history.forgotten_ms, requests.get(record.user_id, 0))
        erased = self.erased_until_ms() if requests else {}
        return {user_id: until_ms for user_id, until_ms in requests.items() if until_ms > erased.get(user_id, 0)}

    def erase(self, until_ms: dict[str, int]) -> None:
        """Remove the rows of each user up to a time, and remember the requests. Rewrites every file that has such rows."""
        with exclusive(self._folder):
            for view in (view for view in VIEWS if join_key(view) == USER_KEY):
                for path in sorted((self._folder / view.name).glob("*/*.parquet")):
                    table = pq.read_table(path, partitioning=None)
                    rows = zip(table[USER_KEY].to_pylist(), table["event_timestamp"].cast(pa.int64()).to_pylist(), strict=True)
                    kept = [time_us > until_ms.get(user_id, -1) * 1000 for user_id, time_us in rows]
                    if not all(kept):
                        write_table(path, table.filter(pa.array(kept)))
            latest = self._folder / _ERASED_FILE
            remembered = json.loads(latest.read_text()) if latest.exists() else {}
            write_text(latest, json.dumps(remembered | until_ms))

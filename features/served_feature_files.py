"""The files of the served-feature log: appended by the ranking service, erased from by workers, read by the parity audit.

A file `rows-<start>.jsonl` takes rows for half of KEEP_S from `start` on, the time of its first row in seconds, but not beyond
its size limit. The newest two files are kept, and none longer than KEEP_S.
"""

import time
from collections.abc import Collection
from pathlib import Path

import msgspec

from features.archive_files import exclusive, write_bytes
from features.parity import ServedRow
from reaseq.errors import ArchiveUnavailable

KEEP_S = 7 * 24 * 3600.0
FILE_LIMIT_BYTES = 64 * 1024 * 1024
KEPT_FILES = 2


class ServedFeatureFiles:
    """The files of the log in `folder`. Several processes may append and erase; appending never waits."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def append(self, rows: Collection[ServedRow]) -> None:
        """Append all of the rows or, on a full disk, none of them. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        now_s = time.time()
        newest = self._remove_expired(now_s)
        full = newest and newest.stat().st_size >= FILE_LIMIT_BYTES
        if newest is None or full or _start_s(newest) < now_s - KEEP_S / 2:
            newest = self._folder / f"rows-{int(now_s)}.jsonl"
        lines = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
        with newest.open("ab", buffering=0) as file:
            size = file.tell()
            if file.write(lines) < len(lines):
                file.truncate(size)
                raise OSError("only a part of the rows could be written")

    def erase(self, user_ids: Collection[str]) -> None:
        """Remove the rows of users, and the files that have been kept long enough. Raises ArchiveUnavailable.

        Rows that are appended to a file while it is rewritten are lost.
        """
        if not self._folder.exists():
            return
        try:
            with exclusive(self._folder):
                self._remove_expired(time.time())
                for file in self._files():
                    lines = file.read_bytes().splitlines(keepends=True)
                    kept = [line for line in lines if not _is_of(line, user_ids)]
                    if len(kept) < len(lines):
                        write_bytes(file, b"".join(kept))
        except OSError as error:
            raise ArchiveUnavailable(f"cannot erase from the served-feature log: {error}") from error

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("rows*.jsonl"), key=_start_s)

    def _remove_expired(self, now_s: float) -> Path | None:
        """Delete the files that are no longer kept; returns the newest of the others."""
        files = self._files()
        for file in files[:-KEPT_FILES] + [file for file in files[-KEPT_FILES:] if _start_s(file) < now_s - KEEP_S]:
            file.unlink(missing_ok=True)
            files.remove(file)
        return files[-1] if files else None


def _start_s(file: Path) -> float:
    """When the first row was written. A file of an earlier version, which does not say so, counts from its last row."""
    start = file.stem.removeprefix("rows-")
    try:
        return float(start) if start.isdigit() else file.stat().st_mtime
    except FileNotFoundError:  # deleted by another process
        return 0.0


def _is_of(line: bytes, user_ids: Collection[str]) -> bool:
    try:
        row = msgspec.json.decode(line, type=ServedRow)
    except msgspec.DecodeError:  # cut when its writer was killed: whose it was is not known
        return True
    return row.entity == "user" and row.entity_id in user_ids

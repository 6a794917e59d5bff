"""The ledger: every answered call with its answer and its cost. It doubles as the knowledge cache.

One SQLite file, shared by the workers of a machine. An answer is written before it is used, so an answered call is never
repeated, even after a crash. Days are UTC. Calls block; event loops use `LedgerThread`.
"""

import sqlite3
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from reaseq.errors import CatalogError, LedgerUnavailable
from reaseq.knowledge.llm.request import Completion, Usage

BUSY_TIMEOUT_S = 10.0  # how long a call waits while another process writes
TRANSACTION_ROWS = 1000  # inserted at once; other processes wait meanwhile
EXPORT_ROWS = 10_000
GROUPINGS = ("agent", "model", "item_id", "seller_id", "origin", "day")

_SCHEMA = pa.schema(
    [
        ("fingerprint", pa.string()),
        ("agent", pa.string()),
        ("model", pa.string()),
        ("item_id", pa.string()),
        ("seller_id", pa.string()),
        ("content", pa.string()),
        ("text", pa.string()),
        ("rejected", pa.string()),
        ("tokens_in", pa.int64()),
        ("tokens_cached", pa.int64()),
        ("tokens_out", pa.int64()),
        ("seconds", pa.float64()),
        ("retries", pa.int64()),
        ("answered_ms", pa.int64()),
        ("origin", pa.string()),
    ]
)
_COLUMNS = _SCHEMA.names
_SQL_TYPES = {pa.string(): "TEXT", pa.int64(): "INTEGER", pa.float64(): "REAL"}
_CREATE = f"""
CREATE TABLE IF NOT EXISTS calls (
    {", ".join(f"{field.name} {_SQL_TYPES[field.type]} NOT NULL" for field in _SCHEMA)}, PRIMARY KEY (fingerprint)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS calls_by_time ON calls (answered_ms);
CREATE INDEX IF NOT EXISTS calls_by_item ON calls (item_id);
CREATE INDEX IF NOT EXISTS calls_by_content ON calls (content);
"""
_DAY = "strftime('%Y-%m-%d', answered_ms / 1000, 'unixepoch')"
_FORMER_NAMES = {"refused": "rejected"}  # columns of older ledgers and exports → their present names
_INSERT = f"INSERT INTO calls ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) ON CONFLICT DO NOTHING"  # noqa: S608


@dataclass(frozen=True)
class Entry:
    """One answered call. `origin` is `endpoint`, `batch` or `import`; only `endpoint` counts against the token budgets."""

    fingerprint: str
    agent: str
    model: str
    item_id: str
    seller_id: str
    content: str
    completion: Completion
    origin: str = "endpoint"
    answered_ms: int = 0


@dataclass(frozen=True)
class Cost:
    """Total cost of a group of calls."""

    group: str
    calls: int
    rejected: int
    tokens_in: int
    tokens_cached: int
    tokens_out: int
    seconds: float
    retries: int


class Ledger:
    """Answered calls in a SQLite file. Opening a file of an older layout upgrades it in place.

    Every method raises LedgerUnavailable if the file stays locked for BUSY_TIMEOUT_S, is damaged, or its disk is full.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._available():
            self._db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._rename_former_columns()
            self._db.executescript(_CREATE)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def find(self, fingerprint: str) -> Completion | None:
        """The answer to an earlier call; None if there is none."""
        query = "SELECT text, rejected, tokens_in, tokens_cached, tokens_out, seconds, retries FROM calls WHERE fingerprint = ?"
        with self._available():
            row = self._db.execute(query, (fingerprint,)).fetchone()
        return Completion(row[0], row[1], Usage(*row[2:])) if row else None

    def enter(self, entries: Sequence[Entry]) -> int:
        """Insert all entries, or none if it raises; keep an existing one of the same fingerprint. Returns how many are new."""
        now_ms = int(time.time() * 1000)
        return self._insert([_to_row(entry, now_ms) for entry in entries])

    def tokens_of_item(self, item_id: str) -> int:
        """Tokens, in and out, spent at the endpoint on one item."""
        return self._spent("item_id = ?", item_id)

    def tokens_of_day(self, since_ms: int, seller_id: str | None = None) -> int:
        """Tokens spent at the endpoint since a time, on all items or on those of one seller."""
        if seller_id is None:
            return self._spent("answered_ms >= ?", since_ms)
        return self._spent("answered_ms >= ? AND seller_id = ?", since_ms, seller_id)

    def entries(self, content: str) -> list[Entry]:
        """All calls about one content hash, of any item, in order of time."""
        with self._available():
            return _entries(self._db, content)

    def costs(self, by: str, limit: int = 1000) -> list[Cost]:
        """Costs grouped by one of GROUPINGS, highest first, without imported calls. Raises CatalogError on another grouping."""
        if by not in GROUPINGS:
            raise CatalogError(f"cannot group costs by {by!r}; choose one of {', '.join(GROUPINGS)}")
        key = _DAY if by == "day" else by
        query = f"""SELECT {key}, count(*), sum(rejected != ''), sum(tokens_in), sum(tokens_cached), sum(tokens_out),
                           sum(seconds), sum(retries)
                    FROM calls WHERE origin != 'import' GROUP BY 1 ORDER BY sum(tokens_in + tokens_out) DESC LIMIT ?"""  # noqa: S608
        with self._available():
            return [Cost(*row) for row in self._db.execute(query, (limit,))]

    def forget_rejected(self, reasons: Collection[str] = (), day: str = "") -> dict[str, int]:
        """Delete the rejections with one of the reasons (all if empty) on a UTC day (any if empty); returns counts by reason.

        Their requests are pending again. The cost of the calls is forgotten as well.
        """
        where, values = ["rejected != ''"], list[str]()
        if reasons:
            where.append(f"rejected IN ({', '.join('?' * len(reasons))})")
            values += reasons
        if day:
            where.append(f"{_DAY} = ?")
            values.append(day)
        query = f"DELETE FROM calls WHERE {' AND '.join(where)} RETURNING rejected"  # noqa: S608
        with self._transaction():
            return dict(Counter(row[0] for row in self._db.execute(query, values)))

    def export_parquet(self, path: Path) -> int:
        """Write every call to a parquet file, atomically. Returns the number of rows. Raises CatalogError for a directory."""
        if path.is_dir():
            raise CatalogError(f"{path} is a directory: name a file")
        rows = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        with pq.ParquetWriter(partial, _SCHEMA, compression="zstd") as writer:
            for batch in self._batches():
                columns = [
                    pa.array(column, field.type) for column, field in zip(zip(*batch, strict=True), _SCHEMA, strict=True)
                ]
                writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=_SCHEMA))
                rows += len(batch)
        partial.replace(path)
        return rows

    def import_parquet(self, path: Path) -> tuple[int, int]:
        """Add the calls of an exported ledger, marked as imported. Returns how many rows the file has and how many are new.

        Workers can write meanwhile. Raises CatalogError if the file is not an exported ledger; if only some of its rows are
        invalid, the rows before them stay.
        """
        try:
            table = pq.ParquetFile(path)
            if [_FORMER_NAMES.get(name, name) for name in table.schema_arrow.names] != _COLUMNS:
                raise CatalogError(f"{path} is not an exported ledger: columns {table.schema_arrow.names}, not {_COLUMNS}")
            rows = new = 0
            for batch in table.iter_batches(EXPORT_ROWS):
                columns = {name: column.to_pylist() for name, column in zip(_COLUMNS, batch.columns, strict=True)}
                columns["origin"] = ["import"] * len(batch)
                new += self._insert(list(zip(*columns.values(), strict=True)))
                rows += len(batch)
            return rows, new
        except (pa.ArrowInvalid, OSError, sqlite3.IntegrityError) as error:
            raise CatalogError(f"{path}: {error}") from error

    def _rename_former_columns(self) -> None:
        if not self._former_columns():
            return
        with self._transaction():  # check again: another process may have renamed them before this one got the lock
            for former, name in self._former_columns().items():
                self._db.execute(f"ALTER TABLE calls RENAME COLUMN {former} TO {name}")

    def _former_columns(self) -> dict[str, str]:
        columns = {row[1] for row in self._db.execute("PRAGMA table_info(calls)")}
        return {former: name for former, name in _FORMER_NAMES.items() if former in columns}

    @contextmanager
    def _available(self) -> Iterator[None]:
        """Raises LedgerUnavailable, which names the file, in place of SQLite's errors about it."""
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise  # the row or the caller is at fault
        except sqlite3.DatabaseError as error:
            raise LedgerUnavailable(f"the ledger {self._path} is not available: {error}") from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._available():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite ends it by itself on some errors, such as a full disk
                    self._db.execute("ROLLBACK")
                raise

    def _insert(self, rows: Sequence[tuple[object, ...]]) -> int:
        """Insert rows in short transactions; returns how many are new."""
        before = self._db.total_changes
        for start in range(0, len(rows), TRANSACTION_ROWS):
            with self._transaction():
                self._db.executemany(_INSERT, rows[start : start + TRANSACTION_ROWS])
        return self._db.total_changes - before

    def _batches(self) -> Iterator[list[tuple[object, ...]]]:
        with self._available(), closing(self._db.execute(f"SELECT {', '.join(_COLUMNS)} FROM calls")) as cursor:  # noqa: S608
            while batch := cursor.fetchmany(EXPORT_ROWS):
                yield batch

    def _spent(self, where: str, *values: object) -> int:
        query = f"SELECT coalesce(sum(tokens_in + tokens_out), 0) FROM calls WHERE origin = 'endpoint' AND {where}"  # noqa: S608
        with self._available():
            spent: int = self._db.execute(query, values).fetchone()[0]
        return spent


def day_start_ms(now_ms: int) -> int:
    """The start of the UTC day that a time falls in."""
    day = datetime.fromtimestamp(now_ms / 1000, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return int(day.timestamp() * 1000)


def _to_row(entry: Entry, now_ms: int) -> tuple[object, ...]:
    completion, usage = entry.completion, entry.completion.usage
    return (
        *(entry.fingerprint, entry.agent, entry.model, entry.item_id, entry.seller_id, entry.content),
        *(completion.text, completion.rejected),
        *(usage.tokens_in, usage.tokens_cached, usage.tokens_out, usage.seconds, usage.retries),
        *(entry.answered_ms or now_ms, entry.origin),
    )


def look_up(path: Path, content: str) -> list[Entry] | None:
    """All calls about one content hash, read from another process's ledger; None if it cannot be read."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as db:
            return _entries(db, content)
    except sqlite3.Error:
        return None


def _entries(db: sqlite3.Connection, content: str) -> list[Entry]:
    # `*` has the order of _COLUMNS, and also reads a ledger that its writer has not upgraded yet.
    query = "SELECT * FROM calls WHERE content = ? ORDER BY answered_ms, agent"
    return [_to_entry(row) for row in db.execute(query, (content,))]


def _to_entry(row: tuple) -> Entry:  # type: ignore[type-arg]
    completion = Completion(row[6], row[7], Usage(*row[8:13]))
    fingerprint, agent, model, item_id, seller_id, content = row[:6]
    return Entry(fingerprint, agent, model, item_id, seller_id, content, completion, row[14], row[13])

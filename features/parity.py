"""Parity: whether what was served is what the point-in-time join tells training of the same moment, feature by feature.

The service logs a sample of the rows that it served. Each is held against Feast's `get_historical_features` at the moment of
the request. Where the join knows a newer row than was served, the served one must be in the archive as it was served: then it
was late, which is freshness and no difference in kind; likewise a row that was ahead of a request about the past. What was
served and is not archived yet cannot be judged yet.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureView

from features import definitions as views
from features.repository import FeatureRepository
from features.row import REVISION
from features.rows import rows_of
from reaseq.errors import CatalogueError
from reaseq.ranker.ranking import Answer, Ask
from reaseq.records import UserFeatures

LOG_LIMIT_BYTES = 64 * 1024 * 1024  # of one file; the one before it is kept
JUDGED = {
    views.user_history.name: ("history",),
    views.user_inferred.name: ("inferred", "model", "as_of_ms", "events_seen", "latent"),
}

Verdict = Literal["equal", "late", "ahead", "not archived yet", "different"]


class Served(msgspec.Struct, frozen=True):
    """One user's row as it was served: its version, and a digest of each feature."""

    user_id: str
    now_ms: int
    event_time_ms: int
    revision: int
    features: dict[str, str]  # "view:feature" to digest


class ServedLog:
    """Appends a sample of what is served to `<folder>/users.jsonl`. Which requests are drawn hangs on user and moment alone."""

    def __init__(self, folder: Path, share: float) -> None:
        self._file = folder / "users.jsonl"
        self._share = share
        folder.mkdir(parents=True, exist_ok=True)

    def offer(self, ask: Ask, answer: Answer) -> None:
        """Log the user's row if the request is drawn and its features were read for it."""
        if answer.user is None or answer.step != "fresh" or not self._drawn(ask):
            return
        with self._file.open("ab") as log:
            log.write(msgspec.json.encode(served_of(answer.user, ask.now_ms)) + b"\n")
            full = log.tell() > LOG_LIMIT_BYTES
        if full:
            os.replace(self._file, self._file.with_suffix(".1.jsonl"))

    def _drawn(self, ask: Ask) -> bool:
        drawn = blake2b(f"{ask.user_id}:{ask.now_ms}".encode(), digest_size=8).digest()
        return int.from_bytes(drawn, "big") < self._share * 2**64


def served_of(user: UserFeatures, now_ms: int) -> Served:
    """A user's row as the log keeps it."""
    digests = {}
    for row in rows_of(user):
        for name in JUDGED[row.view.name]:
            digests[f"{row.view.name}:{name}"] = _digest(row.values[name])
    return Served(user.user_id, now_ms, user.event_time_ms, user.revision, digests)


def read_served(folder: Path) -> list[Served]:
    """Every logged row. Raises CatalogueError where nothing was logged."""
    files = sorted(folder.glob("users*.jsonl"))
    found = [msgspec.json.decode(line, type=Served) for file in files for line in file.read_bytes().splitlines()]
    if not found:
        raise CatalogueError(f"{folder} holds no served row: set REASEQ_SERVICE__SERVED_SHARE above 0, and let it serve")
    return found


@dataclass
class Parity:
    """Of each feature, how many served rows came to which verdict; and how many events the late ones lacked."""

    verdicts: dict[str, Counter[Verdict]] = field(default_factory=lambda: defaultdict(Counter))
    events_behind: list[int] = field(default_factory=list)
    different: list[str] = field(default_factory=list)  # "feature of user … at …"

    @property
    def rows(self) -> int:
        """Served rows that were compared."""
        return max((sum(of.values()) for of in self.verdicts.values()), default=0)


def compare(repository: FeatureRepository, served: Sequence[Served]) -> Parity:
    """Hold each served row against the point-in-time join at its moment, feature by feature."""
    parity = Parity()
    for view in (views.user_history, views.user_inferred):
        archived = _archived(repository, view, {row.user_id for row in served})
        for row, joined in zip(served, _joined(repository, view, served), strict=True):
            # A user's revision grows with every record, so it says which of two rows is newer.
            told = joined if joined.get(REVISION) == row.revision else archived.get((row.user_id, row.revision), {})
            if view is views.user_history and joined.get(REVISION, 0) > row.revision:
                parity.events_behind.append((joined[REVISION] - row.revision) // 2)
            for name in JUDGED[view.name]:
                key = f"{view.name}:{name}"
                verdict = _verdict(row, joined.get(REVISION), told.get(name), row.features[key])
                parity.verdicts[key][verdict] += 1
                if verdict == "different":
                    parity.different.append(f"{key} of user {row.user_id} at {row.now_ms}")
    return parity


def _verdict(row: Served, joined: int | None, told: str | None, digest: str) -> Verdict:
    if told is None:
        return "not archived yet"
    if told != digest:
        return "different"
    if row.event_time_ms >= row.now_ms:
        return "ahead"
    return "equal" if joined == row.revision else "late"


def _joined(repository: FeatureRepository, view: FeatureView, served: Sequence[Served]) -> list[dict[str, Any]]:
    """What training would know strictly before each moment: digests of the view's features, and the row's revision."""
    entities = pd.DataFrame(
        {
            views.USER_KEY: [row.user_id for row in served],
            "place": range(len(served)),
            "event_timestamp": pd.to_datetime(pd.Series([row.now_ms - 1 for row in served]), unit="ms", utc=True),
        }
    )
    asked = [f"{view.name}:{name}" for name in (*JUDGED[view.name], REVISION)]
    rows = repository.feast.get_historical_features(entities, asked).to_arrow().to_pylist()
    found: list[dict[str, Any]] = [{} for _ in served]
    for row in rows:
        if row[REVISION] is not None:
            found[row["place"]] = _digests(view, row)
    return found


def _archived(repository: FeatureRepository, view: FeatureView, users: set[str]) -> dict[tuple[str, int], dict[str, Any]]:
    """Every archived row of the users, by user and revision."""
    columns = [views.USER_KEY, *JUDGED[view.name], REVISION]
    table = pq.read_table(repository.settings.archive_dir / view.name, columns=columns)
    rows = table.filter(pc.is_in(table[views.USER_KEY], pa.array(sorted(users)))).to_pylist()
    return {(row[views.USER_KEY], row[REVISION]): _digests(view, row) for row in rows}


def _digests(view: FeatureView, row: dict[str, Any]) -> dict[str, Any]:
    return {REVISION: int(row[REVISION])} | {name: _digest(row[name]) for name in JUDGED[view.name]}


def _digest(value: object) -> str:
    """Equal values, equal digests; whether a whole number came back as a float says nothing."""
    content = value if isinstance(value, bytes) else str(int(value) if isinstance(value, float) else value).encode()
    return blake2b(content, digest_size=8).hexdigest()

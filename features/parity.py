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
from typing import Any, Literal, get_args

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureView
from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from features import definitions as views
from features.definitions import join_key
from features.record_mapping import to_rows
from features.repository import FeatureRepository
from features.row_format import REVISION
from reaseq.errors import CatalogError
from reaseq.records import UserFeatures
from reaseq.representation.item_table import NO_PRICE, ItemTable, Snapshot
from serving.degradation import Answer, Ask

LOG_LIMIT_BYTES = 64 * 1024 * 1024  # of one file; the one before it is kept
JUDGED: dict[str, dict[str, tuple[str, ...]]] = {
    "user": {
        views.user_history.name: ("history",),
        views.user_inferred.name: ("inferred", "model", "as_of_ms", "events_seen", "latent"),
    },
    "item": {views.item_representation.name: ("vector", "claim_ids", "claim_confidences", "price", "listed_ms")},
}

Verdict = Literal["equal", "late", "ahead", "not archived yet", "different"]
Version = tuple[int, int]  # event time in ms, revision: which of two rows is newer
Digests = dict[str, str]  # "view:feature" to digest


class Served(msgspec.Struct, frozen=True):
    """One row as it was served: its version, and a digest of each feature."""

    entity: Literal["user", "item"]
    entity_id: str
    now_ms: int
    event_time_ms: int
    revision: int
    features: Digests

    @property
    def version(self) -> Version:
        """See `Version`."""
        return self.event_time_ms, self.revision


class ServedFeatureLog:
    """Appends a sample of what is served to `<folder>/rows.jsonl`: the user's row, and the row of one of the candidates.

    Which requests are drawn, and which candidate, hangs on user and moment alone.
    """

    def __init__(self, folder: Path, share: float, table: ItemTable) -> None:
        self._file = folder / "rows.jsonl"
        self._share = share
        self._table = table
        folder.mkdir(parents=True, exist_ok=True)

    def offer(self, ask: Ask, answer: Answer) -> None:
        """Log the rows if the request is drawn and the user's was read for it."""
        drawn = _draw(ask)
        if answer.step != "fresh" or drawn >= self._share * 2**64:
            return
        rows = [served_user(answer.user, ask.now_ms)] if answer.user else []
        item_id = ask.candidate_ids[drawn % len(ask.candidate_ids)]
        if version := self._table.version_of(item_id):
            rows.append(served_item(self._table.snapshot, item_id, version, ask.now_ms))
        with self._file.open("ab") as log:
            log.write(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
            full = log.tell() > LOG_LIMIT_BYTES
        if full:
            os.replace(self._file, self._file.with_suffix(".1.jsonl"))


def served_user(user: UserFeatures, now_ms: int) -> Served:
    """A user's row as the log keeps it."""
    told = {row.view.name: row.values for row in to_rows(user)}
    digests = {f"{view}:{name}": _digest(told[view].get(name)) for view, names in JUDGED["user"].items() for name in names}
    return Served("user", user.user_id, now_ms, user.event_time_ms, user.revision, digests)


def served_item(table: Snapshot, item_id: str, version: Version, now_ms: int) -> Served:
    """An item's row as the item table holds it."""
    row = int(table.rows([item_id])[0])
    contents = table.contents[table.slots[row]]
    real = contents.claims > 0
    price = float(table.prices[row])
    told = {
        "vector": contents.vectors.cpu().numpy().astype(np.float16).tobytes(),
        "claim_ids": contents.claims[real].cpu().numpy().astype(np.int32).tobytes(),
        "claim_confidences": contents.confidences[real].cpu().numpy().astype(np.float16).tobytes(),
        "price": None if price == NO_PRICE else price,
        "listed_ms": int(table.listed_ms[row]),
    }
    view = views.item_representation.name
    return Served("item", item_id, now_ms, *version, {f"{view}:{name}": _digest(told[name]) for name in JUDGED["item"][view]})


def read_served_features(folder: Path) -> list[Served]:
    """Every logged row. Raises CatalogError where nothing was logged."""
    files = sorted(folder.rglob("rows*.jsonl"))
    found = [msgspec.json.decode(line, type=Served) for file in files for line in file.read_bytes().splitlines()]
    if not found:
        raise CatalogError(
            f"{folder} holds no served row: set REASEQ_SERVICE__SERVED_FEATURE_LOG_SHARE above 0, and let it serve"
        )
    return found


@dataclass
class Parity:
    """Of each feature, how many served rows came to which verdict."""

    rows: int
    verdicts: dict[str, Counter[Verdict]] = field(default_factory=lambda: defaultdict(Counter))
    different: list[str] = field(default_factory=list)  # "feature of user … at …"


def compare(repository: FeatureRepository, served: Sequence[Served]) -> Parity:
    """Hold each served row against the point-in-time join at its moment, feature by feature."""
    parity = Parity(len(served))
    for view in (views.user_history, views.user_inferred, views.item_representation):
        rows = [row for row in served if view.name in JUDGED[row.entity]]
        if not rows:
            continue
        archived = _archived(repository, view, {row.entity_id for row in rows})
        for row, joined in zip(rows, _joined(repository, view, rows), strict=True):
            versions = archived.get(row.entity_id, {})
            newest = max((version for version, told in versions.items() if told == joined), default=None)
            for key, digest in row.features.items():
                if key.startswith(f"{view.name}:"):
                    verdict = _verdict(row, key, digest, joined, newest, versions.get(row.version))
                    parity.verdicts[key][verdict] += 1
                    if verdict == "different":
                        parity.different.append(f"{key} of {row.entity} {row.entity_id} at {row.now_ms}")
    return parity


def write_metrics(parity: Parity, path: Path) -> None:
    """Write how many feature values came to which verdict, as Prometheus' textfile collector reads it."""
    registry = CollectorRegistry()
    values = Gauge("reaseq_parity_values", "Served values, by how the join stands to them", ["verdict"], registry=registry)
    for verdict in get_args(Verdict):
        values.labels(verdict).set(sum(of[verdict] for of in parity.verdicts.values()))
    write_to_textfile(str(path), registry)


def _verdict(row: Served, key: str, digest: str, joined: Digests, newest: Version | None, told: Digests | None) -> Verdict:
    """`joined` is what the join says and `newest` that row's version; `told` is the archived row of the served version."""
    if joined.get(key) == digest:
        return "equal"
    if told is None:
        return "not archived yet"
    if told[key] != digest:
        return "different"
    if row.event_time_ms >= row.now_ms:
        return "ahead"
    # The join must know what was served, unless it knows something newer.
    return "late" if newest is not None and newest > row.version else "different"


def _joined(repository: FeatureRepository, view: FeatureView, served: Sequence[Served]) -> list[Digests]:
    """What training would know strictly before each moment; nothing where there was no row yet."""
    names, key = _names(view), join_key(view)
    entities = pd.DataFrame(
        {
            key: [row.entity_id for row in served],
            "place": range(len(served)),
            "event_timestamp": pd.to_datetime(pd.Series([row.now_ms - 1 for row in served]), unit="ms", utc=True),
        }
    )
    asked = [f"{view.name}:{name}" for name in (*names, REVISION)]
    rows = repository.feast.get_historical_features(entities, asked).to_arrow().to_pylist()
    found: list[Digests] = [{} for _ in served]
    for row in rows:
        if row[REVISION] is not None:
            found[row["place"]] = _digests(view, row)
    return found


def _archived(repository: FeatureRepository, view: FeatureView, ids: set[str]) -> dict[str, dict[Version, Digests]]:
    """Every archived row of some entities, by entity and version."""
    key = join_key(view)
    columns = [key, "event_timestamp", *_names(view), REVISION]
    table = pq.read_table(repository.settings.archive_dir / view.name, columns=columns)
    found: dict[str, dict[Version, Digests]] = defaultdict(dict)
    for row in table.filter(pc.is_in(table[key], pa.array(sorted(ids)))).to_pylist():
        version = (round(row["event_timestamp"].timestamp() * 1000), int(row[REVISION]))
        found[row[key]][version] = _digests(view, row)
    return found


def _names(view: FeatureView) -> tuple[str, ...]:
    return next(of[view.name] for of in JUDGED.values() if view.name in of)


def _digests(view: FeatureView, row: dict[str, Any]) -> Digests:
    return {f"{view.name}:{name}": _digest(row[name]) for name in _names(view)}


def _digest(value: object) -> str:
    """Equal values, equal digests: a price is what a float32 can hold of it, and a whole number may come back as a float."""
    if isinstance(value, float):
        value = None if np.isnan(value) else np.float32(value).item()
    content = value if isinstance(value, bytes) else repr(float(value) if isinstance(value, int) else value).encode()
    return blake2b(content, digest_size=8).hexdigest()


def _draw(ask: Ask) -> int:
    drawn = blake2b(f"{ask.user_id}:{ask.now_ms}".encode(), digest_size=8).digest()
    return int.from_bytes(drawn, "big")

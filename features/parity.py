"""Parity: whether what was served is what the point-in-time join tells training of the same moment, feature by feature.

The service logs a sample of the rows that it served. Each is held against Feast's `get_historical_features` at the moment of
the request. Where the join knows a newer row than was served, the served one must be in the archive as it was served: then it
was late, which is freshness and no difference in kind; likewise a row that was ahead of a request about the past. What was
served and is not archived yet cannot be judged yet.
"""

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
from features.repository import FeatureRepository
from features.row_format import REVISION
from reaseq.errors import CatalogError
from reaseq.records import Version

AUDITED: dict[str, dict[str, tuple[str, ...]]] = {
    "user": {
        views.user_history.name: ("history",),
        views.user_inferred.name: ("inferred", "model", "as_of_ms", "events_seen", "latent"),
    },
    "item": {views.item_representation.name: ("vector", "claim_ids", "claim_confidences", "price", "listed_ms")},
}

ParityResult = Literal["equal", "late", "ahead", "not archived yet", "different"]
Digests = dict[str, str]  # "view:feature" to digest


class ServedRow(msgspec.Struct, frozen=True):
    """One row as it was served: its version, and a digest of each feature."""

    entity: Literal["user", "item"]
    entity_id: str
    now_ms: int
    event_time_ms: int
    revision: int
    features: Digests

    @property
    def version(self) -> Version:
        """Which of two rows is newer."""
        return self.event_time_ms, self.revision


def read_served_features(folder: Path) -> list[ServedRow]:
    """Every logged row. Raises CatalogError where nothing was logged."""
    files = sorted(folder.rglob("rows*.jsonl"))
    found = [msgspec.json.decode(line, type=ServedRow) for file in files for line in file.read_bytes().splitlines()]
    if not found:
        raise CatalogError(
            f"{folder} holds no served row: set REASEQ_SERVICE__SERVED_FEATURE_LOG_SHARE above 0, and let it serve"
        )
    return found


@dataclass
class Parity:
    """Of each feature, how many served rows came to which result."""

    rows: int
    results: dict[str, Counter[ParityResult]] = field(default_factory=lambda: defaultdict(Counter))
    different: list[str] = field(default_factory=list)  # "feature of user … at …"


def compare(repository: FeatureRepository, served: Sequence[ServedRow]) -> Parity:
    """Hold each served row against the point-in-time join at its moment, feature by feature."""
    parity = Parity(len(served))
    for view in (views.user_history, views.user_inferred, views.item_representation):
        rows = [row for row in served if view.name in AUDITED[row.entity]]
        if not rows:
            continue
        archived = _archived(repository, view, {row.entity_id for row in rows})
        for row, joined in zip(rows, _joined(repository, view, rows), strict=True):
            versions = archived.get(row.entity_id, {})
            newest = max((version for version, told in versions.items() if told == joined), default=None)
            for key, digest in row.features.items():
                if key.startswith(f"{view.name}:"):
                    result = _judge(row, key, digest, joined, newest, versions.get(row.version))
                    parity.results[key][result] += 1
                    if result == "different":
                        parity.different.append(f"{key} of {row.entity} {row.entity_id} at {row.now_ms}")
    return parity


def write_metrics(parity: Parity, path: Path) -> None:
    """Write how many feature values came to which result, as Prometheus' textfile collector reads it."""
    registry = CollectorRegistry()
    values = Gauge("reaseq_parity_values", "ServedRow values, by how the join stands to them", ["result"], registry=registry)
    for result in get_args(ParityResult):
        values.labels(result).set(sum(of[result] for of in parity.results.values()))
    write_to_textfile(str(path), registry)


def _judge(
    row: ServedRow, key: str, digest: str, joined: Digests, newest: Version | None, told: Digests | None
) -> ParityResult:
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


def _joined(repository: FeatureRepository, view: FeatureView, served: Sequence[ServedRow]) -> list[Digests]:
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
    return next(of[view.name] for of in AUDITED.values() if view.name in of)


def _digests(view: FeatureView, row: dict[str, Any]) -> Digests:
    return {f"{view.name}:{name}": digest(row[name]) for name in _names(view)}


def digest(value: object) -> str:
    """Equal values, equal digests: a price is what a float32 can hold of it, and a whole number may come back as a float."""
    if isinstance(value, float):
        value = None if np.isnan(value) else np.float32(value).item()
    content = value if isinstance(value, bytes) else repr(float(value) if isinstance(value, int) else value).encode()
    return blake2b(content, digest_size=8).hexdigest()

"""Parity audit: compares served features with the point-in-time join that training reads, feature by feature.

The ranking service logs a sample of the rows it serves. Each served row is compared with Feast's `get_historical_features` at
the time of the request:

- `equal`: the join returns the served value.
- `late`: the join returns a newer row, and the archive has the served row as it was served. The service was only behind.
- `ahead`: the served row is newer than the time of the request, which was in the past.
- `not archived yet`: the served row is not in the archive, so it cannot be judged.
- `different`: anything else.
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
from reaseq.records import Version

AUDITED: dict[str, dict[str, tuple[str, ...]]] = {  # by entity and view
    "user": {
        views.user_history.name: ("history",),
        views.user_inferred.name: ("inferred", "model", "as_of_ms", "events_seen", "latent"),
    },
    "item": {views.item_representation.name: ("vector", "claim_ids", "claim_confidences", "price", "listed_ms")},
    "aggregates": {views.item_aggregates.name: ("tiles",)},
}

ParityResult = Literal["equal", "late", "ahead", "not archived yet", "different"]
Digests = dict[str, str]  # by "view:feature"


class ServedRow(msgspec.Struct, frozen=True):
    """One row as it was served: its version, and a digest of each feature."""

    entity: Literal["user", "item", "aggregates"]
    entity_id: str
    now_ms: int  # the time of the request
    event_time_ms: int
    revision: int
    features: Digests

    @property
    def version(self) -> Version:
        """The version of the served record. The greater of two versions is newer."""
        return self.event_time_ms, self.revision


def read_served_features(folder: Path) -> list[ServedRow]:
    """Read every row of the served-feature log; none if nothing was sampled."""
    files = sorted(folder.rglob("rows*.jsonl"))
    return [msgspec.json.decode(line, type=ServedRow) for file in files for line in file.read_bytes().splitlines()]


@dataclass
class Parity:
    """The outcome of an audit: for each feature, the number of served rows by result."""

    rows: int
    results: dict[str, Counter[ParityResult]] = field(default_factory=lambda: defaultdict(Counter))
    different: list[str] = field(default_factory=list)  # "feature of user … at …"


def compare(repository: FeatureRepository, served: Sequence[ServedRow]) -> Parity:
    """Compare each served row with the point-in-time join at the time of its request."""
    parity = Parity(len(served))
    for view in (views.user_history, views.user_inferred, views.item_representation, views.item_aggregates):
        rows = [row for row in served if view.name in AUDITED[row.entity]]
        if not rows:
            continue
        archive = _read_archive(repository, view, {row.entity_id for row in rows})
        for row, joined in zip(rows, _join(repository, view, rows), strict=True):
            versions = archive.get(row.entity_id, {})
            newest = max((version for version, archived in versions.items() if archived == joined), default=None)
            for key, digest in row.features.items():
                if key.startswith(f"{view.name}:"):
                    result = _judge(row, key, digest, joined, newest, versions.get(row.version))
                    parity.results[key][result] += 1
                    if result == "different":
                        parity.different.append(f"{key} of {row.entity} {row.entity_id} at {row.now_ms}")
    return parity


def write_metrics(parity: Parity, path: Path) -> None:
    """Write the number of feature values by result, in the format of Prometheus' textfile collector."""
    registry = CollectorRegistry()
    values = Gauge("reaseq_parity_values", "Served feature values, by parity result", ["result"], registry=registry)
    for result in get_args(ParityResult):
        values.labels(result).set(sum(counts[result] for counts in parity.results.values()))
    write_to_textfile(str(path), registry)


def _judge(
    row: ServedRow, key: str, digest: str, joined: Digests, newest: Version | None, archived: Digests | None
) -> ParityResult:
    """The result for one feature.

    `joined` is the row that the join returned and `newest` its version; `archived` is the archived row of the served version.
    """
    if joined.get(key) == digest:
        return "equal"
    if archived is None:
        return "not archived yet"
    if archived[key] != digest:
        return "different"
    if row.event_time_ms >= row.now_ms:
        return "ahead"
    # The join must return the served row unless it has a newer one.
    return "late" if newest is not None and newest > row.version else "different"


def _join(repository: FeatureRepository, view: FeatureView, served: Sequence[ServedRow]) -> list[Digests]:
    """The digests that the join returns strictly before each request; empty if there was no row yet."""
    names, key = _audited_names(view), join_key(view)
    entities = pd.DataFrame(
        {
            key: [row.entity_id for row in served],
            "request": range(len(served)),
            "event_timestamp": pd.to_datetime(pd.Series([row.now_ms - 1 for row in served]), unit="ms", utc=True),
        }
    )
    features = [f"{view.name}:{name}" for name in (*names, REVISION)]
    rows = repository.feast.get_historical_features(entities, features).to_arrow().to_pylist()
    digests: list[Digests] = [{} for _ in served]
    for row in rows:
        if row[REVISION] is not None:
            digests[row["request"]] = _digest_row(view, row)
    return digests


def _read_archive(repository: FeatureRepository, view: FeatureView, ids: set[str]) -> dict[str, dict[Version, Digests]]:
    """The digests of every archived row of some entities, by entity and version."""
    key = join_key(view)
    columns = [key, "event_timestamp", *_audited_names(view), REVISION]
    table = pq.read_table(repository.settings.archive_dir / view.name, columns=columns)
    found: dict[str, dict[Version, Digests]] = defaultdict(dict)
    for row in table.filter(pc.is_in(table[key], pa.array(sorted(ids)))).to_pylist():
        version = (round(row["event_timestamp"].timestamp() * 1000), int(row[REVISION]))
        found[row[key]][version] = _digest_row(view, row)
    return found


def _audited_names(view: FeatureView) -> tuple[str, ...]:
    return next(names_by_view[view.name] for names_by_view in AUDITED.values() if view.name in names_by_view)


def _digest_row(view: FeatureView, row: dict[str, Any]) -> Digests:
    return {f"{view.name}:{name}": digest(row[name]) for name in _audited_names(view)}


def digest(value: object) -> str:
    """Hash a feature value so that equal values have equal digests.

    Floats are rounded to float32, as served prices are, and integers count as floats, because the join may return them as such.
    """
    if isinstance(value, float):
        value = None if np.isnan(value) else np.float32(value).item()
    content = value if isinstance(value, bytes) else repr(float(value) if isinstance(value, int) else value).encode()
    return blake2b(content, digest_size=8).hexdigest()

"""Compares a faulty system with the reference."""

from dataclasses import dataclass, field

from features.definitions import VIEWS
from features.packed_store import parse_entity_id
from features.repository import FeatureRepository
from features.row_format import read_version, unpack
from reaseq.records import FeatureRecord
from reaseq.settings import Settings
from streams.delivery.tolerant_decoder import TolerantDecoder
from streams.delivery.topics import FEATURE_TOPICS
from streams.runtime.kafka.reader import read_all
from tests.faults.reference import Aggregates, Rows


@dataclass
class Outcome:
    """The outcome of a fault. `lost`, `doubled`, `stale_over_fresh` and `different` must be 0."""

    fault: str
    runs: int
    records: int
    dead_letters: int
    lost: int = 0  # missing rows and dead letters
    doubled: int = 0  # rows that are newer than the reference or unknown to it, and excess dead letters
    stale_over_fresh: int = 0  # stale rows, and topics whose last record of an entity is stale
    different: int = 0  # rows of the right version with the wrong content
    recovered_s: float = 0.0
    differences: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether store and dead letters are the same as without the fault."""
        return not (self.lost or self.doubled or self.stale_over_fresh or self.different)

    def compare_rows(self, found: Rows, reference: Rows) -> None:
        """Compare the rows of the store with the reference's."""
        for view, expected_rows in reference.items():
            rows = found[view]
            self.doubled += len(rows.keys() - expected_rows.keys())
            for key, expected in expected_rows.items():
                row = rows.get(key)
                if row is None:
                    self.lost += 1
                    self.differences.append(f"{view}: {parse_entity_id(key)} is missing")
                elif row != expected:
                    version, right = read_version(row)[:2], read_version(expected)[:2]
                    difference = f"is at {version}, not {right}" if version != right else _compare_features(view, row, expected)
                    self.differences.append(f"{view}: {parse_entity_id(key)} {difference}")
                    self.stale_over_fresh += version < right
                    self.doubled += version > right
                    self.different += version == right

    def compare_aggregates(self, found: Aggregates, reference: Aggregates) -> None:
        """Compare what was counted: an event that does not count is lost, one that counts twice is doubled."""
        for item_id in found.keys() | reference.keys():
            tiles, expected = found.get(item_id, {}), reference.get(item_id, {})
            for series in tiles.keys() | expected.keys():
                number, right = (sum(side.get(series, {}).values()) for side in (tiles, expected))
                self.lost += number < right
                self.doubled += number > right
                self.different += number == right and tiles[series] != expected[series]
                if tiles.get(series) != expected.get(series):
                    self.differences.append(f"item_aggregates: {item_id} has {number} of {series}, not {right}")

    def compare_topics(self, settings: Settings, store: FeatureRepository) -> None:
        """Count the entities whose last record in a compacted topic is stale."""
        for topic in FEATURE_TOPICS:
            last = {raw.key: raw for raw in read_all(settings.kafka, topic)}
            records: list[FeatureRecord] = TolerantDecoder(topic).decode_bodies(list(last.values()))
            kept = store.drop_stale(records)
            stale = [record for record in records if record not in kept]
            self.stale_over_fresh += len(stale)
            self.differences += [
                f"{topic.name}: {topic.key(record)} ends at {record.event_time_ms}, {record.revision}" for record in stale
            ]

    def compare_dead_letters(self, found: int, expected: int) -> None:
        """Count missing and excess dead letters."""
        self.lost += max(0, expected - found)
        self.doubled += max(0, found - expected)


def _compare_features(view_name: str, row: bytes, expected: bytes) -> str:
    """The features in which two rows differ, with both values."""
    names = next([feature.name for feature in view.features] for view in VIEWS if view.name == view_name)
    found, right = unpack(row, names), unpack(expected, names)
    return ", ".join(f"{name} {found.get(name)} / {right.get(name)}" for name in names if found.get(name) != right.get(name))

"""How a faulty system differs from the reference."""

from dataclasses import dataclass, field

import msgspec

from features.definitions import VIEWS
from features.packed_store import parse_entity_id
from features.repository import FeatureRepository
from features.row_format import read_version, unpack
from reaseq.records import FeatureRecord
from reaseq.settings import Settings
from streams.operations.rebuild import FEATURES
from streams.runtime.kafka_clients import read_all
from tests.faults.reference import Rows


@dataclass
class Outcome:
    """What a fault did. All of lost, doubled and stale are to be 0."""

    fault: str
    runs: int
    records: int
    dead_letters: int
    lost: int = 0  # rows that are missing, or letters
    doubled: int = 0  # rows that count more than there was, or letters
    stale_over_fresh: int = 0  # rows older than the reference, or records that stand last in a topic though the store has newer
    different: int = 0  # rows of the right version with another content
    recovered_s: float = 0.0
    differences: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether the store and the letters are what they would have been without the fault."""
        return not (self.lost or self.doubled or self.stale_over_fresh or self.different)

    def compare(self, found: Rows, wanted: Rows) -> None:
        """Count how the rows differ from the reference's."""
        for view, right in wanted.items():
            there = found[view]
            self.doubled += len(there.keys() - right.keys())
            for key, row in right.items():
                held = there.get(key)
                if held is None:
                    self.lost += 1
                    self.differences.append(f"{view}: {parse_entity_id(key)} is missing")
                elif held != row:
                    ours, theirs = read_version(held)[:2], read_version(row)[:2]
                    told = f"is at {ours}, not at {theirs}" if ours != theirs else _differing(view, held, row)
                    self.differences.append(f"{view}: {parse_entity_id(key)} {told}")
                    self.stale_over_fresh += ours < theirs
                    self.doubled += ours > theirs
                    self.different += ours == theirs

    def compare_topics(self, settings: Settings, store: FeatureRepository) -> None:
        """Count the entities whose last record in their compacted topic is not the newest."""
        for topic in FEATURES:
            last = {raw.key: raw.value for raw in read_all(settings.kafka, topic)}
            records: list[FeatureRecord] = [msgspec.json.decode(value, type=topic.message) for value in last.values() if value]
            kept = store.drop_stale(records)
            stale = [record for record in records if record not in kept]
            self.stale_over_fresh += len(stale)
            self.differences += [f"{topic.name}: {topic.key(of)} ends at {of.event_time_ms}, {of.revision}" for of in stale]

    def compare_letters(self, there: int, expected: int) -> None:
        """Count the dead letters that are missing, or too many."""
        self.lost += max(0, expected - there)
        self.doubled += max(0, there - expected)


def _differing(view: str, held: bytes, right: bytes) -> str:
    """The features in which two rows differ."""
    names = next([feature.name for feature in of.features] for of in VIEWS if of.name == view)
    ours, theirs = unpack(held, names), unpack(right, names)
    return ", ".join(f"{name} {ours.get(name)} / {theirs.get(name)}" for name in names if ours.get(name) != theirs.get(name))

"""The closed vocabulary that product knowledge is held to, and the shared ids of its claims."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reaseq.errors import ReaSeqError
from reaseq.records import ProductKnowledge

VOCABULARIES = Path(__file__).with_name("vocabularies")


@dataclass(frozen=True)
class Group:
    """One question the knowledge answers: between `least` and `most` of `values`."""

    name: str
    values: tuple[str, ...]
    least: int
    most: int


class Vocabulary:
    """Groups of allowed values. A claim's id is its place in the file plus one; 0 is left for padding."""

    def __init__(self, version: str, groups: tuple[Group, ...]) -> None:
        self.version = version
        self.groups = groups
        pairs = [(group.name, value) for group in groups for value in group.values]
        self._ids = {pair: place for place, pair in enumerate(pairs, start=1)}
        self.size = len(pairs) + 1

    @staticmethod
    def from_file(path: Path) -> "Vocabulary":
        """Read a vocabulary: `single` groups take exactly one value, `multiple` groups their own bounds."""
        raw = json.loads(path.read_text())
        single = [Group(name, tuple(values), 1, 1) for name, values in raw["single"].items()]
        multiple = [Group(name, tuple(g["values"]), g["min"], g["max"]) for name, g in raw["multiple"].items()]
        return Vocabulary(raw["version"], tuple(single + multiple))

    def __contains__(self, claim: tuple[str, str]) -> bool:
        return claim in self._ids

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._ids)

    def claim_ids(self, knowledge: ProductKnowledge | None) -> tuple[NDArray[np.int32], NDArray[np.float16]]:
        """Shared ids (C,) of an item's claims and their confidences (C,), in the order of the claims."""
        if knowledge is None:
            return np.zeros(0, np.int32), np.zeros(0, np.float16)
        if knowledge.vocabulary != self.version:
            raise ReaSeqError(f"knowledge speaks vocabulary {knowledge.vocabulary!r}, this system {self.version!r}")
        ids = [self._ids[claim.group, claim.value] for claim in knowledge.claims]
        return np.array(ids, np.int32), np.array([claim.confidence for claim in knowledge.claims], np.float16)


@cache
def load_vocabulary(version: str = "giftware-1") -> Vocabulary:
    """The bundled vocabulary of that version."""
    path = VOCABULARIES / f"{version}.json"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in VOCABULARIES.glob("*.json")))
        raise ReaSeqError(f"no vocabulary {version!r}; known: {known}")
    return Vocabulary.from_file(path)

"""The closed vocabularies of product knowledge: YAML files that a domain team edits, and the ids of their claims.

A file is a base (`retail-2`, `content-1`) or a pack that extends one (`giftware-3`, `beauty-2`). A version in use is never
edited: a change is a new file, whose `migrates` section maps the values of the previous version.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
import yaml
from msgspec import Meta
from numpy.typing import NDArray

from reaseq.errors import VocabularyError
from reaseq.records import Claim, ProductKnowledge

VOCABULARIES = Path(__file__).with_name("vocabularies")
DEFINITION_LIMIT_CHARS = 160
CLAIMS_LIMIT = 32  # per item; what models and the item table have room for

Name = Annotated[str, Meta(pattern="^[a-z0-9_]+$", max_length=64)]
Definition = Annotated[str, Meta(max_length=DEFINITION_LIMIT_CHARS, pattern=r"^[^\n]*$")]
Values = dict[Name, Definition]


@dataclass(frozen=True)
class Group:
    """One question about an item, answered with `least` to `most` of `values`.

    Each value has a definition, which is empty if the name says it all.
    """

    name: str
    agent: Literal["demand", "attribute", "relation"]
    question: str
    least: int
    most: int
    evidence_required: bool
    values: Mapping[str, str]


@dataclass(frozen=True)
class Migration:
    """Maps the values of the version `source`; values that it does not name are unchanged."""

    source: str = ""
    renamed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    dropped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def apply(self, claim: Claim) -> Claim | None:
        """The claim with its new value; None if the value was dropped."""
        if claim.value in self.dropped.get(claim.group, ()):
            return None
        value = self.renamed.get(claim.group, {}).get(claim.value, claim.value)
        return msgspec.structs.replace(claim, value=value)


class Vocabulary:
    """Groups of allowed values. A claim's id is its position in the vocabulary, counted from 1; 0 is padding."""

    def __init__(self, version: str, groups: tuple[Group, ...], migration: Migration = Migration()) -> None:
        self.version = version
        self.groups = groups
        self._migration = migration
        pairs = [(group.name, value) for group in groups for value in group.values]
        self._ids = {pair: claim_id for claim_id, pair in enumerate(pairs, start=1)}
        self.size = len(pairs) + 1

    def __contains__(self, claim: tuple[str, str]) -> bool:
        return claim in self._ids

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._ids)

    def claim_id(self, group: str, value: str) -> int:
        """The id of a claim. Raises KeyError if the vocabulary lacks it."""
        return self._ids[group, value]

    def claim_ids(self, knowledge: ProductKnowledge | None) -> tuple[NDArray[np.int32], NDArray[np.float16]]:
        """Ids (C,) and confidences (C,) of an item's claims, in their order.

        Raises VocabularyError if there is no migration path to this version, or it does not contain one of the claims.
        """
        claims = self.adopt(knowledge).claims if knowledge else ()
        try:
            ids = [self._ids[claim.group, claim.value] for claim in claims]
        except KeyError as error:
            raise VocabularyError(f"vocabulary {self.version!r} has no claim {error}") from error
        return np.array(ids, np.int32), np.array([claim.confidence for claim in claims], np.float16)

    def adopt(self, knowledge: ProductKnowledge) -> ProductKnowledge:
        """Migrate knowledge to this version, step by step through the versions between.

        Raises VocabularyError if there is no migration path.
        """
        if knowledge.vocabulary == self.version:
            return knowledge
        if knowledge.vocabulary != self._migration.source:
            try:
                knowledge = load_vocabulary(self._migration.source).adopt(knowledge)
            except VocabularyError as error:
                raise VocabularyError(
                    f"no migration path from vocabulary {knowledge.vocabulary!r} to {self.version!r}: {error}"
                ) from error
        migrated = (self._migration.apply(claim) for claim in knowledge.claims)
        kept = tuple(claim for claim in migrated if claim and (claim.group, claim.value) in self)
        return msgspec.structs.replace(knowledge, vocabulary=self.version, claims=kept)


class _Group(msgspec.Struct, forbid_unknown_fields=True):
    agent: Literal["demand", "attribute", "relation", ""] = ""
    question: str = ""
    least: Annotated[int, Meta(ge=0)] = 0
    most: Annotated[int, Meta(ge=1, le=8)] = 1
    evidence: Literal["required", "optional"] = "optional"
    values: Values = {}
    adds: Values = {}


class _Migrates(msgspec.Struct, forbid_unknown_fields=True, rename={"source": "from"}):
    source: str
    renamed: dict[Name, dict[Name, Name]] = {}
    dropped: dict[Name, tuple[Name, ...]] = {}


class _File(msgspec.Struct, forbid_unknown_fields=True):
    version: str
    title: str
    groups: dict[Name, _Group]
    base: str = ""
    without: tuple[Name, ...] = ()
    migrates: _Migrates | None = None


@cache
def load_vocabulary(name: str) -> Vocabulary:
    """Load a bundled vocabulary by version, or a .yaml file by path.

    Raises VocabularyError, which names the file and the faulty key.
    """
    path = Path(name) if name.endswith(".yaml") else VOCABULARIES / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(bundled.stem for bundled in VOCABULARIES.glob("*.yaml")))
        raise VocabularyError(f"no vocabulary {name!r}: use a bundled one ({known}) or the path of a .yaml file")
    try:
        file = msgspec.convert(yaml.safe_load(path.read_text()), _File)
    except (yaml.YAMLError, msgspec.ValidationError, UnicodeDecodeError, RecursionError, OSError) as error:
        raise VocabularyError(f"{path}: {' '.join(str(error).split())}") from error
    if file.version != path.stem:
        raise VocabularyError(f"{path}: version {file.version!r} does not match the file name")
    inherited = load_vocabulary(file.base).groups if file.base else ()
    groups = {group.name: group for group in inherited if group.name not in file.without}
    for group_name, group in file.groups.items():
        groups[group_name] = _merge(path, group_name, group, groups.get(group_name))
    if (claims := sum(group.most for group in groups.values())) > CLAIMS_LIMIT:
        raise VocabularyError(f"{path}: an item could have {claims} claims; the limit is {CLAIMS_LIMIT}, so lower `most`")
    vocabulary = Vocabulary(file.version, tuple(groups.values()), _to_migration(file))
    for group_name, renamed in _to_migration(file).renamed.items():
        for value in renamed.values():
            if (group_name, value) not in vocabulary:
                raise VocabularyError(f"{path}: migrates to {group_name}={value}, which is not in the vocabulary")
    return vocabulary


def _merge(path: Path, name: str, group: _Group, base: Group | None) -> Group:
    if group.adds:
        if base is None or group.values:
            raise VocabularyError(
                f"{path}: group {name!r} has `adds`, which needs a group of that name in the base and excludes `values`"
            )
        merged = {**base.values, **group.adds}
        return Group(name, base.agent, base.question, base.least, base.most, base.evidence_required, merged)
    if not group.agent or not group.question or len(group.values) < group.most:
        raise VocabularyError(f"{path}: group {name!r} needs an agent, a question and at least {group.most} values")
    return Group(name, group.agent, group.question, group.least, group.most, group.evidence == "required", group.values)


def _to_migration(file: _File) -> Migration:
    return Migration(file.migrates.source, file.migrates.renamed, file.migrates.dropped) if file.migrates else Migration()

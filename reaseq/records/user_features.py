"""The feature record of a user: the history and the behaviors inferred from it."""

from typing import Annotated

import msgspec
from msgspec import Meta

from reaseq.records.event import EVENT_TYPES, MicroValue
from reaseq.records.fields import Count, Id, Int64, TimeMs, Version, require_equal_lengths

TypeCode = Annotated[int, Meta(ge=1, le=len(EVENT_TYPES))]


class History(msgspec.Struct, frozen=True, kw_only=True):
    """A user's latest behaviors as parallel arrays, oldest first. `event_keys` are 64-bit hashes of the event ids.

    `forgotten_ms` is the time up to which the user's last erasure request reached: events up to it are ignored. A redelivery of
    the request is recognized by `erasure_offset` and `erasure_produced_ms`, its offset and timestamp, -1 without a request.
    Retracted events keep their times and keys, so that a redelivery does not bring them back. `values` are the events' values
    in millionths, so that an erasure request takes them from the sums they are in; it is empty if no event has a value.
    """

    item_ids: tuple[Id, ...] = ()
    types: tuple[TypeCode, ...] = ()
    times_ms: tuple[TimeMs, ...] = ()
    event_keys: tuple[Int64, ...] = ()
    forgotten_ms: TimeMs = 0
    retracted_ms: tuple[TimeMs, ...] = ()
    retracted_keys: tuple[Int64, ...] = ()
    erasure_offset: Int64 = -1
    erasure_produced_ms: Int64 = -1
    values: tuple[MicroValue | None, ...] = ()

    def __post_init__(self) -> None:
        require_equal_lengths(self.item_ids, self.types, self.times_ms, self.event_keys, self.values or self.types)
        require_equal_lengths(self.retracted_ms, self.retracted_keys)


LEVELS = 256  # revisions for each number of events seen
_FIRST_REVISION = 1 << 32  # above every revision of earlier releases, which was 2 · events seen, plus 1 if they were answered


class Inferred(msgspec.Struct, frozen=True, kw_only=True):
    """Inferred behaviors, most confident first, and their provenance.

    They never enter histories, labels or training positives. `latent` is the denoiser's hidden state, float16. `unknown_items`
    is the number of behaviors whose items were not in the catalog when the answer was made: it is due again once they are.
    """

    item_ids: tuple[Id, ...] = ()
    confidences: tuple[Annotated[float, Meta(ge=0, le=1)], ...] = ()
    model: str = ""
    as_of_ms: TimeMs = 0
    events_seen: Count = 0
    latent: bytes = b""
    unknown_items: Count = 0

    def __post_init__(self) -> None:
        require_equal_lengths(self.item_ids, self.confidences)


class UserFeatures(msgspec.Struct, frozen=True, kw_only=True, tag_field="schema", tag="user-features.1"):
    """The features of a user. The newest record wins, by (event time, revision, row content)."""

    user_id: str
    event_time_ms: TimeMs
    events_seen: Count
    history: History
    inferred: Inferred = Inferred()

    @property
    def revision(self) -> int:
        """Order among records with equal event time: by events seen, then by how much the answer to all of them rests on.

        Without such an answer the level is 0; with one it is the greater the fewer items were unknown.
        """
        answered = self.inferred.events_seen == self.events_seen
        level = max(1, LEVELS - 1 - self.inferred.unknown_items) if answered else 0
        return _FIRST_REVISION + LEVELS * self.events_seen + level

    @property
    def version(self) -> Version:
        """The greater of two versions belongs to the newer record of the user."""
        return self.event_time_ms, self.revision

    @property
    def entity_id(self) -> str:
        """The user id."""
        return self.user_id


def read_revision(revision: int) -> tuple[int, int]:
    """The events seen and the answer's unknown items (at most LEVELS - 2) of a record with this revision."""
    if revision < _FIRST_REVISION:
        return revision // 2, 0
    events_seen, level = divmod(revision - _FIRST_REVISION, LEVELS)
    return events_seen, LEVELS - 1 - level if level else 0

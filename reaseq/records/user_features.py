"""The feature record of a user: the history and the behaviors inferred from it."""

import msgspec

from reaseq.records.fields import Count, TimeMs, Version


class History(msgspec.Struct, frozen=True, kw_only=True):
    """A user's latest behaviors as parallel arrays, oldest first. `event_keys` are 64-bit hashes of the event ids.

    `forgotten_ms` is the time of the user's last erasure request: events up to it are ignored. Retracted events keep their
    times and keys, so that a redelivery does not bring them back.
    """

    item_ids: tuple[str, ...] = ()
    types: tuple[int, ...] = ()
    times_ms: tuple[int, ...] = ()
    event_keys: tuple[int, ...] = ()
    forgotten_ms: TimeMs = 0
    retracted_ms: tuple[int, ...] = ()
    retracted_keys: tuple[int, ...] = ()


class Inferred(msgspec.Struct, frozen=True, kw_only=True):
    """Inferred behaviors, most confident first, and their provenance.

    They never enter histories, labels or training positives. `latent` is the denoiser's hidden state, float16.
    """

    item_ids: tuple[str, ...] = ()
    confidences: tuple[float, ...] = ()
    model: str = ""
    as_of_ms: int = 0
    events_seen: Count = 0
    latent: bytes = b""


class UserFeatures(msgspec.Struct, frozen=True, kw_only=True, tag_field="schema", tag="user-features.1"):
    """The features of a user. The newest record wins, by (event time, revision, row content)."""

    user_id: str
    event_time_ms: TimeMs
    events_seen: Count
    history: History
    inferred: Inferred = Inferred()

    @property
    def revision(self) -> int:
        """Order among records with equal event time: by events seen, then by whether all of them were used for inference."""
        return 2 * self.events_seen + (self.inferred.events_seen == self.events_seen)

    @property
    def version(self) -> Version:
        """The greater of two versions belongs to the newer record of the user."""
        return self.event_time_ms, self.revision

    @property
    def entity_id(self) -> str:
        """The user id."""
        return self.user_id

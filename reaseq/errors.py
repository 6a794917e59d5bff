"""Errors of the project: one small hierarchy, each with the reason code that metrics and dead letters carry."""


class ReaSeqError(Exception):
    """Base of every error raised on purpose. `reason` is a stable code, the message is for people."""

    reason = "internal"


class InvalidRecord(ReaSeqError):
    """A record on a topic is not what its schema promises; it goes to the dead letters and is never retried as it is."""

    reason = "invalid_record"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Unavailable(ReaSeqError):
    """Something outside does not answer; the same call may succeed later, so it is waited for."""

    reason = "unavailable"


class StoreUnavailable(Unavailable):
    """The feature store does not answer."""

    reason = "store_unavailable"


class ArchiveUnavailable(Unavailable):
    """The archive cannot be written: no space is left, or its disk is away."""

    reason = "archive_unavailable"


class BrokerUnavailable(Unavailable):
    """The brokers do not answer, or do not confirm."""

    reason = "broker_unavailable"


class EndpointUnavailable(Unavailable):
    """The language model's endpoint does not answer, or rejects everybody."""

    reason = "endpoint_unavailable"


class VocabularyError(ReaSeqError):
    """A vocabulary file is missing or broken, or knowledge speaks one that cannot be migrated."""

    reason = "vocabulary"


class CatalogError(ReaSeqError):
    """A catalog or a file of answers that a command was given cannot be read; the message names the row."""

    reason = "catalog"


class SpaceMismatch(ReaSeqError):
    """Two vectors of different embedding spaces met; comparing them would give a number without meaning."""

    reason = "space_mismatch"


class ArtifactError(ReaSeqError):
    """A published model is missing, incomplete, or was made for other features than the ones at hand."""

    reason = "artifact"


class DeliveryError(ReaSeqError):
    """A record could be neither processed nor put into the dead letters: the worker must stop without acknowledging."""

    reason = "delivery"


class InfrastructureError(ReaSeqError):
    """A program or service that the command needs is missing or did not start; the message says how to get it."""

    reason = "infrastructure"

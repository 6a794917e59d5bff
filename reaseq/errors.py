"""The error hierarchy. Each class has a reason code, which metrics and dead letters carry."""

from collections.abc import Sequence


class ReaSeqError(Exception):
    """Base of the errors that the project raises. `reason` is a stable code; the message is for humans."""

    reason = "internal"


class InvalidRecord(ReaSeqError):
    """A record violates the schema or the guards of its topic. It becomes a dead letter; a retry cannot succeed."""

    reason = "invalid_record"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class InvalidSettings(ReaSeqError):
    """A setting is invalid, or unsafe for what is started with it. The message names it and repeats no value."""

    reason = "invalid_settings"


class InvalidDeclaration(ReaSeqError):
    """The declaration of features cannot be used. The message says what to change."""

    reason = "invalid_declaration"


class Unavailable(ReaSeqError):
    """An external service does not respond. The same call may succeed later, so the caller waits and retries."""

    reason = "unavailable"


class StoreUnavailable(Unavailable):
    """The feature store does not respond."""

    reason = "store_unavailable"


class StoreEvicts(StoreUnavailable):
    """The feature store may evict rows when its memory is full, so nothing may be built on what it returns."""

    reason = "store_evicts"


class ShardMapMismatch(StoreUnavailable):
    """The settings name the shards of the store otherwise than the shards do, or another store has replaced this one."""

    reason = "shard_map_mismatch"


class NewerRowFormat(StoreUnavailable):
    """A stored row needs a newer writer than this one, which would drop what it does not know. Wait for the upgrade."""

    reason = "newer_row_format"


class CorruptRows(StoreUnavailable):
    """Stored rows do not hold what was written, so nothing may be built on them. `ids` are the entities."""

    reason = "corrupt_rows"

    def __init__(self, ids: Sequence[str]) -> None:
        super().__init__(f"the online store has corrupt rows of {len(ids)} entities")
        self.ids = ids


class ArchiveUnavailable(Unavailable):
    """The archive or the served-feature log is not writable: its disk is full or not mounted."""

    reason = "archive_unavailable"


class BrokerUnavailable(Unavailable):
    """The brokers do not respond or do not acknowledge."""

    reason = "broker_unavailable"


class EndpointUnavailable(Unavailable):
    """The language model's endpoint does not respond or rejects every call."""

    reason = "endpoint_unavailable"


class LedgerUnavailable(Unavailable):
    """The ledger is locked by another process, or its file cannot be read or written."""

    reason = "ledger_unavailable"


class VocabularyError(ReaSeqError):
    """A vocabulary file is missing or invalid, or knowledge cannot be migrated to the current vocabulary."""

    reason = "vocabulary"


class CatalogError(ReaSeqError):
    """Input data of a command is missing or unreadable. For a file, the message names the row."""

    reason = "catalog"


class SpaceMismatch(ReaSeqError):
    """Vectors of two embedding spaces were combined; their similarity has no meaning."""

    reason = "space_mismatch"


class ArtifactError(ReaSeqError):
    """A published model is missing, incomplete, or was trained on other features than the current ones."""

    reason = "artifact"


class DeliveryError(ReaSeqError):
    """A record could be neither processed nor dead-lettered. The worker must stop without acknowledging it."""

    reason = "delivery"


class InfrastructureError(ReaSeqError):
    """A program or service is missing or did not start. The message says how to get it."""

    reason = "infrastructure"

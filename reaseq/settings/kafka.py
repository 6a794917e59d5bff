"""Settings of the brokers and topics."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, SecretStr

DEAD_LETTER_MARGIN_BYTES = 64 * 1024  # headers that a dead letter adds to the failed record


class KafkaSettings(BaseModel):
    """Brokers, consumer group, topic layout and batching.

    With three brokers, `replication_factor` 3 and `min_insync_replicas` 2 keep every guarantee when one broker is lost.
    """

    bootstrap_servers: str = Field(default="127.0.0.1:9092", description="Broker addresses (host:port), comma-separated.")
    group_id: str = Field(default="reaseq", description="Consumer group of the stream workers, and prefix of the other groups.")
    partitions: int = Field(default=4, description="Partitions of each topic; applied when the topic is created.")
    replication_factor: int = Field(default=1, description="Replicas of each partition; applied when the topic is created.")
    min_insync_replicas: int = Field(
        default=1,
        description="In-sync replicas that must have a record before it counts as produced; applied at topic creation.",
    )
    min_compaction_lag_s: float = Field(
        default=3600.0,
        description="Time for which compacted topics keep superseded records: the archive stage makes up for stale ones that "
        "came last; applied at topic creation.",
    )
    max_compaction_lag_s: float = Field(
        default=7 * 24 * 3600.0,
        description="Time within which superseded records leave the compacted topics, such as those of an erased user; "
        "applied at topic creation.",
    )
    max_message_bytes: int = Field(default=4 * 1024 * 1024, description="Largest message that a producer sends.")
    batch_limit_records: int = Field(default=256, description="Maximum number of records in one batch of a stage.")
    history_batch_limit_records: int = Field(
        default=1024, description="Maximum number of events in one batch of the history stage."
    )
    batch_wait_s: float = Field(default=0.05, description="Longest time that a stage waits for a batch to fill.")
    archive_batch_limit_records: int = Field(
        default=5000, description="Maximum number of records in one batch of the archive stage."
    )
    archive_batch_wait_s: float = Field(
        default=10.0, description="Longest time that the archive stage waits for a batch to fill."
    )
    session_timeout_s: float = Field(
        default=10.0, description="Time without a heartbeat after which a worker is evicted from the group."
    )
    tls: bool = Field(default=False, description="Connect to the brokers over TLS.")
    tls_ca_file: Path | None = Field(default=None, description="CA certificates to trust; the system's CA store if empty.")
    tls_certificate_file: Path | None = Field(default=None, description="Client certificate for mutual TLS.")
    tls_key_file: Path | None = Field(default=None, description="Private key of the client certificate.")
    sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="", description="SASL mechanism; no SASL if empty."
    )
    sasl_username: str = Field(default="", description="SASL user name.")
    sasl_password: SecretStr = Field(default=SecretStr(""), description="SASL password.")

    @property
    def record_limit_bytes(self) -> int:
        """Largest record on any topic: a message of `max_message_bytes` that has become a dead letter."""
        return self.max_message_bytes + DEAD_LETTER_MARGIN_BYTES

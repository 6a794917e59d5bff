"""The root of the settings and their sources."""

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from reaseq.settings.aggregates import AggregatesSettings
from reaseq.settings.behavior import BehaviorSettings
from reaseq.settings.encoder import EncoderSettings
from reaseq.settings.group import Directory
from reaseq.settings.guard import GuardSettings
from reaseq.settings.http import HttpSettings
from reaseq.settings.kafka import KafkaSettings
from reaseq.settings.knowledge import KnowledgeSettings
from reaseq.settings.recorded import RecordedSettings
from reaseq.settings.service import ServiceSettings
from reaseq.settings.store import StoreSettings
from reaseq.settings.worker import WorkerSettings


class Settings(BaseSettings):
    """The root of the settings."""

    model_config = SettingsConfigDict(
        env_prefix="REASEQ_",
        env_nested_delimiter="__",
        secrets_nested_delimiter="__",
        secrets_dir_missing="error",
        env_ignore_empty=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # it may be a secret
    )

    state_dir: Directory = Field(default=Path("var"), description="Directory of everything that the system writes.")
    declaration_file: Path | None = Field(
        default=None,
        description="Python module that declares the shop's own features; none if empty. `reaseq init` writes one.",
    )
    kafka: KafkaSettings = Field(default=KafkaSettings(), description="Kafka.")
    store: StoreSettings = Field(default=StoreSettings(), description="The online feature store.")
    encoder: EncoderSettings = Field(default=EncoderSettings(), description="The text encoder.")
    knowledge: KnowledgeSettings = Field(default=KnowledgeSettings(), description="Explicit reasoning.")
    behavior: BehaviorSettings = Field(default=BehaviorSettings(), description="Latent reasoning.")
    aggregates: AggregatesSettings = Field(default=AggregatesSettings(), description="Aggregates of items.")
    guard: GuardSettings = Field(default=GuardSettings(), description="Message guards.")
    http: HttpSettings = Field(default=HttpSettings(), description="HTTP servers.")
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
        """Environment variables, then files in REASEQ_SECRETS_DIR, then what `reaseq up` recorded.

        Raises SettingsError if the directory is missing.
        """
        secrets = NestedSecretsSettingsSource(file_secret_settings, secrets_dir=os.environ.get("REASEQ_SECRETS_DIR"))
        return init_settings, env_settings, secrets, RecordedSettings(settings_cls)

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

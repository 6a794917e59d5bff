"""Settings: descriptions, sources and secrets."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError
from pydantic_settings import SettingsError

from reaseq.settings import Settings


def test_secret_files_are_read_and_the_environment_takes_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "REASEQ_STORE__REDIS_URL").write_text("rediss://reader:hush@redis/0\n")
    (tmp_path / "REASEQ_KAFKA__SASL_PASSWORD").write_text("from a file")
    monkeypatch.setenv("REASEQ_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("REASEQ_KAFKA__SASL_PASSWORD", "from the environment")

    settings = Settings()

    assert settings.store.redis_url.get_secret_value() == "rediss://reader:hush@redis/0"
    assert settings.kafka.sasl_password.get_secret_value() == "from the environment"
    assert "hush" not in str(settings) and "from the environment" not in str(settings)


def test_empty_api_key_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests without a key would match it."""
    monkeypatch.setenv("REASEQ_SERVICE__API_KEYS", '["good", ""]')

    with pytest.raises(ValidationError, match="api_keys"):
        Settings()


def test_missing_secrets_directory_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REASEQ_SECRETS_DIR", str(tmp_path / "nowhere"))

    with pytest.raises(SettingsError, match="does not exist"):
        Settings()


def test_every_setting_has_a_description() -> None:
    def find_undescribed(model: type[BaseModel], prefix: str) -> Iterator[str]:
        for name, field in model.model_fields.items():
            if not field.description:
                yield f"{prefix}{name}"
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from find_undescribed(field.annotation, f"{prefix}{name}.")

    assert list(find_undescribed(Settings, "")) == []

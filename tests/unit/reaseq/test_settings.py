"""Settings: descriptions, sources and secrets."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr
from pydantic_settings import SettingsError

from reaseq.errors import InvalidSettings
from reaseq.settings import Settings, load_settings, recorded


def test_secret_files_are_read_and_the_environment_takes_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "REASEQ_STORE__REDIS_URL").write_text("rediss://reader:hush@redis/0\n")
    (tmp_path / "REASEQ_KAFKA__SASL_PASSWORD").write_text("from a file")
    monkeypatch.setenv("REASEQ_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("REASEQ_KAFKA__SASL_PASSWORD", "from the environment")

    settings = Settings()

    assert settings.store.redis_url.get_secret_value() == "rediss://reader:hush@redis/0"
    assert settings.kafka.sasl_password.get_secret_value() == "from the environment"
    assert "hush" not in str(settings) and "from the environment" not in str(settings)


def test_shards_are_urls_with_commas_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REASEQ_STORE__REDIS_URL", "redis://:a,b@one/0, rediss://two:7000/1")

    assert Settings().store.redis_urls == ["redis://:a,b@one/0", "rediss://two:7000/1"]
    assert Settings(store={"redis_url": "redis://:a,b@one/0"}).store.redis_urls == ["redis://:a,b@one/0"]  # type: ignore[arg-type]


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


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"REASEQ_SERVICE__PORT": "eighty"}, "REASEQ_SERVICE__PORT: input should be a valid integer"),
        ({"REASEQ_SERVICE__PORT": "99999"}, "REASEQ_SERVICE__PORT: input should be less than or equal to 65535"),
        ({"REASEQ_STORE__PROFILE": "prod"}, "REASEQ_STORE__PROFILE: input should be 'embedded' or 'production'"),
        ({"REASEQ_SERVICE__API_KEYS": "s3cret"}, "REASEQ_SERVICE__API_KEYS: must be JSON, such as"),
        ({"REASEQ_SERVICE__API_KEYS": '"s3cret"'}, "REASEQ_SERVICE__API_KEYS: must be JSON, such as"),
        ({"REASEQ_SERVICE__API_KEYS": '["s3cret"]'}, "REASEQ_SERVICE__API_KEYS: a key has fewer than 16 characters"),
        ({"REASEQ_SERVICE__API_KEYS": '[""]'}, "REASEQ_SERVICE__API_KEYS: a key has fewer than 16 characters"),
        ({"REASEQ_SERVICE": '{"api_keys": ["s3cret"]}'}, "REASEQ_SERVICE__API_KEYS: a key has fewer than 16 characters"),
        ({"REASEQ_STORE__REDIS_URL": "host/s3cret"}, "REASEQ_STORE__REDIS_URL: is not of the form redis://"),
        ({"REASEQ_STORE__REDIS_URL": "redis://:s3cret@host:port"}, "REASEQ_STORE__REDIS_URL: is not of the form redis://"),
        ({"REASEQ_STORE__REDIS_URL": "redis://h:1,redis://:s3cret@"}, "REASEQ_STORE__REDIS_URL: is not of the form redis://"),
        ({"REASEQ_STORE__REDIS_URL": "redis://:s3cret@h:1/0,redis://h:1/0"}, "REASEQ_STORE__REDIS_URL: names a database twice"),
        (
            {"REASEQ_STORE__REDIS_URL": "redis://h:1,redis://h:2", "REASEQ_STORE__REPLACED_REDIS_URL": "redis://:s3cret@h:2"},
            "REASEQ_STORE__REPLACED_REDIS_URL: names a database of REASEQ_STORE__REDIS_URL",
        ),
        *(
            ({"REASEQ_KAFKA__BOOTSTRAP_SERVERS": servers}, "REASEQ_KAFKA__BOOTSTRAP_SERVERS: is not of the form host:port")
            for servers in ("kafka", "http://kafka:9092", ",", "kafka:99999", "kafka:9092,", "kafka:9092/x", "a:1 b:2")
        ),
        ({"REASEQ_KAFKA__TLS_CA_FILE": "/no/such.pem"}, "REASEQ_KAFKA__TLS_CA_FILE: path does not point to a file"),
        ({"REASEQ_KAFKA": "{"}, "REASEQ_KAFKA: must be JSON, such as"),
        ({"REASEQ_SERVICE_PORT": "80"}, "REASEQ_SERVICE_PORT is no setting; the nearest is REASEQ_SERVICE__PORT"),
        ({"reaseq_kafka__partition": "8"}, "REASEQ_KAFKA__PARTITION is no setting; the nearest is REASEQ_KAFKA__PARTITIONS"),
        ({"REASEQ_STATEDIR": "x"}, "REASEQ_STATEDIR is no setting; the nearest is REASEQ_STATE_DIR"),
        ({"REASEQ_SECRETS_DIR": "/no/such"}, "REASEQ_SECRETS_DIR: /no/such cannot be read: No such file"),
        ({"REASEQ_SECRETS_DIR": __file__}, "REASEQ_SECRETS_DIR: .* cannot be read: Not a directory"),
        ({"REASEQ_SERVICE": '{"api_keys": [], "porrt": 1}'}, "REASEQ_SERVICE__PORRT is no setting"),
        ({"REASEQ_SERVICE": "s3cret"}, "REASEQ_SERVICE: must be JSON, such as"),
        ({"REASEQ_SERVICE": '"s3cret"'}, "REASEQ_SERVICE: must be JSON, such as"),
        ({"REASEQ_SERVICE__API_KEYS": '["s3cret s3cret s3cret\\n"]'}, "REASEQ_SERVICE__API_KEYS: a key has other characters"),
        ({"REASEQ_KNOWLEDGE__LLM__BASE_URL": "localhost:8000/v1"}, "LLM__BASE_URL: is not of the form http://"),
        ({"REASEQ_KNOWLEDGE__LLM__BASE_URL": "ftp://host"}, "LLM__BASE_URL: is not of the form http://"),
        ({"REASEQ_KNOWLEDGE__LLM__BASE_URL": "http://u:s3cret@host/v1"}, "LLM__BASE_URL: .*; the key is a setting of its own"),
        ({"REASEQ_KNOWLEDGE__LLM__ANSWER_TIMEOUT_S": "5s"}, "ANSWER_TIMEOUT_S: input should be a valid number"),
        ({"REASEQ_KNOWLEDGE__LLM__ANSWER_TIMEOUT_S": "nan"}, "ANSWER_TIMEOUT_S: input should be a finite number"),
        ({"REASEQ_SERVICE__BUDGET_MS": "inf"}, "REASEQ_SERVICE__BUDGET_MS: input should be a finite number"),
        ({"REASEQ_KAFKA__PARTITIONS": "0"}, "REASEQ_KAFKA__PARTITIONS: input should be greater than 0"),
        ({"REASEQ_WORKER__DRAIN_S": "-1"}, "REASEQ_WORKER__DRAIN_S: input should be greater than or equal to 0"),
        ({"REASEQ_SERVICE__SHADOW_SHARE": "1.5"}, "SHADOW_SHARE: input should be less than or equal to 1"),
        ({"REASEQ_STATE_DIR": __file__}, "REASEQ_STATE_DIR: .* is a file, not a directory"),
        ({"REASEQ_STATE_DIR": f"{__file__}/below"}, "REASEQ_STATE_DIR: .*test_settings.py is a file, not a directory"),
        ({"REASEQ_STATE_DIR": "x" * 300}, "REASEQ_STATE_DIR: is no directory that can be written to: File name too long"),
        ({"REASEQ_KNOWLEDGE__LEDGER_DIR": __file__}, "LEDGER_DIR: .* is a file, not a directory"),
    ],
)
def test_wrong_setting_is_one_line_that_names_it_and_not_its_value(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(InvalidSettings, match=message) as raised:
        load_settings()
    assert "s3cret" not in str(raised.value) and "\n" not in str(raised.value)


def test_secret_file_that_is_no_setting_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "REASEQ_SERVICE__API_KEY").write_text("s3cret")
    monkeypatch.setenv("REASEQ_SECRETS_DIR", str(tmp_path))

    with pytest.raises(InvalidSettings, match="nearest is REASEQ_SERVICE__API_KEYS"):
        load_settings()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"s3cret", "REASEQ_SERVICE__API_KEYS: must be JSON, such as"),
        (b"\xff\xfes3cret", "API_KEYS cannot be read, or is not UTF-8"),
    ],
)
def test_wrong_secret_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str) -> None:
    (tmp_path / "REASEQ_SERVICE__API_KEYS").write_bytes(content)
    monkeypatch.setenv("REASEQ_SECRETS_DIR", str(tmp_path))

    with pytest.raises(InvalidSettings, match=message) as raised:
        load_settings()
    assert "s3cret" not in str(raised.value)


def test_damaged_record_of_the_running_system_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / recorded.FILE).write_text('{"kafka": {"s3cret')
    monkeypatch.setenv("REASEQ_STATE_DIR", str(tmp_path))

    with pytest.raises(InvalidSettings, match=r"running.json is damaged: delete it"):
        load_settings()


def test_every_number_has_a_bound() -> None:
    def find_unbounded(model: type[BaseModel], prefix: str) -> Iterator[str]:
        for name, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from find_unbounded(field.annotation, f"{prefix}{name}.")
            elif field.annotation in (int, float) and not field.metadata:
                yield f"{prefix}{name}"

    assert list(find_unbounded(Settings, "")) == []


def test_settings_of_every_kind_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REASEQ_KNOWLEDGE__LLM__EXTRA_BODY__TOP_K", "1")
    monkeypatch.setenv("REASEQ_KAFKA", '{"partitions": 8}')
    monkeypatch.setenv("REASEQ_KNOWLEDGE__VOCABULARY", "")  # as compose passes a variable that is not set
    monkeypatch.setenv("REASEQ_SERVICE__API_KEYS", '["0123456789abcdef"]')

    settings = load_settings()

    assert (settings.kafka.partitions, settings.knowledge.vocabulary) == (8, "giftware-3")
    assert settings.service.api_keys[0].get_secret_value() == "0123456789abcdef"


def test_settings_of_the_running_system_are_used_until_it_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = Settings(state_dir=tmp_path)
    running.store.profile, running.kafka.bootstrap_servers = "production", "127.0.0.1:19092"
    running.store.redis_url, running.service.api_keys = SecretStr("redis://127.0.0.1:1/0"), [SecretStr("0123456789abcdef")]
    recorded.record(running, tmp_path)
    monkeypatch.setenv("REASEQ_STATE_DIR", str(tmp_path))

    assert load_settings() == running, "what was not said is as in the system that runs"
    assert (tmp_path / recorded.FILE).stat().st_mode & 0o077 == 0
    monkeypatch.setenv("REASEQ_KAFKA__BOOTSTRAP_SERVERS", "other:9092")
    assert load_settings().kafka.bootstrap_servers == "other:9092"
    recorded.forget(tmp_path)
    assert load_settings().store.profile == "embedded"

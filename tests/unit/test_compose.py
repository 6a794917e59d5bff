"""docker-compose.yml keeps its promises: pinned, watched, bounded, closed to the outside, and set by real settings."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from reaseq.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {"setup"}  # ends when its work is done: its exit status says more than a health check could

each_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES.keys())


def is_setting(variable: str) -> bool:
    """Whether an environment variable names a leaf of the settings tree."""
    model: type[BaseModel] | None = Settings
    for name in variable.removeprefix("REASEQ_").lower().split("__"):
        if model is None or name not in model.model_fields:
            return False
        kind = model.model_fields[name].annotation
        model = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
    return model is None


@each_service
def test_every_image_is_pinned(service: dict[str, Any]) -> None:
    _, _, tag = service["image"].partition(":")
    assert tag not in ("", "latest")


@each_service
def test_every_reaseq_variable_is_a_setting(service: dict[str, Any]) -> None:
    variables = [name for name in service.get("environment", {}) if name.startswith("REASEQ_")]
    assert [name for name in variables if not is_setting(name)] == []


def test_a_variable_that_is_no_setting_is_noticed() -> None:
    assert is_setting("REASEQ_KAFKA__BOOTSTRAP_SERVERS")
    assert not is_setting("REASEQ_KAFKA__BOOTSTRAP_SERVER")
    assert not is_setting("REASEQ_KAFKA")
    assert not is_setting("REASEQ_STATE_DIR__NAME")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_that_stays_is_health_checked_and_one_that_ends_is_not_restarted(name: str) -> None:
    if name in ONE_SHOT:
        assert SERVICES[name]["restart"] == "no"
    else:
        assert SERVICES[name]["healthcheck"]["test"]
        assert SERVICES[name]["restart"] == "unless-stopped"


@each_service
def test_every_service_has_resource_limits(service: dict[str, Any]) -> None:
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}


@each_service
def test_published_ports_are_on_loopback(service: dict[str, Any]) -> None:
    assert [port for port in service.get("ports", []) if not port.startswith("127.0.0.1:")] == []


@each_service
def test_nothing_starts_before_what_it_needs_is_ready(service: dict[str, Any]) -> None:
    for needed, how in service.get("depends_on", {}).items():
        expected = "service_completed_successfully" if needed in ONE_SHOT else "service_healthy"
        assert how["condition"] == expected


@pytest.mark.parametrize(
    ("name", "port_variable"), [("worker", "REASEQ_WORKER__METRICS_PORT"), ("ranker", "REASEQ_SERVICE__PORT")]
)
def test_the_health_check_asks_the_port_that_the_service_listens_on(name: str, port_variable: str) -> None:
    service = SERVICES[name]
    assert f"127.0.0.1:{service['environment'][port_variable]}/" in service["healthcheck"]["test"][-1]


def test_the_broker_takes_what_the_producers_may_send() -> None:
    assert int(SERVICES["kafka"]["environment"]["KAFKA_MESSAGE_MAX_BYTES"]) == Settings().kafka.max_message_bytes

"""docker-compose.yml keeps its promises: pinned, watched, bounded, closed to the outside, and set by real settings."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from pydantic import BaseModel

from reaseq.settings import Settings

ROOT = Path(__file__).parents[3]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {"setup", "smoke"}  # ends when its work is done: its exit status says more than a health check could

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


@pytest.mark.parametrize("profile", ["core", "vllm", "gpu"])
def test_each_profile_is_a_whole_system_that_can_be_published_once(profile: str) -> None:
    started = {name: of for name, of in SERVICES.items() if profile in of.get("profiles", [profile])}
    roles = [
        of["command"][of["command"].index("--role") + 1] for of in started.values() if of.get("command", [""])[0] == "worker"
    ]
    ports = [port for of in started.values() for port in of.get("ports", [])]

    assert sorted(roles) == ["reasoning", "stream"]
    assert len(ports) == len(set(ports)) == 1, "one ranking service"
    assert all(needed in started for of in started.values() for needed in of.get("depends_on", {}))
    on_gpus = {name for name, of in started.items() if "reservations" in of["deploy"]["resources"]}
    assert on_gpus == {"core": set(), "vllm": {"vllm"}, "gpu": {"vllm", "gpu-ranker"}}[profile]


def test_the_console_asks_services_that_are_there() -> None:
    urls = json.loads(SERVICES["ranker"]["environment"]["REASEQ_SERVICE__WORKER_URLS"])
    names = {alias for of in SERVICES.values() for alias in of.get("networks", {}).get("default", {}).get("aliases", [])}
    assert {urlsplit(url).hostname for url in urls} <= {*SERVICES, *names}


# ---- the image

DOCKERFILE = (ROOT / "infra" / "images" / "Dockerfile").read_text()
INSTRUCTIONS = [line.split(maxsplit=1) for line in DOCKERFILE.replace("\\\n", "").splitlines() if re.match("[A-Z]+ ", line)]


def told(instruction: str) -> list[str]:
    return [rest for name, rest in INSTRUCTIONS if name == instruction]


def test_the_image_is_built_from_pinned_parts_and_runs_as_nobody_in_particular() -> None:
    assert all(re.fullmatch(r"[\w/-]+:\d[\w.-]+( AS \w+)?", base) for base in told("FROM"))
    assert told("USER")[-1].split(":")[0].isdigit() and not told("USER")[-1].startswith("0")
    assert all("--require-hashes" in run or "--no-deps" in run for run in told("RUN") if "pip install" in run)
    assert all("--no-cache-dir" in run for run in told("RUN") if "pip install" in run)
    assert not told("ADD") and not [run for run in told("RUN") if re.search("sudo|curl|wget|apt-get upgrade", run)]
    assert [json.loads(start) for start in told("ENTRYPOINT")] == [["reaseq"]]


def test_everything_that_is_installed_is_copied_and_not_kept_from_the_builder() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {of.rstrip("*") for of in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    copied = {source for copy in told("COPY") if not copy.startswith("--from") for source in copy.split()[:-1]}
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}

    assert packages <= copied
    assert copied <= allowed
    assert all((ROOT / name).exists() for name in copied)

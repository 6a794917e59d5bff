"""docker-compose.yml and the Dockerfile: pinned images, health checks, limits, closed ports, and existing settings."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from pydantic import BaseModel

from infra.containers.images import IMAGES, STANDINS
from infra.containers.passwords import NAMES, write_passwords
from reaseq.settings import Settings

ROOT = Path(__file__).parents[3]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {"setup": "on-failure:10", "smoke": "no"}  # exit when done: the exit status replaces a health check
# vLLM's image runs as root and writes its caches to its root; Kafka's writes its configuration there.
WRITABLE_ROOT = {"kafka", "vllm"}

each_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES.keys())


def is_setting(variable: str) -> bool:
    """Whether an environment variable names a setting."""
    model: type[BaseModel] | None = Settings
    for name in variable.removeprefix("REASEQ_").lower().split("__"):
        if model is None or name not in model.model_fields:
            return False
        kind = model.model_fields[name].annotation
        model = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
    return model is None


@each_service
def test_images_are_pinned(service: dict[str, Any]) -> None:
    _, _, tag = service["image"].partition(":")
    assert tag not in ("", "latest")


@each_service
def test_reaseq_variables_are_settings(service: dict[str, Any]) -> None:
    variables = [name for name in service.get("environment", {}) if name.startswith("REASEQ_")]
    assert [name for name in variables if not is_setting(name)] == []


def test_is_setting_rejects_other_variables() -> None:
    assert is_setting("REASEQ_KAFKA__BOOTSTRAP_SERVERS")
    assert not is_setting("REASEQ_KAFKA__BOOTSTRAP_SERVER")
    assert not is_setting("REASEQ_KAFKA")
    assert not is_setting("REASEQ_STATE_DIR__NAME")


@pytest.mark.parametrize("name", SERVICES)
def test_services_have_health_checks_and_are_restarted(name: str) -> None:
    if name in ONE_SHOT:
        assert SERVICES[name]["restart"] == ONE_SHOT[name], "setup gets over a broker that is gone for a moment"
    else:
        assert SERVICES[name]["healthcheck"]["test"]
        assert SERVICES[name]["restart"] == "unless-stopped"


@each_service
def test_services_have_resource_limits(service: dict[str, Any]) -> None:
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}


@each_service
def test_published_ports_are_on_loopback(service: dict[str, Any]) -> None:
    assert [port for port in service.get("ports", []) if not port.startswith("127.0.0.1:")] == []


@pytest.mark.parametrize("name", SERVICES)
def test_containers_are_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service and "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("read_only", False) != (name in WRITABLE_ROOT)


def test_each_image_is_built_once() -> None:
    built = [service["image"] for service in SERVICES.values() if "build" in service]
    used = {service["image"] for service in SERVICES.values() if service["image"].startswith("reaseq")}
    assert len(built) == len(set(built)) and set(built) == used


@pytest.mark.parametrize("name", ["worker", "reasoner", "llm-reasoner"])
def test_replicas_differ_in_name_and_share_no_run_folder(name: str) -> None:
    assert SERVICES[name]["entrypoint"] == ["sh", "-c", 'exec reaseq "$$@" --name "$$HOSTNAME"', "reaseq"]
    assert any(mount.startswith("/var/lib/reaseq/run:") for mount in SERVICES[name]["tmpfs"])


def test_services_that_take_a_password_get_it_from_the_environment() -> None:
    kafka, redis, vllm, grafana = (SERVICES[name] for name in ("kafka", "redis", "vllm", "grafana"))
    assert "CLIENTS:SASL_PLAINTEXT" in kafka["environment"]["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"]
    assert 'user_reaseq="${KAFKA_PASSWORD}"' in kafka["environment"]["KAFKA_LISTENER_NAME_CLIENTS_PLAIN_SASL_JAAS_CONFIG"]
    assert redis["command"][redis["command"].index("--requirepass") + 1] == "${REDIS_PASSWORD}"
    assert vllm["environment"]["VLLM_API_KEY"].startswith("${VLLM_PASSWORD:?")
    assert grafana["environment"]["GF_SECURITY_ADMIN_PASSWORD"].startswith("${GRAFANA_PASSWORD:?")


def test_one_command_writes_every_password_that_the_compose_file_asks_for(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("REDIS_PASSWORD=mine\nREASEQ_SERVICE__API_KEYS=[]")

    assert set(write_passwords(file)) == {"KAFKA_PASSWORD", "VLLM_PASSWORD", "GRAFANA_PASSWORD"}
    assert write_passwords(file) == []

    lines = dict(line.split("=", 1) for line in file.read_text().splitlines())
    asked = set(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text()))
    assert asked == set(NAMES) and lines.keys() == {*NAMES, "REASEQ_SERVICE__API_KEYS"}
    assert lines["REDIS_PASSWORD"] == "mine" and len(set(lines.values())) == len(lines)
    assert file.stat().st_mode & 0o777 == 0o600


@each_service
def test_services_wait_for_their_dependencies(service: dict[str, Any]) -> None:
    for name, dependency in service.get("depends_on", {}).items():
        expected = "service_completed_successfully" if name in ONE_SHOT else "service_healthy"
        assert dependency["condition"] == expected


@pytest.mark.parametrize(
    ("name", "port_variable"), [("worker", "REASEQ_WORKER__METRICS_PORT"), ("ranker", "REASEQ_SERVICE__PORT")]
)
def test_health_checks_use_the_configured_port(name: str, port_variable: str) -> None:
    service = SERVICES[name]
    assert f"127.0.0.1:{service['environment'][port_variable]}/" in service["healthcheck"]["test"][-1]


def test_broker_accepts_the_largest_message_of_producers() -> None:
    assert int(SERVICES["kafka"]["environment"]["KAFKA_MESSAGE_MAX_BYTES"]) == Settings().kafka.max_message_bytes


@pytest.mark.parametrize("profile", ["core", "vllm", "gpu"])
def test_each_profile_is_a_complete_system_with_one_published_port(profile: str) -> None:
    started = {name: service for name, service in SERVICES.items() if profile in service.get("profiles", [profile])}
    commands = [service.get("command", [""]) for service in started.values()]
    roles = [command[command.index("--role") + 1] for command in commands if command[0] == "worker"]
    ports = [port for service in started.values() for port in service.get("ports", [])]

    assert sorted(roles) == ["reasoning", "stream"]
    assert len(ports) == len(set(ports)) == 1, "one ranking service"
    assert all(name in started for service in started.values() for name in service.get("depends_on", {}))
    on_gpus = {name for name, service in started.items() if "reservations" in service["deploy"]["resources"]}
    assert on_gpus == {"core": set(), "vllm": {"vllm"}, "gpu": {"vllm", "gpu-ranker"}}[profile]


def test_console_urls_name_existing_services() -> None:
    urls = json.loads(SERVICES["ranker"]["environment"]["REASEQ_SERVICE__WORKER_URLS"])
    networks = [service.get("networks", {}).get("default", {}) for service in SERVICES.values()]
    aliases = {alias for network in networks for alias in network.get("aliases", [])}
    assert {urlsplit(url).hostname for url in urls} <= {*SERVICES, *aliases}


# ---- the image

DOCKERFILE = (ROOT / "infra" / "images" / "Dockerfile").read_text()
INSTRUCTIONS = [line.split(maxsplit=1) for line in DOCKERFILE.replace("\\\n", "").splitlines() if re.match("[A-Z]+ ", line)]


def get_arguments(instruction: str) -> list[str]:
    return [rest for name, rest in INSTRUCTIONS if name == instruction]


def test_image_has_pinned_parts_and_does_not_run_as_root() -> None:
    assert get_arguments("ARG")[0] == "BASE=python:3.11-slim"
    assert get_arguments("FROM") == ["${BASE} AS dependencies", "dependencies AS code", "${BASE}"]
    assert get_arguments("USER")[-1].split(":")[0].isdigit() and not get_arguments("USER")[-1].startswith("0")
    assert all("--require-hashes" in run or "--no-deps" in run for run in get_arguments("RUN") if "pip install" in run)
    assert all("--no-cache-dir" in run for run in get_arguments("RUN") if "pip install" in run)
    assert not get_arguments("ADD") and not [
        run for run in get_arguments("RUN") if re.search("sudo|curl|wget|apt-get upgrade", run)
    ]
    assert [json.loads(start) for start in get_arguments("ENTRYPOINT")] == [["reaseq"]]


def test_image_copies_every_package_and_dockerignore_allows_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    copied = {source for copy in get_arguments("COPY") if not copy.startswith("--from") for source in copy.split()[:-1]}
    copied -= {"infra/images/remove_cuda.py"}  # in infra
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}

    assert packages <= copied
    assert copied <= allowed
    assert all((ROOT / name).exists() for name in copied)


def test_code_and_dependencies_are_separate_layers() -> None:
    layers = [copy for copy in get_arguments("COPY") if copy.startswith("--from")]
    assert layers == ["--from=dependencies /opt/reaseq /opt/reaseq", "--from=code /opt/code /opt/reaseq"]


# ---- stand-ins


def test_standins_stand_in_for_images_that_are_used() -> None:
    used = {service["image"] for service in SERVICES.values()} | {"python:3.11-slim"}
    assert IMAGES.keys() <= used
    for image, folder in IMAGES.items():
        first = (STANDINS / folder / "Dockerfile").read_text().splitlines()[0]
        assert first.startswith(f"# Stand-in for {image}:"), "named as what it is"

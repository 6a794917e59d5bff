"""The Helm chart: linted, rendered for each size, and held against the schemas of Kubernetes and of two operators."""

import json
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from infra.grafana.dashboards import DASHBOARDS
from infra.helm.schemas import SCHEMAS
from infra.prometheus.server import RULES
from tests.integration.go_tools import needs
from tests.unit.infra.test_compose import is_setting

pytestmark = [pytest.mark.integration, needs("helm", "kubeconform")]

CHART = SCHEMAS.with_name("reaseq")
BOUND = {
    "existingSecret": "ours",
    "rankerSecret": "reader",
    "llm.baseUrl": "https://models.example.com/v1",
    "llm.model": "any",
    "state.existingClaim": "disk",
}
SIZES = {
    "default": [],
    "small": ["-f", "values-small.yaml"],
    "large": ["-f", "values-large.yaml"],
    "bound": [argument for name, value in BOUND.items() for argument in ("--set", f"{name}={value}")],
}
KUBE_VERSION = "1.32.0"  # which a helm built from its module does not know by itself
UNPROBED = {"Job", "CronJob"}

each_size = pytest.mark.parametrize("options", SIZES.values(), ids=SIZES.keys())


def run_helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["helm", *arguments, "--kube-version", KUBE_VERSION]
    return subprocess.run(command, cwd=CHART, capture_output=True, text=True, check=False)


def helm(*arguments: str) -> str:
    run = run_helm(*arguments)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def rendered(options: list[str]) -> list[dict[str, Any]]:
    found = yaml.safe_load_all(helm("template", "shop", ".", *options))
    return [resource for resource in found if resource]


def build_settings(resources: list[dict[str, Any]]) -> dict[str, str]:
    [found] = [of["data"] for of in resources if of["kind"] == "ConfigMap" and of["metadata"]["name"] == "shop-settings"]
    return dict(found)


def pods(resources: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By the name of its resource, the pod that it makes."""
    found = {}
    for resource in resources:
        spec = resource["spec"]["jobTemplate"]["spec"] if resource["kind"] == "CronJob" else resource.get("spec", {})
        if "containers" in (pod := spec.get("template", {}).get("spec", {})):
            found[resource["metadata"]["name"]] = pod | {"of": resource["kind"]}
    return found


@each_size
def test_helm_has_nothing_against_it(options: list[str]) -> None:
    helm("lint", "--strict", ".", *options)


@each_size
def test_all_that_it_makes_fits_the_schemas(options: list[str], tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(helm("template", "shop", ".", *options))
    command = ["kubeconform", "-summary", "-schema-location", str(SCHEMAS), str(manifest)]

    run = subprocess.run(command, capture_output=True, text=True, check=False)

    assert run.returncode == 0 and "Skipped: 0" in run.stdout, run.stdout + run.stderr


def test_a_field_that_there_is_not_is_noticed(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(helm("template", "shop", ".").replace("readOnlyRootFilesystem", "readOnlyFilesystem"))

    run = subprocess.run(
        ["kubeconform", "-schema-location", str(SCHEMAS), str(manifest)], capture_output=True, text=True, check=False
    )

    assert run.returncode == 1 and "readOnlyFilesystem" in run.stdout


@each_size
def test_every_variable_is_a_setting(options: list[str]) -> None:
    variables = build_settings(rendered(options)).keys() - {"REASEQ_SECRETS_DIR"}

    assert [name for name in variables if not is_setting(name)] == []


@each_size
def test_every_container_is_bound_and_watched(options: list[str]) -> None:
    for name, pod in pods(rendered(options)).items():
        assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
        for container in pod["containers"]:
            assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]["cpu"], name
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"], name
            assert ("readinessProbe" in container) == (pod["of"] not in UNPROBED), name


@each_size
def test_the_console_and_the_smoke_check_ask_services_that_are_there_and_may(options: list[str]) -> None:
    resources = rendered(options)
    services = {of["metadata"]["name"]: of["spec"] for of in resources if of["kind"] == "Service"}
    [ranker] = pods(resources)["shop-ranker"]["containers"]
    [smoke] = pods(resources)["shop-smoke"]["containers"]

    [urls] = [json.loads(of["value"]) for of in ranker["env"] if of["name"] == "REASEQ_SERVICE__WORKER_URLS"]
    asked = [urlsplit(url) for url in urls]
    workers = {name for name in pods(resources) if name in ("shop-worker", "shop-reasoning")}
    assert {of.hostname for of in asked} == workers
    assert all(services[str(of.hostname)]["ports"][0]["port"] == of.port for of in asked)
    assert urlsplit(smoke["args"][-1]).hostname in services
    policies = {of["metadata"]["name"]: str(of["spec"]["ingress"]) for of in resources if of["kind"] == "NetworkPolicy"}
    for name, caller in (("shop-workers", "ranker"), ("shop-ranker", "smoke")):
        assert not policies or f"'app.kubernetes.io/component': '{caller}'" in policies[name]


def test_without_a_language_model_the_workers_reason_too() -> None:
    workers = pods(rendered([]))

    assert "shop-reasoning" not in workers
    assert workers["shop-worker"]["containers"][0]["args"][-1] == "all"


def test_a_language_model_gets_workers_of_its_own() -> None:
    resources = rendered(SIZES["large"])
    workers = pods(resources)

    roles = {name: workers[f"shop-{name}"]["containers"][0]["args"][-1] for name in ("worker", "reasoning")}
    for name in ("worker", "reasoning"):  # their file systems are read-only but for what is mounted, and both open the ledger
        assert "ledger" in [mount["name"] for mount in workers[f"shop-{name}"]["containers"][0]["volumeMounts"]]
    assert roles == {"worker": "stream", "reasoning": "reasoning"}
    assert build_settings(resources)["REASEQ_KNOWLEDGE__LLM__BASE_URL"] == "http://shop-vllm:8000/v1"


def test_secrets_are_files_and_the_ranking_service_may_have_its_own() -> None:
    found = pods(rendered(SIZES["bound"]))

    secrets = {
        name: [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume] for name, pod in found.items()
    }
    assert secrets["shop-ranker"] == ["reader"] and secrets["shop-worker"] == ["ours"]


def test_the_rules_and_the_dashboards_are_ours() -> None:
    resources = rendered(SIZES["large"])

    [rules] = [of["spec"] for of in resources if of["kind"] == "PrometheusRule"]
    [dashboards] = [of["data"] for of in resources if of["metadata"]["name"] == "shop-dashboards"]
    assert rules == yaml.safe_load(RULES.read_text())
    assert dashboards.keys() == {f"reaseq-{name}.json" for name in DASHBOARDS}


def test_an_endpoint_without_a_model_is_refused() -> None:
    run = run_helm("template", ".", "--set", "llm.baseUrl=http://x")

    assert run.returncode != 0 and "which model does llm.baseUrl serve?" in run.stderr

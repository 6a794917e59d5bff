"""The Helm chart: linted, rendered for each size, and validated against the schemas of Kubernetes, KEDA and Prometheus."""

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
from streams.delivery.topics import DEAD_LETTERS, ITEM_FEATURES, TOPICS
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
KEYS = ["--set", "existingSecret=keys"]
SIZES = {
    "default": KEYS,
    "small": ["-f", "values-small.yaml", *KEYS],
    "large": ["-f", "values-large.yaml", *KEYS],
    "bound": [argument for name, value in BOUND.items() for argument in ("--set", f"{name}={value}")],
}
KUBE_VERSION = "1.32.0"  # a helm built from its Go module has no default
UNPROBED = {"Job", "CronJob", "Pod"}

each_size = pytest.mark.parametrize("options", SIZES.values(), ids=SIZES.keys())


def run_helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["helm", *arguments, "--kube-version", KUBE_VERSION]
    return subprocess.run(command, cwd=CHART, capture_output=True, text=True, check=False)


def helm(*arguments: str) -> str:
    run = run_helm(*arguments)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def render(options: list[str]) -> list[dict[str, Any]]:
    found = yaml.safe_load_all(helm("template", "shop", ".", *options))
    return [resource for resource in found if resource]


def get_settings(resources: list[dict[str, Any]]) -> dict[str, str]:
    return dict(next(resource["data"] for resource in resources if resource["metadata"]["name"] == "shop-settings"))


def get_pods(resources: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Pod specs by the name of their resource."""
    found = {}
    for resource in resources:
        spec = resource["spec"]["jobTemplate"]["spec"] if resource["kind"] == "CronJob" else resource.get("spec", {})
        pod = spec if resource["kind"] == "Pod" else spec.get("template", {}).get("spec", {})
        if "containers" in pod:
            found[resource["metadata"]["name"]] = pod | {"kind": resource["kind"]}
    return found


def get_by_kind(resources: list[dict[str, Any]], kind: str) -> list[tuple[str, dict[str, Any]]]:
    """Names and resources of a kind."""
    return [(resource["metadata"]["name"], resource) for resource in resources if resource["kind"] == kind]


@each_size
def test_helm_lint_passes(options: list[str]) -> None:
    helm("lint", "--strict", ".", *options)


@each_size
def test_manifests_match_the_schemas(options: list[str], tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(helm("template", "shop", ".", *options))
    command = ["kubeconform", "-summary", "-schema-location", str(SCHEMAS), str(manifest)]

    run = subprocess.run(command, capture_output=True, text=True, check=False)

    assert run.returncode == 0 and "Skipped: 0" in run.stdout, run.stdout + run.stderr


def test_schemas_reject_unknown_fields(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(helm("template", "shop", ".", *KEYS).replace("readOnlyRootFilesystem", "readOnlyFilesystem"))

    run = subprocess.run(
        ["kubeconform", "-schema-location", str(SCHEMAS), str(manifest)], capture_output=True, text=True, check=False
    )

    assert run.returncode == 1 and "readOnlyFilesystem" in run.stdout


@each_size
def test_every_variable_is_a_setting(options: list[str]) -> None:
    variables = get_settings(render(options)).keys() - {"REASEQ_SECRETS_DIR"}

    assert [name for name in variables if not is_setting(name)] == []


@each_size
def test_containers_have_limits_probes_and_no_privileges(options: list[str]) -> None:
    for name, pod in get_pods(render(options)).items():
        assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
        for container in pod["containers"]:
            assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]["cpu"], name
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"], name
            assert ("readinessProbe" in container) == (pod["kind"] not in UNPROBED), name


@each_size
def test_console_and_smoke_check_reach_their_services(options: list[str]) -> None:
    resources = render(options)
    services = {name: resource["spec"] for name, resource in get_by_kind(resources, "Service")}
    [ranker] = get_pods(resources)["shop-ranker"]["containers"]
    [smoke] = get_pods(resources)["shop-smoke"]["containers"]

    [urls] = [json.loads(variable["value"]) for variable in ranker["env"] if variable["name"] == "REASEQ_SERVICE__WORKER_URLS"]
    targets = [urlsplit(url) for url in urls]
    workers = {name for name in get_pods(resources) if name in ("shop-worker", "shop-reasoning")}
    assert {target.hostname for target in targets} == workers
    assert all(services[str(target.hostname)]["ports"][0]["port"] == target.port for target in targets)
    assert urlsplit(smoke["args"][-1]).hostname in services
    found = get_by_kind(resources, "NetworkPolicy")
    policies = {name: str(policy["spec"]["ingress"]) for name, policy in found if "ingress" in policy["spec"]}
    for name, caller in (("shop-workers", "ranker"), ("shop-ranker", "smoke")):
        assert not policies or f"'app.kubernetes.io/component': '{caller}'" in policies[name]


def test_workers_reason_if_there_is_no_language_model() -> None:
    workers = get_pods(render(KEYS))

    assert "shop-reasoning" not in workers
    assert workers["shop-worker"]["containers"][0]["args"][-1] == "all"


def test_a_language_model_has_separate_reasoning_workers() -> None:
    resources = render(SIZES["large"])
    workers = get_pods(resources)

    roles = {name: workers[f"shop-{name}"]["containers"][0]["args"][-1] for name in ("worker", "reasoning")}
    for name in ("worker", "reasoning"):  # both open the ledger, and only mounted directories are writable
        assert "ledger" in [mount["name"] for mount in workers[f"shop-{name}"]["containers"][0]["volumeMounts"]]
    assert roles == {"worker": "stream", "reasoning": "reasoning"}
    assert get_settings(resources)["REASEQ_KNOWLEDGE__LLM__BASE_URL"] == "http://shop-vllm:8000/v1"


def get_secrets(options: list[str]) -> dict[str, list[str]]:
    """The Secrets that each pod mounts. Checks that the pod reads secrets from there, and only if it mounts any."""
    found = {}
    for name, pod in get_pods(render(options)).items():
        if "vllm" in name:
            continue
        found[name] = [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume]
        [container] = pod["containers"]
        folders = [entry["value"] for entry in container.get("env", []) if entry["name"] == "REASEQ_SECRETS_DIR"]
        assert folders == [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "secrets"], name
        assert len(folders) == len(found[name]), name
    return found


def test_secrets_are_mounted_and_the_ranker_may_have_its_own() -> None:
    secrets = get_secrets(SIZES["bound"])
    assert secrets["shop-ranker"] == ["reader"] and secrets["shop-worker"] == ["ours"]

    secrets = get_secrets(["--set", "rankerSecret=reader"])
    assert secrets["shop-ranker"] == ["reader"] and secrets["shop-worker"] == []

    assert get_secrets(["--set", "ranker.allowAnonymous=true"])["shop-ranker"] == []


@each_size
def test_all_pods_see_the_same_state_so_that_workers_erase_from_what_the_ranking_service_logs(options: list[str]) -> None:
    for name, pod in get_pods(render(options)).items():
        if "vllm" in name:
            continue
        [container] = pod["containers"]
        mounts = [mount for mount in container["volumeMounts"] if mount["name"] == "state"]
        assert mounts == [{"name": "state", "mountPath": "/var/lib/reaseq"}], name


def test_the_smoke_check_is_a_pod_that_stays_so_that_helm_can_show_its_logs() -> None:
    [(name, smoke)] = get_by_kind(render(KEYS), "Pod")

    assert name == "shop-smoke"
    assert smoke["metadata"]["annotations"] == {"helm.sh/hook": "test", "helm.sh/hook-delete-policy": "before-hook-creation"}


@each_size
def test_every_pod_may_call_its_release_and_dns_and_otherwise_only_what_the_values_allow(options: list[str]) -> None:
    resources = render(options)
    policy = dict(get_by_kind(resources, "NetworkPolicy"))["shop-egress"]["spec"]

    labels = {"app.kubernetes.io/name": "reaseq", "app.kubernetes.io/instance": "shop"}
    assert policy["policyTypes"] == ["Egress"] and policy["podSelector"] == {"matchLabels": labels}
    release, dns, others = policy["egress"]
    assert release == {"to": [{"podSelector": {"matchLabels": labels}}]}
    assert {port["port"] for port in dns["ports"]} == {53}
    assert {9092, 6379, 443} <= {port["port"] for port in others["ports"]} and "to" not in others


def test_egress_may_be_limited_to_peers() -> None:
    resources = render([*KEYS, "--set-json", 'networkPolicy.egressTo=[{"ipBlock": {"cidr": "10.1.0.0/16"}}]'])

    rules = dict(get_by_kind(resources, "NetworkPolicy"))["shop-egress"]["spec"]["egress"]
    assert rules[2:] == [{"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}]


def test_only_a_ranking_service_on_a_gpu_takes_the_larger_image() -> None:
    images = {
        name: pod["containers"][0]["image"] for name, pod in get_pods(render(SIZES["large"])).items() if "vllm" not in name
    }

    assert images.pop("shop-ranker") == "reaseq-streaming:0.2.0-cuda"
    assert set(images.values()) == {"reaseq-streaming:0.2.0"}


@pytest.mark.parametrize("changed", ["image.tag=next", "settings.REASEQ_KAFKA__PARTITIONS=24", "existingSecret=others"])
def test_a_changed_setup_job_has_another_name_even_at_the_same_revision(changed: str) -> None:
    [(name, job)] = get_by_kind(render(KEYS), "Job")
    [(changed_name, changed_job)] = get_by_kind(render([*KEYS, "--set", changed]), "Job")

    assert name.startswith("shop-setup-1-") and changed_name.startswith("shop-setup-1-")
    assert changed_job["spec"] != job["spec"] and changed_name != name


def test_replicas_are_those_of_the_values_unless_the_autoscaler_sets_them() -> None:
    def get_replicas(options: list[str]) -> dict[str, int | None]:
        kinds = ("Deployment", "StatefulSet")
        found = [pair for kind in kinds for pair in get_by_kind(render([*SIZES["bound"], *options]), kind)]
        return {name: resource["spec"].get("replicas") for name, resource in found}

    assert get_replicas([]) == {"shop-ranker": 2, "shop-worker": 2, "shop-reasoning": 1}
    assert get_replicas(["--set", "autoscaling.enabled=true"]) == {
        "shop-ranker": None,
        "shop-worker": None,
        "shop-reasoning": None,
    }


def test_workers_scale_on_every_topic_that_they_read() -> None:
    scalers = dict(get_by_kind(render(SIZES["large"]), "ScaledObject"))
    topics = {
        name: {trigger["metadata"]["topic"] for trigger in scalers[name]["spec"]["triggers"]}
        for name in ("shop-worker", "shop-reasoning")
    }

    assert topics["shop-worker"] == {topic.name for topic in TOPICS} - {DEAD_LETTERS.name}
    assert topics["shop-reasoning"] == {ITEM_FEATURES.name}


def test_rules_and_dashboards_are_those_of_the_repository() -> None:
    resources = render(SIZES["large"])

    [(_, rules)] = get_by_kind(resources, "PrometheusRule")
    dashboards = next(resource["data"] for resource in resources if resource["metadata"]["name"] == "shop-dashboards")
    assert rules["spec"] == yaml.safe_load(RULES.read_text())
    assert dashboards.keys() == {f"reaseq-{name}.json" for name in DASHBOARDS}


def test_an_endpoint_without_a_model_name_is_an_error() -> None:
    run = run_helm("template", ".", "--set", "llm.baseUrl=http://x", *KEYS)

    assert run.returncode != 0 and "llm.model is empty" in run.stderr


def test_a_service_without_keys_is_an_error_unless_it_is_meant() -> None:
    run = run_helm("template", ".")

    assert run.returncode != 0 and "needs API keys" in run.stderr
    assert get_settings(render(["--set", "ranker.allowAnonymous=true"]))["REASEQ_SERVICE__ALLOW_ANONYMOUS"] == "true"


def test_service_is_called_by_its_names_and_those_of_the_values() -> None:
    settings = get_settings(render([*KEYS, "--set", "ranker.hosts={rank.example.com}", "--namespace", "store"]))

    assert json.loads(settings["REASEQ_SERVICE__HOSTS"]) == [
        "shop-ranker",
        "shop-ranker.store",
        "shop-ranker.store.svc",
        "rank.example.com",
    ]
    assert settings["REASEQ_SERVICE__OPEN_METRICS"] == "false"
    assert get_settings(render(SIZES["large"]))["REASEQ_SERVICE__OPEN_METRICS"] == "true"

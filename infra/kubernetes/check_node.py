"""What has to hold of the chart on a node: pods run, changes of the release fail no request, and whatever dies comes back."""

import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from infra.containers.check import is_json
from infra.containers.engine import Docker
from infra.containers.images import build_image, provide_base_images
from infra.containers.models import train_models
from infra.containers.passwords import NAMES
from infra.kubernetes import services
from infra.kubernetes.check import build_volume, find_lost, removed
from infra.kubernetes.kubectl import Kubectl, Resource, wait_for_none
from infra.kubernetes.load import Load
from infra.kubernetes.node import PAUSE_IMAGE, Node
from infra.kubernetes.release import CHART, NAME, SECRET, SELECTOR, Release
from infra.programs import run
from infra.report import Report, require_none

NAMESPACE = "running"
VALUES = "values-small.yaml"
# One broker instead of three, and less than the sizes ask for: the pods share a small machine.
OPTIONS = [
    "--set-string",
    "settings.REASEQ_KAFKA__REPLICATION_FACTOR=1,settings.REASEQ_KAFKA__MIN_INSYNC_REPLICAS=1",
    "--set",
    "settings.REASEQ_KAFKA__SASL_MECHANISM=PLAIN,settings.REASEQ_KAFKA__SASL_USERNAME=reaseq",
    "--set",
    "worker.resources.requests.cpu=100m,worker.resources.requests.memory=1Gi",
    "--set",
    "ranker.resources.requests.cpu=100m,ranker.resources.requests.memory=1Gi",
]
REDIS_URL = f"redis://default:{{password}}@{services.REDIS}.{services.NAMESPACE}:6379/0"
USER = 10001  # of the image
CATALOG = "item_id,title\n22423,CAKESTAND 3 TIER\n85123A,HANGING HEART T-LIGHT HOLDER\n84946,SILVER T-LIGHT GLASS\n"
EVENTS = "user_id,item_id,event_time_s,type\n14911,22423,{now_s},purchase\n14911,85123A,{now_s},view\n"
STARTED_TIMEOUT_S = 600.0
PAUSE_SOURCES = Path(__file__).with_name("pause")


def check_node(node: Node, helm: Path, docker: Docker, report: Report) -> None:
    """Run the chart with its small values. Raises InfrastructureError at the first thing that does not hold."""
    kubectl = node.control_plane.kubectl
    with report.step("images built, and imported into containerd") as result:
        node.start_containerd()
        result.append(import_images(node, docker))
    with report.step("node ready"):
        node.start()
    passwords = {name: secrets.token_hex(24) for name in NAMES}
    with report.step("Kafka and Redis ready"):
        kubectl.create(*services.build_services(passwords))
        for name in (services.KAFKA, services.REDIS):
            kubectl.run("rollout", "status", f"deployment/{name}", "-n", services.NAMESPACE, "--timeout=5m")
    create_state(kubectl, node.folder / "state", node.folder / "trained" / "models")
    with removed(Release(kubectl, helm, NAMESPACE, ["-f", str(CHART / VALUES), *OPTIONS], wait=True)) as release:
        api_key = secrets.token_hex(16)
        create_secret(release, passwords, api_key)
        check_running(release, node, api_key, report)
    kubectl.run("delete", "namespace", services.NAMESPACE, "--wait")


def check_running(release: Release, node: Node, api_key: str, report: Report) -> None:
    """The life of a release whose pods run."""
    with report.step("install, until all pods are ready") as result:
        release.install()
        result.append(", ".join(sorted(pod["metadata"]["name"] for pod in find_pods(release))))
        volumes = release.volumes()
    test(release, report)
    with report.step("a catalog and events"):
        backfill(release, "items", CATALOG)
        backfill(release, "events", EVENTS.format(now_s=int(time.time())))
    url = find_url(release)
    steps: dict[str, Callable[[], Any]] = {
        "rolling upgrade": lambda: release.upgrade("--set", "ranker.served.share=1"),
        "rollback": release.rollback,
        "kill -9 in a worker's pod": lambda: kill_and_wait(release.kubectl, node, release.namespace, "worker"),
        "kill -9 of the broker": lambda: kill_and_wait(release.kubectl, node, services.NAMESPACE, services.KAFKA),
    }
    for name, change in steps.items():
        with report.step(f"{name}, while /v1/rank is called") as result:
            with Load(url, api_key) as load:
                said = change()
            result += [text for text in (said, load.describe()) if text]
            require_none(load.failures)
        test(release, report)
    with report.step("logs are JSON lines") as result:
        lines = [line for pod in find_pods(release) for line in read_log(release, pod)]
        require_none(line for line in lines if not is_json(line))
        result.append(f"{len(lines)} lines")
    with report.step("the nightly parity job") as result:
        job = f"{NAME}-parity-now"
        release.kubectl.run("create", "job", job, f"--from=cronjob/{NAME}-parity", "-n", release.namespace)
        release.kubectl.run("wait", "--for=condition=Complete", f"job/{job}", "-n", release.namespace, "--timeout=5m")
        result.append(release.kubectl.run("logs", f"job/{job}", "-n", release.namespace).stdout.splitlines()[0].strip())
        release.kubectl.run("delete", "job", job, "-n", release.namespace)
    with report.step("uninstall, and reinstall over the volume, until all pods are ready"):
        release.uninstall()
        release.install()
        require_none(find_lost(volumes, release.volumes()))
    test(release, report)


def test(release: Release, report: Report) -> None:
    """Run the smoke check of the chart."""
    with report.step("helm test"):
        release.helm("test", NAME, "--logs", "--timeout", "5m")


def backfill(release: Release, kind: str, table: str) -> None:
    """Send a table of items or events to the topics, from a pod like that of the smoke check."""
    name = f"backfill-{kind}"
    pod = yaml.safe_load(release.hooks())
    [container] = pod["spec"]["containers"]
    container["args"] = ["backfill", kind, "/table/table.csv"]
    container["volumeMounts"].append({"name": "table", "mountPath": "/table"})
    pod["spec"]["volumes"].append({"name": "table", "configMap": {"name": name}})
    pod["metadata"] = {"name": name, "namespace": release.namespace, "labels": pod["metadata"]["labels"]}
    metadata = {"name": name, "namespace": release.namespace}
    kubectl = release.kubectl
    kubectl.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"table.csv": table}}, pod)
    kubectl.run("wait", "--for=jsonpath={.status.phase}=Succeeded", f"pod/{name}", "-n", release.namespace, "--timeout=5m")
    kubectl.run("delete", f"pod/{name}", f"configmap/{name}", "-n", release.namespace)


def import_images(node: Node, docker: Docker) -> str:
    """Build what the pods run, import it, and stop the engine. Trains models. Returns the names of the images."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())["image"]
    ours = f"{values['repository']}:{values['tag']}"
    compose = yaml.safe_load(services.COMPOSE_FILE.read_text())["services"]
    images = [ours, compose["kafka"]["image"], compose["redis"]["image"], PAUSE_IMAGE]
    docker.start()
    try:
        provide_base_images(docker)
        build_image(docker, ours)
        train_models(docker, ours, node.folder / "trained")
        build_pause(docker)
        archive = node.folder / "images.tar"
        docker.run("save", "-o", archive, *images)
    finally:
        docker.stop(remove=True)
    node.ctr("images", "import", str(archive))
    archive.unlink()
    return ", ".join(images)


def build_pause(docker: Docker) -> None:
    """Build the image whose process holds the namespaces of a pod."""
    context = docker.folder / "pause"
    shutil.copytree(PAUSE_SOURCES, context)
    run(["go", "build", "-trimpath", "-o", "pause", "main.go"], context, docker.environment | {"CGO_ENABLED": "0"})
    docker.run("build", "-t", PAUSE_IMAGE, context)


def create_state(kubectl: Kubectl, folder: Path, models: Path) -> None:
    """Make the volume of the release, which its user can write to, with published models on it."""
    shutil.copytree(models, folder / "models")
    run(["chown", "-R", f"{USER}:{USER}", folder])
    volume = build_volume("state", folder.parent)
    volume["spec"]["claimRef"] = {"namespace": NAMESPACE, "name": f"{NAME}-state"}
    kubectl.create(volume)


def create_secret(release: Release, passwords: dict[str, str], api_key: str) -> None:
    """Make the Secret that the values name."""
    data = {
        "REASEQ_STORE__REDIS_URL": REDIS_URL.format(password=passwords["REDIS_PASSWORD"]),
        "REASEQ_KAFKA__SASL_PASSWORD": passwords["KAFKA_PASSWORD"],
        "REASEQ_SERVICE__API_KEYS": json.dumps([api_key]),
    }
    metadata = {"name": SECRET, "namespace": release.namespace}
    release.kubectl.create({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data})


def find_pods(release: Release) -> list[Resource]:
    """The pods of the release that are meant to go on."""
    pods = release.kubectl.list("pods", release.namespace, SELECTOR)
    return [pod for pod in pods if pod["spec"]["restartPolicy"] == "Always"]


def find_url(release: Release) -> str:
    """The address of the ranking service within the cluster, which the node reaches as well."""
    services = release.kubectl.list("services", release.namespace, SELECTOR)
    [address] = [service["spec"]["clusterIP"] for service in services if service["metadata"]["name"] == f"{NAME}-ranker"]
    return f"http://{address}"


def read_log(release: Release, pod: Resource) -> list[str]:
    """All that a pod has written since its last start."""
    return release.kubectl.run("logs", pod["metadata"]["name"], "-n", release.namespace).stdout.splitlines()


def kill_and_wait(kubectl: Kubectl, node: Node, namespace: str, prefix: str) -> str:
    """Kill the process of a pod whose container has this name, and wait until all pods are ready. Returns how long it took."""
    pods = [pod for pod in kubectl.list("pods", namespace) if pod["spec"]["containers"][0]["name"] == prefix]
    name, started = pods[0]["metadata"]["name"], time.monotonic()
    restarts = count_restarts(pods[0])
    node.kill(pods[0])

    def find_unready() -> Iterator[str]:
        for pod in kubectl.list("pods", namespace):
            restarted = pod["metadata"]["name"] != name or count_restarts(pod) > restarts
            if pod["spec"]["restartPolicy"] == "Always" and not (restarted and is_ready(pod)):
                yield f"pod {pod['metadata']['name']} is not ready"

    wait_for_none(find_unready, STARTED_TIMEOUT_S)
    return f"ready again after {time.monotonic() - started:.0f} s"


def count_restarts(pod: Resource) -> int:
    """How often the container of a pod was started again."""
    return int(pod["status"]["containerStatuses"][0]["restartCount"])


def is_ready(pod: Resource) -> bool:
    """Whether a pod takes requests."""
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in pod["status"]["conditions"])

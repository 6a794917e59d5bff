"""What has to hold of the chart in a cluster: every change that Helm makes of it is admitted, and its volumes are kept."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from infra.helm.schemas import CUSTOM, module_folder
from infra.kubernetes.control_plane import ControlPlane
from infra.kubernetes.kubectl import Kubectl, Resource
from infra.kubernetes.release import CHART, Release
from infra.report import Report, require_none

STORAGE_CLASS = "local"
VOLUMES = 24  # an installation of the largest size claims nine
ANOTHER_IMAGE = ["--set", "image.tag=next,image.gpuTag=next-cuda"]
OTHER_VALUES = [
    "--set",
    "worker.replicas=3,worker.resources.requests.cpu=2,ranker.port=8081,ranker.service.type=NodePort,ranker.gpu=false",
    "--set",
    "settings.REASEQ_KAFKA__GROUP_ID=another,podDisruptionBudget.maxUnavailable=2,parity.enabled=false",
    "--set",
    "networkPolicy.enabled=false,nodeSelector.disk=fast",
]
ALL_PARTS = ["--set", "autoscaling.enabled=true,monitoring.enabled=true,vllm.enabled=true,networkPolicy.enabled=true"]


def check_values(control_plane: ControlPlane, helm: Path, report: Report) -> None:
    """Install, change, remove and apply the chart with each of its values files. Pods are admitted, not run."""
    kubectl = control_plane.kubectl
    with report.step("definitions of KEDA and the Prometheus operator") as result:
        result.append(", ".join(define_custom_resources(kubectl)))
    create_volumes(kubectl, control_plane.folder / "volumes")
    for values in sorted(CHART.glob("values*.yaml")):
        title = values.stem
        release = partial(Release, kubectl, helm, options=["-f", str(values)], wait=False)
        with removed(release(namespace=title)) as installed:
            check_release(installed, title, report)
        with removed(release(namespace=f"{title}-applied")) as applied:
            with report.step(f"{title}: server-side apply, again, and with another image") as result:
                result.append(check_apply(applied))
        free_volumes(kubectl)


def check_release(release: Release, title: str, report: Report) -> None:
    """The life of a release."""
    with report.step(f"{title}: install") as result:
        release.install()
        result.append(release.wait_for_pods())
        volumes = release.volumes()
        result.append(f"volumes: {', '.join(volumes)}")
    with report.step(f"{title}: the pod of helm test, and one that may do everything") as result:
        release.kubectl.apply(release.hooks(), "--dry-run=server", "-n", release.namespace)
        result.append(f"admitted; {check_enforcement(release)}")
    for name, options in (("image", ANOTHER_IMAGE), ("values", OTHER_VALUES), ("parts", ALL_PARTS)):
        with report.step(f"{title}: upgrade, {name}") as result:
            before = release.replicas()
            release.upgrade(*options)
            result.append(release.wait_for_pods())
            require_none(find_shrunk(before, release.replicas()))
            require_none(find_lost(volumes, release.volumes()))
    with report.step(f"{title}: rollback to the installation") as result:
        release.rollback()
        result.append(release.wait_for_pods())
    with report.step(f"{title}: uninstall") as result:
        volumes = release.volumes()
        release.uninstall()
        require_none(find_lost(volumes, release.volumes()))
        result.append(f"kept: {', '.join(volumes)}")
    with report.step(f"{title}: reinstall over the volumes") as result:
        release.install()
        result.append(release.wait_for_pods())
        require_none(find_lost(volumes, release.volumes()))


def check_apply(release: Release) -> str:
    """Apply the manifest as tools do that install no release, such as Argo CD, and change the image. Returns what was done."""
    apply = partial(release.kubectl.apply, release.render(), "-n", release.namespace)
    apply()
    pods = release.wait_for_pods()
    before = release.generations()
    apply()
    require_none(
        f"{name} changed, though nothing else did" for name, seen in release.generations().items() if before[name] != seen
    )
    release.kubectl.apply(release.render(*ANOTHER_IMAGE), "-n", release.namespace)
    release.wait_for_pods()
    return pods


def check_enforcement(release: Release) -> str:
    """Try a pod that Pod Security has to refuse, so that admission of the others says something. Returns how it was refused."""
    spec = {"containers": [{"name": "any", "image": "any"}]}
    pod = json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any"}, "spec": spec})
    refused = release.kubectl.run("create", "--dry-run=server", "-n", release.namespace, "-f", "-", text=pod, check=False)
    require_none([] if "violates PodSecurity" in refused.stderr else ["the namespace admits any pod"])
    return "refused by Pod Security"


def find_lost(before: dict[str, str], after: dict[str, str]) -> Iterator[str]:
    """Volume claims that were deleted, or made anew, since `before`. Takes ids by name."""
    return (f"volume claim {name} was not kept" for name, uid in before.items() if after.get(name) != uid)


def find_shrunk(before: dict[str, int], after: dict[str, int]) -> Iterator[str]:
    """What an upgrade gave fewer replicas than it had. Takes replicas by name."""
    for name, replicas in before.items():
        if name in after and after[name] < replicas:
            yield f"{name} went from {replicas} to {after[name]} replicas"


def define_custom_resources(kubectl: Kubectl) -> list[str]:
    """Give the cluster KEDA's and the Prometheus operator's own definitions. Returns their names."""
    files = [str(module_folder(module) / file) for module, names in CUSTOM.items() for file in names]
    options = [argument for file in files for argument in ("-f", file)]
    defined = kubectl.run("apply", "--server-side", "-o", "name", *options).stdout.split()
    kubectl.run("wait", "--for=condition=Established", "--timeout=60s", *defined)
    return [name.partition("/")[2] for name in defined]


def create_volumes(kubectl: Kubectl, folder: Path) -> None:
    """Make volumes for all claims, of folders of this machine, and their storage class the default."""
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    metadata = {"name": STORAGE_CLASS, "annotations": default}
    storage_class = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": metadata}
    kubectl.create(storage_class | {"provisioner": "kubernetes.io/no-provisioner"})
    kubectl.create(*(build_volume(f"volume-{number}", folder) for number in range(VOLUMES)))


def build_volume(name: str, folder: Path) -> Resource:
    """A volume that any claim may have."""
    spec = {
        "capacity": {"storage": "4Ti"},
        "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
        "storageClassName": STORAGE_CLASS,
        "hostPath": {"path": str(folder / name), "type": "DirectoryOrCreate"},
    }
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}


def free_volumes(kubectl: Kubectl) -> None:
    """Let the volumes of deleted claims be claimed again."""
    for volume in kubectl.list("persistentvolumes", "default"):
        if volume["status"]["phase"] == "Released":
            kubectl.run("patch", "pv", volume["metadata"]["name"], "--type=merge", "-p", '{"spec": {"claimRef": null}}')


@contextmanager
def removed(release: Release) -> Iterator[Release]:
    """Delete a release's namespace at the end."""
    try:
        yield release
    finally:
        release.remove()

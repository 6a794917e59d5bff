"""The chart as a Helm release in a namespace of its own."""

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from infra.helm.schemas import SCHEMAS
from infra.kubernetes.binaries import KUBERNETES
from infra.kubernetes.kubectl import Kubectl, Resource, find_warnings, wait_for_none
from infra.programs import run
from infra.report import require_none

CHART = SCHEMAS.with_name("reaseq")
NAME = "shop"
SELECTOR = f"app.kubernetes.io/instance={NAME}"
SECRET = "reaseq"  # noqa: S105  the name of a Secret
POD_OWNERS = "deployments,statefulsets,jobs"
KINDS = f"{POD_OWNERS},cronjobs,pods,services,configmaps,networkpolicies,poddisruptionbudgets"
TIMEOUT_S = 120.0
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}


class Release:
    """The release `shop` in a namespace that enforces Pod Security `restricted`."""

    def __init__(self, kubectl: Kubectl, helm: Path, namespace: str, options: Sequence[str], wait: bool) -> None:
        """Make the namespace. `options` are Helm's, for the values; with `wait`, a change is done when all pods are ready."""
        self.kubectl = kubectl
        self.namespace = namespace
        self._helm = helm
        self._options = [*options, "--set", f"existingSecret={SECRET}"]
        self._wait = ["--wait", "--wait-for-jobs", "--timeout", "15m"] if wait else []
        kubectl.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": RESTRICTED}})

    def install(self) -> None:
        """Install the chart."""
        self.helm("install", NAME, str(CHART), *self._options, *self._wait)

    def upgrade(self, *options: str) -> None:
        """Upgrade to the values of the installation, changed by `options`."""
        self.helm("upgrade", NAME, str(CHART), *self._options, *options, *self._wait)

    def rollback(self, revision: int = 1) -> None:
        """Go back to an earlier revision."""
        self.helm("rollback", NAME, str(revision), *self._wait)

    def uninstall(self) -> None:
        """Uninstall, and wait until nothing but volume claims and the pod of `helm test` is left."""
        self.helm("uninstall", NAME, "--wait")
        self.kubectl.run("delete", "pod", f"{NAME}-smoke", "-n", self.namespace, "--ignore-not-found")
        wait_for_none(lambda: map(describe, self.kubectl.list(KINDS, self.namespace, SELECTOR)), TIMEOUT_S)

    def remove(self) -> None:
        """Delete the namespace, with whatever is in it."""
        self.kubectl.run("delete", "namespace", self.namespace, "--wait", f"--timeout={TIMEOUT_S:.0f}s")

    def render(self, *options: str) -> str:
        """The manifest, as tools that do not install releases apply it."""
        return self.helm(
            "template", NAME, str(CHART), "--no-hooks", "--kube-version", KUBERNETES, *self._options, *options
        ).stdout

    def hooks(self) -> str:
        """The manifest of the pod of `helm test`."""
        return self.helm("get", "hooks", NAME).stdout

    def volumes(self) -> dict[str, str]:
        """The ids of the volume claims, by name, once all are bound."""
        wait_for_none(self._find_unbound, TIMEOUT_S)
        return {claim["metadata"]["name"]: claim["metadata"]["uid"] for claim in self._claims()}

    def wait_for_pods(self) -> str:
        """Wait until the API server has admitted all pods. Returns how many there are."""
        wait_for_none(lambda: find_missing_pods(self._owners(), self._rejections()), TIMEOUT_S)
        return f"{len(self.kubectl.list('pods', self.namespace, SELECTOR))} pods"

    def replicas(self) -> dict[str, int]:
        """The wanted replicas of deployments and stateful sets, by name."""
        return {describe(owner): owner["spec"]["replicas"] for owner in self._owners() if owner["kind"] != "Job"}

    def generations(self) -> dict[str, int]:
        """How often the specification of each resource has changed, by name."""
        found = self.kubectl.list(KINDS, self.namespace, SELECTOR)
        return {describe(resource): resource["metadata"].get("generation", 0) for resource in found}

    def helm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `helm ARGUMENTS` in the namespace. Raises InfrastructureError, also for a warning of the API server."""
        command: list[str | Path] = [self._helm, *arguments, "--namespace", self.namespace]
        done = run(command, environment=self.kubectl.environment)
        require_none(find_warnings(done.stderr))
        return done

    def _owners(self) -> list[Resource]:
        return self.kubectl.list(POD_OWNERS, self.namespace, SELECTOR)

    def _claims(self) -> list[Resource]:
        return self.kubectl.list("persistentvolumeclaims", self.namespace)

    def _find_unbound(self) -> Iterator[str]:
        return (f"{describe(claim)} is not bound" for claim in self._claims() if claim["status"]["phase"] != "Bound")

    def _rejections(self) -> list[str]:
        events = self.kubectl.list("events", self.namespace)
        return [str(event["message"]) for event in events if event["reason"] == "FailedCreate"]


def describe(resource: Resource) -> str:
    """Kind and name of a resource."""
    return f"{resource['kind']} {resource['metadata']['name']}"


def find_missing_pods(owners: Sequence[Resource], rejections: Sequence[str]) -> Iterator[str]:
    """What has fewer pods than it wants or none of its latest template, and why pods were rejected.

    Where no pod becomes ready, an upgrade stops after the first one.
    """
    for owner in owners:
        status = owner["status"]
        if owner["kind"] == "Job":
            wanted, there = 1, status.get("active", 0) + status.get("succeeded", 0)
        else:
            wanted, there = owner["spec"]["replicas"], status.get("replicas", 0) if status.get("updatedReplicas") else 0
        current = owner["kind"] == "Job" or status.get("observedGeneration") == owner["metadata"]["generation"]
        if there < wanted or not current:
            yield f"{describe(owner)} has {there} of {wanted} pods; {'; '.join(rejections) or 'nothing was rejected'}"

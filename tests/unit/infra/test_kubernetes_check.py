"""What `make chart-live` demands of a release."""

from typing import Any

import pytest

from infra.kubernetes.check import find_lost, find_shrunk
from infra.kubernetes.kubectl import find_warnings
from infra.kubernetes.release import find_missing_pods

CURRENT = {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2}


def build_owner(kind: str, **status: int) -> dict[str, Any]:
    """A resource that makes pods: two, unless it is a Job."""
    return {"kind": kind, "metadata": {"name": "one", "generation": 2}, "spec": {"replicas": 2}, "status": status}


@pytest.mark.parametrize(
    ("owner", "problem"),
    [
        (build_owner("Deployment", **CURRENT), None),
        (build_owner("StatefulSet", **CURRENT), None),
        (build_owner("Deployment", **CURRENT | {"replicas": 3, "updatedReplicas": 1}), None),  # an upgrade without a node
        (build_owner("Deployment", **CURRENT | {"replicas": 1}), "Deployment one has 1 of 2 pods; no fsGroup"),
        (build_owner("Deployment", **CURRENT | {"updatedReplicas": 0}), "Deployment one has 0 of 2 pods; no fsGroup"),
        (build_owner("StatefulSet", **CURRENT | {"observedGeneration": 1}), "StatefulSet one has 2 of 2 pods; no fsGroup"),
        (build_owner("Job", active=1), None),
        (build_owner("Job", succeeded=1), None),
        (build_owner("Job"), "Job one has 0 of 1 pods; no fsGroup"),
    ],
)
def test_pods_that_were_not_made_are_named(owner: dict[str, Any], problem: str | None) -> None:
    assert list(find_missing_pods([owner], ["no fsGroup"])) == ([problem] if problem else [])


def test_warnings_of_the_api_server_are_found_in_what_kubectl_and_helm_write() -> None:
    kubectl = "Warning: would violate PodSecurity"
    helm = "W1128 07:00:00.000000    1234 warnings.go:70] would violate PodSecurity"

    assert find_warnings(f"pod/one created\n{kubectl}\n") == [kubectl]
    assert find_warnings(f"{helm}\nwalk.go:75: found symbolic link in path") == [helm]


def test_a_volume_claim_is_lost_if_it_is_gone_or_another_one() -> None:
    assert list(find_lost({"state": "1"}, {"state": "1", "ledger": "2"})) == []
    assert list(find_lost({"state": "1"}, {})) == ["volume claim state was not kept"]
    assert list(find_lost({"state": "1"}, {"state": "2"})) == ["volume claim state was not kept"]


def test_an_upgrade_shrinks_what_it_gives_fewer_replicas() -> None:
    before = {"Deployment worker": 3, "Deployment gone": 2}

    assert list(find_shrunk(before, {"Deployment worker": 3})) == []
    assert list(find_shrunk(before, {"Deployment worker": 1})) == ["Deployment worker went from 3 to 1 replicas"]

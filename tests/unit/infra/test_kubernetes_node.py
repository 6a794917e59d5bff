"""The node of `make chart-live`, as far as nothing is started."""

from pathlib import Path

import pytest

from infra.kubernetes import node
from reaseq.errors import InfrastructureError


@pytest.fixture
def kubelet_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with everything that a node needs, whose kubelet would have this folder."""
    (tmp_path / "bridge").touch()
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(node, "require", lambda program, package: None)
    monkeypatch.setattr(node, "PLUGINS", tmp_path)
    monkeypatch.setattr(node, "FIXED_FOLDERS", (tmp_path / "kubelet",))
    return tmp_path / "kubelet"


def test_a_node_of_another_cluster_is_left_alone(kubelet_folder: Path) -> None:
    node.require_machine()

    kubelet_folder.mkdir()
    with pytest.raises(InfrastructureError, match="kubelet exists"):
        node.require_machine()


def test_only_root_can_run_a_node(kubelet_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    with pytest.raises(InfrastructureError, match="only root"):
        node.require_machine()

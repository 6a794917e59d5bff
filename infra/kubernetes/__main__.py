"""`python -m infra.kubernetes [--node]`: checks the chart in a cluster of its own, which it removes afterwards."""

import argparse
import shutil
import sys
from pathlib import Path

from infra.containers.engine import Docker
from infra.kubernetes.binaries import build
from infra.kubernetes.check import check_values
from infra.kubernetes.check_node import check_node
from infra.kubernetes.control_plane import ControlPlane
from infra.kubernetes.node import Node
from infra.report import Report
from reaseq.errors import InfrastructureError

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "var" / "tools"


def main() -> int:
    """Run the check. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m infra.kubernetes", description=__doc__)
    parser.add_argument("--node", action="store_true", help="also run the pods, on a node of its own (root)")
    arguments = parser.parse_args()
    report = Report()
    try:
        check(ROOT / "var" / "chart-live", arguments.node, report)
    except InfrastructureError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        print(f"\n{report.table()}")
    return 0


def check(folder: Path, with_node: bool, report: Report) -> None:
    """Check the chart. Raises InfrastructureError at the first thing that does not hold; removes everything in any case."""
    control_plane = ControlPlane(folder, TOOLS / "kubernetes" / "bin")
    node = Node(control_plane) if with_node else None
    if folder.exists():
        raise InfrastructureError(
            f"{folder} is left of an interrupted run: end the processes that it names in run/, and delete it"
        )
    folder.mkdir(parents=True)
    with report.step("Kubernetes' programs") as result:
        result.append(f"built: {', '.join(build(TOOLS / 'kubernetes', with_node)) or 'none, all are there'}")
    try:
        with report.step("control plane ready"):
            control_plane.start()
        check_values(control_plane, TOOLS / "helm", report)
        if node:
            check_on_node(node, report)
    finally:
        with report.step("control plane removed"):
            control_plane.stop()
            shutil.rmtree(folder)


def check_on_node(node: Node, report: Report) -> None:
    """Check the chart on a node, which is removed in any case."""
    try:
        check_node(node, TOOLS / "helm", Docker(node.folder / "engine", ROOT), report)
    finally:
        with report.step("node removed"):
            node.stop()


if __name__ == "__main__":
    sys.exit(main())

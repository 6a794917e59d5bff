"""`python -m infra.kubernetes [--node]`: checks the chart in a cluster of its own, which it removes afterwards."""

import argparse
import shutil
import sys
from pathlib import Path

from infra.kubernetes.binaries import build
from infra.kubernetes.check import check_values
from infra.kubernetes.control_plane import ControlPlane
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


def check(folder: Path, node: bool, report: Report) -> None:
    """Check the chart. Raises InfrastructureError at the first thing that does not hold; removes everything in any case."""
    with report.step("Kubernetes' programs") as result:
        result.append(f"built: {', '.join(build(TOOLS / 'kubernetes', node)) or 'none, all are there'}")
    control_plane = ControlPlane(folder, TOOLS / "kubernetes" / "bin")
    try:
        with report.step("control plane ready"):
            control_plane.start()
        check_values(control_plane, TOOLS / "helm", report)
    finally:
        with report.step("control plane removed"):
            control_plane.stop()
            shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())

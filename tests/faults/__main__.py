"""The fault suite: `make faults`. Writes out/faults.json after every fault; ends with 1 where anything was lost or doubled."""

import argparse
import json
import logging
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from rich.console import Console

from tests.faults.faults import OF_A_CLUSTER, OF_A_LANGUAGE_MODEL, Fault, faults
from tests.faults.outcome import Outcome
from tests.faults.system import FaultySystem

WORKERS = 2
COUNTS = ("runs", "records", "dead_letters", "lost", "doubled", "stale_over_fresh", "different")
SHOWN_CHARS = 200  # of a difference; all of it stands in the file
ROUNDS = 10  # that the kills are spread over, each compared with the reference


def main() -> None:
    """Run the faults one after the other, most on one broker, some on three, or before a language model."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--storms", type=int, default=12)
    parser.add_argument("--only", default="", help="faults whose name holds this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/faults.json"))
    chosen = parser.parse_args()
    console = Console(stderr=True)
    # The reference buries the same bad records, which is no news.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    outcomes: list[Outcome] = []
    usual = faults(-(-chosen.kills // ROUNDS), chosen.storms)
    for start, of_system in (
        (FaultySystem, usual),
        (partial(FaultySystem, brokers=3), OF_A_CLUSTER),
        (partial(FaultySystem, language_model=True), OF_A_LANGUAGE_MODEL),
    ):
        wanted = {name: act for name, act in of_system.items() if chosen.only in name}
        for outcome in _outcomes(wanted, start, chosen.seed) if wanted else ():
            outcomes.append(outcome)
            console.print(_line(outcome), highlight=False)
            _write(outcomes, chosen.out)
    sys.exit(0 if all(outcome.clean for outcome in outcomes) else 1)


def _outcomes(wanted: Mapping[str, Fault], start: Callable[[Path, int], FaultySystem], seed: int) -> Iterator[Outcome]:
    """One fault after the other on one system."""
    with tempfile.TemporaryDirectory(prefix="reaseq-faults-") as folder:
        system = start(Path(folder), seed)
        try:
            for _ in range(WORKERS):
                system.start_worker()
            system.wait_ready()
            for name, act in wanted.items():
                for _ in range(ROUNDS if "SIGKILL of" in name else 1):
                    yield system.under(name, act)
        finally:
            system.close()


def _line(outcome: Outcome) -> str:
    found = ", ".join(f"{getattr(outcome, count)} {count.replace('_', ' ')}" for count in COUNTS)
    differences = [difference[:SHOWN_CHARS] for difference in outcome.differences]
    return "\n  ".join([f"{outcome.fault}: {found}; nothing left to do after {outcome.recovered_s} s", *differences])


def _write(outcomes: list[Outcome], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"faults": _by_fault(outcomes)}, indent=1))


def _by_fault(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """One row for each fault, over all of its rounds."""
    rows = []
    for name in dict.fromkeys(outcome.fault for outcome in outcomes):
        rounds = [outcome for outcome in outcomes if outcome.fault == name]
        counted = {count: sum(getattr(outcome, count) for outcome in rounds) for count in COUNTS}
        recovered_s = [outcome.recovered_s for outcome in rounds]
        worst = {"recovered_p50_s": statistics.median(recovered_s), "recovered_max_s": max(recovered_s)}
        rows.append({"fault": name, **counted, **worst, "differences": [line for of in rounds for line in of.differences]})
    return rows


if __name__ == "__main__":
    main()

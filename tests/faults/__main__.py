"""The fault suite: `make faults`. Writes out/faults.json after every fault. Exits with 1 unless every outcome is clean."""

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

from tests.faults.faults import CLUSTER_FAULTS, LANGUAGE_MODEL_FAULTS, REPLICA_FAULTS, SHARD_FAULTS, Fault, faults
from tests.faults.outcome import Outcome
from tests.faults.system import FaultySystem

WORKERS = 2
COUNTS = ("runs", "records", "dead_letters", "lost", "doubled", "stale_over_fresh", "different")
SHOWN_CHARS = 200  # of a difference; the report file has all of it
ROUNDS = 10  # of kills, each followed by a comparison with the reference


def main() -> None:
    """Run the faults one after the other: most on one broker, some on three brokers or with a language model."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--storms", type=int, default=12)
    parser.add_argument("--only", default="", help="run only faults whose name contains this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/faults.json"))
    chosen = parser.parse_args()
    console = Console(stderr=True)
    # Silence warnings: the reference dead-letters the same bad records.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    outcomes: list[Outcome] = []
    single_broker = faults(-(-chosen.kills // ROUNDS), chosen.storms)
    for start, system_faults in (
        (FaultySystem, single_broker),
        (partial(FaultySystem, redis_replicas=1), REPLICA_FAULTS),
        (partial(FaultySystem, shards=3), SHARD_FAULTS),
        (partial(FaultySystem, brokers=3), CLUSTER_FAULTS),
        (partial(FaultySystem, language_model=True), LANGUAGE_MODEL_FAULTS),
    ):
        wanted = {name: act for name, act in system_faults.items() if chosen.only in name}
        for outcome in _outcomes(wanted, start, chosen.seed) if wanted else ():
            outcomes.append(outcome)
            console.print(_line(outcome), highlight=False)
            _write(outcomes, chosen.out)
    sys.exit(0 if all(outcome.clean for outcome in outcomes) else 1)


def _outcomes(wanted: Mapping[str, Fault], start: Callable[[Path, int], FaultySystem], seed: int) -> Iterator[Outcome]:
    """Run the faults one after the other on one system."""
    with tempfile.TemporaryDirectory(prefix="reaseq-faults-") as folder:
        system = start(Path(folder), seed)
        try:
            for _ in range(WORKERS):
                system.start_worker()
            system.wait_ready()
            for name, act in wanted.items():
                for _ in range(ROUNDS if "SIGKILL of" in name else 1):
                    yield system.run_under_fault(name, act)
        finally:
            system.close()


def _line(outcome: Outcome) -> str:
    found = ", ".join(f"{getattr(outcome, count)} {count.replace('_', ' ')}" for count in COUNTS)
    differences = [difference[:SHOWN_CHARS] for difference in outcome.differences]
    return "\n  ".join([f"{outcome.fault}: {found}; recovered after {outcome.recovered_s} s", *differences])


def _write(outcomes: list[Outcome], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"faults": _by_fault(outcomes)}, indent=1))


def _by_fault(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """One row per fault, summed over its rounds."""
    rows = []
    for name in dict.fromkeys(outcome.fault for outcome in outcomes):
        rounds = [outcome for outcome in outcomes if outcome.fault == name]
        counted = {count: sum(getattr(outcome, count) for outcome in rounds) for count in COUNTS}
        recovered_s = [outcome.recovered_s for outcome in rounds]
        worst = {"recovered_p50_s": statistics.median(recovered_s), "recovered_max_s": max(recovered_s)}
        rows.append(
            {"fault": name, **counted, **worst, "differences": [line for outcome in rounds for line in outcome.differences]}
        )
    return rows


if __name__ == "__main__":
    main()

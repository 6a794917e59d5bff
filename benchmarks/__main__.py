"""`python -m benchmarks [NAME …]`: run all benchmarks, or those named."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import behavior, console, delivery, onboarding, ranking, reasoning, start

RESULTS = Path(__file__).with_name("results")
BENCHMARKS: dict[str, Callable[[], dict[str, Any]]] = {
    "behavior": behavior.run,
    "console": console.run,
    "delivery": delivery.run,
    "onboarding": onboarding.run,
    "ranking": ranking.run,
    "reasoning": reasoning.run,
    "start": start.run,
}


def main(names: list[str]) -> None:
    """Run the named benchmarks, or all if none is named, and write their results."""
    for name in names or BENCHMARKS:
        if name not in BENCHMARKS:
            sys.exit(f"unknown benchmark {name!r}; use one of {', '.join(BENCHMARKS)}")
        result = BENCHMARKS[name]()
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(result, indent=1))


if __name__ == "__main__":  # benchmarks spawn processes that import this module
    main(sys.argv[1:])

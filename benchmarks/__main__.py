"""`python -m benchmarks [NAME]`: run all benchmarks, or one."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import behavior, console, delivery, ranking, reasoning

RESULTS = Path(__file__).with_name("results")
BENCHMARKS: dict[str, Callable[[], dict[str, Any]]] = {
    "behavior": behavior.run,
    "console": console.run,
    "delivery": delivery.run,
    "ranking": ranking.run,
    "reasoning": reasoning.run,
}


def main(names: list[str]) -> None:
    """Run the benchmarks of those names, all when there is none, and write their results."""
    for name in names or BENCHMARKS:
        if name not in BENCHMARKS:
            sys.exit(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
        result = BENCHMARKS[name]()
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(result, indent=1))


if __name__ == "__main__":  # and not where a benchmark starts processes of its own
    main(sys.argv[1:])

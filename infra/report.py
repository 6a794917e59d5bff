"""A check of the whole system in steps: progress while it runs, a table at its end. Needs nothing but the standard library."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from reaseq.errors import InfrastructureError

PROBLEMS_SHOWN = 5


@dataclass
class Report:
    """What was done, how long it took, and with what result."""

    rows: list[tuple[str, float, str]] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """Time a step and show its progress. The block appends its result to the list that it gets."""
        print(f"{name} …", flush=True)
        started, result = time.monotonic(), list[str]()
        try:
            yield result
        except BaseException as error:
            result.append(f"FAILED: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
            raise
        finally:
            self.rows.append((name, time.monotonic() - started, "; ".join(result) or "done"))
            print(f"  {self.rows[-1][1]:.0f} s: {self.rows[-1][2]}", flush=True)

    def table(self) -> str:
        """The steps as a Markdown table."""
        lines = ["| step | s | result |", "|---|---|---|"]
        return "\n".join(lines + [f"| {name} | {seconds:.0f} | {result} |" for name, seconds, result in self.rows])


def require_none(problems: Iterable[str]) -> None:
    """Raise InfrastructureError with the first problems, if there are any."""
    if found := list(problems):
        raise InfrastructureError("\n".join([f"{len(found)} problems: {found[0]}", *found[1:PROBLEMS_SHOWN]]))

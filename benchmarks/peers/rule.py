"""What the engines share: the rule by which events become a history, and reports of what was processed."""

import json
import os
import time
from bisect import insort
from typing import Any

LIMIT = int(os.environ["PEER_LIMIT"])

Row = list[Any]  # time in ms, event id, item id, type


def fold(rows: list[Row], event: dict[str, Any]) -> bool:
    """Insert an event into a history of the latest LIMIT, in place; False if it is a duplicate or too late."""
    row = [event["event_time_ms"], event["event_id"], event["item_id"], event["type"]]
    if any(other[1] == row[1] for other in rows) or (len(rows) >= LIMIT and row < rows[0]):
        return False
    insort(rows, row)
    del rows[:-LIMIT]
    return True


class Meter:
    """Appends a report of what has been processed and is durable, with the times since the report before."""

    def __init__(self) -> None:
        self._file = open(os.environ["PEER_REPORTS"], "a", buffering=1)
        self._records, self._started = 0, (0.0, 0.0)

    def count(self, records: int = 1) -> None:
        """Count processed records."""
        if not self._started[0]:
            self._started = time.time(), time.process_time()
        self._records += records

    def report(self) -> None:
        """Report what was counted since the last report."""
        if self._records:
            ended = time.time(), time.process_time()
            line = {
                "process": os.getpid(),
                "records": self._records,
                "started_s": self._started[0],
                "ended_s": ended[0],
                "started_cpu_s": self._started[1],
                "ended_cpu_s": ended[1],
                "freshness_s": [],
            }
            self._file.write(json.dumps(line) + "\n")
            self._records, self._started = 0, ended

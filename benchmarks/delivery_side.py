"""What is measured of one side of the delivery benchmark: the time and the CPU of its processes, batch by batch."""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Report:
    """One batch of a process. `*_s` are times on the wall clock, `*_cpu_s` CPU seconds used by the process."""

    process: int
    records: int
    started_s: float
    ended_s: float
    started_cpu_s: float
    ended_cpu_s: float
    freshness_s: list[float]


@dataclass
class DeliverySide:
    """The reports of one side in one turn."""

    reports: list[Report] = field(default_factory=list)
    redis_bytes: int = 0  # received by Redis

    @property
    def records(self) -> int:
        return sum(report.records for report in self.reports)

    @property
    def ended_s(self) -> float:
        return max(report.ended_s for report in self.reports)

    @property
    def wall_s(self) -> float:
        return self.ended_s - min(report.started_s for report in self.reports)

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all processes, each from its first batch to its last."""
        total = 0.0
        for process in {report.process for report in self.reports}:
            own = [report for report in self.reports if report.process == process]
            total += max(report.ended_cpu_s for report in own) - min(report.started_cpu_s for report in own)
        return total

    def freshness_ms(self, percent: float) -> float:
        return round(
            float(np.percentile([value for report in self.reports for value in report.freshness_s], percent)) * 1000, 1
        )

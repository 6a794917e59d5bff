"""The cascade's curve, as JSON and as a plot: the share of the teacher's claims kept against the share of items sent."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.figure import Figure

from evaluation.claims import CascadePoint, find_cheapest, trace_cascade
from evaluation.distillation import HeldOutScores, Teacher, examine
from reaseq.knowledge.student import StudentTrainingConfig, build_targets

RECALL_MIN = 0.95


@dataclass(frozen=True)
class CascadeCurve:
    """The curve on one kind of held-out items; `at_95` is its cheapest point with a recall of RECALL_MIN."""

    items: str
    count: int
    points: list[CascadePoint]
    at_95: CascadePoint


def report_cascade(teacher: Teacher, out: Path) -> tuple[list[CascadeCurve], list[HeldOutScores]]:
    """Train a student on what is not held out, and write `cascade.png` and `cascade.json` to `out`.

    Returns the curves, and the scores of the student and of the reasoners below it.
    """
    student = teacher.train_student(StudentTrainingConfig())
    curves = []
    for name, rows in teacher.parts.held_out.items():
        truth = build_targets([teacher.answers[row][1] for row in rows], teacher.vocabulary)
        points = trace_cascade(student, teacher.vectors[rows], truth, teacher.vocabulary)
        curves.append(CascadeCurve(name, len(rows), points, find_cheapest(points, RECALL_MIN)))
    out.mkdir(parents=True, exist_ok=True)
    (out / "cascade.json").write_text(json.dumps([asdict(curve) for curve in curves], indent=1))
    _draw(curves, out / "cascade.png")
    return curves, examine(teacher, student)


def _draw(curves: Sequence[CascadeCurve], path: Path) -> None:
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, curve in zip(figure.subplots(1, len(curves), sharey=True), curves, strict=True):
        items_sent = [point.items_sent_share for point in curve.points]
        agent_calls = [point.agent_calls_share for point in curve.points]
        for measure, style in (("recall", "-"), ("precision", "--")):
            values = [getattr(point, measure) for point in curve.points]
            axes.plot(items_sent, values, style, color="#1f6f8b", label=f"{measure}, by items")
            axes.plot(agent_calls, values, style, color="#d1753c", label=f"{measure}, by calls")
        axes.axhline(RECALL_MIN, color="#999999", linewidth=0.8)
        axes.set(
            title=f"{curve.count} held-out items: {curve.items}", xlabel="share sent to the language model", ylim=(0, 1.02)
        )
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("of the teacher's claims")
    figure.axes[-1].legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=130)

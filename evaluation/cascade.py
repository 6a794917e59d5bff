"""The cascade's curve as figures and as a picture: what is kept of the teacher's claims, for which share of the items sent."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from evaluation.claims import CascadePoint, cascade_curve, cheapest
from evaluation.distillation import Teacher
from reaseq.knowledge.student import StudentTrainingConfig, build_targets

LEAST_RECALL = 0.95


@dataclass(frozen=True)
class CascadePart:
    """The curve on one kind of held-out items."""

    items: str
    count: int
    points: list[CascadePoint]
    at_95: CascadePoint


def cascade_report(teacher: Teacher, out: Path) -> list[CascadePart]:
    """Train a student on what is not held out, and write `cascade.png` and `cascade.json` to `out`."""
    student = teacher.train_student(StudentTrainingConfig())
    parts = []
    for name, places in teacher.parts.held_out.items():
        truth = build_targets([teacher.answers[place][1] for place in places], teacher.vocabulary)
        points = cascade_curve(student, teacher.vectors[places], truth, teacher.vocabulary)
        parts.append(CascadePart(name, len(places), points, cheapest(points, LEAST_RECALL)))
    out.mkdir(parents=True, exist_ok=True)
    (out / "cascade.json").write_text(json.dumps([asdict(part) for part in parts], indent=1))
    _draw(parts, out / "cascade.png")
    return parts


def _draw(parts: Sequence[CascadePart], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, part in zip(figure.subplots(1, len(parts), sharey=True), parts, strict=True):
        for measure, style in (("recall", "-"), ("precision", "--")):
            values = [getattr(point, measure) for point in part.points]
            axes.plot(
                [point.items_sent_share for point in part.points], values, style, color="#1f6f8b", label=f"{measure}, by items"
            )
            axes.plot(
                [point.agent_calls_share for point in part.points], values, style, color="#d1753c", label=f"{measure}, by calls"
            )
        axes.axhline(LEAST_RECALL, color="#999999", linewidth=0.8)
        axes.set(title=f"{part.count} held-out items: {part.items}", xlabel="share sent to the language model", ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("of the teacher's claims")
    figure.axes[-1].legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=130)

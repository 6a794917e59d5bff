"""Writes the report as JSON and as one self-contained HTML page."""

import io
import json
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from demo.report import Report
from demo.terminal import GAIN_LABEL, MEASURES, SLICE_NAMES, format_gain, format_marks
from evaluation.judge import ALL, NEW
from reaseq.days import DAY_MS

WINDOW_DAYS = 7
COLORS = ("#c2410c", "#2563eb", "#0f766e", "#7c3aed", "#a16207", "#0369a1", "#737373")


def write_report(report: Report, folder: Path) -> None:
    """Write `report.json` and `report.html` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False))
    (folder / "report.html").write_text(render(report))


def render(report: Report) -> str:
    """The page, with its charts inline."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["day"] = lambda time_ms: _to_date(time_ms // DAY_MS).strftime("%d %b %Y")
    environment.filters["figure"] = lambda value: "–" if value is None else f"{value:.3f}"
    environment.filters["ms"] = lambda value: "–" if value is None else f"{value:.0f} ms"
    environment.filters["marks"] = format_marks
    return environment.get_template("report.html").render(
        report=report,
        slices=SLICE_NAMES,
        measures=MEASURES,
        gain_label=GAIN_LABEL,
        gains={key: " to ".join(format_gain(report, *key)) for key in product(SLICE_NAMES, MEASURES)},
        models=list(dict.fromkeys(row["model"] for row in report["quality"])),
        rows={(row["model"], row["slice"]): row for row in report["quality"]},
        freshness=_draw_freshness(report),
        hits=_draw_hits(report, ALL),
        hits_new=_draw_hits(report, NEW),
    )


def _draw_freshness(report: Report) -> Markup:
    figure, axes = _build_axes("milliseconds")
    days = sorted(report["freshness_by_day_ms"].items(), key=lambda entry: int(entry[0]))
    dates = [_to_date(int(day)) for day, _ in days]
    for quantile, color in (("p50", COLORS[1]), ("p99", COLORS[0])):
        axes.plot(dates, [values[quantile] for _, values in days], label=quantile, color=color)
    return _to_svg(figure, axes)


def _draw_hits(report: Report, slice_name: str) -> Markup:
    figure, axes = _build_axes(f"HR@10 over {WINDOW_DAYS} days")
    rows = [row for row in report["quality"] if row["slice"] == slice_name]
    for row, color in zip(rows, COLORS, strict=False):
        by_day = {int(day): counts for day, counts in row["hits_by_day"].items()}
        points = []
        for day in sorted(by_day):
            window = [by_day[recent] for recent in range(day - WINDOW_DAYS + 1, day + 1) if recent in by_day]
            points.append(sum(hits for hits, _ in window) / sum(targets for _, targets in window))
        axes.plot([_to_date(day) for day in sorted(by_day)], points, label=row["model"], color=color)
    return _to_svg(figure, axes)


def _build_axes(label: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(7.2, 2.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    return figure, axes


def _to_svg(figure: Figure, axes: Any) -> Markup:
    axes.set_ylim(bottom=0)
    axes.tick_params(axis="x", labelrotation=30)
    if axes.lines:
        axes.legend(frameon=False, fontsize="small", ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.2))
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", transparent=True)
    svg = drawn.getvalue()
    return Markup(svg[svg.index("<svg") :].replace("#000000", "currentColor"))  # noqa: S704  drawn from numbers only


def _to_date(day: int) -> datetime:
    return datetime.fromtimestamp(day * DAY_MS / 1000, UTC)

"""`python -m benchmarks.figures`: draw the measured results into docs/figures, out of benchmarks/results."""

import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
RESULTS, FIGURES = ROOT / "benchmarks" / "results", ROOT / "docs" / "figures"
DATA = {"online_retail": "Online Retail", "amazon_beauty": "Amazon Beauty"}
Estimates = dict[str, dict[str, dict[str, float]]]


def main() -> None:
    """Draw every figure whose results are there."""
    FIGURES.mkdir(exist_ok=True)
    inferred = {title: _read(f"inferred_{name}") for name, title in DATA.items()}
    if all(inferred.values()):
        _draw("recall", inferred, lambda axes, found: _recall(axes, found["recall"]))
        _draw("ranker_gain", inferred, lambda axes, found: _gain(axes, found["ranker_gain"]))
    if sampler := _read("behavior"):
        _sampler(sampler)


def _read(name: str) -> Any:
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


def _draw(name: str, results: dict[str, Any], draw: Any) -> None:
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    for axes, (title, found) in zip(figure.subplots(1, len(results)), results.items(), strict=True):
        draw(axes, found)
        axes.set_title(title)
    figure.savefig(FIGURES / f"{name}.png", dpi=110)


def _recall(axes: Axes, recall: Estimates) -> None:
    for place, (column, label) in enumerate((("recall_50", "all new targets"), ("recall_50_cold", "never-trained items"))):
        _bars(axes, [found[column] for found in recall.values()], list(recall), place, label)
    axes.set_xlabel("recall@50")
    axes.legend(fontsize=8)


def _gain(axes: Axes, gains: Estimates) -> None:
    for place, (column, label) in enumerate((("mat", "mat"), ("mat, cold", "mat, never-trained"), ("pop", "pop"))):
        points = [{key: 100 * value for key, value in found[column].items()} for found in gains.values()]
        _bars(axes, points, list(gains), place, label)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("GAUC, points gained")
    axes.legend(fontsize=8)


def _bars(axes: Axes, found: list[dict[str, float]], labels: list[str], place: int, label: str) -> None:
    at = [row + 0.27 * place for row in range(len(found))]
    means = [of["mean"] for of in found]
    errors = [[of["mean"] - of["low"] for of in found], [of["high"] - of["mean"] for of in found]]
    axes.barh(at, means, height=0.25, xerr=errors, label=label, error_kw={"linewidth": 0.8})
    axes.set_yticks([row + 0.27 for row in range(len(labels))], labels, fontsize=8)
    axes.invert_yaxis() if place == 0 else None


def _sampler(found: dict[str, Any]) -> None:
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for count in sorted({row["behaviors"] for row in found["by_steps_batch_and_count"]}):
        for steps in sorted({row["steps"] for row in found["by_steps_batch_and_count"]}):
            rows = [r for r in found["by_steps_batch_and_count"] if (r["behaviors"], r["steps"]) == (count, steps)]
            style = "-" if count == max(r["behaviors"] for r in found["by_steps_batch_and_count"]) else "--"
            left.plot(
                [r["batch_users"] for r in rows],
                [r["users_per_s"] for r in rows],
                style,
                marker="o",
                label=f"K={count}, {steps} steps",
            )
    left.set(xscale="log", yscale="log", xlabel="users in a batch", ylabel="users/s, one thread")
    left.legend(fontsize=7, ncols=2)
    by_steps = found["recall_50_by_steps"]
    right.plot([int(steps) for steps in by_steps], list(by_steps.values()), marker="o", label="our schedule")
    right.axhline(found["reference_recall_50"], linestyle="--", label="reference: one token a step")
    right.set(xscale="log", xlabel="steps", ylabel="recall@50", ylim=(0, None))
    right.legend(fontsize=8)
    figure.savefig(FIGURES / "sampler.png", dpi=110)


if __name__ == "__main__":
    main()

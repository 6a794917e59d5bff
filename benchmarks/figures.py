"""`python -m benchmarks.figures`: draw the measured results into docs/figures, out of benchmarks/results."""

import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
RESULTS, FIGURES = ROOT / "benchmarks" / "results", ROOT / "docs" / "figures"
DATA = {"online_retail": "Online Retail", "amazon_beauty": "Amazon Beauty", "mind": "MIND"}
Estimates = dict[str, dict[str, dict[str, float]]]


def main() -> None:
    """Draw every figure whose results are there."""
    FIGURES.mkdir(exist_ok=True)
    inferred = {DATA[name]: _read(f"inferred_{name}") for name in ("online_retail", "amazon_beauty")}
    if all(inferred.values()):
        _draw("recall", inferred, lambda axes, found: _recall(axes, found["recall"]))
    if judged := _read("evaluation"):
        parts = {DATA[name]: next(iter(found["parts"].values())) for name, found in judged.items()}
        _draw("ranking_gain", parts, lambda axes, part: _gain(axes, part["gains"]))
        aged = {title: part for title, part in parts.items() if any(" old" in name for name in part["variants"])}
        if aged:
            _draw("freshness", aged, _freshness)
    if sampler := _read("behavior"):
        _sampler(sampler)


def _read(name: str) -> Any:
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


def _draw(name: str, results: dict[str, Any], draw: Any) -> None:
    figure = Figure(figsize=(5.5 * len(results), 4.2), layout="constrained")
    for axes, (title, found) in zip(figure.subplots(1, len(results), squeeze=False)[0], results.items(), strict=True):
        draw(axes, found)
        axes.set_title(title)
    figure.savefig(FIGURES / f"{name}.png", dpi=110)


def _recall(axes: Axes, recall: Estimates) -> None:
    for place, (column, label) in enumerate((("recall_50", "all new targets"), ("recall_50_cold", "never-trained items"))):
        _bars(axes, [found[column] for found in recall.values()], list(recall), place, label)
    axes.set_xlabel("recall@50")
    axes.legend(fontsize=8)


def _gain(axes: Axes, gains: dict[str, Any]) -> None:
    kinds = list(next(iter(gains.values())))
    named = {name: of for name, of in gains.items() if " old" not in name}
    for place, kind in enumerate(kinds[-2:]):
        points = [{key: 100 * value for key, value in of[kind]["gauc"].items()} for of in named.values()]
        _bars(axes, points, list(named), place, kind)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("GAUC, points gained")
    axes.legend(fontsize=8)


def _freshness(axes: Axes, part: dict[str, Any]) -> None:
    aged = {name.split(", ")[1].removesuffix(" old"): of for name, of in part["variants"].items() if " old" in name}
    for kind in next(iter(aged.values())):
        fresh = next(iter(aged.values()))[kind]["gauc"]["mean"]
        axes.plot(list(aged), [100 * (of[kind]["gauc"]["mean"] - fresh) for of in aged.values()], "o-", label=kind)
    axes.set(xlabel="age of the features", ylabel="GAUC, points lost")
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

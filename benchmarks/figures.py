"""`python -m benchmarks.figures`: draw the results in benchmarks/results into docs/figures."""

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
    """Draw every figure that has results."""
    FIGURES.mkdir(exist_ok=True)
    inferred = {DATA[name]: _read(f"inferred_{name}") for name in ("online_retail", "amazon_beauty")}
    if all(inferred.values()):
        _draw("recall", inferred, lambda axes, results: _draw_recall(axes, results["recall"]))
    if evaluation := _read("evaluation"):
        splits = {DATA[name]: next(iter(results["splits"].values())) for name, results in evaluation.items()}
        _draw("ranking_gain", splits, lambda axes, split: _draw_gains(axes, split["gains"]))
        aged = {title: split for title, split in splits.items() if any(" old" in name for name in split["variants"])}
        if aged:
            _draw("freshness", aged, _draw_freshness)
    if sampler := _read("behavior"):
        _draw_sampler(sampler)


def _read(name: str) -> Any:
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


def _draw(name: str, results: dict[str, Any], draw: Any) -> None:
    figure = Figure(figsize=(5.5 * len(results), 4.2), layout="constrained")
    for axes, (title, part) in zip(figure.subplots(1, len(results), squeeze=False)[0], results.items(), strict=True):
        draw(axes, part)
        axes.set_title(title)
    figure.savefig(FIGURES / f"{name}.png", dpi=110)


def _draw_recall(axes: Axes, recall: Estimates) -> None:
    for group, (column, label) in enumerate((("recall_50", "all new targets"), ("recall_50_cold", "never-trained items"))):
        _draw_bars(axes, [estimates[column] for estimates in recall.values()], list(recall), group, label)
    axes.set_xlabel("recall@50")
    axes.legend(fontsize=8)


def _draw_gains(axes: Axes, gains: dict[str, Any]) -> None:
    kinds = list(next(iter(gains.values())))
    fresh = {name: figures for name, figures in gains.items() if " old" not in name}
    for group, kind in enumerate(kinds[-2:]):
        points = [{key: 100 * value for key, value in figures[kind]["gauc"].items()} for figures in fresh.values()]
        _draw_bars(axes, points, list(fresh), group, kind.replace("_", "-"))
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("GAUC, points gained")
    axes.legend(fontsize=8)


def _draw_freshness(axes: Axes, split: dict[str, Any]) -> None:
    aged = {name.split(", ")[1].removesuffix(" old"): figures for name, figures in split["variants"].items() if " old" in name}
    for kind in next(iter(aged.values())):
        fresh = next(iter(aged.values()))[kind]["gauc"]["mean"]
        changes = [100 * (figures[kind]["gauc"]["mean"] - fresh) for figures in aged.values()]
        axes.plot(list(aged), changes, "o-", label=kind.replace("_", "-"))
    axes.set(xlabel="age of the features", ylabel="GAUC, points lost")
    axes.legend(fontsize=8)


def _draw_bars(axes: Axes, estimates: list[dict[str, float]], labels: list[str], group: int, label: str) -> None:
    heights = [row + 0.27 * group for row in range(len(estimates))]
    means = [estimate["mean"] for estimate in estimates]
    errors = [
        [estimate["mean"] - estimate["low"] for estimate in estimates],
        [estimate["high"] - estimate["mean"] for estimate in estimates],
    ]
    axes.barh(heights, means, height=0.25, xerr=errors, label=label, error_kw={"linewidth": 0.8})
    axes.set_yticks([row + 0.27 for row in range(len(labels))], labels, fontsize=8)
    if group == 0:
        axes.invert_yaxis()


def _draw_sampler(results: dict[str, Any]) -> None:
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    grid = results["by_steps_batch_and_count"]
    counts = sorted({row["behaviors"] for row in grid})
    for count in counts:
        for steps in sorted({row["steps"] for row in grid}):
            rows = [row for row in grid if (row["behaviors"], row["steps"]) == (count, steps)]
            left.plot(
                [row["batch_users"] for row in rows],
                [row["users_per_s"] for row in rows],
                "-" if count == counts[-1] else "--",
                marker="o",
                label=f"K={count}, {steps} steps",
            )
    left.set(xscale="log", yscale="log", xlabel="users in a batch", ylabel="users/s, one thread")
    left.legend(fontsize=7, ncols=2)
    by_steps = results["recall_50_by_steps"]
    right.plot([int(steps) for steps in by_steps], list(by_steps.values()), marker="o", label="our schedule")
    right.axhline(results["reference_recall_50"], linestyle="--", label="reference: one token a step")
    right.set(xscale="log", xlabel="steps", ylabel="recall@50", ylim=(0, None))
    right.legend(fontsize=8)
    figure.savefig(FIGURES / "sampler.png", dpi=110)


if __name__ == "__main__":
    main()

"""A learning curve on disk: `curve.json` and `curve.png`."""

import json
from dataclasses import asdict
from pathlib import Path

from matplotlib.figure import Figure

from reaseq.training_loop import Curve


def save_curve(curve: Curve, folder: Path) -> None:
    """Write the training loss of each step and the held-out loss after each epoch."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "curve.json").write_text(json.dumps(asdict(curve)))
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(1, len(curve.train) + 1), curve.train, linewidth=0.8, alpha=0.6, label="training, each step")
    epoch_steps = len(curve.train) / max(1, len(curve.held_out))
    ends = [epoch_steps * (epoch + 1) for epoch in range(len(curve.held_out))]
    axes.plot(ends, curve.held_out, "o-", label="held out")
    axes.set(xlabel="step", ylabel="loss")
    axes.legend()
    figure.savefig(folder / "curve.png", dpi=120)

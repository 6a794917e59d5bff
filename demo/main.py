"""Runs the demo from start to finish and shows its report."""

import asyncio
import logging
import os
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from demo.schedule import FULL, QUICK
from reaseq.settings import Settings

if TYPE_CHECKING:
    from demo.lifecycle import Lifecycle
    from evaluation.judge import Judge


def run_demo(quick: bool, out: Path, console: Console) -> None:
    """Run the demo, write `report.json` and `report.html` to `out`, and publish the models for `reaseq up`."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    warnings.filterwarnings("ignore")  # from libraries; tests treat warnings as errors
    torch.set_num_threads(os.cpu_count() or 1)
    published = Settings().models_dir
    state = out / "state"
    shutil.rmtree(state, ignore_errors=True)  # the store of an earlier run would treat this replay as stale writes
    state.mkdir(parents=True)
    os.environ["REASEQ_STATE_DIR"] = str(state)  # Feast imports the repository's definitions, which read it
    console.print(Text.assemble(("ReaSeq streaming", "bold"), ": UCI Online Retail as a live stream, on the embedded store"))
    columns = (TextColumn("{task.description:<50}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("import torch, transformers and Feast", total=1)
        from demo.lifecycle import Lifecycle
        from demo.page import write_report
        from demo.report import build_report
        from demo.terminal import show

        progress.advance(task)
        lifecycle = Lifecycle(QUICK if quick else FULL, Settings(), published, progress)
        judge = asyncio.run(_run(lifecycle))
    report = build_report(lifecycle, judge)
    write_report(report, out)
    show(report, console)
    page = Text(str(out / "report.html"), "bold")
    console.print(Text.assemble("\nreport with charts: ", page, f", data: {out / 'report.json'}"))


async def _run(lifecycle: "Lifecycle") -> "Judge":
    judge = await lifecycle.prepare()
    await lifecycle.replay(judge)
    return judge

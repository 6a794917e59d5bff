"""Commands that train models and publish them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.terminal import clear_errors, present_settings, table_of
from reaseq.days import time_ms, to_day

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from reaseq.training_loop import Curve

app = typer.Typer(no_args_is_help=True)

END_MS = 2**53  # after everything

Answers = Annotated[
    Path | None,
    typer.Option(help="Parquet of recorded answers; without it, what a language model said of the items in the feature store."),
]
Preset = Annotated[str, typer.Option(help="Size of the backbone: tiny, small, base or llada-8b.")]
Init = Annotated[Path | None, typer.Option(help="Folder of a LLaDA checkpoint (safetensors) to start the backbone from.")]
Until = Annotated[str, typer.Option(help="Learn from what happened before this day (YYYY-MM-DD); without it, from everything.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the scores to this file.")]


@app.callback()
def models() -> None:
    """Train models and publish them."""


@app.command()
def student(answers: Answers = None, json_file: Json = None) -> None:
    """Distil accepted answers into the student, measure it on items it never saw, and publish it."""
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import Progress

    from evaluation.distillation import examine
    from pipelines.knowledge import build_teacher
    from reaseq.knowledge.student import StudentTrainingConfig

    settings, console, plan = present_settings(), Console(), StudentTrainingConfig()
    with clear_errors():
        with console.status("encoding the answered items"):
            teacher = build_teacher(settings, answers)
        parts = teacher.parts
        with Progress(console=console) as progress:
            task = progress.add_task(f"training on {len(parts.train)} answers", total=plan.epochs)
            trained = teacher.student(plan, lambda epochs: progress.advance(task, epochs))
        results = examine(teacher, trained)
        for items in dict.fromkeys(result.items for result in results):
            held = [result for result in results if result.items == items]
            columns = ("claim group", *(result.reasoner for result in held))
            rows = [
                (scores[0].group, *(f"{s.precision:.2f}  {s.recall:.2f}  {s.calibration_error:.2f}" for s in scores))
                for scores in zip(*(result.scores for result in held), strict=True)
            ]
            title = f"{held[0].count} held-out items, {items}: precision, recall, calibration error"
            console.print(table_of(title, columns, rows))
        facts = {
            "vocabulary": teacher.vocabulary.version,
            "space_id": teacher.encoder.space_id,
            "answers": len(parts.train),
            "held_out": {f"{result.reasoner}, {result.items}": asdict(result.scores[-1]) for result in results},
        }
        artifact = trained.publish(settings.models_dir, facts)
        if json_file:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            json_file.write_text(json.dumps([asdict(result) for result in results], indent=1))
    console.print(f"published: student {artifact.version} in {artifact.path}")


@app.command()
def behavior(
    until: Until = "",
    blocks: Annotated[int, typer.Option(min=1, help="Publish a model for the end of each of so many blocks of time.")] = 1,
    preset: Preset = "tiny",
    init: Init = None,
    codes: Annotated[bool, typer.Option("--codes", help="Write behaviors with semantic IDs; else an item is a token.")] = False,
    epochs: Annotated[int, typer.Option(min=1)] = 8,
    seed: int = 0,
) -> None:
    """Train the diffusion model from Feast's point-in-time history and publish it; stopped, it goes on where it was.

    With several blocks, each model has seen only what came before its end: what the ranker trains on is inferred by the newest
    model from before. Under torchrun (`torchrun --nproc-per-node 2 -m reaseq train behavior`) the processes share each batch.
    """
    from functools import partial

    from rich.console import Console
    from rich.progress import Progress

    from pipelines.behavior_model import BehaviorModelPipeline, split_blocks
    from reaseq.behavior import training
    from reaseq.behavior.backbone import PRESETS
    from reaseq.errors import ReaSeqError
    from reaseq.training_loop import count_steps, join_processes

    settings, console = present_settings(), Console()
    with clear_errors():
        if preset not in PRESETS:
            raise ReaSeqError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
        leads = join_processes() == 0
        with console.status("reading the archive"):
            pipeline = BehaviorModelPipeline(settings, preset, init, codes)
            end_ms = time_ms(until) if until else END_MS
            baskets = pipeline.baskets(end_ms)
        plan = training.BehaviorTrainingConfig(epochs=epochs, seed=seed)
        for until_ms, before in split_blocks(baskets, blocks):
            data, ids, config = pipeline.data(before)
            run = (
                settings.state_dir
                / "training"
                / "behavior"
                / f"{to_day(until_ms)}-{preset}-{'codes' if codes else 'items'}-{seed}"
            )
            with Progress(console=console, disable=not leads) as progress:
                total = count_steps(len(data.train), plan)
                task = progress.add_task(f"{len(data.train)} baskets before {to_day(until_ms)}", total=total)
                model, curve = training.train(
                    data,
                    config,
                    plan,
                    run / "checkpoint.safetensors",
                    partial(_advance, progress, task),
                    pipeline.new_model(config),
                )
            if leads:
                _keep_curve(curve, run)
                artifact = pipeline.publish(model, ids, until_ms, curve)
                console.print(f"published: behavior {artifact.version}, held-out loss {curve.held_out[-1]:.3f}, curve in {run}")


def _keep_curve(curve: "Curve", folder: Path) -> None:
    """The loss as figures and as a picture: each step, and the held-out baskets after each epoch."""
    import json
    from dataclasses import asdict

    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "curve.json").write_text(json.dumps(asdict(curve)))
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(1, len(curve.train) + 1), curve.train, linewidth=0.8, alpha=0.6, label="training, each step")
    each = len(curve.train) / max(1, len(curve.held_out))
    axes.plot([each * (epoch + 1) for epoch in range(len(curve.held_out))], curve.held_out, "o-", label="held out")
    axes.set(xlabel="step", ylabel="loss")
    axes.legend()
    figure.savefig(folder / "curve.png", dpi=120)


def _advance(progress: "Progress", task: "TaskID", steps: int, loss: float) -> None:
    progress.update(task, advance=steps, description=f"loss {loss:.3f}")


@app.command()
def ranker(
    until: Until = "",
    epochs: Annotated[int, typer.Option(min=1)] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Baskets in a step.")] = 8,
    seed: int = 0,
) -> None:
    """Train the ranker on Feast's point-in-time features, measure it on the latest tenth, and publish it; stopped, it goes on.

    Positives are what baskets held, negatives what was on sale beside it. What was inferred for a basket counts only if the
    model that inferred it was trained on earlier time. Under torchrun the processes share each batch.
    """
    from functools import partial

    from rich.console import Console
    from rich.progress import Progress

    from pipelines.ranker import RankerPipeline
    from reaseq.ranker.training import RankerTrainingConfig, train
    from reaseq.training_loop import count_steps, join_processes

    settings, console = present_settings(), Console()
    plan = RankerTrainingConfig(epochs=epochs, batch_baskets=batch, seed=seed)
    with clear_errors():
        leads = join_processes() == 0
        with console.status("reading the archive"):
            pipeline = RankerPipeline(settings)
            data = pipeline.data(time_ms(until) if until else END_MS, plan)
        if leads:
            console.print(
                f"{len(data.examples)} baskets to learn from, {len(data.held_out)} to measure on; {data.rejected} "
                "are not told what was inferred for them, since the model knew later time"
            )
        run = settings.state_dir / "training" / "ranker" / f"{to_day(data.until_ms)}-{batch}-{seed}"
        with Progress(console=console, disable=not leads) as progress:
            task = progress.add_task("training", total=count_steps(len(data.examples), plan))
            model, curve = train(
                data.examples,
                data.held_out,
                pipeline.table,
                data.ids,
                data.config,
                plan,
                run / "checkpoint.safetensors",
                partial(_advance, progress, task),
            )
        if leads:
            _keep_curve(curve, run)
            artifact, measured = pipeline.publish(model, data)
            columns = list(measured["ranker"])
            rows = [(name, *(str(of.get(column, "")) for column in columns)) for name, of in measured.items()]
            console.print(table_of("the latest tenth", ("", *columns), rows))
            console.print(f"published: ranker {artifact.version}, curve in {run}")


@app.command()
def alignment(until: Until = "", steps: Annotated[int, typer.Option(min=1)] = 400, seed: int = 0) -> None:
    """Train the alignment head on items that users took together, and publish it.

    It makes a space of its own: set REASEQ_ENCODER__ALIGNMENT to the published folder, and onboard the catalog anew.
    """

    from rich.console import Console
    from rich.progress import Progress

    from features.historical import baskets_in_archive
    from features.repository import FeatureRepository
    from pipelines.behavior_model import load_catalog
    from reaseq.behavior.examples import build_pairs
    from reaseq.representation.alignment import AlignmentTrainingConfig, train_head

    settings, console, plan = present_settings(), Console(), AlignmentTrainingConfig(steps=steps, seed=seed)
    with clear_errors():
        repository = FeatureRepository(settings)
        items, records = load_catalog(repository)
        end_ms = time_ms(until) if until else END_MS
        baskets = baskets_in_archive(repository, end_ms)
        table = items.snapshot.by_id()
        pairs = build_pairs(baskets, table, seed)
        with Progress(console=console) as progress:
            task = progress.add_task(f"{len(pairs)} pairs", total=plan.steps)
            head = train_head(table.vectors, pairs, plan, lambda steps, loss: progress.advance(task, steps))
        facts = {"trained_until_ms": baskets[-1].time_ms + 1, "pairs": len(pairs)}
        artifact = head.publish(settings.models_dir, to_day(baskets[-1].time_ms), records[0].space_id, facts)
    console.print(f"published: alignment {artifact.version}; REASEQ_ENCODER__ALIGNMENT={artifact.path}")


@app.command()
def semantic_ids(
    levels: Annotated[int, typer.Option(min=1, help="Digits.")] = 3,
    codes: Annotated[int, typer.Option(min=2, help="Codes of each digit.")] = 128,
    seed: int = 0,
) -> None:
    """Fit a codebook of semantic IDs to the items in the feature store, report its quality, and publish it."""
    import numpy as np
    from rich.console import Console

    from cli.representation import print_quality
    from features.repository import FeatureRepository
    from pipelines.behavior_model import load_catalog, stack_vectors
    from reaseq.errors import CatalogError
    from reaseq.representation.semantic_ids import examine, fit

    settings, console = present_settings(), Console()
    with clear_errors():
        _, records = load_catalog(FeatureRepository(settings))
        if len(records) < codes:
            raise CatalogError(f"{len(records)} items are too few for {codes} codes a digit: set --codes lower")
        with console.status("fitting"):
            vectors = stack_vectors(records)
            codebook = fit(vectors, records[0].space_id, levels, codes, seed)
            fitted = examine(codebook, vectors, np.array([record.listed_ms for record in records]), seed)
        artifact = codebook.publish(settings.models_dir, f"{levels}x{codes}", fitted)
        print_quality(console, fitted.quality)
    console.print(f"published: semantic-ids {artifact.version}")

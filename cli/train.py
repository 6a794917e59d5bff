"""Commands that train models and publish them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.terminal import clear_errors, present_settings, table_of
from reaseq.days import time_ms, to_day

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

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
    """Distill accepted answers into the student, measure it on items it never saw, and publish it."""
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import Progress

    from pipelines.student import StudentPipeline, build_teacher
    from reaseq.knowledge.student import StudentTrainingConfig

    settings, console, config = present_settings(), Console(), StudentTrainingConfig()
    with clear_errors():
        with console.status("encoding the answered items"):
            pipeline = StudentPipeline(build_teacher(settings, answers), settings.models_dir)
        with Progress(console=console) as progress:
            task = progress.add_task(f"training on {len(pipeline.teacher.parts.train)} answers", total=config.epochs)
            trained = pipeline.train(config, lambda epochs: progress.advance(task, epochs))
        measured = pipeline.measure(trained)
        for items in dict.fromkeys(result.items for result in measured):
            held_out = [result for result in measured if result.items == items]
            columns = ("claim group", *(result.reasoner for result in held_out))
            rows = [
                (scores[0].group, *(f"{s.precision:.2f}  {s.recall:.2f}  {s.calibration_error:.2f}" for s in scores))
                for scores in zip(*(result.scores for result in held_out), strict=True)
            ]
            title = f"{held_out[0].count} held-out items, {items}: precision, recall, calibration error"
            console.print(table_of(title, columns, rows))
        artifact = pipeline.publish(trained, measured)
        if json_file:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            json_file.write_text(json.dumps([asdict(result) for result in measured], indent=1))
    console.print(f"published: student {artifact.version} in {artifact.path}")


@app.command()
def behavior(
    until: Until = "",
    blocks: Annotated[int, typer.Option(min=1, help="Publish a model for the end of each of this many blocks of time.")] = 1,
    preset: Preset = "tiny",
    init: Init = None,
    codes: Annotated[bool, typer.Option("--codes", help="Write behaviors with semantic IDs; else an item is a token.")] = False,
    epochs: Annotated[int, typer.Option(min=1)] = 8,
    seed: int = 0,
) -> None:
    """Train the diffusion model on Feast's point-in-time histories and publish it; a stopped run resumes.

    With several blocks, each model has seen only baskets before its end: what the ranker trains on is inferred by the newest
    model from before. Under torchrun (`torchrun --nproc-per-node 2 -m reaseq train behavior`) the processes share each batch.
    """
    from functools import partial

    from rich.console import Console
    from rich.progress import Progress

    from features.repository import FeatureRepository
    from pipelines.behavior_model import BehaviorModelPipeline, split_blocks
    from pipelines.catalog import load_item_table
    from pipelines.learning_curve import save_curve
    from reaseq.behavior.training import BehaviorTrainingConfig
    from reaseq.training_loop import count_steps, join_processes

    settings, console = present_settings(), Console()
    with clear_errors():
        leads = join_processes() == 0
        with console.status("reading the archive"):
            repository = FeatureRepository(settings)
            items = load_item_table(repository)
            pipeline = BehaviorModelPipeline(repository, items, settings.models_dir, preset, init, codes)
            baskets = pipeline.load_baskets(time_ms(until) if until else END_MS)
        config = BehaviorTrainingConfig(epochs=epochs, seed=seed)
        for until_ms, before in split_blocks(baskets, blocks):
            data, ids = pipeline.build_data(before)
            run = f"{to_day(until_ms)}-{preset}-{'codes' if codes else 'items'}-{seed}"
            folder = settings.state_dir / "training" / "behavior" / run
            with Progress(console=console, disable=not leads) as progress:
                total = count_steps(len(data.train), config)
                task = progress.add_task(f"{len(data.train)} baskets before {to_day(until_ms)}", total=total)
                advance = partial(_advance, progress, task)
                model, curve = pipeline.train(data, ids, config, folder / "checkpoint.safetensors", advance)
            if leads:
                save_curve(curve, folder)
                artifact = pipeline.publish(model, ids, until_ms, curve)
                loss = f"held-out loss {curve.held_out[-1]:.3f}"
                console.print(f"published: behavior {artifact.version}, {loss}, curve in {folder}")


def _advance(progress: "Progress", task: "TaskID", steps: int, loss: float) -> None:
    progress.update(task, advance=steps, description=f"loss {loss:.3f}")


@app.command()
def ranker(
    until: Until = "",
    epochs: Annotated[int, typer.Option(min=1)] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Baskets in a step.")] = 8,
    seed: int = 0,
) -> None:
    """Train the ranker on Feast's point-in-time features, measure it on the latest tenth, and publish it; a stopped run resumes.

    Positives are the items of a basket, negatives other items on sale at the time. An inference counts only if the model that
    made it was trained on earlier time. Under torchrun the processes share each batch.
    """
    from functools import partial

    from rich.console import Console
    from rich.progress import Progress

    from features.repository import FeatureRepository
    from pipelines.catalog import load_item_table
    from pipelines.learning_curve import save_curve
    from pipelines.ranker import RankerPipeline
    from reaseq.ranker.training import RankerTrainingConfig
    from reaseq.training_loop import count_steps, join_processes

    settings, console = present_settings(), Console()
    config = RankerTrainingConfig(epochs=epochs, batch_baskets=batch, seed=seed)
    with clear_errors():
        leads = join_processes() == 0
        with console.status("reading the archive"):
            repository = FeatureRepository(settings)
            pipeline = RankerPipeline(repository, load_item_table(repository), settings.models_dir)
            samples, dropped = pipeline.load_samples(time_ms(until) if until else END_MS)
            data = pipeline.build_data(samples, config, pipeline.config, dropped_inferences=dropped)
        if leads:
            console.print(
                f"{len(data.train)} baskets to learn from, {len(data.held_out)} to measure on; {data.dropped_inferences} "
                "without inferred behaviors, because the model that inferred them had seen later time"
            )
        folder = settings.state_dir / "training" / "ranker" / f"{to_day(data.until_ms)}-{batch}-{seed}"
        with Progress(console=console, disable=not leads) as progress:
            task = progress.add_task("training", total=count_steps(len(data.train), config))
            advance = partial(_advance, progress, task)
            model, curve = pipeline.train(data, config, folder / "checkpoint.safetensors", advance)
        if leads:
            save_curve(curve, folder)
            measured = pipeline.measure(model, data)
            artifact = pipeline.publish(model, data, measured)
            columns = list(measured["ranker"])
            rows = [(name, *(str(figures.get(column, "")) for column in columns)) for name, figures in measured.items()]
            console.print(table_of("the latest tenth", ("", *columns), rows))
            console.print(f"published: ranker {artifact.version}, curve in {folder}")


@app.command()
def alignment(until: Until = "", steps: Annotated[int, typer.Option(min=1)] = 400, seed: int = 0) -> None:
    """Train the alignment head on items that users took together, and publish it.

    It creates a new vector space: set REASEQ_ENCODER__ALIGNMENT to the published folder, and onboard the catalog again.
    """
    from rich.console import Console
    from rich.progress import Progress

    from features.repository import FeatureRepository
    from pipelines.alignment import AlignmentPipeline
    from pipelines.catalog import load_item_table
    from reaseq.representation.alignment import AlignmentTrainingConfig

    settings, console, config = present_settings(), Console(), AlignmentTrainingConfig(steps=steps, seed=seed)
    with clear_errors():
        repository = FeatureRepository(settings)
        pipeline = AlignmentPipeline(repository, load_item_table(repository), time_ms(until) if until else END_MS)
        pairs = pipeline.build_pairs(seed)
        with Progress(console=console) as progress:
            task = progress.add_task(f"{len(pairs)} pairs", total=config.steps)
            head = pipeline.train(pairs, config, lambda steps, loss: progress.advance(task, steps))
        artifact = pipeline.publish(head, pairs)
    console.print(f"published: alignment {artifact.version}; REASEQ_ENCODER__ALIGNMENT={artifact.path}")


@app.command()
def semantic_ids(
    levels: Annotated[int, typer.Option(min=1, help="Digits.")] = 3,
    codes: Annotated[int, typer.Option(min=2, help="Codes of each digit.")] = 128,
    seed: int = 0,
) -> None:
    """Fit a codebook of semantic IDs to the items in the feature store, report its quality, and publish it."""
    from rich.console import Console

    from cli.representation import print_quality
    from features.repository import FeatureRepository
    from pipelines.catalog import load_item_table
    from pipelines.semantic_ids import SemanticIdPipeline

    settings, console = present_settings(), Console()
    with clear_errors():
        pipeline = SemanticIdPipeline(load_item_table(FeatureRepository(settings)), settings.models_dir)
        with console.status("fitting"):
            codebook, fitted = pipeline.fit(levels, codes, seed)
        artifact = pipeline.publish(codebook, fitted)
        print_quality(console, fitted.quality)
    console.print(f"published: semantic-ids {artifact.version}")

"""Commands that train and publish models."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.terminal import build_table, exit_on_error, load_settings, open_console, open_progress, show_status
from reaseq.days import time_ms, to_day

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.table import Table

    from evaluation.distillation import HeldOutScores

app = typer.Typer(no_args_is_help=True)

NO_END_MS = 2**53  # later than any event

Answers = Annotated[
    Path | None,
    typer.Option(help="Parquet file of recorded answers; by default, a language model's answers in the feature store."),
]
Preset = Annotated[str, typer.Option(help="Size of the backbone: tiny, small, base or llada-8b.")]
Init = Annotated[Path | None, typer.Option(help="Directory of a LLaDA checkpoint (safetensors) that initializes the backbone.")]
Until = Annotated[str, typer.Option(help="Train only on events before this day (YYYY-MM-DD).")]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the training data.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the scores to this file.")]


@app.command()
def student(answers: Answers = None, json_file: Json = None) -> None:
    """Distill accepted answers into the student, measure it on held-out items, and publish it."""
    import json
    from dataclasses import asdict

    from pipelines.student import StudentPipeline, build_teacher
    from reaseq.knowledge.student import StudentTrainingConfig

    settings, console, config = load_settings(), open_console(), StudentTrainingConfig()
    with exit_on_error():
        with show_status("encoding the answered items"):
            pipeline = StudentPipeline(build_teacher(settings, answers), settings.models_dir)
        with open_progress() as progress:
            task = progress.add_task(f"training on {len(pipeline.teacher.parts.train)} answers", total=config.epochs)
            trained = pipeline.train(config, lambda epochs: progress.advance(task, epochs))
        measured = pipeline.measure(trained)
        for table in _build_student_tables(measured):
            console.print(table)
        artifact = pipeline.publish(trained, measured)
        if json_file:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            json_file.write_text(json.dumps([asdict(result) for result in measured], indent=1))
    console.print(f"published: student {artifact.version} in {artifact.path}")


@app.command()
def behavior(
    until: Until = "",
    blocks: Annotated[
        int, typer.Option(min=1, help="Split time into this many blocks and publish a model at the end of each.")
    ] = 1,
    preset: Preset = "tiny",
    init: Init = None,
    codes: Annotated[
        bool, typer.Option("--codes", help="Represent behaviors by semantic IDs instead of one token per item.")
    ] = False,
    epochs: Epochs = 8,
    seed: Seed = 0,
) -> None:
    """Train the diffusion model on Feast's point-in-time histories and publish it. A stopped run resumes.

    With several blocks, each model has seen only baskets before the end of its block, and the ranker trains on inferences of
    the latest model that has not seen later data. With `torchrun --nproc-per-node 2 -m reaseq train behavior`, the processes
    share each batch.
    """
    from functools import partial

    from features.repository import FeatureRepository
    from pipelines.behavior_model import BehaviorModelPipeline, split_blocks
    from pipelines.catalog import load_item_table
    from pipelines.learning_curve import save_curve
    from reaseq.behavior.training import BehaviorTrainingConfig
    from reaseq.training_loop import count_steps, join_processes

    settings, console = load_settings(), open_console()
    with exit_on_error():
        leads = join_processes() == 0
        with show_status("reading the archive"):
            repository = FeatureRepository(settings)
            items = load_item_table(repository)
            pipeline = BehaviorModelPipeline(repository, items, settings.models_dir, preset, init, codes)
            baskets = pipeline.load_baskets(_parse_end(until))
        config = BehaviorTrainingConfig(epochs=epochs, seed=seed)
        for until_ms, before in split_blocks(baskets, blocks):
            data, ids = pipeline.build_data(before)
            run = f"{to_day(until_ms)}-{preset}-{'codes' if codes else 'items'}-{seed}"
            folder = settings.state_dir / "training" / "behavior" / run
            with open_progress(shown=leads) as progress:
                total = count_steps(len(data.train), config)
                task = progress.add_task(f"{len(data.train)} baskets before {to_day(until_ms)}", total=total)
                advance = partial(_advance, progress, task)
                model, curve = pipeline.train(data, ids, config, folder / "checkpoint.safetensors", advance)
            if leads:
                save_curve(curve, folder)
                artifact = pipeline.publish(model, ids, until_ms, curve)
                loss = f"held-out loss {curve.held_out[-1]:.3f}"
                console.print(f"published: behavior {artifact.version}, {loss}, curve in {folder}")


def _build_student_tables(measured: "Sequence[HeldOutScores]") -> "Iterator[Table]":
    """One table for each kind of held-out items: claim groups by reasoners."""
    for items in dict.fromkeys(result.items for result in measured):
        held_out = [result for result in measured if result.items == items]
        columns = ("claim group", *(result.reasoner for result in held_out))
        rows = [
            (scores[0].group, *(f"{s.precision:.2f}  {s.recall:.2f}  {s.calibration_error:.2f}" for s in scores))
            for scores in zip(*(result.scores for result in held_out), strict=True)
        ]
        yield build_table(f"{held_out[0].count} held-out items, {items}: precision, recall, calibration error", columns, rows)


def _parse_end(day: str) -> int:
    return time_ms(day) if day else NO_END_MS


def _advance(progress: "Progress", task: "TaskID", steps: int, loss: float) -> None:
    progress.update(task, advance=steps, description=f"loss {loss:.3f}")


@app.command()
def ranker(
    until: Until = "",
    epochs: Epochs = 1,
    batch: Annotated[int, typer.Option(min=1, help="Baskets per step.")] = 16,
    seed: Seed = 0,
) -> None:
    """Train the ranker on Feast's point-in-time features, measure it on the latest tenth, train on that too, and publish.

    A stopped run resumes. Positives are the items of a basket; negatives are other items on sale at that time. Inferred
    behaviors are used only if their model was trained on earlier data. Under torchrun, the processes share each batch.
    """
    from functools import partial

    from features.repository import FeatureRepository
    from pipelines.catalog import load_item_table
    from pipelines.learning_curve import save_curve
    from pipelines.ranker import RankerPipeline
    from reaseq.ranker.training import RankerTrainingConfig
    from reaseq.training_loop import count_steps, join_processes

    settings, console = load_settings(), open_console()
    config = RankerTrainingConfig(epochs=epochs, batch_baskets=batch, seed=seed)
    with exit_on_error():
        leads = join_processes() == 0
        with show_status("reading the archive"):
            repository = FeatureRepository(settings)
            pipeline = RankerPipeline(repository, load_item_table(repository), settings.models_dir)
            log, dropped = pipeline.load_log(_parse_end(until))
            data = pipeline.build_data(log, config, pipeline.config)
        if leads:
            console.print(
                f"{len(data.train)} baskets to train on, {len(data.held_out)} to measure on; {dropped} "
                "without inferred behaviors, because their model was trained on later data"
            )
        folder = settings.state_dir / "training" / "ranker" / f"{to_day(data.until_ms)}-{batch}-{seed}"
        with open_progress(shown=leads) as progress:
            task = progress.add_task("training", total=count_steps(len(data.train), config))
            advance = partial(_advance, progress, task)
            model, curve = pipeline.train(data, config, folder / "checkpoint.safetensors", advance)
        measured = pipeline.measure(model, data)
        importance = pipeline.measure_importance(model, data)
        pipeline.catch_up(model, data, config)
        if leads:
            save_curve(curve, folder)
            artifact = pipeline.publish(model, data, measured, importance)
            columns = list(measured["ranker"])
            rows = [(name, *(str(figures.get(column, "")) for column in columns)) for name, figures in measured.items()]
            console.print(build_table("the latest tenth of the baskets", ("model", *columns), rows))
            if importance:
                losses = [(name, f"{loss:+.4f}") for name, loss in sorted(importance.items(), key=lambda pair: -pair[1])]
                console.print(build_table("declared attributes", ("attribute", "GAUC lost if shuffled"), losses))
            console.print(f"published: ranker {artifact.version}, curve in {folder}")


@app.command()
def alignment(
    until: Until = "", steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 400, seed: Seed = 0
) -> None:
    """Train the alignment head on pairs of items that users chose together, and publish it.

    It creates a new embedding space: set REASEQ_ENCODER__ALIGNMENT to the published directory, and onboard the catalog again.
    """
    from features.repository import FeatureRepository
    from pipelines.alignment import AlignmentPipeline
    from pipelines.catalog import load_item_table
    from reaseq.representation.alignment import AlignmentTrainingConfig

    settings, console, config = load_settings(), open_console(), AlignmentTrainingConfig(steps=steps, seed=seed)
    with exit_on_error():
        repository = FeatureRepository(settings)
        pipeline = AlignmentPipeline(repository, load_item_table(repository), _parse_end(until))
        pairs = pipeline.build_pairs(seed)
        with open_progress() as progress:
            task = progress.add_task(f"{len(pairs)} pairs", total=config.steps)
            head = pipeline.train(pairs, config, lambda steps, loss: progress.advance(task, steps))
        artifact = pipeline.publish(head, pairs)
    console.print(f"published: alignment {artifact.version}; REASEQ_ENCODER__ALIGNMENT={artifact.path}")


@app.command()
def semantic_ids(
    levels: Annotated[int, typer.Option(min=1, help="Digits of a semantic ID.")] = 3,
    codes: Annotated[int, typer.Option(min=2, help="Codes per digit.")] = 128,
    seed: Seed = 0,
) -> None:
    """Fit a semantic-ID codebook to the items in the feature store, report its quality, and publish it."""

    from cli.representation import print_quality
    from features.repository import FeatureRepository
    from pipelines.catalog import load_item_table
    from pipelines.semantic_ids import SemanticIdPipeline

    settings, console = load_settings(), open_console()
    with exit_on_error():
        pipeline = SemanticIdPipeline(load_item_table(FeatureRepository(settings)), settings.models_dir)
        with show_status("fitting the codebook"):
            codebook, fitted = pipeline.fit(levels, codes, seed)
        artifact = pipeline.publish(codebook, fitted)
        print_quality(console, fitted.quality)
    console.print(f"published: semantic-ids {artifact.version}")

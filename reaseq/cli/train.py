"""Commands that train models and publish them."""

from pathlib import Path
from typing import Annotated

import typer

from reaseq.cli.console import clear_errors, present_settings, table_of

app = typer.Typer(no_args_is_help=True)

Answers = Annotated[
    Path | None,
    typer.Option(help="Parquet of recorded answers; without it, what a language model said of the items in the feature store."),
]
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

    from reaseq.cli.workbench import teacher_of
    from reaseq.evaluation.distillation import examine
    from reaseq.knowledge.student import StudentPlan

    settings, console, plan = present_settings(), Console(), StudentPlan()
    with clear_errors():
        with console.status("encoding the answered items"):
            teacher = teacher_of(settings, answers)
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
        artefact = trained.publish(settings.models_dir, facts)
        if json_file:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            json_file.write_text(json.dumps([asdict(result) for result in results], indent=1))
    console.print(f"published: student {artefact.version} in {artefact.path}")

"""The command line. It alone wires the packages together, and imports them late: `--help` answers at once."""

import typer

from cli import backfill, evaluate, features, knowledge, ranking, representation, system, train
from cli import dead_letters as letters

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False, help="ReaSeq streaming.")
app.registered_commands += system.app.registered_commands
app.registered_commands += ranking.app.registered_commands
app.add_typer(backfill.app, name="backfill", help="Send your own files through the topics; stopped, it goes on where it was.")
app.add_typer(evaluate.app, name="evaluate", help="Judge the method on public data.")
app.add_typer(features.app, name="features", help="The features in the store: rebuild them, compare them.")
app.add_typer(knowledge.app, name="knowledge", help="Product knowledge: look at it, pay for it, renew it, move it.")
app.add_typer(
    letters.app, name="dead-letters", help="Records that could not be processed: look at them, replay them, drop them."
)
app.add_typer(representation.app, name="representation", help="Vectors and semantic IDs: what is near what.")
app.add_typer(train.app, name="train", help="Train models and publish them.")

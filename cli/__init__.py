"""The command line: arguments and tables. Commands import what they run when they run it, so `--help` is fast."""

import typer

from cli import backfill, dead_letters, evaluate, features, knowledge, ranking, representation, system, train
from cli.environment import check_environment
from cli.terminal import exit_on_error

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False)
app.registered_commands += system.app.registered_commands
app.registered_commands += ranking.app.registered_commands
app.add_typer(backfill.app, name="backfill", help="Send your own catalog and event log to the topics; a stopped run resumes.")
app.add_typer(evaluate.app, name="evaluate", help="Evaluate the method on public data sets.")
app.add_typer(features.app, name="features", help="List the features, rebuild the online store, and audit what is in it.")
app.add_typer(knowledge.app, name="knowledge", help="Inspect, price, refresh, export and import product knowledge.")
app.add_typer(dead_letters.app, name="dead-letters", help="Inspect, replay and discard records that could not be processed.")
app.add_typer(representation.app, name="representation", help="Inspect item vectors and semantic IDs.")
app.add_typer(train.app, name="train", help="Train and publish models.")


@app.callback(help="ReaSeq streaming.")
def configure() -> None:
    """What every command starts with: its log lines must not carry control characters to the terminal either.

    What libraries log beside an error that a command prints is not shown; workers and the ranking service log it.
    """
    from reaseq.logs import configure_logs

    configure_logs("reaseq", library_level="CRITICAL")
    with exit_on_error():
        check_environment()

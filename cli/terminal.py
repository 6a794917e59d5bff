"""What the commands share: settings, tables, and one-line errors."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from reaseq.settings import Settings


def load_settings() -> "Settings":
    """Settings from the environment and the secrets directory."""
    from reaseq.settings import Settings

    return Settings()


def load_production_settings() -> "Settings":
    """Settings for the system on Kafka, where the store is always Redis."""
    settings = load_settings()
    settings.store.profile = "production"
    return settings


def build_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> "Table":
    """A table of `rows`, whose cells are converted to text."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(str, row))
    return table


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print a ReaSeqError as one line and exit with status 1, without a traceback."""
    from reaseq.errors import ReaSeqError

    try:
        yield
    except ReaSeqError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        raise typer.Exit(1) from error

"""What the commands share: settings, tables, and errors that read like sentences."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from reaseq.settings import Settings


def present_settings() -> "Settings":
    """The settings as the environment has them."""
    from reaseq.settings import Settings

    return Settings()


def production_settings() -> "Settings":
    """The settings for the system on Kafka: the store is Redis whatever the default says."""
    settings = present_settings()
    settings.store.profile = "production"
    return settings


def table_of(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> "Table":
    """A table to print."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(str, row))
    return table


@contextmanager
def clear_errors() -> Iterator[None]:
    """An error that was raised on purpose is one line to read and an exit status, not a traceback."""
    from reaseq.errors import ReaSeqError

    try:
        yield
    except ReaSeqError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        raise typer.Exit(1) from error

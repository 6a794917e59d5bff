"""What the commands share: settings, and output that shows text from elsewhere as text.

Ids, titles, record keys and model answers come from others. So no command prints one except through `build_table`, or through
`plain` on the console of `open_console`, which interprets no markup.
"""

import errno
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import typer

from reaseq.plain_text import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.status import Status
    from rich.table import Table

    from reaseq.settings import Settings

NOT_WRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT}


def load_settings() -> "Settings":
    """Settings from the environment, the secrets directory and the running system. Exits with an error if one is invalid."""
    from reaseq.settings import load_settings as load

    with exit_on_error():
        return load()


def load_production_settings() -> "Settings":
    """Settings for the system on Kafka, where the store is always Redis."""
    settings = load_settings()
    settings.store.profile = "production"
    return settings


def open_console() -> "Console":
    """A console on standard output that prints `[brackets]` and `:names:` as they are."""
    from rich.console import Console

    return Console(markup=False, emoji=False)


def open_progress(shown: bool = True) -> "Progress":
    """Progress bars on standard error; none if that is a file or a pipe, which cannot move a cursor."""
    from rich.console import Console
    from rich.progress import Progress

    return Progress(console=Console(stderr=True), disable=not (shown and sys.stderr.isatty()))


def show_status(text: str) -> "AbstractContextManager[Status | None]":
    """What a command does while one waits, under the same condition."""
    from rich.console import Console

    return Console(stderr=True).status(text) if sys.stderr.isatty() else nullcontext()


def build_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> "Table":
    """A table of `rows`, whose cells are converted to plain text."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(plain(title), "table.title"), title_justify="left")
    for column in columns:
        table.add_column(Text(plain(column)))
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    return table


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print a ReaSeqError or an error of the operating system and exit with status 1, without a traceback.

    Lines after the first are indented.
    """
    from reaseq.errors import ReaSeqError

    try:
        yield
    except (ReaSeqError, OSError) as error:
        message = _describe(error) if isinstance(error, OSError) else str(error)
        typer.secho("\n  ".join(map(plain, f"error: {message}".split("\n"))), fg="red", err=True)
        raise typer.Exit(1) from error


def _describe(error: OSError) -> str:
    """What the system refused, and where; an error of a state directory is one of its setting."""
    where = f"{error.filename}: " if error.filename else ""
    hint = "; REASEQ_STATE_DIR is the directory to write to" if error.errno in NOT_WRITABLE else ""
    return f"{where}{error.strerror or error}{hint}"

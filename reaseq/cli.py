"""The command line. It alone wires the packages together, and imports them late: `--help` answers at once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from reaseq.settings import Settings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False, help="ReaSeq streaming.")

Quick = Annotated[bool, typer.Option("--quick", help="A small part of the sample, in under a minute.")]
Name = Annotated[str, typer.Option(help="Names the worker in logs and on disk.")]
Workers = Annotated[int, typer.Option(min=1, help="Stream workers to start.")]
Speed = Annotated[float, typer.Option(min=0, help="Seconds of event time in one second; 0: as fast as it goes.")]
Days = Annotated[int, typer.Option(min=1, help="The last days of the sample to replay.")]


@app.command()
def demo(quick: Quick = False, out: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("out/demo")) -> None:
    """Run the whole system on the bundled sample, embedded: backfill, train, live replay, report."""
    from demo.main import run_demo

    run_demo(quick, out)


@app.command()
def up(workers: Workers = 2) -> None:
    """Start a local broker, Redis, stream workers and the ranking service."""
    from rich.console import Console

    from demo import ANSWERS
    from infra import local
    from reaseq.artefacts import current

    settings = _production()
    settings.knowledge.recorded_file = ANSWERS
    console = Console()
    with _clear_errors():
        current(settings.models_dir, "ranker")
        with console.status("starting the broker and Redis"):
            local.start_services(settings)
            setup()
        with console.status("starting workers and the ranking service"):
            started = [local.start_worker(settings, f"worker-{number}") for number in range(1, workers + 1)]
            started.append(local.start_ranker(settings))
            for process in started:
                local.wait_ready(process)
    console.print(
        f"up: ranking service on http://{settings.service.host}:{settings.service.port}/docs, logs in {settings.run_dir}"
    )


@app.command()
def down() -> None:
    """Stop everything that `up` started; data and models stay."""
    from infra import local

    with _clear_errors():
        stopped = local.stop_all(_production())
    typer.echo(f"stopped: {', '.join(stopped) or 'nothing was running'}")


@app.command()
def setup() -> None:
    """Create the topics and apply the Feast repository."""
    from features.repository import FeatureRepository
    from streams.kafka import create_topics

    settings = _production()
    with _clear_errors():
        created = create_topics(settings.kafka)
        FeatureRepository(settings).apply()
    typer.echo(f"topics created: {', '.join(created) or 'none, all are there'}; Feast repository applied")


@app.command()
def worker(name: Name = "worker") -> None:
    """Run one stream worker in the foreground."""
    from reaseq.logs import configure_logs
    from streams.worker import run_worker

    configure_logs()
    with _clear_errors():
        run_worker(_production(), name)


@app.command()
def serve() -> None:
    """Run the ranking service in the foreground."""
    from reaseq.logs import configure_logs
    from streams.serving import run_service

    configure_logs()
    with _clear_errors():
        run_service(_production())


@app.command()
def replay(speed: Speed = 0.0, days: Days = 400) -> None:
    """Produce the bundled sample to the topics, items and events in order of event time."""
    from rich.progress import Progress

    from demo import ORDER_LINES
    from reaseq.evaluation.online_retail import read_retail
    from streams.kafka import Producer
    from streams.replay import replay as replay_records

    settings = _production()
    retail = read_retail(ORDER_LINES)
    events = [event for order in retail.orders for event in order.events]
    since_ms = events[-1].event_time_ms - days * 24 * 3600 * 1000
    events = [event for event in events if event.event_time_ms >= since_ms]
    with _clear_errors(), Progress() as progress:
        # What was listed before the days to replay is the catalogue that they start from.
        task = progress.add_task("replay", total=len(retail.items) + len(events))
        producer = Producer(settings.kafka)
        catalogue = [item for item in retail.items if item.event_time_ms < since_ms]
        listed = [item for item in retail.items if item.event_time_ms >= since_ms]
        replay_records(producer, catalogue, [], 0, lambda count: progress.advance(task, count))
        produced = replay_records(producer, listed, events, speed, lambda count: progress.advance(task, count))
        producer.close()
    typer.echo(f"produced {len(catalogue)} items of the catalogue, then {produced} items and events")


@app.command()
def status() -> None:
    """Show what runs, lag, rates, freshness and dead letters."""
    from rich.console import Console

    from infra import local, process
    from streams import status as system

    settings = _production()
    console = Console()
    running = process.running(settings.run_dir)
    console.print(_table("running", ("process", "pid", "port"), [(p.name, p.pid, *p.ports[:1]) for p in running]))
    with _clear_errors():
        topics = [(t.name, t.held, t.lag, t.acknowledged_per_s) for t in system.topics_status(settings)]
        console.print(_table("topics", ("topic", "records", "lag", "acknowledged/s"), topics))
        workers = [p for p in running if p.name.startswith("worker")]
        scrapes = [local.http_get(f"http://{process.LOOPBACK}:{p.ports[0]}/metrics") or "" for p in workers]
        fresh = system.freshness_s(scrapes, (0.5, 0.99))
        stages = [(stage, f"≤ {p50:g} s", f"≤ {p99:g} s") for stage, (p50, p99) in sorted(fresh.items())]
        console.print(_table("produced → servable", ("stage", "p50", "p99"), stages))
        letters = system.dead_letters_by_reason(settings)
        buried = [(stage, reason, count) for (stage, reason), count in letters.most_common()]
        console.print(_table("dead letters", ("stage", "reason", "count"), buried or [("none", "", 0)]))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def feast(context: typer.Context) -> None:
    """Run Feast's own command line on our repository, in the profile that the settings name."""
    import os
    import sys

    from features.repository import FOLDER, feast_variables, profile_file

    settings = _settings()
    command = [
        sys.executable,
        "-m",
        "feast.cli.cli",
        "-c",
        str(FOLDER),
        "-f",
        str(profile_file(settings)),
        *context.args,
    ]
    os.execve(sys.executable, command, {**os.environ, **feast_variables(settings)})  # noqa: S606  a fixed program


def _settings() -> "Settings":
    from reaseq.settings import Settings

    return Settings()


def _production() -> "Settings":
    """The settings for the system on Kafka: the store is Redis whatever the default says."""
    settings = _settings()
    settings.store.profile = "production"
    return settings


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(str, row))
    return table


@contextmanager
def _clear_errors() -> Iterator[None]:
    """An error that was raised on purpose is one line to read and an exit status, not a traceback."""
    from reaseq.errors import ReaSeqError

    try:
        yield
    except ReaSeqError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        raise typer.Exit(1) from error

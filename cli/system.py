"""Commands that run the system: demo, services, workers, ranking service, sample replay and status."""

from pathlib import Path
from typing import Annotated

import typer

from cli.terminal import (
    build_table,
    exit_on_error,
    load_production_settings,
    load_settings,
    open_console,
    open_progress,
    show_status,
)
from reaseq.plain_text import plain

app = typer.Typer()

Quick = Annotated[bool, typer.Option("--quick", help="Run on a small part of the sample, in under a minute.")]
Name = Annotated[str, typer.Option(help="Name of the worker in logs and on disk.")]
Workers = Annotated[int, typer.Option(min=1, help="Number of stream workers.")]
Role = Annotated[str, typer.Option(help="Stages to run: `all`, `stream` (all but reasoning) or `reasoning`.")]
Vllm = Annotated[
    str, typer.Option(metavar="MODEL", help="Also serve this model with vLLM: a directory, a hub name, or `tiny`.")
]
Speed = Annotated[float, typer.Option(min=0, help="Seconds of event time per second; 0 is unlimited.")]
Days = Annotated[int, typer.Option(min=1, help="Replay the last days of the sample.")]
QUANTILES = (0.5, 0.99)


@app.command()
def demo(quick: Quick = False, out: Annotated[Path, typer.Option(help="Directory of the report.")] = Path("out/demo")) -> None:
    """Run the whole system on the bundled sample, without services: backfill, train, replay, report."""
    from demo.main import run_demo

    with exit_on_error():
        run_demo(quick, out, open_console())


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="File to write.", dir_okay=False)] = Path("declaration.py"),
) -> None:
    """Write a commented example of a declaration: the features of your own that the ranker reads."""
    from importlib.resources import files

    example = (files("reaseq.declaration") / "example.py").read_text()
    try:
        with file.open("x") as opened:
            opened.write(example)
    except FileExistsError:
        typer.secho(f"error: {plain(file)} exists; name another file", fg="red", err=True)
        raise typer.Exit(1) from None
    except OSError as error:
        typer.secho(f"error: {plain(file)} cannot be written: {error.strerror}", fg="red", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"wrote {plain(file)}: edit it, then export REASEQ_DECLARATION_FILE={plain(file.resolve())}")


@app.command()
def up(workers: Workers = 2, vllm: Vllm = "") -> None:
    """Start local brokers, Redis, stream workers and the ranking service; with --vllm, a language model as well.

    Without a model, knowledge comes from the sample's recorded answers, and from cheaper reasoners for items that have none.
    With a model, a separate worker calls it, so that a slow model does not delay the other stages. The ranking service starts
    only if a ranker is published.
    """

    from infra import local

    settings, console = load_production_settings(), open_console()
    with exit_on_error():
        with show_status("starting the brokers and Redis"):
            local.start_services(settings)
        setup()
        if vllm:
            with show_status("starting vLLM (the first start installs its environment)"):
                local.start_model(settings, vllm)
        with show_status("starting workers and the ranking service"):
            ranks = local.start_applications(settings, workers, reasoner=bool(vllm))
    service = (
        f"console at {settings.service.url}" if ranks else "no ranking service: publish a ranker with `reaseq train ranker`"
    )
    console.print(f"up: {service}; logs in {settings.run_dir}")


@app.command()
def down() -> None:
    """Stop everything that `up` started. Data and models are kept."""
    from infra import local

    with exit_on_error():
        stopped = local.stop_all(load_production_settings())
    typer.echo(f"stopped: {', '.join(stopped) or 'nothing was running'}")


@app.command()
def setup() -> None:
    """Create missing topics, apply the Feast repository, and rebuild what is new or was emptied of the online store."""
    from cli.features import fill_store
    from features.repository import FeatureRepository
    from streams.runtime.kafka.admin import create_topics

    settings = load_production_settings()
    with exit_on_error():
        store = FeatureRepository(settings)
        store.apply()
        created = create_topics(settings.kafka)  # after the Feast repository: workers start once there are topics
        typer.echo(f"topics created: {', '.join(created) or 'none, all exist'}; Feast repository applied")
        if incomplete := store.find_incomplete():
            fill_store(settings, store, shards=incomplete)


@app.command()
def worker(name: Name = "worker", role: Role = "all") -> None:
    """Run a stream worker in the foreground."""
    from reaseq.logs import configure_logs
    from streams.runtime.roles import parse_role
    from streams.worker import run_worker

    configure_logs(name)
    with exit_on_error():
        run_worker(load_production_settings(), name, parse_role(role))


@app.command()
def serve() -> None:
    """Run the ranking service in the foreground."""
    from reaseq.logs import configure_logs
    from serving.console.routes import add_console
    from serving.service import run_service

    configure_logs("ranker")
    with exit_on_error():
        run_service(load_production_settings(), add_console)


@app.command()
def replay(speed: Speed = 0.0, days: Days = 400) -> None:
    """Produce the bundled sample to the topics: items and events in order of event time."""
    from demo.replay import replay_sample

    with exit_on_error(), open_progress() as progress:
        task = progress.add_task("replay", total=None)
        earlier, later = replay_sample(
            load_production_settings().kafka,
            days,
            speed,
            lambda produced, total: progress.update(task, completed=produced, total=total),
        )
    typer.echo(f"produced {earlier} earlier items, then {later} items and events")


@app.command("smoke")
def smoke_check(
    url: Annotated[str, typer.Option(help="URL of the ranking service; by default, the one in the settings.")] = "",
    timeout_s: Annotated[float, typer.Option(min=1, help="Time limit of each step, in seconds.")] = 60.0,
) -> None:
    """Check a running system end to end: send a test item and a test event, then rank with them."""
    from serving.smoke import smoke

    settings = load_production_settings()
    with exit_on_error():
        for step, seconds in smoke(settings, url or settings.service.url, timeout_s):
            typer.echo(f"{step}: {seconds:.2f} s")


@app.command()
def forget(user: Annotated[str, typer.Argument(metavar="USER")]) -> None:
    """Erase a user: history, inferred behaviors, archived rows and dead letters, up to now."""
    from streams.operations.erasure import request_erasure

    with exit_on_error():
        request_erasure(load_production_settings().kafka, user)
    typer.echo(f"erasure of user {plain(user)} requested; events up to now no longer have any effect")


@app.command()
def status(
    wait: Annotated[bool, typer.Option("--wait", help="First wait until all lag is 0.")] = False,
) -> None:
    """Show running processes, lag, throughput, freshness and dead letters."""

    from infra import local, process
    from streams.operations.dead_letter_queue import DeadLetterQueue
    from streams.operations.status import freshness_s, topics_status, wait_until_idle

    settings, console = load_production_settings(), open_console()
    running = process.running(settings.run_dir)
    console.print(build_table("processes", ("process", "pid", "port"), [(p.name, p.pid, *p.ports[:1]) for p in running]))
    with exit_on_error():
        if wait:
            with show_status("waiting until all lag is 0"):
                wait_until_idle(settings)
        topics = [(t.name, t.group, t.records, t.lag, t.acknowledged_per_s) for t in topics_status(settings)]
        console.print(build_table("topics", ("topic", "group", "records", "lag", "acknowledged/s"), topics))
        fresh = freshness_s(local.scrape_workers(running), QUANTILES)
        stages = [(stage, f"≤ {p50:g} s", f"≤ {p99:g} s") for stage, (p50, p99) in sorted(fresh.items())]
        console.print(build_table("freshness: produced to servable", ("stage", "p50", "p99"), stages))
        counts = DeadLetterQueue(settings.kafka, settings.guard.quarantine_attempts).counts()
        dead_letters = [(stage, reason, count) for (stage, reason), count in counts.most_common()]
        console.print(build_table("dead letters", ("stage", "reason", "count"), dead_letters or [("none", "", 0)]))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def feast(context: typer.Context) -> None:
    """Run Feast's command line on this project's repository, in the configured profile."""
    import os
    import sys

    from features.repository import FOLDER, feast_variables, profile_file

    settings = load_settings()
    feast_cli = [sys.executable, "-m", "feast.cli.cli", "-c", str(FOLDER), "-f", str(profile_file(settings))]
    environment = {**os.environ, **feast_variables(settings)}
    os.execve(sys.executable, [*feast_cli, *context.args], environment)  # noqa: S606  a fixed program

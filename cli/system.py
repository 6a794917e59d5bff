"""Commands that run the system: demo, up and down, workers, the service, replay and status."""

from pathlib import Path
from typing import Annotated

import typer

from cli.terminal import clear_errors, present_settings, production_settings, table_of

app = typer.Typer()

Quick = Annotated[bool, typer.Option("--quick", help="A small part of the sample, in under a minute.")]
Name = Annotated[str, typer.Option(help="Names the worker in logs and on disk.")]
Workers = Annotated[int, typer.Option(min=1, help="Stream workers to start.")]
Role = Annotated[str, typer.Option(help="all stages, or only `stream` (all but reasoning) or only `reasoning`.")]
Vllm = Annotated[str, typer.Option(metavar="MODEL", help="Also serve this model with vLLM: a folder, a name, or `tiny`.")]
Speed = Annotated[float, typer.Option(min=0, help="Seconds of event time in one second; 0: as fast as it goes.")]
Days = Annotated[int, typer.Option(min=1, help="The last days of the sample to replay.")]


@app.command()
def demo(quick: Quick = False, out: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("out/demo")) -> None:
    """Run the whole system on the bundled sample, embedded: backfill, train, live replay, report."""
    from demo.main import run_demo

    run_demo(quick, out)


@app.command()
def up(workers: Workers = 2, vllm: Vllm = "") -> None:
    """Start a local broker, Redis, stream workers and the ranking service; with --vllm, a language model as well.

    Without a model, items are reasoned about from the sample's recorded answers, and by the cheaper reasoners where there
    is none. With one, a worker of its own asks it, so that a slow model holds up nothing else. Before a ranker is published
    there is no ranking service yet.
    """
    from rich.console import Console

    from demo import ANSWERS, VOCABULARY
    from infra import local
    from reaseq.artifacts import is_published

    settings = production_settings()
    console = Console()
    with clear_errors():
        ranks = is_published(settings.models_dir, "ranker")
        with console.status("starting the broker and Redis"):
            local.start_services(settings)
            setup()
        if vllm:
            with console.status("starting vLLM (the first time, its environment is installed)"):
                local.start_model(settings, vllm)
        elif settings.knowledge.vocabulary == VOCABULARY:
            settings.knowledge.recorded_file = settings.knowledge.recorded_file or ANSWERS
        role = "stream" if vllm else "all"
        with console.status("starting workers and the ranking service"):
            started = [local.start_worker(settings, f"worker-{number}", role) for number in range(1, workers + 1)]
            started += [local.start_worker(settings, "reasoner", "reasoning")] if vllm else []
            started += [local.start_ranker(settings, started)] if ranks else []
            for process in started:
                local.wait_ready(process)
    service = (
        f"console on {settings.service.url}"
        if ranks
        else "no ranking service, since no ranker is published (reaseq train ranker)"
    )
    console.print(f"up: {service}, logs in {settings.run_dir}")


@app.command()
def down() -> None:
    """Stop everything that `up` started; data and models stay."""
    from infra import local

    with clear_errors():
        stopped = local.stop_all(production_settings())
    typer.echo(f"stopped: {', '.join(stopped) or 'nothing was running'}")


@app.command()
def setup() -> None:
    """Create the topics, apply the Feast repository, and fill the online store where it does not hold what the topics do."""
    from cli.features import filled
    from features.repository import FeatureRepository
    from streams.runtime.kafka_clients import create_topics

    settings = production_settings()
    with clear_errors():
        created = create_topics(settings.kafka)
        store = FeatureRepository(settings)
        store.apply()
        typer.echo(f"topics created: {', '.join(created) or 'none, all are there'}; Feast repository applied")
        if not store.is_complete():
            filled(settings, store, float("inf"))


@app.command()
def worker(name: Name = "worker", role: Role = "all") -> None:
    """Run one stream worker in the foreground."""
    from reaseq.logs import configure_logs
    from streams.runtime.kafka_clients import parse_role
    from streams.worker import run_worker

    configure_logs(name)
    with clear_errors():
        run_worker(production_settings(), name, parse_role(role))


@app.command()
def serve() -> None:
    """Run the ranking service in the foreground."""
    from reaseq.logs import configure_logs
    from serving.console.routes import add_console
    from serving.service import run_service

    configure_logs("ranker")
    with clear_errors():
        run_service(production_settings(), add_console)


@app.command()
def replay(speed: Speed = 0.0, days: Days = 400) -> None:
    """Produce the bundled sample to the topics, items and events in order of event time."""
    from rich.progress import Progress

    from demo import ORDER_LINES
    from evaluation.datasets.online_retail import read_retail
    from streams.operations.replay import replay as replay_records
    from streams.runtime.kafka_clients import Producer

    settings = production_settings()
    retail = read_retail(ORDER_LINES)
    events = [event for order in retail.orders for event in order.events]
    since_ms = events[-1].event_time_ms - days * 24 * 3600 * 1000
    events = [event for event in events if event.event_time_ms >= since_ms]
    with clear_errors(), Progress() as progress:
        # What was listed before the days to replay is the catalog that they start from.
        task = progress.add_task("replay", total=len(retail.items) + len(events))
        producer = Producer(settings.kafka)
        catalog = [item for item in retail.items if item.event_time_ms < since_ms]
        listed = [item for item in retail.items if item.event_time_ms >= since_ms]
        replay_records(producer, catalog, [], 0, lambda count: progress.advance(task, count))
        produced = replay_records(producer, listed, events, speed, lambda count: progress.advance(task, count))
        producer.close()
    typer.echo(f"produced {len(catalog)} items of the catalog, then {produced} items and events")


@app.command("smoke")
def smoke_check(
    url: Annotated[str, typer.Option(help="The ranking service; without it, the one of the settings.")] = "",
    timeout_s: Annotated[float, typer.Option(min=1, help="Seconds that each step may take.")] = 60.0,
) -> None:
    """Check the running system: an item and an event of the check's own, from the topics to a ranking."""
    from serving.smoke import smoke

    settings = production_settings()
    with clear_errors():
        for done, seconds in smoke(settings, url or settings.service.url, timeout_s):
            typer.echo(f"{done}: {seconds:.2f} s")


@app.command()
def forget(user: Annotated[str, typer.Argument(metavar="USER")]) -> None:
    """Forget a user: history, inferred behaviors, archived rows and dead letters, up to this moment."""
    import time

    from streams.contract.messages import RawRecord
    from streams.contract.topics import EVENTS
    from streams.runtime.kafka_clients import Producer

    with clear_errors():
        producer = Producer(production_settings().kafka)
        producer.send_raw([RawRecord(EVENTS.name, user.encode(), None, int(time.time() * 1000))])
        producer.close()
    typer.echo(f"user {user} is being forgotten; events from before this moment change nothing any more")


@app.command()
def status(
    wait: Annotated[bool, typer.Option("--wait", help="Wait until nothing is behind.")] = False,
) -> None:
    """Show what runs, lag, rates, freshness and dead letters."""
    from rich.console import Console

    from infra import process
    from streams.operations import status as system
    from streams.operations.dead_letter_queue import DeadLetterQueue

    settings = production_settings()
    console = Console()
    running = process.running(settings.run_dir)
    console.print(table_of("running", ("process", "pid", "port"), [(p.name, p.pid, *p.ports[:1]) for p in running]))
    with clear_errors():
        if wait:
            with console.status("waiting until nothing is behind"):
                system.wait_until_idle(settings)
        topics = [(t.name, t.group, t.held, t.lag, t.acknowledged_per_s) for t in system.topics_status(settings)]
        console.print(table_of("topics", ("topic", "group", "records", "lag", "acknowledged/s"), topics))
        workers = [p for p in running if p.name.startswith(("worker", "reasoner"))]
        scrapes = [process.http_get(f"http://{process.LOOPBACK}:{p.ports[0]}/metrics") or "" for p in workers]
        fresh = system.freshness_s(scrapes, (0.5, 0.99))
        stages = [(stage, f"≤ {p50:g} s", f"≤ {p99:g} s") for stage, (p50, p99) in sorted(fresh.items())]
        console.print(table_of("produced → servable", ("stage", "p50", "p99"), stages))
        letters = DeadLetterQueue(settings.kafka, settings.guard.quarantine_attempts).counts()
        buried = [(stage, reason, count) for (stage, reason), count in letters.most_common()]
        console.print(table_of("dead letters", ("stage", "reason", "count"), buried or [("none", "", 0)]))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def feast(context: typer.Context) -> None:
    """Run Feast's own command line on our repository, in the profile that the settings name."""
    import os
    import sys

    from features.repository import FOLDER, feast_variables, profile_file

    settings = present_settings()
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

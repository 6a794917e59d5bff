"""The Faust runtime commits what its stages have handled and nothing else, also when its partitions are handed over.

Runs a worker's application without a broker: the test fetches records, rebalances the group, and keeps the committed offsets.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from faust.types import TP

from features.sharding import shard_of
from reaseq.errors import StoreUnavailable
from reaseq.settings import Settings
from streams.delivery.messages import Message
from streams.delivery.stage import BatchPolicy, Effects
from streams.runtime import faust_runtime
from streams.runtime.faust_runtime import EXIT_UNDELIVERED, build_app, build_worker
from tests.fakes.delivery import CountEvents, Journal, build_delivery, event_record

HERE, ELSEWHERE = TP("events", 0), TP("events", 1)


class Exit(BaseException):
    """The process would have ended here."""


class GatedStage(CountEvents):
    """Handles one record at a time, and each only once the gate is open."""

    batch = BatchPolicy(limit_records=1, wait_s=0)

    def __init__(self, name: str = "count") -> None:
        super().__init__()
        self.name = name
        self.gate = asyncio.Event()
        self.started: list[str] = []
        self.handled: list[str] = []

    async def process(self, batch: Sequence[Message]) -> Effects:
        self.started += [message.body.event_id for message in batch]
        await self.gate.wait()
        self.handled += [message.body.event_id for message in batch]
        return await super().process(batch)


class ClosingJournal(Journal):
    """A journal that is also told when it is closed."""

    async def close(self) -> None:
        self.steps.append("close")


class Worker:
    """A running application, and what Faust and the brokers do to it. It is its own fake consumer."""

    def __init__(
        self, folder: Path, *stages: CountEvents, drain_s: float = 60.0, produce_fails: bool = False, shards: int = 1
    ) -> None:
        settings = Settings()
        settings.worker.drain_s = drain_s
        self.journal = ClosingJournal(produce_fails)
        deliveries = [build_delivery(stage, self.journal) for stage in stages]
        self._app = build_app(settings, "group", deliveries, self.journal, folder, shards)  # type: ignore[arg-type]
        self._app.consumer = self
        self.receiver = self._app.transport.Consumer.receiver
        self.committed: dict[TP, int] = {}
        self.refused_commits = 0  # how many of the next commits the brokers refuse

    async def start(self) -> "Worker":
        """Start the tasks of the stages, and the commits."""
        await self._app.on_started_init_extra_tasks()
        return self

    def fetch(self, *event_ids: str, partition: TP = HERE, offset: int = 0) -> None:
        """Pass events to the stages, with consecutive offsets. Each has a user of its own."""
        records = [event_record(event_id, f"user of {event_id}") for event_id in event_ids]
        fetched = [r._replace(partition=partition[1], offset=offset + n) for n, r in enumerate(records)]
        self.receiver.put({partition: fetched}, {partition: offset + len(fetched)})

    async def revoke(self) -> None:
        """The group rebalances: all partitions are taken away."""
        await self._app.on_partitions_revoked.send({HERE})

    async def shut_down(self) -> None:
        """The worker is told to stop."""
        await self._app.on_before_shutdown.send()

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        if self.refused_commits:
            self.refused_commits -= 1
            return False
        self.committed |= offsets
        return True


@pytest.fixture(autouse=True)
def frequent_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faust_runtime, "COMMIT_INTERVAL_S", 0.01)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


async def some_turns_of_the_loop() -> None:
    """Long enough for a batch to be handled that should not be."""
    for _ in range(200):
        await asyncio.sleep(0)


async def test_undelivered_batch_ends_the_worker_and_is_not_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exits: list[int] = []

    def exit_process(code: int) -> None:
        exits.append(code)
        raise Exit

    monkeypatch.setattr(os, "_exit", exit_process)
    worker = await Worker(tmp_path, CountEvents(), produce_fails=True).start()

    worker.fetch("a")
    await until(lambda: bool(exits))
    await worker.revoke()

    assert exits == [EXIT_UNDELIVERED] and EXIT_UNDELIVERED != 0
    assert worker.committed == {}


def test_fresh_state_folder_gets_the_folders_that_faust_needs(tmp_path: Path) -> None:
    Worker(tmp_path / "run" / "faust-worker-1", CountEvents())

    assert (tmp_path / "run" / "faust-worker-1").is_dir()


async def test_refused_commit_is_repeated(tmp_path: Path) -> None:
    worker = Worker(tmp_path, CountEvents())
    worker.refused_commits = 2
    await worker.start()

    worker.fetch("a", "b")

    await until(lambda: worker.committed == {HERE: 2})


async def test_slower_of_two_stages_of_a_topic_holds_back_fetching_and_commits(tmp_path: Path) -> None:
    slow, fast = GatedStage("slow"), GatedStage("fast")
    fast.gate.set()
    worker = await Worker(tmp_path, slow, fast, drain_s=0).start()
    worker.fetch("a", "b", "c")
    await until(lambda: fast.handled == ["a", "b", "c"])
    assert not worker.receiver.has_room("events")
    await worker.revoke()
    assert worker.committed == {}

    slow.gate.set()
    worker.fetch("a", "b", "c")

    await until(lambda: worker.committed == {HERE: 3})
    assert slow.handled == ["a", "b", "c"] and worker.receiver.has_room("events")


async def test_hand_over_waits_for_running_batches_and_commits_them(tmp_path: Path) -> None:
    stage = GatedStage()
    worker = await Worker(tmp_path, stage).start()
    worker.fetch("a")
    await until(lambda: stage.started == ["a"])

    revoking = asyncio.create_task(worker.revoke())
    await some_turns_of_the_loop()
    assert worker.committed == {} and not revoking.done()
    stage.gate.set()
    await revoking

    assert worker.committed == {HERE: 1}


async def test_hand_over_drops_what_has_not_started(tmp_path: Path) -> None:
    stage = GatedStage()
    worker = await Worker(tmp_path, stage, drain_s=0).start()
    worker.fetch("running", "waiting", "buffered", "buffered too")
    await until(lambda: stage.started == ["running"])

    await worker.revoke()
    stage.gate.set()
    worker.fetch("new", partition=ELSEWHERE, offset=7)
    await until(lambda: worker.committed.get(ELSEWHERE) == 8)

    assert stage.handled == ["new"]
    assert worker.committed == {ELSEWHERE: 8}


async def test_batch_cancelled_in_a_hand_over_is_handled_and_committed_when_it_comes_again(tmp_path: Path) -> None:
    stage = GatedStage()
    worker = await Worker(tmp_path, stage, drain_s=0).start()
    worker.fetch("a", "b")
    await until(lambda: stage.started == ["a"])
    await worker.revoke()
    stage.gate.set()

    worker.fetch("a", "b")

    await until(lambda: worker.committed == {HERE: 2})
    assert stage.handled == ["a", "b"]


async def test_worker_that_stops_handles_what_runs_then_closes_its_producer_and_takes_no_more(tmp_path: Path) -> None:
    stage = GatedStage()
    worker = await Worker(tmp_path, stage).start()
    worker.fetch("a")
    await until(lambda: stage.started == ["a"])

    stopping = asyncio.create_task(worker.shut_down())
    await some_turns_of_the_loop()
    stage.gate.set()
    await stopping
    worker.fetch("b", offset=1)
    await some_turns_of_the_loop()

    assert worker.journal.steps == ["produce", "write", "close"]
    assert worker.committed == {HERE: 1}
    assert stage.started == ["a"]


def test_worker_writes_no_cursor_codes_among_the_logs() -> None:
    code = f"import faust; from {build_worker.__module__} import *; build_worker(faust.App('silent'))._on_startup_end_spinner()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout + done.stderr == ""


class OneShardAway(CountEvents):
    """Reads a store of three shards, one of which does not answer until it is back."""

    def __init__(self) -> None:
        super().__init__()
        self.batch = BatchPolicy(limit_records=4, wait_s=0)
        self.away = True
        self.handled: list[str] = []

    async def process(self, batch: Sequence[Message]) -> Effects:
        if self.away and any(shard_of(message.key.encode(), 3) == 0 for message in batch):
            raise StoreUnavailable("connection refused")
        self.handled += [message.body.event_id for message in batch]
        return await super().process(batch)


async def test_shard_that_is_away_holds_up_its_own_records_and_the_commit(tmp_path: Path) -> None:
    stage = OneShardAway()
    worker = await Worker(tmp_path, stage, shards=3).start()
    events = [f"e{number}" for number in range(40)]
    waiting = [event for event in events if shard_of(f"user of {event}".encode(), 3) == 0]
    others = [event for event in events if event not in waiting]

    for start in range(0, len(events), 10):
        worker.fetch(*events[start : start + 10], offset=start)
    await until(lambda: set(stage.handled) == set(others))
    await asyncio.sleep(0.1)
    assert worker.committed.get(HERE, 0) <= events.index(waiting[0])

    stage.away = False
    await until(lambda: worker.committed.get(HERE) == len(events))
    assert sorted(stage.handled) == sorted(events)

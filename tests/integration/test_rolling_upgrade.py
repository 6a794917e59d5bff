"""Workers of two releases share a group on a real broker and Redis, in an upgrade and in a rollback.

The newer release is this one, with a higher row format and one more column in the packed inferred behaviors.
"""

import sys
import time
from collections.abc import Callable

import pytest

from features.definitions import user_inferred
from features.repository import FeatureRepository
from features.row_format import read_version
from infra import local, process
from reaseq.errors import NewerRowFormat
from reaseq.records import Event
from reaseq.settings import Settings
from streams.operations.dead_letter_queue import DeadLetterQueue
from streams.operations.rebuild import rebuild
from streams.runtime.kafka.producer import Producer
from tests.newer_release import NEWER_FORMAT
from tests.probe import readiness

pytestmark = pytest.mark.integration

USERS = [f"u{number}" for number in range(40)]
DEADLINE_S = 180.0
NEWER_WORKER = """
import sys
import features
from cli import app
from tests.newer_release import become_newer_release
become_newer_release()
app(["worker", "--name", sys.argv[1], "--role", "stream"])
"""


def wait_for(is_done: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_done():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def start_newer_worker(settings: Settings, name: str) -> process.Process:
    port = process.free_port()
    env = local.environment(settings) | {"REASEQ_WORKER__METRICS_PORT": str(port)}
    return process.start(settings.run_dir, name, [sys.executable, "-c", NEWER_WORKER, name], env=env, ports=(port,))


class Shop:
    """The system, seen from its topics and its store."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = FeatureRepository(settings)
        self.sent = 0

    def send_events(self) -> None:
        """One event of each user."""
        self.sent += 1
        producer = Producer(self.settings.kafka)
        now_ms = int(time.time() * 1000)
        producer.send(
            Event(event_id=f"e{self.sent}", user_id=user, item_id="i", type="view", event_time_ms=now_ms) for user in USERS
        )
        producer.close()

    def wait_for_all_events(self) -> None:
        wait_for(lambda: self.events() == dict.fromkeys(USERS, self.sent), f"{self.sent} events of each user")

    def events(self) -> dict[str, int]:
        """The length of each user's history."""
        return {user: len(features.history.item_ids) for user, features in self.store.read_users(USERS).items()}

    def newer_rows(self) -> dict[bytes, bytes]:
        """The rows of the newer release, by key."""
        rows = self.store.online.scan(self.store.config, user_inferred)
        return {key: row for key, row in rows if read_version(row).format == NEWER_FORMAT}


def test_older_worker_waits_for_the_upgrade_at_what_a_newer_one_wrote(services: Settings) -> None:
    services.worker.stall_s = 5.0
    rebuild(services, FeatureRepository(services))
    shop = Shop(services)
    older = local.start_worker(services, "worker-older", "stream")
    local.wait_ready(older)
    shop.send_events()
    shop.wait_for_all_events()

    # The upgrade begins: both releases share the partitions.
    local.wait_ready(start_newer_worker(services, "worker-newer-1"))

    def newer_release_has_partitions() -> bool:
        shop.send_events()
        shop.wait_for_all_events()
        return bool(shop.newer_rows())

    wait_for(newer_release_has_partitions, "partitions of the newer worker")

    # It is rolled back: the older worker gets all partitions, and waits at the rows that it would damage.
    process.stop(services.run_dir, "worker-newer-1")
    before, kept = shop.events(), shop.newer_rows()
    shop.send_events()
    wait_for(lambda: NewerRowFormat.reason in readiness(older), "the older worker to say what it waits for")
    wait_for(lambda: process.http_get(f"http://127.0.0.1:{older.ports[0]}/healthz"), "the older worker to stay alive")
    assert shop.newer_rows() == kept
    assert set(shop.events().values()) <= {shop.sent - 1, shop.sent} and min(shop.events().values()) == min(before.values())
    assert NewerRowFormat.reason in (services.run_dir / "worker-older.log").read_text()

    # The upgrade goes on.
    local.wait_ready(start_newer_worker(services, "worker-newer-2"))
    process.stop(services.run_dir, "worker-older")
    shop.wait_for_all_events()

    assert not DeadLetterQueue(services.kafka, services.guard.quarantine_attempts).counts()

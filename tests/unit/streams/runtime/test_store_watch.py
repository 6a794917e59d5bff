"""A worker is not ready while its store may evict rows, and does not start on one; it stays alive."""

from collections.abc import Iterable
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from reaseq.errors import ShardMapMismatch, StoreEvicts, StoreUnavailable
from reaseq.settings import HttpSettings
from streams.delivery import metrics
from streams.runtime.probe import serve_probe
from streams.runtime.store_watch import StoreWatch


class FakeStore:
    """A complete store of two shards, one of which raises `error` if it is asked whether it is complete."""

    shards = range(2)

    def __init__(self, error: Exception | None = None, shard: int = 0) -> None:
        self.error = error
        self.shard = shard

    def find_incomplete(self, shards: Iterable[int]) -> list[int]:
        if self.error and self.shard in shards:
            raise self.error
        return []

    def evicted_keys(self, shard: int) -> int:
        if isinstance(self.error, ShardMapMismatch) and shard == self.shard:
            raise self.error
        return 10 + shard


def status(url: str) -> tuple[int, str]:
    try:
        with urlopen(url) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_worker_is_not_ready_but_alive_while_its_store_may_evict_rows() -> None:
    store = FakeStore()
    watch = StoreWatch(store)
    url = f"http://127.0.0.1:{serve_probe('127.0.0.1', 0, HttpSettings(), watch.faults, lambda: None)}"
    watch.check()
    assert status(f"{url}/readyz") == (200, "ok\n")

    store.error = StoreEvicts("Redis would evict rows")
    watch.check()
    store.error = StoreUnavailable("timeout")  # says nothing about eviction
    watch.check()
    assert status(f"{url}/readyz") == (503, "Redis would evict rows\n")
    assert status(f"{url}/healthz") == (200, "ok\n")

    store.error = None
    watch.check()
    assert status(f"{url}/readyz") == (200, "ok\n")


def test_worker_starts_without_a_store_but_not_on_one_that_may_evict_rows() -> None:
    starting = FakeStore(StoreUnavailable("not started yet"))
    StoreWatch(starting).start()
    starting.error = None

    with pytest.raises(StoreEvicts):
        StoreWatch(FakeStore(StoreEvicts("Redis would evict rows"))).start()


@pytest.mark.parametrize(
    "error", [StoreEvicts("Redis would evict rows"), ShardMapMismatch("another store has replaced this one")]
)
def test_fault_of_any_shard_is_noticed_while_another_does_not_answer(error: StoreUnavailable) -> None:
    store = FakeStore(error, shard=1)
    with pytest.raises(type(error), match=str(error)):
        StoreWatch(store).start()

    watch = StoreWatch(store)
    watch.check()
    store.error, store.shard = StoreUnavailable("connection refused"), 0
    watch.check()
    assert watch.faults() == [], "the second shard is right again"
    assert metrics.STORE_EVICTED_KEYS.labels(2)._value.get() == 11

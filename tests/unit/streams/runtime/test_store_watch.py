"""A worker is not ready while its store may evict rows, and does not start on one; it stays alive."""

from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from reaseq.errors import StoreEvicts, StoreUnavailable
from reaseq.settings import HttpSettings
from streams.runtime.probe import serve_probe
from streams.runtime.store_watch import StoreWatch


class FakeStore:
    """A complete store that raises `error` if it is asked about it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def is_complete(self) -> bool:
        if self.error:
            raise self.error
        return True

    def evicted_keys(self) -> int:
        return 0


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

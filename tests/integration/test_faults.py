"""A short version of the fault suite (`make faults`): faults of workers, Redis and records under load on the real system."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.faults.record_faults import undecodable_records
from tests.faults.redis_faults import redis_emptied, redis_evicting, redis_full, redis_restart
from tests.faults.system import FaultySystem
from tests.faults.worker_faults import kills, zombie

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultySystem]:
    started = FaultySystem(tmp_path_factory.mktemp("faults"), seed=1)
    try:
        for _ in range(2):
            started.start_worker()
        started.wait_ready()
        yield started
    finally:
        started.close()


@pytest.mark.parametrize(
    "fault",
    [
        partial(kills, times=4),
        redis_restart,
        redis_emptied,
        redis_full,
        redis_evicting,
        partial(zombie, times=1),
        partial(undecodable_records, times=2),
    ],
    ids=["SIGKILL", "Redis restarted", "Redis emptied", "Redis full", "Redis evicting", "zombie", "undecodable"],
)
def test_store_and_dead_letters_equal_the_reference_after_a_fault(
    system: FaultySystem, fault: Callable[[FaultySystem], int]
) -> None:
    outcome = system.run_under_fault("", fault)

    assert outcome.clean and outcome.records > 100, outcome

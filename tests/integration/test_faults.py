"""A short version of the fault suite (`make faults`): worker, Redis and zombie faults under load on the real system."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.faults import faults
from tests.faults.system import FaultySystem

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
        partial(faults.kills, times=4),
        faults.redis_restart,
        faults.redis_emptied,
        faults.redis_full,
        faults.redis_evicting,
        partial(faults.zombie, times=1),
    ],
    ids=["SIGKILL", "Redis restarted", "Redis emptied", "Redis full", "Redis evicting", "zombie"],
)
def test_store_and_dead_letters_equal_the_reference_after_a_fault(
    system: FaultySystem, fault: Callable[[FaultySystem], int]
) -> None:
    outcome = system.run_under_fault("", fault)

    assert outcome.clean and outcome.records > 100, outcome

"""The short version of the fault suite (`make faults`): workers, Redis and a zombie, each under load on the real system."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.faults import faults
from tests.faults.system import FaultySystem

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultySystem]:
    found = FaultySystem(tmp_path_factory.mktemp("faults"), seed=1)
    try:
        for _ in range(2):
            found.start_worker()
        found.wait_ready()
        yield found
    finally:
        found.close()


@pytest.mark.parametrize(
    "fault",
    [
        partial(faults.kills, times=4),
        faults.redis_restart,
        faults.redis_emptied,
        faults.redis_full,
        partial(faults.zombie, times=1),
    ],
    ids=["SIGKILL", "Redis restarted", "Redis emptied", "Redis full", "zombie"],
)
def test_the_store_and_the_letters_are_what_they_would_have_been(
    system: FaultySystem, fault: Callable[[FaultySystem], int]
) -> None:
    outcome = system.under("", fault)

    assert outcome.clean and outcome.records > 100, outcome

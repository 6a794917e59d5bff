"""Back-off: waits double up to a limit, with or without jitter."""

import random

import pytest

from reaseq.backoff import Backoff


class FixedRandom(random.Random):
    """Always draws the same number."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self._number = number

    def random(self) -> float:
        return self._number


def test_waits_double_up_to_the_limit() -> None:
    backoff = Backoff(first_s=0.1, limit_s=5.0)

    assert [backoff.wait_s(attempt) for attempt in range(8)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
    assert backoff.wait_s(1_000_000) == 5.0


@pytest.mark.parametrize(("number", "waits_s"), [(0.0, [0.5, 1.0, 2.0, 2.5]), (1.0, [1.0, 2.0, 4.0, 5.0])])
def test_jitter_draws_from_the_upper_half_of_a_wait(number: float, waits_s: list[float]) -> None:
    backoff, jitter = Backoff(first_s=1.0, limit_s=5.0), FixedRandom(number)

    assert [backoff.wait_s(attempt, jitter) for attempt in range(4)] == waits_s

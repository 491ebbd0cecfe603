"""What follows from an engine's speed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpft_deploy.screen.streams.decoding import BATCH_SECONDS, Pace


def paced(seconds: float, batch: int = 8, max_age: float = 2.0) -> Pace:
    pace = Pace(batch, max_age)
    pace.judging = seconds
    return pace


def test_nothing_is_known_before_the_first_batch() -> None:
    pace = Pace(8, 2.0)
    assert (pace.batch, pace.oldest) == (8, 2.0)


@pytest.mark.parametrize(("seconds", "batch"), [(0.001, 8), (0.05, 5), (0.1, 3), (0.2, 2), (9, 1)])
def test_a_full_batch_takes_a_quarter_second(seconds: float, batch: int) -> None:
    assert paced(seconds).batch == batch


def test_as_many_are_decoded_ahead_as_are_judged_meanwhile() -> None:
    pace = paced(0.05)
    pace.decoding = 0.21
    assert pace.ahead == pace.batch + 5


@given(st.floats(1e-4, 100), st.integers(1, 64), st.floats(0.01, 60))
def test_a_verdict_is_in_time_or_the_engine_is_too_slow_for_that(
    seconds: float, batch: int, max_age: float
) -> None:
    pace = paced(seconds, batch, max_age)
    assert 1 <= pace.batch <= batch
    assert (pace.batch - 1) * seconds < BATCH_SECONDS
    assert max_age / 2 <= pace.oldest < max_age
    if pace.oldest > max_age / 2:
        assert pace.oldest + pace.batch * seconds == pytest.approx(max_age)

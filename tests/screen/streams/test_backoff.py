"""Waits between attempts."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from mpft_deploy.screen.streams.backoff import Backoff


@given(
    first=st.floats(0.1, 10),
    longest=st.floats(10, 100),
    jitter=st.floats(0, 0.5),
    seed=st.integers(0, 9),
)
def test_back_off_doubles_to_its_longest(
    first: float, longest: float, jitter: float, seed: int
) -> None:
    backoff = Backoff(first, longest, jitter, random.Random(seed))
    for failures in range(1000):
        full = min(longest, first * 2 ** min(failures, 30))
        assert full * (1 - jitter) <= backoff.next() <= full
    backoff.reset()
    assert backoff.next() <= first

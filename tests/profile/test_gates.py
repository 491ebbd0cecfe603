"""Objectives and comparisons: right on engines of known distribution, undecided where they must."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st

from mpft_deploy.errors import UsageError
from mpft_deploy.profile.compare import Limit, judge_change
from mpft_deploy.profile.slo import Objective, judge


def exponential(seed: int, count: int) -> np.ndarray:
    """Mean 1 ms, so that the p99 is ln(100) = 4.605 ms."""
    return np.random.default_rng(seed).exponential(1.0, count)


def test_objective_with_enough_samples_is_right() -> None:
    keeps = [judge(Objective.parse("p99<=5.6ms"), exponential(s, 5000)).verdict for s in range(20)]
    breaks = [judge(Objective.parse("p99<=3.9ms"), exponential(s, 5000)).verdict for s in range(20)]
    assert keeps.count("pass") == 20
    assert breaks.count("fail") == 20


def test_objective_at_its_limit_is_seldom_decided_wrongly() -> None:
    at = Objective.parse("p99<=4.605ms")
    verdicts = [judge(at, exponential(seed, 2000)).verdict for seed in range(200)]
    assert verdicts.count("pass") <= 20
    assert verdicts.count("fail") <= 20


def test_too_few_samples_are_undecided_with_how_many_more() -> None:
    gate = judge(Objective.parse("p99<=15ms"), exponential(0, 100))
    assert gate.verdict == "undecided"
    assert gate.more is not None
    assert "more decide" in gate.reason
    assert judge(Objective.parse("p99<=15ms"), exponential(0, 100 + gate.more)).verdict == "pass"
    assert judge(Objective.parse("p99<=15ms"), exponential(0, 99 + 199)).verdict == "undecided"


def test_slow_queries_in_a_burst_count_as_few() -> None:
    times = np.ones(2000)
    times[500:540] = 20  # 2 % over the limit, in one burst
    scattered = np.ones(2000)
    scattered[::50] = 20
    assert judge(Objective.parse("p99<=15ms"), scattered).verdict == "fail"
    burst = judge(Objective.parse("p99<=15ms"), times)
    assert burst.verdict == "undecided"
    assert "count as" in burst.reason


@pytest.mark.parametrize(
    ("text", "percent", "limit"),
    [("p99<=15ms", 99, 15), ("P50 < 2 s", 50, 2000), ("p99.9<=500us", 99.9, 0.5)],
)
def test_objectives_are_read(text: str, percent: float, limit: float) -> None:
    assert Objective.parse(text) == Objective(percent, limit)


@given(st.text(max_size=12))
def test_other_objectives_are_usage_errors(text: str) -> None:
    for kind in (Objective, Limit):
        with contextlib.suppress(UsageError):
            assert 0 < kind.parse(text).percent < 100


@pytest.mark.parametrize("percent", ["0", f"0.{'0' * 20}1", "99.999", f"99.{'9' * 20}"])
def test_what_no_samples_bound_is_a_usage_error(percent: str) -> None:
    for kind, text in ((Objective, f"p{percent}<=1ms"), (Limit, f"p{percent}:5%")):
        with pytest.raises(UsageError, match="not understood"):
            kind.parse(text)


SAMPLES = 1000
"""Samples of a run; an engine of 10 ms then takes ten seconds."""


def test_an_engine_against_itself_passes_20_of_20() -> None:
    limit = Limit.parse("p50:5%")
    verdicts = [
        judge_change(
            limit,
            synthetic.realistic(seed, SAMPLES),
            synthetic.realistic(1000 + seed, SAMPLES),
        ).verdict
        for seed in range(20)
    ]
    assert verdicts.count("pass") == 20


def test_a_slowdown_of_5_percent_is_caught_19_of_20() -> None:
    limit = Limit.parse("p50:5%")
    verdicts = [
        judge_change(
            limit,
            synthetic.realistic(seed, SAMPLES),
            1.05 * synthetic.realistic(1000 + seed, SAMPLES),
        ).verdict
        for seed in range(20)
    ]
    assert verdicts.count("fail") >= 19


def test_a_faster_engine_passes() -> None:
    old, new = synthetic.realistic(0, 500), 0.7 * synthetic.realistic(1, 500)
    assert judge_change(Limit.parse("p50:5%"), old, new).verdict == "pass"


def test_noise_is_undecided_and_says_how_many_more() -> None:
    rng = np.random.default_rng(0)
    old, new = rng.lognormal(2, 0.5, 60), rng.lognormal(2, 0.5, 60)
    gate = judge_change(Limit.parse("p50:5%"), old, new)
    assert gate.verdict == "undecided"
    assert gate.more is not None
    assert gate.more > 500
    few = judge_change(Limit.parse("p99:5%"), synthetic.realistic(0, 100), new)
    assert few.verdict == "undecided"
    assert few.more == 239

"""The sequential test: its error rates by simulation, and a stream that goes on after it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpft_deploy.screen.streams.decision import (
    HEADROOM,
    SequentialTest,
    StreamDecision,
    movement,
    scene_distance,
)
from mpft_deploy.screen.streams.settings import DecisionSettings
from mpft_deploy.statistics import wilson_interval

SCORES = st.lists(st.integers(0, 10**6), min_size=9, max_size=9).map(
    lambda values: np.array(values, np.int32)
)


def first_verdicts(
    rng: np.random.Generator, generated: bool, separation: float, runs: int, weight: float = 1.0
) -> tuple[np.ndarray, float]:
    """First verdict of so many streams, and how many frames it took on average.

    Frames are independent and calibrated: logits of the two classes are normal, of variance twice
    their mean's distance from 0, so that each is its own log-likelihood ratio.
    """
    mean = separation / 2 if generated else -separation / 2
    verdicts, frames = [], 0
    for _ in range(runs):
        test = SequentialTest(0.05, 0.05)
        while test.verdict == "unsure":
            test.add(rng.normal(mean, separation**0.5), weight)
            frames += 1
        verdicts.append(test.verdict)
    return np.array(verdicts), frames / runs


@pytest.mark.parametrize("separation", [0.2, 1.0, 4.0])
def test_error_rates_hold_for_independent_calibrated_frames(separation: float) -> None:
    rng = np.random.default_rng(1)
    runs = 3000
    real, frames = first_verdicts(rng, False, separation, runs)
    generated, _ = first_verdicts(rng, True, separation, runs)
    # Wald: a / (1 - b) at most. The interval's lower end: what chance alone does not explain.
    for wrong in ((real == "generated").sum(), (generated == "real").sum()):
        assert wilson_interval(int(wrong), runs, 0.999)[0] <= 0.05 / 0.95
    # Nor are the rates bought with needless frames: the bound is nearly used up for small steps.
    if separation == 0.2:
        assert (real == "generated").mean() > 0.02
        assert frames < 60


def test_tempered_evidence_errs_less() -> None:
    runs = 2000
    real, slow = first_verdicts(np.random.default_rng(2), False, 0.5, runs, weight=0.3)
    _, fast = first_verdicts(np.random.default_rng(2), False, 0.5, runs)
    assert (real == "generated").mean() <= 0.02
    assert slow > 2 * fast


def test_correlated_frames_would_break_the_rates_without_tempering() -> None:
    """Every frame of a stream says the same: the error rate is that of one frame, not of many."""
    rng = np.random.default_rng(3)
    settings = DecisionSettings(false_alarms=0.05, misses=0.05)
    still = np.arange(16, dtype=np.int32) * 100
    wrong = {"tempered": 0, "naive": 0}
    for _ in range(300):
        logit = float(rng.normal(-0.5, 1.0))
        stream, naive = StreamDecision(settings), SequentialTest(0.05, 0.05)
        for index in range(100):
            stream.add(1 / (1 + math.exp(-logit)), still, index * 0.04)
            naive.add(logit)
        wrong["tempered"] += stream.verdict == "generated"
        wrong["naive"] += naive.verdict == "generated"
    assert wrong["naive"] > 60
    assert wrong["tempered"] <= 15


def moving(index: int) -> np.ndarray:
    """Scores whose cells all change from one index to the next, their distribution never."""
    return np.roll(np.arange(1, 17, dtype=np.int32) ** 2, 5 * index)


def test_a_repeated_picture_adds_nothing_however_long() -> None:
    stream = StreamDecision(DecisionSettings())
    stream.add(0.9, moving(0), 0.0)
    first = stream.evidence
    assert first == pytest.approx(math.log(9))
    for second in range(1, 1000):
        stream.add(0.9, moving(0), float(second))
    assert stream.evidence == first
    assert stream.verdict == "unsure"


def test_a_burst_of_frames_counts_as_little_more_than_one() -> None:
    burst, spread = StreamDecision(DecisionSettings()), StreamDecision(DecisionSettings())
    for index in range(10):
        burst.add(0.7, moving(index), index * 0.001)
        spread.add(0.7, moving(index), index * 2.0)
    assert burst.evidence < 1.05 * math.log(7 / 3)
    assert spread.evidence > 5 * math.log(7 / 3)


def test_a_change_is_seen_and_hysteresis_holds() -> None:
    settings = DecisionSettings()
    stream = StreamDecision(settings)
    told = []
    for index in range(500):
        told += stream.add(0.99, moving(index), float(index))
    assert [(c.verdict, c.previous, c.reason) for c in told] == [
        ("generated", "unsure", "evidence")
    ]
    assert told[0].frames == 3
    assert stream.evidence == pytest.approx(math.log(99) + HEADROOM)
    # One frame that says otherwise does not undo it, below the bound though it is.
    assert stream.add(0.01, moving(500), 500.0) == []
    assert stream.add(0.01, moving(501), 501.0) == []
    assert 0 < stream.evidence < math.log(99)
    told, index = [], 501
    while stream.verdict != "real":
        index += 1
        told += stream.add(0.01, moving(index), float(index))
    assert [c.verdict for c in told] == ["unsure", "real"]
    # From ceiling to bound, at most `largest` a frame.
    assert index - 500 < 12


def test_a_new_scene_starts_afresh() -> None:
    stream = StreamDecision(DecisionSettings())
    for index in range(5):
        stream.add(0.99, moving(index), float(index))
    assert stream.verdict == "generated"
    other = moving(0) * 20
    [change] = stream.add(0.4, other, 6.0)
    assert (change.verdict, change.previous, change.reason) == (
        "unsure",
        "generated",
        "scene change",
    )
    assert change.frames == 5
    assert change.seconds == 4.0
    # The first frame of the new scene counts whole.
    assert stream.evidence == pytest.approx(math.log(2 / 3))
    assert stream.restart("restart") == []


def test_the_threshold_is_where_a_frame_says_nothing() -> None:
    stream = StreamDecision(DecisionSettings(), threshold=0.8)
    stream.add(0.8, moving(0), 0.0)
    assert stream.evidence == pytest.approx(0)
    stream.add(0.7, moving(1), 10.0)
    assert stream.evidence < 0
    for extreme in (0.0, 1.0):
        assert math.isfinite(StreamDecision(DecisionSettings(), extreme).evidence)


@given(
    frames=st.lists(st.tuples(st.floats(0, 1), SCORES, st.floats(0, 1e6)), max_size=40),
    false_alarms=st.floats(1e-6, 0.4),
    misses=st.floats(1e-6, 0.4),
)
def test_any_frames_keep_the_bounds(
    frames: list[tuple[float, np.ndarray, float]], false_alarms: float, misses: float
) -> None:
    stream = StreamDecision(DecisionSettings(false_alarms=false_alarms, misses=misses))
    upper, lower = math.log((1 - misses) / false_alarms), math.log(misses / (1 - false_alarms))
    verdict = "unsure"
    for probability, scores, now in frames:
        for change in stream.add(probability, scores, now):
            assert change.previous == verdict
            assert change.verdict != verdict
            verdict = change.verdict
        assert stream.verdict == verdict
        assert lower - HEADROOM <= stream.evidence <= upper + HEADROOM
        if verdict == "generated":
            assert stream.evidence > 0
        if verdict == "real":
            assert stream.evidence < 0


@given(a=SCORES, b=SCORES)
def test_distances(a: np.ndarray, b: np.ndarray) -> None:
    assert movement(a, a) == scene_distance(a, a) == 0
    assert movement(a, b) == pytest.approx(movement(b, a))
    assert 0 <= scene_distance(a, b) <= 1
    # What moves within a picture is no other scene.
    assert scene_distance(a, np.roll(a, 3)) == 0
    assert scene_distance(a, b) <= movement(a, b) / 2 + 1e-9 or movement(a, b) == 0
    assert movement(a, a[:4]) == scene_distance(a, a[:4]) == 1

"""The screener as a library: views, batches, thresholds and engines that lie."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media import picture

from mpft_deploy.bundle import read_bundle
from mpft_deploy.errors import GateError, UsageError
from mpft_deploy.images import ViewPolicy, view_corners, views
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.screen import Screener
from mpft_deploy.screen.pipeline import Prefetch
from mpft_deploy.screen.results import KEPT_FRAMES, FrameResult, Spread
from mpft_deploy.screen.screener import with_threshold
from mpft_deploy.spec import Calibration


@pytest.fixture(scope="module")
def screener(bundle: Path) -> Screener:
    return Screener.open(bundle, threads=1)


def test_judges_a_golden_crop_as_the_trained_model_did(bundle: Path, screener: Screener) -> None:
    golden = read_bundle(bundle).golden
    for crop, logit in zip(golden.crops, golden.logits, strict=True):
        judgement = screener(crop)
        assert judgement.logit == pytest.approx(logit, abs=1e-4)
        assert judgement.probability == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-4)
        assert judgement.views == 1


@pytest.mark.parametrize(("policy", "count"), [("centre", 1), ("five", 5), ("grid", 6)])
def test_the_logit_is_the_mean_over_views(bundle: Path, policy: ViewPolicy, count: int) -> None:
    screener = Screener.open(bundle, views=policy, threads=1)
    frame = picture(70, 100)
    cut = views(frame, 32, policy)
    assert len(cut) == count
    judgement = screener(frame)
    assert judgement.views == count
    singles = [Screener.open(bundle, threads=1)(view).logit for view in cut]
    assert judgement.logit == pytest.approx(np.mean(singles), abs=1e-5)


def test_batches_give_the_verdicts_of_single_frames(bundle: Path, screener: Screener) -> None:
    frames = [picture(40 + n, 50 + 3 * n, seed=n) for n in range(7)]
    together = Screener.open(bundle, batch=3, threads=1).batch(frames)
    for frame, judgement in zip(frames, together, strict=True):
        assert judgement.logit == pytest.approx(screener(frame).logit, abs=1e-5)
    assert screener.batch([]) == []


def test_small_frames_are_tiled(screener: Screener) -> None:
    pixel = np.full((1, 1, 3), 90, np.uint8)
    assert screener(pixel) == screener(np.full((32, 32, 3), 90, np.uint8))


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((32, 32), np.uint8),
        np.zeros((32, 32, 4), np.uint8),
        np.zeros((32, 32, 3), np.float32),
        np.zeros((0, 32, 3), np.uint8),
    ],
)
def test_frames_of_a_wrong_kind_are_refused(screener: Screener, frame: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"uint8 \[H, W, 3\]"):
        screener(frame)


def test_an_engine_that_gives_no_number_gives_no_verdict(bundle: Path) -> None:
    class Broken:
        def run(self, patches: np.ndarray, positions: np.ndarray) -> np.ndarray:
            return np.full(len(patches), np.nan, np.float32)

    with pytest.raises(GateError, match="mpft verify"):
        Screener(read_bundle(bundle), Broken())(picture())


def test_the_engine_gets_what_texture_patchify_gives(bundle: Path) -> None:
    read = read_bundle(bundle)
    seen = []

    class Recorder:
        def run(self, patches: np.ndarray, positions: np.ndarray) -> np.ndarray:
            seen.append((patches, positions))
            return np.zeros(len(patches), np.float32)

    frame = picture(80, 90)
    Screener(read, Recorder(), views="five", batch=2)(frame)
    assert [len(patches) for patches, _ in seen] == [2, 2, 1]
    expected = texture_patchify(views(frame, 32, "five"), 8, read.spec.keep_rule)
    assert np.array_equal(np.concatenate([patches for patches, _ in seen]), expected.patches)
    assert np.array_equal(np.concatenate([where for _, where in seen]), expected.positions)


def test_a_threshold_keeps_the_unsure_band_only_around_itself() -> None:
    calibration = Calibration(threshold=0.5, unsure=(0.35, 0.65))
    assert with_threshold(calibration, None) is calibration
    inside = with_threshold(calibration, 0.6)
    assert (inside.verdict(0.62), inside.verdict(0.7)) == ("unsure", "generated")
    outside = with_threshold(calibration, 0.9)
    assert [outside.verdict(p) for p in (0.5, 0.89, 0.9)] == ["real", "real", "generated"]
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match="from 0 to 1"):
            with_threshold(calibration, wrong)


@given(
    height=st.integers(32, 200),
    width=st.integers(32, 200),
    policy=st.sampled_from(["centre", "five", "grid"]),
)
def test_views_lie_within_the_frame(height: int, width: int, policy: ViewPolicy) -> None:
    corners = view_corners(height, width, 32, policy)
    assert all(0 <= row <= height - 32 and 0 <= column <= width - 32 for row, column in corners)
    if policy == "grid":
        assert len(set(corners)) == len(corners) == (height // 32) * (width // 32)


@given(st.integers(1, 500))
def test_kept_frames_are_evenly_spread(count: int) -> None:
    spread = Spread()
    for index in range(count):
        spread.add(FrameResult(time=float(index), verdict="real", probability=0.1, logit=-2.0))
    times = [frame.time for frame in spread.kept]
    assert spread.seen == count
    assert times[0] == 0
    assert min(count, KEPT_FRAMES // 2) <= len(times) <= KEPT_FRAMES
    assert len({b - a for a, b in itertools.pairwise(times)}) <= 1
    assert count - 1 - times[-1] < (times[1] - times[0] if len(times) > 1 else 1)


@settings(deadline=None, max_examples=30)
@given(values=st.lists(st.integers() | st.none(), max_size=20), depth=st.integers(1, 5))
def test_prefetch_yields_the_same_in_order(values: list[int | None], depth: int) -> None:
    with Prefetch(values, depth) as ahead:
        assert list(ahead) == values


def test_prefetch_is_bounded_raises_and_stops() -> None:
    produced: list[int] = []

    def source() -> object:
        for number in range(1000):
            produced.append(number)
            yield number
            if number == 5:
                raise OSError("gone")

    with Prefetch(source(), 2) as ahead:
        assert next(ahead) == 0
        assert next(ahead) == 1
    # Two read, two in the queue, one in hand, and one more where the thread notices the end.
    assert len(produced) <= 6
    with pytest.raises(OSError, match="gone"), Prefetch(source(), 2) as ahead:
        list(ahead)

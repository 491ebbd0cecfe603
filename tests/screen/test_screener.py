"""The screener as a library: views, batches, thresholds and engines that lie."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media import picture
from PIL import Image

from mpft_deploy.bundle import Bundle, read_bundle
from mpft_deploy.engine import load_engine
from mpft_deploy.errors import GateError, UsageError
from mpft_deploy.fitness import FLAT
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.prepared import LookedAt
from mpft_deploy.screen import Screener
from mpft_deploy.screen.pipeline import prefetch
from mpft_deploy.screen.results import KEPT_FRAMES, FrameResult, Spread
from mpft_deploy.screen.screener import with_threshold
from mpft_deploy.spec import Calibration, ViewPolicy
from mpft_deploy.views import Window, view_corners, view_windows, views, windows_of

AT = LookedAt(share=1.0, windows=(Window(0, 0, 32, 32),))


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


def test_small_frames_are_brought_up(screener: Screener) -> None:
    small = picture(20, 500)
    judgement = screener(small)
    [view] = views(small, 32)
    assert judgement.logit == screener(view).logit
    assert judgement.looked_at == LookedAt(share=20 / 500, windows=(Window(0, 240, 20, 20),))


def test_the_centre_window_alone_is_judged_as_the_whole(screener: Screener) -> None:
    for frame in (picture(70, 100), picture(20, 500)):
        height, width = frame.shape[:2]
        [(row, column, h, w)] = windows_of(height, width, 32)
        window = frame[row : row + h, column : column + w]
        [judged] = screener.judge([screener.prepare(window, (height, width))])
        assert judged.judgement == screener(frame)
    with pytest.raises(UsageError, match="not the one window"):
        screener.prepare(picture(31, 32), (70, 100))


def with_crop(bundle: Path, **fields: int) -> Bundle:
    read = read_bundle(bundle)
    crop = msgspec.structs.replace(read.spec.crop, **fields)
    spec = msgspec.structs.replace(read.spec, crop=crop)
    return dataclasses.replace(read, info=msgspec.structs.replace(read.info, spec=spec))


def test_too_few_pixels_are_unsure_whatever_the_logit(bundle: Path) -> None:
    read = with_crop(bundle, least_side=24)
    screener = Screener(read, load_engine(read, threads=1), views="grid")
    judgement = screener(picture(23, 500))
    assert judgement.verdict == "unsure"
    assert "500 × 23 pixels are too few" in judgement.reason
    assert judgement.views == 1
    assert screener(picture(24, 500)).reason == ""


@pytest.mark.parametrize("policy", ["centre", "three", "five", "grid"])
def test_a_flat_frame_is_unsure_whatever_the_logit(bundle: Path, policy: ViewPolicy) -> None:
    read = with_crop(bundle, least_texture=300)
    screener = Screener(read, load_engine(read, threads=1), views=policy, threshold=0.0)
    noise = np.random.default_rng(0).normal(200, 4, (96, 96, 3)).astype(np.uint8)
    judgement = screener(noise)
    assert judgement.verdict == "unsure"
    assert judgement.reason == FLAT
    assert judgement.views == len(view_windows(noise, 32, policy))


def test_of_several_views_those_with_texture_count(bundle: Path) -> None:
    read = with_crop(bundle, least_texture=300)
    screener = Screener(read, load_engine(read, threads=1), views="grid")
    frame = np.full((32, 96, 3), 128, np.uint8)
    frame[:, 64:] = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).repeat(8, 0).repeat(8, 1)
    judgement = screener(frame)
    assert judgement.reason == ""
    assert judgement.logit == screener(frame[:, 64:]).logit
    assert judgement.looked_at == LookedAt(share=1 / 3, windows=(Window(0, 64, 32, 32),))


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((32, 32), np.uint8),
        np.zeros((32, 32, 4), np.uint8),
        np.zeros((32, 32, 3), np.float32),
        np.zeros((0, 32, 3), np.uint8),
        "photo.jpg",
        Image.new("RGB", (32, 32)),
    ],
)
def test_frames_of_a_wrong_kind_are_refused(screener: Screener, frame: object) -> None:
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
    ends = Calibration(threshold=0.8, unsure=(0.6, 0.8))  # as --false-alarm sets it
    for wanted, band in ((0.9, (0.6, 0.9)), (0.7, (0.6, 0.7)), (0.5, (0.5, 0.5))):
        assert with_threshold(ends, wanted).unsure == band
    never = Calibration(threshold=0.8, unsure=(0.8, 0.8))
    assert with_threshold(never, 0.9).unsure == (0.9, 0.9)
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
        spread.add(
            FrameResult(
                time=float(index), verdict="real", probability=0.1, logit=-2.0, looked_at=AT
            )
        )
    times = [frame.time for frame in spread.kept]
    assert spread.seen == count
    assert times[0] == 0
    assert min(count, KEPT_FRAMES // 2) <= len(times) <= KEPT_FRAMES
    assert len({b - a for a, b in itertools.pairwise(times)}) <= 1
    assert count - 1 - times[-1] < (times[1] - times[0] if len(times) > 1 else 1)


@settings(deadline=None, max_examples=30)
@given(values=st.lists(st.integers() | st.none(), max_size=20), depth=st.integers(1, 5))
def test_prefetch_yields_the_same_in_order(values: list[int | None], depth: int) -> None:
    with prefetch(values, depth) as ahead:
        assert list(ahead) == values


def test_prefetch_is_bounded_raises_and_stops() -> None:
    produced: list[int] = []

    def source() -> object:
        for number in range(1000):
            produced.append(number)
            yield number
            if number == 5:
                raise OSError("gone")

    with prefetch(source(), 2) as ahead:
        assert next(ahead) == 0
        assert next(ahead) == 1
    # Two read, two in the queue, one in hand, and one more where the thread notices the end.
    assert len(produced) <= 6
    with pytest.raises(OSError, match="gone"), prefetch(source(), 2) as ahead:
        list(ahead)

"""`mpft calibrate`: fits, thresholds, bands, refusals, and the folder that it writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mpft_deploy.cli.main import cli, run
from mpft_deploy.detector.recalibrate import CARD_SECTION, recalibrate
from mpft_deploy.detector_folder import read_detector
from mpft_deploy.errors import GateError, InputError, UsageError
from mpft_deploy.evaluate.predictions import probabilities
from mpft_deploy.spec import Calibration, KeepRule

ALL = KeepRule("all")


def drawn(real: int, generated: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], [real, generated])
    return labels, (rng.normal(size=len(labels)) + 2 * labels + 5).astype(np.float32)


@settings(max_examples=20)
@given(st.integers(0, 99), st.floats(0.03, 0.4), st.booleans())
def test_false_alarms_stay_at_what_was_asked_for(seed: int, share: float, both: bool) -> None:
    labels, logits = drawn(60, 50 if both else 0, seed)
    logits = np.round(logits, 1)  # ties at the edge must stay real
    after = recalibrate(Calibration(), labels, logits, ALL, false_alarm=share).after
    chances = probabilities(after, logits)[labels == 0]
    assert (chances >= after.threshold).mean() <= share + 1e-9
    assert np.unique(chances[chances < after.threshold]).max() < after.threshold


@settings(max_examples=20)
@given(st.integers(0, 99), st.floats(0.01, 0.2))
def test_decided_mistakes_stay_at_what_was_asked_for(seed: int, share: float) -> None:
    labels, logits = drawn(80, 70, seed)
    after = recalibrate(Calibration(), labels, logits, ALL, unsure_error=share).after
    chances, (low, high) = probabilities(after, logits), after.unsure
    assert (chances[labels == 1] <= low).mean() <= share + 1e-9
    assert (chances[labels == 0] >= high).mean() <= share + 1e-9
    assert low <= after.threshold <= high


def test_both_classes_move_shift_and_scale_and_the_error_falls() -> None:
    labels, logits = drawn(300, 300)
    outcome = recalibrate(Calibration(), labels, logits, ALL)
    assert outcome.after.threshold == 0.5
    assert outcome.after.shift == pytest.approx(-6, abs=0.2)
    assert outcome.after.unsure == pytest.approx((0.35, 0.65))
    assert outcome.figures_after["ece"] < 0.1 < outcome.figures_before["ece"]


def test_real_images_alone_move_the_threshold_only() -> None:
    labels, logits = drawn(100, 0)
    before = Calibration(shift=-5, scale=0.7)
    after = recalibrate(before, labels, logits, ALL, false_alarm=0.05).after
    assert (after.shift, after.scale) == (before.shift, before.scale)
    with pytest.raises(UsageError, match="--false-alarm"):
        recalibrate(before, labels, logits, ALL)
    with pytest.raises(InputError, match="at least 200"):
        recalibrate(before, labels, logits, ALL, false_alarm=0.005)
    with pytest.raises(InputError, match="needs real images"):
        recalibrate(before, 1 - labels, logits, ALL)


def test_where_ranking_fails_nothing_is_fitted() -> None:
    labels, _ = drawn(40, 40)
    logits = np.random.default_rng(3).normal(size=80).astype(np.float32)
    with pytest.raises(GateError, match="does not rank"):
        recalibrate(Calibration(), labels, logits, ALL)


def test_the_folder_is_sealed_anew_with_its_golden_logits(
    make_detector: Callable[..., object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, data = tmp_path / "detector", tmp_path / "data" / "real"
    make_detector(path)
    data.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(20):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(data / f"{index}.png")
    before = read_detector(path)
    weights = (path / "weights.safetensors").read_bytes()
    arguments = ["calibrate", str(path), str(data.parent), "--false-alarm", "10%"]
    assert run(cli, "mpft", [*arguments, "--dry-run"]) == 0
    assert read_detector(path).seal == before.seal
    for _ in range(2):
        assert run(cli, "mpft", [*arguments, "--keep", "all"]) == 0
    assert "before" in capsys.readouterr().out
    after = read_detector(path)
    assert (path / "weights.safetensors").read_bytes() == weights
    assert after.spec.keep == "all"
    assert after.spec.calibration.threshold != before.spec.calibration.threshold
    assert after.spec.training["calibration"]["real"] == 20
    assert (after.golden.logits != before.golden.logits).any()
    assert after.card.count(CARD_SECTION) == 1


def test_bundles_are_sent_back_to_their_detector(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cli, "mpft", ["calibrate", str(bundle), str(tmp_path)]) == 2
    assert "export it again" in capsys.readouterr().err

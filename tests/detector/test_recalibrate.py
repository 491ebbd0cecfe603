"""`mpft calibrate`: fits, thresholds, bands, refusals, and the folder that it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from trees import image

from mpft_deploy.cli.calibrate import _tell_taken_as_real
from mpft_deploy.cli.main import cli, run
from mpft_deploy.dataset import Sample, find_samples
from mpft_deploy.detector.card import HELD_OUT, with_operating_point
from mpft_deploy.detector.evaluate import judged_logits
from mpft_deploy.detector.model import Detector
from mpft_deploy.detector.recalibrate import recalibrate
from mpft_deploy.detector_folder import read_detector
from mpft_deploy.errors import GateError, InputError, UsageError
from mpft_deploy.evaluate.predictions import probabilities
from mpft_deploy.spec import Calibration, DetectorSpec, KeepRule

ALL = KeepRule("all")
SHIPPED = Path(__file__).parents[2] / "models" / "mpft-vit-b16"


def drawn(real: int, generated: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], [real, generated])
    return labels, (rng.normal(size=len(labels)) + 2 * labels + 5).astype(np.float32)


@settings(max_examples=20)
@given(st.integers(0, 99), st.floats(0.06, 0.4), st.booleans())
def test_false_alarms_stay_at_what_was_asked_for(seed: int, share: float, both: bool) -> None:
    labels, logits = drawn(60, 50 if both else 0, seed)
    logits = np.round(logits, 1)  # ties at the edge must stay real
    after = recalibrate(Calibration(), labels, logits, ALL, false_alarm=share).after
    chances = probabilities(after, logits)[labels == 0]
    assert (chances >= after.threshold).mean() <= share + 1e-9
    low, high = after.unsure
    assert high == after.threshold  # "generated" is what was bounded
    assert (chances > low).mean() <= max(share, min(3 * share, 0.5)) + 1e-9
    assert np.unique(chances[chances < after.threshold]).max() < after.threshold


@settings(max_examples=20)
@given(st.integers(0, 99), st.floats(0.05, 0.2))
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
    sources = [f"camera {index % 4}" for index in range(100)]
    before = Calibration(shift=-5, scale=0.7)
    outcome = recalibrate(
        before, labels, logits, ALL, false_alarm=0.05, sources=sources, views="five"
    )
    after, alarms = outcome.after, outcome.false_alarms
    assert (after.shift, after.scale, after.views) == (before.shift, before.scale, "five")
    assert (alarms.images, alarms.called_generated, alarms.sources) == (100, 1, 4)
    assert alarms.bound == pytest.approx(0.0466, abs=1e-4)
    # One of 25 images of one of four sources, which counts as one source that is all wrong.
    assert alarms.source_bound == pytest.approx(0.751, abs=1e-3)
    with pytest.raises(UsageError, match="--false-alarm"):
        recalibrate(before, labels, logits, ALL)
    with pytest.raises(InputError, match="takes 598"):
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
    for index in range(40):
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
    assert after.spec.training["calibration"]["real"] == 40
    assert (after.golden.logits != before.golden.logits).any()
    assert after.card.count("## Operating point") == 1
    assert f"From {after.spec.calibration.threshold:.4g} on" in after.card
    assert "0 of the real ones" in after.card.replace("\n", " ")


def test_readme_calibrates_on_a_plain_folder_of_photographs(
    make_detector: Callable[..., object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, photos = tmp_path / "detector", tmp_path / "my-photos"
    crop = reference.tiny_spec().crop
    make_detector(path, crop=msgspec.structs.replace(crop, least_side=40))
    rng = np.random.default_rng(1)
    for index in range(60):
        folder = photos / ("2021" if index % 2 else "2022")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (70, 90, 3), np.uint8)).save(folder / f"{index}.png")
    arguments = ["calibrate", str(path), str(photos)]
    assert run(cli, "mpft", arguments) == 1
    assert "holds no labelled images, only 2021 (30), 2022 (30)" in capsys.readouterr().err
    small = rng.integers(0, 256, (39, 90, 3), np.uint8)
    Image.fromarray(small).save(photos / "2021" / "small.png")
    assert run(cli, "mpft", [*arguments, "--false-alarm", "5%", "--views", "five"]) == 0
    shown = capsys.readouterr()
    assert "its 61 images are taken to be real: my-photos/2021 (31)" in shown.err
    assert "1 images are left out, of which there is no verdict: 90 × 39" in shown.err
    assert "5.00% takes 59 real images" in shown.out
    assert "2 sources, which is few" in shown.out
    after = read_detector(path)
    assert after.spec.calibration.views == "five"
    assert "views `five`" in after.card.replace("\n", " ")
    assert run(cli, "mpft", [*arguments, "--false-alarm", "4%"]) == 1
    refused = capsys.readouterr().err
    assert "61 real images are too few for 4.00%" in refused
    assert "no verdict" not in refused  # none was judged
    pictures = after.spec.calibration
    moving = [*arguments, "--false-alarm", "5%", "--views", "moving"]
    assert run(cli, "mpft", moving) == 0
    spec, card = read_detector(path).spec, read_detector(path).card
    assert (spec.calibration, card) == (pictures, after.card)
    assert spec.stream is not None
    assert spec.stream.views == spec.stream_views == "moving"
    assert (spec.calibration_of("moving"), spec.calibration_of("five")) == (spec.stream, pictures)
    assert run(cli, "mpft", [*moving, "--keep", "all"]) == 2
    assert "leave out --keep" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words", "code", "told"),
    [
        ("real", ["--held-out", "--false-alarm", "50%"], 2, "pass it alone"),
        ("real", ["--held-out", "--keep", "all"], 2, "own keep rule and views"),
        ("real", [], 2, "with real images alone"),
        ("real", ["--false-alarm", "50%", "--unsure-error", "50%"], 2, "no --unsure-error"),
        ("fake", ["--false-alarm", "50%"], 1, "needs real images"),
    ],
)
def test_what_cannot_be_is_told_before_images_are_judged(
    name: str, words: list[str], code: int, told: str, detector: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for index in range(9):
        image(tmp_path / name / f"{index}.png")
    monkeypatch.setattr("mpft_deploy.detector.evaluate.judged_logits", None)
    assert (
        run(cli, "mpft", ["calibrate", str(detector), str(tmp_path), *words, "--dry-run"]) == code
    )
    assert told in capsys.readouterr().err


def test_what_is_labelled_otherwise_is_not_told_to_be_taken_as_real(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a column, or by the names that a benchmark's folders have."""
    names = ("photos/a", "synthbuster/dalle2/a", "synthbuster/firefly/b", "synthbuster/RAISE-1k/c")
    for name in names:
        image(tmp_path / f"{name}.png")
    packed = {"image": [(tmp_path / "photos/a.png").read_bytes()], "label": [0]}
    (tmp_path / "rows").mkdir()
    pq.write_table(pa.table(packed), tmp_path / "rows" / "0.parquet")
    folders = [tmp_path / name for name in ("photos", "synthbuster", "rows")]
    _tell_taken_as_real(folders, find_samples(folders, plain_is_real=True))
    [told] = capsys.readouterr().err.splitlines()
    assert "photos has no class folders: its 1 images are taken to be real" in told


def test_pictures_calibrate_the_places_that_frames_of_a_stream_are_judged_by(
    tmp_path: Path, detector: Path
) -> None:
    model, folder = Detector.from_folder(detector)
    rng = np.random.default_rng(2)
    samples = []
    for index in range(12):
        path = tmp_path / f"{index}.png"
        Image.fromarray(rng.integers(0, 256, (70, 90, 3), np.uint8)).save(path)
        samples.append(Sample(path, 0, "set"))
    moving, centre = (
        judged_logits(model, samples, folder.spec, policy)[0] for policy in ("moving", "centre")
    )
    assert (moving != centre).sum() >= 8  # few by chance at the centre
    again, _ = judged_logits(model, samples[::-1], folder.spec, "moving")
    np.testing.assert_allclose(again[::-1], moving, rtol=1e-5)


def test_the_shipped_card_has_one_operating_point() -> None:
    manifest = json.loads((SHIPPED / "detector.json").read_text())
    spec = msgspec.convert(manifest["spec"], DetectorSpec)
    shipped = (SHIPPED / "MODEL_CARD.md").read_text()
    assert with_operating_point(shipped, spec) == shipped
    assert shipped.count("sigmoid(") == 2  # of pictures, and of frames
    assert spec.stream is not None
    assert f"From {spec.stream.threshold:.4g} on" in shipped
    old, new = spec.calibration.threshold, spec.calibration.unsure[0]
    moved = msgspec.structs.replace(spec.calibration, threshold=new)
    card = with_operating_point(shipped, msgspec.structs.replace(spec, calibration=moved))
    assert f"From {new:.4g} on" in card
    assert f"From {old:.4g} on" not in card
    assert len(card.split("\n## ")) == len(shipped.split("\n## "))


def test_held_out_images_change_nothing_but_what_is_known(
    make_detector: Callable[..., object], tmp_path: Path
) -> None:
    path, data = tmp_path / "detector", tmp_path / "data"
    make_detector(path)
    rng = np.random.default_rng(0)
    rows = ["path,label,generator"]
    data.mkdir()
    for index in range(24):
        name = f"{index}.png"
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(data / name)
        rows.append(f"{name},{index % 2},{index % 6}")
    (data / "list.csv").write_text("\n".join(rows))
    before = read_detector(path)
    words = ["calibrate", str(path), str(data / "list.csv"), "--held-out"]
    code = run(cli, "mpft", words)
    after = read_detector(path)
    held = after.spec.calibration.held_out
    if code:  # a random detector may rank them the wrong way
        assert (code, after.seal) == (1, before.seal)
        assert run(cli, "mpft", ["calibrate", str(path), *flipped(data), "--held-out"]) == 0
        after = read_detector(path)
        held = after.spec.calibration.held_out
    assert held is not None
    assert (held.real, held.generated, held.images) == (3, 3, 24)
    cleared = msgspec.structs.replace(after.spec.calibration, held_out=None)
    assert cleared == msgspec.structs.replace(before.spec.calibration, held_out=None)
    assert after.card.startswith(before.card)
    assert after.card.count(HELD_OUT) == 1
    assert run(cli, "mpft", [*words, "--false-alarm", "5%"]) == 2


def flipped(data: Path) -> list[str]:
    """The same images with the labels changed round."""
    first, *rows = (data / "list.csv").read_text().splitlines()
    cells = [row.split(",") for row in rows]
    text = [f"{path},{1 - int(label)},{group}" for path, label, group in cells]
    (data / "flipped.csv").write_text("\n".join([first, *text]))
    return [str(data / "flipped.csv")]


def test_bundles_are_sent_back_to_their_detector(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cli, "mpft", ["calibrate", str(bundle), str(tmp_path)]) == 2
    assert "export it again" in capsys.readouterr().err

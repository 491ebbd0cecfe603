"""What is left out is not learnt from, in folds and in whole runs of a frozen backbone."""

from __future__ import annotations

import csv
import io
import os
import signal
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from mpft_deploy.dataset import Sample
from mpft_deploy.detector.batches import COLOURED
from mpft_deploy.detector.features import LOOKS
from mpft_deploy.detector.folds import assign_folds, families, fit_on_looks, out_of_fold
from mpft_deploy.detector.model import Detector
from mpft_deploy.detector.probe import INVERSE_PENALTY, sample_weights
from mpft_deploy.detector.settings import TrainSettings
from mpft_deploy.detector.train import InterruptedRunError, Trained, train
from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.statistics import auc


def sample(label: int, generator: str, source: str, index: int = 0) -> Sample:
    return Sample(Path(f"{generator}{index}.png"), label, "set", generator, source=source)


def test_who_shares_a_generator_or_a_source_is_kin() -> None:
    samples = [
        sample(1, "a", "one"), sample(1, "a", "two"), sample(0, "street", "two"),
        sample(1, "b", "three"), sample(0, "b", "four"), sample(0, "street", "five"),
    ]  # fmt: skip
    kin = families(samples)
    assert kin[0] == kin[1] == kin[2] == kin[5]
    assert len({kin[0], kin[3], kin[4]}) == 3  # a real "b" is no image of generator "b"


@given(
    sizes=st.lists(st.tuples(st.integers(0, 1), st.integers(1, 9)), min_size=8),
    seed=st.integers(0, 9),
)
def test_families_stay_whole_and_classes_are_spread(
    sizes: list[tuple[int, int]], seed: int
) -> None:
    sizes += [(0, 9), (1, 9)] * 4
    samples = [
        sample(label, f"g{number}", f"s{number}", index)
        for number, (label, count) in enumerate(sizes)
        for index in range(count)
    ]
    folds = assign_folds(samples, 3, seed)
    assert set(folds.tolist()) == {0, 1, 2}
    for number in range(len(sizes)):
        assert (
            len({f for f, s in zip(folds, samples, strict=True) if s.source == f"s{number}"}) == 1
        )
    for label in (0, 1):
        own = np.array([s.label == label for s in samples])
        counts = np.bincount(folds[own], minlength=3)
        assert counts.min() > 0
        assert counts.max() - counts.min() <= 18  # two of the largest families


def test_a_head_that_knows_groups_by_heart_learns_nothing_of_others() -> None:
    """Features that name the group tell nothing of groups that are left out; a shift does."""
    rng = np.random.default_rng(0)
    samples = [sample(g % 2, f"g{g}", f"s{g}", i) for g in range(40) for i in range(10)]
    labels = np.array([one.label for one in samples])
    folds = assign_folds(samples, 5, 0)
    by_name = np.repeat(np.eye(40, dtype=np.float32), 10, axis=0)[None]
    assert abs((auc(labels, out_of_fold(by_name, samples, folds)[0]) or 0) - 0.5) < 0.1
    noise = rng.normal(size=(3, 400, 4)).astype(np.float32)
    noise[..., 0] += 2 * labels
    logits = out_of_fold(noise, samples, folds)
    assert logits.shape == (3, 400)
    assert (auc(labels, logits.mean(0)) or 0) > (auc(labels, logits[0]) or 0) > 0.85


def test_what_differs_between_views_of_an_image_counts_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two components that tell as much, that which all views agree on; of one view, neither."""
    rng = np.random.default_rng(0)
    samples = [sample(g % 2, f"g{g}", f"s{g}", i) for g in range(40) for i in range(10)]
    labels = np.array([one.label for one in samples])
    features = np.empty((3, 400, 2), np.float32)
    features[..., 0] = labels + rng.normal(size=400)  # alike in all views
    features[..., 1] = labels + rng.normal(size=(3, 400))
    steady, moving = np.abs(fit_on_looks(features, samples).weight)
    assert steady > 2 * moving > 0
    plain = np.abs(fit_on_looks(features, samples, steadiness=0).weight)
    assert plain[0] < 2 * plain[1]
    monkeypatch.delattr("torch.linalg.cholesky")  # of a matrix that grows with the features
    one = [fit_on_looks(features[:1], samples, steadiness=k).weight for k in (0.0, 10.0)]
    np.testing.assert_array_equal(one[0], one[1])


def test_the_head_is_that_of_logistic_regression() -> None:
    """Without that penalty it is what scikit-learn gives of standardised features."""
    rng = np.random.default_rng(1)
    samples = [sample(g % 2, f"g{g}", f"s{g}", i) for g in range(8) for i in range(9)]
    labels = np.array([one.label for one in samples])
    features = (rng.normal(3, 5, (2, 72, 4)) + labels[:, None]).astype(np.float32)
    head = fit_on_looks(features, samples, steadiness=0)
    flat = features.reshape(-1, 4).astype(np.float64)
    peer = LogisticRegression(C=INVERSE_PENALTY)
    peer.fit(
        (flat - flat.mean(0)) / flat.std(0), np.tile(labels, 2), np.tile(sample_weights(samples), 2)
    )
    np.testing.assert_allclose(head.weight, peer.coef_[0], rtol=0.01)


def test_a_grey_view_counts_half_and_may_have_a_logit_of_its_own() -> None:
    rng = np.random.default_rng(2)
    samples = [sample(g % 2, f"g{g}", f"s{g}", i) for g in range(8) for i in range(9)]
    labels = np.array([one.label for one in samples])
    features = (rng.normal(size=(COLOURED + 1, 72, 3)) + labels[:, None]).astype(np.float32)
    head = fit_on_looks(features, samples, steadiness=0)
    coloured = features[:COLOURED].reshape(-1, 3).astype(np.float64)
    standard = (features.reshape(-1, 3) - coloured.mean(0)) / coloured.std(0)
    weights = np.tile(sample_weights(samples), COLOURED + 1)
    weights[-72:] /= 2
    peer = LogisticRegression(C=INVERSE_PENALTY)
    peer.fit(standard, np.tile(labels, COLOURED + 1), weights)
    np.testing.assert_allclose(head.weight, peer.coef_[0], rtol=0.01)
    assert head.bias == pytest.approx(peer.intercept_[0], abs=0.01)

    # All views of an image agree, but that the grey one always lacks the second component.
    features[:] = features[0]
    features[COLOURED, :, 1] = 0
    free, steady = (np.abs(fit_on_looks(features, samples, steadiness=k).weight) for k in (0, 1e6))
    np.testing.assert_allclose(free, steady, rtol=0.01)


@pytest.fixture(scope="module")
def manifest(world: Path) -> Path:
    """All of the world's images, of four sources and four generators, each with its repository."""
    path = world / "folds.csv"
    rows = []
    for label, name in enumerate(("0_real", "1_fake")):
        for index, image in enumerate(sorted(world.rglob(f"{name}/*.png"))):
            made = f"{name}{index % 4}"
            rows.append([image.relative_to(world), label, made, f"by {made}"])
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "generator", "repo"], *rows])
    return path


@pytest.fixture
def settings(tiny_backbone: str) -> TrainSettings:
    return TrainSettings(
        backbone=tiny_backbone, keep="textured:7", depth=2, taps=1, folds=2, false_alarm=0.3,
        seed=3, precision="f32",
    )  # fmt: skip


class Listener:
    """Interrupts after some views."""

    def __init__(self, at: int = 0) -> None:
        self.at, self.done = at, []  # type: ignore[var-annotated]

    def line(self, text: str) -> None: ...

    def step(self, done: int, total: int, text: str) -> None:
        assert (total, text) == (LOOKS * 44, "views")
        self.done.append(done)
        if self.at and done >= self.at:
            os.kill(os.getpid(), signal.SIGINT)


def go(
    manifest: Path, out: Path, settings: TrainSettings, heard: Listener, **options: object
) -> Trained:
    return train([manifest], [], out, settings, heard, **options)  # type: ignore[arg-type]


def test_a_run_of_folds_calibrates_by_what_was_left_out(
    manifest: Path, settings: TrainSettings, tmp_path: Path
) -> None:
    trained = go(manifest, tmp_path / "detector", settings, Listener(), stored="int6")
    spec = Detector.from_folder(tmp_path / "detector")[1].spec
    assert (spec.calibration.views, spec.stream_views) == ("three", "moving")
    assert spec.stream is not None
    assert spec.stream.shift != spec.calibration.shift
    rows = pq.read_table(
        io.BytesIO((tmp_path / "detector.run/folds.parquet").read_bytes())
    ).to_pydict()
    assert len(rows["path"]) == 44
    assert len(set(zip(rows["source"], rows["fold"], strict=True))) == 8
    means = np.mean([rows[f"logit {look}"] for look in range(2)], 0)
    assert trained.validation.auc == pytest.approx(auc(np.array(rows["label"]), means), abs=1e-6)
    assert trained.validation.auc > 0.9
    card = (tmp_path / "detector/MODEL_CARD.md").read_text()
    assert "| 1_fake3 | 5 |" in card
    assert "| 0_real0 | 6 |" in card
    assert "(2 folds)" in card


def test_views_that_were_judged_are_not_judged_again(
    manifest: Path, settings: TrainSettings, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    go(manifest, whole, settings, Listener())
    with pytest.raises(InterruptedRunError, match="--resume"):
        go(manifest, parts, settings, Listener(60))
    kept = tmp_path / "parts.run/features.float32.raw"
    row = 4 * 64
    assert kept.stat().st_size % row == 0
    with kept.open("ab") as file:  # as a kill in the middle of a write leaves it
        file.write(b"x" * 77)
    heard = Listener()
    go(manifest, parts, settings, heard, resume=True)
    assert min(heard.done) > 44
    for name in ("weights.safetensors", "golden.safetensors"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()
    assert kept.read_bytes() == (tmp_path / "whole.run/features.float32.raw").read_bytes()


def test_images_that_are_drawn_must_do_for_the_folds_too(
    manifest: Path, settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All had kin in two folds, those that teach the head in one, which was found at the end."""
    with manifest.open(newline="") as file:
        columns, *rows = csv.reader(file)
    for number, row in enumerate(sorted(rows, key=lambda row: Path(row[0]).name)):
        row[2:] = ["few" if number < 4 else "many"] * 2
    other = manifest.with_name("two.csv")
    with other.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    for module in ("probe", "train"):
        monkeypatch.setattr(f"mpft_deploy.detector.{module}.MOST", 20)
    several = msgspec.structs.replace(settings, false_alarm=0.5)
    heard, told = Listener(), []  # type: ignore[var-annotated]
    monkeypatch.setattr(heard, "line", told.append)
    with pytest.raises(InputError, match=r"too few to leave out one of 2 folds"):
        go(other, tmp_path / "detector", several, heard)
    assert any(line.startswith("decoding 20 images") for line in told)
    assert not heard.done


def test_folds_are_of_a_frozen_backbone(
    manifest: Path, settings: TrainSettings, tmp_path: Path
) -> None:
    for changes in ({"epochs": 1}, {"augment": 0.0}):
        with pytest.raises(UsageError, match="folds are of a frozen backbone"):
            msgspec.structs.replace(settings, **changes)
    with pytest.raises(InputError, match=r"of 8 families.*fewer --folds"):
        go(manifest, tmp_path / "detector", msgspec.structs.replace(settings, folds=9), Listener())
    strict = msgspec.structs.replace(settings, false_alarm=0.03)
    with pytest.raises(InputError, match=r"22 real images are too few for 3\.00%"):
        go(manifest, tmp_path / "detector", strict, Listener())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="pass no --val"):
        train([manifest], [manifest], tmp_path / "detector", settings, Listener())  # type: ignore[arg-type]

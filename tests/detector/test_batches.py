"""Order, crops and masks of training."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mpft_deploy.dataset import find_samples
from mpft_deploy.detector.batches import (
    BalancedOrder,
    Masking,
    disturbed_crops,
    random_crop,
    training_batches,
)
from mpft_deploy.detector.evaluate import BATCH, centre_crops
from mpft_deploy.spec import parse_mixture


@settings(deadline=None)
@given(
    real=st.integers(1, 9), generated=st.integers(1, 9), batch=st.integers(2, 7),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_classes_balance_and_every_image_has_its_turn(
    real: int, generated: int, batch: int, seed: int
) -> None:
    labels = [0] * real + [1] * generated
    order = BalancedOrder(labels, batch, seed)
    steps = -(-2 * 2 * max(real, generated) // batch)
    places = np.concatenate([order.indices(step) for step in range(steps)])
    counts = Counter(labels[index] for index in places)
    assert abs(counts[0] - counts[1]) <= 1
    for label, size in ((0, real), (1, generated)):
        turns = [index for index in places if labels[index] == label]
        for start in range(0, len(turns) - size + 1, size):
            assert len(set(turns[start : start + size])) == size


def test_batches_follow_from_the_seed_alone(world: Path) -> None:
    samples = find_samples([world / "train"])

    def batches(workers: int, first: int, seed: int = 5, rule: str = "random:6") -> list[bytes]:
        masking = Masking(parse_mixture(rule, 16), False, 16, 64)
        made = training_batches(
            samples, masking, batch=4, seed=seed, first=first, stop=6, workers=workers
        )
        return [
            b.patches.numpy().tobytes() + b.positions.numpy().tobytes() + b.labels.numpy().tobytes()
            for b in made
        ]

    whole = batches(1, 0)
    assert len(set(whole)) == 6
    assert batches(3, 0) == whole
    assert batches(2, 4) == whole[4:]
    assert batches(1, 0, seed=6)[0] != whole[0]


def test_every_image_is_disturbed_once_by_the_seed_and_its_place(world: Path) -> None:
    samples = (find_samples([world / "train"]) * 2)[: BATCH + 3]
    views = [
        np.concatenate(list(disturbed_crops(samples, 64, seed, look)))
        for seed, look in ((1, 0), (1, 0), (2, 0), (1, 1))
    ]
    assert views[0].shape == (len(samples), 64, 64, 3)
    np.testing.assert_array_equal(views[0], views[1])
    assert (views[0] != views[2]).any()
    assert (views[0] != views[3]).any()
    clean = np.concatenate(list(centre_crops(samples, 64)))
    changed = [(a != b).any() for a, b in zip(views[0], clean, strict=True)]
    assert all(changed)
    # Of its own image: nearest in mean colour by far.
    colours = [one.astype(float).mean((1, 2)) for one in (views[0], clean)]
    assert np.abs(colours[0] - colours[1]).mean() < 12


def test_random_crop_is_a_part_of_the_image_flipped_half_of_the_time() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(frame, (16, 16), (0, 1))
    straight = {w.transpose(1, 2, 0).tobytes() for w in windows.reshape(-1, 3, 16, 16)}
    rng = np.random.default_rng(1)
    crops = [random_crop(frame, 16, rng) for _ in range(200)]
    plain = sum(crop.tobytes() in straight for crop in crops)
    mirrored = sum(crop[:, ::-1].tobytes() in straight for crop in crops)
    assert plain + mirrored == 200
    assert 70 < plain < 130
    assert len({crop.tobytes() for crop in crops}) > 50
    assert random_crop(frame, 32, rng).shape == (32, 32, 3)

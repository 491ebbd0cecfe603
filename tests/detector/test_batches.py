"""Order, crops and masks of training."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mpft_deploy.dataset import Sample, find_samples
from mpft_deploy.detector.batches import (
    COLOURED,
    NEAR,
    BalancedOrder,
    Batch,
    Masking,
    disturbed_crops,
    random_crop,
    read_around,
    training_batches,
)
from mpft_deploy.detector.evaluate import BATCH, centre_crops
from mpft_deploy.errors import InputError
from mpft_deploy.packed import block_of
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
    order = BalancedOrder(labels, batch, seed, range(len(labels)))
    steps = -(-2 * 2 * max(real, generated) // batch)
    places = np.concatenate([order.indices(step) for step in range(steps)])
    counts = Counter(labels[index] for index in places)
    assert abs(counts[0] - counts[1]) <= 1
    for label, size in ((0, real), (1, generated)):
        turns = [index for index in places if labels[index] == label]
        for start in range(0, len(turns) - size + 1, size):
            assert len(set(turns[start : start + size])) == size


def test_what_is_read_together_is_drawn_together(tmp_path: Path) -> None:
    """Rows of Parquet, none of which is read without its group."""
    paths = [tmp_path / f"{shard}.parquet" / str(row) for shard in range(10) for row in range(640)]
    blocks = [block_of(path) for path in paths]
    assert len(set(blocks)) == 100
    assert block_of(tmp_path / "0.tar" / "512") is block_of(tmp_path / "a.png") is None
    labels = [at % 2 for at in range(len(paths))]
    order = BalancedOrder(labels, 64, 5, blocks)
    drawn = np.concatenate([order.indices(step) for step in range(100)])
    assert sorted(drawn) == list(range(6400))
    near = [len({blocks[at] for at in part}) for part in drawn.reshape(100, 64)]
    assert max(near) <= 4 * NEAR  # of both classes, where one lot ends and the next begins
    again = BalancedOrder(labels, 64, 6, blocks).indices(0)
    assert set(again) != set(drawn[:64])


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


def test_later_looks_have_no_colour(world: Path) -> None:
    [sample, *_] = find_samples([world / "train"])

    def colour(look: int) -> float:
        views = np.concatenate(list(disturbed_crops([sample] * 20, 64, 0, look))).astype(int)
        return float(np.ptp(views, axis=3).mean((1, 2)).max())

    assert colour(COLOURED) < 1 < colour(COLOURED - 1)


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


def test_a_window_is_a_part_of_its_image_and_any_view_may_be_in_it(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:90, :70].astype(np.uint8)
    frame = np.stack([rows, columns, rows // 2], -1)
    Image.fromarray(frame).save(tmp_path / "a.png")
    Image.fromarray(frame).save(tmp_path / "a.jpg", quality=100, subsampling=0)
    rng, size = np.random.default_rng(0), 16
    corners = set()
    for _ in range(300):
        part = read_around(tmp_path / "a.png", size, rng)
        top, left = (int(value) for value in part[0, 0, :2])
        np.testing.assert_array_equal(part, frame[top : top + 32, left : left + 32])
        corners.add((top, left))
    tops, lefts = ({corner[axis] for corner in corners} for axis in (0, 1))
    assert (min(tops), max(tops), min(lefts), max(lefts)) == (0, 58, 0, 38)
    # Of a JPEG the same window, whether it is decoded alone or with all the rest.
    for seed in range(5):
        jpeg = read_around(tmp_path / "a.jpg", size, np.random.default_rng(seed)).astype(int)
        plain = read_around(tmp_path / "a.png", size, np.random.default_rng(seed))
        assert np.abs(jpeg - plain).max() <= 4
    assert read_around(tmp_path / "a.png", 64, rng).shape == (90, 70, 3)


def test_another_image_takes_the_place_of_one_that_cannot_be_read(
    world: Path, tmp_path: Path
) -> None:
    samples = find_samples([world / "train"])
    broken = dataclasses.replace(samples[0], path=tmp_path / "gone.png")
    masking = Masking(parse_mixture("all", 16), False, 16, 64)

    def batches(of: list[Sample], told: list[str]) -> list[Batch]:
        return list(
            training_batches(
                of, masking, batch=4, seed=5, first=0, stop=30, report=told.append, workers=1
            )
        )

    many, told = [broken, *samples[1:]] + samples * 4, []
    found = batches(many, told)
    assert told == [f"left out: {tmp_path}/gone.png: no such file"]
    assert all(batch.labels.tolist() == [0.0, 1.0, 0.0, 1.0] for batch in found)
    with pytest.raises(InputError, match="1 of 24 images cannot be read, more than 1%"):
        batches([broken, *samples[1:]], [])


def test_a_share_of_a_batch_is_that_part_of_it(world: Path) -> None:
    samples = find_samples([world / "train"])
    masking = Masking(parse_mixture("smooth:6+random:6", 16), False, 16, 64)

    def made(share: range | None) -> Batch:
        [batch] = training_batches(
            samples, masking, batch=7, seed=5, first=2, stop=3, augment=0.5, share=share
        )
        return batch

    whole, parts = made(None), [made(range(0, 3)), made(range(3, 7))]
    for name in ("patches", "positions"):
        joined = torch.cat([getattr(part, name) for part in parts])
        torch.testing.assert_close(joined, getattr(whole, name))
    assert all(part.labels.tolist() == whole.labels.tolist() for part in parts)

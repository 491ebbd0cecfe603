"""The samples of the demo: the same every time, none like another, and clips that can be read."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import generators
import make_samples
import numpy as np
import pytest

from mpft_deploy.screen.sources import Item, read_frames


@pytest.mark.parametrize("name", generators.GENERATED)
def test_generated_images_are_the_same_every_time(name: str) -> None:
    make, _ = generators.GENERATED[name]
    image = make()
    assert image.shape == (generators.SIZE, generators.SIZE, 3)
    assert image.dtype == np.uint8
    assert image.std() > 10
    assert np.array_equal(image, make())


def test_a_clip_pans_over_its_image(tmp_path: Path) -> None:
    image = generators.landscape(1)
    assert make_samples.write_clip(tmp_path / "pan.mp4", image) in ("H.264", "MPEG-4 Part 2")
    frames = [frame.pixels for frame in read_frames(Item(tmp_path / "pan.mp4", "video"))]
    assert len(frames) == make_samples.CLIP_SECONDS
    assert {frame.shape for frame in frames} == {(240, 320, 3)}
    # Compression changes pixels a little; the window is the one that was panned to.
    for index, frame in enumerate(frames):
        row, column = (generators.SIZE - 240) * index // 4, (generators.SIZE - 320) * index // 4
        window = image[row : row + 240, column : column + 320].astype(int)
        assert np.abs(window - frame).mean() < 8


def test_every_sample_has_its_note(tmp_path: Path) -> None:
    try:
        distribution("scikit-image")
    except PackageNotFoundError:
        with pytest.raises(SystemExit, match="pip install --no-deps scikit-image"):
            make_samples.main(tmp_path)
        return
    make_samples.main(tmp_path)
    notes = json.loads((tmp_path / "notes.json").read_text())
    assert set(notes) == {path.name for path in tmp_path.iterdir()} - {"notes.json"}

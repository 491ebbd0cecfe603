"""Make a folder of samples to screen: photographs, generated images, two clips, and notes on each.

    python examples/make_samples.py FOLDER

The photographs are those that the package scikit-image carries. Its files are enough, it need not
be importable: pip install --no-deps scikit-image.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
from generators import GENERATED, U8
from PIL import Image

from mpft_deploy.images import decode_image

# Licences as the docstrings of skimage.data say.
PHOTOGRAPHS = {
    "astronaut.png": "photograph of Eileen Collins by NASA, public domain",
    "chelsea.png": "photograph of a cat by Stefan van der Walt, CC0",
    "coffee.png": "photograph of a cup by Rachel Michetti, CC0",
    "rocket.jpg": "photograph of a launch by SpaceX, public domain",
}
JPEGS = {"decoder-nearest", "colour-field", "landscape", "portrait"}
"""Generated images that are stored as JPEG, at quality 90; the others as PNG."""

CLIP_HEIGHT, CLIP_WIDTH, CLIP_RATE, CLIP_SECONDS = 240, 320, 24, 4


def photograph(name: str) -> Path:
    """Where scikit-image keeps that file."""
    try:
        path = Path(str(distribution("scikit-image").locate_file(f"skimage/data/{name}")))
    except PackageNotFoundError:
        sys.exit("the photographs are missing: run  pip install --no-deps scikit-image")
    if not path.is_file():
        sys.exit(f"this version of scikit-image has no {name}: install version 0.26")
    return path


def write_clip(path: Path, image: U8) -> str:
    """A clip that pans over an image, u8 [H, W, 3], without scaling it; returns its codec."""
    import av

    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    count = CLIP_RATE * CLIP_SECONDS
    bottom, right = image.shape[0] - CLIP_HEIGHT, image.shape[1] - CLIP_WIDTH
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=CLIP_RATE)
        stream.width, stream.height, stream.pix_fmt = CLIP_WIDTH, CLIP_HEIGHT, "yuv420p"
        stream.bit_rate = 2_000_000
        for index in range(count):
            row, column = bottom * index // count, right * index // count
            window = image[row : row + CLIP_HEIGHT, column : column + CLIP_WIDTH]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(window), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return "H.264" if codec == "libx264" else "MPEG-4 Part 2"


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    notes = {}
    for name, note in PHOTOGRAPHS.items():
        (folder / name).write_bytes(photograph(name).read_bytes())
        notes[name] = f"{note} (scikit-image)"
    for name, (make, note) in GENERATED.items():
        file = f"{name}.jpg" if name in JPEGS else f"{name}.png"
        Image.fromarray(make()).save(folder / file, quality=90)
        notes[file] = f"computed here: {note}"
    for file, source in (
        ("pan-photograph.mp4", "coffee.png"),
        ("pan-generated.mp4", "landscape.jpg"),
    ):
        codec = write_clip(folder / file, decode_image(folder / source))
        notes[file] = f"computed here: {CLIP_SECONDS} s of {codec}, panning over {source}"
    (folder / "notes.json").write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/make_samples.py FOLDER")
    main(Path(sys.argv[1]))

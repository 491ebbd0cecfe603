"""Small trees of labelled images in the layouts of the field."""

from __future__ import annotations

from pathlib import Path

import media
import numpy as np
from PIL import Image


def write_image(path: Path, seed: int, label: int) -> Path:
    """An image of 40 × 48 pixels; generated ones are noisier and PNG, real ones JPEG."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 60 if label else 20, (40, 48, 3))
    pixels = np.clip(media.picture(40, 48, seed) + noise, 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(media.encoded(pixels, "PNG" if label else "JPEG"))
    return path


def write_classes(folder: Path, names: tuple[str, str], count: int, seed: int = 0) -> None:
    """`count` images in each of two class folders."""
    for label, name in enumerate(names):
        for index in range(count):
            suffix = "png" if label else "jpg"
            write_image(folder / name / f"{index:02}.{suffix}", seed + 2 * index + label, label)


def genimage(root: Path, count: int = 4) -> Path:
    """Two generators as GenImage has them, with a damaged file among them."""
    for seed, name in enumerate(("Midjourney", "stable_diffusion_v_1_4")):
        write_classes(root / name / "val", ("nature", "ai"), count, 1000 * seed)
    (root / "Midjourney" / "val" / "ai" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    return root


def forensynths(root: Path) -> Path:
    """ForenSynths: some generators with classes of content, some without."""
    write_classes(root / "progan" / "cat", ("0_real", "1_fake"), 2)
    write_classes(root / "progan" / "dog", ("0_real", "1_fake"), 2, 500)
    write_classes(root / "stylegan", ("0_real", "1_fake"), 3, 1500)
    return root


def manifest(root: Path) -> Path:
    """A CSV manifest of one set with two generators."""
    rows = ["path,label,set,generator,split"]
    for index in range(9):
        label = index % 3 > 0
        name = f"images/{index}.png"
        write_image(root / name, index, int(label))
        rows.append(f"{name},{int(label)},mixed,{'' if not label else 'ab'[index % 2]},val")
    path = root / "manifest.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def image(path: Path, colour: tuple[int, int, int] = (9, 9, 9)) -> Path:
    """A plain picture, of 8 × 8 pixels, for what never looks at it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)
    return path

"""Pictures that others' generators made, as a package of examples carries them.

    python examples/generators.py FOLDER

The files of the package are enough: pip install --no-deps comfyui-workflow-templates-media-image.
It shows by a small picture each what a template makes. Taken are those that are made of text alone,
by the names of the files, one for each generator that the shipped detector did not learn from; none
was left out for its verdict.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pairs import carried, counted

PACKAGE, LICENCE = "comfyui-workflow-templates-media-image", "MIT, with the package"

PICTURES = {
    "Boogu-Image 0.1": "image_boogu_image_0_1_turbo_t2i-1.webp",
    "Capybara 0.1": "Image_capybara_v0_1_text_to_image-1.webp",
    "FLUX.2": "image_flux2_text_to_image-1.webp",
    "GPT Image 2": "api_openai_gpt_image_2_t2i-1.webp",
    "Grok": "api_grok_text_to_image-1.webp",
    "Ideogram 4": "api_ideogram_v4_t2i-1.webp",
    "Kling 3": "api_kling_v3_t2i-1.webp",
    "Krea 2": "api_krea2_t2i-1.webp",
    "Lens": "image_lens_t2i-1.webp",
    "LongCat": "image_longcat_text_to_image-1.webp",
    "Nano Banana 2 Lite": "api_nano_banana_2_lite_t2i-1.webp",
    "Ovis": "image_ovis_text_to_image-1.webp",
    "PixelDiT": "image_pixeldit_t2i-1.webp",
    "Recraft 4": "api_recraft_v4_t2i-1.webp",
    "Seedream 5 Lite": "api_bytedance_seedream_5_0_lite_t2i-1.webp",
}
"""Generator → the picture's file in the package."""


def copy_pictures(folder: Path, notes: Path) -> None:
    """Copy the pictures, byte for byte, and add a line on each to a file of notes."""
    folder.mkdir(parents=True, exist_ok=True)
    told = json.loads(notes.read_bytes()) if notes.exists() else {}
    for name, end in PICTURES.items():
        file = folder / f"{name}.webp"
        shutil.copyfile(carried(PACKAGE, end), file)
        told[file.name] = f"Made by {name} ({LICENCE}; carried by {PACKAGE})."
    notes.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def picture_line(result: dict[str, Any]) -> str:
    """A picture's verdict and probability."""
    name = Path(result["file"]).stem
    missed = "" if result["verdict"] == "generated" else "not found"
    return f"{name:<20}{result['verdict']:<10}{result['probability']:.3f}     {missed}".rstrip()


def summary(results: Sequence[dict[str, Any]]) -> str:
    return f"Of {len(results)} pictures by generators: {counted(results)}."


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/generators.py FOLDER")
    copy_pictures(Path(sys.argv[1]) / "generators", Path(sys.argv[1]) / "notes.json")

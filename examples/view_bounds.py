"""Below which size, and with how little texture, a picture cannot be judged: figures of the docs.

    python examples/view_bounds.py BUNDLE MANIFEST [--images 100]

The manifest names pictures of 224 pixels and more a side with labels, as `mpft eval` takes it, and
the bundle must not have learnt from them. By size: their centres, and the same scaled down, both
brought up as the product does it, and repeated to fill the view for comparison. By texture: the
share of pictures without enough, and of flat frames with noise that would pass for pictures.
"""

from __future__ import annotations

import argparse
import io
import itertools
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from mpft_deploy.dataset import Sample, find_samples
from mpft_deploy.fitness import has_texture
from mpft_deploy.images import U8, decode_image
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.screen import Screener
from mpft_deploy.spec import KeepRule
from mpft_deploy.views import bring_up, views, windows_of

SIZES = (32, 64, 96, 128, 192)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--images", type=int, default=100, help="of each class, judged by size")
    arguments = parser.parse_args()
    screener = Screener.open(arguments.bundle)
    samples = find_samples([arguments.manifest])
    by_texture(screener, samples)
    by_size(screener, drawn(samples, arguments.images))


def drawn(samples: list[Sample], count: int) -> list[Sample]:
    """So many of each class, the sources of a class taking turns."""
    rng, out = random.Random(0), []
    for label in (0, 1):
        groups = defaultdict(list)
        for sample in samples:
            if sample.label == label:
                groups[sample.generator or sample.source].append(sample)
        for group in groups.values():
            rng.shuffle(group)
        turns = itertools.zip_longest(*groups.values())
        out += [one for turn in turns for one in turn if one is not None][:count]
    return out


def by_size(screener: Screener, samples: list[Sample]) -> None:
    """Print false alarms, generated images found and AUC by size."""
    size = screener.spec.crop.size
    logits: dict[str, list[float]] = defaultdict(list)
    labels = []
    for sample in samples:
        [whole] = views(decode_image(sample.path), size)
        logits["whole view"].append(screener(whole).logit)
        for side in SIZES:
            [(row, column, _, _)] = windows_of(size, size, side)
            part = whole[row : row + side, column : column + side]
            repeated = np.tile(part, (-(-size // side),) * 2 + (1,))
            less = Image.fromarray(whole).resize((side, side), Image.Resampling.LANCZOS)
            logits[f"centre {side}"].append(screener(bring_up(part, size)).logit)
            logits[f"scaled {side}"].append(screener(bring_up(np.asarray(less), size)).logit)
            logits[f"repeated {side}"].append(screener(views(repeated, size)[0]).logit)
        labels.append(sample.label)
    real = np.array(labels) == 0
    for name, values in logits.items():
        a, b = np.array(values)[real], np.array(values)[~real]
        auc = np.mean((b[:, None] > a) + 0.5 * (b[:, None] == a))
        threshold = screener.calibration.logit_threshold
        print(f"{name:13} {np.mean(a >= threshold):6.1%} {np.mean(b >= threshold):6.1%} {auc:.3f}")


def by_texture(screener: Screener, samples: list[Sample]) -> None:
    """Print the share of pictures, and of flat frames, that have enough texture."""
    told = [(sample.label, enough(screener, decode_image(sample.path))) for sample in samples]
    for label, name in enumerate(("real", "generated")):
        these = [telling for one, telling in told if one == label]
        print(f"{name}: {len(these)} views, {1 - np.mean(these):.1%} without enough texture")
    frames = [enough(screener, frame) for frame in flat_frames(screener.spec.crop.size)]
    print(f"flat with noise: {len(frames)} views, {np.mean(frames):.2%} with enough texture")


def enough(screener: Screener, frame: U8) -> bool:
    """Whether a frame's centre view has enough texture."""
    spec = screener.spec
    view = views(frame, spec.crop.size)
    scores = texture_patchify(view, spec.patch, KeepRule("all")).scores
    return bool(has_texture(spec.crop, view, scores, spec.patch)[0])


def flat_frames(size: int) -> list[U8]:
    """Walls of several levels, even or darker to a side, with noise, as they are and as JPEG."""
    rng, out = np.random.default_rng(0), []
    for level, fall, deviation, channels in itertools.product(
        (3, 30, 90, 150, 200, 230, 250), (0, 40), (0, 1, 2, 3, 4), (1, 3)
    ):
        wall = level - np.linspace(0, fall, size)[:, None, None]
        noise = rng.normal(0, deviation, (size, size, channels))
        frame = np.broadcast_to((wall + noise).round().clip(0, 255), (size, size, 3))
        out.append(frame.astype(np.uint8))
        for quality in (40, 60, 75, 85, 95):
            file = io.BytesIO()
            Image.fromarray(out[-1]).save(file, "JPEG", quality=quality)
            out.append(np.asarray(Image.open(file).convert("RGB")))
    return out


if __name__ == "__main__":
    main()

"""What an image's file says of itself, and how well that alone tells the classes apart.

Data sets differ between the classes in size, format and quality, and a detector may have learnt
those in place of pictures: beside its figures stand those of a logistic regression that sees
nothing else.
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from mpft_deploy.evaluate.metrics import F64, I64

if TYPE_CHECKING:
    import pyarrow as pa

FOLDS = 5
LEAST = 10
"""Images of each class, below which nothing is fitted."""

STANDARD = 3688
"""Sum of the luminance table of JPEG's standard, which is quality 50 (ITU-T T.81, annex K)."""

EXIF, WIDTH, HEIGHT = 0x8769, 0xA002, 0xA003
"""Of EXIF: the block, and width and height of the picture as it was taken."""


class Metadata(NamedTuple):
    """What a file says: pixels, bytes, format, JPEG quality (0 if it has none), and by how much its
    EXIF says that it was shrunk (1 if it says nothing)."""

    width: int
    height: int
    bytes: int
    format: str
    quality: int
    shrink: float


NAMES = Metadata._fields
NOTHING = Metadata(0, 0, 0, "", 0, 1.0)


def read_metadata(data: bytes) -> Metadata:
    """Of an image file's bytes; what cannot be read says nothing. No picture is decoded."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
            tables = getattr(image, "quantization", None) or {}
            taken = _taken(image)
    except Exception:  # whatever stops Pillow, the picture itself was read otherwise
        return NOTHING._replace(bytes=len(data))
    width, height = image.size
    shrink = max(taken) / max(width, height) if all(taken) else 1.0
    quality = _quality(sum(tables[0])) if 0 in tables else 0
    return Metadata(width, height, len(data), image.format or "", quality, max(1.0, shrink))


def _taken(image: object) -> tuple[int, int]:
    """Width and height that EXIF states, 0 where it does not."""
    try:
        block = image.getexif().get_ifd(EXIF)  # type: ignore[attr-defined]
        return int(block.get(WIDTH, 0)), int(block.get(HEIGHT, 0))
    except Exception:
        return 0, 0


def _quality(luminance: int) -> int:
    """The quality, 1 to 100, whose luminance table has that sum, as libjpeg scales it."""
    scale = 100 * luminance / STANDARD
    return int(np.clip(round((200 - scale) / 2 if scale <= 100 else 5000 / scale), 1, 100))


def features(table: pa.Table) -> F64:
    """Columns of Metadata as numbers, f64 [n, F]."""
    column = {name: table[name].to_pylist() for name in NAMES}
    width, height, size, quality, shrink = (
        np.array(column[name], np.float64)
        for name in ("width", "height", "bytes", "quality", "shrink")
    )
    pixels = np.maximum(width * height, 1)
    kinds = np.array(column["format"])
    return np.stack(
        [
            np.log(np.maximum(width, 1)),
            np.log(np.maximum(height, 1)),
            np.log(np.maximum(width, 1) / np.maximum(height, 1)),
            np.log(np.maximum(size, 1) / pixels),
            quality / 100,
            np.log(shrink),
            *((kinds == kind).astype(np.float64) for kind in sorted(set(column["format"]))),
        ],
        axis=1,
    )


def held_out_logits(of: F64, labels: I64) -> npt.NDArray[np.float64] | None:
    """Logits f64 [n] of a regression that did not see the image; None of too few images.

    Both classes weigh alike, in FOLDS folds that have their share of each.

    Args:
        of: f64 [n, F].
        labels: [n], 1 for generated.
    """
    if min(np.bincount(labels, minlength=2)) < LEAST:
        return None
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000)
    )
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    logits = cross_val_predict(model, of, labels, cv=folds, method="decision_function")
    return np.asarray(logits, np.float64)

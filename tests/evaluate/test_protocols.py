"""Protocols: the same for both classes, and the same every time."""

from __future__ import annotations

import media
import numpy as np
import pytest

from mpft_deploy.errors import UsageError
from mpft_deploy.evaluate.protocols import ROBUSTNESS, changed_frames, protocol_names, resave
from mpft_deploy.images import U8
from mpft_deploy.views import views

FRAME = media.picture(90, 70)


def protocol_views(frame: U8, names: list[str], digest: str) -> list[U8]:
    """The one view u8 [1, 32, 32, 3] of a frame under each protocol."""
    return [views(changed, 32) for changed in changed_frames(frame, names, digest)]


def test_every_protocol_follows_from_the_image_and_changes_it() -> None:
    names = protocol_names(robustness=True)
    once = np.concatenate(protocol_views(FRAME, names, "ab" * 32))
    assert once.shape == (len(names), 32, 32, 3)
    again = np.concatenate(protocol_views(FRAME, names, "ab" * 32))
    np.testing.assert_array_equal(once, again)
    assert len({view.tobytes() for view in once}) == len(names)
    # A protocol does not depend on which others are asked for.
    for name, view in zip(names, once, strict=True):
        np.testing.assert_array_equal(protocol_views(FRAME, [name], "ab" * 32)[0][0], view)
    np.testing.assert_array_equal(once[0], views(FRAME, 32)[0])
    np.testing.assert_array_equal(once[1], views(resave(FRAME, "JPEG", 96), 32)[0])


def test_chance_comes_from_the_image() -> None:
    random = [name for name in ROBUSTNESS if name.startswith(("noise", "crop", "screenshot"))]
    one, other = (protocol_views(FRAME, random, digest * 32) for digest in ("ab", "cd"))
    assert all((a != b).any() for a, b in zip(one, other, strict=True))


def test_lower_quality_and_stronger_noise_change_more() -> None:
    aligned = protocol_views(FRAME, ["aligned"], "00" * 32)[0][0].astype(int)

    def change(name: str) -> float:
        view = protocol_views(FRAME, [name], "00" * 32)[0][0]
        return float(np.abs(view - aligned).mean())

    assert change("jpeg-95") < change("jpeg-70") < change("jpeg-40")
    assert change("noise-5") < change("noise-10")
    assert change("noise-5") == pytest.approx(5 * (2 / np.pi) ** 0.5, rel=0.1)


def test_frames_of_one_pixel_go_through_all() -> None:
    names = protocol_names(robustness=True)
    views_ = np.concatenate(protocol_views(np.full((1, 1, 3), 77, np.uint8), names, "00" * 32))
    assert views_.shape == (len(names), 32, 32, 3)


def test_unknown_protocols_are_refused() -> None:
    with pytest.raises(UsageError, match="sepia"):
        protocol_views(FRAME, ["sepia"], "00" * 32)

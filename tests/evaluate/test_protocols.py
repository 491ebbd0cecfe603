"""Protocols: the same for both classes, and the same every time."""

from __future__ import annotations

import media
import numpy as np
import pytest
from PIL import Image

from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.evaluate.protocols import (
    BASIC,
    PAN,
    ROBUSTNESS,
    changed_frames,
    protocol_names,
    resave,
)
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
    assert change("resize-0.75") < change("resize-0.35")
    assert change("noise-5") == pytest.approx(5 * (2 / np.pi) ** 0.5, rel=0.1)


def test_edits_do_what_they_are_called() -> None:
    """Grey has no colours, more saturation has more; sharpening widens what differs finely."""
    photo = np.asarray(Image.fromarray(FRAME).resize((96, 96), Image.Resampling.BICUBIC))

    def edited(name: str) -> np.ndarray:
        return ROBUSTNESS[name](photo, np.random.default_rng(0)).astype(int)

    def fine(frame: np.ndarray) -> float:
        return float(np.abs(np.diff(frame.astype(int), axis=0)).mean())

    assert np.ptp(edited("colour-0"), axis=2).max() == 0
    assert np.ptp(edited("colour-1.5"), axis=2).mean() > 1.2 * np.ptp(photo, axis=2).mean()
    assert fine(photo) < fine(edited("sharpen-60")) < fine(edited("sharpen-150"))


def test_video_moves_the_picture_and_costs_what_its_rate_says() -> None:
    """The pan is found again, and less of the picture is left the fewer bits there are."""
    rng = np.random.default_rng(5)
    coarse = np.asarray(Image.fromarray(rng.integers(0, 256, (7, 8, 3), np.uint8)).resize((80, 71)))

    def error(name: str) -> float:
        seen = ROBUSTNESS[name](coarse, np.random.default_rng(1)).astype(int)
        assert seen.shape == coarse.shape
        inner = (slice(PAN, -PAN), slice(PAN, -PAN))
        shifted = [
            np.abs(np.roll(seen, (down, right), (0, 1))[inner] - coarse[inner]).mean()
            for down in range(-PAN, PAN + 1)
            for right in range(-PAN, PAN + 1)
        ]
        assert np.argmin(shifted) != len(shifted) // 2  # it moved
        return float(min(shifted))

    assert error("h264-crf-18") < error("h264-crf-28") < error("h264-crf-34") < 12
    assert error("h264-4-mbit") < error("h264-1-mbit")
    assert error("h265-crf-28") < 12


def test_frames_of_one_pixel_go_through_all() -> None:
    names = protocol_names(robustness=True)
    views_ = np.concatenate(protocol_views(np.full((1, 1, 3), 77, np.uint8), names, "00" * 32))
    assert views_.shape == (len(names), 32, 32, 3)


def test_what_is_longer_than_a_codec_takes_is_told() -> None:
    for length, fits, fails in ((16_384, BASIC, "webp-80"), (16_384, BASIC, "h264-crf-18"),
                                (65_501, ["raw"], "aligned")):  # fmt: skip
        for frame in (np.zeros((length, 8, 3), np.uint8), np.zeros((8, length, 3), np.uint8)):
            assert len(list(changed_frames(frame, fits, "ab" * 32))) == len(fits)
            with pytest.raises(InputError, match=f"{length} pixels a side .* protocol {fails}"):
                list(changed_frames(frame, [*fits, fails], "ab" * 32))
    for name in ("webp-80", "h264-crf-18", "h265-crf-28"):  # and no less
        frame = np.zeros((16_383, 64, 3), np.uint8)
        assert [one.shape for one in changed_frames(frame, [name], "ab" * 32)] == [frame.shape]


def test_unknown_protocols_are_refused() -> None:
    with pytest.raises(UsageError, match="sepia"):
        protocol_views(FRAME, ["sepia"], "00" * 32)

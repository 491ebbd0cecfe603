"""CPU versions of texture_patchify equal the oracle byte for byte, and the oracle a plain loop."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from equality import LAYOUTS, PICTURES, assert_equal, assert_equals_oracle, lay_out, picture
from hypothesis import given, settings
from hypothesis import strategies as st

from mpft_deploy.kernels.texture_patchify import oracle, registry
from mpft_deploy.kernels.texture_patchify.oracle import U8, Patches
from mpft_deploy.spec import KeepRule

VERSIONS = [one.name for one in registry.IMPLEMENTATIONS if one.device == "cpu"]


def version(name: str) -> registry.Implementation:
    """The implementation of that name; skips the test where it does not run."""
    (one,) = (one for one in registry.IMPLEMENTATIONS if one.name == name)
    if reason := one.why_not():
        pytest.skip(f"{name}: {reason}")
    return one


@st.composite
def requests(draw: st.DrawFn) -> tuple[U8, int, KeepRule, int]:
    """Images in any layout, patch, keep rule and seed."""
    patch = draw(st.one_of(st.sampled_from((4, 8, 14, 16)), st.integers(4, 64)))
    grid = draw(st.integers(1, 6 if patch <= 16 else 3))
    images = picture(
        draw(st.sampled_from(PICTURES)),
        draw(st.integers(0, 3)),
        grid * patch,
        draw(st.integers(0, 1000)),
    )
    kind = draw(st.sampled_from(("smooth", "textured", "random", "all")))
    keep = KeepRule(kind, None if kind == "all" else draw(st.integers(1, grid * grid)))
    layout = draw(st.sampled_from(LAYOUTS))
    return lay_out(images, layout), patch, keep, draw(st.integers(0, 2**64 - 1))


# The oracle against the definition in plain loops.


def slow_texture_patchify(
    image: list[list[list[int]]], patch: int, keep: KeepRule, seed: int
) -> tuple[list[list[int]], list[int], list[int]]:
    """One image by loops over Python integers: patches, positions, scores."""
    size = len(image)
    cells = [(r, c) for r in range(0, size, patch) for c in range(0, size, patch)]

    def score(top: int, left: int) -> int:
        total = 0
        for r in range(top, top + patch):
            for c in range(left, left + patch):
                right, down = c + 1 < left + patch, r + 1 < top + patch
                for channel in range(3):
                    here = image[r][c][channel]
                    if right:
                        total += abs(here - image[r][c + 1][channel])
                    if down:
                        total += abs(here - image[r + 1][c][channel])
                    if right and down:
                        total += abs(here - image[r + 1][c + 1][channel])
                        total += abs(image[r][c + 1][channel] - image[r + 1][c][channel])
        return total

    def mix(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
        return x ^ (x >> 31)

    scores = [score(*cell) for cell in cells]
    start = mix(sum(mix((i << 32) + s) for i, s in enumerate(scores)) % 2**64 ^ mix(seed))
    order = {
        "smooth": lambda i: (scores[i], i),
        "textured": lambda i: (-scores[i], i),
        "random": lambda i: (mix((start + i) % 2**64), i),
        "all": lambda i: (0, i),
    }[keep.kind]
    kept = sorted(sorted(range(len(cells)), key=order)[: keep.resolve(len(cells))])
    patches = [
        [
            image[cells[i][0] + r][cells[i][1] + c][channel]
            for r in range(patch)
            for c in range(patch)
            for channel in range(3)
        ]
        for i in kept
    ]
    return patches, kept, scores


@given(
    patch=st.sampled_from((4, 5, 6)),
    grid=st.integers(1, 3),
    kind=st.sampled_from(PICTURES),
    rule=st.sampled_from(("smooth", "textured", "random", "all")),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**64 - 1),
)
@settings(max_examples=60, deadline=None)
def test_oracle_is_the_definition(
    patch: int, grid: int, kind: str, rule: str, share: float, seed: int
) -> None:
    count = 1 + int(share * (grid * grid - 1))
    keep = KeepRule.parse("all" if rule == "all" else f"{rule}:{count}")
    images = picture(kind, 2, grid * patch, seed % 1000)
    found = oracle.texture_patchify(images, patch, keep, seed)
    for i, image in enumerate(images.tolist()):
        patches, positions, scores = slow_texture_patchify(image, patch, keep, seed)
        assert found.scores[i].tolist() == scores
        assert found.positions[i].tolist() == positions
        assert found.patches[i].tolist() == patches


# Every version against the oracle.


@pytest.mark.parametrize("name", VERSIONS)
def test_version_equals_oracle(name: str) -> None:
    one = version(name)
    assert_equals_oracle(lambda *request: one.run(*request, None))


@pytest.mark.parametrize("name", VERSIONS)
@given(request_=requests())
@settings(max_examples=150, deadline=None)
def test_version_equals_oracle_anywhere(name: str, request_: tuple[U8, int, KeepRule, int]) -> None:
    one = version(name)
    expected = oracle.texture_patchify(*request_)
    assert_equal(one.run(*request_, None), expected)
    out = Patches(*(np.full_like(array, 77) for array in expected))
    assert one.run(*request_, out) is out
    assert_equal(out, expected)


@pytest.mark.parametrize("name", VERSIONS)
def test_largest_score(name: str) -> None:
    """Vertical stripes of 0 and 255 differ in three directions of four, at every pixel."""
    images = np.zeros((1, 64, 64, 3), np.uint8)
    images[:, :, ::2] = 255
    found = version(name).run(images, 64, KeepRule("all"), 0, None)
    assert found.scores.tolist() == [[255 * 3 * (64 * 63 + 2 * 63 * 63)]]


@pytest.mark.parametrize("name", VERSIONS)
def test_many_cells(name: str) -> None:
    images = picture("noise", 1, 1024, 3)
    for keep in map(KeepRule.parse, ("textured:20000", "smooth:1", "random:65536")):
        expected = oracle.texture_patchify(images, 4, keep, 5)
        assert_equal(version(name).run(images, 4, keep, 5, None), expected)


@pytest.mark.parametrize("name", [name for name in VERSIONS if name != "numpy"])
def test_crop_of_a_large_frame_is_read_in_place(name: str) -> None:
    one = version(name)
    frame = np.random.default_rng(0).integers(0, 256, (1, 2160, 3840, 3), np.uint8)
    crop, keep = frame[:, 900:1124, 2000:2224], KeepRule.parse("textured:96")
    out = one.run(crop, 16, keep, 0, None)
    expected = oracle.texture_patchify(crop, 16, keep)
    tracemalloc.start()
    one.run(crop, 16, keep, 0, out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4096, "with `out`, only small objects of Python are allocated"
    assert_equal(out, expected)

"""Where of a source's picture is looked: regions, each decided by itself, and masks.

Places are fractions of the picture, so that they follow a change of resolution.
"""

from __future__ import annotations

import math
from typing import Annotated, TypeAlias

import msgspec

from mpft_deploy.spec import Record
from mpft_deploy.views import Masks, Window

MOST = 16
"""Regions of a source, and masks of it."""

SLACK = 1e-9
"""By which fractions such as 0.1 + 0.9 may miss 1."""

Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Box: TypeAlias = tuple[Fraction, Fraction, Fraction, Fraction]
"""Left, top, width and height, in fractions of a picture."""

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


class Region(Record, frozen=True):
    """A part of the picture that is judged and decided by itself; name: within its source."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=60)]
    box: Box

    def __post_init__(self) -> None:
        if not self.name.isprintable() or self.name != self.name.strip() or "/" in self.name:
            raise ValueError(f"name {self.name!r}: write printable characters, and no /")
        _check(self.box)


Regions: TypeAlias = Annotated[tuple[Region, ...], msgspec.Meta(max_length=MOST)]
Boxes: TypeAlias = Annotated[tuple[Box, ...], msgspec.Meta(max_length=MOST)]


class Areas(Record, frozen=True):
    """Where is looked; without regions at the whole, by the detector's policy.

    masks: which no judged window touches.
    """

    regions: Regions = ()
    masks: Boxes = ()

    def __post_init__(self) -> None:
        names = [region.name for region in self.regions]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two regions are called {name!r}: give each its own name")
        for mask in self.masks:
            _check(mask)


def stream_name(source: str, region: str) -> str:
    """What a region is called beside other sources; a source itself without one."""
    return f"{source}/{region}" if region else source


def pixels_of(box: Box, height: int, width: int, *, outward: bool = False) -> Window:
    """The pixels of a box of a picture, one at least: to the nearest, or all that it touches."""
    left, top, wide, tall = box
    first, last = (math.floor, math.ceil) if outward else (round, round)
    row, column = min(first(top * height), height - 1), min(first(left * width), width - 1)
    below, right = min(last((top + tall) * height), height), min(last((left + wide) * width), width)
    return Window(row, column, max(1, below - row), max(1, right - column))


def masks_in(masks: tuple[Box, ...], region: Window, height: int, width: int) -> Masks:
    """What masks of a picture hide of a region of it, in the region's own pixels."""
    found = []
    for mask in masks:
        row, column, tall, wide = pixels_of(mask, height, width, outward=True)
        top, left = max(row - region.row, 0), max(column - region.column, 0)
        below = min(row + tall - region.row, region.height)
        right = min(column + wide - region.column, region.width)
        if top < below and left < right:
            found.append(Window(top, left, below - top, right - left))
    return tuple(found)


def _check(box: Box) -> None:
    left, top, wide, tall = box
    if not (wide > 0 and tall > 0 and left + wide <= 1 + SLACK and top + tall <= 1 + SLACK):
        raise ValueError(
            f"{list(box)}: write [left, top, width, height] in fractions of the picture, "
            "for example [0.5, 0, 0.5, 1] for its right half"
        )

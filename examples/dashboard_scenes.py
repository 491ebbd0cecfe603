"""Drawn pictures for the dashboard's demo: places as cameras show them, and one that never was."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Pixels = npt.NDArray[np.uint8]

WIDTH, HEIGHT = 1280, 720


def _canvas(top: tuple[int, int, int], bottom: tuple[int, int, int]) -> Image.Image:
    """A vertical gradient."""
    share = np.linspace(0, 1, HEIGHT)[:, None, None]
    rows = np.asarray(top) * (1 - share) + np.asarray(bottom) * share
    return Image.fromarray(np.broadcast_to(rows, (HEIGHT, WIDTH, 3)).astype(np.uint8))


def _ridge(rng: np.random.Generator, level: float, roughness: float) -> list[tuple[float, float]]:
    """The outline of a hill, closed at the bottom."""
    x = np.linspace(0, WIDTH, 161)
    y = np.full_like(x, level)
    for octave in range(1, 7):
        y += roughness / octave**1.3 * np.sin(x / WIDTH * math.tau * octave + rng.uniform(0, 9))
    return [(0, HEIGHT), *zip(x.tolist(), y.tolist(), strict=True), (WIDTH, HEIGHT)]


def valley(rng: np.random.Generator) -> Image.Image:
    """Hills behind hills."""
    image = _canvas((126, 168, 204), (238, 214, 186))
    draw = ImageDraw.Draw(image)
    for step in range(5):
        shade = tuple(int(c) for c in np.array([150, 168, 178]) * (1 - 0.19 * step))
        draw.polygon(_ridge(rng, 330 + 75 * step, 46 + 6 * step), fill=shade)
    for _ in range(240):
        x, y = rng.uniform(0, WIDTH), rng.uniform(560, 720)
        tall = (y - 520) / 3
        draw.polygon([(x, y - tall), (x - tall / 4, y), (x + tall / 4, y)], fill=(24, 40, 36))
    return image


def street(rng: np.random.Generator) -> Image.Image:
    """Houses along a road, in the evening."""
    image = _canvas((46, 58, 92), (196, 134, 112))
    draw = ImageDraw.Draw(image)
    x = 0.0
    while x < WIDTH:
        width, tall = rng.uniform(90, 170), rng.uniform(170, 380)
        shade = int(rng.uniform(34, 62))
        draw.rectangle((x, 500 - tall, x + width, 520), fill=(shade, shade + 4, shade + 16))
        for wx in np.arange(x + 14, x + width - 20, 28):
            for wy in np.arange(516 - tall, 480, 38):
                lit = rng.random() < 0.4
                draw.rectangle(
                    (wx, wy, wx + 13, wy + 20), fill=(244, 206, 128) if lit else (40, 46, 62)
                )
        x += width + rng.uniform(0, 14)
    draw.polygon([(0, 510), (WIDTH, 510), (WIDTH, HEIGHT), (0, HEIGHT)], fill=(52, 54, 62))
    for number in range(9):
        left = 60 + number * 150
        draw.polygon(
            [(left, 608), (left + 80, 608), (left + 92, 618), (left + 4, 618)], fill=(206, 202, 184)
        )
    for left, shade in ((250, (150, 44, 48)), (760, (58, 92, 140))):
        draw.rounded_rectangle((left, 556, left + 180, 604), 14, fill=shade)
        draw.rounded_rectangle((left + 36, 526, left + 142, 566), 14, fill=shade)
        draw.rounded_rectangle((left + 46, 533, left + 134, 556), 6, fill=(150, 170, 190))
        for wheel in (left + 40, left + 142):
            draw.ellipse((wheel - 19, 586, wheel + 19, 624), fill=(20, 20, 24))
    return image


def store(rng: np.random.Generator) -> Image.Image:
    """Shelves down an aisle."""
    image = _canvas((208, 212, 216), (150, 150, 148))
    draw = ImageDraw.Draw(image)
    draw.polygon([(0, 720), (560, 330), (720, 330), (1280, 720)], fill=(186, 182, 172))
    for lamp in range(5):
        y, half = 40 + 52 * lamp, 130 - 22 * lamp
        draw.rectangle((640 - half, y, 640 + half, y + 12 - lamp), fill=(252, 252, 246))
    for side in (-1, 1):
        for depth in np.linspace(0, 1, 12)[::-1]:
            scale = 1 / (0.32 + 1.7 * depth)
            x = 640 + side * 210 * scale
            wide = 66 * scale
            for level in range(4):
                y = 345 + (level - 2.2) * 76 * scale
                hue = rng.integers(60, 215, 3)
                box = sorted((x, x + side * wide))
                draw.rectangle((box[0], y, box[1], y + 58 * scale), fill=tuple(map(int, hue)))
                draw.rectangle((box[0], y + 58 * scale, box[1], y + 66 * scale), fill=(92, 96, 104))
    return image


def harbour(rng: np.random.Generator) -> Image.Image:
    """Water, cranes and a low sun."""
    image = _canvas((110, 146, 178), (236, 200, 150))
    draw = ImageDraw.Draw(image)
    draw.ellipse((880, 250, 990, 360), fill=(255, 238, 196))
    draw.rectangle((0, 430, WIDTH, HEIGHT), fill=(58, 88, 108))
    for _ in range(700):
        y = 430 + 290 * rng.random() ** 1.4
        x, wide = rng.uniform(0, WIDTH), 6 + (y - 430) / 5
        glow = max(0.0, 1 - abs(x - 935) / 260)
        shade = np.array([70, 102, 122]) + glow * np.array([160, 110, 40])
        draw.line((x, y, x + wide, y), fill=tuple(map(int, shade)), width=2)
    for x in (90, 300, 520):
        draw.line((x, 430, x + 20, 180), fill=(44, 50, 58), width=9)
        draw.line((x + 70, 430, x + 50, 180), fill=(44, 50, 58), width=9)
        draw.line((x - 70, 200, x + 220, 190), fill=(160, 66, 46), width=10)
        draw.line((x + 180, 190, x + 180, 320), fill=(44, 50, 58), width=3)
    for row in range(4):
        for column in range(11):
            hue = rng.integers(50, 190, 3)
            left, top = 20 + column * 62, 300 + row * 32
            draw.rectangle((left, top, left + 58, top + 29), fill=tuple(map(int, hue)))
    return image


def dream(rng: np.random.Generator) -> Image.Image:
    """A face that never was: smooth, glossy, too symmetric."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    x, y = (x - WIDTH / 2) / 340, (y - HEIGHT / 2) / 340
    swirl = np.sin(3 * np.hypot(x, y) - 2 * np.arctan2(y, np.abs(x) + 1e-3) + rng.uniform(0, 1))
    base = np.stack(
        [
            120 + 90 * np.cos(swirl + 0.4),
            86 + 60 * np.cos(swirl + 2.1),
            150 + 80 * np.cos(swirl + 4),
        ]
    )
    image = Image.fromarray(np.clip(np.moveaxis(base, 0, -1), 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse((420, 60, 860, 690), fill=(58, 34, 44))
    draw.rounded_rectangle((570, 540, 710, 730), 60, fill=(206, 160, 138))
    draw.ellipse((470, 130, 810, 620), fill=(236, 196, 172))
    for eye in (565, 715):
        draw.ellipse((eye - 46, 318, eye + 46, 368), fill=(250, 248, 246))
        draw.ellipse((eye - 22, 320, eye + 22, 366), fill=(66, 116, 150))
        draw.ellipse((eye - 9, 333, eye + 9, 353), fill=(12, 14, 20))
        draw.arc((eye - 58, 268, eye + 58, 330), 200, 340, fill=(84, 50, 44), width=9)
    draw.line((640, 370, 624, 452), fill=(206, 152, 130), width=7)
    draw.arc((600, 430, 668, 470), 20, 160, fill=(196, 138, 120), width=6)
    draw.chord((574, 492, 706, 558), 8, 172, fill=(196, 84, 92))
    return image.filter(ImageFilter.GaussianBlur(3))


SCENES: list[Callable[[np.random.Generator], Image.Image]] = [street, store, harbour, valley]

_Y, _X = np.ogrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
CORNERS = (1 - 0.11 * (_X**2 + _Y**2))[..., None].astype(np.float32)
"""Share of the light that reaches each pixel."""


def photographed(image: Image.Image) -> Pixels:
    """Through a lens: a little soft, with dark corners."""
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(0.6)))
    return (pixels * CORNERS).astype(np.uint8)

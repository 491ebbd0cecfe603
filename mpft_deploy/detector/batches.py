"""Training batches: which image comes when, and how it is cropped. Everything follows from a seed.

Nothing here keeps state between steps, so a run that was interrupted goes on with the very batches
it would have had, however many threads load them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import count, cycle, islice
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch

from mpft_deploy.ahead import ahead
from mpft_deploy.dataset import Sample, require_few
from mpft_deploy.detector.backbone import Geometry
from mpft_deploy.detector.evaluate import BATCH
from mpft_deploy.detector.model import encode
from mpft_deploy.detector.processes import threads
from mpft_deploy.errors import InputError
from mpft_deploy.evaluate.protocols import (
    Interpolation,
    blur,
    filmed,
    recolour,
    resave,
    resize,
)
from mpft_deploy.images import read_picture
from mpft_deploy.packed import block_of
from mpft_deploy.spec import KeepRule, parse_mixture
from mpft_deploy.views import Window, bring_up, view_side

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

AHEAD = 3
"""Batches that are prepared before they are asked for."""

RESIZED, BLURRED, FILMED, WEBP = 0.6, 0.1, 0.125, 0.25
"""Shares of what is disturbed; WebP is that of what is not filmed. All others are JPEG."""

COLOURED = 4
"""Looks at an image in its colours; later ones are without any, as an infrared camera's."""

SCALES = (0.7, 1.4)
INTERPOLATIONS = get_args(Interpolation)
SAMPLINGS = ("4:2:0", "4:4:4")

NEAR = 8
"""Blocks of a class whose samples are drawn together, so that few are in memory at a time."""

AROUND = 2
"""Side of what is decoded of an image, in sides of a view: enough to be shrunk and then cut."""


@dataclass(frozen=True)
class Masking:
    """How the cells of training views are kept: rules, what becomes of the others, cell side.

    Of several rules, neighbouring pairs of views (one real, one generated) take turns.
    """

    rules: tuple[KeepRule, ...]
    zero_fill: bool
    patch: int
    size: int

    @classmethod
    def parse(cls, text: str, geometry: Geometry, *, zero_fill: bool) -> Masking:
        """From rules as `TrainSettings.train_keep` has them."""
        rules = parse_mixture(text, geometry.cells)
        return cls(rules, zero_fill, geometry.patch, geometry.size)

    def encode(self, crops: U8, seed: int, first: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Views u8 [B, S, S, 3] → patches u8 [B, K, 3·p·p] and positions i32 [B, K].

        Args:
            seed: of a random rule.
            first: place of the first view in its batch.
        """
        parts = [
            encode(crop[None], self.patch, rule, seed=seed, zero_fill=self.zero_fill)
            for crop, rule in zip(crops, islice(cycle(self._turns()), first, None), strict=False)
        ]
        patches, positions = zip(*parts, strict=True)
        return torch.cat(patches), torch.cat(positions)

    def _turns(self) -> list[KeepRule]:
        return [rule for rule in self.rules for _ in (0, 1)]


@dataclass(frozen=True)
class Batch:
    """What a step learns from.

    patches u8 [n, K, 3·p·p], positions i32 [n, K], of this process's share of the batch.
    labels f32 [B], of all of it (1 generated).
    """

    patches: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor


class BalancedOrder:
    """Which sample fills which place of which batch: the classes take turns.

    Each class is gone through in a new random order again and again, so the smaller one repeats.
    """

    def __init__(
        self,
        labels: Sequence[int],
        batch: int,
        seed: int,
        blocks: Sequence[Hashable],
    ) -> None:
        """An order of samples.

        Args:
            labels: 0 or 1, both present.
            batch: images a batch.
            seed: of the order.
            blocks: what is best read together, of each sample, or what is its own; NEAR of them are
                drawn at a time, and then their samples.
        """
        self.batch, self.seed = batch, seed
        numbers: dict[Hashable, int] = {}
        self._blocks = np.array([numbers.setdefault(one, len(numbers)) for one in blocks], np.int64)
        self._members = [np.flatnonzero(np.asarray(labels) == label) for label in (0, 1)]
        self._order = lru_cache(maxsize=4)(self._permutation)

    def indices(self, step: int) -> I64:
        """i64 [batch]: indices of the samples of a step."""
        places = range(step * self.batch, (step + 1) * self.batch)
        return np.array([next(self.candidates(place)) for place in places], np.int64)

    def candidates(self, place: int) -> Iterator[int]:
        """The sample of a place, counted from the first step's first, then those that come later.

        Any of them takes its place where it cannot be read.
        """
        label, first = place % 2, place // 2
        members = self._members[label]
        for turn in count(first):
            round_, at = divmod(turn, len(members))
            yield int(members[self._order(label, round_)[at]])

    def _permutation(self, label: int, round_: int) -> I64:
        rng = np.random.default_rng((self.seed, label, round_))
        of = self._blocks[self._members[label]]
        turns = rng.permutation(of.max() + 1)[of] // NEAR
        return np.lexsort((rng.random(len(of)), turns))


def random_crop(frame: U8, size: int, rng: np.random.Generator) -> U8:
    """A view u8 [size, size, 3] at a random place, flipped left to right half of the time."""
    height, width = frame.shape[:2]
    side = view_side(height, width, size)
    top = int(rng.integers(height - side + 1))
    left = int(rng.integers(width - side + 1))
    crop = bring_up(frame[top : top + side, left : left + side], size)
    return crop[:, ::-1] if rng.integers(2) else crop


def disturb(frame: U8, rng: np.random.Generator, share: float, least: int = 1) -> U8:
    """A frame as it may arrive, in a `share` of cases: resized or blurred, and re-saved or filmed.

    Real and generated images are treated alike, so that no trace of a format or a resize tells them
    apart.

    Args:
        least: pixels of a side that a larger frame is not shrunk below.
    """
    if rng.random() >= share:
        return frame
    drawn = rng.random()
    if drawn < RESIZED:
        low = min(1.0, max(SCALES[0], least / min(frame.shape[:2])))
        factor = float(np.exp(rng.uniform(np.log(low), np.log(SCALES[1]))))
        frame = resize(frame, rng, factor=factor, kind=INTERPOLATIONS[rng.integers(4)])
    elif drawn < RESIZED + BLURRED:
        frame = blur(frame, rng, radius=float(rng.uniform(0.3, 1.0)))
    if rng.random() < FILMED:
        return filmed(frame, rng, crf=str(rng.integers(18, 33)))
    kind, sampling = "WEBP" if rng.random() < WEBP else "JPEG", SAMPLINGS[rng.integers(2)]
    return resave(frame, kind, int(rng.integers(50, 97)), sampling)


def read_around(path: Path, size: int, rng: np.random.Generator) -> U8:
    """A window u8 [H, W, 3] at a random place of an image, large enough for views of `size`.

    Each view of it is as likely as any other, but for those at the edges, which are likelier. Of a
    JPEG, little more than the window is decoded.
    """
    drawn = rng.random(2)

    def window(height: int, width: int) -> Window:
        sides = [min(side, AROUND * size) for side in (height, width)]
        corner = [
            int(np.clip(np.floor(share * (whole + side - 2 * size + 1)) - side + size, 0, last))
            for share, whole, side, last in zip(
                drawn, (height, width), sides, (height - sides[0], width - sides[1]), strict=True
            )
        ]
        return Window(corner[0], corner[1], sides[0], sides[1])

    picture = read_picture(path, window=window)
    if picture.whole is not None:
        return picture.pixels
    row, column, height, width = window(*picture.pixels.shape[:2])
    return picture.pixels[row : row + height, column : column + width]


def disturbed_crops(
    samples: Sequence[Sample], size: int, seed: int, look: int, places: Sequence[int] | None = None
) -> Iterator[U8]:
    """A random view u8 [n, size, size, 3] of each image as it may arrive, BATCH at a time.

    Each `look` gives other views, from COLOURED on grey ones. The next BATCH is made while the
    consumer works.

    Args:
        places: of the samples, those whose views are asked for; None for all.
    """
    make = partial(_disturbed, samples, size, (seed, 4, look))
    wanted = range(len(samples)) if places is None else places
    with ThreadPoolExecutor(threads()) as pool:
        made = ahead(make, wanted, pool, depth=BATCH)
        while part := list(islice(made, BATCH)):
            yield np.stack(part)


def _disturbed(samples: Sequence[Sample], size: int, seed: tuple[int, ...], place: int) -> U8:
    rng = np.random.default_rng((*seed, place))
    frame = read_around(samples[place].path, size, np.random.default_rng((*seed, place, 1)))
    if seed[-1] >= COLOURED:
        frame = recolour(frame, rng, colour=0.0)
    return random_crop(disturb(frame, rng, 1.0, size), size, rng)


def training_batches(
    samples: Sequence[Sample],
    masking: Masking,
    *,
    batch: int,
    seed: int,
    first: int,
    stop: int,
    augment: float = 0.0,
    share: range | None = None,
    workers: int | None = None,
    report: Callable[[str], None] = lambda text: None,
) -> Generator[Batch, None, None]:
    """The batches of the steps `first` to `stop` − 1, prepared ahead in threads.

    An image that cannot be read is told and another of its class takes its place.

    Args:
        augment: share of images that are disturbed, see `disturb`.
        share: places of each batch that are made; None for all.
        workers: threads; None for as many as there are cores for them.
        report: told of images that cannot be read.

    Raises:
        InputError: more than a hundredth of the images cannot be read.
    """
    blocks: list[Hashable] = [block_of(one.path) or at for at, one in enumerate(samples)]
    labels = [sample.label for sample in samples]
    order = BalancedOrder(labels, batch, seed, blocks)
    own = range(batch) if share is None else share
    bad: dict[int, str] = {}

    def load(item: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        step, place = item
        for index in order.candidates(step * batch + place):
            if index in bad:
                continue
            try:
                frame = read_around(
                    samples[index].path,
                    masking.size,
                    np.random.default_rng((seed, 2, step, place, 1)),
                )
            except InputError as error:
                bad[index] = str(error)
                report(f"left out: {error}")
                require_few(list(bad.values()), len(samples))
                continue
            rng = np.random.default_rng((seed, 2, step, place))
            crop = random_crop(disturb(frame, rng, augment, masking.size), masking.size, rng)
            # A random rule draws anew at every step.
            return masking.encode(crop[None], seed * 2**32 + step, place)
        raise AssertionError  # the candidates do not end

    pool = ThreadPoolExecutor(workers or threads())
    try:
        items = ((step, place) for step in range(first, stop) for place in own)
        loaded = ahead(load, items, pool, depth=AHEAD * len(own))
        for step in range(first, stop):
            patches, positions = zip(*islice(loaded, len(own)), strict=True)
            chosen = torch.tensor([float(labels[at]) for at in order.indices(step)])
            yield Batch(torch.cat(patches), torch.cat(positions), chosen)
    finally:
        pool.shutdown(cancel_futures=True)

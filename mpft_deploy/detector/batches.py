"""Training batches: which image comes when, and how it is cropped. Everything follows from a seed.

Nothing here keeps state between steps, so a run that was interrupted goes on with the very batches
it would have had, however many threads load them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch

from mpft_deploy.ahead import ahead
from mpft_deploy.dataset import Sample
from mpft_deploy.detector.backbone import Geometry
from mpft_deploy.detector.evaluate import BATCH
from mpft_deploy.detector.model import encode
from mpft_deploy.evaluate.protocols import Interpolation, blur, filmed, resave, resize
from mpft_deploy.images import decode_image
from mpft_deploy.spec import KeepRule, parse_mixture
from mpft_deploy.views import bring_up, view_side

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

AHEAD = 3
"""Batches that are prepared before they are asked for."""

RESIZED, BLURRED, FILMED, WEBP = 0.6, 0.1, 0.125, 0.25
"""Shares of what is disturbed; WebP is that of what is not filmed. All others are JPEG."""

SCALES = (0.7, 1.4)
INTERPOLATIONS = get_args(Interpolation)
SAMPLINGS = ("4:2:0", "4:4:4")


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

    def encode(self, crops: U8, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views u8 [B, S, S, 3] → patches u8 [B, K, 3·p·p] and positions i32 [B, K]."""
        turns = np.arange(len(crops)) // 2 % len(self.rules)
        parts = [
            encode(crops[turns == turn], self.patch, rule, seed=seed, zero_fill=self.zero_fill)
            for turn, rule in enumerate(self.rules)
        ]
        back = torch.from_numpy(np.argsort(np.argsort(turns, kind="stable"), kind="stable"))
        patches, positions = (torch.cat([part[which] for part in parts]) for which in (0, 1))
        return patches[back], positions[back]


@dataclass(frozen=True)
class Batch:
    """What a step learns from.

    patches u8 [B, K, 3·p·p], positions i32 [B, K], labels f32 [B] (1 generated).
    """

    patches: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor


class BalancedOrder:
    """Which sample fills which place of which batch: the classes take turns.

    Each class is gone through in a new random order again and again, so the smaller one repeats.
    """

    def __init__(self, labels: Sequence[int], batch: int, seed: int) -> None:
        """Args: labels 0 or 1, both present; images a batch; seed of the order."""
        self.batch, self.seed = batch, seed
        self._members = [np.flatnonzero(np.asarray(labels) == label) for label in (0, 1)]
        self._order = lru_cache(maxsize=4)(self._permutation)

    def indices(self, step: int) -> I64:
        """i64 [batch]: indices of the samples of a step."""
        places = np.arange(step * self.batch, (step + 1) * self.batch)
        return np.array([self._at(int(place)) for place in places], np.int64)

    def _at(self, place: int) -> int:
        label, turn = place % 2, place // 2
        members = self._members[label]
        order = self._order(label, turn // len(members))
        return int(members[order[turn % len(members)]])

    def _permutation(self, label: int, round_: int) -> I64:
        return np.random.default_rng((self.seed, label, round_)).permutation(
            len(self._members[label])
        )


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


def disturbed_crops(
    samples: Sequence[Sample], size: int, seed: int, look: int, first: int = 0
) -> Iterator[U8]:
    """A random view u8 [n, size, size, 3] of each image as it may arrive, BATCH at a time.

    Each `look` gives other views. The next BATCH is made while the consumer works.

    Args:
        first: sample to begin with, a multiple of BATCH.
    """
    make = partial(_disturbed, samples, size, (seed, 4, look))
    with ThreadPoolExecutor(2) as pool:
        made = ahead(make, range(first, len(samples)), pool, depth=BATCH)
        while part := list(islice(made, BATCH)):
            yield np.stack(part)


def _disturbed(samples: Sequence[Sample], size: int, seed: tuple[int, ...], place: int) -> U8:
    rng = np.random.default_rng((*seed, place))
    frame = disturb(decode_image(samples[place].path), rng, 1.0, size)
    return random_crop(frame, size, rng)


def training_batches(
    samples: Sequence[Sample],
    masking: Masking,
    *,
    batch: int,
    seed: int,
    first: int,
    stop: int,
    augment: float = 0.0,
    workers: int = 2,
) -> Generator[Batch, None, None]:
    """The batches of the steps `first` to `stop` − 1, prepared ahead in threads.

    `augment` is the share of images that are disturbed, see `disturb`.

    Raises:
        InputError: an image can no longer be read.
    """
    order = BalancedOrder([sample.label for sample in samples], batch, seed)

    def prepare(step: int) -> Batch:
        crops = np.empty((batch, masking.size, masking.size, 3), np.uint8)
        chosen = [samples[index] for index in order.indices(step)]
        for place, sample in enumerate(chosen):
            rng = np.random.default_rng((seed, 2, step, place))
            frame = disturb(decode_image(sample.path), rng, augment, masking.size)
            crops[place] = random_crop(frame, masking.size, rng)
        # A random rule draws anew at every step.
        patches, positions = masking.encode(crops, seed * 2**32 + step)
        labels = torch.tensor([float(sample.label) for sample in chosen])
        return Batch(patches, positions, labels)

    steps = iter(range(first, stop))
    waiting: deque[Future[Batch]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for step in steps:
            waiting.append(pool.submit(prepare, step))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)

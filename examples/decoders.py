"""Small autoencoders of many kinds, which leave other traces: for `tuning.py`, which trains them.

What one re-makes is a picture as it was, but for the trace of its decoder. Each has latents 4 times
smaller on each side; they differ in how they bring these up (transposed convolutions, nearest
neighbours, or pixels that are shuffled), and in whether a discriminator of patches judged them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from itertools import pairwise, product
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from mpft_deploy.detector.model import has_bf16
from mpft_deploy.files import write_atomic

U8 = npt.NDArray[np.uint8]

KINDS = tuple(product(("transposed", "nearest", "shuffle"), (False, True)))
"""How the latent is brought up, and whether adversarially."""

SIDE, LATENT = 4, 8
"""Pixels of a side that one of the latent stands for, and its channels."""

WIDTHS = (24, 48, 64)
"""Channels at the full size, at half of it, and at a quarter."""

STEPS, BATCH, CROP, RATE = 900, 8, 64, 2e-3
JUDGED_FROM, ADVERSARIAL = 0.4, 0.05
"""The share of steps after which a discriminator takes part, and what its opinion counts beside the
absolute error of pixels in -1..1."""


class Block(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """f32 [B, C, H, W] to the same."""
        return x + self.inner(x)


def larger(up: str, inputs: int, outputs: int) -> nn.Module:
    """Twice the height and width, in one of the ways of KINDS."""
    if up == "transposed":
        return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
    if up == "nearest":
        return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, padding=1))
    return nn.Sequential(nn.Conv2d(inputs, 4 * outputs, 3, padding=1), nn.PixelShuffle(2))


def autoencoder(up: str) -> nn.Sequential:
    """f32 [B, 3, H, W] in -1..1 to the same, where SIDE divides H and W."""
    down: list[nn.Module] = [nn.Conv2d(3, WIDTHS[0], 3, padding=1)]
    back: list[nn.Module] = [nn.Conv2d(LATENT, WIDTHS[-1], 3, padding=1), Block(WIDTHS[-1])]
    for small, wide in pairwise(WIDTHS):
        down += [nn.Conv2d(small, wide, 4, stride=2, padding=1), Block(wide)]
    for wide, small in pairwise(reversed(WIDTHS)):
        back += [larger(up, wide, small), Block(small)]
    return nn.Sequential(
        *down,
        nn.Conv2d(WIDTHS[-1], LATENT, 1),
        *back,
        nn.Conv2d(WIDTHS[0], 3, 3, padding=1),
    )


def discriminator() -> nn.Sequential:
    """Of patches of 18 pixels: f32 [B, 3, H, W] to an opinion of each, above 0 for real ones."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 4, stride=2), nn.LeakyReLU(0.2),
        nn.Conv2d(32, 64, 4, stride=2), nn.LeakyReLU(0.2),
        nn.Conv2d(64, 1, 3),
    )  # fmt: skip


def learn(pictures: Sequence[U8], up: str, *, adversarial: bool) -> nn.Sequential:
    """Train one by crops of pictures u8 [H, W, 3], each of CROP pixels a side at least."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    net, judge = autoencoder(up), discriminator()
    own, others = (torch.optim.AdamW(one.parameters(), RATE) for one in (net, judge))
    rates = torch.optim.lr_scheduler.OneCycleLR(own, RATE, total_steps=STEPS)
    for step in range(STEPS):
        crops = torch.stack(
            [_crop(pictures[rng.integers(len(pictures))], rng) for _ in range(BATCH)]
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16(torch.device("cpu"))):
            made = net(crops)
            loss = (made - crops).abs().mean()
            if judged := adversarial and step >= JUDGED_FROM * STEPS:
                loss = loss - ADVERSARIAL * judge(made).mean()
        own.zero_grad()
        loss.backward()
        own.step()
        rates.step()
        if judged:
            told = functional.relu(1 - judge(crops)) + functional.relu(
                1 + judge(made.detach().float())
            )
            others.zero_grad()
            told.mean().backward()
            others.step()
    return net.eval()


def makers(folder: Path, pictures: Callable[[], Sequence[U8]]) -> list[Callable[[U8], U8]]:
    """One of each kind, from files of the folder; those that are not there are trained first."""
    folder.mkdir(parents=True, exist_ok=True)
    nets, read = [], None
    for up, adversarial in KINDS:
        path = folder / f"{up}{'-adversarial' if adversarial else ''}.pt"
        if not path.exists():
            read = pictures() if read is None else read
            state = learn(read, up, adversarial=adversarial).state_dict()
            write_atomic(path, _bytes(state))
            click.echo(f"trained: {path.stem}", err=True)
        net = autoencoder(up).eval()
        net.load_state_dict(torch.load(path, weights_only=True))
        nets.append(net)
    return [Remade(net) for net in nets]


class Remade:
    """A picture u8 [H, W, 3], re-made, but for up to 3 rows and columns at the end."""

    def __init__(self, net: nn.Sequential) -> None:
        self._net = net

    @torch.inference_mode()
    def __call__(self, image: U8) -> U8:
        height, width = (side // SIDE * SIDE for side in image.shape[:2])
        made = self._net(_signed(image[:height, :width])[None])[0]
        return np.asarray(((made.clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0), np.uint8)


def _crop(picture: U8, rng: np.random.Generator) -> Tensor:
    top, left = (int(rng.integers(side - CROP + 1)) for side in picture.shape[:2])
    return _signed(picture[top : top + CROP, left : left + CROP])


def _signed(pixels: U8) -> Tensor:
    """f32 [3, H, W] in -1..1."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1


def _bytes(state: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()

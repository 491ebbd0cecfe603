"""Train the demo's autoencoder: `make train-demo-decoder`. Needs the extra `train`.

    python examples/train_decoder.py FOLDER    # in it, the packages with the photographs

It begins with the principal components of 8 × 8 pixels, and learns to rebuild crops of photographs
better than those do, pixel by pixel at three scales; after 800 steps a discriminator
of patches learns beside it to tell rebuilt from real, and the decoder to pass, as decoders of
latent diffusion are trained. What is drawn in a step follows from the seed and the step's number,
so a run that was cut off goes on as if it had not been.
"""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import decoder
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

LEARNT_FROM = {
    "Picture_0B_by_freespace.jpg": 'Trevor "Freespace", CC BY 4.0',
    "Picture_1A_by_freespace.jpg": 'Trevor "Freespace", CC BY 4.0',
    "Wine_by_Jakkub_Mede.jpg": "Jakub Mede, CC BY 4.0",
    "aitzgorri_by_Aitzol_Berasategi.jpg": "Aitzol Berasategi, CC BY 4.0",
    "astronaut.png": "NASA, public domain",
    "chelsea.png": "Stefan van der Walt, CC0",
    "coffee.png": "Rachel Michetti, CC0",
    "friends_by_Aitzol_Berasategi.jpg": "Aitzol Berasategi, CC BY 4.0",
    "life_by_Aitzol_Berasategi.jpg": "Aitzol Berasategi, CC BY 4.0",
    "picosdeeuropa_by_Aitzol_Berasategi.jpg": "Aitzol Berasategi, CC BY 4.0",
    "seeding_by_Clements_Engelhardt.jpg": "Clemens Engelhardt, CC0",
    "sunset_by_Aitzol_Berasategi.jpg": "Aitzol Berasategi, CC BY 4.0",
}
"""Three of scikit-image, by what its documentation says; the others of Debian's package
lomiri-wallpapers-16.04, by its copyright file. None is shown in the demo."""

CROP, BATCH, RATE = 64, 8, 6e-4
SHORT_SIDES = (400, 560, 800)
"""To which the photographs are shrunk before crops are taken: what the web's pictures have."""
LAYOUT = torch.channels_last  # the faster one on CPUs
HORIZON = 1600
"""The step at which the learning rate would come to its end; from half of it on the discriminator
takes part."""
ADVERSARIAL = 0.02
"""Weight of the discriminator's opinion beside the absolute error of pixels in -1..1."""


class Block(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.add_module("0", nn.Conv2d(channels, channels, 3, padding=1))
        self.add_module("1", nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """f32 [B, C, H, W] to the same."""
        first, second = self.children()
        return torch.relu(x + second(torch.relu(first(x))))


class Convolution(nn.Conv2d):
    """A convolution of 3 × 3, with a ReLU where it is one of kind `conv`."""

    def __init__(self, kind: str, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """f32 [B, inputs, H, W] to [B, outputs, H, W]."""
        x = super().forward(x)
        return torch.relu(x) if self.kind == "conv" else x


def network(layers: tuple[decoder.Layer, ...]) -> nn.Sequential:
    """The layers that `decoder` runs in NumPy, as a module that can be trained."""
    modules: list[nn.Module] = []
    for kind, inputs, size in layers:
        if kind == "fold":
            modules.append(nn.PixelUnshuffle(size))
        elif kind == "unfold":
            modules.append(nn.PixelShuffle(size))
        elif kind == "double":
            modules.append(nn.Upsample(scale_factor=2))
        else:
            modules.append(Block(inputs) if kind == "block" else Convolution(kind, inputs, size))
    return nn.Sequential(*modules)


class Autoencoder(nn.Module):
    """What `decoder.remake` computes, as a module that can be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = network(decoder.ENCODER)
        self.base = network(decoder.BASE)
        self.decoder = network(decoder.DECODER)

    def forward(self, x: Tensor) -> Tensor:
        """f32 [B, 3, H, W] in -1..1 to the same."""
        latent = self.encoder(x)
        made: Tensor = self.base(latent) + self.decoder(latent)
        return made

    @torch.no_grad()
    def begin(self, crops: Tensor) -> None:
        """Set the latent to the principal components of squares, and the decoder to add nothing.

        Args:
            crops: f32 [B, 3, H, W] that the components are taken of.
        """
        squares = functional.pixel_unshuffle(crops, decoder.SIDE).movedim(1, -1).flatten(0, 2)
        mean = squares.mean(0)
        _, strengths, components = torch.linalg.svd(squares - mean, full_matrices=False)
        into, out = self.encoder[-1], self.base[0]
        count = into.out_channels
        scales = strengths[:count, None] / len(squares) ** 0.5
        for convolution in (into, out, self.decoder[-1]):
            nn.init.zeros_(convolution.weight)
            nn.init.zeros_(convolution.bias)
        into.weight[:, :, 1, 1] = components[:count] / scales
        into.bias[:] = -into.weight[:, :, 1, 1] @ mean
        out.weight[:, :, 1, 1] = (components[:count] * scales).T
        out.bias[:] = mean


def discriminator() -> nn.Sequential:
    """Logits of "real" for patches of about 22 pixels."""
    channels, layers = (3, 32, 64, 96), list[nn.Module]()
    for inputs, outputs in pairwise(channels):
        layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(channels[-1], 1, 3, padding=1))


def photographs(folder: Path) -> list[Tensor]:
    """Every photograph at every size, u8 [3, H, W]."""
    found = []
    for name in LEARNT_FROM:
        path = next(folder.rglob(name), None)
        if path is None:
            raise click.ClickException(f"{name} is not in {folder}: make train-demo-decoder")
        with Image.open(path) as picture:
            whole = picture.convert("RGB")
        for side in SHORT_SIDES:
            scale = min(1.0, side / min(whole.size))
            size = (round(whole.width * scale), round(whole.height * scale))
            pixels = np.array(whole.resize(size, Image.Resampling.LANCZOS))
            found.append(torch.from_numpy(pixels).permute(2, 0, 1))
    return found


def crops(pictures: list[Tensor], seed: int, step: int) -> Tensor:
    """f32 [BATCH, 3, CROP, CROP] in -1..1: turned, flipped, tinted."""
    rng = np.random.default_rng((seed, step))
    batch = []
    for _ in range(BATCH):
        picture = pictures[rng.integers(len(pictures))]
        row, column = (rng.integers(side - CROP + 1) for side in picture.shape[1:])
        crop = picture[:, row : row + CROP, column : column + CROP]
        crop = crop.rot90(int(rng.integers(4)), (1, 2))
        crop = crop.flip(2) if rng.random() < 0.5 else crop
        gain = torch.from_numpy(rng.uniform(0.8, 1.1, (3, 1, 1)).astype(np.float32))
        batch.append((crop * gain).clamp(0, 255) / 127.5 - 1)
    return torch.stack(batch).contiguous(memory_format=LAYOUT)


def pixel_loss(made: Tensor, real: Tensor) -> Tensor:
    """Mean absolute error, at full, half and quarter size."""
    pools = [[functional.avg_pool2d(x, scale) for x in (made, real)] for scale in (1, 2, 4)]
    return torch.stack([functional.l1_loss(*pair) for pair in pools]).sum()


def stored(model: nn.Module) -> dict[str, np.ndarray]:
    """Weights by the names and in the layout that `decoder` reads, float16."""
    arrays = {}
    for name, tensor in model.state_dict().items():
        array = tensor.half().numpy()
        arrays[name] = np.ascontiguousarray(
            array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
        )
    return arrays


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=decoder.WEIGHTS)
@click.option("--state", type=click.Path(path_type=Path), default=Path("build/demo-decoder.pt"))
@click.option("--steps", type=click.IntRange(1, HORIZON), default=1300, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(folder: Path, out: Path, state: Path, steps: int, seed: int, threads: int) -> None:
    """Train on the photographs of FOLDER; goes on from --state if that is there."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    pictures = photographs(folder)
    model, critic = Autoencoder().to(memory_format=LAYOUT), discriminator()
    model.begin(torch.cat([crops(pictures, seed, 10**6 + draw) for draw in range(64)]))
    optimiser = torch.optim.AdamW(model.parameters(), RATE, betas=(0.9, 0.99), weight_decay=0)
    critics = torch.optim.AdamW(critic.parameters(), RATE / 3, betas=(0.5, 0.9))
    parts: dict[str, Any] = {
        "model": model,
        "critic": critic,
        "optimiser": optimiser,
        "critics": critics,
    }
    first = 0
    if state.is_file():
        kept = torch.load(state, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(kept[name])
        first = kept["step"]
        click.echo(f"goes on from step {first} of {state}")

    def keep(step: int) -> None:
        state.parent.mkdir(parents=True, exist_ok=True)
        kept = {name: part.state_dict() for name, part in parts.items()}
        torch.save(kept | {"step": step}, state.with_suffix(".new"))
        state.with_suffix(".new").replace(state)

    began = time.monotonic()
    for step in range(first, steps):
        rate = RATE * min(1, step / 50, 0.02 + 1.5 * (1 - step / HORIZON))
        for group in optimiser.param_groups:
            group["lr"] = rate
        real = crops(pictures, seed, step)
        made = model(real)
        loss = pixels = pixel_loss(made, real)
        if 2 * step >= HORIZON:
            loss = pixels - ADVERSARIAL * critic(made).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if 2 * step >= HORIZON:
            critics.zero_grad()
            judged_real, judged_made = critic(real), critic(made.detach())
            hinge = torch.relu(1 - judged_real).mean() + torch.relu(1 + judged_made).mean()
            hinge.backward()
            critics.step()
        if step % 100 == 99 or step == steps - 1:
            keep(step + 1)
            noise = functional.mse_loss(made, real).item() / 4
            line = {
                "step": step + 1,
                "pixels": round(pixels.item(), 4),
                "psnr": round(-10 * np.log10(noise), 2),
                "seconds": round(time.monotonic() - began),
            }
            click.echo(json.dumps(line))
    from safetensors.numpy import save_file

    out.parent.mkdir(parents=True, exist_ok=True)
    new = out.with_suffix(".new")
    save_file(stored(model), new)
    new.replace(out)


if __name__ == "__main__":
    main()

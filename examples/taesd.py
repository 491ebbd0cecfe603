"""A picture re-made by a distilled autoencoder of a generator's latent space, in PyTorch.

Weights are those of the public repository madebyollin/taesd (MIT), for example `taef2.safetensors`
of FLUX.2: latents 8 times smaller on each side. Blocks with tensors `pool` mix all channels with a
group normalisation first.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from mpft_deploy.detector.model import has_bf16

U8 = npt.NDArray[np.uint8]

SIDE = 8
"""Height and width are cut to multiples of it."""


class Autoencoder:
    """Encoder and decoder, read from a file."""

    def __init__(self, path: Path) -> None:
        from safetensors.torch import load_file

        self._weights = {name: value.float() for name, value in load_file(path).items()}

    @torch.inference_mode()
    def __call__(self, image: U8) -> U8:
        """A picture u8 [H, W, 3], re-made, but for up to 7 rows and columns at the end."""
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16(torch.device("cpu"))):
            return self._remake(image)

    def _remake(self, image: U8) -> U8:
        height, width = (side // SIDE * SIDE for side in image.shape[:2])
        x = torch.from_numpy(image[:height, :width].copy()).permute(2, 0, 1)[None].float() / 255
        x = self._block(self._convolve(x, "encoder.0"), "encoder.1")
        for first in (2, 6, 10):
            x = self._convolve(x, f"encoder.{first}", stride=2)
            for place in range(first + 1, first + 4):
                x = self._block(x, f"encoder.{place}")
        latent = self._convolve(x, "encoder.14")
        x = functional.relu(self._convolve(3 * torch.tanh(latent / 3), "decoder.1"))
        for first in (3, 8, 13):
            for place in range(first, first + 3):
                x = self._block(x, f"decoder.{place}")
            x = self._convolve(functional.interpolate(x, scale_factor=2), f"decoder.{first + 4}")
        x = self._convolve(self._block(x, "decoder.18"), "decoder.19")
        return np.asarray((255 * x[0].float().clamp(0, 1)).round().permute(1, 2, 0), np.uint8)

    def _convolve(self, x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights.get(f"{name}.bias")
        return functional.conv2d(x, weight, bias, stride, weight.shape[-1] // 2)

    def _block(self, x: torch.Tensor, name: str) -> torch.Tensor:
        if f"{name}.pool.0.weight" in self._weights:
            scale, shift = (self._weights[f"{name}.pool.1.{what}"] for what in ("weight", "bias"))
            mixed = functional.group_norm(self._convolve(x, f"{name}.pool.0"), 4, scale, shift)
            x = x + self._convolve(functional.relu(mixed), f"{name}.pool.3")
        inner = x
        for place in (0, 2):
            inner = functional.relu(self._convolve(inner, f"{name}.conv.{place}"))
        return functional.relu(x + self._convolve(inner, f"{name}.conv.4"))

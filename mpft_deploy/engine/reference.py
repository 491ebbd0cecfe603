"""The detector in float32, by NumPy: what engines are judged by, wherever they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from mpft_deploy.kernels import texture_patchify
from mpft_deploy.kernels.encoder import oracle
from mpft_deploy.spec import DetectorSpec
from mpft_deploy.weights import F32

EPSILON = np.float32(1e-5)
"""Of LayerNorm, as PyTorch has it."""

SMOOTHED = "mlp.c_proj.smoothed"
"""Of a block: factors f32 [hidden] of the activations that `mlp.c_proj` reads, 1 where absent; see
`mpft_deploy.export.smoothing`."""

See = Callable[[str, F32], None]
"""Told the name of each linear layer, as graphs have it, and its input f32 [B, T, I]."""


class Reference:
    """An `mpft_deploy.engine.Engine` straight from the weights, with nothing folded or fused.

    Args:
        weights: float32, by open_clip's names, see `DetectorFolder`; a block may have SMOOTHED too.
    """

    def __init__(self, spec: DetectorSpec, weights: Mapping[str, F32]) -> None:
        self._spec, self._weights = spec, weights

    def run(
        self,
        patches: npt.NDArray[np.uint8],
        positions: npt.NDArray[np.int32],
        see: See = lambda name, x: None,
    ) -> F32:
        """patches u8 [B, K, 3·p·p] and positions i32 [B, K] → logits f32 [B]."""
        spec, w = self._spec, self._weights
        pixels = patches.reshape(*positions.shape, spec.patch, spec.patch, 3) / np.float32(255)
        mean, std = (np.asarray(one, np.float32) for one in (spec.mean, spec.std))
        pixels = (pixels - mean) / std
        kernel = w["conv1.weight"].transpose(2, 3, 1, 0).reshape(-1, spec.architecture.width)
        cells = pixels.reshape(*positions.shape, -1) @ kernel
        cells = cells + w["positional_embedding"][positions + 1]
        first = w["class_embedding"] + w["positional_embedding"][0]
        first = np.broadcast_to(first, (len(cells), 1, len(first)))
        x = self._norm("ln_pre", np.concatenate([first, cells], 1))
        taps = []
        for index in range(spec.depth):
            x = self._block(index, x, see)
            if index >= spec.depth - spec.taps:
                read = self._norm("ln_post", x[:, 0])
                if spec.feature != "token":
                    read = read @ w["proj"]
                if spec.feature == "unit":
                    read = read / np.linalg.norm(read, axis=-1, keepdims=True)
                taps.append(read)
        logits: F32 = np.concatenate(taps, 1) @ w["head.weight"][0] + w["head.bias"][0]
        return logits

    def _block(self, index: int, x: F32, see: See) -> F32:
        """Tokens f32 [B, T, W] after a block; after the last one the class token alone."""
        own, name = f"transformer.resblocks.{index}", f"block{index}"
        last = index == self._spec.depth - 1

        def linear(layer: str, weight: str, x: F32, rows: slice = slice(None)) -> F32:
            see(f"{name}.{layer}", x)
            matrix, bias = (self._weights[f"{own}.{weight}{part}"] for part in ("weight", "bias"))
            return np.asarray(x @ matrix[rows].T + bias[rows])

        width = x.shape[-1]
        normal = self._norm(f"{own}.ln_1", x)
        if last:
            x = x[:, :1]
            query = linear("attention.q", "attn.in_proj_", normal[:, :1], slice(width))
            both = linear("attention.kv", "attn.in_proj_", normal, slice(width, None))
            parts = (query, *np.split(both, 2, -1))
        else:
            parts = tuple(np.split(linear("attention.qkv", "attn.in_proj_", normal), 3, -1))
        x = x + linear("attention.out_proj", "attn.out_proj.", self._attention(*parts))
        hidden = linear("mlp.c_fc", "mlp.c_fc.", self._norm(f"{own}.ln_2", x))
        hidden = self._activation(hidden) * self._weights.get(f"{own}.{SMOOTHED}", np.float32(1))
        return np.asarray(x + linear("mlp.c_proj", "mlp.c_proj.", hidden))

    def _attention(self, query: F32, key: F32, value: F32) -> F32:
        """What queries f32 [B, Q, W] read of keys and values f32 [B, T, W]."""
        batch, _, width = query.shape
        heads = self._spec.architecture.heads
        q, k, v = (
            part.reshape(batch, -1, heads, width // heads).swapaxes(1, 2)
            for part in (query, key, value)
        )
        scores = q @ k.swapaxes(2, 3) * np.float32((width // heads) ** -0.5)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        read = weights @ v / weights.sum(-1, keepdims=True)
        return np.asarray(read.swapaxes(1, 2).reshape(query.shape))

    def _activation(self, x: F32) -> F32:
        if self._spec.architecture.activation == "gelu":
            return oracle.gelu(x)
        with np.errstate(over="ignore"):  # to infinity, which gives the right zero
            return np.asarray(x / (1 + np.exp(np.float32(-1.702) * x)))

    def _norm(self, name: str, x: F32) -> F32:
        apart = x - x.mean(-1, keepdims=True)
        scale = np.sqrt(np.square(apart).mean(-1, keepdims=True) + EPSILON)
        return np.asarray(
            apart / scale * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        )


def activation_maxima(
    spec: DetectorSpec, weights: Mapping[str, F32], views: npt.NDArray[np.uint8]
) -> dict[str, F32]:
    """Largest magnitude of each input channel: linear layer as graphs name it → f32 [I].

    Args:
        views: u8 [n, S, S, 3].
    """
    largest: dict[str, F32] = {}

    def see(name: str, x: F32) -> None:
        found = np.abs(x).max((0, 1))
        largest[name] = np.maximum(largest.get(name, found), found)

    network = Reference(spec, weights)
    for view in views:
        cut = texture_patchify(view[None], spec.patch, spec.keep_rule, spec.keep_seed)
        network.run(cut.patches, cut.positions, see)
    return largest

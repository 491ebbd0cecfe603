"""A detector's integers in a graph of standard operators: the network of the backend native.

`mpft_deploy.kernels.encoder.oracle` defines it, here with all activations wide. Integers, scales
and rounding are the definition's. What a runtime does by itself is float32 between the matrices, in
an order of its own, so its logits are the definition's but for that; a graph's metadata says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mpft_deploy.kernels.encoder.network import limits
from mpft_deploy.kernels.encoder.oracle import DEFINITION
from mpft_deploy.weights import BLOCKS, F32, Rows, as_floats

METADATA = {
    "mpft.network": DEFINITION,
    "mpft.equality": "integers, scales and rounding as defined, all activations of 16 bits; float "
    "operations between the matrices in the runtime's own order, so logits equal the definition's "
    "only nearly",
}


@dataclass(frozen=True)
class Integers:
    """A matrix of a linear layer: integers i8 [O, I], the scale of each row f32 [O].

    limit: largest magnitude of an activation as an integer.
    """

    integers: npt.NDArray[np.int8]
    scale: F32
    limit: np.float32

    def __getitem__(self, rows: slice) -> Integers:
        """Some of the rows."""
        return replace(self, integers=self.integers[rows], scale=self.scale[rows])

    def times(self, factors: npt.NDArray[np.float64]) -> Integers:
        """Each row times a factor, f64 [O]."""
        return replace(self, scale=(self.scale * factors).astype(np.float32))


def integers_of(stored: Mapping[str, Rows | F32]) -> tuple[dict[str, F32], dict[str, Integers]]:
    """A detector's weights as the network has them: all in float32, and the blocks' matrices.

    What is stored in float32, and is a matrix of integers in the network, is rounded.

    Args:
        stored: weights as a detector folder gives them.
    """
    rows = {
        name: value if isinstance(value, Rows) else Rows.of(value)
        for name, value in stored.items()
        if name == "conv1.weight"
        or (name.startswith(BLOCKS) and (isinstance(value, Rows) or value.ndim == 2))
    }
    integers = {
        name: Integers(one.integers, one.scale, limits(one.integers, wide=True)[0])
        for name, one in rows.items()
        if name.startswith(BLOCKS)
    }
    return as_floats({**stored, **rows}), integers

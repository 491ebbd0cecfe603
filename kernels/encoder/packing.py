"""A network as its versions read it: matrices in the order of reading, rows padded with zeros.

It is read where it lies, so a file of these arrays that is mapped into memory is a network made
ready. The order serves every version: panels of 16 outputs; in a panel, fours of inputs; of a four,
those of each output. What is padded has weights, scales and biases of 0, so that nothing downstream
needs a mask.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mpft_deploy.kernels.encoder.network import I8, Block, Linear, Network, Norm
from mpft_deploy.weights import F32

Array = npt.NDArray[Any]
PANEL, FOUR, PADDING = 16, 4, 32


@dataclass(frozen=True)
class Sizes:
    """All that the shapes of a network's arrays follow from.

    `area` is p·p, `cells` N, `embedding` E where features are divided by their length, else 0.
    """

    width: int
    hidden: int
    heads: int
    cells: int
    area: int
    depth: int
    taps: int
    embedding: int
    activation: Literal["gelu", "quick_gelu"]


@dataclass(frozen=True)
class Packed:
    """A network's arrays in the order of its fields, nested ones in place, by path.

    Matrices i8 [N, M] are [N', M'/4, 16, 4] with N' panels; of f32 the last axis is padded; single
    numbers are rows.
    """

    sizes: Sizes
    arrays: dict[str, Array]


def pack(network: Network) -> Packed:
    """Copy a network's arrays into the order in which they are read."""
    arrays = {
        name: pack_matrix(value) if value.dtype == np.int8 else _padded(value, -1)
        for name, value in _walk(network, "")
    }
    return Packed(sizes_of(network), arrays)


def unpack(packed: Packed) -> Network:
    """The network that was packed; rows are views."""
    arrays = iter(packed.arrays.values())

    def take(dtype: type, shape: tuple[int, ...]) -> Array:
        array = next(arrays)
        if dtype is np.int8:
            return unpack_matrix(array)[..., : shape[-2], : shape[-1]]
        return array[..., : shape[-1]]

    return build(packed.sizes, take)


def packed_shapes(sizes: Sizes) -> list[tuple[type, tuple[int, ...]]]:
    """Type and shape of every array of a packed network."""
    found: list[tuple[type, tuple[int, ...]]] = []

    def take(dtype: type, shape: tuple[int, ...]) -> Array:
        *leading, last = shape
        if dtype is np.int8:
            panels = _up(leading.pop()) // PANEL
            found.append((dtype, (*leading, panels, _up(last) // FOUR, PANEL, FOUR)))
        else:
            found.append((dtype, (*leading, _up(last))))
        return np.broadcast_to(np.zeros((), dtype), shape)

    build(sizes, take)
    return found


def sizes_of(network: Network) -> Sizes:
    _, width, area = network.patch_weight.shape
    return Sizes(
        width=width,
        hidden=len(network.blocks[0].fc.weight),
        heads=network.heads,
        cells=len(network.positions) - 1,
        area=area,
        depth=len(network.blocks),
        taps=len(network.head),
        embedding=0 if network.projection is None else len(network.projection),
        activation=network.activation,
    )


def build(sizes: Sizes, take: Callable[[type, tuple[int, ...]], Array]) -> Network:
    """A network of these sizes; `take` gives each of its arrays by type and shape, in order."""
    width = sizes.width

    def real(*shape: int) -> F32:
        return take(np.float32, shape)

    def norm() -> Norm:
        return Norm(real(width), real(width))

    def linear(outputs: int, inputs: int) -> Linear:
        weight: I8 = take(np.int8, (outputs, inputs))
        return Linear(weight, real(outputs), real(outputs), real(1)[0], real(1)[0])

    def block() -> Block:
        return Block(
            ln_1=norm(),
            query=linear(width, width),
            key=linear(width, width),
            value=linear(width, width),
            out=linear(width, width),
            ln_2=norm(),
            fc=linear(sizes.hidden, width),
            proj=linear(width, sizes.hidden),
        )

    return Network(
        heads=sizes.heads,
        activation=sizes.activation,
        patch_weight=take(np.int8, (3, width, sizes.area)),
        patch_ratio=real(3),
        patch_scale=real(width),
        patch_bias=real(width),
        class_token=real(width),
        positions=real(sizes.cells + 1, width),
        ln_pre=norm(),
        blocks=tuple(block() for _ in range(sizes.depth)),
        ln_post=norm(),
        projection=real(sizes.embedding, width) if sizes.embedding else None,
        head=real(sizes.taps, sizes.embedding or width),
        head_bias=real(1)[0],
    )


def pack_matrix(weight: I8) -> I8:
    """i8 [..., N, M] → [..., panels, fours, 16, 4]."""
    padded = _padded(_padded(weight, -1), -2)
    *leading, outputs, inputs = padded.shape
    panels = padded.reshape(*leading, outputs // PANEL, PANEL, inputs // FOUR, FOUR)
    return np.ascontiguousarray(panels.swapaxes(-3, -2))


def unpack_matrix(packed: I8) -> I8:
    """What `pack_matrix` was given, and what it padded: i8 [..., N', M']."""
    *leading, panels, fours, _, _ = packed.shape
    plain: I8 = packed.swapaxes(-3, -2).reshape(*leading, panels * PANEL, fours * FOUR)
    return plain


def _walk(part: Any, path: str) -> Iterator[tuple[str, Array]]:
    """Arrays and single numbers of a network by path, in the order of its fields."""
    if isinstance(part, np.ndarray):
        yield path, part
    elif isinstance(part, np.float32):
        yield path, np.full(1, part)
    elif isinstance(part, tuple):
        for index, one in enumerate(part):
            yield from _walk(one, f"{path}.{index}")
    elif dataclasses.is_dataclass(part):
        for field in dataclasses.fields(part):
            inner = f"{path}.{field.name}" if path else field.name
            yield from _walk(getattr(part, field.name), inner)


def _padded(array: Array, axis: int) -> Array:
    short = [(0, 0)] * array.ndim
    short[axis] = (0, _up(array.shape[axis]) - array.shape[axis])
    return np.pad(array, short)


def _up(count: int) -> int:
    return -(-count // PADDING) * PADDING

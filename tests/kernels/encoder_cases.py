"""What versions of the encoder are judged by: random networks, ordinary and extreme, and views."""

from __future__ import annotations

import dataclasses
import functools
import struct
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

from mpft_deploy.kernels.encoder import oracle
from mpft_deploy.kernels.encoder.network import Block, Linear, Network, Norm, limits
from mpft_deploy.kernels.encoder.oracle import F32, I32, U8
from mpft_deploy.kernels.encoder.packing import pack

KINDS = ("plain", "saturated", "outlier", "zeros", "denormal", "peaked")
"""Of activations: as usual; all as large as their bytes can be; one huge in each row; rows of
zeros; numbers below 2⁻¹²⁶; attention to one token alone."""

LAYERS = ("qkv", "out", "fc", "proj")


@dataclass(frozen=True)
class Size:
    """Of a random network; see `mpft_deploy.kernels.encoder.network`."""

    heads: int = 2
    head_size: int = 8
    hidden: int = 40
    side: int = 4
    cells: int = 9
    depth: int = 2
    taps: int = 1
    embedding: int = 0


SMALL = Size()
TOWERS = {
    "B/32": Size(heads=12, head_size=64, hidden=3072, side=32, cells=49, depth=1),
    "B/16": Size(heads=12, head_size=64, hidden=3072, side=16, cells=196, depth=1),
    "L/14": Size(heads=16, head_size=64, hidden=4096, side=14, cells=256, depth=1),
}
"""Vision transformers as they are used, of one block."""


def random_network(
    seed: int,
    size: Size,
    kind: str = "plain",
    limit: int = 31,
    wide: tuple[str, ...] = ("proj",),
    activation: str = "quick_gelu",
) -> Network:
    """A network whose activations neither vanish nor explode, but as `kind` says.

    Args:
        limit: the largest magnitude of weights.
    """
    rng = np.random.default_rng(seed)
    width, area = size.heads * size.head_size, size.side**2

    def real(*shape: int, spread: float = 0.3, around: float = 0.0) -> F32:
        return rng.normal(around, spread, shape).astype(np.float32)

    def norm() -> Norm:
        return Norm(real(width, around=1), real(width))

    def linear(name: str, outputs: int, inputs: int) -> Linear:
        weight = rng.integers(-limit, limit + 1, (outputs, inputs)).astype(np.int8)
        if kind == "saturated":  # by blocks of one sign, at their limits
            signs = np.repeat(rng.integers(0, 2, (outputs, -(-inputs // 8))) * 2 - 1, 8, axis=1)
            weight = (limit * signs[:, :inputs]).astype(np.int8)
        scale = rng.uniform(0.5, 2, outputs) / (limit * inputs**0.5)
        how = limits(weight, wide=name in wide)
        return Linear(weight, scale.astype(np.float32), real(outputs), *how)

    def block() -> Block:
        ln_1, ln_2 = norm(), norm()
        query, key, value = (linear("qkv", width, width) for _ in range(3))
        limit = min(part.limit for part in (query, key, value))
        query, key, value = (replace(part, limit=limit) for part in (query, key, value))
        fc = linear("fc", size.hidden, width)
        if kind == "saturated":
            flat = Norm(np.full(width, 1e-3, np.float32), np.full(width, 2, np.float32))
            ln_1, ln_2 = flat, replace(flat, bias=np.negative(flat.bias))
        if kind == "outlier":
            ln_1.weight[rng.integers(width)] = ln_2.bias[rng.integers(width)] = 1e6
            fc.bias[rng.integers(size.hidden)] = 3e7
        if kind == "zeros":
            ln_1 = Norm(np.zeros(width, np.float32), np.zeros(width, np.float32))
            fc = replace(fc, scale=np.zeros_like(fc.scale), bias=np.zeros_like(fc.bias))
        if kind == "peaked":
            query = replace(query, scale=(query.scale * np.float32(30)))
        return Block(
            ln_1=ln_1,
            query=query,
            key=key,
            value=value,
            out=linear("out", width, width),
            ln_2=ln_2,
            fc=fc,
            proj=linear("proj", width, size.hidden),
        )

    tiny, large = np.float32((1e-40, 1e38) if kind == "denormal" else (1, 1))
    patch = rng.integers(-limit, limit + 1, (3, width, area)).astype(np.int8)
    if kind == "saturated":
        patch = np.where(patch < 0, np.int8(-limit), np.int8(limit))
    return Network(
        heads=size.heads,
        activation="gelu" if activation == "gelu" else "quick_gelu",
        patch_weight=patch,
        patch_ratio=np.float32([0.0146, 0.015, 0.0142]),
        patch_scale=rng.uniform(1e-3, 2e-3, width).astype(np.float32) * tiny,
        patch_bias=real(width) * tiny,
        class_token=real(width) * tiny,
        positions=real(size.cells + 1, width) * tiny,
        ln_pre=Norm(real(width, around=1) * large, real(width)),
        blocks=tuple(block() for _ in range(size.depth)),
        ln_post=norm(),
        projection=real(size.embedding, width) if size.embedding else None,
        head=real(size.taps, size.embedding or width),
        head_bias=np.float32(rng.normal()),
    )


def random_views(seed: int, size: Size, batch: int, count: int) -> tuple[U8, I32]:
    """Patches u8 [batch, count, 3 · area], some all black or white, and positions i32."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (batch, count, 3 * size.side**2), np.uint8)
    for view in range(batch):
        patches[view, rng.integers(count)] = rng.choice([0, 255])
    return patches, rng.integers(0, size.cells, (batch, count)).astype(np.int32)


@dataclass(frozen=True)
class Case:
    """A network, views, a number of threads, and the logits f32 [B] that are due."""

    network: Network
    patches: U8
    positions: I32
    threads: int
    expected: F32

    def packed(self) -> bytes:
        """As native/driver.cpp reads it."""
        packed = pack(self.network)
        parts = list(packed.arrays.values())
        *sizes, activation = dataclasses.astuple(packed.sizes)
        batch, count = self.positions.shape
        quick = activation == "quick_gelu"
        numbers = [*sizes, quick, self.threads, batch, count, len(parts)]
        return b"".join(
            [
                struct.pack(f"<{len(numbers)}q", *numbers),
                *(struct.pack("<q", part.nbytes) + part.tobytes() for part in parts),
                self.patches.tobytes(),
                self.positions.tobytes(),
            ]
        )


def make_case(network: Network, views: tuple[U8, I32], threads: int) -> Case:
    """With the oracle's logits, all of them finite."""
    expected = np.array([oracle.logit(network, *view) for view in zip(*views, strict=True)])
    assert np.isfinite(expected).all(), "the case proves nothing"
    return Case(network, *views, threads, expected.astype(np.float32))


def one_case(
    seed: int,
    size: Size = SMALL,
    batch: int = 1,
    count: int = 9,
    kind: str = "plain",
) -> Case:
    """A random network and views of it, by one seed."""
    network = random_network(seed, size, kind)
    return make_case(network, random_views(seed, size, batch, count), threads=1)


@st.composite
def any_case(draw: st.DrawFn) -> Case:
    """Networks of all sizes and kinds, and views of them."""
    depth = draw(st.integers(1, 3))
    size = Size(
        heads=draw(st.integers(1, 4)),
        head_size=draw(st.integers(1, 20)),
        hidden=draw(st.integers(1, 140)),
        side=draw(st.integers(1, 7)),
        cells=draw(st.integers(1, 40)),
        depth=depth,
        taps=depth if draw(st.booleans()) else 1,
        embedding=draw(st.sampled_from([0, 1, 16, 37, 90])),
    )
    seed = draw(st.integers(0, 2**32))
    network = random_network(
        seed,
        size,
        draw(st.sampled_from(KINDS)),
        draw(st.sampled_from([1, 31, 32, 33, 127])),
        tuple(draw(st.sets(st.sampled_from(LAYERS)))),
        draw(st.sampled_from(["gelu", "quick_gelu"])),
    )
    views = random_views(seed, size, draw(st.integers(0, 3)), draw(st.integers(1, 40)))
    return make_case(network, views, draw(st.integers(1, 5)))


def suite() -> list[Case]:
    """Cases that every version must pass and no mutant."""
    cases = []
    for number, kind in enumerate(KINDS):
        for limit in (31, 32, 64, 127):
            size = Size(
                heads=1 + number % 3,
                head_size=(8, 5, 16, 17)[(number + limit) % 4],
                hidden=(40, 33, 64)[limit % 3],
                side=4 + (number + limit) % 3,
                depth=1 + (number + limit) % 3,
                taps=1 + (number + limit) % 3 // 2,
                embedding=(0, 11, 33, 70)[(number // 2 + limit) % 4],
            )
            wide = (("proj",), LAYERS, ())[(number + limit) % 3]
            activation = ("gelu", "quick_gelu")[(number // 2 + limit) % 2]
            network = random_network(number, size, kind, limit, wide, activation)
            count = (1, 9, 20, 35)[(number + limit) % 4]
            views = random_views(limit, size, 1 + number % 2, count)
            cases.append(make_case(network, views, threads=1 + (number + limit) % 3))
    return cases


@functools.cache
def tower(name: str, activation: str) -> Case:
    """One of TOWERS, with a view of few cells; each layer wide in one of two activations."""
    number = 2 * list(TOWERS).index(name) + (activation == "gelu")
    wide = LAYERS[number % 2 :: 2]
    network = random_network(
        number, TOWERS[name], "outlier", (31, 127)[number % 2], wide, activation
    )
    return make_case(network, random_views(number, TOWERS[name], 1, 4), threads=2)


def same_bits(found: F32, expected: F32) -> bool:
    return found.shape == expected.shape and found.tobytes() == expected.tobytes()

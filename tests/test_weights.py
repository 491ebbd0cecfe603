"""Rounding weights to few bits and back."""

from __future__ import annotations

import contextlib
import json
import zlib

import numpy as np
import pytest
import reference
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mpft_deploy.errors import InputError
from mpft_deploy.weights import (
    BLOCKS,
    MOST_INFLATED,
    _pack,
    _unpack,
    decode,
    dequantise,
    quantise,
    stored_weights,
)


@given(
    hnp.arrays(
        np.int8,
        st.tuples(st.integers(1, 5), st.integers(1, 40)),
        elements=st.integers(-32, 31),
    )
)
def test_packing_keeps_every_value(values):
    assert np.array_equal(_unpack("x", _pack(values), len(values), values.size), values)


def test_bell_shaped_weights_take_little_more_than_five_bits():
    weight = np.random.default_rng(0).standard_normal((256, 1024)).astype(np.float32)
    key = f"{BLOCKS}0.mlp.c_fc.weight"
    stored = quantise({key: weight}, "int6")[key]
    assert stored.nbytes * 8 < 5.4 * weight.size


@given(data=st.data())
def test_damaged_codes_are_an_error_or_other_values(data):
    packed = _pack(np.arange(-32, 32, dtype=np.int8).reshape(8, 8))
    cut = packed[: data.draw(st.integers(0, len(packed) - 1))]
    with pytest.raises(InputError, match=r"^x is damaged"):
        _unpack("x", cut, 8, 64)
    flipped = packed.copy()
    flipped[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(InputError):
        assert len(_unpack("x", flipped, 8, 512)) == 8


def test_a_small_file_cannot_fill_the_memory():
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = deflate.compress(bytes(10**7)) + deflate.flush()
    with pytest.raises(InputError, match="damaged"):
        _unpack("x", np.frombuffer(bomb, np.uint8), 100, MOST_INFLATED * len(bomb))


@pytest.mark.parametrize(("stored", "levels"), [("int8", 127), ("int6", 31)])
@given(seed=st.integers(0, 2**32 - 1), spread=st.floats(1e-4, 1e3))
def test_rounding_errs_by_half_a_step_and_never_twice(stored, levels, seed, spread):
    rng = np.random.default_rng(seed)
    value = (rng.standard_normal((6, 8)) * spread).astype(np.float32)
    value[0] = 0
    key = f"{BLOCKS}0.mlp.c_fc.weight"
    once = dequantise(quantise({key: value}, stored))[key]
    step = np.abs(value).max(1, keepdims=True) / levels
    assert ((once - value) ** 2).sum(1).max() <= (8 * (step / 2 * 1.001) ** 2).max()
    twice = dequantise(quantise({key: once}, stored))[key]
    assert np.array_equal(once, twice)


def test_only_matrices_of_blocks_are_narrow():
    weights = {
        "proj": np.ones((4, 8), np.float32),
        f"{BLOCKS}0.mlp.c_fc.weight": np.ones((4, 8), np.float32),
        f"{BLOCKS}0.mlp.c_fc.bias": np.ones(4, np.float32),
        "head.weight": np.ones((1, 8), np.float32),
    }
    stored = quantise(weights, "int6")
    assert stored["proj"].dtype == np.int8
    assert stored[f"{BLOCKS}0.mlp.c_fc.weight"].dtype == np.uint8
    assert stored[f"{BLOCKS}0.mlp.c_fc.bias"].dtype == np.float32
    assert stored["head.weight"].dtype == np.float32
    assert all(np.array_equal(value, weights[key]) for key, value in dequantise(stored).items())


def file_of(**tensors: object) -> bytes:
    """A safetensors file by hand: each tensor is (dtype, shape, bytes)."""
    header, body = {}, b""
    for name, (dtype, shape, data) in tensors.items():
        place = [len(body), len(body) + len(data)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": place}
        body += data
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


PLACE = b'{"dtype":"U8","shape":[4],"data_offsets":[0,4]}'
OVERLAP = b'{"a":' + PLACE + b',"b":' + PLACE + b"}"
TENSORS = [
    ("BF16", [2], bytes(4)), ("F8_E4M3", [4], bytes(4)), ("F4", [8], bytes(4)),
    ("X", [4], bytes(4)), (7, [1], bytes(4)), ("F32", [0, 2**63], b""), ("F32", [0] * 100, b""),
    ("F32", [2**62, 2**62], b""), ("F32", [-1], b""), ("F32", [1e9], b""), ("F32", "x", b""),
    ("F32", [2], bytes(4)),
]  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [b"", b"\1", (2**63).to_bytes(8, "little"), (99 * 2**20).to_bytes(8, "little") + b" " * 99,
     (2**20 + 1).to_bytes(8, "little") + b"{" + b" " * 2**20 + b"}",
     (10_000).to_bytes(8, "little") + b"[" * 10_000,
     len(OVERLAP).to_bytes(8, "little") + OVERLAP + bytes(4),
     *(file_of(a=tensor) for tensor in TENSORS)],
)  # fmt: skip
def test_a_file_that_is_no_safetensors(data):
    with pytest.raises(InputError, match=r"^x is not a valid safetensors file"):
        decode(data, "x")


def _change(stored: dict[str, np.ndarray], change: str) -> None:
    block = f"{BLOCKS}0.mlp.c_fc.weight"
    if change == "missing":
        del stored["proj"]
    elif change == "more":
        stored["other"] = np.zeros(1, np.float32)
    elif change == "scale of nothing":
        stored["other.scale"] = np.zeros(1, np.float32)
    elif change == "shape":
        stored["ln_pre.bias"] = stored["ln_pre.bias"][None]
    elif change == "dtype":
        stored["ln_pre.bias"] = stored["ln_pre.bias"].astype(np.complex64)
    elif change == "infinite":
        stored["ln_pre.bias"] = np.full_like(stored["ln_pre.bias"], np.inf)
    elif change == "scales":
        stored["proj.scale"] = stored["proj.scale"][1:]
    elif change == "no scale":
        del stored["proj.scale"]
    elif change == "scale that is none":
        stored["proj.scale"] = np.full_like(stored["proj.scale"], np.nan)
    elif change == "empty":
        stored[block] = np.zeros(0, np.uint8)
    else:
        stored[block] = _pack(np.zeros((len(stored[block + ".scale"]), 2**20), np.int8))


@pytest.mark.parametrize("stored", ["int8", "int6"])
@pytest.mark.parametrize(
    "change",
    ["missing", "more", "scale of nothing", "shape", "dtype", "infinite", "scales", "no scale",
     "scale that is none", "empty", "bomb"],
)  # fmt: skip
def test_weights_that_are_not_the_specs(stored, change):
    spec = reference.tiny_spec()
    tensors = quantise(reference.random_weights(spec, 0), stored)
    assert stored_weights(safetensors.numpy.save(tensors), spec, "x").keys()
    _change(tensors, change)
    with pytest.raises(InputError, match=r"^x"):
        stored_weights(safetensors.numpy.save(tensors), spec, "x")

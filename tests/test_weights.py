"""Rounding weights to few bits and back."""

from __future__ import annotations

import contextlib
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mpft_deploy.errors import InputError
from mpft_deploy.weights import BLOCKS, _pack, _unpack, dequantise, quantise


@given(
    hnp.arrays(
        np.int8,
        st.tuples(st.integers(1, 5), st.integers(1, 40)),
        elements=st.integers(-32, 31),
    )
)
def test_packing_keeps_every_value(values):
    assert np.array_equal(_unpack("x", _pack(values), len(values)), values)


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
        _unpack("x", cut, 8)
    flipped = packed.copy()
    flipped[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(InputError):
        assert len(_unpack("x", flipped, 8)) == 8


def test_a_small_file_cannot_fill_the_memory():
    bomb = zlib.compress(bytes(10**7), wbits=-zlib.MAX_WBITS)
    with pytest.raises(InputError, match="damaged"):
        _unpack("x", np.frombuffer(bomb, np.uint8), 100)


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
    }
    stored = quantise(weights, "int6")
    assert stored["proj"].dtype == np.int8
    assert stored[f"{BLOCKS}0.mlp.c_fc.weight"].dtype == np.uint8
    assert stored[f"{BLOCKS}0.mlp.c_fc.bias"].dtype == np.float32
    assert all(np.array_equal(value, weights[key]) for key, value in dequantise(stored).items())

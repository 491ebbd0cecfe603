"""The backend native: the same logits whatever computes them, and a verdict that is recomputed."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from mpft_deploy.bundle import Device, read_bundle, write_bundle
from mpft_deploy.detector_folder import read_detector
from mpft_deploy.engine import load_engine
from mpft_deploy.engine.certificate import run_views
from mpft_deploy.engine.native import (
    ALIGNMENT,
    MEASURED,
    load,
    read_network,
    read_packed,
)
from mpft_deploy.errors import GateError, InputError
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.kernels.encoder import oracle
from mpft_deploy.kernels.encoder.oracle import DEFINITION

Mpft = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module", params=MEASURED)
def engine_bundle(
    request: pytest.FixtureRequest, detector: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    from mpft_deploy.export.pipeline import Request, export

    out = tmp_path_factory.mktemp("native") / "bundle"
    export(Request(detector, out, backend="native", precision=request.param))
    return out


def test_batches_and_threads_change_no_bit_of_the_oracle(
    detector: Path, engine_bundle: Path
) -> None:
    bundle = read_bundle(engine_bundle)
    assert not bundle.info.mixes_views
    spec, crops = bundle.spec, bundle.golden.crops
    cut = texture_patchify(crops, spec.patch, spec.keep_rule)
    network = read_network(bundle.engine)
    views = zip(cut.patches[:3], cut.positions[:3], strict=True)
    expected = np.array([oracle.logit(network, *one) for one in views])
    for threads in (1, 3):
        engine = load_engine(bundle, threads=threads)
        whole = engine.run(cut.patches, cut.positions)
        np.testing.assert_array_equal(whole[:3], expected)
        np.testing.assert_array_equal(run_views(engine, spec, crops), whole)
    np.testing.assert_array_equal(whole, bundle.golden.logits)
    # This detector is stored in float32, so its weights are rounded to 8 bits here.
    trained = read_detector(detector).golden.logits
    error = np.abs(whole - trained).mean() / np.ptp(trained)
    assert error < {"narrow": 0.2, "wide": 0.05}[str(bundle.info.precision)]


def test_screening_by_numpy_alone_gives_the_same_logits(
    engine_bundle: Path, tmp_path: Path
) -> None:
    """docs/recompute.md: what a laboratory computes is what the camera computed."""
    rng = np.random.default_rng(0)
    for name, side in (("photo.png", 240), ("small.png", 150)):
        coarse = rng.integers(0, 256, (30, 30, 3), np.uint8)
        Image.fromarray(coarse).resize((side, side)).save(tmp_path / name)
    told = []
    for version in ("numpy", "scalar", ""):
        command = [sys.executable, "-c", "from mpft_deploy.cli.main import main; main()"]
        done = subprocess.run(
            [*command, "screen", tmp_path, "--bundle", engine_bundle, "--json"],
            env={**os.environ, "MPFT_KERNEL": version}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        told.append({line["file"]: line["logit"] for line in lines if "logit" in line})
    assert len(told[0]) == 2
    assert told[0] == told[1] == told[2]


def test_every_device_must_repeat_the_golden_logits_in_every_bit(
    engine_bundle: Path, tmp_path: Path, mpft: Mpft, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(Device, "here", classmethod(lambda cls: Device("z", "z", "z")))
    code, text, _ = mpft("verify", engine_bundle)
    assert code == 0
    assert "none: equal in every bit" in text
    read = read_bundle(engine_bundle)
    load_engine(read)  # elsewhere for the first time
    logits = read.golden.logits.copy()
    logits[3] = np.nextafter(logits[3], np.float32(np.inf))
    out = tmp_path / "off"
    golden = replace(read.golden, logits=logits)
    write_bundle(out, read.info, read.engine, golden, read.certificate, read.latency)
    code, text, _ = mpft("verify", out, "--json")
    assert code == 1
    reasons = json.loads(text)["reasons"]
    assert "not those of the engine where it was exported in every bit" in reasons[0]
    with pytest.raises(GateError, match="in every bit"):
        load_engine(read_bundle(out))


def test_an_engine_is_read_where_its_file_lies(engine_bundle: Path) -> None:
    engine = read_bundle(engine_bundle).engine
    assert isinstance(engine, memoryview)
    assert isinstance(engine.obj, mmap.mmap)
    whole = np.frombuffer(engine, np.uint8)
    for array in read_packed(engine).arrays.values():
        assert np.shares_memory(whole, array)
        assert array.ctypes.data % ALIGNMENT == 0
    plain = safetensors.numpy.load(bytes(engine))  # to be read by other programs too
    assert len(plain) == len(read_packed(engine).arrays)


def test_an_engine_that_does_not_fit_is_told(engine_bundle: Path) -> None:
    engine = bytes(read_bundle(engine_bundle).engine)
    before = f'definition\\":\\"{DEFINITION}'.encode()
    for text, instead, message in (
        (before, before[:-1] + b"1", "version '1' of the network's definition.*Export"),
        (b'{\\"spec\\":', b'[\\"spec\\",', "none of the backend native"),
        (b'"F32"', b'"F64"', "does not hold the arrays"),
        (b'"shape":[', b'"shapf":[', "does not hold the arrays"),
        (b"[0,", b"[8,", "does not hold the arrays"),
    ):
        assert text in engine
        with pytest.raises(InputError, match=message):
            load(engine.replace(text, instead, 1), threads=1)
    with pytest.raises(InputError, match="does not hold the arrays"):
        load(engine[:-1], threads=1)


def test_what_is_no_engine_is_told(detector: Path, tmp_path: Path, mpft: Mpft) -> None:
    for data in (
        b"",
        b"\2\0\0\0\0\0\0\0{}",
        b'\3\0\0\0\0\0\0\0"\xff"',
        (detector / "weights.safetensors").read_bytes(),
    ):
        with pytest.raises(InputError, match="none of the backend native"):
            load(data, threads=1)
    options = ("--backend", "native", "--float-layers", "*.mlp.c_proj")
    code, _, error = mpft("export", detector, tmp_path / "bundle", *options)
    assert code == 2
    assert "it has no floats" in error

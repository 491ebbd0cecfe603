"""Bundles that were made for another device, and are proven where they come to."""

from __future__ import annotations

import json
import os
import shutil

import msgspec
import numpy as np
import pytest
import simulated_gpu
from PIL import Image

from mpft_deploy import jetson
from mpft_deploy.bundle import Device, read_bundle, write_bundle
from mpft_deploy.cli.main import cli, run
from mpft_deploy.detector_folder import Golden
from mpft_deploy.engine import cuda as device_cuda
from mpft_deploy.engine import load_engine
from mpft_deploy.engine.certificate import not_run
from mpft_deploy.engine.selftest import explain_device
from mpft_deploy.errors import EnvironmentLacksError, GateError
from mpft_deploy.signing import generate_keys, load_signer


@pytest.fixture
def device(monkeypatch):
    """Puts a simulated device and TensorRT in place; call it to choose what it is."""
    return lambda **choices: simulated_gpu.install(monkeypatch, **choices)


@pytest.fixture
def unproven_bundle(bundle, tmp_path, monkeypatch):
    """Write a bundle as an export for another device does; `change` is added to golden logits."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = read_bundle(bundle)

    def write(change=0.0, sign=None):
        path = tmp_path / "bundle"
        info = msgspec.structs.replace(
            made.info, backend="tensorrt", compute_capability=("8.7",), engine="engine.plan"
        )
        certificate = not_run(info.spec, "no device")
        golden = Golden(made.golden.crops, made.golden.logits + np.float32(change))
        write_bundle(path, info, made.engine, golden, certificate, None, sign=sign)
        return path

    return write


def test_an_unproven_bundle_is_proven_on_its_device(device, unproven_bundle, capfd):
    """Built elsewhere, refused by another device, completed by the right one."""
    path = unproven_bundle()

    def verify(*options):
        code = run(cli, "mpft", ["verify", str(path), *options])
        return code, *capfd.readouterr()

    device(capability=(8, 9))
    code, _, errors = verify()
    assert code == 3
    assert "built for SM 8.7 and this device is SM 8.9" in errors
    with pytest.raises(EnvironmentLacksError, match="export it again on this device"):
        load_engine(read_bundle(path))

    cuda = device()
    code, text, _ = verify("--json")
    assert code == 0
    assert json.loads(text)["run_now"]
    proven = read_bundle(path)
    assert proven.certificate.smoke_faults == []
    assert proven.certificate.answer == "unproven"  # no images were there
    assert proven.certificate.not_run is None
    assert proven.certificate.smoke_test.images == len(proven.golden.logits)
    assert proven.latency.samples > 0
    assert proven.info.versions["cuda-driver"] == "12.6"
    assert proven.info.versions["gpu"] == "Orin"
    assert cuda.launched > 0
    assert [file.name for file in path.parent.iterdir()] == ["bundle"]

    code, text, _ = verify("--json")
    assert code == 0
    result = json.loads(text)
    assert not result["run_now"]
    assert result["device_difference"] is None


@pytest.mark.parametrize(
    ("built", "versions", "words"),
    [
        ({"machine": "aarch64"}, {}, "built for Linux on aarch64, and this is Linux on"),
        ({"system": "Windows"}, {}, "built for Windows on"),
        ({}, {"jetson-linux": "36.4.3"}, "built for JetPack 6, and this is JetPack 7"),
        ({}, {"jetson-linux": "38.4.0"}, None),
        ({}, {}, None),
    ],
)
def test_a_plan_is_of_a_system_and_a_jetpack(
    device, unproven_bundle, monkeypatch, built, versions, words
):
    device()
    monkeypatch.setattr(jetson, "versions", lambda: {"jetson-linux": "38.2.1"})
    made = read_bundle(unproven_bundle())
    info = msgspec.structs.replace(
        made.info,
        device=msgspec.structs.replace(Device.here(), **built),
        versions={**made.info.versions, **versions},
    )
    object.__setattr__(made, "info", info)
    if words is None:
        load_engine(made)
        return
    with pytest.raises(EnvironmentLacksError, match=words) as caught:
        load_engine(made)
    assert "export it again on this device" in str(caught.value)


def test_another_gpu_of_the_same_capability_is_another_device(device, unproven_bundle, monkeypatch):
    path = unproven_bundle()
    device()
    assert run(cli, "mpft", ["verify", str(path)]) == 0
    assert explain_device(read_bundle(path)) is None
    found = device_cuda.facts()
    monkeypatch.setattr(device_cuda, "facts", lambda: found._replace(name="Orin Nano"))
    certified, here = explain_device(read_bundle(path)).split("; this device is ")
    assert "gpu Orin" in certified
    assert "gpu Orin Nano" in here


def test_proof_that_fails_is_written_too(device, unproven_bundle, capfd):
    path = unproven_bundle(change=3)
    device()
    assert run(cli, "mpft", ["verify", str(path)]) == 1
    assert "FAILED" in capfd.readouterr().out
    proof = read_bundle(path).certificate
    assert proof.smoke_test is not None
    assert proof.smoke_faults


def test_an_unproven_engine_runs_only_if_it_passes_its_golden_crops(device, unproven_bundle):
    device()
    path = unproven_bundle()
    assert load_engine(read_bundle(path)) is not None
    shutil.rmtree(path)
    with pytest.raises(GateError, match="never run"):
        load_engine(read_bundle(unproven_bundle(change=3)))


def test_a_signed_bundle_is_not_rewritten_without_a_key(device, unproven_bundle, tmp_path, capfd):
    pytest.importorskip("cryptography")
    public, _ = generate_keys(tmp_path / "key")
    path = unproven_bundle(sign=load_signer(tmp_path / "key"))
    before = (path / "bundle.json").read_bytes()
    device()
    assert run(cli, "mpft", ["verify", str(path)]) == 2
    assert "pass --sign" in capfd.readouterr().err
    assert (path / "bundle.json").read_bytes() == before
    assert run(cli, "mpft", ["verify", str(path), "--sign", str(tmp_path / "key")]) == 0
    assert not read_bundle(path, public).certificate.smoke_faults


def test_what_fails_when_it_first_runs_is_not_signed(device, unproven_bundle, tmp_path, capfd):
    pytest.importorskip("cryptography")
    generate_keys(tmp_path / "key")
    path = unproven_bundle(change=3, sign=load_signer(tmp_path / "key"))
    device()
    assert run(cli, "mpft", ["verify", str(path), "--sign", str(tmp_path / "key")]) == 1
    assert "no, for it failed" in capfd.readouterr().out
    assert read_bundle(path).signature is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_bundle_that_cannot_be_written_says_so(device, unproven_bundle, capfd):
    path = unproven_bundle()
    device()
    path.parent.chmod(0o500)
    try:
        assert run(cli, "mpft", ["verify", str(path)]) == 3
        assert "cannot be written" in capfd.readouterr().err
    finally:
        path.parent.chmod(0o700)


def test_report_of_an_unproven_bundle(device, unproven_bundle, tmp_path, capfd):
    path, page = unproven_bundle(), tmp_path / "report.html"
    Image.new("RGB", (40, 40)).save(tmp_path / "grey.png")
    device()
    arguments = ["screen", "--bundle", path, tmp_path / "grey.png", "--report", page]
    assert run(cli, "mpft", list(map(str, arguments))) == 0, capfd.readouterr()
    assert "not run yet: no device" in page.read_text()
    assert "Not measured yet" in page.read_text()

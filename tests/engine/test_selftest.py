"""An engine on another device proves itself once, and is refused if it cannot."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from mpft_deploy.bundle import Device, Precision, read_bundle, write_bundle
from mpft_deploy.cli.main import cli, run
from mpft_deploy.engine import certificate, load_engine, ort
from mpft_deploy.engine.budget import Budget
from mpft_deploy.engine.selftest import explain_device
from mpft_deploy.errors import EnvironmentLacksError, GateError
from mpft_deploy.export.pipeline import Request, export

ELSEWHERE = Device(machine="abacus64", system="Linux", processor="Abacus 9000")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mpft" / "self-tests"


@pytest.fixture
def elsewhere(monkeypatch):
    monkeypatch.setattr(Device, "here", classmethod(lambda cls: ELSEWHERE))


@pytest.fixture
def count_runs(monkeypatch):
    """How often the golden crops were compared."""
    runs = []
    recheck = certificate.recheck
    monkeypatch.setattr(certificate, "recheck", lambda *args: runs.append(args) or recheck(*args))
    return runs


def altered(bundle: Path, out: Path, shift: float):
    """A bundle, well sealed, whose golden logits are `shift` off: a device that computes badly."""
    read = read_bundle(bundle)
    golden = replace(read.golden, logits=read.golden.logits + np.float32(shift))
    write_bundle(out, read.info, read.engine, golden, read.certificate, read.latency)
    return read_bundle(out)


@pytest.mark.parametrize("ran", [True, False])
def test_a_backend_of_another_version_is_bad_input(bundle, tmp_path, capsys, ran):
    read, out = read_bundle(bundle), tmp_path / "later"
    info = msgspec.structs.replace(
        read.info, backend="abacus\33[2J", versions={"mpft-deploy": "9.1"}
    )
    proof = read.certificate if ran else certificate.not_run(info.spec, "no beads")
    write_bundle(out, info, read.engine, read.golden, proof, read.latency)
    Image.new("RGB", (40, 40)).save(tmp_path / "grey.png")
    for command in (
        ["verify", out],
        ["screen", tmp_path / "grey.png", "--bundle", out],
        ["profile", out],
        ["doctor", "--json", "--bundle", out],
    ):
        assert run(cli, "mpft", list(map(str, command))) == 1
        text = "".join(capsys.readouterr())
        assert "for the backend abacus" in text
        assert "made with, 9.1, or export the detector again" in text
        assert "\33[2J" not in text
    assert run(cli, "mpft", ["inspect", str(out)]) == 0


def test_device_of_the_certificate_needs_no_test(bundle, cache, count_runs, caplog):
    read = read_bundle(bundle)
    assert explain_device(read) is None
    load_engine(read)
    assert not count_runs
    assert not caplog.records
    assert not cache.exists()


def test_the_same_name_with_other_instructions_is_another_device(bundle, monkeypatch):
    read = read_bundle(bundle)
    here = read.info.device
    fewer = msgspec.structs.replace(here, instructions=here.instructions[:-1] or ("i8mm",))
    monkeypatch.setattr(Device, "here", classmethod(lambda cls: fewer))
    certified, now = explain_device(read).split("; this device is ")
    assert str(here) in certified
    assert str(fewer) in now


def test_this_device_knows_its_instructions():
    known = Path("/proc/cpuinfo").read_text()
    for name in Device.here().instructions:
        assert f" {name}" in known
    assert "avx2" in Device.here().instructions or " avx2" not in known


def test_explanation_names_both_sides(bundle, elsewhere, monkeypatch):
    read = read_bundle(bundle)
    sentence = explain_device(read)
    certified, here = sentence.split("; this device is ")
    assert read.info.device.processor in certified
    assert "Abacus 9000 (abacus64, Linux)" in here
    monkeypatch.setattr(Device, "here", classmethod(lambda cls: read.info.device))
    assert explain_device(read) is None
    monkeypatch.setattr(ort, "versions", lambda: {"onnxruntime": "99.0"})
    certified, here = explain_device(read).split("; this device is ")
    assert f"onnxruntime {read.info.versions['onnxruntime']}" in certified
    assert "onnxruntime 99.0" in here


def test_tested_once_on_another_device(bundle, cache, elsewhere, count_runs, caplog):
    read = read_bundle(bundle)
    load_engine(read)
    assert len(count_runs) == 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "Abacus 9000" in caplog.text
    assert len(list(cache.iterdir())) == 1
    load_engine(read)
    assert len(count_runs) == 1
    assert len(caplog.records) == 1


def test_record_holds_for_one_bundle_device_and_version(
    bundle, tmp_path, cache, elsewhere, count_runs, monkeypatch
):
    load_engine(read_bundle(bundle))
    load_engine(altered(bundle, tmp_path / "other", 1e-5))  # another seal
    assert len(count_runs) == 2
    monkeypatch.setattr(ort, "versions", lambda: {"onnxruntime": "99.0"})
    load_engine(read_bundle(bundle))
    assert len(count_runs) == 3
    further = msgspec.structs.replace(ELSEWHERE, processor="Abacus 9001")
    monkeypatch.setattr(Device, "here", classmethod(lambda cls: further))
    load_engine(read_bundle(bundle))
    assert len(count_runs) == 4
    assert len(list(cache.iterdir())) == 4


def test_a_precision_that_this_processor_has_no_instructions_for_is_refused(
    bundle, tmp_path, monkeypatch
):
    """A bundle that was made elsewhere, in bfloat16, on a processor without."""
    openvino = pytest.importorskip("mpft_deploy.engine.openvino")
    pytest.importorskip("openvino")
    read = read_bundle(bundle)
    bf16 = Precision("int8", "static", rest="bfloat16")
    info = msgspec.structs.replace(read.info, backend="openvino", precision=bf16)
    out = tmp_path / "bf16"
    write_bundle(out, info, read.engine, read.golden, read.certificate, read.latency)
    monkeypatch.setattr(openvino, "capabilities", lambda: ("FP32", "INT8", "BIN"))
    with pytest.raises(
        EnvironmentLacksError, match=r"int8-static\+bf16.*no instructions for bfloat16"
    ):
        load_engine(read_bundle(out))
    monkeypatch.setattr(openvino, "capabilities", lambda: ("FP32", "BF16", "INT8", "BIN"))
    load_engine(read_bundle(out), self_test=False)


def test_worse_engine_is_refused_every_time(bundle, tmp_path, cache, elsewhere):
    bad = altered(bundle, tmp_path / "bad", 0.5)
    for _ in range(2):
        with pytest.raises(GateError, match=r"does worse here.*smoke test differ.*Abacus 9000"):
            load_engine(bad)
    assert not cache.exists()
    load_engine(bad, self_test=False)


def test_engine_that_broke_its_budget_loads_with_a_warning(
    detector, tmp_path, cache, elsewhere, caplog
):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(pictures / "noise.png")
    over = Budget((("logit", 0.0),))
    request = Request(detector, tmp_path / "over", images=(pictures,), budget=over)
    export(replace(request, precision="narrow", allow_unproven=True))
    read = read_bundle(tmp_path / "over")
    assert read.certificate.answer == "broken"
    load_engine(read)
    assert "logit<=0 broken" in caplog.text


def test_a_strangers_bundle_writes_nothing_on_the_terminal(bundle, tmp_path, cache, capfd, caplog):
    """Whatever its texts hold: it is sealed as any other."""
    read, evil = read_bundle(bundle), "\x1b[2J"
    device = msgspec.structs.replace(read.info.device, processor=evil)
    info = msgspec.structs.replace(read.info, device=device, versions={"onnxruntime": evil})
    smoke = read.certificate.smoke_test
    smoke = msgspec.structs.replace(smoke, reference=evil, logit_difference={})
    found = msgspec.structs.replace(read.certificate, smoke_faults=[evil], smoke_test=smoke)
    golden = replace(read.golden, logits=read.golden.logits + np.float32(1))
    write_bundle(tmp_path / "evil", info, read.engine, golden, found, None)
    for command, code in (("verify", 1), ("inspect", 0), ("doctor --bundle", 1), ("profile", 1)):
        assert run(cli, "mpft", [*command.split(), str(tmp_path / "evil")]) == code
    said = "".join(capfd.readouterr()) + caplog.text
    assert "[2J" in said
    assert "\x1b" not in said


def test_damaged_record_is_not_believed(bundle, cache, elsewhere, count_runs):
    read = read_bundle(bundle)
    load_engine(read)
    (record,) = cache.iterdir()
    record.write_bytes(b"")
    load_engine(read)
    assert len(count_runs) == 2
    assert record.read_bytes() != b""


@pytest.mark.parametrize("obstacle", ["file", "no home"])
def test_record_that_cannot_be_kept_is_a_warning(
    bundle, tmp_path, elsewhere, count_runs, caplog, monkeypatch, obstacle
):
    if obstacle == "file":
        (tmp_path / "cache").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    else:

        def homeless(cls):
            raise RuntimeError("no home")

        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(Path, "home", classmethod(homeless))
    read = read_bundle(bundle)
    for _ in range(2):
        load_engine(read)
    assert len(count_runs) == 2
    assert caplog.text.count("will be run again") == 2
    assert "Set XDG_CACHE_HOME" in caplog.text


def test_relative_cache_is_ignored_as_the_specification_says(
    bundle, tmp_path, elsewhere, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(Path, "home", classmethod(lambda cls: tmp_path / "home"))
    load_engine(read_bundle(bundle))
    assert not (tmp_path / "relative").exists()
    assert list((tmp_path / "home" / ".cache" / "mpft" / "self-tests").iterdir())


def test_verify_tells_the_device_and_records_success(
    bundle, tmp_path, cache, elsewhere, count_runs, capsys
):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    assert run(cli, "mpft", ["verify", str(copy), "--json"]) == 0
    assert "Abacus 9000" in capsys.readouterr().out
    count_runs.clear()  # of the command itself
    load_engine(read_bundle(copy))
    assert not count_runs
    altered(bundle, tmp_path / "bad", 0.5)
    assert run(cli, "mpft", ["verify", str(tmp_path / "bad")]) == 1
    assert "FAILED" in capsys.readouterr().out
    assert len(list(cache.iterdir())) == 1

"""`mpft export --standalone`, `--layout triton` and `--sign`, and `mpft keygen`, as used."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command import without
from PIL import Image

from mpft_deploy.extras import how_to_install


@pytest.mark.parametrize(
    ("options", "out", "written"),
    [
        (["--standalone"], "model.onnx", "model.onnx"),
        (["--layout", "triton"], "models", "models/tiny"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_standalone_forms(mpft, detector, tmp_path, options, out, written, as_json):
    arguments = [*options, *(["--json"] if as_json else [])]
    code, text, errors = mpft("export", detector, tmp_path / out, *arguments)
    assert code == 0
    assert "golden crops" in errors
    assert (tmp_path / written).exists()
    if as_json:
        result = json.loads(text)
        assert result["certificate"]["answer"] == "unproven"
        assert result["standalone"] == str(tmp_path / written)
        assert result["model_bytes"] > 1000
    else:
        assert "NOT PROVEN" in text
        assert "standalone, fp32" in text


def test_over_budget_is_refused_and_not_written(mpft, detector, tmp_path):
    (tmp_path / "pictures").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "pictures" / "noise.png")
    for options, out in ((["--standalone"], "model.onnx"), (["--layout", "triton"], "models")):
        arguments = [*options, "--precision", "int8", "--budget", "logit<=0.000001"]
        arguments += ["--images", tmp_path / "pictures"]
        code, _, errors = mpft("export", detector, tmp_path / out, *arguments)
        assert code == 1
        assert "logit<=1e-06 broken" in errors
        assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_sign_and_require(mpft, detector, bundle, tmp_path):
    key, public = tmp_path / "release.key", tmp_path / "release.key.pub"
    code, text, _ = mpft("keygen", key, "--json")
    assert code == 0
    made = json.loads(text)
    assert (made["private"], made["public"]) == (str(key), str(public))
    code, _, errors = mpft("keygen", key)
    assert code == 2
    assert "never overwritten" in errors
    code, text, _ = mpft("keygen", tmp_path / "other.key")
    assert code == 0
    assert made["fingerprint"] not in text

    out = tmp_path / "bundle"
    assert mpft("export", detector, out, "--sign", key)[0] == 0
    code, text, _ = mpft("verify", out, "--require-signature", public, "--json")
    assert code == 0
    assert json.loads(text)["signed_by"] == f"key {made['fingerprint']}"
    code, text, _ = mpft("verify", out, "--require-signature", public)
    assert code == 0
    assert "as required" in text
    assert mpft("verify", out)[0] == 0
    code, text, _ = mpft("inspect", out, "--json")
    assert code == 0
    assert json.loads(text)["signature"]["key"] == made["fingerprint"]
    # One that has run is signed too, anew by another key, and is the same but for that.
    other = tmp_path / "other.key"
    asked = ["verify", out, "--require-signature", public, "--sign"]
    assert "absent cannot be read" in mpft(*asked, tmp_path / "absent")[2]
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    code, text, _ = mpft(*asked, other, "--json")
    assert code == 0
    assert json.loads(text)["signed_by"] == f"key {made['fingerprint']}"
    now = json.loads(text)["signed_now"]
    assert now != json.loads(text)["signed_by"]
    changed = {name for name, data in before.items() if (out / name).read_bytes() != data}
    assert changed == {"bundle.json"}
    assert mpft("verify", out, "--require-signature", f"{other}.pub")[0] == 0
    code, text, _ = mpft("verify", out, "--sign", key)
    assert code == 0
    assert f"now, by key {made['fingerprint']}" in text
    for folder, pub in ((bundle, public), (out, tmp_path / "other.key.pub")):
        code, _, errors = mpft("verify", folder, "--require-signature", pub)
        assert code == 1
        assert "is required" in errors


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["export", "DETECTOR", "OUT", "--standalone"], 2, "ends with .onnx"),
        (["export", "DETECTOR", "OUT.onnx", "--standalone", "--layout", "triton"], 2, "choose one"),
        (["export", "DETECTOR", "OUT.onnx", "--standalone", "--sign", "k"], 2, "for bundles"),
        (["export", "DETECTOR", "OUT", "--layout", "abacus"], 2, "abacus"),
        (["export", "DETECTOR", "OUT", "--sign", "absent"], 1, "cannot be read"),
        (["export", "absent", "OUT.onnx", "--standalone"], 1, "not a folder"),
        (["verify", "BUNDLE", "--require-signature", "absent"], 1, "cannot be read"),
        (["verify", "BUNDLE", "--require-signature", "DETECTOR/detector.json"], 1, "public key"),
        (["keygen", "absent/key"], 2, "make it first"),
        (["keygen", "."], 2, "exists already"),
        (["keygen"], 2, "KEY"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_wrong_use(mpft, detector, bundle, tmp_path, arguments, code, message, as_json):
    places = {"DETECTOR": detector, "BUNDLE": bundle, "OUT": tmp_path / "out"}
    filled = []
    for argument in arguments:
        for word, path in places.items():
            argument = argument.replace(word, str(path))
        filled.append(argument)
    actual, text, errors = mpft(*filled, *(["--json"] if as_json else []))
    assert actual == code
    shown = json.loads(text)["error"] if as_json else errors
    assert message in shown
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_runs_without_torch_and_unsigned_without_cryptography(detector, tmp_path):
    codes, errors = without(
        ("torch", "cryptography"),
        ["export", detector, tmp_path / "model.onnx", "--standalone"],
        ["export", detector, tmp_path / "models", "--layout", "triton"],
        ["export", detector, tmp_path / "bundle"],
        ["verify", tmp_path / "bundle"],
        ["inspect", tmp_path / "bundle"],
        ["profile", tmp_path / "bundle", "--samples", "10", "--limit", "2"],
        ["keygen", tmp_path / "key"],
    )
    assert codes == [0, 0, 0, 0, 0, 0, 3], errors
    assert how_to_install("sign") in errors

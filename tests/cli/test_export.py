"""Export, verify, inspect and profile as a person runs them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import reference
from command import MPFT
from PIL import Image

from mpft_deploy.shipped import shipped_detector


@pytest.fixture
def pictures(tmp_path):
    """A folder of images."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(3)
    for index in range(20):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize("precision", ["fp32", "int8", "int8-static", "wide"])
def test_export_then_verify(mpft, detector, pictures, tmp_path, precision):
    out = tmp_path / "bundle"
    arguments = ["--precision", precision, "--images", pictures, "--budget", "flips<=20%"]
    arguments += ["--backend", "onnxruntime"]
    code, text, _ = mpft("export", detector, out, *arguments, "--json")
    assert code == 0
    result = json.loads(text)
    assert result["certificate"]["answer"] == "kept"
    assert result["certificate"]["images"]["images"] == 20
    assert {path.name for path in out.iterdir()} == {
        "bundle.json",
        "engine.onnx",
        "certificate.json",
        "golden.safetensors",
        "latency.json",
    }
    code, text, _ = mpft("verify", out, "--json")
    assert code == 0
    assert json.loads(text)["passed"]
    for command in ("verify", "inspect"):
        code, text, _ = mpft(command, out)
        assert code == 0
        assert "smoke test" in text
        assert "golden: flips" not in text
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_without_images_nothing_is_proven_and_that_is_said(mpft, detector, tmp_path):
    out = tmp_path / "bundle"
    code, text, _ = mpft("export", detector, out, "--precision", "int8")
    assert code == 0
    assert "NOT PROVEN: no images to judge verdicts by" in text
    for command in ("verify", "inspect"):
        code, text, _ = mpft(command, out)
        assert code == 0
        assert "not proven" in text.lower()
    code, _, errors = mpft("export", detector, tmp_path / "two", "--budget", "flips<=1%")
    assert code == 2
    assert "add --images" in errors


@pytest.mark.parametrize(
    ("budget", "answer", "advice"),
    [
        ("logit<=0.000001", "broken", "--float-layers"),
        ("flips<=1%", "undecided", "more like these would decide"),
    ],
)
def test_what_is_not_kept_is_refused_and_not_written(
    mpft, detector, pictures, tmp_path, budget, answer, advice
):
    out = tmp_path / "bundle"
    arguments = ["--budget", budget, "--images", pictures]
    if answer == "broken":
        arguments += ["--precision", "int8"]
    code, _, errors = mpft("export", detector, out, *arguments)
    assert code == 1
    assert f"{budget.partition('<')[0]}<=" in errors
    assert answer in errors
    assert "--allow-unproven" in errors
    assert advice in errors
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]
    code, text, _ = mpft("export", detector, out, *arguments, "--allow-unproven")
    assert code == 1
    assert f": {answer.upper()}" in text
    code, text, _ = mpft("verify", out)
    assert code == (answer == "broken")
    assert f"{answer}: " in text


def test_images_without_a_verdict_prove_nothing(mpft, make_detector, pictures, tmp_path):
    crop = reference.tiny_spec().crop
    make_detector(tmp_path / "d", crop=msgspec.structs.replace(crop, least_side=40))
    Image.new("RGB", (39, 90), (9, 9, 9)).save(pictures / "small.png")
    arguments = ["--images", pictures, "--allow-unproven", "--json"]
    code, text, errors = mpft("export", tmp_path / "d", tmp_path / "out", *arguments)
    assert code == 1, errors + text  # so few prove nothing
    images = json.loads(text)["certificate"]["images"]
    assert images["images"] == 20
    assert images["left_out"] == {"without a verdict: too small, or too little texture": 1}


def test_copies_count_once_and_calibration_does_not_prove(mpft, detector, pictures, tmp_path):
    """The same pixels in another file and format, and images that the engine was fitted to."""
    Image.open(pictures / "0.png").save(pictures / "again.webp", lossless=True)
    shutil.copy(pictures / "1.png", pictures / "copy.png")
    fitted = tmp_path / "fitted"
    fitted.mkdir()
    for index in (2, 3):
        Image.open(pictures / f"{index}.png").save(fitted / f"other{index}.bmp")
    arguments = ["--images", pictures, "--calibrate", fitted, "--budget", "flips<=20%"]
    arguments += ["--precision", "int8", "--json"]
    code, text, errors = mpft("export", detector, tmp_path / "out", *arguments)
    assert code == 0, errors + text
    images = json.loads(text)["certificate"]["images"]
    assert images["images"] == 18
    assert images["left_out"] == {"copies of others": 2, "used for calibration": 2}
    code, _, errors = mpft(
        "export", detector, tmp_path / "two", "--images", fitted, "--calibrate", fitted
    )
    assert code == 1
    assert "none of the 2 images there can judge: each is one of --calibrate too" in errors


def test_the_same_pixels_in_both_classes_are_an_error(mpft, detector, pictures, tmp_path):
    folder = tmp_path / "labelled"
    for name in ("0_real", "1_fake"):
        (folder / name).mkdir(parents=True)
        shutil.copy(pictures / "0.png", folder / name)
    code, _, errors = mpft("export", detector, tmp_path / "out", "--images", folder)
    assert code == 1
    assert "lie in both classes" in errors


def test_latency_has_the_percentiles_that_so_many_samples_bound(bundle):
    from mpft_deploy.bundle import read_bundle
    from mpft_deploy.statistics import bounded

    read = read_bundle(bundle)
    latency, golden = read.latency, len(read.golden.logits)
    assert latency.samples in range(golden, 101 + golden, 10), "the smoke test is timed, then more"
    percents = {f"p{percent}" for percent in bounded(latency.samples)}
    assert latency.total_ms.keys() == {"mean", "min", "max"} | percents
    assert not any("(" in reason for reason in latency.disturbed)


def test_latency_of_a_slow_engine_ends_with_what_it_has(bundle):
    from mpft_deploy.bundle import read_bundle
    from mpft_deploy.engine import load_engine
    from mpft_deploy.profile.latency import measure

    read = read_bundle(bundle)
    views = read.golden.crops
    latency = measure(load_engine(read), read.spec, views, samples=100, seconds=0.0)
    assert latency.samples == 10
    assert latency.total_ms.keys() == {"mean", "min", "p50", "max"}


def test_altered_golden_logits_fail_the_export(mpft, make_detector, tmp_path):
    """A detector whose weights are not those that the golden logits came from."""
    from mpft_deploy.detector_folder import read_detector, write_detector

    make_detector(tmp_path / "one")
    make_detector(tmp_path / "two", seed=5)
    one, two = read_detector(tmp_path / "one"), read_detector(tmp_path / "two")
    write_detector(tmp_path / "mixed", one.spec, one.weights, two.golden, "")
    code, _, errors = mpft("export", tmp_path / "mixed", tmp_path / "out")
    assert code == 1
    assert "logits of the smoke test differ from PyTorch float32" in errors
    # Nor is it passed for repeating what it computed when it was written all the same.
    assert mpft("export", tmp_path / "mixed", tmp_path / "out", "--allow-unproven")[0] == 1
    code, text, _ = mpft("verify", tmp_path / "out", "--json")
    assert code == 1
    assert "written though logits of the smoke test differ" in json.loads(text)["reasons"][0]


def test_existing_output_is_kept_unless_told(mpft, detector, tmp_path):
    out = tmp_path / "bundle"
    out.mkdir()
    (out / "mine").touch()
    code, _, errors = mpft("export", detector, out)
    assert code == 2
    assert "--overwrite" in errors
    assert (out / "mine").exists()
    code, _, errors = mpft("export", detector, out, "--overwrite")
    assert code == 2
    assert "not a bundle" in errors
    (out / "mine").unlink()
    assert mpft("export", detector, out)[0] == 0
    seal = (out / "bundle.json").read_bytes()
    assert mpft("export", detector, out)[0] == 2
    assert mpft("export", detector, out, "--precision", "int8", "--overwrite")[0] == 0
    assert (out / "bundle.json").read_bytes() != seal
    (out / "mine").touch()
    code, _, errors = mpft("export", detector, out, "--overwrite")
    assert code == 2
    assert "belong to a bundle: mine." in errors
    assert (out / "mine").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["export", "absent", "OUT"], 1, "not a folder"),
        (["export", "DETECTOR", "OUT", "--backend", "abacus"], 2, "abacus"),
        (["export", "DETECTOR", "OUT", "--precision", "int2"], 2, "int2"),
        (["export", "DETECTOR", "OUT", "--budget", "flips"], 2, "budget"),
        (["export", "DETECTOR", "OUT", "--float-layers", "*.mlp.*"], 2, "it has no floats"),
        (
            ["export", "DETECTOR", "OUT", "--precision", "int8", "--float-layers", "nothing"],
            2,
            "no layer matches",
        ),
        (["export", "DETECTOR", "OUT", "--images", "absent"], 1, "not a folder"),
        (["export", "DETECTOR", "OUT", "--images", "EMPTY"], 1, "no image under"),
        (["export", "DETECTOR", "OUT", "--dry-run", "--standalone"], 2, "--dry-run is for"),
        (
            ["export", "DETECTOR", "OUT", "--backend", "onnxruntime", "--precision", "fp16"],
            2,
            "choose fp32, int8, int8-static",
        ),
        (
            ["export", "DETECTOR", "OUT", "--precision", "fp16"],
            3,
            "the package tensorrt is not",
        ),
        (["export", "DETECTOR"], 2, "OUT"),
        (["verify", "DETECTOR"], 2, "is a detector, not a bundle: export it first"),
        (["profile", "absent"], 1, "not a folder"),
        (["inspect", "absent"], 1, "not a folder"),
        (["inspect", "BUNDLE", "--reseal"], 2, "for detectors"),
        (["conquer"], 2, "conquer"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_wrong_use(mpft, detector, bundle, tmp_path, arguments, code, message, as_json):
    (tmp_path / "empty").mkdir()
    places = {
        "DETECTOR": detector,
        "BUNDLE": bundle,
        "OUT": tmp_path / "out",
        "EMPTY": tmp_path / "empty",
    }
    filled = [str(places.get(argument, argument)) for argument in arguments]
    if as_json:
        filled.append("--json")
    actual, text, errors = mpft(*filled)
    assert actual == code
    if as_json:
        assert message in json.loads(text)["error"]
    else:
        assert message in errors
        assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--budget", "flips<=1%"], "judged on images"),
        (["--precision", "wide", "--float-layers", "*.mlp.*"], "it has no floats"),
        (["--precision", "twice"], "Make one with `mpft certify`"),
        (["--precision", "fp32", "--float-layers", "*.mlp.*"], "it has nothing else"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_dry_run_refuses_what_the_export_would(mpft, detector, tmp_path, options, words, dry):
    code, _, errors = mpft("export", detector, tmp_path / "out", *options, *dry)
    assert code == 2
    assert words in errors


def test_undecodable_image_fails_the_certificate(mpft, detector, pictures, tmp_path):
    (pictures / "broken.png").write_bytes(b"no image")
    code, _, errors = mpft("export", detector, tmp_path / "out", "--images", pictures)
    assert code == 1
    assert "broken.png: not an image" in errors
    assert not (tmp_path / "out").exists()


def test_inspect_detector(mpft, detector):
    code, text, _ = mpft("inspect", detector, "--json")
    assert code == 0
    assert json.loads(text)["spec"]["keep"] == "textured:6"
    code, text, _ = mpft("inspect", detector)
    assert code == 0
    assert "textured:6: 6 of 16 cells" in text


def test_inspect_tells_what_is_looked_at_in_pictures_and_in_streams(mpft):
    code, text, _ = mpft("inspect", shipped_detector())
    assert code == 0
    rows = {row[0].strip(): row[1] for line in text.splitlines() if (row := line.split("│")[1:-1])}
    assert rows["calibration"].startswith(" views three, ")
    assert rows["of streams"].startswith(" views moving, ")


def test_full_disk_while_exporting(detector, tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)], capture_output=True
    ).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        ended = subprocess.run(
            [*MPFT, "export", str(detector), str(mount / "out")], capture_output=True, text=True
        )
        assert ended.returncode == 3
        assert "the disk is full" in ended.stderr
        assert "Traceback" not in ended.stderr
        assert list(mount.iterdir()) == []
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_interrupted_export_leaves_nothing(detector, pictures, tmp_path):
    for index in range(3000):  # enough to be interrupted in
        os.link(pictures / "0.png", pictures / f"copy{index}.png")
    out = tmp_path / "out" / "bundle"
    arguments = [*MPFT, "export", str(detector), str(out), "--images", str(pictures)]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "image" in line:
            break
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(60) == 130
    assert "interrupted" in rest
    assert "Traceback" not in rest
    assert not out.parent.exists() or list(out.parent.iterdir()) == []


def test_killed_export_leaves_no_bundle_that_reads(detector, tmp_path):
    """SIGKILL at any moment leaves either no bundle or a whole one."""
    from mpft_deploy.bundle import read_bundle

    for delay in (0.3, 0.6, 1.2):
        out = tmp_path / f"out{delay}"
        process = subprocess.Popen(
            [*MPFT, "export", str(detector), str(out)], stderr=subprocess.DEVNULL
        )
        time.sleep(delay)
        process.kill()
        process.wait()
        if out.exists():
            read_bundle(out)


def test_copied_bundle_still_reads(bundle, tmp_path, mpft):
    shutil.copytree(bundle, tmp_path / "elsewhere")
    assert mpft("verify", tmp_path / "elsewhere")[0] == 0


def test_help_is_quick():
    """Nothing heavy is imported for help: a fact, where a stopwatch would be a mood."""
    script = (
        "import sys; from mpft_deploy.cli.main import COMMANDS, cli, run; "
        "[run(cli, 'mpft', [*words, '--help']) for words in ([], *([name] for name in COMMANDS))];"
        "heavy = {'numpy', 'onnx', 'onnxruntime', 'torch', 'PIL', 'av', 'rich', 'msgspec'}; "
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_paths_of_this_machine_stay_out_of_bundles(bundle):
    text = b"".join(Path(bundle, name).read_bytes() for name in ("bundle.json", "certificate.json"))
    assert str(Path(bundle).parent).encode() not in text


@pytest.mark.parametrize("target", ["jetson-orin", "jetson-thor"])
def test_what_a_jetson_would_get_is_told_without_one(mpft, detector, tmp_path, target):
    out = tmp_path / "out"
    code, text, _ = mpft("export", detector, out, "--target", target, "--dry-run", "--json")
    assert code == 0
    native, plan = json.loads(text).values()
    written = mpft("export", detector, tmp_path / "real", "--precision", "narrow")[0]
    assert written == 0
    size = (tmp_path / "real" / "engine.safetensors").stat().st_size
    assert float(native["engine"].split()[0]) == pytest.approx(size / 1e6, abs=0.06)
    capability, jetpack = {"jetson-orin": ("8.7", "6"), "jetson-thor": ("11.0", "7")}[target]
    assert f"SM {capability} under JetPack {jetpack}" in plan["runs on"]
    assert "not measured" in plan["how long"]
    assert "--backend tensorrt --precision fp16" in plan["export"]
    code, text, _ = mpft(
        *("export", detector, out, "--target", target, "--dry-run", "--backend", "tensorrt"),
        *("--precision", "int8-static+fp16", "--batch", "1:2:4", "--workspace", "64"),
    )
    assert code == 0
    assert "batch of 1 to 4" in text
    code, text, _ = mpft(
        *("export", detector, out, "--target", target, "--dry-run", "--json"),
        *("--precision", "int8-static+fp16", "--float-layers", "*.c_proj"),
    )
    assert code == 0
    [plan] = json.loads(text).values()
    assert "(float: *.c_proj)" in plan["precision"]
    assert "--float-layers '*.c_proj' --backend" in plan["export"]
    assert not out.exists()
    for precision, backend in (("narrow", "native"), ("fp16", "tensorrt")):
        options = ("--target", target, "--dry-run", "--precision", precision, "--json")
        code, text, _ = mpft("export", detector, out, *options)
        assert code == 0
        [title] = json.loads(text)  # of the only backend that has such an engine
        assert f"{backend} {precision}" in title


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "is built on it"),
        (["--dry-run", "--backend", "openvino"], "runs native and tensorrt"),
        (["--dry-run", "--backend", "tensorrt", "--precision", "fp8+fp16"], "needs SM 8.9"),
        (["--dry-run", "--backend", "tensorrt", "--precision", "wide"], "choose fp32, fp16"),
        (["--dry-run", "--backend", "native", "--precision", "fp16"], "choose wide, twice"),
        (["--dry-run", "--precision", "int8"], "no engine of precision int8"),
        (["--dry-run", "--keep", "textured:17"], "has only 16 cells"),
        (["--dry-run", "--standalone"], "take one engine"),
        (["--dry-run", "--float-layers", "*.mlp.*"], "goes with one --precision"),
        (["--dry-run", "--precision", "narrow", "--float-layers", "*.mlp.*"], "it has no floats"),
        (["--dry-run", "--precision", "fp32", "--float-layers", "*.mlp.*"], "has nothing else"),
        (["--dry-run", "--latency", "p90<=20ms"], "nothing is timed"),
    ],
)
def test_what_a_jetson_cannot_get(mpft, detector, tmp_path, options, words):
    code, _, errors = mpft("export", detector, tmp_path, "--target", "jetson-orin", *options)
    assert code == 2
    assert words in errors

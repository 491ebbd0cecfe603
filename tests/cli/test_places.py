"""Where commands write: told before the work, and nothing that is not theirs is replaced."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from reference import FLOAT32

from mpft_deploy.cli.main import cli, run
from mpft_deploy.errors import InputError, MpftError
from mpft_deploy.export.layouts import export_triton
from mpft_deploy.export.pipeline import Request, describe, export
from mpft_deploy.export.search import notes_of, search
from mpft_deploy.export.standalone import export_standalone

EXPORTS: list[Callable[..., object]] = [export, search, export_triton, export_standalone]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A person's pictures, and a diary."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (50, 40), (name == "a" and "red") or "blue").save(folder / f"{name}.png")
    (folder / "diary.txt").write_text("dear diary")
    return folder


def state(folder: Path) -> dict[str, bytes]:
    return {str(one): one.read_bytes() for one in sorted(folder.rglob("*")) if one.is_file()}


@pytest.mark.parametrize("act", [*EXPORTS, describe])
@pytest.mark.parametrize(
    "place", ["photos", "detector", "parent", "file", "/proc/x.onnx", "/dev/null", "."]
)
def test_exports_ask_before_their_work(detector, photos, monkeypatch, act, place):
    own = photos.parent / "own" / "det"
    shutil.copytree(detector, own)
    monkeypatch.chdir(photos.parent)
    out = {"photos": photos, "detector": own, "parent": own.parent, "file": photos / "a.png"}.get(
        place, Path(place)
    )
    if act is export_standalone:
        out = out / "x.onnx" if place == "detector" else out
    if act is export_triton:  # which writes OUT/NAME, and leaves others alone
        if place in ("photos", "."):
            return
        (own.parent / "config.pbtxt").write_text("# mine")
        out = own.parent if place == "detector" else out
    before = state(photos.parent)
    said: list[str] = []
    request = Request(own, out, overwrite=True, images=(photos,))
    with pytest.raises(MpftError) as raised:
        act(request) if act is describe else act(request, say=said.append)
    assert raised.value.exit_code == (3 if "/proc" in place else 2)
    assert said == []
    assert state(photos.parent) == before
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("act", EXPORTS)
@pytest.mark.parametrize("option", ["images", "calibrate"])
def test_all_pictures_that_cannot_be_read_are_told_before_the_work(detector, photos, act, option):
    for name in ("x.png", "y.jpg"):
        (photos / name).write_bytes(b"no picture")
    said: list[str] = []
    out = photos.parent / "out.onnx"
    sound = photos.parent / "sound"
    sound.mkdir()
    shutil.copy(photos / "a.png", sound)
    folders = {"images": (sound,), option: (photos,)}
    request = Request(detector, out, "onnxruntime", "int8-static", **folders)
    with pytest.raises(InputError, match=f"--{option}: 2 of 4 images") as raised:
        act(request, say=said.append)
    assert "x.png" in str(raised.value)
    assert "y.jpg" in str(raised.value)
    assert not any("building" in text or "graph" in text for text in said)
    assert not out.exists()


def test_a_search_leaves_anothers_notes_alone(detector, photos, tmp_path):
    notes = notes_of(tmp_path / "out")
    notes.mkdir()
    (notes / "search.svg").write_text("<svg>mine</svg>")
    with pytest.raises(MpftError, match=r"holds search\.svg, but is not the notes of a search"):
        search(Request(detector, tmp_path / "out", *FLOAT32, images=(photos,)))
    assert (notes / "search.svg").read_text() == "<svg>mine</svg>"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("screen", "photos", "--bundle", "BUNDLE", "--report"), "photos/a.png"),
        (("profile", "BUNDLE", "--html"), "photos/a.png"),
        (("profile", "BUNDLE", "--markdown"), "photos/diary.txt"),
        (("profile", "BUNDLE", "--out"), "photos/diary.txt"),
        (("profile", "BUNDLE", "--layers", "--trace"), "photos/diary.txt"),
        (("profile", "BUNDLE", "--out"), "BUNDLE/latency.json"),
        (("profile", "BUNDLE", "--html"), "BUNDLE/new.html"),
        (("profile", "BUNDLE", "--html"), "/dev/null"),
        (("eval", "BUNDLE", "photos", "--out"), "BUNDLE"),
        (("eval", "BUNDLE", "photos", "--out"), "own"),
        (("keygen",), "photos/diary.txt"),
        (("keygen",), "BUNDLE/key"),
    ],
)
def test_no_option_replaces_what_it_did_not_write(
    bundle, photos, monkeypatch, capfd, arguments, name
):
    monkeypatch.chdir(photos.parent)
    shutil.copytree(bundle, "BUNDLE")
    Path("own").mkdir()
    Path("own/tables.md").write_text("# mine")
    before = state(photos.parent)
    assert run(cli, "mpft", [*arguments, name]) == 2
    assert capfd.readouterr().err.startswith(f"error: {name}")
    assert state(photos.parent) == before


def test_an_earlier_report_is_replaced_and_is_not_for_everyone(bundle, photos):
    report = photos.parent / "report.html"
    for _ in range(2):
        command = ["screen", str(photos), "--bundle", str(bundle), "--report", str(report)]
        assert run(cli, "mpft", command) == 0
    assert stat.S_IMODE(report.stat().st_mode) & 0o007 == 0


def test_results_of_a_profile_are_replaced_each_by_its_kind(bundle, tmp_path):
    options = {"--out": "json", "--html": "html", "--markdown": "md", "--trace": "trace.json"}
    places = [part for option, name in options.items() for part in (option, str(tmp_path / name))]
    quick = ["profile", str(bundle), "--samples", "10", "--limit", "1", "--layers"]
    for _ in range(2):
        assert run(cli, "mpft", [*quick, *places]) == 0
    swapped = [*quick, "--html", str(tmp_path / "md")]
    assert run(cli, "mpft", swapped) == 2
    assert json.loads((tmp_path / "trace.json").read_bytes())["traceEvents"]
    same = [*quick, "--html", str(tmp_path / "new"), "--markdown", str(tmp_path / "new")]
    assert run(cli, "mpft", same) == 2
    older = [*quick, "--compare", str(tmp_path / "json"), "--out", str(tmp_path / "json")]
    assert run(cli, "mpft", older) == 2

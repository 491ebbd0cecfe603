"""`mpft screen` on good and bad input: one clear message each, and the right exit code."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command import MPFT, Screen
from media import encoded, picture, write_video
from telling import fill

from mpft_deploy.cli import main
from mpft_deploy.screen.streams import memory

HOSTILE = [
    "<script>alert(1)</script>.png",
    "new\nline.png",
    "\x1b[31mred\x1b]0;title\x07.png",
    "[bold]x.png",
]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(picture()))
    return path


def test_a_table_for_people(screen: Screen, photo: Path, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4")
    run = screen(photo, clip)
    assert run.code == 0
    assert "photo.png" in run.out
    assert "mean of 3 frames" in run.out
    told = r"\d generated \(from 0\.650\), \d unsure, \d real \(up to 0\.350\)"
    assert re.fullmatch(told, run.out.splitlines()[-1])
    assert run.err == ""


def test_views_that_the_calibration_is_not_of_are_told(screen: Screen, photo: Path) -> None:
    told = "uncalibrated combination: views five, calibrated for centre"
    run = screen(photo, "--views", "five")
    assert (run.code, run.out.count(told)) == (0, 2)  # beside the verdict, and below the table
    assert run.out.splitlines()[-1].startswith(told)
    [line] = screen(photo, "--views", "five", "--json").lines
    assert line["note"] == told
    [line] = screen(photo, "--json").lines
    assert "uncalibrated" not in line.get("note", "")


def test_json_lines(screen: Screen, photo: Path, tmp_path: Path, bundle: Path) -> None:
    from mpft_deploy.images import decode_image
    from mpft_deploy.screen import Screener

    clip = write_video(tmp_path / "clip.mp4")
    (tmp_path / "bad.jpg").write_bytes(b"text")
    run = screen(photo, "bad.jpg", clip, "--json", "--fps", "2")
    assert run.code == 1
    image, bad, video = run.lines
    expected = Screener.open(bundle)(decode_image(photo))
    assert image["verdict"] == expected.verdict
    assert image["logit"] == pytest.approx(expected.logit, abs=1e-5)
    assert (image["width"], image["height"], image["kind"]) == (64, 48, "image")
    assert bad == {
        "file": "bad.jpg",
        "kind": "image",
        "error": "bad.jpg: not an image that can be read",
    }
    assert (video["screened"], video["seconds"]) == (6, 2.5)
    logits = [frame["logit"] for frame in video["frames"]]
    assert video["logit"] == pytest.approx(sum(logits) / 6, abs=1e-5)


def test_a_threshold_moves_the_verdict(screen: Screen, photo: Path) -> None:
    verdicts = {
        threshold: screen(photo, "--json", "--threshold", threshold).lines[0]["verdict"]
        for threshold in ("0", "1")
    }
    assert verdicts == {"0": "generated", "1": "real"}


def test_folders_are_searched_and_nothing_is_judged_twice(screen: Screen, tmp_path: Path) -> None:
    for name in ("in/a.png", "in/deep/b.PNG", "in/deep/.hidden.png", "in/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded(picture()))
    (tmp_path / "in" / "up").symlink_to("..")
    write_video(tmp_path / "in" / "c.mkv")
    run = screen("in/a.png", "in", "in/deep/../a.png", "in/deep", "in/deep/.hidden.png", "--json")
    assert run.code == 0
    found = [line["file"] for line in run.lines]
    images = ["in/deep/../a.png", "in/c.mkv", "in", "in/deep/b.PNG", "in/deep/.hidden.png"]
    assert found == images
    [folder] = [line for line in run.lines if line["file"] == "in"]
    assert folder == {"file": "in", "kind": "folder", "passed_over": {".txt": 1}}


@pytest.mark.parametrize("batch", ["1", "4"])
def test_order_and_verdicts_do_not_depend_on_the_batch(
    screen: Screen, tmp_path: Path, batch: str
) -> None:
    names = [f"{index}.png" for index in range(6)]
    for index, name in enumerate(names):
        data = encoded(picture(seed=index)) if index != 2 else b"broken"
        (tmp_path / name).write_bytes(data)
    run = screen(*names, "--json", "--batch", batch)
    assert [line["file"] for line in run.lines] == names
    alone = screen("5.png", "--json").lines[0]["logit"]
    assert run.lines[5]["logit"] == pytest.approx(alone, abs=1e-5)
    assert "error" in run.lines[2]


def test_unreadable_inputs_are_listed_and_the_others_judged(
    screen: Screen, photo: Path, tmp_path: Path
) -> None:
    (tmp_path / "hollow").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "empty.mp4").touch()
    bad = ["none.png", "hollow", "loop.png", "empty.png", "empty.mp4"]
    run = screen(*bad, photo)
    assert run.code == 1
    assert "photo.png" in run.out
    assert "5 could not be read" in run.out
    errors = run.err.splitlines()
    assert len(errors) == 5
    for name, line, reason in zip(
        bad,
        errors,
        ["no such file", "no images or videos", "symbolic links", "empty", "empty"],
        strict=True,
    ):
        assert line.startswith(f"error: {name}")
        assert reason in line


def test_files_that_may_not_be_read(screen: Screen, tmp_path: Path, bundle: Path) -> None:
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip(
                "runs as root, who may read everything, and has no setpriv to become another"
            )
        # Without these capabilities root is bound by permissions like anyone else.
        prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
    else:
        prefix = []
    (tmp_path / "locked.png").write_bytes(encoded(picture()))
    (tmp_path / "folder" / "shut").mkdir(parents=True)
    (tmp_path / "folder" / "open.png").write_bytes(encoded(picture()))
    (tmp_path / "locked.png").chmod(0)
    (tmp_path / "folder" / "shut").chmod(0)
    done = subprocess.run(
        [
            *prefix,
            *MPFT,
            "screen",
            "locked.png",
            "folder",
            "folder/shut/x.png",
            "--json",
            "--bundle",
            str(bundle),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    locked, judged, shut, inside = map(json.loads, done.stdout.splitlines())
    assert locked["error"] == "locked.png: Permission denied"
    assert judged["file"] == "folder/open.png"
    assert shut["error"] == "folder/shut: Permission denied"
    assert inside["error"] == "folder/shut/x.png: Permission denied"
    for code, options in (
        (1, ["--bundle", "folder/shut/b"]),
        (3, ["--report", "folder/shut/r.html"]),
    ):
        run = [*prefix, *MPFT, "screen", "x.png", "--bundle", str(bundle), *options]
        done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == code
        assert done.stderr.startswith("error: folder/shut/")
        assert done.stderr.endswith(": Permission denied\n")


def test_names_that_are_not_utf8(screen: Screen, tmp_path: Path) -> None:
    name = b"caf\xe9.png"
    (tmp_path / os.fsdecode(name)).write_bytes(encoded(picture()))
    (tmp_path / os.fsdecode(b"\xff.jpg")).write_bytes(b"no image")
    table = screen(".", "--report", "r.html")
    assert table.code == 1
    assert r"caf\xe9.png" in table.out
    assert r"\xff.jpg: not an image" in table.err
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert r"caf\xe9.png" in page
    assert [line["file"] for line in screen(name, "--json").lines] == [r"caf\xe9.png"]


def test_hostile_names_cannot_write_on_the_terminal_or_the_page(
    screen: Screen, tmp_path: Path
) -> None:
    for name in HOSTILE:
        # A name may not hold a slash; the tag is closed without.
        (tmp_path / name.replace("/", "")).write_bytes(encoded(picture()))
        (tmp_path / f"bad{name.replace('/', '')}").write_bytes(b"no image")
    run = screen(".", "--report", "r.html")
    assert run.code == 1
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    for text in (run.out, run.err, page):
        assert "\x1b" not in text
        assert "\x07" not in text
        assert r"new\nline.png" in text
        assert "[bold]x.png" in text
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    lines = screen(".", "--json").out.splitlines()
    assert len(lines) == 9
    assert json.loads(lines[-1])["passed_over"] == {".html": 1}
    assert {json.loads(line)["file"] for line in lines} >= {"new\nline.png"}
    assert all(line.isascii() and line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "Missing argument"),
        (["photo.png", "--bundle", "none"], 1, "not a folder"),
        (["photo.png", "--threshold", "2"], 2, "0<=x<=1"),
        (["photo.png", "--threshold", "nan"], 2, "no finite number"),
        (["photo.png", "--fps", "0"], 2, "x>0"),
        (["photo.png", "--fps", "nan"], 2, "no finite number"),
        (["photo.png", "--fps", "inf"], 2, "no finite number"),
        (["photo.png", "--duration", "nan"], 2, "write 90s, 10m, 1h or 1d"),
        (["photo.png", "--duration", "0"], 2, "write 90s, 10m, 1h or 1d"),
        (["photo.png", "--duration", ""], 2, "write 90s, 10m, 1h or 1d"),
        (["photo.png", "--threads", "3000"], 2, "3000 threads are not possible"),
        (["photo.png", "--views", "all"], 2, "'centre', 'moving', 'three', 'five', 'grid'"),
        (["photo.png", "--batch", "0"], 2, "x>=1"),
        (["photo.png", "--report", "."], 2, "is a folder"),
        (["photo.png", "--report", "none/r.html"], 2, "does not exist"),
        (["photo.png", "--notes", "none.json"], 1, "No such file"),
        (["photo.png", "--notes", "photo.png"], 1, "JSON object"),
    ],
)
def test_wrong_usage(
    screen: Screen, photo: Path, arguments: list[str], code: int, message: str
) -> None:
    run = screen(*arguments)
    assert run.code == code
    assert message in run.err
    again = screen(*arguments, "--json")
    assert again.code == code
    assert message in again.lines[0]["error"]


def test_without_a_bundle_the_shipped_detector_judges(
    screen: Screen, photo: Path, detector: Path, tmp_path: Path
) -> None:
    run = screen(photo, MPFT_BUNDLE="", XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert run.code == 0
    assert "the detector that comes with mpft-deploy, once: " in run.err
    run = screen(photo, "--bundle", detector)
    assert run.code == 2
    assert f"mpft-export {detector} DIR" in run.err


def test_that_no_path_is_there_is_said_before_a_bundle_is_made(
    screen: Screen, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    run = screen("none.png", "no/more", MPFT_BUNDLE="", XDG_CACHE_HOME=str(cache))
    assert run == (1, "", "error: none.png: no such file; no/more: no such file\n")
    assert not cache.exists()


def test_notes_say_where_an_image_comes_from(screen: Screen, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text(json.dumps({"photo.png": "NASA, <public> domain"}))
    run = screen(photo, "--notes", "notes.json", "--report", "r.html")
    assert run.code == 0
    assert "NASA, <public> domain" in run.out
    assert "NASA, &lt;public&gt; domain" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_reader_that_leaves_is_no_failure(tmp_path: Path, bundle: Path) -> None:
    for index in range(40):
        (tmp_path / f"{index:02}.png").write_bytes(encoded(picture()))
    for options, said in ((["--json", "--report", "r.html"], b"report: r.html\n"), ([], b"")):
        process = subprocess.Popen(
            [*MPFT, "screen", ".", "--bundle", str(bundle), *options],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == said
        assert process.wait(30) == 0
    assert "Not finished: Broken pipe." in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_ctrl_c_ends_at_once_and_the_report_says_so(tmp_path: Path, bundle: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    first = folder / "0.png"
    first.write_bytes(encoded(picture(1500, 1500)))
    for index in range(1, 400):
        (folder / f"{index}.png").hardlink_to(first)
    process = subprocess.Popen(
        [*MPFT, "screen", "many", "--bundle", str(bundle), "--json", "--report", "r.html"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert "verdict" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.stdout.read(), process.stderr.read()  # communicate forgets what was buffered
    assert process.wait(60) == 130
    *judged, last = map(json.loads, out.splitlines())
    assert len(judged) < 200  # of 400: it did not wait for the rest
    assert "interrupted" in last["error"]
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many", "r.html"]
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Not finished: interrupted by SIGINT" in page
    assert page.count("<article") == len(judged) + 1  # the one whose line is out


def test_a_full_disk_leaves_no_report_but_the_verdicts(
    screen: Screen, photo: Path, small_disk: Path
) -> None:
    ballast = fill(small_disk)
    run = screen(photo, "--report", small_disk / "r.html")
    assert run.code == 3
    assert "the disk is full" in run.err
    assert "photo.png" in run.out
    assert list(small_disk.iterdir()) == [ballast]


def test_help_is_quick_and_imports_no_engine() -> None:
    code = (
        "import sys\nfrom mpft_deploy.cli.main import cli, run\n"
        "assert run(cli, 'mpft', ['screen', '--help']) == 0\n"
        "print(sorted({'numpy', 'onnxruntime', 'av', 'jinja2', 'rich', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_files_are_screened_with_memory_that_stays_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(memory, "give_frames_back", lambda: called.append(True))
    assert main.run(main.cli, "mpft", ["screen"]) == 2
    assert called == [True]


UNUSED = {"av", "jinja2", "rich", "torch", "onnx"}
"""Packages of video, reports and training."""

UNUSED |= {"numpy.ma", "importlib.metadata", "urllib.request", "ssl", "statistics"}
UNUSED |= {"mpft_deploy.export.pipeline"}
"""What takes a tenth of a second of the processor's time together, before the first verdict."""


def test_an_image_alone_loads_nothing_that_it_does_not_need(bundle: Path, photo: Path) -> None:
    code = (
        "import sys\nfrom mpft_deploy.cli.main import cli, run\n"
        f"arguments = ['screen', {str(photo)!r}, '--json', '--bundle', {str(bundle)!r}]\n"
        "assert run(cli, 'mpft', arguments) == 0\n"
        "import mpft_deploy.export.shipped  # which finds the bundle where none is named\n"
        f"print(sorted({UNUSED!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr

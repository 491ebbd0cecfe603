"""Outputs: tried before the work, and nothing that is not ours is replaced."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from written import BUNDLE, DETECTOR, REPORT, RUN, names, text_of, write

from mpft_deploy.errors import EnvironmentLacksError, UsageError
from mpft_deploy.outputs import reserve, write_output

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A bundle, the only thing in its folder."""
    write(tmp_path / "out")
    return tmp_path / "out"


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def test_an_output_is_replaced_when_told(out):
    with pytest.raises(UsageError, match=r"exists already; .* --overwrite"):
        write(out, "new", replace=False)
    assert text_of(out) == "old"
    write(out, "new")
    assert text_of(out) == "new"
    assert names(out.parent) == ["out", "out/bundle.json", "out/engine"]


def spoil_manifest(out: Path, change: dict[str, object]) -> None:
    payload = {**json.loads((out / "bundle.json").read_bytes()), **change}
    (out / "bundle.json").write_text(json.dumps(payload))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda out: (out / "notes.txt").write_text("mine"),
        lambda out: (out / ".hidden").write_text("mine"),
        lambda out: (out / "folder" / "deep").mkdir(parents=True),
        lambda out: (out / "link").symlink_to("/"),
        lambda out: (out / "bundle.json").unlink(),
        lambda out: (out / "bundle.json").write_text("{}"),
        lambda out: (out / "bundle.json").write_text('{"kind": "bundle", "version": 1}'),
        lambda out: (out / "bundle.json").write_bytes(b"\xff"),
        lambda out: spoil_manifest(out, {"kind": "detector"}),
        lambda out: spoil_manifest(out, {"files": ["engine"]}),
        lambda out: ((out / "engine").unlink(), (out / "engine" / "photos").mkdir(parents=True)),
    ],
)  # fmt: skip
def test_what_is_not_ours_is_not_replaced(out, spoil):
    spoil(out)
    before = names(out)
    with pytest.raises(UsageError, match="is not replaced"):
        write(out, "new")
    assert names(out) == before


def test_another_kind_is_not_replaced(out):
    with pytest.raises(UsageError, match="it is not a detector"):
        write(out, "new", kind=DETECTOR)
    assert text_of(out) == "old"


@pytest.mark.parametrize("change", [{"version": 99}, {"version": 0}])
def test_an_output_of_another_version_or_that_is_damaged_is_replaced(out, change):
    spoil_manifest(out, change)
    (out / "engine").unlink()
    (out / ".DS_Store").touch()
    write(out, "new")
    assert text_of(out) == "new"


def test_an_empty_folder_is_nobodys(tmp_path):
    (tmp_path / "out" / "lost+found").mkdir(parents=True)
    write(tmp_path / "out", replace=False)
    assert text_of(tmp_path / "out") == "old"


@pytest.mark.parametrize("name", ["out", "link", "bundles/../out", "./out/."])
def test_inputs_survive(out, name, monkeypatch):
    monkeypatch.chdir(out.parent)
    Path("link").symlink_to("out")
    Path("bundles").mkdir()
    for one in ("out", "link", "out/engine", str(out), "bundles/../out/engine"):
        with (
            pytest.raises(UsageError, match="which is read"),
            reserve(Path(name), BUNDLE, replace=True, inputs=[Path(one)]),
        ):
            pass
    with reserve(Path(name), BUNDLE, replace=True, inputs=[Path("bundles"), Path("absent")]):
        pass


def test_files_that_are_read_survive(tmp_path):
    (tmp_path / "report").write_bytes(b"<report>")
    os.link(tmp_path / "report", tmp_path / "another name")
    with (
        pytest.raises(UsageError, match="which is read"),
        reserve(tmp_path / "report", REPORT, replace=True, inputs=[tmp_path / "another name"]),
    ):
        pass


@pytest.mark.parametrize("here", [".", "engines"])
def test_the_current_directory_stays(out, monkeypatch, here):
    (out / here).mkdir(exist_ok=True)
    monkeypatch.chdir(out / here)
    for name in (".", "..", str(out)) if here == "." else ("..", str(out)):
        with pytest.raises(UsageError):
            write(Path(name), "new")
    empty = out.parent / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    with pytest.raises(UsageError, match="is or holds the current directory"):
        write(Path(), "new")


def test_a_link_is_followed(out):
    (out.parent / "current").symlink_to("out")
    write(out.parent / "current", "new")
    assert (out.parent / "current").is_symlink()
    assert text_of(out) == "new"


@pytest.mark.parametrize("inside", ["out", "out/deeper", "out/deeper/and/deeper"])
def test_nothing_is_written_into_a_sealed_folder(out, inside):
    for kind in (BUNDLE, REPORT, RUN):
        with (
            pytest.raises(UsageError, match="lies in the bundle"),
            reserve(out.parent / inside / "new", kind, replace=True, parents=True),
        ):
            pass
    with pytest.raises(UsageError, match="lies in the bundle"), reserve(out, RUN):
        pass
    with pytest.raises(UsageError, match="lies in the bundle"):
        write_output(out / "engine", b"<report>", REPORT)
    assert text_of(out) == "old"


@needs_root
def test_mount_points_stay(out):
    mount("-t", "tmpfs", "tmpfs", str(out))
    try:
        with pytest.raises(UsageError, match="is a mount point"):
            write(out, "new", replace=False)
    finally:
        subprocess.run(["umount", str(out)], check=True)


@needs_root
def test_bind_mounts_are_known_by_what_they_are(out):
    other = out.parent / "other place"  # its name is escaped in the list of mounts
    other.mkdir()
    mount("--bind", str(out), str(other))
    try:
        with pytest.raises(UsageError, match="is a mount point"):
            write(other, "new")
        with (
            pytest.raises(UsageError, match="which is read"),
            reserve(out, BUNDLE, replace=True, inputs=[other / "engine"]),
        ):
            pass
    finally:
        subprocess.run(["umount", str(other)], check=True)


@pytest.mark.parametrize("content", [b"", b"<report>", b"<!doctype><report>"])
def test_a_file_of_the_kind_is_replaced(tmp_path, content):
    (tmp_path / "out").write_bytes(content)
    write_output(tmp_path / "out", b"<report>new", REPORT)
    assert (tmp_path / "out").read_bytes() == b"<report>new"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("content", [b"\xff\xd8\xff", b"mine", b" " * 2**17 + b"<report>"])
def test_a_file_of_another_kind_is_not(tmp_path, content):
    (tmp_path / "out").write_bytes(content)
    with pytest.raises(UsageError, match="is not replaced, for it is not a report"):
        write_output(tmp_path / "out", b"<report>new", REPORT)
    assert (tmp_path / "out").read_bytes() == content


@pytest.mark.parametrize("name", ["/dev/null", "/dev/zero", "pipe", "socket"])
def test_devices_and_pipes_stay_what_they_are(tmp_path, monkeypatch, name):
    import socket

    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket")
        mode = Path(name).stat().st_mode
        with pytest.raises(UsageError, match="is a device or a pipe"):
            write_output(Path(name), b"<report>", REPORT)
        assert Path(name).stat().st_mode == mode


@pytest.mark.parametrize("kind", [BUNDLE, REPORT])
@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("x" * 256, UsageError),
        ("file/out", UsageError),
        ("loop", UsageError),
        ("/proc/out", EnvironmentLacksError),
        ("/proc/self/out", EnvironmentLacksError),
        ("/sys/out", EnvironmentLacksError),
    ],
)
def test_places_that_cannot_be_written_are_told_at_once(tmp_path, monkeypatch, kind, name, error):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("loop").symlink_to("loop")
    with (
        pytest.raises(error) as raised,
        reserve(Path(name), kind, replace=True, parents=True),
    ):
        pytest.fail("the work began")
    assert str(raised.value).startswith(name)
    assert ".mpft-" not in str(raised.value)


def test_a_name_may_be_as_long_as_a_name_can_be(tmp_path):
    write(tmp_path / ("x" * 255))
    write(tmp_path / ("x" * 255), "new")
    assert text_of(tmp_path / ("x" * 255)) == "new"


def test_a_missing_folder_above_a_file(tmp_path):
    with pytest.raises(UsageError, match="make it first"):
        write_output(tmp_path / "absent" / "out", b"<report>", REPORT)


@needs_root
@pytest.mark.parametrize("kind", [BUNDLE, REPORT, RUN])
def test_read_only_file_systems_are_told_at_once(small_disk, kind):
    mount("-o", "remount,ro", str(small_disk))
    with (
        pytest.raises(EnvironmentLacksError, match=r"out cannot be written: Read-only"),
        reserve(small_disk / "out", kind),
    ):
        pytest.fail("the work began")


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_the_umask_takes_its_part(tmp_path, umask):
    before = os.umask(umask)
    try:
        write(tmp_path / "out")
        write_output(tmp_path / "report", b"", REPORT)
        write_output(tmp_path / "private", b"", REPORT, mode=0o600)
    finally:
        os.umask(before)

    def mode(name: str) -> int:
        return stat.S_IMODE((tmp_path / name).stat().st_mode)

    assert mode("out") == 0o777 & ~umask
    assert mode("out/engine") == mode("out/bundle.json") == mode("report") == 0o666 & ~umask
    assert mode("private") == 0o600


def test_a_folder_that_is_written_into(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "notes").write_text("mine")
    with reserve(folder, RUN):
        (folder / "log").write_text('{"event"')
    (folder / ".mpft-0123456789ab.tmp").touch()  # as a run that was killed leaves it
    with reserve(folder, RUN):
        pass
    assert names(folder) == ["log", "notes"]
    (folder / "log").write_text("mine")
    (folder / "state").touch()
    with (
        pytest.raises(UsageError, match="log, state, but is not a run"),
        reserve(folder, RUN),
    ):
        pytest.fail("the work began")
    with reserve(tmp_path / "deep" / "new", RUN):
        assert (tmp_path / "deep" / "new").is_dir()
    assert not (tmp_path / "deep").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_no_permission_is_told_at_once(out):
    """As another user, in a second process: root may write anywhere."""
    code = (
        "import ctypes, fcntl, os, sys; from pathlib import Path\n"
        "from mpft_deploy.outputs import *; from mpft_deploy.standing import *\n"
        "os.setegid(65534); os.seteuid(65534)\n"
        "kind = sealed_kind('bundle')\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        with reserve(Path(name), kind, replace=True): print('began')\n"
        "    except Exception as error: print(type(error).__name__, error)"
    )
    top = out.parent
    while top != Path("/tmp"):
        top.chmod(0o755)
        top = top.parent
    (out.parent / "sticky").mkdir()
    (out.parent / "sticky").chmod(0o1777)
    write(out.parent / "sticky" / "out")
    (out.parent / "secret").mkdir(mode=0o700)
    places = [out, out.parent / "new", out.parent / "sticky" / "out", out.parent / "secret" / "x"]
    ran = subprocess.run(
        [sys.executable, "-c", code, *places, out.parent / "sticky" / "mine"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = ran.stdout.splitlines()
    for line, place in zip(lines, places, strict=False):
        assert line.startswith(f"EnvironmentLacksError {place}")
    assert lines[-1] == "began"

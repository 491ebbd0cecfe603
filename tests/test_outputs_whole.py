"""Outputs are whole or absent: failures, full disks, kills, and several runs at once."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from written import BUNDLE, REPORT, names, text_of, write

from mpft_deploy import outputs
from mpft_deploy.errors import EnvironmentLacksError, UsageError
from mpft_deploy.outputs import reserve, staged_folder, write_output


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A bundle, the only thing in its folder."""
    write(tmp_path / "out")
    return tmp_path / "out"


def test_a_failure_leaves_nothing(tmp_path):
    with (
        pytest.raises(FileNotFoundError),
        staged_folder(tmp_path / "new" / "out", BUNDLE) as staging,
    ):
        (staging / "absent").unlink()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_at_once_where_the_size_is_known(small_disk):
    with (
        pytest.raises(EnvironmentLacksError, match=r"disk is full: .*out takes 0\.1 MB"),
        reserve(small_disk / "out", BUNDLE, room=100_000),
    ):
        pytest.fail("the work began")


def test_a_disk_that_becomes_full_leaves_the_old(small_disk):
    write(small_disk / "out")
    with (
        pytest.raises(EnvironmentLacksError, match=r"the disk is full: .*out was not written"),
        staged_folder(small_disk / "out", BUNDLE, replace=True) as staging,
    ):
        (staging / "engine").write_bytes(bytes(200_000))
    assert names(small_disk) == ["out", "out/bundle.json", "out/engine"]
    assert text_of(small_disk / "out") == "old"
    with pytest.raises(EnvironmentLacksError, match="the disk is full"):
        write_output(small_disk / "file", bytes(200_000), REPORT)
    assert names(small_disk) == ["out", "out/bundle.json", "out/engine"]


@pytest.fixture(params=["exchange", "rename"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to replace a folder."""
    if request.param == "rename":
        monkeypatch.setattr(outputs, "_exchange", lambda one, other: False)
    return str(request.param)


@pytest.mark.parametrize("failing", [1, 2])
def test_a_rename_that_fails_leaves_the_old(out, monkeypatch, failing):
    monkeypatch.setattr(outputs, "_exchange", lambda one, other: False)
    real, count = Path.rename, 0

    def rename(self: Path, other: Path) -> Path:
        nonlocal count
        count += 1
        if count == failing:
            raise OSError(errno.EBUSY, "busy")
        return real(self, other)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(EnvironmentLacksError, match=r"out cannot be written: busy.* there still"):
        write(out, "new")
    assert text_of(out) == "old"
    assert names(out.parent) == ["out", "out/bundle.json", "out/engine"]


def test_an_exchange_that_fails_leaves_the_old(out, monkeypatch):
    def fail(one: Path, other: Path) -> bool:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(outputs, "_exchange", fail)
    with pytest.raises(EnvironmentLacksError, match="out cannot be written: Invalid cross"):
        write(out, "new")
    assert text_of(out) == "old"


def test_contents_reach_the_disk_before_the_old_goes(out, monkeypatch, way):
    """All files and folders of the new are flushed before it takes its place, and that then."""
    events: list[tuple[str, int]] = []
    inodes: dict[str, int] = {}

    def fsync(descriptor: int) -> None:
        events.append(("sync", os.fstat(descriptor).st_ino))

    def publish(self: outputs.Place, new: Path) -> None:
        inodes.update({path.name: path.stat().st_ino for path in (new, *new.iterdir())})
        inodes["parent"] = out.parent.stat().st_ino
        real(self, new)

    real = outputs.Place._publish
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(outputs.Place, "_publish", publish)
    monkeypatch.setattr(outputs.shutil, "rmtree", lambda path, **_: events.append(("remove", 0)))
    write(out, "new")
    order = [inode for kind, inode in events if kind == "sync"]
    assert {inodes["engine"], inodes["bundle.json"], inodes["new"]} <= set(order)
    last = max(order.index(inodes[name]) for name in ("engine", "bundle.json", "new"))
    assert last < order.index(inodes["parent"])
    assert events.index(("sync", inodes["parent"])) < events.index(("remove", 0), last)
    assert text_of(out) == "new"


@pytest.mark.parametrize(
    ("what", "how"), [("folder", "exchange"), ("folder", "rename"), ("file", "rename")]
)
def test_killed_at_any_system_call_the_old_or_the_new_is_there(tmp_path, what, how):
    memory = Path("/dev/shm")  # where flushing costs nothing
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        ran = subprocess.run(
            [sys.executable, Path(__file__).with_name("killed.py"), folder, what, how],
            capture_output=True,
            text=True,
        )
    if "Operation not permitted: 'ptrace'" in ran.stderr:
        pytest.skip("processes may not be traced here")
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout)
    assert len(seen) > 20
    found = {state for state, _, _ in seen}
    # Two renames leave a moment without either, which the next run mends.
    assert found == {"old", "new"} | ({"absent"} if (what, how) == ("folder", "rename") else set())
    for state, mended, left in seen:
        assert mended == ("old" if state == "absent" else state)
        assert left == ["out"]
    assert seen[0][0] == "old"
    assert seen[-1][0] == "new"


def test_a_reader_is_told_what_a_killed_run_left(out):
    workplace = outputs.workplace_of(out.parent, "out")
    workplace.mkdir()
    out.rename(workplace / "old")
    with pytest.raises(Exception, match=r"a run that was killed left it in .*/old"):
        text_of(out)
    with pytest.raises(UsageError, match="exists already"):
        write(out, "new", replace=False)
    assert text_of(out) == "old"


def test_a_second_run_is_told_before_its_work(out):
    code = (
        "import sys; from pathlib import Path; from mpft_deploy.outputs import *\n"
        "from mpft_deploy.standing import *\n"
        "with reserve(Path(sys.argv[1]), sealed_kind('bundle'), replace=True):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, out], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        with (
            pytest.raises(UsageError, match="is being written by another run"),
            reserve(out, BUNDLE, replace=True),
        ):
            pytest.fail("the work began")
        write(out.parent / "another")
        first.communicate(b"")
    write(out, "new")
    assert text_of(out) == "new"


def test_threads_of_one_process_keep_out_of_each_others_way(tmp_path):
    """Each writes or is told so; what stands there in the end is one of them, whole."""
    told: list[str] = []

    def work(number: int) -> None:
        try:
            for _ in range(5):
                write(tmp_path / "out", str(number))
        except UsageError as error:
            told.append(str(error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("another run" in text for text in told)
    assert text_of(tmp_path / "out") in map(str, range(8))
    assert names(tmp_path) == ["out", "out/bundle.json", "out/engine"]


def test_one_place_for_two_outputs(tmp_path):
    with (
        reserve(tmp_path / "out", REPORT),
        pytest.raises(UsageError, match="is named for two outputs"),
        reserve(tmp_path / "out", REPORT),
    ):
        pytest.fail("the work began")


def test_another_users_workplace_is_not_used(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    outputs.workplace_of(tmp_path, "out").symlink_to("elsewhere")
    with (
        pytest.raises(EnvironmentLacksError, match="in the way"),
        reserve(tmp_path / "out", REPORT),
    ):
        pytest.fail("the work began")
    assert names(tmp_path / "elsewhere") == []

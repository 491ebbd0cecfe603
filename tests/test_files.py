"""Files that are whole or absent, and names that can be shown."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from mpft_deploy.errors import EnvironmentLacksError, InputError
from mpft_deploy.files import display, read_small, write_atomic


def test_write_atomic_replaces(tmp_path):
    for data in (b"one", b"two"):
        write_atomic(tmp_path / "file", data)
    assert (tmp_path / "file").read_bytes() == b"two"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
@pytest.mark.parametrize("mode", [0o666, 0o640, 0o600])
def test_the_umask_takes_its_part(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "file", b"", mode=mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode & ~umask


def test_a_name_may_be_as_long_as_a_name_can_be(tmp_path):
    path = tmp_path / ("é" * 127)
    write_atomic(path, b"x")
    assert path.read_bytes() == b"x"


def test_full_disk_leaves_nothing(small_disk):
    with pytest.raises(EnvironmentLacksError, match="the disk is full"):
        write_atomic(small_disk / "file", bytes(200_000))
    assert list(small_disk.iterdir()) == []


def test_undecodable_names_can_be_shown():
    assert display(Path(os.fsdecode(b"caf\xe9.jpg"))) == "caf\\xe9.jpg"
    display("né.jpg").encode()


def test_a_small_file_is_read_whole_and_no_other(tmp_path):
    path = tmp_path / "settings.json"
    with pytest.raises(InputError, match=r"--notes .*settings\.json cannot be read: No such file"):
        read_small(path, "--notes")
    path.write_bytes(b"{}")
    assert read_small(path) == b"{}"
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_small(tmp_path)
    os.truncate(path, 2**26 + 1)
    with pytest.raises(InputError, match="more than the 64 MB"):
        read_small(path)

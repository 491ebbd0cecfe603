"""Sealed folders: whole or absent, and any change shows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpft_deploy.bundle import read_bundle
from mpft_deploy.detector_folder import read_detector, reseal_detector
from mpft_deploy.errors import EnvironmentLacksError, InputError, UsageError
from mpft_deploy.files import canonical_json, display, sha256, staged_folder, write_atomic

READERS = {"detector": read_detector, "bundle": read_bundle}


@pytest.fixture(params=list(READERS))
def sealed(request, tmp_path):
    """A copy of a sealed folder, with its reader."""
    copy = tmp_path / request.param
    shutil.copytree(request.getfixturevalue(request.param), copy)
    return copy, READERS[request.param]


def test_intact_folder_is_read(sealed):
    folder, read = sealed
    assert read(folder).spec.patch == 8


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_flipped_bit_is_refused(sealed, data):
    folder, read = sealed
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    original = path.read_bytes()
    position = data.draw(st.integers(0, len(original) - 1))
    changed = bytearray(original)
    changed[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(changed)
    try:
        with pytest.raises(InputError):
            read(folder)
    finally:
        path.write_bytes(original)


def test_every_byte_of_the_manifest_counts(sealed):
    folder, read = sealed
    path = folder / ("detector.json" if read is read_detector else "bundle.json")
    original = path.read_bytes()
    for position in range(len(original)):
        path.write_bytes(original[:position] + b"~" + original[position + 1 :])
        with pytest.raises(InputError):
            read(folder)


def test_missing_file(sealed):
    folder, read = sealed
    (folder / "golden.safetensors").unlink()
    with pytest.raises(InputError, match=r"lacks golden\.safetensors"):
        read(folder)


def test_extra_file(sealed):
    folder, read = sealed
    (folder / "surplus.so").touch()
    with pytest.raises(InputError, match=r"surplus\.so"):
        read(folder)


def test_truncated_file(sealed):
    folder, read = sealed
    path = folder / "golden.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="altered"):
        read(folder)


def test_newer_version_says_upgrade(sealed):
    folder, read = sealed
    path = folder / ("detector.json" if read is read_detector else "bundle.json")
    payload = json.loads(path.read_bytes())
    payload["version"] += 1
    payload.pop("seal")
    payload["seal"] = sha256(canonical_json(payload))
    path.write_bytes(canonical_json(payload))
    with pytest.raises(InputError, match="Upgrade mpft-deploy"):
        read(folder)


def test_consistent_forgery_of_a_hash_is_refused(sealed):
    """Changing a file and its hash alone is not enough: the seal covers the hashes."""
    folder, read = sealed
    path = folder / ("detector.json" if read is read_detector else "bundle.json")
    (folder / "golden.safetensors").write_bytes(b"other")
    payload = json.loads(path.read_bytes())
    payload["files"]["golden.safetensors"] = sha256(b"other")
    path.write_bytes(canonical_json(payload))
    with pytest.raises(InputError, match="altered"):
        read(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000])
def test_manifest_that_is_none(sealed, content):
    folder, read = sealed
    (folder / ("detector.json" if read is read_detector else "bundle.json")).write_bytes(content)
    with pytest.raises(InputError):
        read(folder)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_not_a_sealed_folder(read, tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        read(tmp_path / "absent")
    with pytest.raises(InputError, match="it has no"):
        read(tmp_path)


def test_edited_card_needs_a_reseal(detector, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(detector, folder)
    (folder / "MODEL_CARD.md").write_text("# edited\n")
    with pytest.raises(InputError, match=r"MODEL_CARD\.md was altered"):
        read_detector(folder)
    reseal_detector(folder)
    assert read_detector(folder).card == "# edited\n"


def test_staged_folder_leaves_nothing_on_failure(tmp_path):
    with pytest.raises(FileNotFoundError), staged_folder(tmp_path / "out") as staging:
        (staging / "absent").unlink()
    assert list(tmp_path.iterdir()) == []


def test_staged_folder_replaces_only_when_told(tmp_path):
    target = tmp_path / "out"
    for text in ("old", "new"):
        with staged_folder(target, replace=True) as staging:
            (staging / "file").write_text(text)
    assert (target / "file").read_text() == "new"
    with pytest.raises(UsageError, match="exists already"), staged_folder(target):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_write_atomic_replaces(tmp_path):
    for data in (b"one", b"two"):
        write_atomic(tmp_path / "file", data)
    assert (tmp_path / "file").read_bytes() == b"two"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)], capture_output=True
    )
    if made.returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_full_disk_leaves_nothing(small_disk):
    with (
        pytest.raises(EnvironmentLacksError, match="the disk is full"),
        staged_folder(small_disk / "out") as staging,
    ):
        (staging / "large").write_bytes(bytes(200_000))
    with pytest.raises(EnvironmentLacksError, match="the disk is full"):
        write_atomic(small_disk / "file", bytes(200_000))
    assert list(small_disk.iterdir()) == []


def test_undecodable_names_can_be_shown():
    assert display(Path(os.fsdecode(b"caf\xe9.jpg"))) == "caf\\xe9.jpg"
    display("né.jpg").encode()

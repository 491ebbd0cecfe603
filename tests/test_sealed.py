"""Sealed folders: any change shows, and nothing but regular files is ever read."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpft_deploy.bundle import read_bundle
from mpft_deploy.detector_folder import read_detector, reseal_detector
from mpft_deploy.errors import InputError
from mpft_deploy.files import canonical_json, sha256

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


def manifest_of(folder: Path, read: object) -> Path:
    return folder / ("detector.json" if read is read_detector else "bundle.json")


def sealed_anew(path: Path, payload: dict[str, object]) -> None:
    """Write a manifest with a right seal, as anyone can who has no key."""
    payload.pop("seal", None)
    path.write_bytes(canonical_json({**payload, "seal": sha256(canonical_json(payload))}))


@pytest.mark.parametrize(
    "name",
    [".DS_Store", "._engine.onnx", "Thumbs.db", "desktop.ini", "lost+found/", ".nfs000000000a1f",
     ".fuse_hidden0000001a00000001", "@eaDir/", ".directory", ".stfolder/", ".Trash-1000/",
     "System Volume Information/", ".mpft-0123456789ab.tmp/"],
)  # fmt: skip
def test_what_systems_put_there_is_passed_over(sealed, name):
    folder, read = sealed
    path = folder / name
    if name.endswith("/"):
        path.mkdir()
    else:
        path.write_bytes(b"anything")
    assert read(folder).spec.patch == 8


@pytest.mark.parametrize(
    "name",
    [".hidden", "DS_Store", "lost+found2", ".nfsx", "...", "engine.onnx ", "Thumbs.db.so",
     "..data2", "..2024", "x.mpft-0123.tmp", ".stfold"],
)  # fmt: skip
def test_what_only_looks_like_that_is_refused(sealed, name):
    folder, read = sealed
    (folder / name).touch()
    with pytest.raises(InputError, match="holds files it should not"):
        read(folder)


def test_links_of_a_kubernetes_volume(sealed):
    folder, read = sealed
    version = folder / "..2026_11_28_18_00_00.123456789"
    version.mkdir()
    for path in [path for path in folder.iterdir() if path.is_file()]:
        path.rename(version / path.name)
        path.symlink_to(f"..data/{path.name}")
    (folder / "..data").symlink_to(version.name)
    assert read(folder).spec.patch == 8


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/tty", "pipe", ".", "/proc/kmsg", "missing"])
@pytest.mark.parametrize("which", ["manifest", "golden.safetensors"])
def test_devices_pipes_and_folders_are_not_read(sealed, target, which):
    folder, read = sealed
    path = manifest_of(folder, read) if which == "manifest" else folder / which
    os.mkfifo(folder.parent / "pipe")
    path.unlink()
    path.symlink_to(folder.parent / target if target == "pipe" else target)
    with pytest.raises(InputError, match=r"regular file|cannot be read|altered|damaged"):
        read(folder)


def test_a_file_of_absurd_size_is_not_read(sealed):
    folder, read = sealed
    os.truncate(folder / "golden.safetensors", 2**43)  # takes no room on the disk
    with pytest.raises(InputError, match=r"golden\.safetensors has 8796093022208 bytes"):
        read(folder)
    os.truncate(manifest_of(folder, read), 2**43)
    with pytest.raises(InputError, match=r"json has 8796093022208 bytes"):
        read(folder)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/b", "", ".", "..", "a\0b", "\ud800", "x" * 300, ".DS_Store"]
)
def test_a_manifest_lists_plain_names(sealed, name):
    folder, read = sealed
    path = manifest_of(folder, read)
    payload = json.loads(path.read_bytes())
    payload["files"][name] = sha256(b"")
    sealed_anew(path, payload)
    with pytest.raises(InputError, match="which cannot be"):
        read(folder)


@pytest.mark.parametrize("digest", [None, 1, [], "", "A" * 64, "0" * 63])
def test_a_manifest_lists_digests(sealed, digest):
    folder, read = sealed
    path = manifest_of(folder, read)
    payload = json.loads(path.read_bytes())
    payload["files"]["golden.safetensors"] = digest
    sealed_anew(path, payload)
    with pytest.raises(InputError, match="which cannot be"):
        read(folder)


@pytest.mark.parametrize(
    "text",
    ['{"kind": "K", "version": 1, "x": NaN}', '{"kind": "K", "version": 1, "x": -Infinity}',
     '{"kind": "K", "version": 1, "x": 1e999}', '{"kind": "K", "version": 1, "version": 1}',
     '{"kind": "K", "version": 1, "x": ' + "9" * 5000 + "}",
     '{"kind": "K", "version": 1, "x": ' + "[" * 700 + "]" * 700 + "}",
     '{"kind": "K", "version": 1, "x": ' + '{"x":' * 50_000 + "1" + "}" * 50_001,
     '{"kind": "K", "version": [1]}', '{"kind": ["K"], "version": 1}', '"K"', "null"],
)  # fmt: skip
def test_json_that_no_manifest_is(sealed, text):
    folder, read = sealed
    kind = "detector" if read is read_detector else "bundle"
    manifest_of(folder, read).write_text(text.replace("K", kind))
    with pytest.raises(InputError):
        read(folder)


def test_a_folder_that_is_replaced_while_it_is_read(sealed, monkeypatch):
    """The reader is given one version whole, never files of two."""
    folder, read = sealed
    other = folder.with_name("other")
    shutil.copytree(folder, other)
    path = manifest_of(other, read)
    payload = json.loads(path.read_bytes())
    (payload.get("sources") or payload["spec"]["training"])["note"] = "another"
    (other / "golden.safetensors").write_bytes((folder / "golden.safetensors").read_bytes())
    sealed_anew(path, payload)
    seal = json.loads(path.read_bytes())["seal"]
    first = folder / "golden.safetensors"

    def exchange(name: str) -> bool:
        # The moment between the manifest and the files; the old folder's files are gone.
        monkeypatch.undo()
        folder.rename(folder.with_name("old"))
        other.rename(folder)
        (folder.with_name("old") / first.name).unlink()
        return False

    monkeypatch.setattr("mpft_deploy.sealed.is_system_name", exchange)
    assert read(folder).seal == seal

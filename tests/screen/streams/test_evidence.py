"""Packages of evidence: computed again, and refused where anything was altered."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import packed

from mpft_deploy.errors import InputError
from mpft_deploy.files import sha256
from mpft_deploy.screen import Screener
from mpft_deploy.screen.evidence.package import MANIFEST, read_package
from mpft_deploy.sealed import make_manifest
from mpft_deploy.signing import generate_keys

Mpft = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, alarmed: Screener, native: Path) -> Path:
    return packed(tmp_path_factory.mktemp("kept"), alarmed, native)


def test_what_is_unchanged_passes(package: Path, native: Path, mpft: Mpft) -> None:
    code, text, _ = mpft("evidence", "verify", package, "--bundle", native, "--json")
    said = json.loads(text)
    assert (code, said["passed"], said["frames"], said["clip"]) == (0, True, 6, "clip.mp4")
    assert (said["signed_by"], said["signature_checked"]) == (None, False)
    code, text, _ = mpft("evidence", "verify", package, "--bundle", native)
    assert code == 0
    assert "PASSED: nothing was altered, and 6 frames give the same in every bit" in text
    code, text, _ = mpft("evidence", "show", package)
    assert code == 0
    assert "50 pictures" not in text
    assert "verdict generated, was unsure" in text
    code, text, _ = mpft("evidence", "show", package, "--json")
    assert json.loads(text)["address"] == "rtsp://camera/one"
    assert package.stat().st_mode & 0o007 == 0  # it may show people
    with zipfile.ZipFile(package) as archive:
        assert {part.compress_type for part in archive.infolist()} == {zipfile.ZIP_STORED}


def rewritten(
    package: Path, path: Path, change: Callable[[dict[str, Any], dict[str, bytes]], object]
) -> Path:
    """A package by somebody who can compute seals too: its manifest and files were changed."""
    read = read_package(package)
    manifest, files = msgspec.to_builtins(read.manifest), dict(read.content)
    change(manifest, files)
    head = make_manifest(manifest, {name: sha256(data) for name, data in files.items()})
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {MANIFEST: head, **files}.items():
            archive.writestr(name, data)
    return path


def digit(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    said = manifest["frames"][2]["frame"]
    said["logit"] = float(np.nextafter(said["logit"], 9))


def other_view(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    first, second = (manifest["frames"][n]["views"][0] for n in (0, 1))
    files[first], files[second] = files[second], files[first]


def other_verdict(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    said = manifest["frames"][0]["frame"]
    said["verdict"] = "generated" if said["verdict"] == "real" else "real"


def bomb(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", (3000, 3000)).save(buffer, "PNG")
    files["view-00001.png"] = buffer.getvalue()


def no_picture(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    name = manifest["frames"][0]["views"][0]
    files[name] = files[name][:60]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (digit, "frame 3: its logit is"),
        (other_view, "frame 1: the logit of view 1 is"),
        (other_verdict, "frame 1: its verdict is"),
        (bomb, "is no PNG of 32 × 32 pixels"),
        (no_picture, "view-00001.png"),
        (lambda m, f: m["frames"][0].update(windows=()), "views, windows and logits"),
        (lambda m, f: m["frames"][0].update(size=(0, 5)), "views, windows and logits"),
        (lambda m, f: f.pop(m["frames"][0]["views"][0]), "does not name its files"),
        (lambda m, f: f.update({"more.png": b"x"}), "does not name its files"),
        (lambda m, f: f.update({"../up.png": b"x"}), "which cannot be"),
        (lambda m, f: f.update({"/etc/x": b"x"}), "which cannot be"),
        (lambda m, f: m.update(more=1), "is not valid"),
        (lambda m, f: m.update(version=2), "Upgrade mpft-deploy"),
        (lambda m, f: m.update(kind="bundle"), "does not describe a evidence"),
        (lambda m, f: m["engine"].update(sha256="0" * 64), "judged by another engine"),
        (lambda m, f: m["engine"].update(threshold=7.0), "cannot be: threshold"),
    ],
)
def test_what_was_made_up_is_told(
    package: Path, native: Path, tmp_path: Path, mpft: Mpft, change: Any, told: str
) -> None:
    path = rewritten(package, tmp_path / "changed.zip", change)
    code, text, errors = mpft("evidence", "verify", path, "--bundle", native)
    assert code == 1
    assert told in text + errors
    assert "Traceback" not in errors


def unsealed(change: Callable[[dict[str, bytes]], object]) -> Callable[[bytes], bytes]:
    """Change the parts of a package, and nothing of its manifest."""

    def spoil(data: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        change(parts)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, part in parts.items():
                archive.writestr(name, part)
        return buffer.getvalue()

    return spoil


def twice(data: bytes) -> bytes:
    buffer = io.BytesIO(data)
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(MANIFEST, b"{}")
    return buffer.getvalue()


def deflated(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, b" " * 10**7)
    return buffer.getvalue()


def overlapping(data: bytes) -> bytes:
    """Many names for one part."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(MANIFEST, b" " * 10**5)
        part = archive.infolist()[0]
        for number in range(50):
            copy = zipfile.ZipInfo(f"{number}.png")
            copy.header_offset, copy.CRC = part.header_offset, part.CRC
            copy.file_size = copy.compress_size = part.file_size
            archive.filelist.append(copy)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda data: b"", "no package of evidence"),
        (lambda data: data[: len(data) // 2], "no package of evidence"),
        (lambda data: data.replace(b"ftyp", b"ftyq", 1), "no package of evidence, or damaged"),
        (unsealed(lambda parts: parts.pop("view-00002.png")), "lacks view-00002.png"),
        (unsealed(lambda parts: parts.update({"x.png": b""})), "holds files it should not: x.png"),
        (unsealed(lambda parts: parts.update({"clip.mp4": b"other"})), "clip.mp4 was altered"),
        (
            unsealed(lambda p: p.update({MANIFEST: p[MANIFEST].replace(b"gate", b"yard")})),
            "was altered after it was written",
        ),
        (unsealed(lambda parts: parts.pop(MANIFEST)), f"it has no {MANIFEST}"),
        (unsealed(lambda parts: parts.update({MANIFEST: b"[" * 10**6})), "is not JSON"),
        (twice, "holds something twice"),
        (deflated, "holds something twice"),
        (overlapping, "holds something twice"),
    ],
)
def test_what_was_altered_is_refused(
    package: Path, native: Path, tmp_path: Path, mpft: Mpft, spoil: Any, told: str
) -> None:
    path = tmp_path / "spoiled.zip"
    path.write_bytes(spoil(package.read_bytes()))
    code, _, errors = mpft("evidence", "verify", path, "--bundle", native)
    assert code == 1
    assert told in errors
    with pytest.raises(InputError):
        read_package(path)


@given(st.data())
def test_whatever_is_spoiled_is_refused_or_means_the_same(
    package: Path, data: st.DataObject
) -> None:
    sound = read_package(package)
    raw = bytearray(package.read_bytes())
    ends = st.integers(max(0, len(raw) - 3000), len(raw) - 1)  # the list of parts
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 1) | ends)
        raw[place] = data.draw(st.integers(0, 255))
    path = package.with_name("spoiled.zip")
    path.write_bytes(raw)
    try:
        found = read_package(path)
    except InputError:
        return
    assert (found.manifest, found.content) == (sound.manifest, sound.content)


def test_it_says_whose_it_is(
    tmp_path: Path, native: Path, alarmed: Screener, package: Path, mpft: Mpft
) -> None:
    for name in ("own", "foreign"):
        generate_keys(tmp_path / name)
    path = packed(tmp_path / "kept", alarmed, native, key_file=str(tmp_path / "own"))
    verify = ("evidence", "verify", path, "--bundle", native)
    code, text, _ = mpft(*verify, "--key", tmp_path / "own.pub", "--json")
    assert (code, json.loads(text)["signature_checked"]) == (0, True)
    code, text, _ = mpft(*verify)
    assert code == 0
    assert "not checked: give --key" in text
    code, _, errors = mpft(*verify, "--key", tmp_path / "foreign.pub")
    assert code == 1
    assert "it is signed by key" in errors
    code, _, errors = mpft(
        "evidence", "verify", package, "--bundle", native, "--key", tmp_path / "own.pub"
    )
    assert code == 1
    assert "and it has none" in errors
    forged = rewritten(path, tmp_path / "forged.zip", digit)
    code, _, errors = mpft(*verify[:2], forged, *verify[3:], "--key", tmp_path / "own.pub")
    assert code == 1


def test_what_cannot_be_asked(package: Path, bundle: Path, tmp_path: Path, mpft: Mpft) -> None:
    code, _, errors = mpft("evidence", "verify", package, "--bundle", bundle)
    assert code == 1
    assert "judged by another engine" in errors
    code, _, errors = mpft("evidence", "verify", package)  # of a detector that nobody ships
    assert code == 2
    assert "name its bundle" in errors
    code, _, errors = mpft("evidence", "verify", tmp_path / "none.zip", "--bundle", bundle)
    assert code == 1
    assert "No such file" in errors
    assert mpft("evidence", "verify")[0] == 2
    assert mpft("evidence", "verify", tmp_path, "--bundle", bundle)[0] == 1

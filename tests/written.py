"""Outputs that tests of outputs write, of each kind, and what stands there."""

from __future__ import annotations

from pathlib import Path

from mpft_deploy.outputs import staged_folder
from mpft_deploy.sealed import read_sealed, write_seal
from mpft_deploy.standing import Kind, marked_folder, marked_kind, sealed_kind

BUNDLE, DETECTOR = sealed_kind("bundle"), sealed_kind("detector")
REPORT = marked_kind("a report", b"<report>")
RUN = marked_folder("a run", {"log": b'{"event"'}, ("log", "state"))


def write(target: Path, text: str = "old", *, replace: bool = True, kind: Kind = BUNDLE) -> None:
    with staged_folder(target, kind, replace=replace) as staging:
        (staging / "engine").write_text(text)
        write_seal(staging, {"kind": kind.what.removeprefix("a "), "version": 1})


def text_of(target: Path) -> str:
    return read_sealed(target, version=1, kind="bundle").content["engine"].decode()


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))

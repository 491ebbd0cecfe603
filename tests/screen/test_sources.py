"""What a folder gives and passes over, and as what a file is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import Screen
from media import encoded, picture, write_video

from mpft_deploy.finding import passed_over
from mpft_deploy.screen.sources import Item, find_items

OTHERS = ("b.HEIC", "c.heic", "d.jxl", "e.JP2", "f.txt", "noext", "deep/g.dng", "deep/h.heic")
UNTOLD = ("a.xmp", "a.AAE", "Thumbs.db", "desktop.ini", ".hidden.heic", ".git/x.heic")


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    folder = tmp_path / "mixed"
    for name in (*OTHERS, *UNTOLD):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"something")
    (folder / "a.png").write_bytes(encoded(picture()))
    return folder


COUNTS = {".heic": 3, "": 1, ".dng": 1, ".jp2": 1, ".jxl": 1, ".txt": 1}


def test_what_a_folder_holds_beside_pictures_is_counted(mixed: Path) -> None:
    assert list(find_items([mixed])) == [
        Item(mixed / "a.png", "image"),
        Item(mixed, "folder", passed_over=COUNTS),
    ]
    (mixed / "a.png").unlink()
    [missing] = find_items([mixed])
    assert missing.kind is None
    assert "no images or videos in this folder: 8 files of other kinds" in missing.error


def test_the_counts_are_told(mixed: Path, screen: Screen) -> None:
    run = screen("mixed")
    assert run.code == 0
    assert run.out.splitlines()[-1] == passed_over(COUNTS)
    assert passed_over(COUNTS).startswith(
        "8 files of other kinds were passed over: 3 .heic, 1 with"
    )
    assert passed_over({".txt": 1}) == "1 file of another kind was passed over: 1 .txt"
    [_, folder] = screen("mixed", "--json").lines
    assert folder == {"file": "mixed", "kind": "folder", "passed_over": COUNTS}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_an_image_is_one_by_its_content_whatever_it_is_called(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(encoded(picture(), kind))
    assert list(find_items([path])) == [Item(path, "image")]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts", ".flv", ".mpg", ".m4v", ".3gp"])
def test_a_video_is_one_by_its_content_or_its_suffix(
    tmp_path: Path, suffix: str, screen: Screen
) -> None:
    codec = "flv" if suffix == ".flv" else "mpeg4"
    clip = write_video(tmp_path / f"clip{suffix}", seconds=1, rate=25, codec=codec)
    named = clip.rename(tmp_path / "clip") if suffix not in (".ts", ".mpg") else clip
    assert list(find_items([named])) == [Item(named, "video")]
    [line] = screen(named.name, "--json").lines
    assert line["kind"] == "video"
    assert line["verdict"]
    assert list(find_items([tmp_path / f"nothing{suffix}"])) == [
        Item(tmp_path / f"nothing{suffix}", "video")
    ]


def test_still_pictures_of_the_same_family_are_no_videos(tmp_path: Path) -> None:
    for brand in (b"avif", b"heic"):
        path = tmp_path / brand.decode()
        path.write_bytes(b"\0\0\0\x20ftyp" + brand + b"\0" * 20)
        assert list(find_items([path])) == [Item(path, "image")]

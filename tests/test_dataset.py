"""Layouts of the field, manifests, unreadable images."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mpft_deploy.dataset import (
    Sample,
    drop_unreadable,
    find_samples,
    fingerprint,
    require_both_classes,
    require_disjoint,
)
from mpft_deploy.errors import InputError, UsageError


def image(path: Path, colour: tuple[int, int, int] = (9, 9, 9)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)
    return path


def summary(samples: list[Sample]) -> list[tuple[str, int, str, str | None]]:
    return [(sample.path.name, sample.label, sample.set, sample.split) for sample in samples]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["0_real/a.png", "1_fake/b.png"], [(0, "data", None), (1, "data", None)]),
        (["REAL/a.png", "Fake/deep/b.png"], [(1, "deep", None), (0, "data", None)]),
        (
            ["Midjourney/val/ai/a.png", "Midjourney/val/nature/b.png", "ADM/train/ai/c.png"],
            [(1, "ADM", "train"), (1, "Midjourney", "val"), (0, "Midjourney", "val")],
        ),
        (
            ["progan/car/0_real/a.png", "progan/cat/1_fake/b.png"],
            [(0, "progan", None), (1, "progan", None)],
        ),
        (["real/fake/a.png"], [(1, "data", None)]),
    ],
)
def test_layouts(
    files: list[str], expected: list[tuple[int, str, str | None]], tmp_path: Path
) -> None:
    for name in [*files, "notes/unlabelled.png"]:
        image(tmp_path / "data" / name)
    (tmp_path / "data" / "0_real").mkdir(exist_ok=True)
    (tmp_path / "data" / "0_real" / "notes.txt").write_text("no image")
    found = find_samples([tmp_path / "data"])
    assert [(s.label, s.set, s.split) for s in found] == expected


def test_split_leaves_out_what_is_stated_to_be_another(tmp_path: Path) -> None:
    for name in ("train/real/a.png", "val/real/b.png", "real/c.png"):
        image(tmp_path / name)
    assert [s.path.name for s in find_samples([tmp_path], "val")] == ["c.png", "b.png"]
    with pytest.raises(InputError, match="no images of split test, only of"):
        find_samples([_manifest(tmp_path)], "test")


def _manifest(root: Path) -> Path:
    path = root / "list.csv"
    path.write_text(
        "label,path,split,set,generator,licence\n"
        "0,train/real/a.png,train,cameras,,CC0\n"
        "fake,val/real/b.png,val,sd,sd21,\n"
    )
    return path


def test_manifest(tmp_path: Path) -> None:
    samples = find_samples([_manifest(tmp_path)])
    assert summary(samples) == [("a.png", 0, "cameras", "train"), ("b.png", 1, "sd", "val")]
    assert samples[0].path == tmp_path / "train/real/a.png"
    assert (samples[0].licence, samples[1].generator) == ("CC0", "sd21")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"file,label\na.png,1\n", "columns path and label"),
        (b"path,label\na.png,1\nb.png,maybe\n", "line 3"),
        (b"path,label\n,1\n", "line 2"),
        (b"path,label\n\xff\xfe,1\n", "UTF-8"),
        (b"path,label\n", "no labelled images"),
    ],
)
def test_bad_manifest_is_explained(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=told):
        find_samples([path])


def test_missing_and_empty_folders_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        find_samples([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="no labelled images"):
        find_samples([tmp_path])


def test_one_class_alone_and_shared_images_are_errors(tmp_path: Path) -> None:
    image(tmp_path / "real/a.png")
    samples = find_samples([tmp_path])
    with pytest.raises(InputError, match="1 real and 0 generated"):
        require_both_classes(samples, "it")
    with pytest.raises(UsageError, match="both the training and the validation"):
        require_disjoint(samples, find_samples([tmp_path / "real" / ".."]))


def test_few_unreadable_images_are_named_and_left_out(tmp_path: Path) -> None:
    for index in range(9):
        image(tmp_path / f"real/{index}.png")
    broken = tmp_path / "real/broken.png"
    broken.write_bytes((tmp_path / "real/0.png").read_bytes()[:40])
    samples, told = find_samples([tmp_path]), []
    kept = drop_unreadable(samples, told.append, share=0.1)
    assert [s.path.name for s in kept] == [f"{index}.png" for index in range(9)]
    assert len(told) == 1
    assert str(broken) in told[0]
    with pytest.raises(InputError, match=r"1 of 10 images cannot be read.*broken"):
        drop_unreadable(samples, told.append)


def test_fingerprint_changes_with_labels_and_files(tmp_path: Path) -> None:
    a, b = image(tmp_path / "real/a.png"), image(tmp_path / "real/b.png")
    prints = {
        fingerprint([Sample(path, label, "x") for path, label in chosen])
        for chosen in ([(a, 0)], [(a, 1)], [(b, 0)], [(a, 0), (b, 0)])
    }
    assert len(prints) == 4

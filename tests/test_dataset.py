"""Layouts of the field, manifests, unreadable images."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import image

from mpft_deploy.benchmarks import benchmark_of, paired_reals
from mpft_deploy.dataset import (
    Sample,
    drop_contradicting,
    drop_shared,
    drop_unreadable,
    find_samples,
    fingerprint,
    require_both_classes,
)
from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.evaluate.run import find_entries


def summary(samples: list[Sample]) -> list[tuple[str, int, str, str | None]]:
    return [(sample.path.name, sample.label, sample.set, sample.split) for sample in samples]


LAYOUTS = {
    "plain": (["0_real/a", "1_fake/b"], {("data", 0, None), ("data", 1, None)}),
    "deeper": (
        ["REAL/a", "Fake/deep/b"],
        {("data", 0, None), ("data", 1, None)},
    ),
    "GenImage": (
        ["Midjourney/imagenet_midjourney/val/ai/a", "Midjourney/imagenet_midjourney/val/nature/b",
         "ADM/imagenet_ai_0508_adm/train/ai/c"],
        {("ADM", 1, "train"), ("Midjourney", 1, "val"), ("Midjourney", 0, "val")},
    ),
    "GenImage, short": (
        ["ADM/val/ai/a", "ADM/val/nature/b"],
        {("ADM", 1, "val"), ("ADM", 0, "val")},
    ),
    "GenImage, wrapped": (
        ["GenImage/glide/val/ai/a", "GenImage/VQDM/val/nature/b"],
        {("glide", 1, "val"), ("VQDM", 0, "val")},
    ),
    "ForenSynths": (
        ["progan/0_real/a", "progan/1_fake/b", "cyclegan/apple/0_real/a", "cyclegan/cat/1_fake/b"],
        {("progan", 0, None), ("progan", 1, None), ("cyclegan", 0, None), ("cyclegan", 1, None)},
    ),
    "UniversalFakeDetect": (
        ["CNN/test/progan/cat/0_real/a", "CNN/test/unheard_of/1_fake/b", "CNN/test/san/0_real/a",
         "diffusion_datasets/laion/0_real/a", "diffusion_datasets/ldm_200/1_fake/b",
         "diffusion_datasets/glide_50_27/1_fake/b"],
        {("progan", 0, "test"), ("unheard_of", 1, "test"), ("san", 0, "test"), ("laion", 0, None),
         ("ldm_200", 1, None), ("glide_50_27", 1, None)},
    ),
    "Community Forensics": (
        ["Midjourney/real/a", "Midjourney/fake/b", "some-model/fake/c", "some-model/real/c"],
        {("Midjourney", 0, None), ("Midjourney", 1, None), ("some-model", 1, None),
         ("some-model", 0, None)},
    ),
    "AIGIBench": (
        ["test/DALLE-3/0_real/a", "test/DALLE-3/1_fake/b", "test/FLUX1-dev/1_fake/c"],
        {("DALLE-3", 0, "test"), ("DALLE-3", 1, "test"), ("FLUX1-dev", 1, "test")},
    ),
    "Chameleon": (
        ["Chameleon/test/0_real/a", "Chameleon/test/1_fake/b"],
        {("Chameleon", 0, "test"), ("Chameleon", 1, "test")},
    ),
    "Synthbuster": (
        ["synthbuster/dalle2/a", "synthbuster/midjourney-v5/b", "real_RAISE_1k/c"],
        {("dalle2", 1, None), ("midjourney-v5", 1, None), ("real_RAISE_1k", 0, None)},
    ),
    "of faces": (
        ["real_vs_fake/real-vs-fake/valid/real/a", "real_vs_fake/real-vs-fake/valid/fake/b"],
        {("real_vs_fake", 0, "val"), ("real_vs_fake", 1, "val")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name: str, tmp_path: Path) -> None:
    files, expected = LAYOUTS[name]
    for file in files:
        image(tmp_path / "data" / f"{file}.png")
    (tmp_path / "data" / files[0]).with_name("notes.txt").write_text("no image")
    found = find_samples([tmp_path / "data"])
    assert {(s.set, s.label, s.split) for s in found} == expected
    assert len(found) == len(files)
    generated = [s for s in found if s.label]
    assert [s.generator for s in generated] == [
        "deep" if "deep" in s.path.parts else s.set for s in generated
    ]


@pytest.mark.parametrize(
    ("root", "files", "expected"),
    [
        ("cyclegan", ["apple/0_real/a", "horse/1_fake/b"], "cyclegan"),
        ("Midjourney/val", ["ai/a", "nature/b"], "Midjourney"),
        ("holiday/real", ["a", "beach/b"], "holiday"),
        ("net/san", ["one/real/a", "one/fake/b"], "one"),
    ],
)
def test_the_set_may_be_the_folder_that_was_named(
    root: str, files: list[str], expected: str, tmp_path: Path
) -> None:
    for file in files:
        image(tmp_path / root / f"{file}.png")
    assert {s.set for s in find_samples([tmp_path / root])} == {expected}


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["real/a", "whole_synthetic/b", "edited/c", "edited/d"],
         ["edited (2)", "whole_synthetic (1)", "real (1)"]),
        (["0_reel/a", "1_fake/b"], ["0_reel (1) (is 0_reel meant to be 0_real?)"]),
        (["progan/cat/0_real/a", "progan/cat/1_fake/b", "progan/dog/0_reel/a"],
         ["progan/dog/0_reel (1)"]),
        (["real/a", "fake/b", "c"], ["in no class folder: the folder itself (1)"]),
        (["train/real/a", "train/b"], ["in no class folder: train (1)"]),
        (["fake/nature/a", "real/b"], ["both classes", "fake/nature (1)"]),
        (["fake/0/a", "fake/1/b"], ["both classes", "fake/0 (1)"]),
        (["dalle2/a", "sdxl/b"], ["holds no labelled images, only dalle2 (1), sdxl (1)"]),
        (["whole_synthetic/a"], ["only whole_synthetic (1)"]),
        (["a", "b"], ["only the folder itself (2)", "Parquet"]),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_listed(
    files: list[str], told: list[str], tmp_path: Path
) -> None:
    for file in files:
        image(tmp_path / f"{file}.png")
    with pytest.raises(InputError) as raised:
        find_samples([tmp_path])
    for text in told:
        assert text in str(raised.value)


def test_empty_classes_and_links_are_told(tmp_path: Path) -> None:
    for name in ("train/real/a.png", "train/fake/b.png", "val/real/c.png"):
        image(tmp_path / "data" / name)
    (tmp_path / "data" / "val" / "fake").mkdir()
    (tmp_path / "data" / "val" / "fake" / "photo.heic").write_bytes(b"no known format")
    with pytest.raises(
        InputError, match=r"without an image that can be read: val/fake\. 1 file .* 1 \.heic"
    ):
        find_samples([tmp_path / "data"])
    assert len(find_samples([tmp_path / "data"], "train")) == 2
    (tmp_path / "data" / "val" / "fake").rename(tmp_path / "elsewhere")
    (tmp_path / "data" / "val" / "fake").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="links to folders, which are not followed: val/fake"):
        find_samples([tmp_path / "data"])


def test_a_plain_folder_is_real_where_that_is_asked_for_and_nothing_speaks_against_it(
    tmp_path: Path,
) -> None:
    for name in ("2021/a.png", "b.png"):
        image(tmp_path / "photos" / name)
    found = find_samples([tmp_path / "photos"], plain_is_real=True)
    assert [(s.label, s.set, s.folder) for s in found] == [(0, "photos", ""), (0, "photos", "")]
    assert len({s.source for s in found}) == 2
    with pytest.raises(InputError, match="no labelled images, only"):
        find_samples([tmp_path / "photos"])
    for name in ("0_reel", "1_fakes", "whole_synthetic", "ai images", "generate"):
        image(tmp_path / name / name / "a.png")
        with pytest.raises(InputError, match="sound like classes"):
            find_samples([tmp_path / name], plain_is_real=True)


def test_the_reals_of_universal_fake_detect_are_paired_by_its_own_rule(tmp_path: Path) -> None:
    laion = ("ldm_200", "ldm_200_cfg", "ldm_100", "glide_100_27", "glide_50_27", "glide_100_10",
             "dalle")  # fmt: skip
    for name in ("imagenet/0_real", "laion/0_real", *(f"{one}/1_fake" for one in laion),
                 "guided/1_fake", "progan/0_real", "progan/1_fake"):  # fmt: skip
        image(tmp_path / "diffusion_datasets" / name / "a.png")
    sets = [(s.set, s.folder, s.label) for s in find_samples([tmp_path])]
    assert paired_reals(sets) == {**dict.fromkeys(laion, "laion"), "guided": "imagenet"}
    assert benchmark_of(sets) == "UniversalFakeDetect"
    assert benchmark_of([*sets, ("new", "1_fake", 1)]) == ""
    others = [(name, "fake" if label else "real", label) for name, _, label in sets]
    assert (paired_reals(others), benchmark_of(others)) == ({}, "")


def test_synthbuster_is_held_against_raise(tmp_path: Path) -> None:
    for name in ("dalle2/a", "firefly/b", "stable-diffusion-xl/c", "RAISE-1k/d"):
        image(tmp_path / f"{name}.png")
    found = {(s.set, s.folder, s.label) for s in find_samples([tmp_path])}
    assert benchmark_of(found) == "Synthbuster"
    assert paired_reals(found) == dict.fromkeys(
        ("dalle2", "firefly", "stable-diffusion-xl"), "RAISE-1k"
    )
    image(tmp_path / "holiday" / "e.png")
    with pytest.raises(InputError, match=r"in no class folder: holiday \(1\)"):
        find_samples([tmp_path])


def test_kinds_of_so_fake_are_its_generators(tmp_path: Path) -> None:
    for name in ("real/a", "full_synthetic/b", "tampered/c", "full_synthetic/flux/d"):
        image(tmp_path / f"{name}.png")
    found = {s.path.name: s.generator for s in find_samples([tmp_path])}
    assert found == {"a.png": "", "b.png": "full_synthetic", "c.png": "tampered", "d.png": "flux"}


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
        (b"path,label\na\0.png,1\n", "line 2|NUL"),
        (b"path,label\n\xff\xfe,1\n", "UTF-8"),
        (b"path,label\n", "no labelled images"),
    ],
)
def test_bad_manifest_is_explained(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=told):
        find_samples([path])


def test_what_a_manifest_says_cannot_write_on_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(b"path,label,set,generator,source\na.png,1,\x1b[2J,b\x07,\x1b]0;c\n")
    [sample] = find_samples([path])
    assert (sample.set, sample.generator, sample.source) == ("\\x1b[2J", "b\\x07", "\\x1b]0;c")


def test_what_a_manifests_folder_is_called_cannot_either(tmp_path: Path) -> None:
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\x1b[2J\xff"))
    root.mkdir()
    (root / "list.csv").write_text("path,label\na.png,1\n")
    [sample] = find_samples([root / "list.csv"])
    assert sample.set == "\\x1b[2J\\xff"


def test_an_image_that_a_manifest_gives_both_labels_is_in_both_classes(tmp_path: Path) -> None:
    """The last line decided."""
    for seed in range(2):
        noise(tmp_path / f"{seed}.png", seed)
    manifest = tmp_path / "list.csv"
    manifest.write_text("path,label\n0.png,0\n1.png,1\n0.png,1\n1.png,1\n")
    found = find_samples([manifest])
    assert [(one.path.name, one.label) for one in found] == [
        ("0.png", 0), ("1.png", 1), ("0.png", 1)
    ]  # fmt: skip
    assert [entry.sample for entry in find_entries([manifest])] == found
    assert [entry.sample for entry in find_entries([manifest], limit=2)] == found
    told: list[str] = []
    kept = drop_contradicting(drop_unreadable(found, told.append), told.append, share=1)
    assert [one.path.name for one in kept] == ["1.png"]
    assert "2 of 3 images are in both classes" in told[0]


def test_missing_and_empty_folders_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        find_samples([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="no labelled images"):
        find_samples([tmp_path])


def test_one_class_alone_is_an_error(tmp_path: Path) -> None:
    image(tmp_path / "real/a.png")
    samples = find_samples([tmp_path])
    with pytest.raises(InputError, match="1 real and 0 generated"):
        require_both_classes(samples, "it")


def noise(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_copies_are_found_by_their_pixels(tmp_path: Path) -> None:
    for seed in range(4):
        noise(tmp_path / f"a/real/{seed}.png", seed)
        noise(tmp_path / f"a/fake/{seed}.png", 10 + seed)
    shutil.copy(tmp_path / "a/real/0.png", tmp_path / "a/fake/copy.png")  # the same bytes
    noise(tmp_path / "a/fake/again.tiff", 1)  # the same pixels
    told: list[str] = []
    train = drop_unreadable(find_samples([tmp_path / "a"]), told.append)
    with pytest.raises(InputError, match=r"4 of 10 images are in both classes, such as .* and "):
        drop_contradicting(train, told.append)
    kept = drop_contradicting(train, told.append, share=0.5)
    assert sorted(s.path.name for s in kept) == sorted(
        ["2.png", "3.png", "0.png", "1.png", "2.png", "3.png"]
    )
    assert len(told) == 1
    noise(tmp_path / "b/real/x.bmp", 2)
    noise(tmp_path / "b/real/y.png", 99)
    val = drop_unreadable(find_samples([tmp_path / "b"]), told.append)
    with pytest.raises(UsageError, match=r"1 of 2 validation images .*name other images .*--val"):
        drop_shared(kept, val, told.append)
    apart = drop_shared(kept, val, told.append, share=0.5)
    assert {s.path for s in kept} - {s.path for s in apart} == {tmp_path / "a/real/2.png"}
    assert "left out of training" in told[-1]
    assert drop_shared(apart, val, told.append, share=0) == apart


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

"""`mpft eval` on small trees: layouts, damaged files, going on, drawing again, comparing."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import trees
from command import MPFT
from PIL import Image
from scipy.stats import binomtest

from mpft_deploy.bundle import read_bundle
from mpft_deploy.cli.main import cli, run
from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.evaluate import run as evaluation
from mpft_deploy.evaluate.compare import compare
from mpft_deploy.evaluate.metrics import METRICS
from mpft_deploy.evaluate.mistakes import collect
from mpft_deploy.evaluate.models import BundleModel
from mpft_deploy.evaluate.predictions import Predictions, read_predictions
from mpft_deploy.evaluate.protocols import BASIC
from mpft_deploy.evaluate.run import evaluate, find_entries
from mpft_deploy.evaluate.summary import _shares, summarise
from mpft_deploy.images import decode_image
from mpft_deploy.screen import Screener
from mpft_deploy.spec import Calibration

DRAWN = ("tables.md", "metrics.csv", "metrics.json", "report.html")


def mpft_eval(*arguments: object) -> int:
    return run(cli, "mpft", ["eval", *map(str, arguments)])


@pytest.fixture(scope="module")
def genimage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trees.genimage(tmp_path_factory.mktemp("genimage"))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, bundle: Path, genimage: Path) -> Path:
    out = tmp_path_factory.mktemp("out") / "eval"
    assert mpft_eval(bundle, genimage, "--out", out) == 1  # one file is damaged
    return out


def test_predictions_are_the_verdicts_of_screening(
    evaluated: Path, bundle: Path, genimage: Path
) -> None:
    predictions = read_predictions(evaluated / "predictions.parquet")
    rows = predictions.rows("raw", predictions.header.keeps[0])
    screener = Screener.open(bundle)
    assert len(rows) == 16
    for name, logit, chance in zip(rows.paths, rows.logits, rows.probabilities, strict=True):
        judged = screener(decode_image(genimage / name))
        assert (logit, chance) == (judged.logit, judged.probability)
    assert rows.labels.tolist() == [int("/ai/" in name) for name in rows.paths]


def test_of_few_images_metadata_says_nothing(evaluated: Path) -> None:
    assert "metadata alone" not in (evaluated / "tables.md").read_text()


def test_damaged_files_are_named_and_never_scored(evaluated: Path) -> None:
    header = read_predictions(evaluated / "predictions.parquet").header
    assert [bad.path for bad in header.unreadable] == ["Midjourney/val/ai/damaged.png"]
    assert header.images == 17
    for name in ("tables.md", "report.html"):
        text = (evaluated / name).read_text()
        assert "damaged.png" in text
        assert "1 of them could not be decoded" in text


def test_tables_stand_beside_what_was_published(evaluated: Path) -> None:
    lines = (evaluated / "tables.md").read_text().splitlines()
    place = lines.index("## GenImage: accuracy at 0.5, %")
    assert lines[place + 2] == "|  | Midjourney | SD1.4 | mean |"
    # The means of all eight sets say nothing beside two.
    assert "| SSP | 83.1 | 99.4 | – |" in lines
    assert not any("MPFT (claimed)" in line for line in lines)
    [ours] = [line for line in lines[place:] if line.startswith("| **textured:6, raw**")]
    predictions = read_predictions(evaluated / "predictions.parquet")
    rows = predictions.rows("raw", "textured:6")
    right = ((rows.probabilities >= 0.5) == (rows.labels == 1))[rows.sets == "Midjourney"]
    assert ours.split(" | ")[1] == f"{100 * right.mean():.1f}"


@pytest.mark.parametrize(
    ("names", "classes", "shown"),
    [
        (("Midjourney", "some-model"), ("real", "fake"), False),  # Community Forensics
        (("Midjourney",), ("real", "fake"), False),
        (("Midjourney", "of_my_own"), ("nature", "ai"), False),
        (("Midjourney", "BigGAN"), ("nature", "ai"), True),
        (("progan", "cyclegan"), ("0_real", "1_fake"), False),  # published is the mean of 19 alone
    ],
)
def test_published_figures_stand_beside_their_own_layout_alone(
    names: tuple[str, ...], classes: tuple[str, str], shown: bool, bundle: Path, tmp_path: Path
) -> None:
    for seed, name in enumerate(names):
        trees.write_classes(tmp_path / "data" / name, classes, 2, 100 * seed)
    assert mpft_eval(bundle, tmp_path / "data", "--out", tmp_path / "out") == 0
    assert ("ResNet-50" in (tmp_path / "out" / "tables.md").read_text()) == shown


def test_universal_fake_detect_is_read_by_its_own_rule(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    trees.write_classes(root / "CNN" / "test" / "progan" / "cat", ("0_real", "1_fake"), 2)
    seed = 1000
    for name, count in (("imagenet", 3), ("laion", 4)):
        for index in range(count):
            folder = root / "diffusion_datasets" / name / "0_real"
            trees.write_image(folder / f"{index}.jpg", seed := seed + 1, 0)
    for name in ("guided", "ldm_200", "dalle"):
        for index in range(2):
            folder = root / "diffusion_datasets" / name / "1_fake"
            trees.write_image(folder / f"{index}.png", seed := seed + 1, 1)
    assert mpft_eval(bundle, root, "--out", tmp_path / "out") == 0
    groups = json.loads((tmp_path / "out" / "metrics.json").read_text())["groups"]
    assert {
        group["name"]: (group["real"], group["generated"], group["figures"]["auc"] is not None)
        for group in groups
        if group["kind"] == "set" and group["protocol"] == "raw"
    } == {
        "progan": (2, 2, True),
        "guided": (3, 2, True),
        "ldm_200": (4, 2, True),
        "dalle": (4, 2, True),
    }
    assert "progan (2 real, 2 generated)" in capsys.readouterr().err


def test_a_picture_that_no_jpeg_can_hold_is_named_and_the_others_are_judged(
    bundle: Path, tmp_path: Path
) -> None:
    """It ended the run, with a trace of Python."""
    trees.write_classes(tmp_path / "data", ("real", "fake"), 2)
    Image.new("RGB", (40, 65_501)).save(tmp_path / "data" / "real" / "long.png")
    assert mpft_eval(bundle, tmp_path / "data", "--out", tmp_path / "out") == 1
    header = read_predictions(tmp_path / "out" / "predictions.parquet").header
    [bad] = header.unreadable
    assert bad.path == "real/long.png"
    assert bad.reason.startswith("65501 pixels a side are more than the 65500")


def test_a_set_of_one_class_says_so(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trees.write_classes(tmp_path / "data" / "both", ("real", "fake"), 2)
    trees.write_image(tmp_path / "data" / "sdxl" / "fake" / "a.png", 77, 1)
    assert mpft_eval(bundle, tmp_path / "data", "--out", tmp_path / "out") == 0
    assert "–: sdxl has no real images." in capsys.readouterr().out
    assert "–: sdxl has no real images." in (tmp_path / "out" / "tables.md").read_text()


def test_images_of_both_classes_are_told_and_not_scored(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    trees.write_classes(data, ("real", "fake"), 3)
    with Image.open(data / "real" / "00.jpg") as image:
        image.save(data / "fake" / "again.bmp")
    assert mpft_eval(bundle, data, "--out", tmp_path / "out") == 0
    predictions = read_predictions(tmp_path / "out" / "predictions.parquet")
    assert sorted(predictions.header.contradicting) == ["fake/again.bmp", "real/00.jpg"]
    rows = predictions.rows("raw", predictions.header.keeps[0])
    assert len(rows) == 5
    assert not set(rows.paths) & set(predictions.header.contradicting)
    assert "in both classes, not scored: fake/again.bmp" in capsys.readouterr().err
    assert "again.bmp" in (tmp_path / "out" / "tables.md").read_text()


@pytest.mark.parametrize("policy", ["five", "grid"])
def test_views_are_judged_as_screening_judges_them(
    policy: str, bundle: Path, tmp_path: Path
) -> None:
    trees.write_classes(tmp_path / "data", ("real", "fake"), 2)
    big = np.random.default_rng(5).integers(0, 256, (150, 200, 3), np.uint8)
    Image.fromarray(big).save(tmp_path / "data" / "real" / "big.png")
    out = tmp_path / "out"
    assert mpft_eval(bundle, tmp_path / "data", "--out", out, "--views", policy) == 0
    predictions = read_predictions(out / "predictions.parquet")
    assert predictions.header.views == policy
    rows = predictions.rows("raw", predictions.header.keeps[0])
    screener = Screener.open(bundle, views=policy)
    assert len(rows) == 5
    for name, logit in zip(rows.paths, rows.logits, strict=True):
        judged = screener(decode_image(tmp_path / "data" / name))
        assert logit == np.float32(judged.logit)
    assert mpft_eval(bundle, tmp_path / "data", "--out", out) == UsageError.exit_code


def test_the_report_asks_nothing_of_any_network(evaluated: Path) -> None:
    page = (evaluated / "report.html").read_text()
    assert "default-src 'none'" in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<svg") >= 4


def test_everything_is_drawn_again_without_a_model(evaluated: Path, tmp_path: Path) -> None:
    assert mpft_eval("--from", evaluated / "predictions.parquet", "--out", tmp_path) == 0
    for name in DRAWN:
        again = (tmp_path / name).read_bytes()
        assert name == "report.html" or again == (evaluated / name).read_bytes()
    assert mpft_eval("--from", evaluated / "predictions.parquet") == 0
    assert (evaluated / "report.html").read_bytes() != b""


def test_a_second_run_predicts_nothing(
    evaluated: Path, bundle: Path, genimage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (evaluated / "predictions.parquet").read_bytes()

    def fail(self: BundleModel, crops: object) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr(BundleModel, "logits", fail)
    assert mpft_eval(bundle, genimage, "--out", evaluated) == 1
    assert (evaluated / "predictions.parquet").read_bytes() == before


def test_other_inputs_are_refused_until_asked_for(
    evaluated: Path, bundle: Path, genimage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mpft_eval(bundle, genimage, "--out", evaluated, "--limit", 2) == 2
    assert "pass --overwrite" in capsys.readouterr().err


def test_where_images_come_from_is_of_the_inputs_too(bundle: Path, tmp_path: Path) -> None:
    """By it streams are drawn; a manifest that was mended gave the tables of before."""
    manifest, out = trees.manifest(tmp_path / "csv"), tmp_path / "out"
    assert mpft_eval(bundle, manifest, "--out", out) == 0
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([f"{lines[0]},source", *(f"{line},x" for line in lines[1:])]))
    assert mpft_eval(bundle, manifest, "--out", out) == 2
    assert mpft_eval(bundle, manifest, "--out", out, "--overwrite") == 0
    rows = read_predictions(out / "predictions.parquet").rows("raw", "textured:6")
    assert set(rows.sources) == {"x"}


def test_a_killed_run_goes_on_to_the_same_file(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    trees.write_classes(data, ("real", "fake"), 100)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert mpft_eval(bundle, data, "--out", whole) == 0
    # In the other process every logit takes its time, so that it is killed between two parts.
    slow = (
        "import time; from mpft_deploy.evaluate.models import BundleModel as B; f = B.logits;"
        "B.logits = lambda s, c: (time.sleep(0.3), f(s, c))[1];"
    )
    process = subprocess.Popen(
        [MPFT[0], "-c", slow + MPFT[2], "eval", bundle, data, "--out", killed],
        env=os.environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    first = killed / "parts" / "000000.parquet"
    while not first.exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "predictions.parquet").exists()
    calls = []
    logits = BundleModel.logits
    monkeypatch.setattr(
        BundleModel, "logits", lambda self, crops: (calls.append(1), logits(self, crops))[1]
    )
    assert mpft_eval(bundle, data, "--out", killed) == 0
    assert 0 < len(calls) <= -(-(200 - evaluation.PART) // evaluation.BATCH)
    for name in ("predictions.parquet", "tables.md", "metrics.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert not (killed / "parts").exists()


def test_layouts_and_generators(bundle: Path, tmp_path: Path) -> None:
    sources = [trees.forensynths(tmp_path / "forensynths"), trees.manifest(tmp_path / "csv")]
    entries = find_entries(sources)
    model = BundleModel(read_bundle(bundle))
    groups = summarise(evaluate(model, entries, BASIC, tmp_path / "out"))
    raw = {
        (group.kind, group.name): (group.real, group.generated)
        for group in groups
        if group.protocol == "raw"
    }
    assert raw == {
        ("set", "mixed"): (3, 6),
        ("generator", "a"): (3, 3),
        ("generator", "b"): (3, 3),
        ("set", "progan"): (4, 4),
        ("set", "stylegan"): (3, 3),
        ("mean", "mean over sets"): (10, 13),
        ("pooled", "all images"): (10, 13),
    }
    for group in groups:
        if group.kind == "mean":
            sets = [g for g in groups if g.kind == "set" and g.protocol == group.protocol]
            aucs = [g.figures["auc"].value for g in sets if g.figures["auc"]]
            assert group.figures["auc"].value == pytest.approx(np.mean(aucs))


def test_generators_stand_below_their_own_set(bundle: Path, tmp_path: Path) -> None:
    """Those of one name in two sets stood below the first."""
    for seed, name in enumerate(("one", "two")):
        data = tmp_path / "data" / name
        trees.write_image(data / "real" / "r.jpg", 10 * seed, 0)
        for maker in "ab":
            trees.write_image(data / "fake" / maker / "f.png", 10 * seed + ord(maker), 1)
    assert mpft_eval(bundle, tmp_path / "data", "--out", tmp_path / "out") == 0
    full = (tmp_path / "out" / "tables.md").read_text().partition("## All figures")[2]
    rows = [line.split(" | ")[:2] for line in full.splitlines() if line.startswith("| ")]
    assert [name.strip("| ") for name, protocol in rows if protocol == "raw"] == [
        "one", "↳ a", "↳ b", "two", "↳ a", "↳ b", "mean over sets", "all images"
    ]  # fmt: skip
    assert [protocol for _, protocol in rows[1:]] == ["raw", "aligned"] * 8
    with (tmp_path / "out" / "metrics.csv").open(newline="") as file:
        told = [(row["kind"], row["set"], row["name"]) for row in csv.DictReader(file)]
    groups = json.loads((tmp_path / "out" / "metrics.json").read_text())["groups"]
    assert [*dict.fromkeys(told)] == [
        *(
            row
            for of in ("one", "two")
            for row in [("set", of, of), *(("generator", of, maker) for maker in "ab")]
        ),
        ("mean", "", "mean over sets"),
        ("pooled", "", "all images"),
    ]
    assert {*told} == {(group["kind"], group["set"], group["name"]) for group in groups}


def test_images_of_one_name_in_two_sources_are_told_apart(bundle: Path, tmp_path: Path) -> None:
    """One of them was shown for the other, and copies were not of the same images."""
    sources = [tmp_path / "a" / "data", tmp_path / "b" / "data"]
    for seed, source in enumerate(sources):
        trees.write_classes(source, ("real", "fake"), 2, 100 * seed)
    trees.write_image(sources[0] / "real" / "copy.jpg", 999, 0)
    trees.write_image(sources[1] / "real" / "copy.jpg", 999, 0)
    entries, model = find_entries(sources), BundleModel(read_bundle(bundle))
    found = evaluate(model, entries, BASIC, tmp_path / "out")
    path = tmp_path / "out" / "predictions.parquet"
    assert len(compare(found, found, "textured:6", "textured:6", (path, path))) == 2
    all_wrong = msgspec.structs.replace(
        found.header, calibration=Calibration(threshold=0.0, unsure=(0.0, 0.0))
    )
    shown = collect(model, Predictions(all_wrong, found.table), entries)
    rows = found.rows("raw", "textured:6")
    real = rows.where(rows.labels == 0)
    assert len(shown) == len(real) == 6
    assert len({one.picture.thumbnail for one in shown}) == len(set(real.digests)) == 5


def test_limit_draws_the_same_of_each_set_and_class(tmp_path: Path) -> None:
    trees.write_classes(tmp_path / "a", ("real", "fake"), 6)
    trees.write_classes(tmp_path / "b", ("real", "fake"), 3)
    drawn = find_entries([tmp_path], limit=4)
    assert drawn == find_entries([tmp_path], limit=4)
    counts: dict[tuple[str, int], int] = {}
    for entry in drawn:
        key = (entry.sample.set, entry.sample.label)
        counts[key] = counts.get(key, 0) + 1
    assert counts == {("a", 0): 4, ("a", 1): 4, ("b", 0): 3, ("b", 1): 3}
    assert {e.name for e in find_entries([tmp_path], limit=2)} <= {e.name for e in drawn}


def test_real_images_alone_and_robustness(bundle: Path, tmp_path: Path) -> None:
    for index in range(3):
        trees.write_image(tmp_path / "data" / "real" / f"{index}.jpg", index, 0)
    assert mpft_eval(bundle, tmp_path / "data", "--out", tmp_path / "out", "--robustness") == 0
    groups = json.loads((tmp_path / "out" / "metrics.json").read_text())["groups"]
    assert {group["figures"]["auc"] for group in groups} == {None}
    assert all(group["figures"]["real_accuracy"] for group in groups)
    assert "| screenshot |" in (tmp_path / "out" / "tables.md").read_text()


def test_compare_pairs_the_images(
    evaluated: Path, genimage: Path, tmp_path: Path, bundle: Path
) -> None:
    path = evaluated / "predictions.parquet"
    a = read_predictions(path)
    same = compare(a, a, "textured:6", "textured:6", (path, path))
    assert {pair.protocol for pair in same} == set(BASIC)
    for pair in same:
        assert (pair.only_a_right, pair.only_b_right, pair.p_value) == (0, 0, 1.0)
        assert pair.auc_difference.low == pair.auc_difference.high == 0
    fewer = tmp_path / "fewer"
    evaluate(BundleModel(read_bundle(bundle)), find_entries([genimage], limit=3), BASIC, fewer)
    b = read_predictions(fewer / "predictions.parquet")
    with pytest.raises(InputError, match="only in the first"):
        compare(a, b, "textured:6", "textured:6", (path, fewer))
    assert mpft_eval("--compare", path, path, "--out", tmp_path / "compared", "--json") == 0
    assert (tmp_path / "compared" / "comparison.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--out"),
        (["--out", "x"], "name a DETECTOR"),
        (["--from", "a.parquet", "b"], "take no DETECTOR"),
        (["--from", "a.parquet", "--robustness"], "take no DETECTOR"),
        (["--compare", "a.parquet", "b.parquet", "--limit", "5"], "take no DETECTOR"),
        (["--train", "x", "--out", "y", "z"], "belong to --baseline"),
        (["--baseline", "frozen", "--out", "y", "z"], "needs --backbone"),
    ],
)
def test_wrong_calls_say_what_to_do(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mpft_eval(*arguments) == UsageError.exit_code
    assert message in capsys.readouterr().err


def test_other_files_are_no_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "predictions.parquet"
    path.write_bytes(b"PAR1 or not")
    assert mpft_eval("--from", path) == 1
    assert "damaged" in capsys.readouterr().err
    for other, why in (("none.parquet", "No such file"), (".", "Is a directory")):
        assert mpft_eval("--from", tmp_path / other) == 1
        assert f"cannot be read: {why}" in capsys.readouterr().err


@pytest.mark.parametrize(("wrong", "count"), [(0, 29), (3, 40), (40, 40)])
def test_intervals_of_shares_are_exact(wrong: int, count: int) -> None:
    """Resamples of 29 images that are all right say 100 % to 100 %."""
    point = np.full(len(METRICS), 1 - wrong / count)
    figure = _shares(count, 0, point)["real_accuracy"]
    assert figure is not None
    exact = binomtest(count - wrong, count).proportion_ci(0.95, "exact")
    assert (figure.value, figure.low, figure.high) == pytest.approx(
        (1 - wrong / count, exact.low, exact.high)
    )
    assert figure.low < figure.high

"""What is told beside the figures: images without a verdict, and what files say of themselves."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mpft_deploy.detector_folder import read_detector
from mpft_deploy.evaluate.compare import compare
from mpft_deploy.evaluate.metadata import LEAST, read_metadata
from mpft_deploy.evaluate.predictions import read_predictions
from mpft_deploy.evaluate.protocols import BASIC
from mpft_deploy.evaluate.report import write_results
from mpft_deploy.evaluate.run import evaluate, find_entries
from mpft_deploy.evaluate.summary import METADATA, summarise
from mpft_deploy.evaluate.tables import told_unsure
from mpft_deploy.fitness import FLAT
from mpft_deploy.images import U8

SHIPPED = Path(__file__).parent.parent.parent / "models" / "mpft-vit-b16"


def jpeg(image: Image.Image, quality: int, taken: int = 0) -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    if taken:
        exif[0x8769] = {0xA002: taken, 0xA003: taken // 2}
    image.save(buffer, "JPEG", quality=quality, exif=exif)
    return buffer.getvalue()


def test_what_files_say_of_themselves() -> None:
    image = Image.new("RGB", (40, 20))
    for quality in (10, 50, 75, 96):
        data = jpeg(image, quality)
        found = read_metadata(data)
        assert found[:4] == (40, 20, len(data), "JPEG")
        assert abs(found.quality - quality) <= 5
        assert found.shrink == 1
    assert read_metadata(jpeg(image, 90, taken=400)).shrink == 10
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    assert read_metadata(buffer.getvalue())[3:] == ("PNG", 0, 1)
    assert read_metadata(b"no picture") == (0, 0, 10, "", 0, 1)


def test_metadata_alone_is_told_beside_a_detector(
    bundle: Path, tmp_path: Path, mpft: Callable[..., tuple[int, str, str]]
) -> None:
    """In Parquet: generated images of one half are saved in another quality, else as real ones."""
    for quality, name in ((90, "alike"), (70, "apart")):
        images = [
            jpeg(blobs(index), 90 if index % 2 == 0 else quality) for index in range(2 * LEAST)
        ]
        table = {
            "image": [{"bytes": data, "path": None} for data in images],
            "label": [index % 2 for index in range(2 * LEAST)],
        }
        (tmp_path / "data" / name).mkdir(parents=True)
        pq.write_table(pa.table(table), tmp_path / "data" / name / "test-0.parquet")
    out = tmp_path / "out"
    code, said, _ = mpft("eval", bundle, tmp_path / "data", "--out", out, "--split", "test")
    assert code == 0
    groups = summarise(read_predictions(out / "predictions.parquet"))
    told = {one.name: one.figures["auc"] for one in groups if one.keep == METADATA}
    assert told["apart"].value > 0.999
    assert told["alike"].value < 0.9
    tables = (out / "tables.md").read_text()
    row = next(line for line in tables.splitlines() if "**metadata alone**" in line)
    assert row.count("|") == 5
    assert "EXIF says of shrinking" in tables
    assert "metadata alone" in said
    again = mpft("eval", "--from", out / "predictions.parquet", "--out", tmp_path / "again")
    assert again[0] == 0
    assert (tmp_path / "again" / "tables.md").read_text() == tables


class Brightness:
    """By the shipped bounds; a view's logit is its mean level less 100."""

    name, identity, keeps = "brightness", "brightness", ["all"]
    spec = read_detector(SHIPPED).spec

    def logits(self, crops: U8) -> np.ndarray:
        return (crops.mean(axis=(1, 2, 3)) - 100).astype(np.float32)[None]


def blobs(seed: int, side: int = 240) -> Image.Image:
    """A picture with texture enough to be judged."""
    small = np.random.default_rng(seed).integers(60, 200, (20, 20, 3), np.uint8)
    return Image.fromarray(small).resize((side, side))


def test_images_without_a_verdict_are_in_no_figure_and_counted(tmp_path: Path) -> None:
    """A small picture and a flat one, with logits that would spoil every figure."""
    for label, folder in enumerate(("0_real", "1_fake")):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for index in range(2):
            image = np.asarray(blobs(index)) // 2 + 100 * label
            Image.fromarray(image.astype(np.uint8)).save(
                tmp_path / "data" / folder / f"{index}.png"
            )
    Image.fromarray(np.full((240, 240, 3), 255, np.uint8)).save(tmp_path / "data/0_real/flat.png")
    Image.fromarray(np.asarray(blobs(2, 20)) // 9).save(tmp_path / "data/1_fake/small.png")
    predictions = evaluate(Brightness(), find_entries([tmp_path / "data"]), BASIC, tmp_path / "out")
    rows = predictions.rows("raw", "all")
    assert dict(zip(rows.paths, rows.reasons, strict=True)) == {
        "0_real/0.png": "",
        "0_real/1.png": "",
        "0_real/flat.png": FLAT,
        "1_fake/0.png": "",
        "1_fake/1.png": "",
        "1_fake/small.png": "20 × 20 pixels are too few to judge: the shorter side needs 128",
    }
    groups, _, shown = write_results(predictions, tmp_path / "out", tmp_path / "out")
    for group in groups:
        assert (group.real, group.generated) == (2, 2)
        assert (group.unsure_real, group.unsure_generated) == (1, 1)
        assert group.figures["auc"].value == 1.0
    told = told_unsure(groups)
    assert told.startswith("1 real and 1 generated images are unsure whatever their logit")
    for name in ("tables.md", "report.html"):
        assert told in (tmp_path / "out" / name).read_text()
    assert [row[1:5] for row in shown[-1].rows] == [
        ["raw", "2", "2", "2"],
        ["aligned", "2", "2", "2"],
    ]
    [pair, _] = compare(predictions, predictions, "all", "all", (tmp_path, tmp_path))
    assert (pair.real, pair.generated) == (2, 2)


def test_real_images_that_several_sets_are_held_against_are_counted_once(tmp_path: Path) -> None:
    for name in ("laion/0_real/a", "laion/0_real/small", "ldm_200/1_fake/b", "dalle/1_fake/c"):
        path = tmp_path / "data" / "diffusion_datasets" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        blobs(ord(path.stem[0]), 60 if path.stem == "small" else 240).save(path)
    entries = find_entries([tmp_path / "data"])
    predictions = evaluate(Brightness(), entries, BASIC, tmp_path / "out")
    assert predictions.header.reals == {"ldm_200": "laion", "dalle": "laion"}
    assert told_unsure(summarise(predictions)).startswith("1 real and 0 generated images")


def test_a_set_without_any_verdict_has_no_figures(tmp_path: Path) -> None:
    for label, folder in enumerate(("0_real", "1_fake")):
        (tmp_path / "data" / folder).mkdir(parents=True)
        blobs(label, 60).save(tmp_path / "data" / folder / "small.png")
    entries = find_entries([tmp_path / "data"])
    predictions = evaluate(Brightness(), entries, BASIC, tmp_path / "out")
    groups, _, shown = write_results(predictions, tmp_path / "out", tmp_path / "out")
    assert all(figure is None for group in groups for figure in group.figures.values())
    assert shown[0].note.endswith("has no real or generated images with a verdict.")


def test_views_without_texture_are_left_out_of_the_mean(tmp_path: Path) -> None:
    """As screening leaves them out: of a white wall with a picture in its middle, the middle."""
    wall = np.full((672, 672, 3), 255, np.uint8)
    middle = np.asarray(blobs(3, 224))
    wall[224:448, 224:448] = middle
    (tmp_path / "data" / "0_real").mkdir(parents=True)
    Image.fromarray(wall).save(tmp_path / "data" / "0_real" / "wall.png")
    entries = find_entries([tmp_path / "data"])
    predictions = evaluate(Brightness(), entries, ["raw"], tmp_path / "out", views="five")
    rows = predictions.rows("raw", "all")
    assert rows.logits.tolist() == [pytest.approx(middle.mean() - 100)]
    assert rows.reasons.tolist() == [""]

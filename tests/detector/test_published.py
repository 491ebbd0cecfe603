"""From a published head to a benchmark's own table: import, export, evaluate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import trees

from mpft_deploy.benchmarks import BENCHMARKS

Mpft = Callable[..., tuple[int, str, str]]

GANS = ("progan", "cyclegan", "biggan", "stylegan", "gaugan", "stargan", "deepfake", "seeingdark",
        "san", "crn", "imle")  # fmt: skip
OF_LAION = ("ldm_200", "ldm_200_cfg", "ldm_100", "glide_100_27", "glide_50_27", "glide_100_10",
            "dalle")  # fmt: skip


@pytest.fixture
def bundle(mpft: Mpft, tiny_backbone: str, tmp_path: Path) -> Path:
    """Of a head alone, as UniversalFakeDetect publishes it: `fc_weights.pth`."""
    head = {"weight": torch.randn(1, 32, generator=torch.Generator().manual_seed(3)),
            "bias": torch.zeros(1)}  # fmt: skip
    torch.save(head, tmp_path / "fc_weights.pth")
    detector, out = tmp_path / "detector", tmp_path / "bundle"
    code, _, error = mpft(
        "import", tmp_path / "fc_weights.pth", "--backbone", tiny_backbone, "--out", detector
    )
    assert code == 0, error
    code, _, error = mpft(
        "export", detector, out, "--backend", "onnxruntime", "--precision", "fp32",
        "--allow-unproven",
    )  # fmt: skip
    assert code == 0, error
    return out


def evaluate(
    mpft: Mpft, bundle: Path, out: Path, *data: Path
) -> tuple[dict[str, tuple[int, int]], str]:
    """Real and generated images of each set, and all tables."""
    code, _, error = mpft("eval", bundle, *data, "--out", out)
    assert code == 0, error
    groups = json.loads((out / "metrics.json").read_text())["groups"]
    counts = {
        group["name"]: (group["real"], group["generated"])
        for group in groups
        if group["kind"] in ("set", "generator") and group["protocol"] == "raw"
        and group["keep"] == "all"
    }  # fmt: skip
    return counts, (out / "tables.md").read_text()


def test_universal_fake_detect_has_its_columns(mpft: Mpft, bundle: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for seed, name in enumerate(GANS):
        trees.write_classes(data / "CNN" / "test" / name, ("0_real", "1_fake"), 2, 100 * seed)
    seed = 5000
    for name, label, count in (
        ("imagenet", 0, 3), ("laion", 0, 4), ("guided", 1, 2), *((one, 1, 2) for one in OF_LAION)
    ):  # fmt: skip
        for index in range(count):
            folder = data / "diffusion_datasets" / name / ("1_fake" if label else "0_real")
            trees.write_image(folder / f"{index}.png", seed := seed + 1, label)
    counts, tables = evaluate(mpft, bundle, tmp_path / "out", data)
    assert counts == {
        **dict.fromkeys(GANS, (2, 2)), "guided": (3, 2), **dict.fromkeys(OF_LAION, (4, 2))
    }  # fmt: skip
    _, _, table = tables.partition("## UniversalFakeDetect: accuracy at 0.5, %")
    header, _, *rows = table.strip().splitlines()
    titles = [cell.strip() for cell in header.split("|")[2:-1]]
    assert titles == [*BENCHMARKS["UniversalFakeDetect"].sets, "mean"]
    ours = next(row for row in rows if row.startswith("| **all, raw**"))
    cells = [cell.strip() for cell in ours.split("|")[2:-1]]
    assert len(cells) == 20
    assert sum(map(float, cells[:-1])) / 19 == pytest.approx(float(cells[-1]), abs=0.06)
    assert any(row.startswith("| UnivFD |") for row in rows)


def test_the_layouts_of_community_forensics_and_so_fake(
    mpft: Mpft, bundle: Path, tmp_path: Path
) -> None:
    forensics, so_fake, packed = (tmp_path / name for name in ("CF", "So-Fake-OOD", "So-Fake-Set"))
    for seed, name in enumerate(("Midjourney", "some-model")):
        trees.write_classes(forensics / name, ("real", "fake"), 2, 100 * seed)
    images = []
    for seed, (name, label) in enumerate((("real", 0), ("full_synthetic", 1), ("tampered", 2))):
        for index in range(2):
            where = so_fake / name / f"{index}.png"
            trees.write_image(where, 900 + 10 * seed + index, int(label > 0))
            other = trees.write_image(tmp_path / "one.png", 990 + 10 * seed + index, int(label > 0))
            images.append((other.read_bytes(), label))
    packed.mkdir()
    columns = {
        "image": [{"bytes": data, "path": None} for data, _ in images],
        "mask": [None for _ in images],
        "label": [label for _, label in images],
    }
    pq.write_table(pa.table(columns), packed / "test-00000-of-00001.parquet")
    counts, tables = evaluate(mpft, bundle, tmp_path / "out", forensics, so_fake, packed)
    assert counts == {
        "Midjourney": (2, 2), "some-model": (2, 2), "So-Fake-OOD": (2, 4), "So-Fake-Set": (2, 4),
        "full_synthetic": (2, 2), "tampered": (2, 2),
    }  # fmt: skip
    assert "ResNet-50" not in tables  # one set of GenImage's name is not GenImage

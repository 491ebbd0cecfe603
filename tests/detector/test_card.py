"""The shipped model card is what its maker makes of the logits that were left out."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from mpft_deploy.dataset import Sample
from mpft_deploy.detector.card import model_card
from mpft_deploy.detector_folder import read_detector
from mpft_deploy.evaluate.scores import score, score_by_group

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "models" / "mpft-vit-b16"


def card_of_the_logits() -> str:
    """Of docs/folds.parquet and the spec; licences, which those do not hold, are the card's own."""
    folder = read_detector(SHIPPED)
    columns = pq.read_table(ROOT / "docs" / "folds.parquet")
    logits = np.mean([columns[f"as shipped|0|{look}"].to_numpy() for look in (0, 1)], 0)
    samples = [
        Sample(Path(path), label, group, generator=group if label else "")
        for path, label, group in zip(
            *(columns[name].to_pylist() for name in ("path", "label", "group")), strict=True
        )
    ]
    scores = score_by_group(samples, logits, folder.spec.calibration.logit_threshold)
    rows = folder.card.split("| licence of the images | images |\n|---|---|\n")[1].split("\n\n")[0]
    licences = {
        name: int(count) for name, count in re.findall(r"^\| (.+) \| (\d+) \|$", rows, re.M)
    }
    assert sum(licences.values()) == len(samples)
    return model_card(folder.spec, scores, licences, "synthetic")


def test_the_shipped_card_is_made_of_the_logits() -> None:
    card = card_of_the_logits()
    assert (SHIPPED / "MODEL_CARD.md").read_text(encoding="utf-8") == card
    titles = re.findall(r"^## (.*)$", card, re.M)
    assert titles[:2] == ["Limits", "Operating point"]
    assert card.count("95 %") >= 3


def test_a_name_cannot_end_its_cell() -> None:
    spec = read_detector(SHIPPED).spec
    named = {"a | 9 | 9 |": score([0, 1], [0.0, 1.0])}
    card = model_card(spec, named, {"CC0 | 5 |": 2}, "synthetic")
    assert card.count("| a \\| 9 \\| 9 \\| | 1 | ") == 2
    assert "| CC0 \\| 5 \\| | 2 |" in card

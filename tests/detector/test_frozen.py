"""The frozen baseline of `mpft eval`."""

from __future__ import annotations

import json
from pathlib import Path

from mpft_deploy.cli.main import cli, run


def test_a_probe_of_a_frozen_backbone_tells_easy_images_apart(
    tiny_backbone: str, world: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ["--baseline", "frozen", "--backbone", tiny_backbone, "--train", str(world / "train")]
    arguments = ["eval", str(world / "val"), "--out", str(out), *options, "--depth", "2"]
    assert run(cli, "mpft", arguments) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["header"]["keeps"] == ["all"]
    assert metrics["groups"][0]["figures"]["auc"]["value"] > 0.9

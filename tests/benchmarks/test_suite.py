"""`make bench` gathers what its benchmarks write, and goes on when one of them fails."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, detector: Path) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module("suite")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(module, "DETECTOR", detector)
    monkeypatch.setattr(module, "HERE", tmp_path / "benchmarks")
    monkeypatch.setattr(module, "QUIET_SECONDS", 0.1)
    monkeypatch.setattr(module, "draw_page", lambda results, docs: None)
    return module


def test_one_that_fails_is_told_and_the_others_are_kept(
    suite: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bundle: Path
) -> None:
    write = "import sys; open(sys.argv[1], 'w').write('{\"targets\": []}')"

    def commands(measured: Path, images: Path, out: Path, *, quick: bool) -> dict[str, list[str]]:
        assert measured == bundle
        assert len(list(images.iterdir())) == 12  # the golden crops
        return {
            "good": [sys.executable, "-c", write, str(out / "good.json")],
            "bad": [sys.executable, "-c", "raise SystemExit(3)"],
        }

    monkeypatch.setattr(suite, "commands", commands)
    done = CliRunner().invoke(suite.main, [str(bundle)])
    assert done.exit_code == 1
    [path] = tmp_path.glob("*.json")
    record = json.loads(path.read_bytes())
    assert record["sections"] == {"good": {"targets": []}}
    assert record["failures"] == {"bad": "ended with exit code 3"}
    assert path.stem.endswith(record["date"])
    assert f"-{record['cores']}core-" in path.name


def test_every_benchmark_of_the_suite_is_there(tmp_path: Path, suite: ModuleType) -> None:
    for name, command in suite.commands(tmp_path, tmp_path, tmp_path, quick=False).items():
        assert (ROOT / "benchmarks" / Path(command[1]).name).exists()
        assert command[-2:] == ["--json", f"{tmp_path}/{name}.json"]

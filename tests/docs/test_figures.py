"""Pages claim what results say, and results are of the detector that is shipped."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    return importlib.import_module("figures")


@pytest.fixture
def record(figures: ModuleType) -> dict[str, Any]:
    claims = tomllib.loads(figures.CLAIMS.read_text(encoding="utf-8"))
    return {"pages": figures.read_pages(), "results": figures.read_results(), "claims": claims}


def test_every_figure_has_a_result(figures: ModuleType, record: dict[str, Any]) -> None:
    assert list(figures.faults(**record)) == []


@pytest.mark.parametrize(
    ("page", "old", "new"),
    [
        ("README.md", "46.2% (40.1%", "47.2% (40.1%"),
        ("README.md", "0.919 (0.894", "0.919 (0.895"),
        ("README.md", "| 70.7%", "| 70.8%"),
        ("docs/deploy.md", "28 ms (`narrow`)", "27 ms (`narrow`)"),
        ("docs/method.md", "0.0069 at most", "0.0068 at most"),
        ("docs/method.md", "| block 5 alone | 0.849", "| block 5 alone | 0.848"),
        ("docs/method.md", "| jpeg-60 | 0.943", "| jpeg-60 | 0.944"),
        ("docs/streams.md", "spread by 1.57", "spread by 1.58"),
        ("docs/operate.md", "## Cameras", "It takes 12 ms.\n\n## Cameras"),
        ("docs/research.md", "## Train", "Its AUC is 0.912.\n\n## Train"),
        ("docs/performance.md", "## Profile", "| a | 31.5 % |\n\n## Profile"),
    ],
)
def test_one_digit_is_noticed(
    figures: ModuleType, record: dict[str, Any], page: str, old: str, new: str
) -> None:
    text = record["pages"][page]
    assert text.count(old) == 1
    record["pages"][page] = text.replace(old, new)
    [first, *_] = figures.faults(**record)
    assert first.startswith(page)


@pytest.mark.parametrize("of", ["weights", "tower"])
def test_a_result_of_another_detector_is_noticed(
    figures: ModuleType, record: dict[str, Any], of: str
) -> None:
    name = "folds" if of == "weights" else next(n for n in record["results"] if "soak" in n)
    for other in (None, "0" * 64):
        record["results"][name][of] = other
        [fault] = figures.faults(**record)
        assert fault.startswith(f"benchmarks/results/{name}.json is not of the shipped detector")


def test_a_result_that_changed_is_noticed(figures: ModuleType, record: dict[str, Any]) -> None:
    record["results"]["folds"]["kinds"]["all"]["found"]["value"] += 0.001
    [first, *_] = figures.faults(**record)
    assert first.startswith("README.md does not say")


def central(found: Any) -> Any:
    """Figures without their intervals, which a bootstrap takes long to make."""
    if isinstance(found, dict):
        return {key: central(one) for key, one in found.items() if key not in ("low", "high")}
    return found


def test_results_are_what_the_logits_say(figures: ModuleType, record: dict[str, Any]) -> None:
    windows = importlib.import_module("windows").read_figures(ROOT / "docs" / "windows.parquet", 0)
    written = record["results"]["windows"]
    assert_close(central(windows), central({key: written[key] for key in windows}))
    hiding = importlib.import_module("hiding").read_figures(ROOT / "docs" / "hiding.parquet", 0)
    written = record["results"]["hiding"]
    assert_close(central(hiding), central({key: written[key] for key in hiding}))
    tuning = importlib.import_module("tuning").read_figures(ROOT / "docs" / "tuning.parquet", 0)
    written = record["results"]["tuning"]
    assert_close(central(tuning), central({key: written[key] for key in tuning}))
    left_out = importlib.import_module("left_out")
    read, written = (
        left_out.read_figures(ROOT / "docs" / "folds.parquet", 0),
        record["results"]["folds"],
    )
    assert_close(central(read.at_threshold()), central(written["kinds"]))
    grey = {name: central(read.grey(name)) for name in written["grey"]}
    assert_close(grey, central(written["grey"]))
    for name, how in (("as shipped", "mean"), ("block 7 alone", "mean"), ("metadata alone", "one")):
        [found] = read.of(name, how)
        assert_close(list(found), [written["variants"][name][key] for key in ("auc", "found")])


def test_pictures_of_the_method_are_of_these_results(
    figures: ModuleType, record: dict[str, Any]
) -> None:
    pictures = importlib.import_module("pictures")
    for name, (result, panels) in pictures.PICTURES.items():
        kept = (ROOT / "docs" / "images" / f"method-{name}.svg").read_bytes()
        found = panels(record["results"][result])
        drawn = pictures.draw(found)
        if f"Matplotlib v{matplotlib.__version__}," not in kept.decode():
            pytest.skip("the pictures were drawn by another version of Matplotlib")
        assert drawn == kept, f"{name}: draw them anew by examples/pictures.py"
        first = next(one for one in found[0].series.values())
        moved = {row: one and {**one, "value": one["value"] + 0.01} for row, one in first.items()}
        assert pictures.draw([replace(found[0], series={"": moved}), *found[1:]]) != kept


def assert_close(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_close(one[key], other[key])
    elif isinstance(one, list):
        assert_close(one[1], other[1])
        assert_close(one[0], other[0]["value"])
    else:
        assert one is other is None or np.isclose(one, other, rtol=1e-9), (one, other)

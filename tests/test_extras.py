"""How to install what is missing: a command that works from a checkout, and from a wheel."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from mpft_deploy.extras import how_to_install

ROOT = Path(__file__).resolve().parent.parent

REQUIRES = [
    "numpy>=1.26",
    "tomli>=2; python_version < '3.11'",
    'torch>=2.4; extra == "train"',
    "torchvision>=0.19 ; extra == 'train'",
    'trainer; extra == "trainers"',
    'cuda-python>=12.6; extra == "cuda"',
    'tensorrt<12,>=10.3; extra == "tensorrt"',
    'mpft-deploy[cuda]; extra == "tensorrt"',
]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    """Have it installed as a direct_url.json says; None stands for an index or none."""

    def install(source: object) -> None:
        text = None if source is None else json.dumps(source)
        found = SimpleNamespace(read_text=lambda name: text)
        monkeypatch.setattr(metadata, "distribution", lambda name: found)
        monkeypatch.setattr(metadata, "requires", lambda name: REQUIRES)

    return install


def test_from_a_checkout(installed: Callable[[object], None], tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    (folder / "pyproject.toml").touch()
    installed({"url": folder.as_uri(), "dir_info": {}})
    assert how_to_install("train") == f"run `pip install '.[train]'` in {folder}"
    installed({"url": folder.as_uri(), "dir_info": {"editable": True}})
    assert how_to_install("train") == f"run `pip install -e '.[train]'` in {folder}"


@pytest.mark.parametrize(
    "source",
    [
        None,
        {"url": "file:///tmp/mpft_deploy-0.1.0-py3-none-any.whl", "archive_info": {}},
        {"url": "file:///a/checkout/that/is/gone", "dir_info": {}},
    ],
)
def test_without_one_the_packages_are_named(
    installed: Callable[[object], None], source: object
) -> None:
    installed(source)
    assert how_to_install("train") == "run `pip install 'torch>=2.4' 'torchvision>=0.19'`"
    assert how_to_install("tensorrt").endswith("'tensorrt<12,>=10.3' 'cuda-python>=12.6'`")


def test_never_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> object:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", none)
    assert how_to_install("eval") == f"run `pip install '.[eval]'` in {ROOT}"


def test_every_message_asks_here_and_every_extra_exists() -> None:
    extras = metadata.metadata("mpft-deploy").get_all("Provides-Extra") or []
    for folder in ("mpft_deploy", "export", "kernels", "examples", "benchmarks", "docs", "."):
        files = (ROOT / folder).glob("*") if folder == "." else (ROOT / folder).rglob("*")
        for path in files:
            if path.suffix not in (".py", ".md"):
                continue
            text = path.read_text(encoding="utf-8")
            # No index has that name: such a command fails, or installs a stranger's package.
            assert "install 'mpft-deploy[" not in text, path
            for extra in extras:
                text = text.replace(f"how_to_install('{extra}')", "")
                text = text.replace(f'how_to_install("{extra}")', "")
            assert "how_to_install('" not in text, path

"""Shared by the tests of this folder; makes its helper modules importable by them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cuda_calls import Library

sys.path.insert(0, str(Path(__file__).parent))

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "cuda_resources.py"


@pytest.fixture(scope="session")
def gpu_resources() -> Callable[..., list[dict[str, Any]]]:
    """Compile the CUDA kernels: what cuda_resources.py prints, for these SMs."""

    def measure(*sm: int) -> list[dict[str, Any]]:
        command = [sys.executable, str(SCRIPT), "--json"]
        command += [f"--sm={number}" for number in sm]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        rows: list[dict[str, Any]] = json.loads(run.stdout)
        return rows

    return measure


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """The CUDA code of texture_patchify, compiled for the host."""
    from cuda_calls import TEXTURE, Library

    return Library.build(tmp_path_factory.mktemp("cuda_on_host"), TEXTURE)

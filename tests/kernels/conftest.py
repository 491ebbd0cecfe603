"""Shared by the tests of this folder; makes its helper modules importable by them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cuda_calls import Library

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """The CUDA code of texture_patchify, compiled for the host."""
    from cuda_calls import TEXTURE, Library

    return Library.build(tmp_path_factory.mktemp("cuda_on_host"), TEXTURE)

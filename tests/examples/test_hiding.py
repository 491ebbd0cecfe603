"""What an interrupted run of the experiments leaves for the next one."""

from __future__ import annotations

import resource
from pathlib import Path

import hiding
import numpy as np
import pytest


def test_what_is_cut_off_is_not_there_for_the_next_run(tmp_path: Path) -> None:
    array, path = np.arange(100_000), tmp_path / "kept.npy"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match=r"written|large"):
            hiding.save(path, array)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not path.exists()
    hiding.save(path, array)
    assert [file.name for file in tmp_path.iterdir()] == ["kept.npy"]
    np.testing.assert_array_equal(np.load(path), array)

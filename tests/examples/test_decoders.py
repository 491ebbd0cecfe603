"""Autoencoders of many kinds: they learn, re-make pictures, and what was trained is kept."""

from __future__ import annotations

from pathlib import Path

import decoders
import numpy as np
import pytest


def pictures() -> list[decoders.U8]:
    """Smooth shades, u8 [80, 90, 3]."""
    rows, columns = np.mgrid[:80, :90] / 90
    return [
        np.rint(255 * np.stack([rows, columns, np.full_like(rows, shade)], -1)).astype(np.uint8)
        for shade in (0.2, 0.5, 0.8)
    ]


@pytest.mark.parametrize("kind", decoders.KINDS)
def test_every_kind_learns(kind: tuple[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    up, adversarial = kind

    def error(steps: int) -> float:
        monkeypatch.setattr(decoders, "STEPS", steps)
        net = decoders.learn(pictures(), up, adversarial=adversarial)
        made = decoders.Remade(net)(pictures()[0])
        assert made.shape == (80, 88, 3)
        assert made.dtype == np.uint8
        return float(np.abs(made.astype(int) - pictures()[0][:, :88]).mean())

    assert error(40) < 0.8 * error(1)


def test_what_is_trained_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "STEPS", 1)
    monkeypatch.setattr(decoders, "KINDS", decoders.KINDS[::3])
    [first, _] = decoders.makers(tmp_path, pictures)
    [again, other] = decoders.makers(tmp_path, lambda: pytest.fail("read again"))
    picture = pictures()[0]
    np.testing.assert_array_equal(first(picture), again(picture))
    assert (again(picture) != other(picture)).any()

"""The demo: its decoder in NumPy is the one that was trained, its pairs, and what it says."""

from __future__ import annotations

import json
from pathlib import Path

import decoder
import generators
import numpy as np
import pairs
import pytest
import torch
import train_decoder

from mpft_deploy.screen.sources import Item, read_frames


def drawn(height: int, width: int) -> decoder.U8:
    """Shades, an edge and a disc, u8 [H, W, 3]."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    disc = np.hypot(y - 0.4, x - 0.4) < 0.2
    image = np.stack([x, 0.8 * y + 0.2 * (x > 0.6), np.where(disc, 0.9, 0.3)], -1)
    return np.rint(255 * image).astype(np.uint8)


def test_numpy_computes_what_was_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = train_decoder.Autoencoder().half().float()  # what float16 keeps
    weights = train_decoder.stored(model)
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float16)}
    floats = {name: array.astype(np.float32) for name, array in weights.items()}
    monkeypatch.setattr(decoder, "_weights", lambda: floats)
    image = drawn(40, 64)
    with torch.inference_mode():
        x = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
        expected = model(x)[0].permute(1, 2, 0).numpy()
    made = decoder.remake(image)
    assert made.std() > 0
    assert np.abs(np.clip(127.5 * (expected + 1), 0, 255) - made).max() <= 0.51


def test_a_picture_stays_the_same_picture() -> None:
    image = drawn(99, 130)
    made = decoder.remake(image)
    assert made.shape == (96, 128, 3)
    assert made.dtype == np.uint8
    error = np.abs(made.astype(int) - image[:96, :128])
    assert 0 < error.mean() < 12
    assert np.array_equal(made, decoder.remake(image))


def test_what_is_shown_was_not_learnt_from() -> None:
    shown = {Path(end).name for _, end, _ in pairs.PHOTOGRAPHS.values()}
    assert not shown & set(train_decoder.LEARNT_FROM)


def test_what_a_step_draws_follows_from_its_number() -> None:
    """So a run that was cut off goes on as if it had not been."""
    pictures = [torch.from_numpy(drawn(80, 90)).permute(2, 0, 1) for _ in range(3)]
    later = train_decoder.crops(pictures, seed=0, step=7)
    assert torch.equal(later, train_decoder.crops(pictures, seed=0, step=7))
    assert not torch.equal(later, train_decoder.crops(pictures, seed=0, step=8))
    assert not torch.equal(later, train_decoder.crops(pictures, seed=1, step=7))
    assert later.shape == (train_decoder.BATCH, 3, train_decoder.CROP, train_decoder.CROP)
    assert later.abs().max() <= 1


def test_every_picture_has_its_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn", reason="its photographs are not here")
    carried = {n: p for n, p in pairs.PHOTOGRAPHS.items() if p[0] == "scikit-learn"}
    monkeypatch.setattr(pairs, "PHOTOGRAPHS", carried)
    monkeypatch.setattr(pairs, "LONGEST", 64)
    lines = list(pairs.make_pairs(tmp_path / "pairs", tmp_path / "notes.json"))
    assert [line.split()[:4] for line in lines] == [[name, "64", "x", "64,"] for name in carried]
    notes = json.loads((tmp_path / "notes.json").read_text())
    assert set(notes) == {path.name for path in (tmp_path / "pairs").iterdir()}
    assert len(notes) == 2 * len(carried) == 4
    assert all(whose in notes[f"{n} 1 photograph.jpg"] for n, (_, _, whose) in carried.items())


@pytest.mark.parametrize(
    ("package", "end", "words"),
    [
        ("no-such-package", "cat.jpg", "pip install --no-deps no-such-package"),
        ("numpy", "no-such.jpg", "numpy has no no-such.jpg"),
    ],
)
def test_what_is_missing_is_named(
    package: str, end: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        pairs.carried(package, end)
    assert ended.value.code == 3
    assert words in capsys.readouterr().err


def test_pictures_by_generators_are_copied_with_their_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generators, "PACKAGE", "numpy")
    monkeypatch.setattr(generators, "PICTURES", {"One": "numpy/__init__.py"})
    notes = tmp_path / "notes.json"
    notes.write_text('{"other.jpg": "A photograph."}')
    generators.copy_pictures(tmp_path / "made", notes)
    assert (tmp_path / "made" / "One.webp").read_bytes() == Path(np.__file__).read_bytes()
    assert json.loads(notes.read_text()).keys() == {"other.jpg", "One.webp"}


def test_what_was_not_found_says_so() -> None:
    results = [
        {**result(f"demo/generators/{name}.webp", verdict, 0.0), "probability": 0.25}
        for name, verdict in (("Grok", "generated"), ("Lens", "unsure"), ("FLUX.2", "real"))
    ]
    lines = [generators.picture_line(one) for one in results]
    assert lines[0].split() == ["Grok", "generated", "0.250"]
    assert all(line.endswith("not found") for line in lines[1:])
    assert lines[2].startswith("FLUX.2 ")
    assert generators.summary(results).endswith("1 generated, 1 unsure, 1 real.")


def result(file: str, verdict: str, logit: float) -> dict[str, object]:
    return {"file": file, "verdict": verdict, "probability": 0.5, "logit": logit}


@pytest.mark.parametrize(
    ("verdicts", "logits", "worth"),
    [
        (("real", "generated"), (-3.0, 4.0), "told apart"),
        (("real", "real"), (-3.0, -1.0), "not told apart, but ranked right"),
        (("real", "unsure"), (-1.0, -3.0), "not told apart"),
        (("unsure", "generated"), (2.0, 4.0), "not told apart, but ranked right"),
        (("generated", "generated"), (5.0, 4.0), "FALSE ALARM"),
    ],
)
def test_the_line_of_a_pair_says_what_it_is_worth(
    verdicts: tuple[str, str], logits: tuple[float, float], worth: str
) -> None:
    names = [f"demo/pairs/cat {end}.jpg" for end in (pairs.PHOTOGRAPH, pairs.REMADE)]
    line = pairs.pair_line(*map(result, names, verdicts, logits))
    assert line.startswith("cat   ")
    assert line.endswith("  " + worth)


def test_the_summary_counts() -> None:
    photographs = [result("a", "real", -2.0), result("b", "generated", 4.0)]
    remade = [result("a", "unsure", 1.0), result("b", "real", -1.0)]
    lines = pairs.summary(photographs, remade)
    assert lines[0] == "Of 2 photographs: 1 generated, 0 unsure, 1 real."
    assert lines[1] == "Of 2 re-made: 0 generated, 1 unsure, 1 real."
    assert "in 1 of 2 pairs" in lines[2]


def test_a_clip_pans_over_its_images(tmp_path: Path) -> None:
    images = [drawn(384, 400), 255 - drawn(384, 400)]
    pairs.write_clip(tmp_path / "pan.mp4", images, 2)
    frames = [frame.pixels for frame in read_frames(Item(tmp_path / "pan.mp4", "video"))]
    assert len(frames) == 4
    assert {frame.shape for frame in frames} == {(240, 320, 3)}
    # Compression changes pixels a little; the window is the one that was panned to.
    for index, frame in enumerate(frames):
        image, part = images[index // 2], index % 2
        row, column = (384 - 240) * part // 2, (400 - 320) * part // 2
        window = image[row : row + 240, column : column + 320].astype(int)
        assert np.abs(window - frame).mean() < 8

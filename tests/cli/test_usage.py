"""Words that are nearly right, and folders of another kind: each message has the way out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from media import encoded, picture

from mpft_deploy.cli.main import cli, run

Mpft = Callable[..., tuple[int, str]]


@pytest.fixture
def mpft(capsys: pytest.CaptureFixture[str]) -> Mpft:
    """Run a command here; its exit code and what it wrote to standard error."""

    def call(*arguments: str | Path) -> tuple[int, str]:
        code = run(cli, "mpft", list(map(str, arguments)))
        return code, capsys.readouterr().err

    return call


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["scren"], "No such command 'scren'. Did you mean screen?"),
        (["exports", "a", "b"], "Did you mean export?"),
        (["zzzz"], "No such command 'zzzz'."),
        (["screen", "--thread", "1"], "--threads"),
        (["profile"], "Usage: mpft profile [OPTIONS] BUNDLE"),
        (["profile", "--nope"], "Usage: mpft profile [OPTIONS] BUNDLE"),
        (["profile", "history"], "Usage: mpft profile history [OPTIONS] FOLDER"),
        (["profile", "bundle", "--batch", "x"], "Usage: mpft profile [OPTIONS] BUNDLE"),
        (["train", "x", "--out", "y", "--head-lr", "nan"], "no finite number"),
        (["train", "x", "--out", "y", "--backbone-lr", "inf"], "no finite number"),
        (["train", "x", "--out", "y", "--false-alarm", "3"], "and below 100%: write 5% or 0.05"),
        (["verify", "x", "--threads", "65536"], "65536 threads are not possible"),
        (["eval", "x", "--threads", "65536"], "65536 threads are not possible"),
        (["screen", ""], "the path is empty"),
        (["export", "x", ""], "the path is empty"),
        (["eval", "x", ""], "the path is empty"),
        (["calibrate", "x", ""], "the path is empty"),
        (["screen", "x", "--bundle", ""], "the path is empty"),
    ],
)
def test_wrong_words(mpft: Mpft, arguments: list[str], words: str) -> None:
    code, err = mpft(*arguments)
    assert code == 2
    assert words in err


@pytest.mark.parametrize("share", ["3%", "0.03"])
def test_a_share_is_written_alike_by_every_command(mpft: Mpft, share: str) -> None:
    for command in (["calibrate", "x", "y"], ["train", "x", "--folds", "2", "--out", "y"]):
        assert mpft(*command, "--false-alarm", share)[0] == 1  # x is not there


@pytest.fixture
def places(tmp_path: Path, detector: Path, bundle: Path) -> dict[str, Path]:
    """What people take for a bundle or a detector."""
    shutil.copytree(bundle, tmp_path / "made" / "b")
    shutil.copytree(detector, tmp_path / "made" / "d")
    for name in ("results", "d.run", "e.run", "photos", "triton/model"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copytree(detector, tmp_path / "d")
    (tmp_path / "results/predictions.parquet").touch()
    (tmp_path / "triton/model/config.pbtxt").touch()
    (tmp_path / "photos/x.png").write_bytes(encoded(picture()))
    return {"BUNDLE": bundle, "DETECTOR": detector, "PLACE": tmp_path}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        *(
            (
                [*command, "DETECTOR"],
                "is a detector, not a bundle: export it first with mpft-export",
            )
            for command in (["verify"], ["profile"], ["screen", "x.png", "--bundle"])
        ),
        (["export", "BUNDLE", "out"], "is a bundle, not a detector: name the detector"),
        (["calibrate", "BUNDLE", "x"], "is a bundle, whose calibration is certified"),
        (["inspect", "PLACE/photos"], "holds images, not a detector"),
        (["inspect", "PLACE/results"], "holds results of mpft eval"),
        (["verify", "PLACE/triton"], "is for Triton Inference Server"),
        (["verify", "PLACE/made"], "name one, such as PLACE/made/b"),
        (["export", "PLACE/made", "out"], "name one, such as PLACE/made/d"),
        (["inspect", "PLACE/d.run"], "name what came of it, PLACE/d"),
        (["export", "PLACE/e.run", "out"], "has not come to a detector yet"),
        (["verify", "BUNDLE/bundle.json"], "is a file of a bundle: name its folder, BUNDLE"),
        (["profile", "PLACE/photos/x.png"], "is a file, and a bundle is a folder"),
    ],
)
def test_a_folder_of_another_kind(
    mpft: Mpft, places: dict[str, Path], arguments: list[str], words: str
) -> None:
    for name, place in places.items():
        arguments = [argument.replace(name, str(place)) for argument in arguments]
        words = words.replace(name, str(place))
    code, err = mpft(*arguments)
    assert code == 2
    assert words in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("command", [["inspect"], ["eval", "--out", "out"], ["calibrate"]])
def test_what_is_neither_a_bundle_nor_a_detector(
    mpft: Mpft, tmp_path: Path, command: list[str]
) -> None:
    """Told before anything else is asked for, such as PyTorch."""
    data = [] if command == ["inspect"] else [tmp_path]
    for place, words in (
        (tmp_path / "typo", "is not a folder; expected a bundle or detector folder"),
        (tmp_path, "neither a bundle nor a detector: no bundle.json and no detector.json in it"),
    ):
        code, err = mpft(*command, place, *data)
        assert code == 1
        assert words in err
        assert len(err.splitlines()) == 1


def test_a_folder_that_was_removed_is_told(tmp_path: Path, mpft: Mpft) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    before = Path.cwd()
    os.chdir(gone)
    gone.rmdir()
    try:
        code, err = mpft("keygen", "key")
    finally:
        os.chdir(before)
    assert code == 1
    assert "the folder that you are in was removed" in err

"""What a camera's known-real frames teach: learnt, kept, read again, and refused."""

from __future__ import annotations

import json
import math
import os
import pty
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command import MPFT
from media import encoded, picture
from stream_promises import Scenario

from mpft_deploy.cli.main import cli, run
from mpft_deploy.errors import InputError
from mpft_deploy.screen.streams.baseline import (
    Baseline,
    baselines_path,
    learn,
    read_baselines,
    write_baseline,
)
from mpft_deploy.screen.streams.config import read_config
from mpft_deploy.spec import Calibration

BASELINE = Baseline(
    bundle="a" * 64, offset=-1.5, error=0.2, spread=1.0, correlation=9.0, threshold=0.8,
    frames=3600, seconds=3600, time=1.7e9,
)  # fmt: skip


@pytest.mark.parametrize("constant", [0.2, 10.0, 60.0])
def test_offset_spread_and_correlation_are_learnt(constant: float) -> None:
    scenario = Scenario(0.921, 0.3, constant)
    rng = np.random.default_rng(0)
    values = scenario.log_odds(rng, False, 1.0, 1.0).tolist()
    frames = [(float(index), value) for index, value in enumerate(values)]
    found = learn(frames, scenario.calibration, "b", 0.0)
    spread = math.sqrt(0.7 * 4)
    assert found.offset == pytest.approx(-1.0, abs=3 * found.error)
    assert found.spread == pytest.approx(spread, rel=0.2)
    # The mean of an hour is off by this much; the estimate errs to the safe side, and not wildly.
    off = spread * math.sqrt(2 * max(constant, 0.5) / 3600)
    assert 0.7 * off < found.error < 3 * off
    assert found.correlation == pytest.approx(1800 * (found.error / found.spread) ** 2, rel=0.01)
    reached = [scenario.calibration.probability(v) for v in values]
    assert np.mean(np.array(reached) >= found.threshold) <= 0.01
    assert found.threshold >= scenario.calibration.threshold


def test_a_few_minutes_teach_nothing() -> None:
    with pytest.raises(InputError, match="599 seconds"):
        learn([(float(index), 0.0) for index in range(599)], Calibration(), "b", 0.0)


def test_the_file_holds_all_cameras_and_is_refused_where_it_is_wrong(tmp_path: Path) -> None:
    path = baselines_path(tmp_path / "cameras.toml")
    assert path.name == "cameras.baselines.json"
    assert read_baselines(path) == {}
    write_baseline(path, "hall", BASELINE)
    write_baseline(path, "yard", BASELINE)
    assert read_baselines(path) == {"hall": BASELINE, "yard": BASELINE}
    good = json.loads(path.read_text())
    for changed, message in (
        ({"version": 2}, "newer mpft-deploy"),
        ({"kind": "x"}, "not valid"),
        ({"more": 1}, "not valid"),
        ({"cameras": {"hall": {}}}, "not valid"),
    ):
        path.write_text(json.dumps({**good, **changed}))
        with pytest.raises(InputError, match=message):
            read_baselines(path)
    for data in (b"", b"[1]", b"{", b'{"hall\xff": 1}', b"[" * 5000):
        path.write_bytes(data)
        with pytest.raises(InputError, match="not valid"):
            read_baselines(path)


def test_a_camera_is_taught_by_a_folder_and_screened_with_it(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "cameras.toml"
    config.write_text(f"[[source]]\nname = 'hall'\naddress = '{tmp_path / 'frames'}'\ngate = 0\n")
    (tmp_path / "frames").mkdir()
    for index in range(601):
        name = tmp_path / "frames" / f"{index:04d}.png"
        name.write_bytes(encoded(picture(seed=index % 7)))
    words = ["calibrate", str(bundle), "--camera", "hall", "--config", str(config)]
    assert run(cli, "mpft", [*words, "--json", "--accept"]) == 0
    said = capsys.readouterr()
    assert "601/601 images of hall" in said.err
    told = json.loads(said.out)
    assert (told["camera"], told["seconds"]) == ("hall", 601)
    [(name, baseline)] = read_config(config).baselines.items()
    assert (name, baseline.frames) == ("hall", 601)
    assert baseline.offset == pytest.approx(told["offset"])
    # Another bundle's does not count, which is said.
    other = json.loads(baselines_path(config).read_text())
    other["cameras"]["hall"]["bundle"] = "0" * 64
    baselines_path(config).write_text(json.dumps(other))
    words = ["screen", "--bundle", str(bundle), "--config", str(config), "--duration", "1"]
    run(cli, "mpft", words)
    assert "hall: was taught with another bundle: teach it again" in capsys.readouterr().err


@pytest.mark.parametrize("clip", ["none.mp4", "empty"])
def test_a_clip_that_is_not_there_is_not_waited_for(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], clip: str
) -> None:
    config = tmp_path / "cameras.toml"
    config.write_text("[[source]]\nname = 'hall'\naddress = 'rtsp://127.0.0.1:9/x'\n")
    (tmp_path / "empty").mkdir()
    words = ["calibrate", str(bundle), str(tmp_path / clip), "--camera", "hall", "--accept"]
    assert run(cli, "mpft", [*words, "--config", str(config), "--duration", "60s"]) == 1
    said = capsys.readouterr().err
    assert f"{clip}: there is no such clip, or no image in this folder" in said


@pytest.mark.parametrize("answer", ["n", "y"])
def test_on_a_terminal_progress_is_shown_and_acceptance_asked_for(
    bundle: Path, tmp_path: Path, answer: str
) -> None:
    """Ctrl-C after ten minutes' worth of frames: what was seen counts, if somebody says so."""
    config, frames = tmp_path / "cameras.toml", tmp_path / "frames"
    config.write_text(f"[[source]]\nname = 'hall'\naddress = '{frames}'\ngate = 0\n")
    frames.mkdir()
    for index in range(5000):
        name = frames / f"{index:04d}.png"
        if index < 7:
            name.write_bytes(encoded(picture(seed=index)))
        else:
            name.hardlink_to(frames / f"{index % 7:04d}.png")
    words = ["calibrate", str(bundle), "--camera", "hall", "--config", str(config)]
    child, terminal = pty.fork()
    if child == 0:  # pragma: no cover
        os.execve(MPFT[0], [*MPFT, *words], {**os.environ, "TERM": "xterm", "COLUMNS": "200"})
    said = ""

    def until(wanted: Callable[[], bool]) -> None:
        nonlocal said
        while not wanted():
            said += os.read(terminal, 65536).decode()

    until(lambda: any(int(n) > 650 for n in re.findall(r"(\d+)/5000", said)))
    assert "images of hall" in said
    os.write(terminal, b"\x03")
    until(lambda: "Is that to count from now on? [y/N]" in said)
    assert not baselines_path(config).exists()
    os.write(terminal, answer.encode() + b"\n")
    until(lambda: ("Written to" if answer == "y" else "Nothing was written") in said)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(terminal)
    kept = read_baselines(baselines_path(config))
    assert list(kept) == ["hall"] * (answer == "y")
    assert all(600 <= one.frames < 5000 for one in kept.values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--camera", "hall"], "belong together"),
        (["--camera", "attic", "--config", "{}"], "no source 'attic'; there are hall"),
        (["--camera", "hall", "--config", "{}", "--duration", "soon"], "write 90s"),
        (["--camera", "hall", "--config", "{}", "--dry-run"], "no other option"),
        (["--camera", "hall", "--config", "{}"], "there is none: add --accept"),
        (["--accept"], "belong together"),
    ],
)
def test_wrong_words_are_told(
    words: list[str],
    message: str,
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "cameras.toml"
    config.write_text("[[source]]\nname = 'hall'\naddress = 'rtsp://127.0.0.1:9/x'\n")
    written = [word.format(config) for word in words]
    assert run(cli, "mpft", ["calibrate", str(bundle), *written]) == 2
    assert message in capsys.readouterr().err

"""Any terminal, any of the three streams closed or full, any signal: in processes of their own."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import MPFT
from media import encoded, picture, write_video

NAME = "naïve 中 ☃ 😀.png"
START = (
    "from mpft_deploy.cli import signals; signals.end_at_once(); print('up', flush=True)\n"
    "from mpft_deploy.cli.start import mpft; mpft()"
)
PREPARED = "import os, sys; from mpft_deploy.cli import standard; standard.prepare(); "


def python(code: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    run = [sys.executable, "-c", code]
    return subprocess.run(run, **{"capture_output": True, "timeout": 60, **options})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A picture, a clip and a text, with names that few encodings hold."""
    place = tmp_path / "à"
    place.mkdir()
    (place / NAME).write_bytes(encoded(picture(300, 300)))
    (place / "ñ.jpg").write_bytes(b"no image")
    write_video(place / "ω.mp4")
    return place


ENCODINGS = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "cp1252"},
    {"PYTHONIOENCODING": "ascii:strict", "TERM": "dumb"},
    {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


@pytest.mark.parametrize("environment", ENCODINGS, ids=lambda e: " ".join(map("=".join, e.items())))
def test_what_an_encoding_lacks_is_written_as_an_escape(
    folder: Path, bundle: Path, environment: dict[str, str]
) -> None:
    environment = {**os.environ, "MPFT_BUNDLE": str(bundle), **environment}
    encoding = environment.get("PYTHONIOENCODING", "ascii").split(":")[0]
    run = subprocess.run(
        [*MPFT, "screen", ".", "--report", "../r.html"],
        cwd=folder,
        env=environment,
        capture_output=True,
    )
    out, err = run.stdout.decode(encoding), run.stderr.decode(encoding)
    assert run.returncode == 1, err
    assert r" \u4e2d \u2603 \U0001f600.png" in out
    assert r"\u03c9.mp4" in out
    assert ("ñ.jpg: not an image" if encoding != "ascii" else r"\xf1.jpg: not an image") in err
    assert "Traceback" not in err
    assert NAME in (folder / "../r.html").read_text(encoding="utf-8")


def test_tables_and_help_on_a_terminal_that_is_ascii(bundle: Path, tmp_path: Path) -> None:
    named = tmp_path / "à–b"
    named.symlink_to(bundle)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    run = subprocess.run([*MPFT, "inspect", named], env=environment, capture_output=True)
    text = run.stdout.decode("ascii")
    assert run.returncode == 0, run.stderr
    assert r"\xe0-b" in text
    assert len({len(line) for line in text.splitlines() if line.startswith(("|", "+"))}) == 1
    run = subprocess.run([*MPFT, "profile", "--help"], env=environment, capture_output=True)
    assert "N,N,..." in run.stdout.decode("ascii")
    run = subprocess.run([*MPFT, "inspect", named, "--json"], env=environment, capture_output=True)
    assert json.loads(run.stdout)["seal"]


COMMANDS = [["kernels"], ["kernels", "--json"], ["profile", "--help"], ["nonsense", "--json"]]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("where", ["closed", "full"])
def test_output_that_is_lost_is_never_a_success(arguments: list[str], where: str) -> None:
    with open("/dev/full" if where == "full" else os.devnull, "w") as full:  # noqa: PTH123
        run = subprocess.run(
            [*MPFT, *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=(lambda: os.close(1)) if where == "closed" else None,
        )
    assert run.returncode == 3
    reason = "it is closed" if where == "closed" else "No space left"
    assert f"error: standard output cannot be written: {reason}" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("options", [["--json"], []])
@pytest.mark.parametrize("where", ["closed", "full"])
def test_streams_do_not_lose_output_in_silence(
    folder: Path, bundle: Path, where: str, options: list[str]
) -> None:
    with open("/dev/full" if where == "full" else os.devnull, "w") as full:  # noqa: PTH123
        run = subprocess.run(
            [*MPFT, "screen", f"file://{folder}/ω.mp4", "--bundle", str(bundle), *options],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=(lambda: os.close(1)) if where == "closed" else None,
        )
    assert run.returncode == 3, run.stderr
    assert "standard output" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("closed", [(0,), (2,), (0, 2), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("as_json", [True, False])
def test_streams_that_are_closed(
    folder: Path, bundle: Path, closed: tuple[int, ...], as_json: bool
) -> None:
    run = subprocess.run(
        [*MPFT, "screen", NAME, "--report", "../r.html", *(["--json"] if as_json else [])],
        cwd=folder,
        env={**os.environ, "MPFT_BUNDLE": str(bundle)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        preexec_fn=lambda: [os.close(number) for number in closed],
    )
    assert run.returncode == (3 if 1 in closed else 0), run.stderr
    assert ("中" in run.stdout.decode() or b"u4e2d" in run.stdout) == (1 not in closed)
    assert b"Traceback" not in run.stderr
    page = (folder / "../r.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    assert NAME in page


def test_no_file_takes_the_number_of_a_closed_stream() -> None:
    code = (
        "import os; [os.close(n) for n in (0, 1, 2)]\n"
        "from mpft_deploy.cli import standard; standard.prepare()\n"
        "os._exit(min(os.open('/dev/null', 0) for _ in range(3)))"
    )
    assert python(code).returncode > 2


def test_messages_that_nobody_can_read_change_nothing() -> None:
    code = PREPARED + "print('x', file=sys.stderr, flush=True); print('result')"
    for stream in ("/dev/full", "/dev/null"):
        with open(stream, "w") as err:  # noqa: PTH123
            run = python(code, capture_output=False, stdout=subprocess.PIPE, stderr=err)
        assert (run.returncode, run.stdout) == (0, b"result\n")


def test_what_libraries_print_is_no_result() -> None:
    code = PREPARED + "os.write(1, b'noise\\n'); print('result')"
    run = python(code)
    assert (run.stdout, run.stderr) == (b"result\n", b"noise\n")


def test_a_stream_that_may_not_block_is_waited_for() -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETFL, os.O_NONBLOCK)
    code = PREPARED + "print('x' * 1_000_000)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=writer)
    os.close(writer)
    time.sleep(0.3)
    with open(reader, "rb") as pipe:  # noqa: PTH123
        assert len(pipe.read()) == 1_000_001
    assert process.wait(60) == 0


@pytest.mark.parametrize("after", [0, 100, 10_000])
def test_a_reader_that_leaves_at_any_time(after: int) -> None:
    process = subprocess.Popen(
        [*MPFT, "profile", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(after)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 0


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """More pictures than can be judged in a moment."""
    place = tmp_path / "many"
    place.mkdir()
    first = place / "0.png"
    first.write_bytes(encoded(picture(1200, 1200)))
    for index in range(1, 400):
        (place / f"{index}.png").hardlink_to(first)
    return place


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_what_was_judged(many: Path, bundle: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [*MPFT, "screen", "many", "--report", "r.html", "--bundle", str(bundle)],
        cwd=many.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    seen = [process.stdout.readline() for _ in range(random.randint(2, 20))]
    process.send_signal(number)
    out, err = process.stdout.read(), process.stderr.read()  # communicate forgets what was buffered
    assert process.wait(60) == 128 + number
    *rows, summary = seen[1:] + out.splitlines()
    assert all("many/" in row for row in rows)
    verdicts = [row.split()[0] for row in rows]
    assert [part.partition(" (")[0] for part in summary.split(", ")] == [
        f"{verdicts.count(verdict)} {verdict}" for verdict in ("generated", "unsure", "real")
    ]
    assert f"error: interrupted; {len(rows)} judged until then" in err
    assert "Traceback" not in err
    assert {path.name for path in many.parent.iterdir()} >= {"many", "r.html"}
    assert not list(many.parent.glob(".*.tmp"))
    page = (many.parent / "r.html").read_text(encoding="utf-8")
    assert f"Not finished: interrupted by {number.name}" in page
    assert page.count("<article") == len(rows)


def test_a_signal_while_the_command_starts_is_no_traceback() -> None:
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", START, "kernels"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        time.sleep(random.uniform(0, 0.3))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (130, 0, -signal.SIGINT), err
        assert b"Traceback" not in err


SIGNALS = (
    "import os, signal, time; from mpft_deploy.cli import signals; signals.raise_interrupts()\n"
)


def test_a_second_signal_ends_at_once() -> None:
    code = SIGNALS + (
        "try:\n os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)\n"
        "finally:\n print('first', flush=True); os.kill(os.getpid(), signal.SIGINT); time.sleep(9)"
    )
    run = python(code)
    assert (run.returncode, run.stdout, run.stderr) == (130, b"first\n", b"")


def test_a_signal_is_not_lost_in_a_finaliser() -> None:
    code = SIGNALS + (
        "class Held:\n def __del__(self): os.kill(os.getpid(), signal.SIGINT); time.sleep(0.01)\n"
        "try:\n Held(); time.sleep(30); print('never told')\n"
        "except signals.Interrupted as stop: print(stop)"
    )
    run = python(code)
    assert (run.stdout, run.stderr) == (b"interrupted by SIGINT\n", b"")


def test_what_is_short_comes_to_its_end() -> None:
    code = SIGNALS + (
        "try:\n"
        " with signals.held(): os.kill(os.getpid(), signal.SIGINT); print('whole')\n"
        " print('never')\n"
        "except signals.Interrupted as stop: print(stop.exit_code)"
    )
    assert python(code).stdout == b"whole\n130\n"


def test_signals_that_were_ignored_stay_so() -> None:
    code = SIGNALS + "os.kill(os.getpid(), signal.SIGHUP); print('goes on')"
    run = python(code, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert run.stdout == b"goes on\n"


def on_a_terminal(arguments: list[str], **environment: str) -> tuple[int, str]:
    """A command on a terminal of its own; exit code, and all that it wrote there."""
    child, ours = pty.fork()
    if child == 0:  # pragma: no cover
        os.execvpe(arguments[0], arguments, {**os.environ, **environment})
    with open(ours, "rb", buffering=0) as terminal:  # noqa: PTH123
        written = io.BytesIO()
        for part in _until_left(terminal):
            written.write(part)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), written.getvalue().decode()


def _until_left(terminal: io.FileIO) -> Iterator[bytes]:
    try:
        while part := terminal.read(65536):
            yield part
    except OSError:  # how Linux says that nobody holds the other end
        return


@pytest.mark.parametrize(
    ("environment", "moves", "colours"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, False, False),
        ({"TERM": ""}, False, False),
        ({"TERM": "xterm", "COLUMNS": "1"}, True, True),
        ({"TERM": "xterm", "PYTHONIOENCODING": "ascii"}, True, True),
    ],
    ids=str,
)
def test_terminals(
    folder: Path, bundle: Path, environment: dict[str, str], moves: bool, colours: bool
) -> None:
    """Rows as they come; a bar below them and colours only where the terminal has them."""
    arguments = [*MPFT, "screen", str(folder), "--views", "grid", "--bundle", str(bundle)]
    code, text = on_a_terminal(arguments, **{"NO_COLOR": "", **environment})
    assert code == 1, text
    assert "Traceback" not in text
    assert ("\x1b[" in text) == moves
    assert any(f"\x1b[{colour}m" in text for colour in (31, 32, 33)) == colours
    if "COLUMNS" not in environment:
        assert "could not be read" in text
        assert text.count("verdict    probability") == 1

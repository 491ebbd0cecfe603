"""What `make demo` runs: real photographs beside generated ones, judged by the shipped detector.

All that is printed is kept in demo/output.txt: a second run with the same detector shows that.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import generators
from pairs import PHOTOGRAPH, PHOTOGRAPHS, REMADE, make_pairs, pair_line, summary, write_clip

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"
DETECTOR = ROOT / "models" / "mpft-vit-b16"
BUNDLE, REPORT, NOTES = DEMO / "bundle", DEMO / "report.html", DEMO / "notes.json"
PAIRS, GENERATED = DEMO / "pairs", DEMO / "generators"
OUTPUT = DEMO / "output.txt"
SECONDS_A_PICTURE = 20
"""Of the clips that are watched as cameras."""

INTRODUCTION = """\
Can you see which of two pictures a machine made? The shipped detector is exported for this machine
and judges seven photographs, the same seven re-made by a small generative decoder that this project
trained, and a picture by each of fifteen generators. About a minute on two cores; nothing leaves
this machine."""

TOLD_ELSEWHERE = (
    "These are few. How many pictures of each generator are found, and how many real ones are not",
    "left alone, tells models/mpft-vit-b16/MODEL_CARD.md.",
)

NEXT = f"""\
Look at it:       {REPORT}
Judge your own:   .venv/bin/mpft screen PHOTOS --bundle demo/bundle --report mine.html
Measure latency:  .venv/bin/mpft profile demo/bundle
Watch a camera:   .venv/bin/mpft screen rtsp://CAMERA --bundle demo/bundle --http 127.0.0.1:8088"""


def words(arguments: tuple[str | Path, ...]) -> list[str]:
    """A command as it is shown: paths from the repository on."""
    return [str(word.relative_to(ROOT)) if isinstance(word, Path) else word for word in arguments]


def run(*arguments: str | Path) -> Iterator[str]:
    """Show a command and run it; yields the lines that it prints. If it fails, the demo ends."""
    command = words(arguments)
    yield f"$ {shlex.join(command)}"
    program = Path(sys.executable).parent / command[0]
    with subprocess.Popen(
        [program, *command[1:]], cwd=ROOT, stdout=-1, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        last = deque[str](maxlen=3)
        for line in process.stdout:
            last.append(line.rstrip())
            yield last[-1]
    if process.returncode:
        sys.exit("\n".join([f"this failed: {shlex.join(command)}", *last]))


def judged() -> Iterator[str]:
    """Judge all pictures; yields a line for each pair and each picture by a generator, and what
    they come to. What else the command says, how far it is, these lines show too."""
    command = ("mpft", "screen", PAIRS, GENERATED, "--bundle", BUNDLE, "--notes", NOTES)
    results: list[dict[str, Any]] = []
    pairs = 2 * len(PHOTOGRAPHS)
    for line in run(*command, "--report", REPORT, "--json"):
        if not line.startswith('{"'):
            if line.startswith("$"):
                yield from (line, f"{'':<12}{'photograph':<20}{'re-made':<20}")
            continue
        results.append(json.loads(line))
        if len(results) > pairs:
            yield generators.picture_line(results[-1])
        elif len(results) % 2 == 0:
            yield pair_line(*results[-2:])
        if len(results) == pairs:
            yield from ("", "By generators that it did not learn from:")
    yield ""
    yield from summary(results[:pairs:2], results[1:pairs:2])
    yield generators.summary(results[pairs:])
    yield from TOLD_ELSEWHERE


def steps() -> Iterator[str]:
    """The demo, line by line."""
    yield from ("", "[1/3] Photographs are re-made: 8 x 8 pixels to 16 numbers and back")
    yield from make_pairs(PAIRS, NOTES)
    generators.copy_pictures(GENERATED, NOTES)
    yield from ("", "[2/3] An engine for this machine, with what is known of its verdicts")
    yield from run("mpft-export", DETECTOR, BUNDLE, "--overwrite")
    yield from ("", "[3/3] All are judged; probabilities are of being generated")
    yield from judged()


def state() -> str:
    """Changes with whatever changes the output: detector, decoder and the code of the demo."""
    hashed = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        hashed.update(path.read_bytes())
    for path in (
        DETECTOR / "detector.json",
        ROOT / "models" / "demo-decoder" / "weights.safetensors",
    ):
        hashed.update(path.read_bytes())
    return hashed.hexdigest()[:16]


def watch() -> None:
    """Two clips as cameras, with their page, until Ctrl-C; for who sits before a terminal."""
    if os.environ.get("CI") or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return
    try:
        input("\nEnter shows them as two cameras on a page of this machine, Ctrl-C ends: ")
        import numpy as np
        from PIL import Image

        clips = []
        for end in (PHOTOGRAPH, REMADE):
            images = [np.asarray(Image.open(path)) for path in sorted(PAIRS.glob(f"*{end}.jpg"))]
            clips.append(DEMO / f"{end[2:]}.mp4")
            write_clip(clips[-1], images, SECONDS_A_PICTURE)
        print("http://127.0.0.1:8088  (Ctrl-C ends)", flush=True)
        addresses = [clip.as_uri() for clip in clips]
        program = Path(sys.executable).parent / "mpft"
        command = [program, "screen", *addresses, "--bundle", BUNDLE, "--http", "127.0.0.1:8088"]
        while subprocess.run(command, cwd=ROOT).returncode == 0:
            pass  # the clips came to their end: once more
    except (KeyboardInterrupt, EOFError):
        print()


def main() -> None:
    began, key = time.monotonic(), state()
    kept = OUTPUT.read_text(encoding="utf-8") if OUTPUT.is_file() else ""
    print(INTRODUCTION, flush=True)
    if kept.startswith(key) and REPORT.is_file() and BUNDLE.is_dir():
        print(f"\nNothing is computed now: this is from an earlier run. `rm -r {DEMO}` forgets it.")
        print(kept.removeprefix(key))
    else:
        DEMO.mkdir(exist_ok=True)
        OUTPUT.unlink(missing_ok=True)
        lines = [key]
        for line in steps():
            print(line, flush=True)
            lines.append(line)
        lines.append(f"\n{time.monotonic() - began:.0f} s.")
        print(lines[-1])
        OUTPUT.write_text("\n".join(lines), encoding="utf-8")
    print(f"\n{NEXT}")
    watch()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)

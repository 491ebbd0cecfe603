"""The main job from end to end, by the commands that a user would type. Run by `make demo`."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"
DETECTOR = ROOT / "models" / "mpft-vit-b16"
BUNDLE, SAMPLES, REPORT = DEMO / "bundle", DEMO / "samples", DEMO / "report.html"


def run(*arguments: str | Path) -> int:
    """Show a command, run it, and return its exit code."""
    words = [str(word.relative_to(ROOT)) if isinstance(word, Path) else word for word in arguments]
    print(f"\n$ {shlex.join(words)}", flush=True)
    program = Path(sys.executable).parent / words[0]
    return subprocess.run([program, *words[1:]], cwd=ROOT).returncode


def must(*arguments: str | Path) -> None:
    """Run a command and end the demo if it fails."""
    if code := run(*arguments):
        sys.exit(code)


def main() -> None:
    DEMO.mkdir(exist_ok=True)
    must("python", ROOT / "examples" / "make_samples.py", SAMPLES)
    images = sys.argv[1:] or [SAMPLES]
    if not (BUNDLE.exists() and run("mpft", "verify", BUNDLE) == 0):
        judged_on = [word for folder in images for word in ("--images", folder)]
        # Exit code 1 says that the budget is not kept: undecided, on the few pictures here.
        run("mpft-export", DETECTOR, BUNDLE, *judged_on, "--allow-unproven", "--overwrite")
        run("mpft", "verify", BUNDLE)  # says no if the budget is broken
        print(
            "\nWhere the budget is undecided, there were too few pictures to tell: "
            "`make demo IMAGES=FOLDER` judges by your own."
        )
    must("mpft", "profile", BUNDLE, "--samples", "100")
    notes = SAMPLES / "notes.json"
    must("mpft", "screen", SAMPLES, "--bundle", BUNDLE, "--notes", notes, "--report", REPORT)
    print(
        "\nThe notes say which are photographs. Where the verdict says otherwise, the detector "
        "errs: see its model card."
    )
    print(f"Report: {REPORT}")


if __name__ == "__main__":
    main()

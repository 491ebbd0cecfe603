"""Fuzz one reader of foreign bytes, guided by coverage: `python tests/fuzz/fuzz.py TARGET`.

    fuzz.py TARGET --seconds 3600        from the kept corpus; exits with 1 at the first fault
    fuzz.py TARGET --seconds 3600 --keep the same, and keep what reached new code
    fuzz.py TARGET --input FILE          one input again, such as a fault that was written down

Python's readers run under atheris, `jpeg_window` as C++ under libFuzzer with the address and
undefined-behaviour sanitizers; both are libFuzzer and take the same corpus: tests/fuzz/corpus holds
an archive for each target, of the fewest inputs that reach all the code that was ever reached.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FunctionType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CORPUS = HERE / "corpus"
NATIVE = "jpeg_window"

MEMORY = 3072
"""Megabytes that a process may hold."""

READERS = ("mpft_deploy", "PIL", "av", "tomllib", "tomli", "csv", "json", "safetensors")
"""Packages whose Python code is watched for what inputs reach."""

SLOWEST = 60
"""Seconds that one input may take, on a machine that does other things too."""


def names() -> list[str]:
    """All targets."""
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    from targets import TARGETS

    return [*TARGETS, NATIVE]


def why_not(name: str) -> str | None:
    """Why a target cannot be fuzzed here, or None."""
    import importlib.util

    if name != NATIVE:
        if importlib.util.find_spec("atheris") is None:
            return "atheris is not installed here"
        return None
    if shutil.which("clang++") is None:
        return "clang++, which brings libFuzzer, is not installed here"
    try:
        build(Path(tempfile.gettempdir()))
    except subprocess.CalledProcessError as error:
        return f"the fuzz target cannot be built here: {error.stderr.decode().strip()[-300:]}"
    return None


def build(folder: Path) -> Path:
    """The fuzzer of the JPEG window decoder, compiled anew if its sources are."""
    sources = [HERE / "jpeg_window.cpp", ROOT / "kernels" / "jpeg_window" / "window.hpp"]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    program = folder / f"mpft-fuzz-jpeg-window-{os.getuid()}-{key}"
    if not program.exists():
        command = ["clang++", "-std=c++17", "-O1", "-g", "-fsanitize=fuzzer,address,undefined"]
        command += ["-fno-sanitize-recover=all", f"-I{sources[1].parent}", str(sources[0])]
        staged = program.with_suffix(f".{os.getpid()}")
        subprocess.run([*command, "-ljpeg", "-o", str(staged)], check=True, capture_output=True)
        staged.rename(program)
    return program


def unpack(name: str, folder: Path) -> None:
    """The kept corpus of a target, and what its generator makes, into `folder`."""
    kept = CORPUS / f"{name}.zip"
    if kept.exists():
        with zipfile.ZipFile(kept) as archive:
            for entry in archive.namelist():
                (folder / Path(entry).name).write_bytes(archive.read(entry))
    from targets import TARGETS, window_seeds

    add(window_seeds() if name == NATIVE else TARGETS[name].seeds(), folder)


def add(inputs: Iterable[bytes], folder: Path) -> None:
    """Write inputs by their hash."""
    for data in inputs:
        (folder / hashlib.sha1(data).hexdigest()).write_bytes(data)


def pack(name: str, folder: Path) -> None:
    """Keep a corpus: the same archive, byte for byte, for the same inputs."""
    CORPUS.mkdir(exist_ok=True)
    target = CORPUS / f"{name}.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(folder.iterdir()):
            archive.writestr(zipfile.ZipInfo(path.name), path.read_bytes(), zipfile.ZIP_DEFLATED)


def command(name: str) -> list[str]:
    """How a target's fuzzer is started, without its arguments."""
    if name == NATIVE:
        return [str(build(Path(tempfile.gettempdir())))]
    return [sys.executable, str(Path(__file__).resolve()), "--inside", name]


def fuzz(name: str, seconds: float, *, keep: bool = False) -> int:
    """Fuzz for so long; the fuzzer's exit code, 0 where no fault was found."""
    from targets import TARGETS

    longest = TARGETS[name].longest if name in TARGETS else 1 << 16
    with tempfile.TemporaryDirectory(prefix="mpft-corpus-") as scratch:
        seeds, grown, smallest = (Path(scratch) / part for part in ("seeds", "grown", "smallest"))
        for folder in (seeds, grown, smallest):
            folder.mkdir()
        unpack(name, seeds)
        limits = [f"-rss_limit_mb={MEMORY}", f"-timeout={SLOWEST}", f"-max_len={longest}"]
        told = ["-print_final_stats=1", f"-artifact_prefix={Path.cwd()}/fault-{name}-"]
        time = f"-max_total_time={seconds:g}"
        done = subprocess.run(
            [*command(name), time, *limits, *told, str(grown), str(seeds)], check=False
        ).returncode
        if keep:
            folders = [str(smallest), str(grown), str(seeds)]
            subprocess.run([*command(name), "-merge=1", *limits, *folders], check=True)
            pack(name, smallest)
        return done


def inside(name: str, arguments: list[str]) -> None:
    """Be the fuzzer of one of Python's readers; does not return."""
    import logging

    import atheris

    names()
    from targets import TARGETS

    target = TARGETS[name]
    logging.getLogger("libav").setLevel(logging.CRITICAL)
    for data in target.seeds():
        target.run(data)  # imports what it takes
    # An editable installation has a loader of its own, which atheris' import hook cannot follow.
    for function in functions(READERS):
        atheris.instrument_func(function)
    # Merging starts this again by a shell, from the first of these words.
    again = shlex.join([sys.executable, str(Path(__file__).resolve()), "--inside", name])
    atheris.Setup([again, *arguments], target.run)
    atheris.Fuzz()


def functions(packages: tuple[str, ...]) -> Iterator[FunctionType]:
    """Every function and method of the modules of some packages that are imported."""
    for module in list(sys.modules.values()):
        name = getattr(module, "__name__", "")
        if name.split(".")[0] not in packages:
            continue
        for value in list(vars(module).values()):
            if getattr(value, "__module__", None) != name:
                continue
            members = vars(value).values() if isinstance(value, type) else [value]
            for member in members:
                inner = getattr(member, "fget", None) or getattr(member, "__func__", member)
                if isinstance(inner, FunctionType):
                    yield inner


def main() -> int:
    """The command."""
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=names())
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--keep", action="store_true", help="keep inputs that reached new code")
    parser.add_argument("--input", type=Path, help="run this input alone")
    given = parser.parse_args()
    if reason := why_not(given.target):
        print(reason, file=sys.stderr)
        return 3
    if given.input:
        return subprocess.run([*command(given.target), str(given.input)], check=False).returncode
    return min(1, fuzz(given.target, given.seconds, keep=given.keep))


if __name__ == "__main__":
    sys.exit(main())

"""The way of a frame on a GPU, in one script of ten minutes: the same bits, then speed.

    python benchmarks/gpu_suite.py [--output FILE] [--dry-run]

Wants a GPU, nvcc and nothing else to install: the package is run as it lies here, the CUDA kernels
are built for this GPU, and the few packages that are not here may come along in build/gpu-kit
(`make gpu-kit`, where there is a package index). Without PyTorch its network is not measured.

Everything is compared before anything is timed: texture_patchify with its definition, byte for
byte; the network's logits on the golden crops with those that the detector was published with; and
verdicts of whole frames with the processor's. Then sections of `gpu_sections` measure, one after
another, each in a process of its own; one that fails is told, and the rest go on: `--section NAME`
tries it again. `--dry-run` walks all of them on a simulated device. Writes JSON after each, of
which benchmarks/page.py draws. Exit code 0: all equal, or --section was measured; 1: a
difference, or a section failed; 3: something is not here.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KIT, WORK = ROOT / "build" / "gpu-kit", ROOT / "build" / "gpu-suite"
NEEDED = ("numpy", "msgspec", "PIL", "safetensors")
BEGIN, SECONDS = time.perf_counter(), 570
"""After so many no section goes on."""


def find_packages() -> str | None:
    """Make the package and what it needs importable; what is missing, or None."""
    sys.path.append(str(KIT))
    found = importlib.util.find_spec("mpft_deploy")
    if found is None or found.origin is None:  # or a folder of that name, which is none
        package = WORK / "python" / "mpft_deploy"
        package.mkdir(parents=True, exist_ok=True)
        for part in (*(ROOT / "mpft_deploy").iterdir(), ROOT / "export", ROOT / "kernels"):
            link = package / part.name
            link.unlink(missing_ok=True)
            link.symlink_to(part)
        sys.path.append(str(package.parent))
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    return (
        f"Python lacks {', '.join(missing)}: install them, or run `make gpu-kit` with the same "
        "Python where there is a package index, and bring build/gpu-kit"
    )


def build_library() -> None:
    """Compile the CUDA kernels for this GPU into WORK; an EnvironmentLacksError if that fails."""
    from mpft_deploy.errors import EnvironmentLacksError
    from mpft_deploy.kernels.cuda import LIBRARY

    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if nvcc is None:
        raise EnvironmentLacksError("nvcc is not on PATH: install the CUDA toolkit")
    WORK.mkdir(parents=True, exist_ok=True)
    command = [nvcc, "-std=c++17", "-O3", "-arch=native", "--threads=2", "--fmad=false"]
    command += ["--shared", "-Xcompiler=-fPIC", "-o", str(WORK / LIBRARY)]
    command += map(str, (ROOT / "kernels").glob("*/cuda/*.cu"))
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise EnvironmentLacksError(f"nvcc failed: {done.stderr[-2000:]}")


def run(detector: Path, output: Path, *, dry: bool) -> int:
    """Walk the sections and write what they found, after each; the exit code.

    Args:
        detector: a folder.
        dry: in this process, on a simulated device, where times mean nothing.
    """
    import gpu_sections
    from records import write_record
    from turns import measured, provenance

    from mpft_deploy.engine import cuda

    facts = {**provenance(), **measured(detector), "gpu": cuda.versions(), "dry": dry}
    found = {"sections": {}, "failures": {}}
    write_record(output, {"benchmark": "gpu_suite", "version": 3, **facts, **found})
    for name in gpu_sections.SECTIONS:
        failure = add(name, detector, output, dry=True) if dry else _apart(name, output)
        if failure:
            record = json.loads(output.read_bytes())
            record["failures"][name] = failure
            write_record(output, record)
        print(f"{name}: {failure or 'done'}, {time.perf_counter() - BEGIN:.0f} s", flush=True)
    return finish(output)


def finish(output: Path) -> int:
    """Put figures beside their targets, and say what is wrong; the exit code."""
    import gpu_sections
    from records import write_record

    record = json.loads(output.read_bytes())
    record["targets"] = gpu_sections.targets(record["sections"])
    write_record(output, record)
    sections = [one for one in record["sections"].values() if isinstance(one, dict)]
    different = [line for one in sections for line in one.get("different", [])]
    print("\n".join([*(f"DIFFERENT {line}" for line in different), f"written to {output}"]))
    return 1 if record["failures"] or different else 0


def add(name: str, detector: Path, output: Path, *, dry: bool) -> str:
    """Run a section and add what it found to the result; why it failed, or ""."""
    import gpu_bench
    import gpu_sections
    from records import write_record

    from mpft_deploy.detector_folder import read_detector

    record = json.loads(output.read_bytes())
    try:
        bench = gpu_bench.Bench(read_detector(detector), dry)
        record["sections"][name] = gpu_sections.SECTIONS[name](bench)
        record["failures"].pop(name, None)
    except Exception as error:  # the others are worth having
        return f"{type(error).__name__}: {error}"
    write_record(output, record)
    return ""


def _apart(name: str, output: Path) -> str:
    """The same in a process of its own: a fault of a kernel leaves a device useless to the rest of
    a process, and a compiler may take for ever."""
    command = [sys.executable, __file__, f"--output={output}", f"--section={name}"]
    left = SECONDS - (time.perf_counter() - BEGIN)
    if left <= 0:
        return "no time was left"
    try:
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=left)
    except subprocess.TimeoutExpired:
        return "no time was left"
    last = done.stderr.strip().splitlines()[-1:]
    return " ".join([f"ended with code {done.returncode}:", *last]) if done.returncode else ""


def main() -> int:
    """Find what is needed, build, and run."""
    parser = argparse.ArgumentParser(description="Check and time the GPU path on a GPU.")
    parser.add_argument("--output", type=Path, default=Path("gpu_suite.json"), help="JSON to write")
    parser.add_argument("--dry-run", action="store_true", help="on a simulated device")
    parser.add_argument("--section", help="measure this one alone, and add it to the JSON")
    options = parser.parse_args()
    if reason := find_packages():
        print(f"gpu-suite: {reason}", file=sys.stderr)
        return 3
    if options.dry_run:
        sys.path.append(str(ROOT / "tests"))
        import pytest
        import reference
        import simulated_gpu

        reference.write_tiny(WORK / "tiny")
        with pytest.MonkeyPatch.context() as patch:
            simulated_gpu.install(patch)
            return run(WORK / "tiny", options.output, dry=True)
    from turns import SHIPPED

    from mpft_deploy import kernels
    from mpft_deploy.engine.cuda import facts
    from mpft_deploy.errors import EnvironmentLacksError
    from mpft_deploy.kernels import cuda

    kernels.__path__ = [str(WORK), *kernels.__path__]
    if options.section:
        if not options.output.exists():
            parser.error(f"--section adds to a result, and {options.output} is none")
        if failure := add(options.section, SHIPPED, options.output, dry=False):
            sys.exit(failure)
        finish(options.output)
        return 0  # it was measured: what other sections found is no fault of this one
    try:
        facts()
        build_library()
        if reason := cuda.why_not():
            raise EnvironmentLacksError(reason)
    except EnvironmentLacksError as error:
        print(f"gpu-suite: {error}", file=sys.stderr)
        return 3
    return run(SHIPPED, options.output, dry=False)


if __name__ == "__main__":
    sys.exit(main())

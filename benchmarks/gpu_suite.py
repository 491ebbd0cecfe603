"""The way of a frame on a GPU, in one script of ten minutes: the same bits, then speed.

    python benchmarks/gpu_suite.py [--output FILE] [--dry-run]

Wants a GPU, nvcc, PyTorch and nothing else to install: the package is run as it lies here, the CUDA
kernels are built for this GPU, and the few packages that PyTorch does not bring may come along in
build/gpu-kit (`make gpu-kit`, where there is a package index).

Everything is compared before anything is timed: texture_patchify with its definition, byte for
byte; the network's logits on the golden crops with those that the detector was published with; and
verdicts of whole frames with the processor's. Then sections of `gpu_sections` measure, one after
another; one that fails is told, and the rest go on. `--dry-run` walks all of them on a simulated
device. Writes JSON, of which benchmarks/page.py draws. Exit code 0: all equal; 1: a difference, or
a section failed; 3: something is not here.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KIT, WORK = ROOT / "build" / "gpu-kit", ROOT / "build" / "gpu-suite"
NEEDED = ("numpy", "msgspec", "PIL", "safetensors", "torch")
SECONDS = 570
"""After which no section begins."""


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


def build_library(*options: str) -> dict[str, Any]:
    """Compile the CUDA kernels for this GPU into WORK."""
    from mpft_deploy.kernels.cuda import LIBRARY

    WORK.mkdir(parents=True, exist_ok=True)
    sources = [ROOT / "kernels" / "texture_patchify" / "cuda" / "launch.cu"]
    sources.append(ROOT / "kernels" / "encoder" / "cuda" / "encoder.cu")
    command = ["nvcc", "-std=c++17", "-O3", "-arch=native", "--threads=2", *options]
    command += ["--fmad=false", "--shared", "-Xcompiler=-fPIC", "-o", str(WORK / LIBRARY)]
    begin = time.perf_counter()
    done = subprocess.run([*command, *map(str, sources)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"nvcc failed: {done.stderr[-2000:]}")
    return {"seconds": round(time.perf_counter() - begin, 1), "bytes": _size(WORK / LIBRARY)}


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def run(detector: Path, output: Path, *, dry: bool) -> int:
    """Walk the sections and write what they found; the exit code.

    Args:
        detector: a folder.
        dry: on a simulated device, where times mean nothing.
    """
    import gpu_sections
    from records import write_record
    from turns import measured, provenance

    bench = gpu_sections.Bench.make(detector, dry=dry)
    begin = time.perf_counter()
    sections: dict[str, Any] = {}
    failures: dict[str, str] = {}
    for name, section in gpu_sections.SECTIONS.items():
        if time.perf_counter() - begin > SECONDS:
            failures[name] = "no time was left"
            continue
        try:
            sections[name] = section(bench)
        except Exception as error:  # the others are worth having
            failures[name] = f"{type(error).__name__}: {error}"
        print(f"{name}: {failures.get(name, 'done')}", flush=True)
    different = sections.get("equality", {"different": ["equality was not shown"]})["different"]
    for line in different:
        print(f"DIFFERENT {line}")
    record = {
        "benchmark": "gpu_suite",
        "version": 2,
        **provenance(),
        **measured(detector),
        "gpu": gpu_sections.describe_gpu(),
        "dry": dry,
        "seconds": round(time.perf_counter() - begin, 1),
        "sections": sections,
        "failures": failures,
        "targets": gpu_sections.targets(sections),
    }
    write_record(output, record)
    print(f"written to {output}, after {record['seconds']:.0f} s")
    return 1 if different or failures else 0


def main() -> int:
    """Find what is needed, build, and run."""
    parser = argparse.ArgumentParser(description="Check and time the GPU path on a GPU.")
    parser.add_argument("--output", type=Path, default=Path("gpu_suite.json"), help="JSON to write")
    parser.add_argument("--dry-run", action="store_true", help="on a simulated device")
    parser.add_argument(
        "--checks-only", action="store_true", help="compare a few, with what is built"
    )
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
    if options.checks_only:
        import gpu_sections

        bench = gpu_sections.Bench.make(SHIPPED, few=True)
        return 1 if gpu_sections.equality(bench)["different"] else 0
    try:
        facts()
        if shutil.which("nvcc") is None:
            raise EnvironmentLacksError("nvcc is not on PATH: install the CUDA toolkit")
        print(f"kernels: built in {build_library()['seconds']} s")
        if reason := cuda.why_not():
            raise EnvironmentLacksError(reason)
    except EnvironmentLacksError as error:
        print(f"gpu-suite: {error}", file=sys.stderr)
        return 3
    return run(SHIPPED, options.output, dry=False)


if __name__ == "__main__":
    sys.exit(main())

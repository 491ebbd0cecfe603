"""Print the registers, shared memory and spills of the GPU kernels, for every architecture.

    python benchmarks/cuda_resources.py [--json] [--only cuda|triton]

Compiles them; needs no GPU. CUDA needs nvcc on PATH, Triton the package `triton`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parents[1] / "kernels" / "texture_patchify" / "cuda" / "launch.cu"
CUDA_ARCHITECTURES = (80, 87, 89, 90, 110, 120)
TRITON_ARCHITECTURES = (80, 87, 89, 90)
TRITON_PATCHES = (14, 16)


@dataclass(frozen=True)
class Row:
    """One kernel, as compiled for one architecture; shared memory is the static part."""

    kernel: str
    patch: int  # 0: given at run time
    count: int  # likewise
    architecture: str
    registers: int  # a thread
    shared_bytes: int  # a block
    spill_bytes: int  # a thread, stores and loads


def cuda_rows(number: int) -> list[Row]:
    """Compile the CUDA kernels for one architecture and read what ptxas reports."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["nvcc", "-std=c++17", "-O3", f"-arch=sm_{number}", "-Xptxas", "-v", "-cubin"]
        command += ["-o", str(Path(folder) / "kernels.cubin"), str(SOURCE)]
        run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"nvcc fails for sm_{number}:\n{run.stderr}")
    rows = []
    for report in run.stderr.split("Compiling entry function ")[1:]:
        name = re.search(r"(score_bands|select_and_pack|patchify_frames)I((?:Li\d+E)+)E", report)
        registers = re.search(r"Used (\d+) registers", report)
        spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report)
        if not (name and registers and spills):
            sys.exit(f"the report of ptxas has another form than expected:\n{report}")
        shared = re.search(r"(\d+) bytes smem", report)
        patch, count, *_ = [*map(int, re.findall(r"\d+", name[2])), 0]
        rows.append(
            Row(
                name[1],
                patch,
                count,
                f"sm_{number}",
                int(registers[1]),
                int(shared[1]) if shared else 0,
                int(spills[1]) + int(spills[2]),
            )
        )
    return rows


def triton_rows() -> list[Row]:
    """Compile the Triton kernels ahead of time and read what cuobjdump reports."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRITON_CACHE_DIR"] = folder
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        from mpft_deploy.kernels.texture_patchify import triton_device, triton_kernel

        arguments: dict[Any, dict[str, str]] = {
            triton_device.score_cells: {"images": "*u8", "scores": "*i32"},
            triton_device.pack_cells: {"images": "*u8", "positions": "*i32", "patches": "*u8"},
        }
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        cubin = Path(folder) / "kernel.cubin"
        rows = []
        for kernel, pointers in arguments.items():
            for patch in TRITON_PATCHES:
                constants = triton_kernel.block(patch)
                signature = {
                    name: pointers.get(name, "constexpr" if name in constants else "i32")
                    for name in kernel.arg_names
                }
                for number in TRITON_ARCHITECTURES:
                    compiled = triton.compile(
                        ASTSource(fn=kernel, signature=signature, constexprs=constants),
                        target=GPUTarget("cuda", number, 32),
                    )
                    if f".target sm_{number}" not in compiled.asm["ptx"]:
                        sys.exit(f"Triton wrote PTX for another target than sm_{number}")
                    cubin.write_bytes(compiled.asm["cubin"])
                    report = subprocess.run(
                        [str(tool), "--dump-resource-usage", str(cubin)],
                        check=True,
                        capture_output=True,
                        text=True,
                    ).stdout
                    found = dict(re.findall(r"(REG|SHARED|STACK|LOCAL):(\d+)", report))
                    rows.append(
                        Row(
                            kernel.__name__,
                            patch,
                            0,
                            f"sm_{number}",
                            int(found["REG"]),
                            int(found["SHARED"]),
                            int(found["STACK"]) + int(found["LOCAL"]),
                        )
                    )
    return rows


def table(rows: list[Row]) -> str:
    """Markdown: a line a kernel, a column an architecture, registers as least to most."""
    architectures = list(dict.fromkeys(row.architecture for row in rows))
    cells: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cells[row.kernel][row.architecture].append(row)
    lines = [
        f"| registers | {' | '.join(architectures)} | static shared memory | spills |",
        "|---" * (len(architectures) + 3) + "|",
    ]
    for kernel, columns in cells.items():
        everything = [row for column in columns.values() for row in column]
        ranges = [span([row.registers for row in columns[name]]) for name in architectures]
        shared = span([row.shared_bytes for row in everything])
        spills = sum(row.spill_bytes for row in everything)
        lines.append(f"| `{kernel}` | {' | '.join(ranges)} | {shared} B | {spills or 'none'} |")
    return "\n".join(lines)


def span(values: list[int]) -> str:
    """ "32" or "29–38"."""
    return str(min(values)) if min(values) == max(values) else f"{min(values)}–{max(values)}"


def main() -> None:
    """Compile, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print every instantiation as JSON")
    parser.add_argument("--only", choices=["cuda", "triton"], help="leave the other out")
    parser.add_argument("--sm", type=int, action="append", help="CUDA for this one alone, like 87")
    options = parser.parse_args()
    results: dict[str, list[Row]] = {}
    if options.only != "triton":
        if shutil.which("nvcc") is None:
            print("nvcc is not on PATH: install the CUDA toolkit", file=sys.stderr)
            sys.exit(3)
        with ThreadPoolExecutor(2) as pool:
            compiled = pool.map(cuda_rows, options.sm or CUDA_ARCHITECTURES)
            results["cuda"] = [row for rows in compiled for row in rows]
    if options.only != "cuda":
        results["triton"] = triton_rows()
    if options.json:
        print(json.dumps({name: [asdict(row) for row in rows] for name, rows in results.items()}))
        return
    for name, rows in results.items():
        print(f"\n{name}\n\n{table(rows)}")


if __name__ == "__main__":
    main()

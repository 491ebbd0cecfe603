"""Print the registers, shared memory and spills of the CUDA kernels, for every architecture.

    python benchmarks/cuda_resources.py [--json] [--sm 87]

Compiles them with nvcc; needs no GPU.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "kernels" / "texture_patchify" / "cuda" / "launch.cu"
ARCHITECTURES = (80, 87, 89, 90, 110, 120)


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


def rows_of(number: int) -> list[Row]:
    """Compile the kernels for one architecture and read what ptxas reports."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["nvcc", "-std=c++17", "-O3", f"-arch=sm_{number}", "-Xptxas", "-v", "-cubin"]
        command += ["-o", str(Path(folder) / "kernels.cubin"), str(SOURCE)]
        run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"nvcc fails for sm_{number}:\n{run.stderr}")
    rows = []
    for report in run.stderr.split("Compiling entry function ")[1:]:
        name = re.search(r"(score_bands|select_and_pack|mean_pixels)(?:I((?:Li\d+E)+)E)?", report)
        registers = re.search(r"Used (\d+) registers", report)
        spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report)
        if not (name and registers and spills):
            sys.exit(f"the report of ptxas has another form than expected:\n{report}")
        shared = re.search(r"(\d+) bytes smem", report)
        patch, count, *_ = [*map(int, re.findall(r"\d+", name[2] or "")), 0, 0]
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
    parser.add_argument("--sm", type=int, action="append", help="for this one alone, like 87")
    options = parser.parse_args()
    if shutil.which("nvcc") is None:
        print("nvcc is not on PATH: install the CUDA toolkit", file=sys.stderr)
        sys.exit(3)
    with ThreadPoolExecutor(2) as pool:
        compiled = pool.map(rows_of, options.sm or ARCHITECTURES)
        rows = [row for part in compiled for row in part]
    print(json.dumps([asdict(row) for row in rows]) if options.json else table(rows))


if __name__ == "__main__":
    main()

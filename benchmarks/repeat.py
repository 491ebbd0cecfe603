"""How far `mpft profile` can be trusted: two runs against each other, and its own cost.

python benchmarks/repeat.py BUNDLE [--json OUT]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from records import write_record
from turns import provenance, target

PROFILE = [sys.executable, "-c", "from mpft_deploy.cli.main import main; main()", "profile"]
SAMPLES, LIMIT_SECONDS = 500, 30
AGREEMENT, OVERHEAD = 2.0, 1.0  # per cent
QUERY_MS = 5.0


def profile(bundle: Path, *options: str) -> dict[str, Any]:
    """One result of `mpft profile`; exit code 1, of a gate, is a result too."""
    command = [*PROFILE, str(bundle), "--samples", str(SAMPLES), "--limit", str(LIMIT_SECONDS)]
    done = subprocess.run([*command, "--json", *options], capture_output=True, text=True)
    if not done.stdout:
        raise click.ClickException(f"mpft profile failed: {done.stderr.strip()}")
    result: dict[str, Any] = json.loads(done.stdout)
    if "error" in result:
        raise click.ClickException(f"mpft profile: {result['error']}")
    return result


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the result here.")
def main(bundle: Path, json_path: Path | None) -> None:
    """Profile BUNDLE twice."""
    with tempfile.TemporaryDirectory() as folder:
        older = Path(folder) / "first.json"
        first = profile(bundle, "--out", str(older))
        second = profile(bundle, "--compare", str(older), "--fail", "p50:5%")
    runs = [result["runs"][0] for result in (first, second)]
    medians = [run["latency_ms"]["p50"].get("value") for run in runs]
    if None in medians:
        raise click.ClickException("a median was too unstable to report: quieten the machine")
    overhead = second["harness"]["overhead_us"] / 1e3 / QUERY_MS * 100
    change = 100 * abs(medians[1] / medians[0] - 1)
    [gate] = second["gates"]
    print(f"{gate['verdict']}: {gate['reason']}")
    targets = [
        target("two runs of a bundle differ at p50 by", change, AGREEMENT, "%", at_least=False),
        target(
            f"cost of the harness at {QUERY_MS:g} ms a query", overhead, OVERHEAD, "%",
            at_least=False,
        ),
    ]  # fmt: skip
    if json_path is not None:
        record = {
            "benchmark": "repeat",
            **provenance(),
            "medians_ms": medians,
            "states": [run["state"] for run in runs],
            "compare": gate,
            "targets": targets,
        }
        write_record(json_path, record)


if __name__ == "__main__":
    main()

"""`mpft certify`."""

from __future__ import annotations

from pathlib import Path

import click

from mpft_deploy.cli.options import PATH, Threads


@click.command()
@click.argument("detector", type=PATH)
@click.argument("images", type=PATH, nargs=-1, required=True)
@click.option("--threads", type=Threads(), default=0, help="CPU threads; 0: all cores.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(detector: Path, images: tuple[Path, ...], threads: int, as_json: bool) -> None:
    """Measure on the folders IMAGES how many verdicts the engines of DETECTOR change.

    Every precision of the backend native is compared with float32, and the logits are kept in
    DETECTOR, which is sealed anew. Since they are the same on every processor, that is done once,
    by whoever publishes a detector: `mpft-export` judges bundles by it, and needs no images. Some
    1,500 images bound the share of flips well; they take about an hour on two cores.
    """
    from mpft_deploy.cli.console import comparison_rows, emit_json, steps, table
    from mpft_deploy.detector_folder import read_detector
    from mpft_deploy.engine.native import PRECISIONS
    from mpft_deploy.export.certify import certify_detector
    from mpft_deploy.files import display

    with steps() as say:
        published = certify_detector(detector, images, threads=threads, say=say)
    folder = read_detector(detector)
    compared = {name: published.compare(folder, name) for name in PRECISIONS}
    if as_json:
        emit_json({"detector": display(detector), "network": published.header.network, **compared})
        return
    rows = [row for name, one in compared.items() for row in comparison_rows(name, one)]
    table(display(detector), ["", ""], rows)

"""How well a detector tells each set of images apart, under one or more keep rules.

    python examples/evaluate_sets.py DETECTOR DATA --keep all --keep textured:96

DATA is laid out as for `mpft train`: folders or a CSV manifest.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from mpft_deploy.detector import require_train_extra
from mpft_deploy.errors import MpftError
from mpft_deploy.files import display
from mpft_deploy.spec import KeepRule


@click.command()
@click.argument("detector", type=click.Path(path_type=Path))
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--keep", "keeps", multiple=True, help="Keep rule; default: the detector's own.")
@click.option("--split", help="Leave out images that are stated to be of another split.")
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON.")
def main(
    detector: Path, data: tuple[Path, ...], keeps: tuple[str, ...], split: str | None, as_json: bool
) -> None:
    """Print AUC and, at the detector's threshold, balanced accuracy of each set of DATA.

    The threshold belongs to the detector's own keep rule; under others only the AUC is fair.
    """
    try:
        require_train_extra()
        scores = evaluate(detector, data, keeps, split)
    except MpftError as error:
        click.echo(f"error: {error}", err=True)
        raise SystemExit(error.exit_code) from None
    if as_json:
        click.echo(json.dumps(scores))
        return
    table = Table("set", "keep", "real", "generated", "AUC", "balanced accuracy")
    for keep, sets in scores.items():
        for name, score in sets.items():
            table.add_row(
                name,
                keep,
                str(score["real"]),
                str(score["generated"]),
                *(
                    "–" if score[figure] is None else f"{score[figure]:.3f}"
                    for figure in ("auc", "balanced_accuracy")
                ),
            )
    Console().print(table)


def evaluate(
    detector: Path, data: tuple[Path, ...], keeps: tuple[str, ...], split: str | None
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Scores by keep rule and set."""
    from mpft_deploy.dataset import drop_unreadable, find_samples
    from mpft_deploy.detector.calibrate import logit_threshold
    from mpft_deploy.detector.evaluate import image_logits
    from mpft_deploy.detector.model import Detector
    from mpft_deploy.evaluate.scores import score_by_set

    model, folder = Detector.from_folder(detector)
    spec = folder.spec
    names = list(dict.fromkeys(keeps)) or [spec.keep]
    rules = [KeepRule.parse(name) for name in names]
    for rule in rules:
        rule.resolve(spec.cells)
    samples = drop_unreadable(find_samples(data, split), lambda text: click.echo(text, err=True))
    click.echo(f"{len(samples)} images, detector {display(detector)}", err=True)
    results = image_logits(model, samples, rules, seed=spec.keep_seed)
    threshold = logit_threshold(spec.calibration)
    return {
        name: msgspec.to_builtins(score_by_set(samples, logits, threshold))
        for name, logits in zip(names, results, strict=True)
    }


if __name__ == "__main__":
    main()

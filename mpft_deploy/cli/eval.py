"""`mpft eval`: how well a detector tells images apart."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mpft_deploy.cli.options import PATH, VIEWS, Threads, hold

if TYPE_CHECKING:
    from mpft_deploy.evaluate.compare import Pair
    from mpft_deploy.evaluate.models import Model
    from mpft_deploy.evaluate.predictions import Predictions
    from mpft_deploy.evaluate.tables import Table
    from mpft_deploy.spec import ViewPolicy


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("paths", nargs=-1, type=PATH, metavar="[DETECTOR|BUNDLE] DATA...")
@click.option("--out", type=PATH, help="Folder for predictions, tables and report.")
@click.option(
    "--keep",
    "keeps",
    multiple=True,
    help="Keep rule, such as all or textured:96; may be repeated.  [default: the detector's own]",
)
@click.option("--split", help="Leave out images that are stated to be of another split.")
@click.option(
    "--limit", type=click.IntRange(1), help="At most this many images of each set and class."
)
@click.option(
    "--views",
    type=VIEWS,
    help="Views cut from each image, as mpft screen cuts them.  [default: the detector's own]",
)
@click.option(
    "--robustness",
    is_flag=True,
    help="Also under JPEG, WebP, resizing, crops, blur, noise, sharpening, other colours, "
    "screenshots, messengers and video.",
)
@click.option("--device", default="auto", show_default=True, help="PyTorch: auto, cpu or cuda.")
@click.option("--threads", type=Threads(), default=0, help="CPU threads; 0: all cores.")
@click.option("--overwrite", is_flag=True, help="Drop the predictions of another run in OUT.")
@click.option(
    "--from",
    "source",
    type=PATH,
    metavar="PREDICTIONS",
    help="Draw tables and report from this predictions.parquet, without a model.",
)
@click.option(
    "--compare",
    type=(PATH, PATH),
    metavar="A B",
    help="Compare two predictions.parquet of the same images. --keep names the rule, or A's and "
    "B's.",
)
@click.option(
    "--baseline",
    type=click.Choice(["frozen"]),
    help="Evaluate a frozen backbone with a linear probe, in place of a detector.",
)
@click.option("--backbone", metavar="NAME@SOURCE", help="Of the baseline.")
@click.option("--train", type=PATH, multiple=True, help="Images that the probe is fitted on.")
@click.option("--depth", type=click.IntRange(1), help="Blocks of the baseline.  [default: all]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    paths: tuple[Path, ...],
    out: Path | None,
    keeps: tuple[str, ...],
    split: str | None,
    limit: int | None,
    views: ViewPolicy | None,
    robustness: bool,
    device: str,
    threads: int,
    overwrite: bool,
    source: Path | None,
    compare: tuple[Path, Path] | None,
    baseline: str | None,
    backbone: str | None,
    train: tuple[Path, ...],
    depth: int | None,
    as_json: bool,
) -> int:
    """Measure how well a detector or a bundle tells the images of DATA apart.

    DATA is laid out as for mpft train: folders, manifests, shards. Every image is judged as it is
    and with both classes re-saved alike. OUT receives predictions.parquet, from which all else can
    be drawn again, tables.md, metrics.csv, metrics.json and report.html. A run that was
    interrupted goes on when it is called again. Exit code 1 if an image could not be read; the
    others are judged all the same.
    """
    from mpft_deploy.errors import UsageError
    from mpft_deploy.evaluate import require_eval_extra

    require_eval_extra()
    from mpft_deploy.evaluate.report import OUTPUT

    if sum(map(bool, (source, compare, baseline))) > 1:
        raise UsageError("--from, --compare and --baseline exclude each other")
    if (source or compare) and (paths or split or limit or views or robustness):
        raise UsageError(
            "--from and --compare take no DETECTOR, no DATA, and no --split, --limit, --views or "
            "--robustness: they read what is in their files"
        )
    if baseline is None and (backbone or train or depth):
        raise UsageError("--backbone, --train and --depth belong to --baseline frozen")
    if compare:
        if out is not None:
            hold(out, OUTPUT)
        _compare(compare, keeps, out, as_json)
        return 0
    if source:
        from mpft_deploy.evaluate.predictions import read_predictions

        if keeps:
            raise UsageError("--from draws all keep rules of the file; leave out --keep")
        predictions = read_predictions(source)
        hold(out or source.parent, OUTPUT)
        _finish(predictions, out or source.parent, source.parent, as_json)
        return 0
    if out is None:
        raise UsageError("name a folder for the results with --out")
    hold(out, OUTPUT)
    if baseline:
        model, data = _frozen(backbone, train, keeps, depth, device, threads), paths
    else:
        if not paths:
            raise UsageError("name a DETECTOR or BUNDLE, then DATA")
        model, data = _open(paths[0], keeps, device, threads), paths[1:]
    if not data:
        raise UsageError("name the images to evaluate on: folders or CSV manifests")
    policy = views or model.spec.calibration.views
    predictions = _predict(model, data, out, split, limit, policy, robustness, overwrite)
    _finish(predictions, out, out, as_json)
    return int(bool(predictions.header.unreadable))


def _open(path: Path, keeps: tuple[str, ...], device: str, threads: int) -> Model:
    """A detector folder or a bundle, verified and loaded."""
    from mpft_deploy.bundle import read_bundle
    from mpft_deploy.errors import UsageError
    from mpft_deploy.evaluate.models import BundleModel
    from mpft_deploy.kinds import find_kind
    from mpft_deploy.spec import KeepRule

    if find_kind(path) == "bundle":
        bundle = read_bundle(path)
        if any(KeepRule.parse(keep) != bundle.spec.keep_rule for keep in keeps):
            raise UsageError(
                f"a bundle has one keep rule, this one {bundle.spec.keep}: "
                "leave out --keep, or evaluate the detector it was exported from"
            )
        return BundleModel(bundle, threads=threads)

    from mpft_deploy.detector import require_train_extra

    require_train_extra()
    import torch

    from mpft_deploy.detector.evaluate import DetectorModel
    from mpft_deploy.detector.model import Detector

    if threads:
        torch.set_num_threads(threads)
    return DetectorModel(*Detector.from_folder(path), keeps, device=device)


def _frozen(
    backbone: str | None,
    train: tuple[Path, ...],
    keeps: tuple[str, ...],
    depth: int | None,
    device: str,
    threads: int,
) -> Model:
    """The frozen baseline."""
    from mpft_deploy.errors import UsageError

    if not backbone or not train:
        raise UsageError("--baseline frozen needs --backbone NAME@SOURCE and --train DATA")
    if len(keeps) > 1:
        raise UsageError("the frozen baseline takes one --keep")

    from mpft_deploy.detector import require_train_extra

    require_train_extra()
    import torch

    from mpft_deploy.dataset import drop_contradicting, drop_unreadable, find_samples
    from mpft_deploy.detector.backbone import load_backbone
    from mpft_deploy.detector.probe import FrozenModel

    def report(text: str) -> None:
        click.echo(text, err=True)

    if threads:
        torch.set_num_threads(threads)
    samples = drop_unreadable(find_samples(train, "train"), report)
    samples = drop_contradicting(samples, report)
    return FrozenModel(
        load_backbone(backbone), samples, *keeps, depth=depth, device=device, report=report
    )


def _predict(
    model: Model,
    data: tuple[Path, ...],
    out: Path,
    split: str | None,
    limit: int | None,
    views: ViewPolicy,
    robustness: bool,
    overwrite: bool,
) -> Predictions:
    from mpft_deploy.cli.console import progress
    from mpft_deploy.cli.signals import resumable
    from mpft_deploy.dataset import describe_sets
    from mpft_deploy.evaluate.mistakes import MISTAKES, collect, write_mistakes
    from mpft_deploy.evaluate.protocols import protocol_names
    from mpft_deploy.evaluate.run import evaluate, find_entries
    from mpft_deploy.files import display
    from mpft_deploy.finding import others_in

    entries = find_entries(data, split=split, limit=limit)
    protocols = protocol_names(robustness=robustness)
    click.echo(
        f"{model.name}: {len(entries)} images, {len(protocols)} protocols, "
        f"keep {', '.join(model.keeps)}, views {views}\n"
        f"sets: {describe_sets([entry.sample for entry in entries])}",
        err=True,
    )
    if others := others_in(data):
        click.echo(others, err=True)
    with progress(len(entries), "images") as tell, resumable():
        predictions = evaluate(
            model, entries, protocols, out, views=views, overwrite=overwrite, progress=tell
        )
    for bad in predictions.header.unreadable:
        click.echo(f"not decoded, not scored: {display(bad.path)}: {bad.reason}", err=True)
    for path in predictions.header.contradicting:
        click.echo(f"in both classes, not scored: {display(path)}", err=True)
    write_mistakes(out / MISTAKES, collect(model, predictions, entries))
    return predictions


def _finish(predictions: Predictions, out: Path, pictures: Path, as_json: bool) -> None:
    """Write tables and report, and print the first tables."""
    from mpft_deploy.cli.console import emit_json
    from mpft_deploy.evaluate.report import REPORT, TABLES, write_results
    from mpft_deploy.evaluate.tables import told_unsure
    from mpft_deploy.files import display

    report = partial(click.echo, err=True)
    groups, streams, tables = write_results(predictions, out, pictures, report)
    if as_json:
        emit_json({"header": predictions.header, "groups": groups, "streams": streams})
        return
    brief = [table for table in tables if table.brief]
    for table in brief:
        _print(table)
    for note in dict.fromkeys(table.note for table in brief if table.note):
        click.echo(note)
    unreadable = len(predictions.header.unreadable)
    if unreadable:
        click.echo(f"{unreadable} images could not be decoded and were not scored")
    if unsure := told_unsure(groups):
        click.echo(unsure)
    click.echo(f"{display(out / TABLES)}\n{display(out / REPORT)}")


def _print(shown: Table) -> None:
    from mpft_deploy.cli.console import table

    table(shown.title, shown.columns, [[row[0].strip("*"), *row[1:]] for row in shown.rows])


def _compare(
    files: tuple[Path, Path], keeps: tuple[str, ...], out: Path | None, as_json: bool
) -> None:
    """Compare two prediction files and print or write the result."""
    import msgspec

    from mpft_deploy.cli.console import emit_json, table
    from mpft_deploy.errors import UsageError
    from mpft_deploy.evaluate.compare import compare
    from mpft_deploy.evaluate.predictions import check_keep, read_predictions
    from mpft_deploy.evaluate.report import COMPARISON
    from mpft_deploy.files import canonical_json, display, write_atomic

    if len(keeps) > 2:
        raise UsageError("--compare takes one --keep for both files, or one for each")
    a, b = (read_predictions(path) for path in files)
    own = (a.header.calibrated_keep, b.header.calibrated_keep)
    wanted = (keeps[0], keeps[-1]) if keeps else own
    keep_a, keep_b = (
        check_keep(keep, one.header, display(path))
        for keep, one, path in zip(wanted, (a, b), files, strict=True)
    )
    pairs = compare(a, b, keep_a, keep_b, files)
    if out is not None:
        write_atomic(out / COMPARISON, canonical_json({"pairs": msgspec.to_builtins(pairs)}))
    if as_json:
        emit_json(pairs)
        return
    table(
        f"A: {a.header.model}, {keep_a}; B: {b.header.model}, {keep_b}",
        [
            "protocol",
            "set",
            "images",
            "AUC A",
            "AUC B",
            "B − A [95 %]",
            "only A right",
            "only B right",
            "McNemar p",
        ],
        [_pair_row(pair) for pair in pairs],
    )


def _pair_row(pair: Pair) -> list[str]:
    difference = pair.auc_difference
    return [
        pair.protocol,
        pair.name,
        str(pair.real + pair.generated),
        *("–" if auc is None else f"{auc:.4f}" for auc in (pair.auc_a, pair.auc_b)),
        "–"
        if difference is None
        else f"{difference.value:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]",
        str(pair.only_a_right),
        str(pair.only_b_right),
        f"{pair.p_value:.2g}",
    ]

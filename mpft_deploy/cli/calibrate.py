"""`mpft calibrate`: a detector's probabilities, threshold and unsure band on someone's images."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mpft_deploy.cli.console import parse_share
from mpft_deploy.cli.options import PATH, VIEWS, Place, Span, hold

if TYPE_CHECKING:
    from mpft_deploy.dataset import Sample
    from mpft_deploy.detector.recalibrate import Outcome
    from mpft_deploy.detector.thresholds import FalseAlarms
    from mpft_deploy.spec import ViewPolicy


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("detector", type=PATH)
@click.argument("data", nargs=-1, type=Place(str))
@click.option("--keep", help="Make this the inference rule.  [default: the detector's own]")
@click.option(
    "--false-alarm",
    metavar="SHARE",
    callback=parse_share,
    help="Call at most this share of real images to come generated (upper bound of 95 %). A folder "
    "without class folders then holds real images.",
)
@click.option(
    "--unsure-error",
    metavar="SHARE",
    callback=parse_share,
    help="Widen the unsure band until at most this share of each class to come is decided wrongly.",
)
@click.option(
    "--views",
    type=VIEWS,
    help="Calibrate for these views, as mpft screen cuts them.  [default: the detector's own]",
)
@click.option(
    "--held-out",
    is_flag=True,
    help="Change no calibration, but measure on DATA, which it never saw, what it is worth there.",
)
@click.option(
    "--camera",
    metavar="NAME",
    help="Teach a source of --config what known-real frames of it look like; DETECTOR is a bundle.",
)
@click.option("--config", type=PATH, help="The cameras.toml that names --camera.")
@click.option(
    "--duration",
    type=Span(),
    metavar="TIME",
    help="How long to look at --camera, such as 1h.  [default: 1h]",
)
@click.option("--accept", is_flag=True, help="Have what --camera learns count without asking.")
@click.option("--split", help="Leave out images that are stated to be of another split.")
@click.option(
    "--limit", type=click.IntRange(1), help="At most this many images of each set and class."
)
@click.option("--device", default="auto", show_default=True, help="PyTorch: auto, cpu or cuda.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    detector: Path,
    data: tuple[str, ...],
    keep: str | None,
    false_alarm: float | None,
    unsure_error: float | None,
    views: ViewPolicy | None,
    held_out: bool,
    camera: str | None,
    config: Path | None,
    duration: float | None,
    accept: bool,
    split: str | None,
    limit: int | None,
    device: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Fit DETECTOR's calibration to the labelled images of DATA, and seal it anew.

    With real and generated images shift and scale are fitted; real ones alone set the threshold by
    --false-alarm, and may be a plain folder of photographs. Refuses where the detector ranks the
    images no better than chance. Weights stay as they are; export again to get a bundle with the
    new calibration.

    What streams promise needs --held-out once, with images of several cameras, collections and
    generators: `mpft calibrate DETECTOR DATA --held-out`.

    With --camera NAME --config cameras.toml, an hour of a source that shows nothing generated is
    judged by the bundle DETECTOR: the source itself, or DATA in its place, which are clips, folders
    of frames in order (each counts as a second) or addresses. Ctrl-C ends that early. What it
    taught is shown and, once accepted, stands beside the configuration; it takes effect at a start
    or reload of mpft screen.
    """
    from mpft_deploy.detector import require_train_extra
    from mpft_deploy.errors import UsageError
    from mpft_deploy.evaluate import require_eval_extra
    from mpft_deploy.files import display
    from mpft_deploy.kinds import find_kind

    if accept or not (camera is None and config is None and duration is None):
        from mpft_deploy.cli.teach import teach

        if camera is None or config is None:
            raise UsageError("--camera NAME and --config cameras.toml belong together")
        misplaced = (
            keep,
            false_alarm,
            unsure_error,
            views,
            split,
            limit,
            held_out or None,
            dry_run or None,
        )
        if any(option is not None for option in misplaced):
            raise UsageError(
                "--camera takes --config, --duration, --accept and --json, and no other option"
            )
        teach(detector, camera, config, data, duration or 3600.0, accept=accept, as_json=as_json)
        return
    if find_kind(detector) == "bundle":
        raise UsageError(
            f"{display(detector)} is a bundle, whose calibration is certified: calibrate the "
            "detector that it was exported from, then export it again"
        )
    if not data:
        raise UsageError("name labelled images, as folders or manifests, after the detector")
    folders = [Path(path) for path in data]
    require_train_extra()
    require_eval_extra()

    import msgspec

    from mpft_deploy.cli.console import emit_json, progress
    from mpft_deploy.dataset import drop_contradicting, drop_unreadable
    from mpft_deploy.detector.evaluate import BATCH, judged_logits
    from mpft_deploy.detector.model import Detector, choose_device
    from mpft_deploy.detector.recalibrate import recalibrate, require_possible, write_outcome
    from mpft_deploy.detector_folder import OUTPUT
    from mpft_deploy.evaluate.run import find_entries
    from mpft_deploy.finding import others_in
    from mpft_deploy.spec import KeepRule

    model, folder = Detector.from_folder(detector)
    if not dry_run:
        hold(detector, OUTPUT, folders)
    spec = folder.spec
    rule = KeepRule.parse(keep) if keep else spec.keep_rule
    rule.resolve(spec.cells)
    policy = views or spec.calibration.views
    if policy == "moving" and rule != spec.keep_rule:
        raise UsageError(
            f"--views moving calibrates for streams, under the detector's own keep {spec.keep}: "
            "leave out --keep, or calibrate for pictures first"
        )
    before = spec.calibration_of(policy)
    other = rule != spec.keep_rule or policy != before.views
    if held_out and other:
        raise UsageError(
            "--held-out measures the calibration of the detector's own keep rule and views"
        )

    def tell_line(text: str) -> None:
        click.echo(text, err=True)

    entries = find_entries(folders, split=split, limit=limit, plain_is_real=false_alarm is not None)
    if others := others_in(folders):
        tell_line(others)
    samples = [entry.sample for entry in entries]
    _tell_taken_as_real(folders, samples)
    samples = drop_contradicting(drop_unreadable(samples, tell_line), tell_line)
    require_possible(
        [sample.label for sample in samples],
        held_out=held_out,
        false_alarm=false_alarm,
        unsure_error=unsure_error,
    )
    done = 0
    with progress(len(samples), "images") as tell:

        def advance() -> None:
            nonlocal done
            done = min(done + BATCH, len(samples))
            tell(done)

        logits, reasons = judged_logits(
            model.to(choose_device(device)),
            samples,
            msgspec.structs.replace(spec, keep=str(rule)),
            policy,
            advance,
        )
    judged = [not reason for reason in reasons]
    for reason, count in Counter(filter(None, reasons)).most_common():
        tell_line(f"{count} images are left out, of which there is no verdict: {reason}")
    logits, samples = logits[judged], list(itertools.compress(samples, judged))
    if other:
        before = msgspec.structs.replace(before, held_out=None)  # it is of the other rule
    outcome = recalibrate(
        before,
        [sample.label for sample in samples],
        logits,
        rule,
        sources=[sample.source for sample in samples],
        views=policy,
        groups=[sample.generator or sample.set for sample in samples],
        held_out=held_out,
        false_alarm=false_alarm,
        unsure_error=unsure_error,
    )
    if not dry_run:
        write_outcome(model, folder, outcome, samples)
    if as_json:
        emit_json({"detector": display(detector), "written": not dry_run, **_builtins(outcome)})
        return
    _print(outcome, f"{display(detector)}, keep {outcome.keep}, views {outcome.after.views}")
    click.echo(_promise(outcome.false_alarms, false_alarm))
    click.echo(
        (
            f"Figures are of the {len(samples)} images that were fitted to: expect less on others. "
            if not held_out
            else ""
        )
        + ("Nothing was written." if dry_run else "Written; export again for a new bundle.")
    )


def _tell_taken_as_real(data: Sequence[Path], samples: Sequence[Sample]) -> None:
    """Say which folders hold no class folder, and what is in them."""
    from mpft_deploy.files import display
    from mpft_deploy.layouts import listing
    from mpft_deploy.packed import is_packed

    for folder in data:
        plain = [s for s in samples if s.path.is_relative_to(folder) and not s.folder]
        stated = any(s.label or is_packed(s.path) for s in plain)
        if plain and folder.is_dir() and not stated:
            where = listing(Counter(sample.source for sample in plain))
            click.echo(
                f"{display(folder)} has no class folders: its {len(plain)} images are taken to be "
                f"real: {where}",
                err=True,
            )


def _promise(alarms: FalseAlarms, wanted: float | None) -> str:
    """What may be said of real images to come."""
    from mpft_deploy.detector.thresholds import images_needed

    text = (
        f"False alarms: {alarms.called_generated} of {alarms.images} real images, so at most "
        f"{alarms.bound:.2%} of those to come, if they are like these (exact bound, 95 %). "
    )
    if wanted is not None:
        text += f"{wanted:.2%} takes {images_needed(wanted)} real images or more. "
    if alarms.source_bound is None:
        return text + "Where they come from is not known: images of one source count as one."
    text += f"They come from {alarms.sources} sources"
    if alarms.source_bound > (alarms.bound if wanted is None else wanted):
        text += (
            f", which is few: images of one are alike, and over sources like these the mean may be "
            f"{alarms.source_bound:.0%}. Give images of more sources, each in its folder"
        )
    return text + "."


def _builtins(outcome: Outcome) -> dict[str, object]:
    import msgspec

    built: dict[str, object] = msgspec.to_builtins(outcome)
    return built


def _print(outcome: Outcome, title: str) -> None:
    """Before and after, side by side."""
    from mpft_deploy.cli.console import table
    from mpft_deploy.evaluate.metrics import METRICS

    before, after = outcome.before, outcome.after
    rows = [
        [name, f"{getattr(before, name):.4g}", f"{getattr(after, name):.4g}"]
        for name in ("shift", "scale", "threshold")
    ]
    rows.append(
        ["unsure band", *(f"{one.unsure[0]:.4g} to {one.unsure[1]:.4g}" for one in (before, after))]
    )
    for name in ("separation", "error", "spread"):
        held = (one.held_out for one in (before, after))
        values = ["–" if one is None else f"{getattr(one, name):.2f}" for one in held]
        rows.append([f"held-out {name}, log odds", *values])
    shown = ("real_accuracy", "generated_accuracy", "ece", "coverage", "decided_accuracy")
    rows += [
        [
            METRICS[name],
            _percent(outcome.figures_before[name]),
            _percent(outcome.figures_after[name]),
        ]
        for name in shown
    ]
    table(title, ["", "before", "after"], rows)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"

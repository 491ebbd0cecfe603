"""The model card of a detector."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mpft_deploy.detector.settings import GoldenSource
from mpft_deploy.detector.thresholds import upper_bound
from mpft_deploy.evaluate.scores import Score
from mpft_deploy.spec import Calibration, DetectorSpec, HeldOut
from mpft_deploy.statistics import share_bounds

GOLDEN_TEXT = {
    "validation": "validation images, whose licences apply to them",
    "synthetic": "pictures drawn by a seeded program; they hold nobody's content",
}

UNSTATED = ("unstated", "none stated", "not stated")

LIMITS, TITLE = "## Limits\n", "Operating point"
HELD_OUT = "\n## On held-out images\n"


def model_card(
    spec: DetectorSpec,
    by_set: Mapping[str, Score],
    licences: Mapping[str, int],
    golden: GoldenSource,
) -> str:
    """MODEL_CARD.md of a detector: data, licences, figures, settings and limits.

    Args:
        spec: with its `training` provenance.
        by_set: validation scores of each set.
        licences: images of training and validation by licence.
        golden: where the golden crops come from.
    """
    training, arch = spec.training, spec.architecture
    data_rows = "\n".join(
        f"| {part} | {_cell(name)} | {counts['real']} | {counts['generated']} |"
        for part in ("train", "validation")
        for name, counts in training[part].items()
    )
    unstated = sum(count for name, count in licences.items() if name in UNSTATED)
    licence_rows = "\n".join(f"| {_cell(name)} | {count} |" for name, count in licences.items())
    setting_rows = "\n".join(
        f"| {name} | {value} |" for name, value in training["settings"].items()
    )
    version_text = ", ".join(f"{name} {text}" for name, text in training["versions"].items())
    learnt = f"Its linear head reads the class token after each of the last {spec.taps} blocks."
    if spec.taps == 1:
        learnt = "Its linear head reads the class token after the last block."
    fine_tuned = training["settings"]["epochs"] > 0
    if fine_tuned and (share := training["settings"].get("blend", 1)) < 1:
        learnt += (
            f"\nIts weights are {share:g} of what was learnt and {1 - share:g} of the frozen tower "
            "(WiSE-FT, arXiv 2109.01903);\nthe head was fitted anew."
        )
    others = "were dropped" if spec.fill == "drop" else "had their pixels set to zero"
    shown = f"`{spec.train_keep}` of the {spec.cells} cells of each crop (the\nothers {others})"
    if spec.train_keep == "all":
        shown = f"all {spec.cells} cells of each crop"
    tower = f"CLIP's image tower, fine-tuned on {shown} and run on"
    if not fine_tuned:
        tower = "CLIP's image tower, frozen, run on"
    card = f"""# Detector of generated images: {arch.name}, {spec.depth} of {arch.layers} blocks

Tells images made by generative models from real ones. Input: a {spec.crop.size} × {spec.crop.size}
crop in RGB, at its own pixels. Output: a logit, which the operating point makes a verdict.

## Limits
- A verdict is evidence, not proof; never the only ground for a decision about a person. "Real" says
  that no sign of generation was found, and many generated images have none.
- Other images than these are harder: other cameras, collections and kinds of pictures, and
  generators that came after the training data. Measure on your own images, and calibrate on them
  before relying on the threshold.
- Resizing, heavy compression, screenshots and edits change the evidence.
- If the classes of the training data differ in content, size or file format, the detector may have
  learnt that too. No figure here is free of that.

## Method
{tower} `{spec.keep}`.
{learnt}
Leaving cells out by their texture is the idea of "Detecting AI-Generated Images via Distributional
Deviations from Real Images" (arXiv 2601.03586), of which only the abstract could be read: texture
measure, cells, selection, depth, head and settings are our reconstruction, and the paper's figures
are not this detector's.

## Validation
{_validation(spec, by_set)}

## Data
| part | set | real | generated |
|---|---|---|---|
{data_rows}

Of {sum(licences.values())} images {unstated} come without a stated licence. None of them comes
along with the detector.

| licence of the images | images |
|---|---|
{licence_rows}

Golden crops: {GOLDEN_TEXT[golden]}.

## Settings
| setting | value |
|---|---|
{setting_rows}

Made with {version_text}.
"""
    return with_held_out(with_operating_point(card, spec), spec.calibration.held_out)


def _validation(spec: DetectorSpec, scores: Mapping[str, Score]) -> str:
    """What the detector was measured on when it was made."""
    training = spec.training
    settings, total = training["settings"], Score(**training["validation_score"])
    if not settings.get("folds"):
        rows = "\n".join(
            f"| {_cell(name)} | {one.real} | {one.generated} | {_figure(one.auc)} |"
            for name, one in {**scores, "**all**": total}.items()
        )
        return f"""\
Under `{settings["keep"]}`, on the weights as stored, {training["stored_weights"]}. The first
calibration was fitted to these images, which were looked at after every epoch where there was one,
and which may come from the sources that the detector learnt from: expect less on others.

| set | real | generated | AUC |
|---|---|---|---|
{rows}"""
    generated = {name: one for name, one in scores.items() if one.generated}
    real = "\n".join(
        f"| {_cell(name)} | {one.real} | {_share(1 - (one.real_accuracy or 0), one.real)} |"
        for name, one in scores.items()
        if one.real
    )
    made = "\n".join(
        f"| {_cell(name)} | {one.generated} | {_figure(one.auc)} | "
        f"{_share(one.generated_accuracy or 0, one.generated)} |"
        for name, one in generated.items()
    )
    mean_auc = _mean([one.auc or 0 for one in generated.values()], ".3f")
    mean_found = _mean([one.generated_accuracy or 0 for one in generated.values()], ".0%")
    return f"""\
Every image below was judged by a head that learnt from none of its generator or source, nor of any
that share a collection with it ({settings["folds"]} folds), by the mean over random views of it as
it may arrive: resized, re-saved, filmed. Calibration and threshold follow from these logits, and
the head that is kept learnt from all of the images. Over generators the mean AUC is {mean_auc}
and {mean_found} of their images are found (95 % of a bootstrap over generators); over all images
the AUC is {_figure(total.auc)}. Shares below are at the threshold that was set then, with exact
intervals over images (95 %).

Folds flatter: whoever collected these images has habits that strangers do not share. No image was
kept aside either: what was chosen by looking at such folds, as docs/method.md tells of the shipped
detector, flatters them too. Expect less elsewhere.

| generator, left out | images | AUC | found |
|---|---|---|---|
{made}

| source of real images, left out | images | called generated |
|---|---|---|
{real}"""


def with_operating_point(card: str, spec: DetectorSpec) -> str:
    """A card with the operating point of the spec in place of the one that it has.

    Args:
        spec: whose `training` says what the calibration was fitted to: `calibration`, or the
            validation images.
    """
    parts = re.split("^(?=## )", card, flags=re.MULTILINE)
    replaced = (f"## {TITLE}\n", "## Calibrated anew\n")
    kept = [part.rstrip() for part in parts if not part.startswith(replaced)]
    place = 2 if len(kept) > 1 and parts[1].startswith(LIMITS) else 1  # limits go first
    return "\n\n".join([*kept[:place], _operating_point(spec), *kept[place:]]) + "\n"


def with_held_out(card: str, held: HeldOut | None) -> str:
    """A card that says what the calibration is worth on held-out images, and nothing of older."""
    card = card.partition(HELD_OUT)[0]
    if held is None:
        return card
    return (
        f"{card}{HELD_OUT}On {held.images} images of {held.real} real and {held.generated} "
        f"generated groups that the calibration was not fitted to, the classes are "
        f"{held.separation:.2f} apart in log odds. A group is off by {held.error:.2f} (standard "
        f"deviation, upper bound), images within one by {held.spread:.2f}: how sure many frames of "
        "one camera can make.\n"
    )


def _operating_point(spec: DetectorSpec) -> str:
    """The section on what is called what, and what that promises."""
    calibration, training = spec.calibration, spec.training
    fitted = training.get("calibration")
    if fitted is None:
        fitted = {"sets": list(training["validation"]), "figures": training["validation_score"]}
        fitted |= {name: fitted["figures"][name] for name in ("real", "generated")}
    real, figures = fitted["real"], fitted["figures"]
    called = round(real * (1 - figures["real_accuracy"]))
    promised = f"{upper_bound(called, real):.1%} of images to come that are like these"
    told = fitted.get("false_alarms", {})
    if told.get("source_bound") is not None:
        over = f"{told['source_bound']:.1%} as a mean over sources like these {told['sources']}"
        promised += f", {over}"
    found = figures["generated_accuracy"]
    also = ""
    if found is not None:
        also = f" Of the generated ones {_share(found, fitted['generated'])} are found."
    also += " Intervals are exact ones over images (95 %)."
    paragraphs = [
        f'The probability of "generated" is sigmoid({calibration.scale:.4f} · (logit '
        f"{calibration.shift:+.4f})). {_verdicts(calibration)} This is for `{spec.keep}` and "
        f"views `{calibration.views}`.",
        f"Fitted to {real} real and {fitted['generated']} generated images of "
        f"{', '.join(fitted['sets'])}, which are also counted here: {called} of the real ones are "
        f"called generated, {_share(called / real, real)}, which bounds false alarms (95 %, "
        f"one-sided) at {promised}.{also}",
    ]
    if spec.stream is not None and (fitted := training.get("stream calibration")):
        paragraphs.append(_of_frames(spec.stream, fitted))
    wrapped = (textwrap.fill(text, 100, break_on_hyphens=False) for text in paragraphs)
    return "\n\n".join([f"## {TITLE}", *wrapped]).replace(f"{TITLE}\n\n", f"{TITLE}\n")


def _of_frames(calibration: Calibration, fitted: Mapping[str, Any]) -> str:
    """What a single frame of a stream is called."""
    real, generated, figures = fitted["real"], fitted["generated"], fitted["figures"]
    return (
        f"A frame of a stream is judged by views `{calibration.views}`, with a probability of its "
        f"own: sigmoid({calibration.scale:.4f} · (logit {calibration.shift:+.4f})). "
        f"{_verdicts(calibration)} Of the same images, by one view each, "
        f"{_share(1 - figures['real_accuracy'], real)} of the real ones are called generated and "
        f"{_share(figures['generated_accuracy'], generated)} of the generated ones are found. A "
        "stream's own verdict rests on many frames; docs/streams.md says what it promises."
    )


def _verdicts(calibration: Calibration) -> str:
    """Which probability is called what."""
    low, high = calibration.unsure
    begin = f"From {calibration.threshold:.4g} on (logit {calibration.logit_threshold:+.4f}) it "
    if high > calibration.threshold:
        return (
            f"{begin}counts as generated; the verdict between {low:.4g} and {high:.4g} is unsure."
        )
    below = f" and below that, down to {low:.4g}, unsure" if low < high else ""
    return f"{begin}is called generated{below}."


def _share(share: float, images: int) -> str:
    """A share of images, with 95 % of its exact interval."""
    low, high = share_bounds(round(share * images), images, 0.975)
    return f"{share:.1%} ({low:.1%} to {high:.1%})"


def _mean(values: Sequence[float], form: str) -> str:
    """A mean with 95 % of a bootstrap."""
    drawn = np.random.default_rng(0).choice(values, (2000, len(values))).mean(1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{np.mean(values):{form}} ({low:{form}} to {high:{form}})"


def _cell(name: str) -> str:
    """A name that cannot end its cell."""
    return name.replace("|", "\\|")


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"

"""The model card of a detector."""

from __future__ import annotations

from collections.abc import Mapping

from mpft_deploy.detector.settings import GoldenSource
from mpft_deploy.evaluate.scores import Score
from mpft_deploy.spec import DetectorSpec

GOLDEN_TEXT = {
    "validation": "validation images, whose licences apply to them",
    "synthetic": "pictures drawn by a seeded program; they hold nobody's content",
}


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
    training, arch, calibration = spec.training, spec.architecture, spec.calibration
    total = Score(**training["validation_score"])
    data_rows = "\n".join(
        f"| {part} | {name} | {counts['real']} | {counts['generated']} |"
        for part in ("train", "validation")
        for name, counts in training[part].items()
    )
    score_rows = "\n".join(
        f"| {name} | {one.real} | {one.generated} | {_figure(one.auc)} | "
        f"{_figure(one.balanced_accuracy)} | {_figure(one.real_accuracy)} |"
        for name, one in {**by_set, "**all**": total}.items()
    )
    licence_rows = "\n".join(f"| {name} | {count} |" for name, count in licences.items())
    setting_rows = "\n".join(
        f"| {name} | {value} |" for name, value in training["settings"].items()
    )
    version_text = ", ".join(f"{name} {text}" for name, text in training["versions"].items())
    learnt = f"Its linear head reads the class token after each of the last {spec.taps} blocks."
    if spec.taps == 1:
        learnt = "Its linear head reads the class token after the last block."
    if (share := training["settings"].get("blend", 1)) < 1:
        learnt += (
            f"\nIts weights are {share:g} of what was learnt and {1 - share:g} of the frozen tower "
            "(WiSE-FT, arXiv 2109.01903);\nthe head was fitted anew."
        )
    others = "were dropped" if spec.fill == "drop" else "had their pixels set to zero"
    shown = f"`{spec.train_keep}` of the {spec.cells} cells of each crop (the\nothers {others})"
    if spec.train_keep == "all":
        shown = f"all {spec.cells} cells of each crop"
    return f"""# Detector of generated images: {arch.name}, {spec.depth} of {arch.layers} blocks

Tells images made by generative models from real ones. Input: a {spec.crop.size} × {spec.crop.size}
crop in RGB, never resized. Output: a logit; the probability of "generated" is
sigmoid({calibration.scale:.4f} · (logit {calibration.shift:+.4f})), "unsure" between
{calibration.unsure[0]:g} and {calibration.unsure[1]:g}.

## Method
CLIP's image tower, fine-tuned on {shown} and run on `{spec.keep}`.
{learnt}
Leaving cells out by their texture is the idea of "Detecting AI-Generated Images via Distributional
Deviations from Real Images" (arXiv 2601.03586), of which only the abstract could be read: texture
measure, cells, selection, depth, head and settings are our reconstruction, and the paper's figures
are not this detector's.

## Validation
At the inference rule and threshold {calibration.threshold:g}, on the weights as stored,
{training["stored_weights"]}. The calibration was fitted on these images, and they come from the
sources that the detector learnt from: expect less on other generators and cameras.

| set | real | generated | AUC | balanced accuracy | real called real |
|---|---|---|---|---|---|
{score_rows}

## Data
| part | set | real | generated |
|---|---|---|---|
{data_rows}

| licence of the images | images |
|---|---|
{licence_rows}

Golden crops: {GOLDEN_TEXT[golden]}.

## Settings
| setting | value |
|---|---|
{setting_rows}

Made with {version_text}.

## Limits
- A verdict is evidence, not proof; never the only ground for a decision about a person.
- Generators that came after the training data may pass as real.
- Resizing, heavy compression, screenshots and edits change the evidence. Measure on your own images
  and calibrate on them before relying on the threshold.
- If the classes of the training data differ in content, size or file format, the detector may have
  learnt that too.
"""


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"

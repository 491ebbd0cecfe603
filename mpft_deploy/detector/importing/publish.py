"""From an assembled detector to its folder: rounding, golden crops and model card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import msgspec

from mpft_deploy import __version__
from mpft_deploy.detector.evaluate import crop_logits
from mpft_deploy.detector.golden import GOLDEN_COUNT, synthetic_crops
from mpft_deploy.detector.importing.assemble import Imported, Request, assemble
from mpft_deploy.detector.model import Detector
from mpft_deploy.detector_folder import Golden, write_detector
from mpft_deploy.files import display, sha256_of_file
from mpft_deploy.spec import DetectorSpec
from mpft_deploy.weights import Stored, dequantise, quantise


def import_detector(
    request: Request,
    out: Path,
    *,
    stored: Stored = "float32",
    overwrite: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Imported:
    """Make a detector folder of others' files; see `assemble`.

    Args:
        stored: how matrices are stored; as float32 its logits are those of the source.
        say: told which step begins.
    """
    say("reading the files")
    imported = assemble(request)
    where = display(out)
    weights = dequantise(quantise(imported.weights, stored))
    imported = replace(imported, weights=weights)  # large towers are held once
    training = {
        "imported": {
            "files": {display(one.name): sha256_of_file(one) for one in imported.files},
            "recognised": imported.told,
        },
        "stored_weights": stored,
        "versions": {
            "mpft-deploy": __version__,
            **{name: version(name) for name in ("torch", "open_clip_torch", "numpy")},
        },
    }
    spec = msgspec.structs.replace(imported.spec, training=training)
    model = Detector.from_spec(spec, weights, where)
    say(f"judging {GOLDEN_COUNT} drawn crops")
    crops = synthetic_crops(spec.crop.size, count=GOLDEN_COUNT)
    golden = Golden(crops, crop_logits(model, crops, spec.keep_rule, seed=spec.keep_seed))
    del model  # it holds the tower once more
    write_detector(out, spec, weights, golden, _card(spec), stored=stored, replace=overwrite)
    return replace(imported, spec=spec)


def _card(spec: DetectorSpec) -> str:
    """MODEL_CARD.md of a detector that was not trained here."""
    told, arch = spec.training["imported"], spec.architecture
    files = "\n".join(f"| {name} | {digest} |" for name, digest in told["files"].items())
    lines = "\n".join(f"- {line[0].upper()}{line[1:]}." for line in told["recognised"])
    pixels = "at its own pixels"
    if scaling := spec.crop.scaling:
        pixels = (
            f"the centre of the picture scaled to {scaling} pixels by Pillow's {scaling.filter}"
        )
    return f"""# Detector of generated images, imported: {arch.name}

Tells images made by generative models from real ones, as those say who trained it: nothing of it
was measured here. Input: a {spec.crop.size} × {spec.crop.size} crop in RGB, {pixels}.
Output: a logit.

## Source
| file | SHA-256 |
|---|---|
{files}

{lines}

It looks at `{spec.keep}` of the {spec.cells} cells of each crop. Its licence is that of its source.

## Operating point
The sigmoid of the logit is the probability of "generated", and from 0.5 on an image is called so,
which may be far from calibrated on other images: see `mpft calibrate`.

## Limits
- A verdict is evidence, not proof; never the only ground for a decision about a person.
- Measure it on your own images before relying on it: `mpft eval`.
"""

"""`mpft import`: a detector of others as a detector folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from mpft_deploy.cli.options import PATH, Number

SCALING = re.compile(r"(\d+)(?:x(\d+))?(?::(bilinear|bicubic))?")


@click.command("import")
@click.argument("sources", nargs=-1, required=True, type=PATH, metavar="SOURCE...")
@click.option("--out", required=True, type=PATH, help="Detector folder.")
@click.option(
    "--backbone",
    help="The tower, where SOURCE has none or a part: a file, or open_clip's NAME[@SOURCE], such "
    "as ViT-L-14-quickgelu.",
)
@click.option(
    "--features",
    type=click.Choice(["pooled", "projected", "unit"]),
    help="What the head reads: the class token after the last norm, CLIP's embedding of it, or "
    "that divided by its length. Default: by the head's width.",
)
@click.option("--heads", type=click.IntRange(1), help="Attention heads. Default: by the width.")
@click.option(
    "--activation",
    type=click.Choice(["gelu", "quick_gelu"]),
    help="Default: what a settings file says, else quick_gelu, as OpenAI's CLIP has it.",
)
@click.option(
    "--lora-alpha",
    type=Number(0, min_open=True),
    help="Of low-rank updates that are not merged yet: each is scaled by A / rank.",
)
@click.option("--invert", is_flag=True, help="The logit, or the second of two, is of real images.")
@click.option(
    "--resize",
    metavar="SIDE[:FILTER]",
    help="What pictures went through before their centre was cut: 256 brings the shorter side to "
    "256 pixels, 224x224 both; by bicubic, or 256:bilinear, which is torchvision's own. Default: "
    "nothing.",
)
@click.option(
    "--normalise",
    type=click.Choice(["clip", "imagenet"]),
    default="clip",
    show_default=True,
    help="By whose mean and standard deviation pixels were.",
)
@click.option("--keep", default="all", show_default=True, help="Cells kept at inference.")
@click.option(
    "--stored",
    type=click.Choice(["float32", "int8", "int6"]),
    default="float32",
    show_default=True,
    help="How matrices are stored, with one scale a row; float32 gives the source's own logits.",
)
@click.option("--overwrite", is_flag=True, help="Replace a detector that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    sources: tuple[Path, ...],
    out: Path,
    stored: Any,
    overwrite: bool,
    as_json: bool,
    resize: str | None,
    normalise: Any,
    **settings: Any,
) -> None:
    """Make a detector of SOURCE: a checkpoint, a model's folder, or several that are one model.

    Takes CLIP's vision transformers with a linear head of one or two logits: heads alone over a
    frozen tower, towers that were tuned whole, by low-rank updates (LoRA) or by residuals (Effort),
    by the names of open_clip, OpenAI, transformers and timm. What was recognised and assumed is
    printed. Nothing but tensors is read of a file.
    """
    from mpft_deploy.detector import require_train_extra

    require_train_extra()
    from mpft_deploy.cli.options import hold
    from mpft_deploy.detector.importing.assemble import Request
    from mpft_deploy.detector.importing.publish import import_detector
    from mpft_deploy.detector_folder import OUTPUT

    request = Request(sources, scaling=_scaling(resize), normalisation=normalise, **settings)
    hold(out, OUTPUT, sources, replace=overwrite)
    imported = import_detector(
        request,
        out,
        stored=stored,
        overwrite=overwrite,
        say=lambda text: click.echo(text, err=True),
    )
    spec = imported.spec
    if as_json:
        arch = spec.architecture.name
        click.echo(json.dumps({"detector": str(out), "architecture": arch, "told": imported.told}))
        return
    click.echo(f"{out}: {spec.architecture.name}, {spec.crop.size} pixels, {spec.keep}")
    for line in imported.told:
        click.echo(f"  {line}")


def _scaling(text: str | None) -> Any:
    """`--resize`, as a `Scaling`."""
    from mpft_deploy.spec import Scaling

    if text is None:
        return None
    found = SCALING.fullmatch(text)
    if found is None or (found[2] and found[1] != found[2]) or not 1 <= int(found[1]) <= 2**12:
        raise click.BadParameter(
            f"{text!r}: write pixels such as 256, 224x224 or 256:bilinear, at most 4096",
            param_hint="--resize",
        )
    return Scaling(
        side=int(found[1]),
        filter=found[3] or "bicubic",  # type: ignore[arg-type]  # narrowed by the pattern
        square=bool(found[2]),
    )

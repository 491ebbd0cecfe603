"""`mpft inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mpft_deploy.cli.options import PATH


@click.command()
@click.argument("folder", type=PATH)
@click.option("--reseal", is_flag=True, help="Accept a detector's files as they are now, edited.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(folder: Path, reseal: bool, as_json: bool) -> None:
    """Show what a detector or a bundle holds, after verifying its files.

    After editing a detector's model card on purpose, --reseal writes its hashes again.
    """
    from mpft_deploy import bundle, detector_folder
    from mpft_deploy.cli.console import emit_json
    from mpft_deploy.errors import UsageError
    from mpft_deploy.kinds import find_kind

    if find_kind(folder) == "bundle":
        if reseal:
            raise UsageError("--reseal is for detectors; export a bundle again instead")
        record, rows = _bundle(bundle.read_bundle(folder))
    else:
        if reseal:
            detector_folder.reseal_detector(folder)
        record, rows = _detector(detector_folder.read_detector(folder))
    if as_json:
        emit_json(record)
    else:
        _print(folder, rows)


def _spec_rows(spec: Any) -> list[list[str]]:
    scaling = spec.crop.scaling
    scaled = f" after scaling to {scaling} ({scaling.filter})" if scaling else ""
    calibrations = {"calibration": spec.calibration, "of streams": spec.stream}
    return [
        ["backbone", f"{spec.architecture.name}, blocks 0 to {spec.depth - 1}"],
        ["input", f"views of {spec.crop.size}{scaled}, cells of {spec.patch}"],
        ["trained on", f"{spec.train_keep} ({spec.fill})"],
        ["looks at", f"{spec.keep}: {spec.tokens} of {spec.cells} cells"],
        *(
            [
                name,
                f"views {one.views}, shift {one.shift:.4g}, scale {one.scale:.4g}, threshold "
                f"{one.threshold:g}, unsure {one.unsure[0]:g} to {one.unsure[1]:g}",
            ]
            for name, one in calibrations.items()
            if one is not None
        ),
    ]


def _detector(detector: Any) -> tuple[dict[str, Any], list[list[str]]]:
    from mpft_deploy.engine.native import PRECISIONS
    from mpft_deploy.engine.published import find_published

    parameters = sum(value.size for value in detector.weights.values())
    published, reason = find_published(detector, detector.spec.keep)
    compared = {name: published.compare(detector, name) for name in PRECISIONS} if published else {}
    record = {
        "kind": "detector",
        "spec": detector.spec,
        "parameters": parameters,
        "golden": len(detector.golden.logits),
        "certificate": compared,
        "seal": detector.seal,
    }
    rows = [
        ["kind", "detector"],
        *_spec_rows(detector.spec),
        ["parameters", f"{parameters / 1e6:.1f} million"],
        ["golden crops", str(len(detector.golden.logits))],
        *(
            [
                f"native {name}",
                f"changes {one.flips} of {one.images} verdicts, of all at most "
                f"{one.flip_bounds[1]:.2%} at 95 % confidence",
            ]
            for name, one in compared.items()
        ),
        *([["certificate", reason]] if reason else []),
        ["seal", detector.seal],
    ]
    return record, rows


def _bundle(bundle: Any) -> tuple[dict[str, Any], list[list[str]]]:
    from mpft_deploy.cli.console import certificate_rows, latency_rows
    from mpft_deploy.signing import signer_name

    info, certificate = bundle.info, bundle.certificate
    record = {
        "info": info,
        "certificate": certificate,
        "latency": bundle.latency,
        "seal": bundle.seal,
        "signature": bundle.signature,
    }
    signer = signer_name(bundle.signature) if bundle.signature is not None else None
    rows = [
        ["kind", "bundle"],
        ["engine", f"{info.backend}, {info.precision}, {len(bundle.engine) / 1e6:.1f} MB"],
        ["weights", f"{info.precision.weights}; other matmuls {info.precision.rest}"],
        ["activations", _activations(info)],
        ["built on", f"{info.device} ({info.device.machine}, {info.device.system})"],
        *([["for", f"SM {', '.join(info.compute_capability)}"]] if info.compute_capability else []),
        ["versions", " ".join(f"{name} {version}" for name, version in info.versions.items())],
        *_spec_rows(info.spec),
        *certificate_rows(certificate),
        *latency_rows(bundle.latency),
        ["signature", f"by {signer} (verify checks it)" if signer else "none"],
        ["seal", bundle.seal],
    ]
    return record, rows


def _activations(info: Any) -> str:
    how = info.precision.activations
    scaled = "in float" if how == "none" else f"8 bits, {how}"
    fitted = info.sources.get("calibrated_on")
    return (
        scaled
        + (f", fitted to {fitted}" if fitted else "")
        + ("; a view's logit depends on its batch" if info.mixes_views else "")
    )


def _print(folder: Path, rows: list[list[str]]) -> None:
    from mpft_deploy.cli.console import table
    from mpft_deploy.files import display

    table(display(folder), ["", ""], rows)

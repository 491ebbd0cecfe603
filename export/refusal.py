"""Which engines are written without being asked for in so many words, and why others are not."""

from __future__ import annotations

from mpft_deploy.bundle import Certificate, Precision


def may_be_written(certificate: Certificate) -> bool:
    """Whether an engine is written without being asked for in so many words.

    Its smoke test passed, and its budget was kept, or there were no images to judge it by: then
    the bundle says that nothing is proven.
    """
    return not certificate.smoke_faults and certificate.answer in ("kept", "unproven")


def refusal(certificate: Certificate, precision: Precision, worst: int = 8) -> str:
    """Why an engine was refused, with the images that it changed most."""
    lines = ["the engine was not written:"]
    lines += [f"  {reason}" for reason in certificate.reasons]
    shown = certificate.images
    if shown is not None and shown.not_finite:
        lines.append(f"  {shown.not_finite} of {shown.images} logits on images are not finite")
    if shown is not None and shown.flipped:
        lines.append("  flipped, worst first:")
        lines += [
            f"    {_shown(flip.reference_logit)} → {_shown(flip.engine_logit)}  {flip.image}"
            for flip in shown.flipped[:worst]
        ]
    how = (
        "Take a wider --precision (twice, wide), allow a "
        if precision.activations == "dynamic per token"
        else "Keep some layers in float (--float-layers '*.mlp.c_proj'), use --precision fp32, "
        "allow a "
    )
    if certificate.answer == "undecided" and not certificate.smoke_faults:
        how = "Judge it on more --images, allow a "
    return "\n".join(
        [*lines, f"{how}larger --budget, or write it all the same with --allow-unproven."]
    )


def _shown(logit: float | None) -> str:
    return "not finite" if logit is None else f"{logit:+.3f}"

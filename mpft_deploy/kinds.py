"""What a folder is that is not what was asked for, and the way from there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.files import display
from mpft_deploy.sealed import MANIFESTS, open_folder


def find_kind(path: Path) -> str:
    """Of MANIFESTS, what a folder is that may be a bundle or a detector.

    Raises:
        InputError: it is neither.
        UsageError: it is known to be something else.
    """
    for kind, manifest in MANIFESTS.items():
        if (path / manifest).exists():
            return kind
    refuse_other_kind(path, "detector")
    with open_folder(path, "bundle or detector"):
        manifests = " and no ".join(MANIFESTS.values())
        raise InputError(
            f"{display(path)} is neither a bundle nor a detector: no {manifests} in it"
        )


def refuse_other_kind(path: Path, wanted: str) -> None:
    """Raise a UsageError for a path that is no bundle or detector, but is known to be something.

    Args:
        wanted: of MANIFESTS.
    """
    try:
        if (path / MANIFESTS[wanted]).exists():
            return
        found = next(filter(None, (look(path, wanted) for look in _LOOKS)), None)
    except OSError:  # whoever reads it says what can be said
        return
    if found is not None:
        raise UsageError(f"{display(path)} {found}")


def _is_the_other(path: Path, wanted: str) -> str | None:
    other = "detector" if wanted == "bundle" else "bundle"
    if not (path / MANIFESTS[other]).exists():
        return None
    if wanted == "bundle":
        return (
            "is a detector, not a bundle: export it first with "
            f"mpft-export {display(path)} DIR, then name DIR"
        )
    return "is a bundle, not a detector: name the detector that it was exported from"


def _is_a_file(path: Path, wanted: str) -> str | None:
    if not path.is_file():
        return None
    if (path.parent / MANIFESTS[wanted]).exists():
        return f"is a file of a {wanted}: name its folder, {display(path.parent)}"
    return f"is a file, and a {wanted} is a folder"


def _is_beside_it(path: Path, wanted: str) -> str | None:
    """Folders that training and the search of an engine leave beside what they write."""
    whose = {".run": "the run of a training", ".search": "what a search measured"}.get(path.suffix)
    if whose is None or not path.is_dir():
        return None
    result = path.with_suffix("")
    if (result / MANIFESTS[wanted]).exists():
        return f"is {whose}, not a {wanted}: name what came of it, {display(result)}"
    return f"is {whose}, which has not come to a {wanted} yet: go on with that command"


def _holds_results(path: Path, wanted: str) -> str | None:
    if (path / "predictions.parquet").exists():
        return f"holds results of mpft eval, not a {wanted}"
    if any(path.glob("*/config.pbtxt")) or (path / "config.pbtxt").exists():
        return (
            f"is for Triton Inference Server, which serves it; for a {wanted} leave out "
            "--layout triton"
        )
    return None


def _holds_one(path: Path, wanted: str) -> str | None:
    inside = sorted(found.parent for found in path.glob(f"*/{MANIFESTS[wanted]}"))
    if not inside:
        return None
    names = ", ".join(map(display, inside[:3])) + (", …" if len(inside) > 3 else "")
    return f"is no {wanted}, but holds some: name one, such as {names}"


def _holds_images(path: Path, wanted: str) -> str | None:
    from mpft_deploy.finding import IMAGE_SUFFIXES

    if not path.is_dir():
        return None
    if any(found.suffix.lower() in IMAGE_SUFFIXES for found in path.iterdir()):
        return f"holds images, not a {wanted}"
    return None


_LOOKS: tuple[Callable[[Path, str], str | None], ...] = (
    _is_the_other,
    _is_a_file,
    _is_beside_it,
    _holds_results,
    _holds_one,
    _holds_images,
)

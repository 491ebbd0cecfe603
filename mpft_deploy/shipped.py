"""What came with this installation: its version, the commit it was built from, and the detector."""

from __future__ import annotations

import importlib
from pathlib import Path

import mpft_deploy
from mpft_deploy.errors import EnvironmentLacksError, MpftError
from mpft_deploy.files import display

NAME = "mpft-vit-b16"


def shipped_detector() -> Path:
    """The folder of the detector that comes with the package, or lies in its checkout."""
    package = Path(mpft_deploy.__file__).parent
    for folder in (package / "models" / NAME, package.parent / "models" / NAME):
        if folder.is_dir():
            return folder
    raise EnvironmentLacksError(
        "this installation has no detector: install mpft-deploy again, or name a bundle by --bundle"
    )


def shipped_seal() -> str:
    """Its seal, as its manifest says, with nothing verified."""
    from mpft_deploy.detector_folder import KIND, VERSION
    from mpft_deploy.sealed import read_manifest

    seal: str = read_manifest(shipped_detector(), version=VERSION, kind=KIND)["seal"]
    return seal


def build_commit() -> str:
    """The commit that the installation was built from, "" where that is not known.

    CMake writes it; an installation without a compiler, or of an archive, has none.
    """
    try:
        commit: str = importlib.import_module("mpft_deploy._commit").COMMIT
    except ImportError:
        return ""
    return commit


def version_text() -> str:
    """What `mpft --version` tells, in a line each."""
    try:
        seal, where = shipped_seal(), f", in {display(shipped_detector())}"
    except MpftError:
        seal, where = "none that can be read", ""
    return (
        f"mpft, version {mpft_deploy.__version__}\n"
        f"built from commit {build_commit() or 'unknown'}\n"
        f"detector {NAME}, seal {seal}{where}"
    )

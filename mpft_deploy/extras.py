"""How to get what an extra names, in a command that works where it is read.

No index has the package `mpft-deploy`: whoever has a checkout installs from there, and whoever was
given a wheel installs the packages that the extra stands for.
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from urllib.parse import urlsplit

from mpft_deploy.errors import EnvironmentLacksError

NAME = "mpft-deploy"


def require(extra: str, what: str, *modules: str) -> None:
    """An EnvironmentLacksError that names the remedy unless an extra's modules are installed.

    Args:
        what: needs them, for people.
        modules: that can be imported where the extra is installed.
    """
    if missing := [name for name in modules if importlib.util.find_spec(name) is None]:
        raise EnvironmentLacksError(f"{what} needs {', '.join(missing)}: {how_to_install(extra)}")


def how_to_install(extra: str) -> str:
    """ "run `pip install …`", for the end of a message on a missing package."""
    folder, editable = _checkout()
    if folder is not None:
        return f"run `pip install {'-e ' if editable else ''}'.[{extra}]'` in {folder}"
    return f"run `pip install {' '.join(map(repr, _packages(extra)))}`"


def _checkout() -> tuple[Path | None, bool]:
    """The folder that this was installed from, if it is there, and whether it is used in place."""
    from importlib import metadata
    from urllib.request import url2pathname

    try:
        text = metadata.distribution(NAME).read_text("direct_url.json")
        source = json.loads(text or "{}")
    except metadata.PackageNotFoundError:  # imported from a checkout that was never installed
        source = {"url": Path(__file__).parents[1].as_uri(), "dir_info": {}}
    folder = Path(url2pathname(urlsplit(source.get("url", "")).path))
    if "dir_info" not in source or not (folder / "pyproject.toml").is_file():
        return None, False
    return folder, bool(source["dir_info"].get("editable"))


def _packages(extra: str) -> list[str]:
    """Requirements of an extra, and of the extras that it names."""
    from importlib import metadata

    found: list[str] = []
    for line in metadata.requires(NAME) or ():
        wanted, _, marker = line.partition(";")
        if not re.search(rf"""\bextra\s*==\s*["']{re.escape(extra)}["']""", marker):
            continue
        own = re.fullmatch(rf"{NAME}\[(.*)\]", wanted.strip())
        for part in own[1].split(",") if own else ():
            found += _packages(part.strip())
        found += [] if own else [wanted.strip()]
    return found

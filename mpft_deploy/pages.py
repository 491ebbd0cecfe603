"""Reports as pages: HTML that needs no other file and no network."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING

from mpft_deploy.files import printable

if TYPE_CHECKING:
    from jinja2 import Environment


def templates_beside(module: str) -> Environment:
    """The templates of a module's folder; what they are given is escaped, and must be there.

    Beside Jinja's own filters they have `printable`, and `data_uri` of a JPEG file's bytes.

    Args:
        module: its `__file__`.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(module).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["printable"] = printable
    environment.filters["data_uri"] = lambda jpeg: (
        "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
    )
    return environment

"""Option types that commands share."""

from __future__ import annotations

from pathlib import Path

import click

PATH = click.Path(path_type=Path, readable=False)
"""A path; whether it can be read is found out, and told, where it is read."""

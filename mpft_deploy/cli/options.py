"""Option types that commands share."""

from __future__ import annotations

from pathlib import Path

import click

PATH = click.Path(path_type=Path, readable=False)
"""A path; whether it can be read is found out, and told, where it is read."""


def parse_decode(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> str | float | None:
    """Callback of an option: "all", "keyframes", or a number above 0."""
    if value is None or value in ("all", "keyframes"):
        return value
    try:
        rate = float(value)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise click.BadParameter(f"{value!r}: write all, keyframes, or frames a second such as 5")
    return rate

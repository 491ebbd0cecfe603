"""Option types that commands share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpft_deploy.cores import check_threads
from mpft_deploy.errors import UsageError

if TYPE_CHECKING:
    from mpft_deploy.standing import Kind


class Place(click.Path):
    """A path that is not empty; whether it can be read is found out, and told, where it is read.

    Of a shell's unset variable "" is left, which Python takes for the folder at hand.
    """

    def __init__(self, path_type: type[Any] = Path, *, allow_dash: bool = False) -> None:
        super().__init__(path_type=path_type, readable=False, allow_dash=allow_dash)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the path is empty; write . for the folder you are in.", param, ctx)
        return super().convert(value, param, ctx)


PATH = Place()

VIEWS = click.Choice(["centre", "moving", "three", "five", "grid"])
"""`mpft_deploy.spec.ViewPolicy`, without importing it."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message on an unknown word: " Did you mean …?", or nothing if none is near."""
    from difflib import get_close_matches

    near = get_close_matches(word, list(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""


class Number(click.FloatRange):
    """A float option within bounds; unlike Click's own it refuses what is no finite number."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number


class Span(click.FloatRange):
    """A time such as 90, 90s, 10m, 1h or 1d, in seconds."""

    def __init__(self) -> None:
        super().__init__(0, min_open=True)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        from mpft_deploy.screen.streams.settings import UNITS

        number, unit = (value[:-1], UNITS[value[-1]]) if value[-1:] in UNITS else (value, 1)
        try:
            seconds = float(number) * unit
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            self.fail(f"{value!r} is no time; write 90s, 10m, 1h or 1d.", param, ctx)
        return seconds


class Threads(click.IntRange):
    """Threads of an engine: 0, for all cores, up to `cores.most_threads`."""

    def __init__(self) -> None:
        super().__init__(0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        threads = int(super().convert(value, param, ctx))
        try:
            check_threads(threads)
        except UsageError as error:
            self.fail(str(error), param, ctx)
        return threads


def hold(
    target: Path, kind: Kind, inputs: Iterable[Path | None] = (), *, replace: bool = True
) -> None:
    """Try the place of an output before the work and hold it until the command ends.

    Raises:
        UsageError, EnvironmentLacksError: as `mpft_deploy.outputs.reserve`.
    """
    from mpft_deploy.outputs import reserve

    place = reserve(target, kind, replace=replace, inputs=filter(None, inputs))
    click.get_current_context().with_resource(place)


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

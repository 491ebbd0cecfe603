"""Commands in pages are ones that the programs know, with the options that they have."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mpft_deploy.cli.main import COMMANDS, cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "kernels/*/README.md", "deploy/systemd/*")
    for path in ROOT.glob(pattern)
    if path.is_file() and path.name != "CHANGELOG.md"
)
FOREIGN = (
    *("--exportProfile", "--dynamicPlugins", "--hours", "--build-arg"),
    *("--fmad", "--ftz", "--prec-div", "--prec-sqrt"),
)
"""Options of other programs, which pages name without them."""


def commands(text: str) -> Iterator[str]:
    """Commands of ours in blocks and within sentences, without what a shell does with them."""
    text = text.replace("\\\n", " ")
    program = r"(?:mpft|mpft-export|make|python) "
    blocks = re.findall(rf"^(?:    (?:\w+=\S+ )*|ExecStart=\S*/)({program}.*)$", text, re.MULTILINE)
    sentences = re.sub(r"```.*?```", "", text, flags=re.DOTALL).replace("\n", " ")
    spans = re.findall(rf"`({program}[^`]*)`", sentences)
    named = [
        re.sub(r"(\w .*? --[\w-]+)$", r"\1 X", span) for span in spans
    ]  # of an option, no value
    for command in [*blocks, *named]:
        yield re.sub(r"\s+#.*| [>|] .*", "", command).translate(str.maketrans("", "", "[]\\"))


def check(command: str) -> None:
    """Raise what Click raises, or AssertionError, if a command cannot be given so."""
    program, *words = shlex.split(command)
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        named = [word for word in words if "=" not in word]
        assert set(named) <= set(targets), command
    elif program == "python":
        if words[0].startswith("-"):
            return
        script = (ROOT / words[0]).read_text(encoding="utf-8")
        for option in (word for word in words if word.startswith("--")):
            assert option in script, command
    else:
        if program == "mpft-export":
            words.insert(0, "export")
        parse(cli, words)


def parse(group: click.Command, words: list[str]) -> None:
    """Take a command's words apart as Click does, without running anything."""
    context = click.Context(group)
    options, rest, _ = group.make_parser(context).parse_args(list(words))
    for parameter in group.params:
        value = options.get(parameter.name or "")
        if isinstance(parameter.type, click.Choice) and isinstance(value, str) and value.islower():
            parameter.type.convert(value, parameter, context)
    if isinstance(group, click.Group) and rest:
        if group is cli:
            assert rest[0] in COMMANDS, rest[0]
        command = group.get_command(context, rest[0])
        if command is not None:
            parse(command, rest[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_can_be_given_as_written(page: Path) -> None:
    for command in commands(page.read_text(encoding="utf-8")):
        check(command)


@pytest.mark.parametrize(
    "command",
    [
        "mpft scren photo.jpg",
        "mpft screen photo.jpg --reprot report.html",
        "mpft-export detector out --precission int8",
        "mpft calibrate detector photos --views threee",
        "make bnech",
        "python examples/folds.py draw --no-such",
    ],
)
def test_a_mistyped_command_is_found(command: str) -> None:
    with pytest.raises((click.UsageError, AssertionError)):
        check(command)


def test_commands_are_found_where_they_stand() -> None:
    text = "See `mpft screen A\nB` or\n\n    mpft-export a b  \\\n        --sign key   # signed\n"
    assert list(commands(text)) == ["mpft-export a b           --sign key", "mpft screen A B"]


def every_option(command: click.Command) -> Iterator[str]:
    """All options of a command and of its own commands."""
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from every_option(inner)


def test_options_that_pages_name_are_there() -> None:
    known = {*every_option(cli), *FOREIGN, "--help", "--version"}
    for page in (one for one in PAGES if "kernels" not in one.parts):  # those name compilers'
        spans = re.findall(r"`(--[a-z][\w-]*)[^`]*`", page.read_text(encoding="utf-8"))
        assert [option for option in spans if option not in known] == [], page

"""The `mpft` command and its sub-commands, loaded only when they are asked for."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import click

from mpft_deploy.cli import signals, standard
from mpft_deploy.cli.options import did_you_mean
from mpft_deploy.cli.signals import Interrupted
from mpft_deploy.errors import EnvironmentLacksError, InputError, MpftError
from mpft_deploy.files import display, printable_lines

# name → (module, what it does in a line). A new command is one file and one line here.
COMMANDS = {
    "train": ("train", "Teach a CLIP backbone's head, or fine-tune it, into a detector."),
    "import": ("import_", "Make a detector of others' weights: CLIP's tower, a linear head."),
    "eval": ("eval", "Measure how well it tells images apart, with tables and a report."),
    "calibrate": ("calibrate", "Set a detector's probabilities and threshold on your images."),
    "export": ("export", "Build a verified engine for this device."),
    "certify": ("certify", "Measure once what engines change, for all bundles of a detector."),
    "verify": ("verify", "Prove a bundle on this device against the trained model."),
    "keygen": ("keygen", "Make a key pair to sign bundles with."),
    "inspect": ("inspect", "Show what a detector or a bundle holds."),
    "screen": ("screen", "Tell generated images from real ones: files and live streams."),
    "cameras": ("cameras", "Find the cameras of the local network."),
    "evidence": ("evidence", "Show and verify what was kept around a stream's verdict."),
    "profile": ("profile", "Measure a bundle's latency."),
    "doctor": ("doctor", "Check what this machine can do, and what it lacks."),
    "kernels": ("kernels", "List the versions of each kernel and the ones chosen here."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module only to run it or to show its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"mpft_deploy.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and name not in COMMANDS:
            raise click.UsageError(f"No such command {name!r}.{did_you_mean(name, COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _tell_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    """Print the version and what was shipped with it, and end."""
    if asked and not context.resilient_parsing:
        from mpft_deploy.shipped import version_text

        click.echo(version_text())
        context.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_tell_version,
    help="Tell version, commit, and the shipped detector's seal and folder.",
)
def cli() -> None:
    """Deploy detectors of AI-generated images: export, verify, screen, profile.

    Exit codes: 0 fine; 1 the answer is no (a gate failed, an input could not be read);
    2 wrong usage; 3 this machine lacks something.
    """


def run(command: click.Command, name: str, arguments: list[str]) -> int:
    """Run a command and return its exit code; errors become one line, or JSON under --json."""
    code = _answer(command, name, arguments)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    lost = standard.lost_output()
    if lost is None:
        return code
    if isinstance(lost, BrokenPipeError):  # the reader has seen enough: no failure of ours
        return 0
    reason = "it is closed" if lost.errno == errno.EBADF else lost.strerror
    click.echo(f"error: standard output cannot be written: {reason}", err=True)
    return EnvironmentLacksError.exit_code


def _answer(command: click.Command, name: str, arguments: list[str]) -> int:
    try:
        result: Any = command.main(arguments, prog_name=name, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        return _fail(error.format_message(), 2, arguments, error)
    except MpftError as error:
        return _fail(str(error), error.exit_code, arguments)
    except Interrupted as stop:
        return _fail(f"interrupted; {stop.remark}", stop.exit_code, arguments)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", 130, arguments)
    except MemoryError as error:
        text = f"this machine has too little memory for that: {error or 'no more can be had'}"
        return _fail(text, EnvironmentLacksError.exit_code, arguments)
    except OSError as error:
        if error is standard.lost_output():
            return EnvironmentLacksError.exit_code
        return _fail(_os_text(error), InputError.exit_code, arguments)
    except SystemExit:
        if standard.lost_output() is None:
            raise
        return EnvironmentLacksError.exit_code  # so Click and Rich end when nothing can be written


def _os_text(error: OSError) -> str:
    """Of what a system refused, such as a path that this user may not even ask about."""
    if error.filename is not None:
        return f"{display(error.filename)}: {error.strerror or error}"
    try:
        Path.cwd()
    except FileNotFoundError:
        return "the folder that you are in was removed: go to another"
    return error.strerror or str(error)


def _fail(
    message: str, code: int, arguments: list[str], error: click.ClickException | None = None
) -> int:
    shown = io.StringIO()
    if error is not None:
        error.show(shown)
    else:
        shown.write(f"error: {printable_lines(message)}\n")
    text = shown.getvalue()
    if _names_an_address(arguments):
        from mpft_deploy.screen.streams.address import redact_text

        message, text = redact_text(message), redact_text(text)
    if "--json" in arguments:
        with contextlib.suppress(OSError):
            click.echo(json.dumps({"error": message, "exit_code": code}))
        if standard.lost_output() is None:
            return code
    click.echo(text, err=True, nl=False)
    return code


def _names_an_address(arguments: list[str]) -> bool:
    return any("://" in argument or argument.startswith("gst:") for argument in arguments)


def _hide_secrets(arguments: list[str]) -> None:
    """Take the secrets of addresses out of the process's title, before anything else."""
    if _names_an_address(arguments):
        from mpft_deploy.screen.streams.conceal import hide_arguments

        hide_arguments(arguments)


def main() -> None:
    """The command `mpft`, in a process of its own."""
    _main(cli, "mpft")


def export_main() -> None:
    """`mpft-export`: `mpft export` under the name its users know."""
    from mpft_deploy.cli.export import command

    _main(command, "mpft-export")


def _main(command: click.Command, name: str) -> None:
    try:
        signals.raise_interrupts()
        _hide_secrets(sys.argv[1:])
        standard.prepare()
        code = run(command, name, sys.argv[1:])
        signals.end_at_once()  # what is left is to leave
    except Interrupted as stop:  # outside of any command's work
        code = stop.exit_code
    sys.exit(code)

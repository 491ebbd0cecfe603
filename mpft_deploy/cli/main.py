"""The `mpft` command and its sub-commands, loaded only when they are asked for."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import click

from mpft_deploy import __version__
from mpft_deploy.errors import InputError, MpftError
from mpft_deploy.files import display

# name → (module, what it does in a line). A new command is one file and one line here.
COMMANDS = {
    "train": ("train", "Fine-tune a detector from a CLIP backbone."),
    "eval": ("eval", "Measure how well it tells images apart, with tables and a report."),
    "calibrate": ("calibrate", "Set a detector's probabilities and threshold on your images."),
    "export": ("export", "Build a verified engine for this device."),
    "verify": ("verify", "Prove a bundle on this device against the trained model."),
    "keygen": ("keygen", "Make a key pair to sign bundles with."),
    "inspect": ("inspect", "Show what a detector or a bundle holds."),
    "screen": ("screen", "Tell generated images from real ones: files and live streams."),
    "profile": ("profile", "Measure a bundle's latency."),
    "doctor": ("doctor", "Check what this machine can do, and what it lacks."),
    "kernels": ("kernels", "List the versions of the patch kernel and the one chosen here."),
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

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mpft")
def cli() -> None:
    """Deploy detectors of AI-generated images: export, verify, screen, profile.

    Exit codes: 0 fine; 1 the answer is no (a gate failed, an input could not be read);
    2 wrong usage; 3 this machine lacks something.
    """


def run(command: click.Command, name: str, arguments: list[str]) -> int:
    """Run a command and return its exit code; errors become one line, or JSON under --json."""
    try:
        result: Any = command.main(arguments, prog_name=name, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        return _fail(error.format_message(), 2, arguments, error)
    except MpftError as error:
        return _fail(str(error), error.exit_code, arguments)
    except OSError as error:
        # A path that this user may not even ask about, wherever it was asked.
        where = f"{display(error.filename)}: " if error.filename is not None else ""
        return _fail(f"{where}{error.strerror or error}", InputError.exit_code, arguments)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted; nothing half-written was left behind", 130, arguments)
    except SystemExit as stop:
        # So Click and Rich end when the reader of our output has left: no failure of ours.
        if stop.code == 1:
            return 0
        raise


def _fail(
    message: str, code: int, arguments: list[str], error: click.ClickException | None = None
) -> int:
    if "--json" in arguments:
        click.echo(json.dumps({"error": message, "exit_code": code}))
    elif error is not None:
        error.show()
    else:
        click.echo(f"error: {message}", err=True)
    return code


def main() -> None:
    """Entry point of `mpft`."""
    sys.exit(run(cli, "mpft", sys.argv[1:]))


def export_main() -> None:
    """Entry point of `mpft-export`: `mpft export` under the name its users know."""
    from mpft_deploy.cli.export import command

    sys.exit(run(command, "mpft-export", sys.argv[1:]))

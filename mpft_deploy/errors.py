"""Errors that a person can act on, each with the exit code that a command ends with.

The message says what happened, to which file, and what to do next. Commands print it as one line
and never show a traceback for one of these.
"""


class MpftError(Exception):
    """The answer is no: a gate failed or an input could not be read."""

    exit_code = 1


class InputError(MpftError):
    """A file that was given cannot be used: damaged, altered, unsupported or unreadable."""


class GateError(MpftError):
    """A check that guards an output said no, such as a certificate over its budget."""


class UsageError(MpftError):
    """The command or call was put wrongly: an unknown name, a value out of range."""

    exit_code = 2


class EnvironmentLacksError(MpftError):
    """This machine lacks something that the request needs: a package, a driver, disk space."""

    exit_code = 3

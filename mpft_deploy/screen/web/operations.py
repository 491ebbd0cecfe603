"""What marks a method as an operation of the API; `routes` makes routes and OpenAPI of them.

A method takes the parameters of path and query by their names, and what it names of these: `body`,
a struct of JSON; `user`, who asks; `headers` of the request; `still`, a function that tells whether
he still may; `note`, one that tells the audit log what he did, and to what. It returns what becomes
JSON, or an answer of its own. Plain methods run in a thread, since they may wait; coroutines must
not.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar, get_args, get_type_hints

import msgspec

from mpft_deploy.errors import UsageError
from mpft_deploy.screen.tell.config import Role

JSON = "application/json"

ROLES: tuple[Role, ...] = get_args(Role)
"""Each may do what those before may."""

GIVEN = frozenset({"body", "user", "headers", "still", "note"})
"""Names of parameters that are not of path and query."""

Note: TypeAlias = Callable[[str, str], None]

T = TypeVar("T", bound=Callable[..., Any])


class MissingError(UsageError):
    """There is no such thing: status 404."""


class User(msgspec.Struct, frozen=True):
    """Who asks."""

    name: str
    role: Role


@dataclass(frozen=True)
class Operation:
    """A method, and where it is found.

    Attributes:
        media: what it answers with.
        role: who may, at least.
        told: what the audit log says was done to the source, where it is always the same.
    """

    method: str
    path: str
    media: str
    role: Role
    told: str
    call: Callable[..., Any]

    @property
    def types(self) -> dict[str, Any]:
        """Of the parameters, and of the answer as "return"."""
        return get_type_hints(self.call, include_extras=True)

    @property
    def parameters(self) -> type[msgspec.Struct]:
        """Those of path and query, as a struct."""
        types, fields = self.types, list[Any]()
        for name, one in inspect.signature(self.call).parameters.items():
            if name not in GIVEN:
                default = () if one.default is one.empty else (one.default,)
                fields.append((name, types[name], *default))
        return msgspec.defstruct("Parameters", fields, forbid_unknown_fields=True)


@contextlib.contextmanager
def at_most(places: threading.Lock | threading.Semaphore, why: str) -> Iterator[None]:
    """Take a place meanwhile; a UsageError if none is free: visitors must not take all threads."""
    if not places.acquire(blocking=False):
        raise UsageError(why)
    try:
        yield
    finally:
        places.release()


def operation(
    method: str, path: str, media: str = JSON, role: Role = "viewer", told: str = ""
) -> Callable[[T], T]:
    """Mark a method as an operation; its docstring describes it."""

    def mark(call: T) -> T:
        call.__dict__["operation"] = Operation(method, path, media, role, told, call)
        return call

    return mark


def operations(apis: Sequence[object]) -> Iterator[Operation]:
    """Of objects, in the order of their classes."""
    for api in apis:
        for name, call in vars(type(api)).items():
            if marked := getattr(call, "operation", None):
                yield replace(marked, call=getattr(api, name))

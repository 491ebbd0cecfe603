"""Operations of an API: methods with typed parameters, made into routes and into OpenAPI.

A method takes what it names of these: `query`, a struct of the parameters in path and query;
`body`, a struct of JSON; `user`, who asks; `still`, a function that tells whether he still may. It
returns what becomes JSON, or an answer of its own. Plain methods run in a thread, since they may
wait; coroutines must not.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mpft_deploy import __version__
from mpft_deploy.screen.tell.config import Role
from mpft_deploy.screen.web.connection import PATIENCE

BODY_BYTES = 16 * 1024
"""Of a request's body; notes are short."""

JSON = "application/json"

ROLES: tuple[Role, ...] = get_args(Role)
"""Each may do what those before may."""

T = TypeVar("T", bound=Callable[..., Any])


class User(msgspec.Struct, frozen=True):
    """Who asks."""

    name: str
    role: Role


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a request, in path and query."""


@dataclass(frozen=True)
class Operation:
    """A method, and where it is found; media: what it answers with; role: who may, at least."""

    method: str
    path: str
    media: str
    role: Role
    call: Callable[..., Any]

    @property
    def types(self) -> dict[str, Any]:
        """Of the parameters, and of the answer as "return"."""
        return get_type_hints(self.call, include_extras=True)


def operation(method: str, path: str, media: str = JSON, role: Role = "viewer") -> Callable[[T], T]:
    """Mark a method as an operation; its docstring describes it."""

    def mark(call: T) -> T:
        call.__dict__["operation"] = (method, path, media, role)
        return call

    return mark


def operations(apis: Sequence[object]) -> Iterator[Operation]:
    """Of objects, in the order of their classes."""
    for api in apis:
        for name, call in vars(type(api)).items():
            if marked := getattr(call, "operation", None):
                method, path, media, role = marked
                yield Operation(method, path, media, role, getattr(api, name))


def routes(apis: Sequence[object], prefix: str) -> list[Route]:
    """Of every operation."""
    return [
        # A source may be called by its address, slashes and all.
        Route(
            prefix + one.path.replace("{source}", "{source:path}"),
            _endpoint(one),
            methods=[one.method],
        )
        for one in operations(apis)
    ]


def as_json(value: object, status: int = 200) -> Response:
    """An answer."""
    return Response(msgspec.json.encode(value), status, media_type=JSON)


def refusal(status: int, why: str) -> Response:
    """An answer that says what is wrong."""
    return as_json({"error": why}, status)


async def read_body(request: Request) -> bytes:
    """A request's body, if it is short and comes in time."""

    async def read() -> bytes:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > BODY_BYTES:
                raise HTTPException(413, f"send {BODY_BYTES} bytes at most")
        return body

    try:
        return await asyncio.wait_for(read(), PATIENCE)
    except asyncio.TimeoutError:
        raise HTTPException(408, "the request took too long", {"Connection": "close"}) from None


def _endpoint(one: Operation) -> Callable[[Request], Any]:
    types = one.types

    async def answer(request: Request) -> Response:
        given: dict[str, Any] = {}
        user = request.scope["user"]
        if ROLES.index(user.role) < ROLES.index(one.role):
            return refusal(403, f"{user.name} is a {user.role}, and this needs a {one.role}")
        try:
            if "query" in types:
                values = {**request.query_params, **request.path_params}
                given["query"] = msgspec.convert(values, types["query"], strict=False)
            if "body" in types:
                given["body"] = msgspec.json.decode(await read_body(request), type=types["body"])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return refusal(400, str(error))
        if "user" in types:
            given["user"] = user
        if "still" in types:
            given["still"] = request.scope["still"]
        if inspect.iscoroutinefunction(one.call):
            result = await one.call(**given)
        else:
            result = await run_in_threadpool(one.call, **given)
        return result if isinstance(result, Response) else as_json(result)

    return answer


def openapi(apis: Sequence[object], prefix: str, title: str) -> dict[str, Any]:
    """OpenAPI 3.1 of objects' operations."""
    kinds = {
        kind
        for one in operations(apis)
        for name, kind in one.types.items()
        if name == "body" or (name == "return" and one.media == JSON)
    }
    order = sorted(kinds, key=repr)
    schemas, components = msgspec.json.schema_components(
        order, ref_template="#/components/schemas/{name}"
    )
    schema_of = dict(zip(order, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for one in operations(apis):
        summary, _, rest = (inspect.getdoc(one.call) or "").partition("\n\n")
        good: dict[str, Any] = {"description": summary}
        if one.media == JSON:
            good["content"] = {JSON: {"schema": schema_of[one.types["return"]]}}
        else:
            good["content"] = {one.media: {}}
        entry: dict[str, Any] = {
            "operationId": one.call.__name__,
            "summary": summary,
            "responses": {"200": good, "default": {"$ref": "#/components/responses/Refusal"}},
        }
        needs = "" if one.role == "viewer" else f"Needs the role {one.role}."
        if told := "\n\n".join(filter(None, (rest, needs))):
            entry["description"] = told
        if "query" in one.types:
            entry["parameters"] = list(_parameters(one))
        if "body" in one.types:
            content = {JSON: {"schema": schema_of[one.types["body"]]}}
            entry["requestBody"] = {"required": True, "content": content}
        paths.setdefault(prefix + one.path, {})[one.method.lower()] = entry
    error = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": __version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {
                "Refusal": {"description": "What is wrong.", "content": {JSON: {"schema": error}}}
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }


def _parameters(one: Operation) -> Iterator[dict[str, Any]]:
    for field in msgspec.structs.fields(one.types["query"]):
        in_path = f"{{{field.encode_name}}}" in one.path
        yield {
            "name": field.encode_name,
            "in": "path" if in_path else "query",
            "required": in_path or field.required,
            "schema": msgspec.json.schema(field.type),
        }

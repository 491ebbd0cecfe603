"""Operations made into routes and into OpenAPI."""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import unquote

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from mpft_deploy import __version__
from mpft_deploy.screen.web.audit import Audit
from mpft_deploy.screen.web.connection import PATIENCE
from mpft_deploy.screen.web.operations import JSON, ROLES, Operation, operations
from mpft_deploy.spec import MALFORMED

PREFIX = "/api/v1"

BODY_BYTES = 16 * 1024
"""Of a request's body; notes are short."""


def routes(apis: Sequence[object], audit: Audit) -> list[Route]:
    return [
        # A source may be called by its address, slashes and all.
        _Route(
            PREFIX + one.path.replace("{source}", "{source:path}"),
            _endpoint(one, audit),
            methods=[one.method],
        )
        for one in operations(apis)
    ]


class _Route(Route):
    """Tells a slash that is written %2F, as part of a name, from those between names."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        path = unquote(re.sub(b"(?i)%2f", b"%00", scope["raw_path"]))
        match, found = super().matches({**scope, "path": path})
        names = found.get("path_params", {})
        names.update({key: name.replace("\0", "/") for key, name in names.items()})
        return match, found


def as_json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type=JSON)


def refusal(status: int, why: str) -> Response:
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
    except ClientDisconnect:
        raise HTTPException(400, "the request was broken off") from None


def _endpoint(one: Operation, audit: Audit) -> Callable[[Request], Any]:
    types, parameters = one.types, one.parameters

    async def answer(request: Request) -> Response:
        user = request.scope["user"]
        if ROLES.index(user.role) < ROLES.index(one.role):
            return refusal(403, f"{user.name} is a {user.role}, and this needs a {one.role}")
        given = {
            "user": user,
            "headers": request.headers,
            "still": request.scope["still"],
            "note": functools.partial(audit.note, user),
        }
        try:
            values = {**request.query_params, **request.path_params}
            asked = msgspec.structs.asdict(msgspec.convert(values, parameters, strict=False))
            if "body" in types:
                given["body"] = msgspec.json.decode(await read_body(request), type=types["body"])
        except MALFORMED as error:
            return refusal(400, str(error))
        call = functools.partial(one.call, **asked, **{k: given[k] for k in given if k in types})
        if inspect.iscoroutinefunction(one.call):
            result = await call()
        else:
            result = await run_in_threadpool(call)
        if one.told:
            thing = str(asked.get("source") or getattr(result, "source", ""))
            await run_in_threadpool(audit.note, user, one.told, thing)
        return result if isinstance(result, Response) else as_json(result)

    return answer


def openapi(apis: Sequence[object]) -> dict[str, Any]:
    """OpenAPI 3.1 of objects' operations."""
    kinds = dict.fromkeys(
        kind
        for one in operations(apis)
        for name, kind in one.types.items()
        if name == "body" or (name == "return" and one.media == JSON)
    )
    schemas, components = msgspec.json.schema_components(
        kinds, ref_template="#/components/schemas/{name}"
    )
    schema_of = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for one in operations(apis):
        text = re.split(r"\n\n(?:Args|Raises):", inspect.getdoc(one.call) or "")[0]
        summary, _, rest = text.partition("\n\n")
        needs = "" if one.role == "viewer" else f"Needs the role {one.role}."
        answer = {"schema": schema_of[one.types["return"]]} if one.media == JSON else {}
        good = {"description": summary, "content": {one.media: answer}}
        entry: dict[str, Any] = {
            "operationId": one.call.__name__,
            "summary": summary,
            "description": "\n\n".join(filter(None, (rest, needs))),
            "parameters": list(_parameters(one)),
            "responses": {"200": good, "default": {"$ref": "#/components/responses/Refusal"}},
        }
        if "body" in one.types:
            content = {JSON: {"schema": schema_of[one.types["body"]]}}
            entry["requestBody"] = {"required": True, "content": content}
        paths.setdefault(PREFIX + one.path, {})[one.method.lower()] = entry
    error = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
    refused = {"description": "What is wrong.", "content": {JSON: {"schema": error}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "mpft screen", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {"Refusal": refused},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }


def _parameters(one: Operation) -> Iterator[dict[str, Any]]:
    for field in msgspec.structs.fields(one.parameters):
        in_path = f"{{{field.name}}}" in one.path
        yield {
            "name": field.name,
            "in": "path" if in_path else "query",
            "required": in_path or field.required,
            "schema": msgspec.json.schema(field.type),
        }

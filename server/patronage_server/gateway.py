"""The one door of the operator's machine: passes on what SuperNodes need, and nothing else.

SuperLink serves nodes, its own processes and whoever starts runs on one port, and asks only nodes who they
are. It therefore listens on the loopback interface alone, and this gateway carries `POST /v1/fleet/...` and
`GET /health` to it. A path is served when it is in a list, whole and by its method; prefixes count nothing.
"""

import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

__all__ = ["OPEN_PATHS", "gateway"]

log = logging.getLogger("patronage.gateway")

FLEET = (
    "activate-node",
    "confirm-message-received",
    "deactivate-node",
    "get-fab",
    "get-run",
    "pull-messages",
    "pull-object",
    "push-messages",
    "push-object",
    "send-node-heartbeat",
)
OPEN_PATHS = {"/health": "GET", **{f"/v1/fleet/{name}": "POST" for name in FLEET}}
"""Path to method. register-node and unregister-node are missing: the operator registers nodes."""

MAX_BODY = 32 * 2**20
"""Flower cuts an array into objects of 5 MiB; a request holds one object."""

HOP_BY_HOP = frozenset(
    {"connection", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "proxy-connection"}
)
TIMEOUT = httpx.Timeout(30.0)


def gateway(superlink: str, authority: str) -> Starlette:
    """The gateway as an ASGI application.

    Args:
        superlink: host and port of SuperLink on this machine.
        authority: file with the certificate authority that signed SuperLink's certificate.
    """
    client = httpx.AsyncClient(
        base_url=f"https://{superlink}",
        verify=ssl.create_default_context(cafile=authority),
        timeout=TIMEOUT,
        limits=httpx.Limits(max_connections=256),
        trust_env=False,
    )

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with client:
            yield

    async def serve(request: Request) -> Response:
        return await _carry(client, request)

    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"]
    return Starlette(routes=[Route("/{path:path}", serve, methods=methods)], lifespan=lifespan)


async def _carry(client: httpx.AsyncClient, request: Request) -> Response:
    path = request.scope["path"]
    if OPEN_PATHS.get(path) != request.method:
        log.warning("refused %s %s from %s", request.method, path, _caller(request))
        return PlainTextResponse("not served here\n", status_code=404)
    forwarded = client.build_request(
        request.method,
        path,
        headers=[(name, value) for name, value in request.headers.items() if name not in HOP_BY_HOP],
        content=_limited(request) if request.method == "POST" else None,
    )
    try:
        answer = await client.send(forwarded, stream=True)
    except _TooLargeError:
        log.warning("refused a body of more than %d bytes from %s", MAX_BODY, _caller(request))
        return PlainTextResponse("body too large\n", status_code=413)
    except ClientDisconnect:
        return PlainTextResponse("gone\n", status_code=400)
    except httpx.TransportError as error:
        log.warning("SuperLink does not answer: %s", str(error) or type(error).__name__)
        return PlainTextResponse("SuperLink is not up\n", status_code=503)  # nodes try again on 503
    headers = {name: value for name, value in answer.headers.items() if name not in HOP_BY_HOP}
    return StreamingResponse(_body(answer), status_code=answer.status_code, headers=headers)


class _TooLargeError(Exception):
    """More than MAX_BODY bytes came."""


async def _limited(request: Request) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY:
            raise _TooLargeError
        yield chunk


async def _body(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        await answer.aclose()


def _caller(request: Request) -> str:
    return request.client.host if request.client else "an unknown address"

"""The gateway over real TLS: it carries what nodes need and nothing else."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from patronage_server.certificates import make_authority, make_server_certificate
from patronage_server.gateway import MAX_BODY, OPEN_PATHS, gateway

CLOSED = (
    ("POST", "/v1/control/list-runs"),
    ("POST", "/v1/control/start-run"),
    ("POST", "/v1/runtime/acquire-task"),
    ("POST", "/v1/fleet/register-node"),
    ("POST", "/v1/fleet/unregister-node"),
    ("POST", "/v1/fleet/%2e%2e/control/list-runs"),
    ("POST", "/v1/fleet/pull-messages/"),
    ("POST", "//v1/fleet/pull-messages"),
    ("GET", "/v1/fleet/pull-messages"),
    ("POST", "/health"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/"),
)


@dataclass
class Upstream:
    """Stands for SuperLink: remembers what it was asked."""

    asked: list[tuple[str, str, bytes]] = field(default_factory=list)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            event = await receive()
            body, more = body + event.get("body", b""), event.get("more_body", False)
        self.asked.append((scope["method"], scope["path"], body))
        headers = [(b"x-flower", b"yes"), (b"content-type", b"application/protobuf")]
        await send({"type": "http.response.start", "status": 207, "headers": headers})
        await send({"type": "http.response.body", "body": b"answer to " + body[:9]})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def served(app: Any, port: int, tls: Path) -> Iterator[None]:
    files = {"ssl_certfile": str(tls / "server.pem"), "ssl_keyfile": str(tls / "server.key")}
    lifespan = "off" if isinstance(app, Upstream) else "on"
    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, log_level="critical", lifespan=lifespan, ws="none", **files
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    now = datetime.now(UTC)
    authority = make_authority("demo", now)
    server = make_server_certificate(authority, ["127.0.0.1"], now)
    (folder / "ca.pem").write_bytes(authority.certificate)
    (folder / "server.pem").write_bytes(server.certificate)
    (folder / "server.key").write_bytes(server.key)
    return folder


@pytest.fixture(scope="module")
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture(scope="module")
def client(tls: Path, upstream: Upstream) -> Iterator[httpx.Client]:
    superlink, door = free_port(), free_port()
    app = gateway(f"127.0.0.1:{superlink}", str(tls / "ca.pem"))
    context = ssl.create_default_context(cafile=str(tls / "ca.pem"))
    base = f"https://127.0.0.1:{door}"
    with (
        served(upstream, superlink, tls),
        served(app, door, tls),
        httpx.Client(base_url=base, verify=context, trust_env=False, timeout=120.0) as client,
    ):
        yield client


@pytest.mark.parametrize("path", sorted(set(OPEN_PATHS) - {"/health"}))
def test_what_nodes_need_is_carried_both_ways(client: httpx.Client, upstream: Upstream, path: str) -> None:
    upstream.asked.clear()
    answer = client.post(path, content=b"request", headers={"content-type": "application/protobuf"})
    assert (answer.status_code, answer.content) == (207, b"answer to request")
    assert answer.headers["x-flower"] == "yes"
    assert upstream.asked == [("POST", path, b"request")]


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_nothing_else_reaches_superlink(
    client: httpx.Client, upstream: Upstream, method: str, path: str
) -> None:
    upstream.asked.clear()
    assert client.request(method, path).status_code == 404
    assert upstream.asked == []


def test_a_body_beyond_the_limit_is_refused(client: httpx.Client) -> None:
    chunk = bytes(2**20)
    parts = (chunk for _ in range(MAX_BODY // len(chunk) + 1))
    assert client.post("/v1/fleet/push-object", content=parts).status_code == 413


def test_nodes_are_told_to_try_again_while_superlink_is_down(tls: Path) -> None:
    door = free_port()
    context = ssl.create_default_context(cafile=str(tls / "ca.pem"))
    with served(gateway(f"127.0.0.1:{free_port()}", str(tls / "ca.pem")), door, tls):
        answer = httpx.post(f"https://127.0.0.1:{door}/v1/fleet/pull-messages", verify=context)
    assert answer.status_code == 503

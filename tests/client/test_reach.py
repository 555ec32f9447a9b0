"""Each reason for which a node cannot connect is one line that says what to do."""

import http.server
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from patronage_client.reach import check_door
from patronage_protocol.errors import FormatError, UnavailableError, UsageError, VerificationError
from patronage_server.certificates import KeyPair, make_authority, make_server_certificate

NOW = datetime.now(UTC)
AUTHORITY = make_authority("demo", NOW)


@contextmanager
def door(tmp_path: Path, pair: KeyPair, *, ahead: float = 0.0, status: int = 200) -> Iterator[str]:
    """An HTTPS server whose clock is `ahead` seconds."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(status)
            self.send_header(
                "Date", format_datetime(datetime.now(UTC) + timedelta(seconds=ahead), usegmt=True)
            )
            self.end_headers()

    (tmp_path / "server.pem").write_bytes(pair.certificate)
    (tmp_path / "server.key").write_bytes(pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_right_machine_is_taken(tmp_path: Path) -> None:
    with door(tmp_path, make_server_certificate(AUTHORITY, ["127.0.0.1"], NOW)) as address:
        check_door(address, AUTHORITY.certificate.decode())


def test_a_machine_of_another_authority_is_refused(tmp_path: Path) -> None:
    other = make_authority("demo", NOW)
    with (
        door(tmp_path, make_server_certificate(other, ["127.0.0.1"], NOW)) as address,
        pytest.raises(VerificationError, match="do not connect: ask the operator for a new invitation"),
    ):
        check_door(address, AUTHORITY.certificate.decode())


def test_an_expired_certificate_is_called_that(tmp_path: Path) -> None:
    old = make_server_certificate(AUTHORITY, ["127.0.0.1"], NOW - timedelta(days=400))
    with (
        door(tmp_path, old) as address,
        pytest.raises(VerificationError, match="got one that has expired; ask the operator to renew it"),
    ):
        check_door(address, AUTHORITY.certificate.decode())


@pytest.mark.parametrize(("ahead", "said"), [(90.0, "behind"), (-90.0, "ahead")])
def test_clocks_that_are_apart_are_told(tmp_path: Path, ahead: float, said: str) -> None:
    pair = make_server_certificate(AUTHORITY, ["127.0.0.1"], NOW)
    with (
        door(tmp_path, pair, ahead=ahead) as address,
        pytest.raises(UsageError, match=f"this machine's (89|90|91) seconds {said}; set the clock"),
    ):
        check_door(address, AUTHORITY.certificate.decode())


def test_a_superlink_that_is_not_up_is_told(tmp_path: Path) -> None:
    pair = make_server_certificate(AUTHORITY, ["127.0.0.1"], NOW)
    with (
        door(tmp_path, pair, status=503) as address,
        pytest.raises(UnavailableError, match="got HTTP status 503; try again"),
    ):
        check_door(address, AUTHORITY.certificate.decode())


def test_a_machine_that_is_not_there_is_told() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(UnavailableError, match=f"the operator's machine at {address}.*firewall"):
        check_door(address, AUTHORITY.certificate.decode())


def test_an_authority_that_is_no_certificate_is_told() -> None:
    with pytest.raises(FormatError, match="ask for the file again"):
        check_door("127.0.0.1:1", "hello")

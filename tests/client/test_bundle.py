"""A bundle with code in it, or another one than the pinned one, is refused."""

import io
import zipfile

import pytest

from patronage_client.bundle import check_bundle
from patronage_protocol.canonical import sha256
from patronage_protocol.errors import FormatError, RemoteProtocolError
from patronage_server.bundle import BUNDLE, CONFIGURATION


def packed(*files: tuple[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files:
            archive.writestr(name, text)
    return buffer.getvalue()


def test_the_operators_bundle_is_taken() -> None:
    check_bundle(BUNDLE, sha256(BUNDLE))


def test_another_bundle_than_the_pinned_one_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match=f"expected the bundle {'0' * 64}, got {sha256(BUNDLE)}"):
        check_bundle(BUNDLE, "0" * 64)


@pytest.mark.parametrize("name", ["patronage_client/__init__.py", "sitecustomize.py", "x.so", "README.md"])
def test_a_bundle_with_anything_but_configuration_is_refused_even_if_it_was_pinned(name: str) -> None:
    bundle = packed(("pyproject.toml", CONFIGURATION), (".info/CONTENT", ""), (name, "boom = 1"))
    with pytest.raises(RemoteProtocolError, match="expected a bundle of configuration alone"):
        check_bundle(bundle, sha256(bundle))


def test_a_bundle_that_names_another_app_is_refused_even_if_it_was_pinned() -> None:
    other = CONFIGURATION.replace("patronage_client.app:app", "os:system")
    bundle = packed(("pyproject.toml", other), (".info/CONTENT", ""))
    with pytest.raises(RemoteProtocolError, match="os:system"):
        check_bundle(bundle, sha256(bundle))


def test_a_bundle_with_one_file_twice_is_refused() -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        bundle = packed(
            ("pyproject.toml", CONFIGURATION), ("pyproject.toml", CONFIGURATION), (".info/CONTENT", "")
        )
    with pytest.raises(RemoteProtocolError, match="each file of the bundle once"):
        check_bundle(bundle, sha256(bundle))


def test_a_bundle_that_unpacks_to_too_much_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pyproject.toml", " " * 2**21)
    with pytest.raises(RemoteProtocolError, match="unpacked"):
        check_bundle(buffer.getvalue(), sha256(buffer.getvalue()))


@pytest.mark.parametrize("junk", [b"", b"PK", BUNDLE[:-1], b"\x00" * 100])
def test_junk_is_no_bundle(junk: bytes) -> None:
    with pytest.raises(FormatError, match="a Flower bundle"):
        check_bundle(junk, sha256(junk))

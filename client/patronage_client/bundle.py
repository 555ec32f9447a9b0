"""What an owner's node demands of the Flower bundle (FAB) of a run: the pinned bytes, and no code in them.

Flower's own executor unpacks a bundle and puts it first on Python's path, so a bundle with a folder
`patronage_client/` would replace the code that the owner installed. Here a bundle is looked at and never
unpacked: it must have the SHA-256 of the invitation, hold its configuration alone, and name the apps that
are installed. The second and third check hold even if the owner pinned the wrong digest.
"""

import io
import tomllib
import zipfile

from patronage_protocol.canonical import sha256
from patronage_protocol.errors import FormatError, RemoteProtocolError

__all__ = ["check_bundle"]

MAX_BYTES = 2**20
FILES = ("pyproject.toml", ".info/CONTENT")
APP = "patronage_client.app:app"


def check_bundle(content: bytes, pinned: str) -> None:
    """Check the bundle of a run before anything is done for that run.

    Raises:
        RemoteProtocolError: it is another bundle than the pinned one, or holds more than configuration.
        FormatError: it is no bundle.
    """
    if len(content) > MAX_BYTES:
        raise _refused(f"a bundle of at most {MAX_BYTES} bytes", f"{len(content)} bytes")
    names, configuration = _read(content)
    if extra := sorted(set(names) - set(FILES)):
        raise _refused("a bundle of configuration alone", f"the file {extra[0]!r} in it")
    if sorted(names) != sorted(FILES):
        raise _refused("each file of the bundle once", "one twice, or one missing")
    app = configuration
    for key in ("tool", "flwr", "app", "components", "clientapp"):
        app = app.get(key) if isinstance(app, dict) else None
    if app != APP:
        raise _refused(f"the client app {APP}", repr(app)[:80])
    if (digest := sha256(content)) != pinned:
        raise _refused(f"the bundle {pinned}", digest)


def _read(content: bytes) -> tuple[list[str], object]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                raise _refused(f"a bundle of at most {MAX_BYTES} bytes", "more when unpacked")
            return names, tomllib.loads(archive.read("pyproject.toml").decode("utf-8"))
    except (zipfile.BadZipFile, KeyError, ValueError, NotImplementedError, EOFError, OSError) as error:
        raise FormatError("a Flower bundle", got=str(error)[:200], do="nothing of it is run") from error


def _refused(expected: str, got: str) -> RemoteProtocolError:
    return RemoteProtocolError(expected, got=got, do="nothing of it is run", where="bundle §pinned")

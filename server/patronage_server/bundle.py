"""The Flower bundle (FAB) that a round runs under: two lines of configuration, and no code.

Flower wants every run to come with an app. Ours names the apps that both sides have installed already. The
bytes are the same on every machine (nothing is compressed, and the date is fixed), so that an owner can pin
their SHA-256.
"""

import io
import zipfile

from patronage_protocol.canonical import sha256

__all__ = ["BUNDLE", "CONFIGURATION"]

CONFIGURATION = """\
[project]
name = "patronage-round"
version = "1.0.0"
description = "Configuration of a Patronage round. It holds no code: both sides run what they installed."
license = "Apache-2.0"

[tool.flwr.app]
publisher = "patronage"

[tool.flwr.app.components]
serverapp = "patronage_server.app:app"
clientapp = "patronage_client.app:app"

[tool.flwr.app.config]
patronage-home = ""
patronage-engine = "local"
"""
DATE = (2024, 1, 1, 0, 0, 0)


def _bundle() -> bytes:
    configuration = CONFIGURATION.encode()
    content = f"pyproject.toml,{sha256(configuration)},{8 * len(configuration)}".encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in (("pyproject.toml", configuration), (".info/CONTENT", content)):
            archive.writestr(zipfile.ZipInfo(name, DATE), data)
    return buffer.getvalue()


BUNDLE = _bundle()
"""The bundle's bytes."""

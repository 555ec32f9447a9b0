"""Hosts of their own on one Linux machine: network namespaces, and a cable from each owner to the operator.

    operator 10.77.0.1 ---- 10.77.1.1  cable  10.77.1.2  first owner
                       ---- 10.77.2.1  cable  10.77.2.2  second owner

Needs root (ip-netns(8)). A cable can be cut and mended, and counts the bytes that went through it.
"""

import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from patronage_protocol.errors import UnavailableError

__all__ = ["Hosts"]


class Hosts:
    """The namespaces of an operator and its owners; use it as a context manager.

    Args:
        owners: their names.
        names: host names that every party finds under the operator's address.

    Raises:
        UnavailableError: on entering, when this user may not make namespaces.
    """

    OPERATOR = "10.77.0.1"

    def __init__(self, owners: Iterable[str], *, names: Iterable[str] = ()) -> None:
        tag = f"pat{os.getpid() % 10_000}"
        found = tuple(owners)
        self._spaces = {name: f"{tag}-{name}" for name in ("operator", *found)}
        self._cables = {owner: f"{tag}-{number}" for number, owner in enumerate(found, start=1)}
        self._hosts = "".join(f"{self.OPERATOR} {name}\n" for name in names)

    def __enter__(self) -> Self:
        """Make the namespaces and lay the cables."""
        try:
            self._lay()
        except (OSError, subprocess.CalledProcessError) as error:
            self._remove()
            raise UnavailableError(
                "permission to make network namespaces", got=str(error), do="run it as root on Linux"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove everything; processes in a namespace keep it alive until they end."""
        self._remove()

    @property
    def networks(self) -> dict[str, list[str]]:
        """Party to the words before a command that is to run on its host."""
        return {party: ["ip", "netns", "exec", name] for party, name in self._spaces.items()}

    def cut(self, owner: str) -> None:
        """Take the cable of an owner out."""
        _ip("-n", self._spaces["operator"], "link", "set", self._cables[owner], "down")

    def mend(self, owner: str) -> None:
        """Put it back."""
        _ip("-n", self._spaces["operator"], "link", "set", self._cables[owner], "up")

    def carried(self, owner: str) -> tuple[int, int]:
        """Bytes that went from an owner to the operator, and back, with all headers down to Ethernet."""
        shown = _ip("-n", self._spaces["operator"], "-s", "-j", "link", "show", "dev", self._cables[owner])
        (link,) = json.loads(shown)
        return int(link["stats64"]["rx"]["bytes"]), int(link["stats64"]["tx"]["bytes"])

    def _lay(self) -> None:
        for name in self._spaces.values():
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
            if self._hosts:
                folder = Path("/etc/netns") / name  # ip-netns(8) binds what is there over /etc
                folder.mkdir(parents=True)
                (folder / "hosts").write_text(f"127.0.0.1 localhost\n{self._hosts}")
        operator = self._spaces["operator"]
        _ip("-n", operator, "addr", "add", f"{self.OPERATOR}/32", "dev", "lo")
        for number, (owner, cable) in enumerate(self._cables.items(), start=1):
            here, there = f"10.77.{number}.1", f"10.77.{number}.2"
            far = self._spaces[owner]
            _ip("link", "add", cable, "netns", operator, "type", "veth", "peer", "name", "up0", "netns", far)
            for name, device, address in ((operator, cable, here), (far, "up0", there)):
                _ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
                _ip("-n", name, "link", "set", device, "up")
            _ip("-n", far, "route", "add", self.OPERATOR, "via", here)

    def _remove(self) -> None:
        for name in self._spaces.values():
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)  # noqa: S603, S607
            folder = Path("/etc/netns") / name
            (folder / "hosts").unlink(missing_ok=True)
            if folder.exists():
                folder.rmdir()


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], check=True, capture_output=True, text=True)  # noqa: S603, S607
    return done.stdout

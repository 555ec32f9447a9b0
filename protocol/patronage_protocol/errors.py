"""Every error that Patronage raises on purpose, in one tree.

    PatronageError                       exit
    ├── UsageError                        2    the request cannot be carried out as it was put
    │   └── DataError                     2    a file of pairs, a scenario, a model: names the place in it
    ├── FormatError                       2    bytes from elsewhere do not parse strictly
    ├── LocalProtocolError                2    we were about to break the rules of a round
    ├── RemoteProtocolError               1    a peer broke the rules of a round: names the clause
    ├── VerificationError                 1    the evidence does not support what was published
    └── UnavailableError                  3    something needed is not here
        └── MissingExtraError             3    a part of Patronage that was not installed

A message has three parts: what was expected, what came, and what to do. They are arguments of their own, so
that no message can leave one out.
"""

from typing import Any, ClassVar

__all__ = [
    "DataError",
    "FormatError",
    "LocalProtocolError",
    "MissingExtraError",
    "PatronageError",
    "RemoteProtocolError",
    "UnavailableError",
    "UsageError",
    "VerificationError",
]


class PatronageError(Exception):
    """The root. `str()` gives one line: `[where: ]expected …, got …; do …`.

    Attributes:
        expected: what would have been right.
        got: what came instead.
        do: what the reader can do about it.
        where: the file, line, message or clause concerned; empty where there is none.
        exit_code: the exit status of a command that ends with this error.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, expected: str, *, got: str, do: str, where: str = "") -> None:
        self.expected = expected
        self.got = got
        self.do = do
        self.where = where
        super().__init__(expected, got, do, where)

    def __str__(self) -> str:
        line = f"expected {self.expected}, got {self.got}; {self.do}"
        return f"{self.where}: {line}" if self.where else line

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors travel between processes, and the constructors of some classes ask for something else."""
        return _rebuilt, (type(self), self.expected, self.got, self.do, self.where)


def _rebuilt(kind: type[PatronageError], expected: str, got: str, do: str, where: str) -> PatronageError:
    error = kind.__new__(kind)
    PatronageError.__init__(error, expected, got=got, do=do, where=where)
    return error


class UsageError(PatronageError):
    """The request cannot be carried out as it was put: an option, a folder, a combination."""


class DataError(UsageError):
    """A file that the user named holds something unusable; `where` is `file` or `file:line`."""


class FormatError(PatronageError):
    """Bytes that came from elsewhere are not in the one form that is accepted."""


class LocalProtocolError(PatronageError):
    """Our own side was about to break the rules of a round. Nothing was sent or recorded."""


class RemoteProtocolError(PatronageError):
    """A peer broke the rules of a round; `where` is the clause. The message had no effect."""

    exit_code = 1


class VerificationError(PatronageError):
    """What was published does not follow from its evidence; `where` is the phase concerned."""

    exit_code = 1


class UnavailableError(PatronageError):
    """Something needed is not here: a file, a model, a device, room on the disk."""

    exit_code = 3


class MissingExtraError(UnavailableError):
    """A command needs a part of Patronage that was not installed."""

    def __init__(self, module: str, *, extra: str) -> None:
        super().__init__(
            f"the Python package {module!r}",
            got="an installation without it",
            do=f"run: pip install 'patronage[{extra}]'",
        )

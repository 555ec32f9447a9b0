"""Settings that a person writes: a TOML file, read into a frozen pydantic model that knows every key."""

import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from patronage_protocol.canonical import first_problem
from patronage_protocol.errors import DataError
from patronage_protocol.files import read_bytes

__all__ = ["Settings", "read_settings"]

MAX_SETTINGS = 2**20


class Settings(BaseModel):
    """The base of what a TOML file may say; unknown keys are errors, since they are mostly typing slips."""

    model_config = ConfigDict(frozen=True, extra="forbid")


T = TypeVar("T", bound=Settings)


def read_settings(path: Path, kind: type[T]) -> T:
    """Read a TOML file into `kind`.

    Raises:
        UnavailableError: the file is missing.
        DataError: it is not TOML, or a key is missing, unknown or of a wrong kind; names the key.
    """
    data = read_bytes(path, limit=MAX_SETTINGS)
    try:
        return kind.model_validate(tomllib.loads(data.decode("utf-8")))
    except ValidationError as error:
        raise DataError(
            f"a valid {kind.__name__}", got=first_problem(error), do="mend that key", where=str(path)
        ) from error
    except ValueError as error:
        raise DataError("TOML in UTF-8", got=str(error), do="mend that line", where=str(path)) from error

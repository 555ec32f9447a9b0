"""What a study has computed, in a folder, by the digest of all that it depends on.

A result is written whole or not at all, so a study that was interrupted goes on where it stopped, and a new
rule costs no new training. Nothing is ever overwritten with something else.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.adapters import Tensors, decode, encode, encoded_size
from patronage_protocol.canonical import canonical_bytes, sha256
from patronage_protocol.errors import DataError, UsageError
from patronage_protocol.files import read_bytes, write_atomic
from patronage_protocol.manifest import LoraTerms

__all__ = ["NotMeasuredError", "Store", "key_of"]

LARGEST_ARRAY = 2**30


def key_of(*parts: Any) -> str:
    """The digest of what a result depends on; parts are what canonical JSON can say."""
    return sha256(canonical_bytes(list(parts)))


class NotMeasuredError(UsageError):
    """A result is not there, and nothing is to be computed."""


@dataclass(frozen=True)
class Store:
    """A folder of adapters (`KEY.safetensors`) and arrays (`KEY.npy`).

    With `computes` false nothing is computed: what is not there raises `NotMeasuredError`.
    """

    folder: Path
    computes: bool = True

    def array(self, key: str, compute: Callable[[], NDArray[np.float64]]) -> NDArray[np.float64]:
        """The array of that key, computed if it is not there yet.

        Raises:
            DataError: the file is no array.
        """
        path = self.folder / f"{key}.npy"
        if self._wanted(path):
            buffer = io.BytesIO()
            np.save(buffer, np.ascontiguousarray(compute(), dtype=np.float64), allow_pickle=False)
            write_atomic(path, buffer.getvalue())
        try:
            found: NDArray[np.float64] = np.load(
                io.BytesIO(read_bytes(path, limit=LARGEST_ARRAY)), allow_pickle=False
            )
        except ValueError as error:
            raise DataError(
                "an array that this study wrote", got=str(error), do="remove that file", where=str(path)
            ) from error
        return found

    def adapter(
        self, key: str, lora: LoraTerms, train: Callable[[], Tensors]
    ) -> dict[str, NDArray[np.float32]]:
        """The adapter of that key, trained if it is not there yet.

        Raises:
            FormatError: the file is no adapter of these terms.
        """
        path = self.folder / f"{key}.safetensors"
        if self._wanted(path):
            write_atomic(path, encode(train()))
        limit = encoded_size(lora)
        return decode(read_bytes(path, limit=limit), lora, max_bytes=limit)

    def _wanted(self, path: Path) -> bool:
        if path.exists():
            return False
        if not self.computes:
            raise NotMeasuredError(
                "a result that was measured", got="none", do="leave out --measured-only", where=str(path)
            )
        return True

"""Random choices that anybody can repeat: on any machine, with any numpy, in any language.

The source is the raw output of Philox4x64-10 (Salmon et al., SC 2011), a counter-based generator with a
published specification: key = seed mod 2^128, counter 1, 2, 3, ..., four 64-bit words for each counter.
Everything else is defined here, because numpy promises the raw stream of a bit generator but not the
streams of `Generator` methods.

An index below `size` is floor(size * (word >> 32) / 2^32). Its bias is below size / 2^32.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["Stream"]


class Stream:
    """A Philox stream, read from its start."""

    def __init__(self, seed: int) -> None:
        self._source = np.random.Philox(key=seed % 2**128)

    def words(self, count: int) -> NDArray[np.uint64]:
        """The next `count` 64-bit words."""
        return self._source.random_raw(count)

    def indices(self, count: int, size: int) -> NDArray[np.int64]:
        """The next `count` indices in 0 .. size-1, size below 2^31."""
        scaled = (self.words(count) >> np.uint64(32)) * np.uint64(size) >> np.uint64(32)
        return scaled.astype(np.int64)

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """The next `count` numbers in [0, 1): the upper 53 bits of a word over 2^53."""
        return (self.words(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def permutations(self, count: int, size: int) -> NDArray[np.int64]:
        """The next `count` permutations of 0 .. size-1, (count, size): ranks of words, ties by position."""
        return np.argsort(self.words(count * size).reshape(count, size), axis=1, kind="stable")

"""A preference pair as a vector: hashed n-grams of the chosen completion minus those of the rejected.

    phi = f(x, y+) - f(x, y-),   f = the blocks below, each with Euclidean norm 1 before they are added up

    words      words and pairs of neighbouring words of the completion
    letters    runs of four characters of the completion, with spaces
    crosses    a word of the prompt with a word of the completion: whether an answer fits is a matter of both

Exchanging the labels changes the sign of phi, as it does with the scores that a student learns. An n-gram
goes to the entry CRC-32(n-gram) mod D with the sign of the hash's top bit (Weinberger et al. 2009, arXiv
0902.2206), so there is no vocabulary that could leak a text of the sample.
"""

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.preferences import PreferencePair, Text

__all__ = ["DIMENSIONS", "pair_features"]

DIMENSIONS = 2**13
LETTERS = 4
MOST_CROSSED = 64
"""Different words of a prompt that are crossed; a long document would drown the rest."""

_WORD = re.compile(r"\w+|[^\w\s]")


def pair_features(pairs: Sequence[PreferencePair]) -> NDArray[np.float32]:
    """The vectors of n pairs, shape (n, DIMENSIONS)."""
    rows = np.zeros((len(pairs), DIMENSIONS), dtype=np.float32)
    for row, pair in zip(rows, pairs, strict=True):
        asked = list(dict.fromkeys(_words(_content(pair.prompt))))[:MOST_CROSSED]
        for completion, sign in ((pair.chosen, 1.0), (pair.rejected, -1.0)):
            text = _content(completion)
            for block in _blocks(asked, text):
                _add(row, block, sign)
    return rows


def _blocks(asked: Sequence[str], text: str) -> Iterator[Counter[str]]:
    words = _words(text)
    joined = " ".join(words)
    yield Counter([*(f"w{word}" for word in words), *_neighbours(words), *_length(words)])
    yield Counter(f"l{joined[k : k + LETTERS]}" for k in range(max(1, len(joined) - LETTERS + 1)))
    yield Counter(f"x{left} {right}" for left in asked for right in set(words))


def _neighbours(words: Sequence[str]) -> Iterator[str]:
    return (f"b{left} {right}" for left, right in zip(["", *words], [*words, ""], strict=True))


def _length(words: Sequence[str]) -> Iterator[str]:
    """One feature for each power of two that the length reaches, so that longer is more of the same."""
    return (f"n{power}" for power in range(len(words).bit_length()))


def _add(row: NDArray[np.float32], block: Counter[str], sign: float) -> None:
    """Add a block of n-grams to a vector; repeated ones count by the square root."""
    if not block:
        return
    hashes = np.array([zlib.crc32(gram.encode("utf-8")) for gram in block], dtype=np.uint32)
    counts = np.sqrt(np.array(list(block.values()), dtype=np.float64))
    signs = np.where(hashes >> np.uint32(31), -1.0, 1.0)
    np.add.at(row, hashes % DIMENSIONS, (sign * signs * counts / np.linalg.norm(counts)).astype(np.float32))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _content(part: Text) -> str:
    return part if isinstance(part, str) else "\n".join(message.content for message in part)

"""Text cut into windows, read from its documents as they are asked for."""

import operator
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

SEPARATOR = 0  # the byte that follows each document; no document contains it
KEPT = 2**25  # bytes of documents that stay in memory: windows of one document are often read one after the other


def lengths_of(documents: Sequence[bytes]) -> dict[str, np.ndarray]:
    """One pass over documents: `length`, int64 `[n]`, and `separator`, the place of the first byte 0 in each or -1."""
    found = [(len(text), text.find(SEPARATOR)) for text in map(documents.__getitem__, range(len(documents)))]
    length, separator = np.array(found, np.int64).reshape(-1, 2).T
    return {"length": length, "separator": separator}


def check_separators(separators: np.ndarray, what: str) -> None:
    """Raise where a document has the byte that separates documents.

    Args:
        separators: `[n]`, the place of the first in each document, or -1.
        what: whose documents they are.
    """
    held = np.flatnonzero(np.asarray(separators) >= 0)
    if len(held):
        index = int(held[0])
        raise ValueError(
            f"feature 'text' of document {index} of {what} has a byte {SEPARATOR} at {separators[index]}, but that is "
            "what separates documents in windows."
        )


class Windows(Sequence):
    """The windows of a text as a sequence of {"tokens": uint8 `[length]`}, read-only.

    The documents are joined in their order, each followed by byte 0, and cut without overlap; what does not fill the
    last window is dropped. A window reads the documents that it overlaps, and no other; any number of threads may read.

    Args:
        documents: bytes, with random access from several threads.
        sizes: `[n]` int, their lengths.
        length: bytes a window, at least 1.
    """

    def __init__(self, documents: Sequence[bytes], sizes: np.ndarray, length: int):
        self._documents, self._length = documents, length
        self._ends = np.cumsum(np.asarray(sizes, np.int64) + 1)  # each with its separator
        self._recent: OrderedDict[int, bytes] = OrderedDict()
        self._held, self._lock = 0, threading.Lock()

    def __len__(self) -> int:
        return int(self._ends[-1]) // self._length if len(self._ends) else 0

    def __getitem__(self, index: Any) -> dict[str, np.ndarray]:
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        start = index % len(self) * self._length
        document = int(np.searchsorted(self._ends, start, side="right"))
        place = start - (int(self._ends[document - 1]) if document else 0)
        parts, missing = [], self._length
        while missing:
            part = self._read(document)[place : place + missing]
            parts.append(part if len(part) == missing else part + bytes([SEPARATOR]))
            missing -= len(parts[-1])
            document, place = document + 1, 0
        return {"tokens": np.frombuffer(b"".join(parts), np.uint8)}

    def _read(self, document: int) -> bytes:
        """A document, from memory where it was read a short time ago."""
        with self._lock:
            if document in self._recent:
                self._recent.move_to_end(document)
                return self._recent[document]
        text = bytes(self._documents[document])
        with self._lock:
            if document not in self._recent:
                self._recent[document] = text
                self._held += len(text)
            while self._held > KEPT and len(self._recent) > 1:
                self._held -= len(self._recent.popitem(last=False)[1])
        return text

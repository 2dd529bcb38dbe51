"""Rows of numbers in a file: appended by one thread, read by any, in memory only while somebody looks at them.

analysis.py keeps what the network said of a whole file on such tapes; explorer.py reads the parts it needs.
"""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .errors import AudioFileError


class Tape:
    """Rows of one shape, which may hold nothing, and dtype. ``rows`` of them are there already; what is there never changes.

    Raises AudioFileError where the disk is full or refuses.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.path, self.shape, self.dtype, self.rows = path, shape, np.dtype(dtype), 0
        self._row_bytes = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        try:
            self._file = path.open("xb", buffering=0)
        except OSError as error:
            raise self._failure(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """No more rows. Those that are there can still be read."""
        self._file.close()

    def append(self, rows: NDArray[Any]) -> None:
        """(n, *shape) rows, at the end."""
        data = np.ascontiguousarray(rows, self.dtype)
        assert data.shape[1:] == self.shape, (data.shape, self.shape)
        left = memoryview(data.reshape(-1).view(np.uint8).data)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise self._failure(error) from None
        self.rows += len(data)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """(stop - start, *shape) rows in memory of their own; those before the first and after the last are zero."""
        first, last = min(max(start, 0), self.rows), min(max(stop, 0), self.rows)
        found = np.zeros((max(0, stop - start), *self.shape), self.dtype)
        if first < last and self._row_bytes:
            count = (last - first) * (self._row_bytes // self.dtype.itemsize)
            rows = np.fromfile(self.path, self.dtype, count, offset=first * self._row_bytes)
            found[first - start : last - start] = rows.reshape(-1, *self.shape)
        return found

    def pick(self, places: NDArray[np.int64]) -> NDArray[Any]:
        """(n, *shape) rows from the given places, all of them there."""
        if len(places) and places[-1] - places[0] == len(places) - 1:
            return self.read(int(places[0]), int(places[-1]) + 1)
        if not len(places) or not self._row_bytes:
            return np.zeros((len(places), *self.shape), self.dtype)
        return np.array(np.memmap(self.path, self.dtype, "r", shape=(self.rows, *self.shape))[places])

    def _failure(self, error: OSError) -> AudioFileError:
        where = self.path.parent
        return AudioFileError(
            f"cannot keep what is heard in '{where}': {error.strerror}; free some space or choose another --cache"
        )

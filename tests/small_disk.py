"""A disk that fills up, for tests of writers."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def room(size_bytes: int) -> Iterator[None]:
    """A disk with room for files of this size."""
    resource = pytest.importorskip("resource", reason="limits on file sizes are POSIX")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

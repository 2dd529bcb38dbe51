"""Set-up that every test shares."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

# Networks of tests are small: on a busy machine two threads wait for each other longer than they calculate.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Machines that run tests are busy and differ: no deadline, and the same examples everywhere.
settings.register_profile("sepstream", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("sepstream")


@pytest.fixture(autouse=True, scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Sounds that training generates are made once for all tests, and never in the user's own cache; nor do tests see or
    change the user's own presets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEPSTREAM_PRESETS", str(tmp_path_factory.mktemp("presets")))
        patch.setenv("SEPSTREAM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


# A shell's background job ignores Ctrl-C and hands that down; the tests that interrupt a process need it as in the foreground.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    import chromium  # noqa: PLC0415 - most tests need none

    with chromium.browser() as found:
        yield found

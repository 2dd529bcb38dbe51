"""What the live benchmarks share: a session's processes over a JACK server of its own, and its times while they come."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "engine"), str(ROOT / "tests")]

import jack_server  # noqa: E402
from sepstream import board as b  # noqa: E402
from sepstream.board import Board  # noqa: E402
from sepstream.session import Config, Session  # noqa: E402
from sepstream.watchdog import Watchdog  # noqa: E402

WARM_UP_S = 60.0  # for the first start of all, which compiles


class Times:
    """Callbacks and hops as they come; the board remembers only the last few thousand of each."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self._seen = {"callbacks": int(board.words[b.CALLBACKS]), "hops": int(board.words[b.HOPS])}
        self._found: dict[str, list[np.ndarray]] = {"callbacks": [], "hops": []}

    def look(self) -> None:
        """Call it at least once every few seconds."""
        for what, word, at in (("callbacks", b.CALLBACKS, b.CALLBACK_TIMES), ("hops", b.HOPS, b.HOP_TIMES)):
            count = int(self.board.words[word])
            places = np.arange(max(self._seen[what], count - b.TIMES // 2), count) % b.TIMES
            ring = self.board.words[at : at + 2 * b.TIMES].reshape(b.TIMES, 2)
            self._found[what].append(ring[places].copy())
            self._seen[what] = count

    @property
    def callbacks(self) -> np.ndarray:
        """(n, 2): start and duration in ns."""
        return np.concatenate(self._found["callbacks"])

    @property
    def hops(self) -> np.ndarray:
        """(n, 2): wall time and processor time in ns."""
        return np.concatenate(self._found["hops"])


def quantiles_us(times_ns: np.ndarray) -> dict[str, float]:
    names = ("p50", "p95", "p99", "max")
    return {name: round(float(v) / 1000, 1) for name, v in zip(names, np.percentile(times_ns, [50, 95, 99, 100]), strict=True)}


@contextmanager
def running(config: Config, period: int, sync: bool = False) -> Iterator[tuple[Session, Watchdog]]:
    """The audio and the control process over a dummy sound card that keeps real time (unless ``sync``)."""
    with jack_server.server(period=period, sync=sync):
        session = Session.make(config)
        watchdog = Watchdog(session)
        watchdog.start()
        try:
            jack_server.wait_until(lambda: session.board.words[b.STATE] == b.PLAYING, "the audio process", WARM_UP_S)
            jack_server.wait_until(lambda: session.board.words[b.SETTLED] == 1, "the model", WARM_UP_S)
            yield session, watchdog
        finally:
            watchdog.end()
            session.remove()

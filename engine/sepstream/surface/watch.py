"""What pages see of the sound: meters, and the points of the disk, read off the board at the rate of a screen.

Runs on the server's thread. The audio process copies a hop to the board now and then while the board says that somebody
looks (worker.py); all else is done here.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .. import board as b
from .. import kernels, telemetry
from ..board import Board
from ..contract import Bundle
from ..disk import point
from . import protocol
from .protocol import Watch

FRAME_S = 1 / 60  # of a screen
METERS_S = 1 / 30
FAINTEST = 1e-6  # of a magnitude: silence has no level in dB
MOST_HOPS = 32  # in one message


class Viewer:
    """One end of the board. ``slots`` gives the places of the buses on it, by name."""

    def __init__(self, board: Board, bundle: Bundle, slots: Callable[[], Mapping[str, int]]) -> None:
        self.board, self.slots = board, slots
        bins = bundle.band.bins
        hop_s = bundle.stft.hop_samples / bundle.sample_rate_hz
        self.every = max(round(FRAME_S / hop_s), 1)  # hops
        self._views = board.views(bins) if bins <= b.VIEW_BINS else None
        self._heads = board.view_heads()
        self._seen = int(board.words[b.VIEWED])
        self._metered = 0.0
        board.words[b.VIEW_EVERY] = 0

    def look(self, watches: Sequence[Watch]) -> list[list[bytes]]:
        """For each page what it is to be sent now."""
        wanted = any(watch.points for watch in watches)
        self.board.words[b.VIEW_EVERY] = self.every if wanted else 0
        meters, points = self._meters(watches), self._points() if wanted else None
        sent: list[list[bytes]] = []
        made: dict[str, bytes] = {}
        for watch in watches:
            mine = [meters] if watch.meters and meters else []
            if watch.points and points:
                if watch.bus not in made:
                    made[watch.bus] = points.message(self.slots().get(watch.bus, -1))
                mine.append(made[watch.bus])
            sent.append(mine)
        return sent

    def close(self) -> None:
        """Nobody looks any more."""
        self.board.words[b.VIEW_EVERY] = 0

    def _meters(self, watches: Sequence[Watch]) -> bytes:
        now = time.monotonic()
        if now - self._metered < METERS_S - FRAME_S / 2 or not any(watch.meters for watch in watches):
            return b""
        self._metered = now
        read = telemetry.read(self.board)
        return protocol.meters(*([_sound(level.peak) for level in levels] for levels in (read.inputs, read.buses, read.outputs)))

    def _points(self) -> "_Hops | None":
        """The hops since the last time; those that were overwritten meanwhile are left out."""
        if self._views is None:
            return None
        count = int(self.board.words[b.VIEWED])
        first = max(self._seen, count - MOST_HOPS)
        self._seen = count
        if count <= first:
            return None
        kernels.barrier()
        places = np.arange(first, count) % b.VIEWS
        views, heads = self._views[places], self._heads[places]
        kernels.barrier()
        sound = int(self.board.words[b.VIEWED]) - first < b.VIEWS
        return _Hops(first, views, heads) if sound else None


class _Hops:
    """``views`` (hops, rows, bins) and ``heads`` (hops, VIEW_HEAD), copied from the board."""

    def __init__(self, first: int, views: NDArray[np.float32], heads: NDArray[np.int64]) -> None:
        self.first, self.heads = first, heads
        views = np.nan_to_num(views, copy=False, posinf=0.0, neginf=0.0)
        self.points = point(views[:, 1:3])
        self.level_db = 20.0 * np.log10(2.0 * np.maximum(views[:, 0], FAINTEST))
        self.masks = views[:, 3:]

    def message(self, slot: int) -> bytes:
        """With the mask of the bus of this slot, if it is there in every hop."""
        slots = self.heads[:, 2:]
        there = (slots == slot) & (np.arange(b.VIEW_BUSES) < self.heads[:, 1:2])
        if slot < 0 or not there.any(axis=1).all():
            return protocol.columns(self.first, self.points, self.level_db, None)
        mask = self.masks[np.arange(len(there)), there.argmax(axis=1)]
        return protocol.columns(self.first, self.points, self.level_db, mask)


def _sound(level: float) -> float:
    return level if 0.0 <= level < 1e6 else 0.0

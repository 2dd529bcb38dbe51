"""A sound card without a card: the audio callback called by hand, block by block, and the worker's turns in between.

    device = FakeDevice(inputs=(2, 0), spare=1)     # a board as the audio process leaves it before the stream starts
    device.hire(bundle).play(scene)                 # a worker and its desk, if wanted
    heard = device.play(sound, blocks=(128, 31), late=lambda block: block in range(20, 50))

No thread, no clock: whatever happens, happens again. The device is a strict one: channels that nobody asked for are NaN
on the way in, whatever nobody plays must come out as silence, and not a sample may be written beyond the block.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sepstream import board as b
from sepstream import callback
from sepstream.board import Board
from sepstream.contract import Bundle
from sepstream.control.desk import Desk
from sepstream.session import SHARED_MEMORY
from sepstream.worker import Worker

F32 = NDArray[np.float32]

BEYOND = np.float32(12345.0)  # lies behind every block, and must stay there
MARGIN = 64  # samples of it


class FakeDevice:
    """``inputs`` and ``outputs``: the channels in use, of a device that has ``spare`` more on either side; ``start``: the
    frames that the board has counted before."""

    def __init__(
        self,
        *,
        inputs: Sequence[int] = (0, 1),
        outputs: Sequence[int] = (0, 1),
        spare: int = 0,
        rate_hz: int = 48000,
        record: int = 0,
        start: int = 0,
        ramp_frames: int = 960,
    ) -> None:
        memory = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
        with tempfile.TemporaryDirectory(dir=memory) as folder:
            self.board = Board(Path(folder) / "board", create=True, record=record)
        self.words, self.floats = self.board.words, self.board.floats
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        for channels, count, width, places in (
            (self.inputs, b.INPUTS, b.INPUT_WIDTH, b.INPUT_MAP),
            (self.outputs, b.OUTPUTS, b.OUTPUT_WIDTH, b.OUTPUT_MAP),
        ):
            self.words[count], self.words[width] = len(channels), max(channels) + 1 + spare
            self.words[places : places + len(channels)] = channels
        self.words[b.RATE_HZ], self.words[b.RAMP_FRAMES], self.words[b.FRAMES] = rate_hz, ramp_frames, start
        self.words[b.SHAPE], self.words[b.EPOCH] = 1, 1
        self.work: Callable[[], None] = lambda: None  # after every block that is not late
        self.after: list[tuple[float, float]] = []  # the model's share and the master's gain, after each block
        self.heard = np.zeros((0, len(self.outputs)), np.float32)  # all that was played

    @property
    def now(self) -> int:
        """Frames played so far."""
        return int(self.words[b.FRAMES])

    def set_latency(self, queue: int, delay: int) -> None:
        """Frames of the output ring, and of the dry sound, behind the output."""
        self.words[b.QUEUE], self.words[b.DELAY] = queue, delay

    def set_dry(self, matrix: F32) -> None:
        """(outputs, inputs) where the dry sound's gains go."""
        self.board.area("dry_target", *matrix.shape)[:] = matrix

    def hire(self, bundle: Bundle, *, block: int = 512, slack: int = 0) -> Desk:
        """A worker on this board, and the desk that tells it what to play. The queue is long enough for blocks of up to
        ``block`` frames in any order, and ``slack`` more."""
        worker = self.worker = Worker(self.board, bundle, "cpu")
        worker.begin(self.now)
        queue = block + callback.FADE + worker.hop_frames - 1 + slack
        self.set_latency(queue, queue + worker.lag_frames)
        self.work = self.catch_up
        return Desk(bundle, self.board)

    def settle(self) -> None:
        """As if it had played for a while: latency, dry gains and master are where they should be."""
        self.words[b.QUEUE_NOW], self.words[b.DELAY_NOW] = self.words[b.QUEUE], self.words[b.DELAY]
        size = b.MAX_CHANNELS**2
        self.board.area("dry_now", size)[:] = self.board.area("dry_target", size)
        self.floats[b.FADES_AT + 1] = 1.0

    def catch_up(self) -> None:
        """All hops that are complete."""
        while self.worker._due():
            self.worker.turn()

    def play(
        self,
        sound: F32,
        blocks: Sequence[int] = (128,),
        *,
        late: Callable[[int], bool] = lambda _: False,
        status: int = 0,
        moment: Callable[[int], int] | None = None,
    ) -> F32:
        """(frames, inputs) -> (frames, outputs) in blocks of these sizes in turn; the worker sleeps after those that are
        ``late``, counted from 0; all of one ``moment`` are parts of one block of the device."""
        width = int(self.words[b.OUTPUT_WIDTH])
        given = np.full((len(sound), int(self.words[b.INPUT_WIDTH])), np.nan, np.float32)
        given[:, self.inputs] = sound
        played = np.full(len(sound) * width + MARGIN, BEYOND)
        for index, (start, n) in enumerate(_cut(len(sound), blocks)):
            when = moment(index) if moment else int(self.words[b.CALLBACKS]) + 1
            block = (given[start:].reshape(-1), played[start * width :], n, status, when)
            callback.play_block(self.words, self.floats, *block)
            assert (played[(start + n) * width :][:MARGIN] == BEYOND).all(), "it wrote beyond its block"
            self.after.append((float(self.floats[b.FADES_AT]), float(self.floats[b.FADES_AT + 1])))
            if not late(index):
                self.work()
        heard = played[: len(sound) * width].reshape(-1, width)
        idle = [channel for channel in range(width) if channel not in self.outputs]
        assert not heard[:, idle].any(), "it played on channels that are not ours"
        self.heard = np.concatenate([self.heard, heard[:, self.outputs]])
        return heard[:, self.outputs]


def _cut(frames: int, blocks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where each block starts, and its size."""
    at = 0
    for n in cycle(blocks):
        if at >= frames:
            return
        yield at, min(n, frames - at)
        at += n


def noise(frames: int, channels: int = 2, seed: int = 0) -> F32:
    """(frames, channels) at a moderate level."""
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal((frames, channels))).astype(np.float32)


def band_limited(frames: int, hz: float, rate_hz: int, channels: int = 2) -> F32:
    """(frames, channels) of 200 tones below ``hz``: what both rates of a bridge can hold."""
    rng = np.random.default_rng(8)
    angles = 2 * np.pi * rng.uniform(20, hz, 200)[:, None] / rate_hz * np.arange(frames)
    return np.stack([np.cos(angles + rng.uniform(0, 7, (200, 1))).sum(axis=0) / 60 for _ in range(channels)], 1, dtype=np.float32)


def delayed(sound: F32, frames: int) -> F32:
    """``sound`` that many frames later, silence before it, as long as before."""
    return np.concatenate([np.zeros((frames, *sound.shape[1:]), np.float32), sound])[: len(sound)]

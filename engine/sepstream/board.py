"""The one page of memory that the live processes share: counters, rings, meters, the mailbox.

A file in the session's folder, mapped by every process. Each word has one writer (named below) and many readers; the
rings have one writer and one reader. Words are 64 bits and stored whole; data comes before the word that announces it
(``kernels.fence``). Nothing here is a message that could be lost: a reader takes the newest value, and a process that
dies and comes back finds everything as it was.

Sound is counted in frames of the device since the board was made, the same count for input and output, and never goes
back: frame t of a ring lies at t & (RING - 1).
"""

import mmap
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import DeviceError

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

VERSION = 0x5E95_0003
RING = 1 << 16  # frames: 1.4 s at 48 kHz, 0.3 s at 192 kHz
MAX_CHANNELS = 64
MAX_BUSES = 65  # 64 and the residual
SLOTS = 1 + MAX_BUSES  # of the recorder's rings: the input, and each bus that a session has known
MAIL_BYTES = 1 << 21  # 64 buses from 64 channels to 64, and their program
TIMES = 1 << 12
RECORD_FRAMES = 1 << 18  # of the model: 5.5 s at 48 kHz for a disk that thinks
VIEWS = 64  # hops that whoever looks at the model may be behind
VIEW_BUSES = 16  # whose masks are shown; the first ones
VIEW_BINS = 2049  # a model with more is not shown
VIEW_HEAD = 2 + VIEW_BUSES  # number of the hop, masks, and the slots of their buses

(
    MAGIC,  # the maker: VERSION
    STOP,  # the parent: everything ends, softly
    # the audio process, before its stream starts
    RATE_HZ,
    INPUTS,
    OUTPUTS,
    INPUT_WIDTH,
    OUTPUT_WIDTH,
    WAKE_FD,
    SHAPE,
    RAMP_FRAMES,
    QUEUE,
    DELAY,  # frames: how far the model's sound, and the dry sound, lag behind the device's output
    EPOCH,  # raised when what was computed before is worth nothing any more
    PROVIDER,
    MODEL_HZ,
    ALGORITHMIC,
    DEVICE_US,
    STATE,
    # the callback
    FRAMES,
    CALLBACKS,
    LAST_BLOCK,  # frames that the device has given at once: the newest, as yet
    LONG_BLOCK,  # the newest of those that were longer than any to expect, and which one it was
    LONG_AT,
    STEADY_BLOCK,  # the longest to expect
    GRAIN,  # what all blocks are multiples of
    BLOCKS,
    MOMENT,  # when the newest began, in ns of the device
    QUEUE_NOW,
    DELAY_NOW,
    SETTLED,
    LATE_BLOCKS,
    FADES,
    FAULTS,
    XRUNS,
    CALLBACK_NS,
    # the worker
    WAKE_AT,
    WET_EPOCH,
    WET_FROM,
    WET_TO,
    HOPS,
    SKIPPED,
    STALE,
    FAULTY_HOPS,
    HOP_NS,
    BUSES,
    TAKEN,
    RECORDED,
    SLOTS_USED,
    # the control process
    MAIL,
    BEAT,
    RECORD_WANTED,
    # the parent
    RESTARTS,
    RECORDING,
    VIEWED,  # the worker: hops that it has shown
    VIEW_EVERY,  # the control process: so many hops apart; 0 while nobody looks
) = range(55)

INPUT_MAP, OUTPUT_MAP, MAIL_SIZE, HEADER = 64, 128, 192, 512  # words; the maps hold the device's channels, from 0
CPU, CUDA = 1, 2  # PROVIDER
OPENING, PLAYING, MISSING = 1, 2, 3  # STATE

_FLOATS = {  # areas of float32, in this order
    "fades": 2,  # callback: the model's share of the output, and the master's gain
    "dry_target": MAX_CHANNELS * MAX_CHANNELS,  # control: (outputs, inputs)
    "dry_now": MAX_CHANNELS * MAX_CHANNELS,  # callback
    "input_levels": MAX_CHANNELS * 2,  # worker: peak, mean square
    "output_levels": MAX_CHANNELS * 2,
    "bus_levels": MAX_BUSES * 2,
    "input_ring": RING * MAX_CHANNELS,  # callback: (RING, inputs)
    "output_ring": RING * MAX_CHANNELS,  # worker: (RING, outputs)
}
_AT: dict[str, int] = {}
_END = 2 * HEADER
for _name, _size in _FLOATS.items():
    _AT[_name] = _END
    _END += _size + (_size & 1)
FADES_AT, DRY_TARGET, DRY_NOW = _AT["fades"], _AT["dry_target"], _AT["dry_now"]
INPUT_RING, OUTPUT_RING = _AT["input_ring"], _AT["output_ring"]
CALLBACK_TIMES = _END // 2  # int64 (TIMES, 2): start and duration in ns, by CALLBACKS
HOP_TIMES = CALLBACK_TIMES + 2 * TIMES  # int64 (TIMES, 2): wall and processor time in ns, by HOPS
MAIL_AT = HOP_TIMES + 2 * TIMES
VIEW_HEADS = MAIL_AT + 2 * MAIL_BYTES // 8  # int64 (VIEWS, VIEW_HEAD)
VIEWS_AT = VIEW_HEADS + VIEWS * VIEW_HEAD  # float32 (VIEWS, rows, bins of the model), with room for the largest
_VIEW_SIZE = (3 + VIEW_BUSES) * VIEW_BINS + 1  # magnitude, embedding, masks
SIZE = VIEWS_AT + VIEWS * _VIEW_SIZE // 2  # words, without the recorder's rings


class Board:
    """One mapped page. ``words`` (int64) and ``floats`` (float32) are views of all of it."""

    def __init__(self, path: Path, create: bool = False, record: int = 0) -> None:
        """``record``: how many channels of buses the recorder's rings have room for. Raises DeviceError."""
        size = 8 * SIZE + 4 * SLOTS * record * RECORD_FRAMES
        try:
            with path.open("x+b" if create else "r+b") as file:
                if create:
                    file.truncate(size)  # a hole: pages that nobody touches take no memory
                self._map = mmap.mmap(file.fileno(), os.fstat(file.fileno()).st_size)
        except (OSError, ValueError) as error:
            raise DeviceError(f"shared memory '{path}' cannot be mapped: {error}; is the disk or /dev/shm full?") from None
        whole = np.frombuffer(self._map, np.uint8)
        self.words: I64 = whole[: 8 * SIZE].view(np.int64)
        self.floats: F32 = whole[: 8 * SIZE].view(np.float32)
        self._bytes = whole
        if create:
            self.words[MAGIC] = VERSION
            self.words[WAKE_FD] = -1
        if self.words[MAGIC] != VERSION:
            raise DeviceError(f"shared memory '{path}' is not this version's; start sep-live anew")

    def area(self, name: str, *shape: int) -> F32:
        """The first values of a float area, as a view of that shape."""
        return self.floats[_AT[name] : _AT[name] + int(np.prod(shape))].reshape(shape)

    def input_ring(self) -> F32:
        """(RING, inputs)"""
        return self.area("input_ring", RING, int(self.words[INPUTS]))

    def output_ring(self) -> F32:
        """(RING, outputs)"""
        return self.area("output_ring", RING, int(self.words[OUTPUTS]))

    def record_ring(self, channels: int) -> F32 | None:
        """(SLOTS, RECORD_FRAMES, channels), or None where the board was made without: what the buses played, before the
        faders, by their slots. ``words[RECORDED]`` frames have been written."""
        room = self._bytes[8 * SIZE :].view(np.float32)
        wanted = SLOTS * RECORD_FRAMES * channels
        return room[:wanted].reshape(SLOTS, RECORD_FRAMES, channels) if 0 < wanted <= room.size else None

    def mail(self, slot: int) -> NDArray[np.uint8]:
        """One of two places for a message of the control process to the worker."""
        start = 8 * MAIL_AT + slot * MAIL_BYTES
        return self._bytes[start : start + MAIL_BYTES]

    def view_heads(self) -> I64:
        """(VIEWS, VIEW_HEAD): of the hops that were shown last, the one with number n at n % VIEWS."""
        return self.words[VIEW_HEADS : VIEW_HEADS + VIEWS * VIEW_HEAD].reshape(VIEWS, VIEW_HEAD)

    def views(self, bins: int) -> F32:
        """(VIEWS, 3 + VIEW_BUSES, bins): the magnitude that the model saw, its embedding in two rows, the masks of the buses.
        Raises DeviceError for more than VIEW_BINS."""
        if bins > VIEW_BINS:
            raise DeviceError(f"a model of {bins} bins cannot be shown; expected {VIEW_BINS} at most")
        rows = 3 + VIEW_BUSES
        return (
            self.floats[2 * VIEWS_AT :][: VIEWS * _VIEW_SIZE]
            .reshape(VIEWS, _VIEW_SIZE)[:, : rows * bins]
            .reshape(VIEWS, rows, bins)
        )

    def callback_times(self) -> I64:
        """(n, 2): start and duration in ns of the last callbacks, in no order."""
        return _last(self.words, CALLBACK_TIMES, int(self.words[CALLBACKS]))

    def hop_times(self) -> I64:
        """(n, 2): wall time and processor time in ns of the last hops, in no order."""
        return _last(self.words, HOP_TIMES, int(self.words[HOPS]))


def _last(words: I64, at: int, count: int) -> I64:
    return words[at : at + 2 * TIMES].reshape(TIMES, 2)[: min(count, TIMES)].copy()

"""Latency measured with a cable from the output back to the input: what leaves, when it comes back, and when again.

A burst of noise is played once, and again until it comes back: there are cables that can only be put in while it plays.
The first time it comes back it has gone through the device alone; it is then played again by the engine, a known number
of frames later, and comes back a second time. The clock is the frame count of the callback, so both times are exact to the
sample (and the engine's share, their difference, does not depend on the cable).
"""

import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import board as b
from . import kernels
from .errors import DeviceError
from .expression import Mix
from .selection import Bus, Selection

if TYPE_CHECKING:
    from .live import LiveSession

F32 = NDArray[np.float32]

LEVEL_DB = -18.0  # of the burst; loud enough over a cable, no danger to ears
LOOP_GAIN_DB = -6.0  # of the engine meanwhile, so that the loop does not howl
SEEN = 0.5  # of the correlation that a clean burst would have: less is another sound
WAIT_S = 1.0  # for both to come back; the input ring remembers a little more
TRIES = 5
READY_S = 5.0  # for the model to be in time


class Latency(NamedTuple):
    """In frames of the device; ``engine`` is algorithmic + queue as measured, the other two are as declared."""

    rate_hz: int
    algorithmic: int
    queue: int
    device: int
    engine: int

    @property
    def total(self) -> int:
        return self.engine + self.device

    @property
    def declared(self) -> int:
        return self.algorithmic + self.queue


def mixed() -> Selection:
    """What has to play meanwhile: the input, a little quieter."""
    return Selection((Bus("mix", Mix(), gain_db=LOOP_GAIN_DB),))


def measure(live: "LiveSession") -> Latency:
    """Of a running session that plays ``mixed()``. Raises DeviceError when nothing comes back."""
    for _ in range(TRIES - 1):
        with suppress(_Unheard):
            return _measure(live)
    return _measure(live)


class _Unheard(DeviceError):
    """Nothing came back this time."""


def _measure(live: "LiveSession") -> Latency:
    board, worker = live.board, live.worker
    ready_by = time.monotonic() + READY_S
    while board.floats[b.FADES_AT] < 1.0:
        if time.monotonic() > ready_by:
            raise DeviceError(
                f"the model was not in time for {READY_S:g} s; give it more slack with --queue, or other work a rest"
            )
        time.sleep(0.01)
    burst = _burst(worker.hop, worker.outputs)
    worker.probe_at, worker.probe = -1, burst
    time.sleep(WAIT_S)
    left = worker.probe_at + int(board.words[b.QUEUE_NOW])
    length = min(int(board.words[b.FRAMES]) - left, b.RING - 4096) if worker.probe_at >= 0 else 0
    heard = np.zeros((worker.inputs, max(length, 0)), np.float32)
    kernels.read_ring(board.input_ring(), left, heard)
    reference = worker.on_device(burst)
    delay = int(board.words[b.DELAY_NOW])
    first = _find(heard, reference)  # the louder of the two
    later = first + len(reference)
    second = later + _find(heard[:, later:], reference)
    algorithmic = int(board.words[b.ALGORITHMIC])
    return Latency(int(board.words[b.RATE_HZ]), algorithmic, delay - algorithmic, first, second - 2 * first)


def _burst(length: int, outputs: int) -> F32:
    """(length, outputs): the same noise everywhere, without what a 16 kHz system would lose."""
    noise = np.random.default_rng(1).standard_normal(length)
    spectrum = np.fft.rfft(noise)
    spectrum[len(spectrum) // 3 :] = 0.0
    burst = np.fft.irfft(spectrum, length) * np.hanning(length)
    burst *= 10.0 ** (LEVEL_DB / 20.0) / np.abs(burst).max()
    return np.repeat(burst.astype(np.float32)[:, None], outputs, axis=1)


def _find(heard: F32, reference: F32) -> int:
    """Where ``reference`` (n,) begins in (inputs, frames), on the input that hears it best."""
    if heard.shape[1] <= len(reference):
        raise DeviceError("the input stopped while latency was measured; is the device still there?")
    matches = np.abs([np.correlate(channel, reference, "valid") for channel in heard])
    channel, at = np.unravel_index(int(np.argmax(matches)), matches.shape)
    there = heard[channel, at : at + len(reference)]
    likeness = matches[channel, at] / max(float(np.linalg.norm(there) * np.linalg.norm(reference)), 1e-12)
    if likeness < SEEN:
        raise _Unheard("nothing came back; connect an output of the device to an input with a cable, and turn up its gain")
    return int(at)

"""The audio callback: one block into the input ring, one block out of the output ring, compiled.

Called by PortAudio on its own thread, never by us. It owns nothing and waits for nobody: it copies, counts, wakes the
worker, and plays. When the model's sound is not there in time it fades, over FADE frames of which it always keeps enough,
to the dry sound of the same moment, and back when the model is back. It needs no interpreter, so the sound goes on while
Python is stopped dead.

All state lies on the board. ``play_block`` is the plain function; ``address`` is it as a PaStreamCallback.
"""

import math

import numpy as np
from numpy.typing import NDArray

from .board import (
    BLOCKS,
    CALLBACK_NS,
    CALLBACK_TIMES,
    CALLBACKS,
    DELAY,
    DELAY_NOW,
    DRY_NOW,
    DRY_TARGET,
    EPOCH,
    FADES,
    FADES_AT,
    FAULTS,
    FRAMES,
    GRAIN,
    INPUT_MAP,
    INPUT_RING,
    INPUT_WIDTH,
    INPUTS,
    LAST_BLOCK,
    LATE_BLOCKS,
    LONG_AT,
    LONG_BLOCK,
    MAX_CHANNELS,
    MOMENT,
    OUTPUT_MAP,
    OUTPUT_RING,
    OUTPUT_WIDTH,
    OUTPUTS,
    QUEUE,
    QUEUE_NOW,
    RAMP_FRAMES,
    RATE_HZ,
    RING,
    SETTLED,
    SIZE,
    STEADY_BLOCK,
    STOP,
    TIMES,
    WAKE_AT,
    WAKE_FD,
    WET_EPOCH,
    WET_FROM,
    WET_TO,
    XRUNS,
)
from .kernels import fence, kernel, now_ns, pa_callback, view, wake

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

FADE = 64  # frames of the linear fade between the model's sound and the dry one
AGAIN_BLOCKS = 64  # within which a long block must come again to be one to expect: once may be a stall
LOUDEST = 1e6  # samples beyond this, NaN and Inf are no sound
FAINTEST = 1e-15


@kernel
def play_block(words: I64, floats: F32, given: F32, played: F32, n: int, status: int, moment: int) -> None:  # noqa: PLR0917
    """``given`` (n * input width) in, ``played`` (n * output width) out, both interleaved; ``status`` as PortAudio has it, and
    ``moment`` its time in ns, 0 where it has none."""
    started = now_ns()
    start = words[FRAMES]
    _take(words, floats, given, start, n)
    _measure(words, n, moment, started)
    fence()  # the sound before its count
    words[FRAMES] = start + n
    if words[WAKE_FD] >= 0 and start + n >= words[WAKE_AT]:
        wake(words[WAKE_FD])
    _give(words, floats, played, start, n)
    if status != 0:
        words[XRUNS] += 1
    at = CALLBACK_TIMES + 2 * (words[CALLBACKS] & (TIMES - 1))
    words[at], words[at + 1] = started, now_ns() - started
    words[CALLBACK_NS] = started
    words[CALLBACKS] += 1


@kernel
def _measure(words: I64, n: int, moment: int, started: int) -> None:
    """The device's blocks: ``n`` frames at ``moment``, heard of at ``started`` (both ns, of the device's clock and of ours).
    PortAudio hands a long block on in parts, all of one moment and one right after another, and the model has no time between
    them."""
    half_ns = n * 500_000_000 // words[RATE_HZ]
    at_once = started - words[CALLBACK_NS] < half_ns if started != 0 else moment != 0
    if moment == words[MOMENT] and at_once:
        words[LAST_BLOCK] += n
        return
    words[MOMENT], whole, words[LAST_BLOCK] = moment, words[LAST_BLOCK], n
    if whole == 0:
        return
    words[BLOCKS] += 1
    words[GRAIN] = math.gcd(words[GRAIN], whole)
    if whole > words[STEADY_BLOCK]:
        if words[BLOCKS] - words[LONG_AT] <= AGAIN_BLOCKS:
            words[STEADY_BLOCK] = max(words[STEADY_BLOCK], min(whole, words[LONG_BLOCK]))
        words[LONG_BLOCK], words[LONG_AT] = whole, words[BLOCKS]


@kernel
def _take(words: I64, floats: F32, given: F32, start: int, n: int) -> None:
    """Into the input ring; what is no sound becomes silence here, before anything remembers it."""
    inputs, width, faults = words[INPUTS], words[INPUT_WIDTH], 0
    for i in range(n):
        at = INPUT_RING + ((start + i) & (RING - 1)) * inputs
        for c in range(inputs):
            x = given[i * width + words[INPUT_MAP + c]]
            size = abs(x)
            if not size <= LOUDEST:
                faults = 1
                x = np.float32(0.0)
            elif size < FAINTEST:
                x = np.float32(0.0)
            floats[at + c] = x
    words[FAULTS] += faults


@kernel
def _give(words: I64, floats: F32, played: F32, start: int, n: int) -> None:
    """Out of the output ring, or of the input ring where that is late."""
    moved = _follow_latency(words, floats)
    ready = _ready(words, start - words[QUEUE_NOW])
    enough = ready >= n + FADE
    _count(words, floats, enough)
    inputs, outputs, width = words[INPUTS], words[OUTPUTS], words[OUTPUT_WIDTH]
    wet, master = floats[FADES_AT], floats[FADES_AT + 1]
    step, slope = np.float32(1.0 / FADE), np.float32(1.0) / np.float32(max(words[RAMP_FRAMES], 1))
    one, zero = np.float32(1.0), np.float32(0.0)
    played[: n * width] = 0.0
    for i in range(n):
        wet = min(wet + step, one) if enough else max(wet - step, zero)
        master = max(master - step, zero) if moved else min(master + step, one)
        _follow_dry(floats, inputs, outputs, slope)
        wet_at = OUTPUT_RING + ((start + i - words[QUEUE_NOW]) & (RING - 1)) * outputs
        dry_at = INPUT_RING + ((start + i - words[DELAY_NOW]) & (RING - 1)) * inputs
        for c in range(outputs):
            y = zero
            if wet > zero and i < ready:
                y += wet * floats[wet_at + c]
            if wet < one:
                y += (one - wet) * _dry(floats, dry_at, inputs, c)
            y *= master
            played[i * width + words[OUTPUT_MAP + c]] = y if abs(y) <= LOUDEST else zero
    floats[FADES_AT], floats[FADES_AT + 1] = wet, master


@kernel
def _follow_latency(words: I64, floats: F32) -> bool:
    """A new queue or delay is taken over in silence: True while the output fades out for it, or for the end, and as long as
    there is none yet: what is heard is always in time."""
    moved = words[QUEUE] != words[QUEUE_NOW] or words[DELAY] != words[DELAY_NOW]
    if moved and floats[FADES_AT + 1] == 0.0:
        words[QUEUE_NOW], words[DELAY_NOW], words[SETTLED] = words[QUEUE], words[DELAY], 0
        floats[FADES_AT] = 0.0
        moved = False
    return bool(moved or words[QUEUE_NOW] < 0 or words[STOP] != 0)


@kernel
def _ready(words: I64, at: int) -> int:
    """How many frames of the model's sound lie ready from frame ``at`` on."""
    if words[WET_EPOCH] != words[EPOCH] or at < words[WET_FROM]:
        return 0
    until = words[WET_TO]
    fence()  # the count before the sound
    return int(max(until - at, 0))


@kernel
def _count(words: I64, floats: F32, enough: bool) -> None:
    """Late is what comes after the model has once been in time."""
    if enough:
        words[SETTLED] = 1
    elif words[SETTLED] == 1:
        words[LATE_BLOCKS] += 1
        words[FADES] += 1 if floats[FADES_AT] == 1.0 else 0


@kernel
def _follow_dry(floats: F32, inputs: int, outputs: int, slope: F32) -> None:
    """The dry sound's gains, one sample nearer to their targets."""
    for c in range(outputs):
        for k in range(inputs):
            at = c * inputs + k
            gap = floats[DRY_TARGET + at] - floats[DRY_NOW + at]
            if gap != 0.0:
                if abs(gap) <= slope:
                    floats[DRY_NOW + at] = floats[DRY_TARGET + at]
                else:
                    floats[DRY_NOW + at] += slope if gap > 0.0 else -slope


@kernel
def _dry(floats: F32, at: int, inputs: int, output: int) -> np.float32:
    y = np.float32(0.0)
    for k in range(inputs):
        gain = floats[DRY_NOW + output * inputs + k]
        if gain != 0.0:
            y += gain * floats[at + k]
    return y


@pa_callback
def _portaudio(given, played, frames, time_info, status, board):  # type: ignore[no-untyped-def]  # noqa: PLR0917
    """int PaStreamCallback(const void *, void *, unsigned long, const PaStreamCallbackTimeInfo *, unsigned long, void *)"""
    words, floats = view(board, SIZE, np.int64), view(board, 2 * SIZE, np.float32)
    n = np.int64(frames)
    sound, heard = view(given, n * MAX_CHANNELS, np.float32), view(played, n * MAX_CHANNELS, np.float32)
    play_block(words, floats, sound, heard, n, np.int64(status), np.int64(1e9 * view(time_info, 3, np.float64)[1]))
    return 0


def address() -> int | None:
    """Of the compiled callback; None where Numba does not compile."""
    return getattr(_portaudio, "address", None)

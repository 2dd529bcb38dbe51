"""What a listener wants to know about the engine, as one value read off the board."""

from typing import NamedTuple

import numpy as np

from . import board as b
from .board import Board

RECENT = 256  # hops that the load speaks of: 1.4 s at the live geometry


class Level(NamedTuple):
    """Linear, of full scale."""

    peak: float
    rms: float


class Telemetry(NamedTuple):
    """One moment. Times in ms; levels of the buses are those before the faders, in the order of the running scene."""

    running: bool  # the device plays
    seconds: float  # of sound since the start, whoever played it
    inputs: tuple[Level, ...]
    outputs: tuple[Level, ...]
    buses: tuple[Level, ...]
    load: float  # share of a hop's time that a hop takes: nineteen of twenty recent hops take less
    late_blocks: int  # played dry, wholly or in part, because the model was late
    fades: int  # how often that began
    skipped_hops: int  # never computed: the model was too far behind
    faults: int  # blocks with NaN, infinite or impossible samples, from the device or the model
    xruns: int  # blocks that the device itself says it lost
    restarts: int  # of the audio process
    algorithmic_ms: float
    queue_ms: float
    device_ms: float  # as PortAudio says, not measured
    provider: str
    sample_rate_hz: int
    ended: bool = False  # told to stop


def read(board: Board) -> Telemetry:
    """The newest values; cheap, from any process."""
    words = board.words
    rate = max(int(words[b.RATE_HZ]), 1)
    hop_s = int(words[b.HOP_NS]) / 1e9
    hops = board.hop_times()[-RECENT:, 0] if words[b.HOPS] < b.TIMES else _newest_hops(board)
    return Telemetry(
        running=bool(words[b.STATE] == b.PLAYING),
        seconds=int(words[b.FRAMES]) / rate,
        inputs=_levels(board, "input_levels", int(words[b.INPUTS])),
        outputs=_levels(board, "output_levels", int(words[b.OUTPUTS])),
        buses=_levels(board, "bus_levels", int(words[b.BUSES])),
        load=float(np.percentile(hops, 95)) / 1e9 / hop_s if len(hops) and hop_s else 0.0,
        late_blocks=int(words[b.LATE_BLOCKS]),
        fades=int(words[b.FADES]),
        skipped_hops=int(words[b.SKIPPED]),
        faults=int(words[b.FAULTS] + words[b.FAULTY_HOPS]),
        xruns=int(words[b.XRUNS]),
        restarts=int(words[b.RESTARTS]),
        algorithmic_ms=1000 * int(words[b.ALGORITHMIC]) / rate,
        queue_ms=1000 * max(int(words[b.DELAY] - words[b.ALGORITHMIC]), 0) / rate,
        device_ms=int(words[b.DEVICE_US]) / 1000,
        provider={b.CPU: "cpu", b.CUDA: "cuda"}.get(int(words[b.PROVIDER]), "none"),
        sample_rate_hz=int(words[b.RATE_HZ]),
        ended=bool(words[b.STOP]),
    )


def _newest_hops(board: Board) -> np.ndarray:
    places = (int(board.words[b.HOPS]) - 1 - np.arange(RECENT)) % b.TIMES
    newest: np.ndarray = board.hop_times()[places, 0]
    return newest


def _levels(board: Board, area: str, count: int) -> tuple[Level, ...]:
    pairs = board.area(area, count, 2)
    return tuple(Level(float(peak), float(square) ** 0.5) for peak, square in pairs)

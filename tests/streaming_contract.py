"""The laws that every streaming stage obeys, as one check: ``verify(stage, signal)``.

A stage is a small adapter: ``initial()`` makes a state, ``step(block, state)`` returns (output, new state), blocks of
(lanes, n * grain) samples in, (..., n * out_grain) out. Every law of a stream is here; a new stage gets all of them
for one line.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

EDGES = (0, 1, 2, 17, 509)


@dataclass(frozen=True)
class Stage:
    """``grain``: input samples (last axis) that a block must be a multiple of; 1 takes any block."""

    initial: Callable[[], Any]
    step: Callable[[Any, Any], tuple[Any, Any]]
    grain: int = 1
    keep: Callable[[Any], Any] = lambda state: state  # a copy of the state that lasts
    axis: int = -1  # time axis of the input and of every output
    tolerance: float = 0.0
    empty: bool = True  # takes blocks of nothing
    lanes: bool = False  # input rows are independent of one another


def verify(stage: Stage, signal: NDArray[Any]) -> None:
    """Laws 1 to 4 for ``signal``, whose length along the axis is a multiple of the grain."""
    whole = run(stage, signal, [size(stage, signal)])
    for blocks in groupings(stage, signal):
        same(run(stage, signal, blocks), whole, stage.tolerance, f"blocks {blocks[:4]}...")
    state_is_a_value(stage, signal)
    future_never_changes_the_past(stage, signal, whole)
    if stage.lanes:
        lanes_do_not_mix(stage, signal, whole)


def size(stage: Stage, signal: NDArray[Any]) -> int:
    return signal.shape[stage.axis] // stage.grain


def take(stage: Stage, signal: NDArray[Any], start: int, stop: int) -> NDArray[Any]:
    index = [slice(None)] * signal.ndim
    index[stage.axis] = slice(start * stage.grain, stop * stage.grain)
    return signal[tuple(index)]


def run(stage: Stage, signal: NDArray[Any], blocks: Iterable[int], state: Any = None) -> NDArray[Any]:
    state = stage.initial() if state is None else state
    outputs, at = [], 0
    for block in blocks:
        out, state = stage.step(take(stage, signal, at, at + block), state)
        outputs.append(np.array(out))
        at += block
    return np.concatenate(outputs, axis=stage.axis)


def groupings(stage: Stage, signal: NDArray[Any]) -> list[list[int]]:
    """The same signal cut by every edge size, and by all of them in turn."""
    total = size(stage, signal)
    cuts = [fill([edge], total) for edge in EDGES if 0 < edge < total]
    return [*cuts, fill([e for e in EDGES if e < total and (e or stage.empty)], total)]


def fill(pattern: list[int], total: int) -> list[int]:
    blocks: list[int] = []
    while sum(blocks) < total:
        blocks.append(min(pattern[len(blocks) % len(pattern)], total - sum(blocks)))
    return blocks


def same(got: Any, wanted: Any, tolerance: float, what: str) -> None:
    assert got.shape == wanted.shape, f"{what}: shape {got.shape}, expected {wanted.shape}"
    apart = float(np.abs(got - wanted).max(initial=0.0))
    assert apart <= tolerance, f"{what}: apart by {apart:g}, allowed {tolerance:g}"


def state_is_a_value(stage: Stage, signal: NDArray[Any]) -> None:
    """A step leaves its state alone, a kept state replays bit for bit, a fresh state is fresh."""
    half = size(stage, signal) // 2
    _, middle = stage.step(take(stage, signal, 0, half), stage.initial())
    kept = stage.keep(middle)
    first, _ = stage.step(take(stage, signal, half, 2 * half), middle)
    first = np.array(first)
    for _ in range(2):  # other work in between must not show
        stage.step(take(stage, signal, 0, half), stage.initial())
    again, _ = stage.step(take(stage, signal, half, 2 * half), kept)
    np.testing.assert_array_equal(np.array(again), first)
    fresh = [np.array(stage.step(take(stage, signal, 0, half), stage.initial())[0]) for _ in range(2)]
    np.testing.assert_array_equal(fresh[0], fresh[1])


def future_never_changes_the_past(stage: Stage, signal: NDArray[Any], whole: NDArray[Any]) -> None:
    """Poison everything from the middle on; what came out before must not move."""
    half = size(stage, signal) // 2
    poisoned = np.array(signal)
    take(stage, poisoned, half, size(stage, signal))[...] = np.nan
    before = whole.shape[stage.axis] * half // size(stage, signal)
    index = [slice(None)] * whole.ndim
    index[stage.axis] = slice(0, before)
    with np.errstate(invalid="ignore"):
        past = run(stage, poisoned, [1] * size(stage, signal) if stage.grain > 1 else fill([17], size(stage, signal)))
    same(past[tuple(index)], whole[tuple(index)], stage.tolerance, "poisoned future")


def lanes_do_not_mix(stage: Stage, signal: NDArray[Any], whole: NDArray[Any]) -> None:
    """Poison the first row; the others must not move."""
    poisoned = np.array(signal)
    poisoned[0] = np.nan
    with np.errstate(invalid="ignore"):
        others = run(stage, poisoned, [size(stage, signal)])
    lane = whole.shape.index(signal.shape[0])
    rest = [slice(None)] * whole.ndim
    rest[lane] = slice(1, None)
    same(others[tuple(rest)], whole[tuple(rest)], stage.tolerance, "other lanes")

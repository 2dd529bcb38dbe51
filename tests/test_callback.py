"""The audio callback, called by hand: dry, wet, and what lies between; faults, latency, counters, the compiled twin."""

import ctypes
import select
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_device import FakeDevice, delayed, noise
from sepstream import board as b
from sepstream import callback
from sepstream.callback import FADE, LOUDEST
from sepstream.live import queue_frames
from sepstream.worker import Alarm

LENGTH = 3000
POISON = np.float32(9999.0)  # where no sound has been published
SIZES = st.one_of(st.integers(2, 700), st.sampled_from([1, FADE - 1, FADE, FADE + 1, 256]))
BLOCKS = st.one_of(st.just([1]), st.lists(SIZES, min_size=1, max_size=6).filter(lambda sizes: sum(sizes) > 8 * len(sizes)))
CHANNELS = st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True)
STARTS = st.sampled_from([0, 1, b.RING - 300, 5 * b.RING - 1, (1 << 50) + 12345])


def started(queue: int = 500, delay: int = 800, dry: np.ndarray | None = None, **settings: Any) -> FakeDevice:
    """A device that has settled; the dry sound goes straight through."""
    device = FakeDevice(**settings)
    device.set_latency(queue, delay)
    device.set_dry(np.eye(len(device.outputs), len(device.inputs), dtype=np.float32) if dry is None else dry)
    device.settle()
    return device


class Printer:
    """In the worker's place: it puts ``sound`` on the output ring, after each block a share of what could be there by then,
    up to ``lead`` frames before its time. What it has not published yet is POISON."""

    def __init__(self, device: FakeDevice, sound: np.ndarray, shares: list[float], lead: int = 0) -> None:
        self.device, self.sound, self.shares, self.lead = device, sound, shares, lead
        self.start, self.turns = device.now, 0
        device.board.output_ring()[(self.start + np.arange(len(sound))) % b.RING] = POISON
        device.words[b.WET_FROM] = device.words[b.WET_TO] = self.start
        device.words[b.WET_EPOCH] = device.words[b.EPOCH]
        device.work = self.work

    def work(self) -> None:
        done = int(self.device.words[b.WET_TO])
        room = min(self.device.now + self.lead, self.start + len(self.sound)) - done
        until = done + int(room * self.shares[self.turns % len(self.shares)])
        self.device.board.output_ring()[np.arange(done, until) % b.RING] = self.sound[done - self.start : until - self.start]
        self.device.words[b.WET_TO] = until
        self.turns += 1


def ramp(frames: int) -> np.ndarray:
    """(frames, 1) from silence to unity over the fade."""
    return np.minimum(np.arange(1, frames + 1) / FADE, 1.0)[:, None]


# Dry.


@given(BLOCKS, CHANNELS, CHANNELS, st.integers(0, 3000), STARTS)
def test_without_a_worker_the_input_plays_through_the_dry_gains_delayed(
    blocks: list[int], inputs: list[int], outputs: list[int], delay: int, start: int
) -> None:
    gains = 10 * noise(len(outputs), len(inputs), 3)
    device = started(delay=delay, dry=gains, inputs=inputs, outputs=outputs, spare=2, start=start)
    device.floats[b.FADES_AT + 1] = 0.0  # the very beginning
    sound = noise(LENGTH, len(inputs))
    np.testing.assert_allclose(device.play(sound, blocks), ramp(LENGTH) * (delayed(sound, delay) @ gains.T), atol=2e-6)
    assert device.words[b.LATE_BLOCKS] == device.words[b.FADES] == 0  # late is what comes after the model was in time


@given(BLOCKS, st.integers(1, 500), st.lists(st.floats(-2, 2, width=32), min_size=4, max_size=4))
def test_dry_gains_go_to_their_targets_in_a_straight_line(blocks: list[int], frames: int, targets: list[float]) -> None:
    was, wanted = np.float32([[1, 0], [0, -1]]), np.float32(targets).reshape(2, 2)
    for lane in range(2):  # a constant on one input makes its gains audible
        device = started(delay=0, dry=was, ramp_frames=frames)
        device.set_dry(wanted)
        sound = np.zeros((3 * frames + 1, 2), np.float32)
        sound[:, lane] = 1.0
        walk = np.arange(1, len(sound) + 1)[:, None] / frames
        line = was[:, lane] + np.clip(wanted[:, lane] - was[:, lane], -walk, walk)
        heard = device.play(sound, blocks)
        np.testing.assert_allclose(heard, line, atol=len(sound) * np.finfo(np.float32).eps)  # a rounding a frame
        np.testing.assert_array_equal(heard[-1], wanted[:, lane])


# Wet.


@given(BLOCKS, CHANNELS, CHANNELS, st.integers(0, 1000), STARTS)
def test_a_model_in_time_is_all_that_is_heard(
    blocks: list[int], inputs: list[int], outputs: list[int], slack: int, start: int
) -> None:
    queue = max(blocks) + FADE + slack
    dry = np.ones((len(outputs), len(inputs)), np.float32)
    device = started(queue, queue + 300, dry, inputs=inputs, outputs=outputs, spare=1, start=start)
    wet = noise(LENGTH, len(outputs), 1)
    Printer(device, wet, [1.0])
    heard = device.play(noise(LENGTH, len(inputs)), blocks)
    here = queue + max(blocks) + FADE  # the ring's first frames have come, a block has begun, the fade is over
    np.testing.assert_array_equal(heard[here:], delayed(wet, queue)[here:])
    assert device.words[b.LATE_BLOCKS] == device.words[b.FADES] == 0 and device.words[b.SETTLED] == 1


def test_the_rings_go_round() -> None:
    frames, device = 2 * b.RING + 5000, started(queue=3000, delay=4000)
    sound, wet = noise(frames), noise(frames, 2, 1)
    np.testing.assert_array_equal(device.play(sound, (1000,)), delayed(sound, 4000))
    device.work = Printer(device, wet[:50000], [1.0]).work
    heard = device.play(sound, (1000,), late=lambda block: block >= 60)
    np.testing.assert_array_equal(heard[5000:50000], wet[2000:47000])
    np.testing.assert_array_equal(heard[54000:], sound[50000:-4000])


@given(BLOCKS, st.integers(-3, 3))
def test_another_epoch_is_not_played(blocks: list[int], apart: int) -> None:
    device, sound = started(), noise(LENGTH)
    Printer(device, noise(LENGTH, 2, 1), [1.0], lead=2000)
    device.words[b.WET_EPOCH] += apart
    assert np.array_equal(device.play(sound, blocks), delayed(sound, 800)) == (apart != 0)


@given(BLOCKS, st.integers(0, 1000))
def test_nothing_is_played_from_before_the_stretch_begins(blocks: list[int], begins: int) -> None:
    device = started(queue=900)
    Printer(device, np.ones((LENGTH, 2), np.float32), [1.0], lead=900)
    device.words[b.WET_FROM] = begins
    heard = device.play(np.zeros((LENGTH, 2), np.float32), blocks)
    assert not heard[: 900 + begins].any()
    assert heard[900 + begins + max(blocks) + FADE :].all()


# Between the two: a model that comes late now and then.

QUEUES = st.integers(FADE, 1500)
LATENESS = st.lists(st.sampled_from([0.0, 0.3, 0.7, 1.0, 1.0, 1.0]), min_size=1, max_size=12)


def share(queue: int, blocks: list[int], published: list[float]) -> tuple[np.ndarray, FakeDevice]:
    """(LENGTH, 1) how much of the model is heard: it plays 1 and the input is silent."""
    device = started(queue, inputs=(0,), outputs=(0,))
    Printer(device, np.ones((LENGTH, 1), np.float32), published)
    return device.play(np.zeros((LENGTH, 1), np.float32), blocks), device


@settings(max_examples=30)
@given(QUEUES, BLOCKS, LATENESS)
def test_the_model_comes_and_goes_linearly_and_nothing_is_played_that_was_not_there(
    queue: int, blocks: list[int], published: list[float]
) -> None:
    wet = share(queue, blocks, published)[0][:, 0]
    assert wet.min() >= 0.0 and wet.max() <= 1.0  # POISON would be heard
    steps = np.diff(wet, prepend=0.0)
    assert set(np.abs(steps).tolist()) <= {0.0, 1.0 / FADE}
    inside = (wet[:-1] > 0) & (wet[:-1] < 1)
    assert steps[1:][inside].all()  # it never rests half-way


@settings(max_examples=30)
@given(QUEUES, BLOCKS, LATENESS)
def test_what_is_heard_is_the_model_and_the_dry_sound_of_one_moment_in_these_shares(
    queue: int, blocks: list[int], published: list[float]
) -> None:
    wet, _ = share(queue, blocks, published)
    device, sound, printed = started(queue, queue + 77), noise(LENGTH), noise(LENGTH, 2, 1)
    Printer(device, printed, published)
    heard = device.play(sound, blocks)
    np.testing.assert_allclose(heard, wet * delayed(printed, queue) + (1 - wet) * delayed(sound, queue + 77), atol=1e-6)


@settings(max_examples=30)
@given(QUEUES, BLOCKS, LATENESS)
def test_no_step_is_larger_than_those_of_the_two_sounds_and_of_the_fade(
    queue: int, blocks: list[int], published: list[float]
) -> None:
    device, at = started(queue, queue, inputs=(0,), outputs=(0,)), np.arange(LENGTH)[:, None]
    wet, sound = np.sin(at / 50).astype(np.float32), np.sin(at / 70 + 2).astype(np.float32)
    Printer(device, wet, published)
    heard = device.play(sound, blocks)
    assert np.abs(np.diff(heard[queue:], axis=0)).max() <= 1 / 50 + np.abs(wet - sound).max() / FADE + 1e-6


@settings(max_examples=30)
@given(QUEUES, BLOCKS, LATENESS)
def test_late_blocks_and_fades_are_those_that_one_hears(queue: int, blocks: list[int], published: list[float]) -> None:
    wet, device = share(queue, blocks, published)
    ends = np.array([at_end for at_end, _ in device.after])
    in_time = (np.diff(ends, prepend=0.0) > 0) | (ends == 1.0)  # it rises, or stays at the top
    assert device.words[b.LATE_BLOCKS] == np.cumsum(in_time).astype(bool)[~in_time].sum()
    assert device.words[b.FADES] == ((wet[:-1] == 1.0) & (wet[1:] < 1.0)).sum()


# What is no sound.

FRAMES = st.sets(st.integers(0, LENGTH - 1), max_size=20)


@given(BLOCKS, FRAMES, st.sampled_from([np.nan, np.inf, -np.inf, 1e30, -2 * LOUDEST]))
def test_in_the_input_it_becomes_silence_and_counts_once_a_block(blocks: list[int], where: set[int], bad: float) -> None:
    device, sound = started(delay=300), noise(LENGTH)
    for frame in where:
        sound[frame, frame % 2] = bad
    heard = device.play(sound, blocks)
    sound[~(np.abs(sound) <= LOUDEST)] = 0.0
    np.testing.assert_array_equal(heard, delayed(sound, 300))
    starts = np.cumsum([0, *blocks * LENGTH])
    assert device.words[b.FAULTS] == len(np.unique(np.searchsorted(starts, sorted(where), "right")))


def test_the_faintest_input_is_silence_and_no_fault() -> None:
    device, sound = started(delay=0), np.float32([[1e-39, 1e-16], [-1e-42, 1e-14], [-1e-20, -1e-14]])
    np.testing.assert_array_equal(device.play(sound), np.float32([[0, 0], [0, 1e-14], [0, -1e-14]]))
    assert device.words[b.FAULTS] == 0


@settings(max_examples=30)
@given(BLOCKS, LATENESS, FRAMES, st.sampled_from([np.nan, np.inf, -np.inf, 1e30]))
def test_on_the_output_ring_it_is_not_played(blocks: list[int], published: list[float], where: set[int], bad: float) -> None:
    twins = []
    for fault in (bad, 0.0):
        device, wet = started(), noise(LENGTH, 2, 1)
        wet[list(where), 0] = fault
        Printer(device, wet, published)
        twins.append(device.play(noise(LENGTH), blocks))
    ill = (twins[0] != twins[1]).any(axis=1)
    assert np.isfinite(twins[0]).all()
    assert not twins[0][ill, 0].any()  # silent for these frames
    np.testing.assert_array_equal(twins[0][:, 1], twins[1][:, 1])  # and the other channel knows nothing of it


# Latency, and the end.


@given(BLOCKS, st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 500))
def test_another_latency_is_taken_over_in_silence(blocks: list[int], delay: int, later: int, before: int) -> None:
    device, sound = started(100, delay), noise(before + LENGTH)
    heard = device.play(sound[:before], blocks)
    device.set_latency(101, later)
    heard = np.concatenate([heard, device.play(sound[before:], blocks)])
    edges = before + np.cumsum([0, *blocks * (2 * FADE)])
    turn = int(edges[edges >= before + FADE][0])  # the first block that finds silence
    old, new = delayed(sound, delay), delayed(sound, later)
    np.testing.assert_array_equal(heard[:before], old[:before])
    np.testing.assert_allclose(heard[before:turn], (1 - ramp(turn - before)) * old[before:turn], atol=1e-6)
    np.testing.assert_allclose(heard[turn:], ramp(len(sound) - turn) * new[turn:], atol=1e-6)
    assert device.words[b.QUEUE_NOW] == 101 and device.words[b.DELAY_NOW] == later


def test_after_another_latency_the_model_is_waited_for_anew() -> None:
    device = started(queue=400, delay=500)
    Printer(device, noise(8000, 2, 1), [1.0])
    device.play(noise(2000))
    assert device.words[b.SETTLED] == 1
    device.set_latency(1000, 1100)
    device.words[b.WET_EPOCH] = -1
    device.play(noise(2 * FADE), (FADE,))
    assert device.words[b.SETTLED] == 0
    counted = int(device.words[b.LATE_BLOCKS])
    device.play(noise(1000))
    assert device.words[b.LATE_BLOCKS] == counted


@given(BLOCKS, st.booleans())
def test_the_end_fades_to_silence_and_stays_there(blocks: list[int], wet: bool) -> None:
    device, ones = started(queue=max(blocks) + FADE, delay=0), np.ones((LENGTH, 2), np.float32)
    if wet:
        Printer(device, np.ones((2 * LENGTH, 2), np.float32), [1.0])
    device.play(ones, blocks)
    device.words[b.STOP] = 1
    heard = device.play(ones, blocks)
    np.testing.assert_allclose(heard, np.repeat(1 - ramp(LENGTH), 2, axis=1), atol=1e-6)
    assert device.floats[b.FADES_AT + 1] == 0.0


# The twin, the clock, the counters.

COUNTED = [b.FRAMES, b.CALLBACKS, b.LAST_BLOCK, b.STEADY_BLOCK, b.GRAIN, b.QUEUE_NOW, b.DELAY_NOW, b.SETTLED]
LOSSES = [b.LATE_BLOCKS, b.FADES, b.FAULTS, b.XRUNS]


def story() -> FakeDevice:
    """Everything that can happen to a stream."""
    dry = np.float32([[1, 0, -0.5], [0, 0.7, 0]])
    device = started(300, 400, dry, inputs=(1, 0, 3), outputs=(2, 0), spare=1, start=b.RING - 700, ramp_frames=100)
    Printer(device, noise(LENGTH, 2, 1), [1.0, 1.0, 1.0, 0.0, 0.2, 0.0, 0.0, 1.0])
    sound = noise(2000, 3)
    sound[700, 1] = np.nan
    device.play(sound, (128, 31, 1), moment=lambda index: 1 + index // 3)
    device.set_latency(350, 450)
    device.set_dry(np.full((2, 3), 0.3, np.float32))
    device.play(sound[:1000], (64, 200), status=4)
    device.words[b.STOP] = 1
    device.play(sound[:500], (100,))
    return device


def test_the_compiled_callback_is_its_plain_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = story()
    for name in ("play_block", "_measure", "_take", "_give", "_follow_latency", "_ready", "_count", "_follow_dry", "_dry"):
        monkeypatch.setattr(callback, name, getattr(callback, name).py_func)
    monkeypatch.setattr(callback, "fence", lambda: None)
    monkeypatch.setattr(callback, "now_ns", time.monotonic_ns)
    plain = story()
    np.testing.assert_allclose(compiled.heard, plain.heard, atol=1e-6)  # contracted multiply-adds round once less
    np.testing.assert_array_equal(compiled.after, plain.after)
    for words in (COUNTED, LOSSES):
        np.testing.assert_array_equal(compiled.words[words], plain.words[words])
    assert compiled.heard.any() and compiled.words[LOSSES].all()


def test_what_portaudio_calls_is_the_same_callback() -> None:
    pointer, number, address = ctypes.c_void_p, ctypes.c_ulong, callback.address()
    assert address
    call = ctypes.CFUNCTYPE(ctypes.c_int, pointer, pointer, number, pointer, number, pointer)(address)
    by_hand, by_address, sound = started(), started(), noise(1000)
    wanted, heard = by_hand.play(sound, (100,), status=2, moment=lambda index: 10**9 * (1 + index // 2)), np.zeros_like(sound)
    for start in range(0, 1000, 100):
        block, played = sound[start : start + 100], heard[start : start + 100]
        times = np.array([0.0, 1 + start // 200, 0.0])  # the input's, now, the output's
        words = by_address.words.ctypes.data
        assert call(block.ctypes.data, played.ctypes.data, 100, times.ctypes.data, 2, words) == 0  # paContinue
    np.testing.assert_array_equal(heard, wanted)
    np.testing.assert_array_equal(by_address.words[COUNTED + LOSSES], by_hand.words[COUNTED + LOSSES])


@given(st.lists(st.tuples(SIZES, st.booleans()), min_size=1, max_size=6))
def test_blocks_frames_and_losses_are_counted(blocks: list[tuple[int, bool]]) -> None:
    device = started()
    for n, lost in blocks:
        device.play(noise(n), (n,), status=4 * lost)
    counts = (b.CALLBACKS, b.FRAMES, b.LAST_BLOCK, b.XRUNS)
    frames, losses = zip(*blocks, strict=True)
    assert tuple(device.words[list(counts)]) == (len(blocks), sum(frames), frames[-1], sum(losses))


PARTS = st.lists(
    st.lists(st.sampled_from([64, 128, 147, 192, 256, 441, 480, 512]), min_size=1, max_size=6), min_size=1, max_size=4
)


@given(PARTS, st.sampled_from([0, 256]))
def test_the_queue_is_long_enough_for_whatever_blocks_come_again_and_again_in_parts_too(blocks, slack) -> None:
    device, hop = started(queue=-1, delay=-1), 256
    words = device.words
    words[b.WET_EPOCH] = words[b.EPOCH]

    def turn() -> None:
        for moment, parts in enumerate(blocks, int(words[b.MOMENT]) + 1):
            device.play(noise(sum(parts)), parts, moment=lambda _, moment=moment: moment)  # a model has no time between parts
            words[b.WET_TO] = words[b.FRAMES] // hop * hop  # but all of it between blocks
            if words[b.STEADY_BLOCK]:
                queue = queue_frames(int(words[b.STEADY_BLOCK]), int(words[b.GRAIN]), hop, 48000, 48000, slack=slack)
                device.set_latency(max(queue, int(words[b.QUEUE])), queue)

    for _ in range(20):
        turn()
    late = words[b.LATE_BLOCKS]
    for _ in range(20):
        turn()
    assert words[b.LATE_BLOCKS] == late and words[b.SETTLED] == 1
    assert words[b.STEADY_BLOCK] == max(map(sum, blocks))


def test_a_block_that_comes_once_is_not_one_to_expect() -> None:
    device = started()
    device.play(noise(5000), (128,))
    device.play(noise(4096), (4096,))
    device.play(noise(20_000), (128,))
    assert device.words[b.STEADY_BLOCK] == 128


@pytest.mark.parametrize("moment", [0, 7])
def test_where_the_moment_stands_still_the_clock_tells_blocks_apart(moment: int) -> None:
    device, long = started(), 24_000  # half of which no two calls lie apart, here
    device.play(noise(2 * long), (long,), moment=lambda _: moment)
    assert device.words[b.LAST_BLOCK] == 2 * long
    device.words[b.CALLBACK_NS] -= 10**9
    device.play(noise(long), (long,), moment=lambda _: moment)
    assert device.words[b.LAST_BLOCK] == long


def test_every_call_leaves_its_time_and_the_oldest_give_way() -> None:
    device, before = started(), time.monotonic_ns()
    device.play(noise(b.TIMES + 10), (1,))
    after, times = time.monotonic_ns(), np.roll(device.board.callback_times(), -10, axis=0)  # the first 10 have given way
    starts, ends = times[:, 0], times.sum(axis=1)
    assert times.shape == (b.TIMES, 2) and (ends >= starts).all() and (ends[:-1] <= starts[1:]).all()
    assert before <= starts[0] and ends[-1] <= after
    assert device.words[b.CALLBACK_NS] == starts[-1]


def test_the_worker_is_woken_when_there_are_as_many_frames_as_it_asked_for() -> None:
    device, alarm = started(), Alarm()
    try:
        device.words[b.WAKE_FD], device.words[b.WAKE_AT] = alarm.write, 500
        for frames, rings in ((499, False), (1, True), (100, True)):
            device.play(noise(frames), (frames,))
            assert bool(select.select([alarm.read], [], [], 0)[0]) == rings
            if rings:
                alarm.wait()  # takes it back
        device.words[b.WAKE_AT] = 700
        device.play(noise(99), (99,))
        assert not select.select([alarm.read], [], [], 0)[0]
    finally:
        alarm.close()

"""The worker on a fake device: whatever comes, late, at another rate or from another scene, the sound stays whole.

Most tests play a scene of unity: the buses add up to the input, so that every sample of the output is known.
"""

import os
import subprocess
import sys
from collections.abc import Collection
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import toy_bundle
from fake_device import FakeDevice, band_limited, delayed, noise
from sepstream import board as b
from sepstream import callback
from sepstream.contract import Bundle, StftSpec, load_bundle, read_bundle
from sepstream.control.desk import Desk
from sepstream.control.mailbox import Order, post
from sepstream.control.scene import Scene
from sepstream.live import queue_frames
from sepstream.selection import Selection, Strip, read_bus
from sepstream.separator import Separation
from sepstream.worker import PATIENCE_HOPS, Worker

ROOT = Path(__file__).resolve().parents[1]
SMALL = StftSpec(256, 96, 64)  # quick, and the overlap is not half
HOP = SMALL.hop_samples
RAMP = 960  # 20 ms at 48 kHz
SIZES = st.one_of(st.integers(8, 512), st.sampled_from([HOP - 1, HOP, HOP + 1, 1]))
BLOCKS = st.lists(SIZES, min_size=1, max_size=6).filter(lambda sizes: sum(sizes) > 16 * len(sizes))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(toy_bundle.make(tmp_path_factory.mktemp("toy"), geometry=SMALL, hops=(1,)))


@pytest.fixture(scope="module")
def ahead(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(toy_bundle.make(tmp_path_factory.mktemp("ahead"), geometry=SMALL, hops=(1,), lookahead_hops=2))


def buses(*texts: str, residual: bool = False) -> Selection:
    return Selection(tuple(map(read_bus, texts)), Strip() if residual else None)


def unities(bundle: Bundle) -> list[Selection]:
    """Buses that add up to the input."""
    return [
        Selection.stems(bundle, "leaves"),
        Selection.stems(bundle, "parents"),
        buses("all=mix"),
        buses("a=disc(0.2,0.1,r=0.7,soft=0.3)", "b=drums-disc(0.2,0.1,r=0.7,soft=0.3)", residual=True),
        buses("speech=cell(speech,soft=1)", "music=cell(music,soft=1)"),
        buses("music=music", "speech=speech"),
    ]


def settled(bundle: Bundle, selection: Selection | None = None, *, block: int = 512, **form: Any) -> tuple[FakeDevice, Desk]:
    """A device with a worker that is about to play."""
    device = FakeDevice(**form)
    desk = device.hire(bundle, block=block)
    desk.play(Scene(selection or Selection.stems(bundle)))
    device.settle()
    return device, desk


def wet(device: FakeDevice) -> np.ndarray:
    """(blocks,) the model's share after each block."""
    return np.array(device.after)[:, 0]


def same(device: FakeDevice, sound: np.ndarray, tolerance: float = 1e-6) -> None:
    """All that was played is the input, delayed."""
    np.testing.assert_allclose(device.heard, delayed(sound, int(device.words[b.DELAY])), atol=tolerance)


# Unity.


@settings(max_examples=20)
@given(BLOCKS, st.integers(0, 5), st.sampled_from([0, 7 * HOP, (1 << 40) + 3 * HOP]))
def test_buses_that_add_up_to_the_input_are_the_input_in_blocks_of_any_size(
    toy: Bundle, blocks: list[int], which: int, start: int
) -> None:
    device, _ = settled(toy, unities(toy)[which], start=start)
    sound = noise(5000)
    device.play(sound, blocks)
    same(device, sound)
    assert wet(device)[-1] == 1.0 and device.words[b.LATE_BLOCKS] == 0


@pytest.mark.parametrize("rate_hz", [44100, 48000, 96000, 32000])
@pytest.mark.parametrize("blocks", [(128,), (315, 64, 13, 1)], ids=str)
def test_a_device_at_another_rate_hears_the_same(toy: Bundle, rate_hz: int, blocks: tuple[int, ...]) -> None:
    device, _ = settled(toy, rate_hz=rate_hz, block=315)
    sound = band_limited(12000, 0.9 * min(rate_hz, 48000) / 2, rate_hz)
    device.play(sound, blocks)
    same(device, sound, 1e-6 if rate_hz == 48000 else 5e-5)  # the bridges' images and aliases are 93 dB down
    assert wet(device)[-1] == 1.0 and device.words[b.LATE_BLOCKS] == 0


@pytest.mark.parametrize("blocks", [(128,), (500, 1, 64)], ids=str)
def test_a_model_that_looks_ahead_is_in_time_with_the_dry_sound(ahead: Bundle, blocks: tuple[int, ...]) -> None:
    device, _ = settled(ahead)
    sound = noise(6000)
    device.play(sound, blocks)
    same(device, sound)
    assert wet(device)[-1] == 1.0


@pytest.mark.parametrize("inputs, outputs", [((0,), (0,)), ((2,), (1, 0)), ((0, 1, 2), (0, 1)), ((1, 0), (3, 0, 1, 2))], ids=str)
def test_nobody_hears_whether_the_model_plays_whatever_the_channels(toy: Bundle, inputs: Any, outputs: Any) -> None:
    selection = Selection(tuple(replace(bus, outputs=(1, 2, 3, 4)) for bus in Selection.stems(toy).buses))
    sound, heard = noise(5000, len(inputs)), []
    for works in (True, False):
        device, _ = settled(toy, selection, inputs=inputs, outputs=outputs, spare=1)
        heard.append(device.play(sound, (100,), late=lambda _: not works))  # noqa: B023  called within the turn
        assert wet(device)[-1] == works
    np.testing.assert_allclose(heard[0], heard[1], atol=1e-6)
    assert heard[0].any()


def test_the_shipped_model_plays_the_input_and_is_in_time() -> None:
    bundle = load_bundle("default")
    device, desk = settled(bundle, record=2)
    sound = noise(24000)
    device.play(sound[:12000], (128,))
    desk.play(Scene(Selection.stems(bundle, "parents")))
    device.play(sound[12000:], (128, 31, 480))
    same(device, sound, 2e-6)
    assert wet(device)[-1] == 1.0 and device.words[b.LATE_BLOCKS] == device.words[b.FAULTY_HOPS] == 0


# Late.

STALLS = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=4)  # blocks awake, blocks asleep


@settings(max_examples=20)
@given(STALLS, st.sampled_from([(64,), (128,), (100, 7)]))
def test_a_stall_is_heard_by_nobody_and_every_hop_is_played_or_counted(
    toy: Bundle, stalls: list[tuple[int, int]], blocks: tuple[int, ...]
) -> None:
    edges = np.cumsum([0, *np.ravel(stalls)])
    asleep = {block for start, stop in zip(edges[1::2], edges[2::2], strict=True) for block in range(start, stop)}
    device, _ = settled(toy, block=128)
    sound = noise((int(edges[-1]) + 30) * blocks[0])
    device.play(sound, blocks, late=asleep.__contains__)
    same(device, sound)
    assert wet(device)[-1] == 1.0  # it is back
    assert (device.words[b.HOPS] + device.words[b.SKIPPED]) * HOP == device.worker.at
    assert (wet(device) < 1.0).any() or not device.words[b.LATE_BLOCKS]


def test_patience_ends_where_it_is_said_to(toy: Bundle) -> None:
    for hops, skipped in ((PATIENCE_HOPS + 1, 0), (PATIENCE_HOPS + 2, PATIENCE_HOPS + 1)):  # beyond the newest block
        device, _ = settled(toy)
        sound = noise(HOP * (60 + hops))
        device.play(sound, (HOP,), late=range(30, 30 + hops).__contains__)
        same(device, sound)
        assert device.words[b.SKIPPED] == skipped


def test_large_blocks_are_no_stall(toy: Bundle) -> None:
    device, _ = settled(toy, block=1024)
    device.play(noise(12000), (1024,))
    assert wet(device)[-1] == 1.0 and device.words[b.SKIPPED] == 0


@pytest.mark.parametrize("frames", [b.RING // 2, b.RING + 1000, b.RECORD_FRAMES + 5000])
def test_a_stall_longer_than_the_rings_ends_like_any_other(toy: Bundle, frames: int) -> None:
    device, _ = settled(toy, block=500, record=2)
    sound = noise(frames + 6000)
    device.play(sound[:3000], (500,))
    device.play(sound[3000 : 3000 + frames], (4000,), late=lambda _: True)
    device.play(sound[3000 + frames :], (500,))
    same(device, sound)
    assert wet(device)[-1] == 1.0 and device.words[b.RECORDED] == device.worker.at


@pytest.mark.parametrize("rate_hz", [44100, 96000])
def test_a_stall_at_another_rate_is_heard_by_nobody(toy: Bundle, rate_hz: int) -> None:
    device, _ = settled(toy, rate_hz=rate_hz, block=128)
    sound = band_limited(20000, 17000, rate_hz)
    device.play(sound, (128,), late=lambda block: 20 <= block < 25 or 50 <= block < 70)
    same(device, sound, 5e-5)
    assert wet(device)[-1] == 1.0 and device.words[b.SKIPPED] > 0


# Other buses, other gains.


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(100, 2000)), min_size=2, max_size=6), BLOCKS)
def test_from_scene_to_scene_there_is_no_gap_and_no_step(toy: Bundle, parts: list[tuple[int, int]], blocks: list[int]) -> None:
    device, desk = settled(toy)
    sound, at = noise(4000 + sum(frames for _, frames in parts)), 4000
    device.play(sound[:at], blocks)
    for which, frames in parts:
        desk.play(Scene(unities(toy)[which]))
        device.play(sound[at : at + frames], blocks)
        at += frames
    same(device, sound)
    first = int(np.argmax(wet(device) == 1.0))
    assert (wet(device)[first:] == 1.0).all() and device.words[b.SKIPPED] == 0


@pytest.mark.parametrize("before, after", [(0.0, -90.0), (-90.0, 0.0), (0.0, -6.0), (-12.0, 6.0)])
def test_a_fader_moves_in_a_straight_line(toy: Bundle, before: float, after: float) -> None:
    device, desk = settled(toy, Selection((replace(read_bus("all=mix"), gain_db=before),)), inputs=(0,), outputs=(0,))
    ones = np.ones((4000, 1), np.float32)
    device.play(ones)
    desk.play(Scene(Selection((replace(read_bus("all=mix"), gain_db=after),))))
    heard = device.play(ones)[:, 0]
    low, high = (0.0 if db <= -90 else 10 ** (db / 20) for db in (before, after))
    began = int(np.argmax(np.abs(heard - low) > 1e-4))
    walk = np.arange(1, len(heard) - began + 1) / RAMP
    np.testing.assert_allclose(heard[began:], low + np.clip(high - low, -walk, walk), atol=3e-4)
    np.testing.assert_allclose(heard[:began], low, atol=1e-4)
    assert began < int(device.words[b.DELAY]) + HOP


def test_a_mute_is_silence_after_its_ramp_while_the_model_is_in_time_and_while_it_is_late(toy: Bundle) -> None:
    muted = Scene(Selection(tuple(replace(bus, mute=True) for bus in Selection.stems(toy).buses)))
    for works in (True, False):
        device, desk = settled(toy)
        device.play(noise(4000))
        desk.play(muted)
        heard = device.play(noise(6000), late=lambda _, works=works: not works)
        assert not heard[int(device.words[b.DELAY]) + HOP + RAMP + callback.FADE :].any()
        assert heard[: int(device.words[b.QUEUE]) - 2 * HOP].any()


def test_an_order_for_a_device_of_another_shape_is_left_alone(toy: Bundle) -> None:
    device, desk = settled(toy)
    sound, taken = noise(8000), []
    for start, (outputs, inputs) in zip(range(0, 8000, 2000), [(2, 2), (1, 2), (2, 1), (4, 2)], strict=True):
        if start:
            silent = Order(desk._compile(Selection.stems(toy, "parents")), (8, 9), np.zeros((outputs, 3, inputs), np.float32))
            post(device.board, silent, np.eye(2, dtype=np.float32))
        device.play(sound[start : start + 2000])
        taken.append((int(device.words[b.TAKEN]), int(device.words[b.BUSES])))
    same(device, sound)
    assert set(taken) == {(1, 5)}


# A model that goes wrong.


class Faulty:
    """The model, but in ``hops`` of its hops from now on its masks are ``value``."""

    def __init__(self, worker: Worker, hops: Collection[int], value: float = np.nan) -> None:
        self.model, self.hops, self.value, self.count = worker.pipeline.separator.step, set(hops), value, 0
        worker.pipeline.separator.step = self  # type: ignore[method-assign]

    def __call__(self, *given: Any) -> tuple[Separation, Any]:
        found, state = self.model(*given)
        if self.count in self.hops:
            found = Separation(np.full_like(found.masks, self.value), found.embedding)
        self.count += 1
        return found, state


@settings(max_examples=20)
@given(st.sets(st.integers(0, 60), min_size=1, max_size=12), BLOCKS)
def test_a_fault_of_the_model_is_heard_by_nobody_and_counted(toy: Bundle, hops: set[int], blocks: list[int]) -> None:
    device, _ = settled(toy)
    sound = noise(9000)
    device.play(sound[:3000], blocks)
    Faulty(device.worker, hops)
    device.play(sound[3000:], blocks)
    same(device, sound)
    assert device.words[b.FAULTY_HOPS] == len(hops)
    assert wet(device)[-1] == 1.0


def test_an_infinite_mask_is_a_fault_like_any_other(toy: Bundle) -> None:
    device, _ = settled(toy)
    sound = noise(6000)
    device.play(sound[:3000])
    Faulty(device.worker, {5}, np.inf)
    device.play(sound[3000:])
    same(device, sound)
    assert device.words[b.FAULTY_HOPS] == 1


def test_a_fault_in_the_memory_of_the_model_ends_with_its_hop(toy: Bundle) -> None:
    device, _ = settled(toy)
    sound = noise(6000)
    device.play(sound[:3000])
    state = device.worker.pipeline.state
    ill = state.model._replace(arrays=tuple(np.full_like(array, np.nan) for array in state.model.arrays))
    device.worker.pipeline.state = state._replace(model=ill)
    device.play(sound[3000:])
    same(device, sound)
    assert device.words[b.FAULTY_HOPS] == 1 and wet(device)[-1] == 1.0


def test_a_model_that_is_far_too_loud_is_not_let_out(toy: Bundle) -> None:
    device, _ = settled(toy)
    device.play(noise(3000))
    Faulty(device.worker, range(10), 1e30)
    heard = device.play(noise(6000))
    assert np.isfinite(heard).all() and np.abs(heard).max() <= callback.LOUDEST
    np.testing.assert_allclose(heard[-2000:], delayed(noise(6000), int(device.words[b.DELAY]))[-2000:], atol=1e-6)


def test_a_fault_behind_closed_faders_is_noticed_and_meters_and_recorder_do_not_hear_of_it(toy: Bundle) -> None:
    device, desk = settled(toy, record=2)
    desk.play(replace(Scene(Selection.stems(toy)), bypass=True))
    device.play(noise(3000))
    Faulty(device.worker, [5])
    device.play(noise(3000))
    assert device.words[b.FAULTY_HOPS] == 1
    assert np.isfinite(device.board.area("bus_levels", 5, 2)).all()
    assert np.isfinite(tape(device)).all()


# Epochs.


def test_another_epoch_begins_anew(toy: Bundle) -> None:
    device, _ = settled(toy)
    sound = noise(9000)
    device.play(sound[:4500])
    device.words[b.EPOCH] += 1
    device.play(sound[4500:])
    begins = slice(4500, 4500 + callback.FADE)  # what was played is worth nothing any more, the dry sound comes at once
    fade = np.arange(1, callback.FADE + 1)[:, None] / callback.FADE
    np.testing.assert_allclose(device.heard[begins], fade * delayed(sound, int(device.words[b.DELAY]))[begins], atol=1e-6)
    device.heard[begins] = delayed(sound, int(device.words[b.DELAY]))[begins]
    same(device, sound)
    assert wet(device)[-1] == 1.0 and device.words[b.STALE] == 0


def test_a_hop_that_an_epoch_overtook_is_dropped(toy: Bundle) -> None:
    device, _ = settled(toy)
    device.play(noise(3000))
    step, done = device.worker.pipeline.step, int(device.words[b.WET_TO])

    def overtaken(block: np.ndarray) -> np.ndarray:
        device.words[b.EPOCH] += 1
        device.worker.pipeline.step = step  # type: ignore[method-assign]
        return step(block)

    device.worker.pipeline.step = overtaken  # type: ignore[method-assign]
    device.play(noise(HOP), (HOP,))
    assert device.words[b.STALE] == 1 and device.words[b.WET_TO] == done
    device.play(noise(6000))
    assert wet(device)[-1] == 1.0 and device.words[b.STALE] == 1


def test_a_fresh_worker_goes_on_where_another_failed(toy: Bundle) -> None:
    device, _ = settled(toy, record=2)
    sound = noise(12000)
    for start in range(0, 12000, 4000):
        device.play(sound[start : start + 3000])
        assert wet(device)[-1] == 1.0
        device.worker = Worker(device.board, toy, "cpu")
        device.play(sound[start + 3000 : start + 4000], late=lambda _: True)
        device.worker._go_to(device.now // HOP * HOP)
    same(device, sound)
    assert np.isfinite(tape(device)).all() and device.words[b.RECORDED] % HOP == 0


# The tape.


def tape(device: FakeDevice) -> np.ndarray:
    """(slots, frames, channels): what the recorder would find."""
    rings = device.board.record_ring(len(device.inputs))
    assert rings is not None
    return rings[:, : int(device.words[b.RECORDED])]


def test_the_tape_holds_the_input_and_the_buses_in_time(toy: Bundle) -> None:
    device, desk = settled(toy, record=2)
    sound, slots = noise(6000), list(desk.slots.values())
    device.play(sound)
    recorded = tape(device)
    assert recorded.shape[1] == device.worker.at > 5500
    np.testing.assert_array_equal(recorded[0], delayed(sound, device.worker.lag)[: recorded.shape[1]])
    np.testing.assert_allclose(recorded[slots].sum(axis=0), recorded[0], atol=1e-6)
    assert all(recorded[slot].any() for slot in slots)
    assert not np.delete(recorded, [0, *slots], axis=0).any()


def test_a_bus_that_went_leaves_silence_and_finds_its_slot_again(toy: Bundle) -> None:
    device, desk = settled(toy, record=2)
    sound, edges = noise(9000), []
    for start, which in zip(range(0, 9000, 3000), ("leaves", "parents", "leaves"), strict=True):
        desk.play(Scene(Selection.stems(toy, which)))
        device.play(sound[start : start + 3000])
        edges.append(device.worker.at)
    recorded = tape(device)
    leaves, parents = ([desk.slots[name] for name in names] for names in (toy.leaves, toy.parents))
    parts = zip(pairwise([0, *edges]), (leaves, parents, leaves), (parents, leaves, parents), strict=True)
    for (start, stop), there, gone in parts:
        inside = slice(start + HOP + device.worker.lag, stop)  # the change comes with a hop, whole when the overlap is
        np.testing.assert_allclose(recorded[there, inside].sum(axis=0), recorded[0, inside], atol=1e-6)
        assert not recorded[gone, inside].any()


def test_what_is_recorded_of_the_buses_adds_up_across_a_change(toy: Bundle) -> None:
    device, desk = settled(toy, record=2)
    device.play(noise(3000))
    desk.play(Scene(Selection.stems(toy, "parents")))
    device.play(noise(3000))
    recorded = tape(device)
    np.testing.assert_allclose(recorded[1:].sum(axis=0), recorded[0], atol=1e-6)


@pytest.mark.parametrize("rate_hz", [48000, 96000, 44100])
def test_what_was_skipped_is_silence_of_the_same_length(toy: Bundle, rate_hz: int) -> None:
    sound, tapes = band_limited(15000 * rate_hz // 48000, 17000, rate_hz), []
    for asleep in (range(40, 61), range(0)):
        device, _ = settled(toy, rate_hz=rate_hz, record=2, block=100)
        device.play(sound, (100,), late=asleep.__contains__)
        assert (device.words[b.SKIPPED] > 0) == bool(asleep)
        tapes.append(tape(device)[0])
    stalled, whole = (recorded[:14000] for recorded in tapes)
    silent = ~stalled.any(axis=1) & whole.any(axis=1)
    np.testing.assert_allclose(stalled[~silent], whole[~silent], atol=1e-3)
    assert np.ptp(np.flatnonzero(silent)) == silent.sum() - 1  # in one piece


# Meters, the probe, and what nothing may do while it plays.


def test_peaks_fall_by_20_db_a_second_and_mean_squares_follow_in_300_ms(toy: Bundle) -> None:
    device, _ = settled(toy)
    areas = [device.board.area(name, count, 2) for name, count in (("input_levels", 2), ("output_levels", 2), ("bus_levels", 5))]
    device.play(0.5 * np.sign(noise(14400)))
    for levels in areas[:2]:
        np.testing.assert_allclose(levels, [[0.5, 0.25 * (1 - np.exp(-1))]] * 2, rtol=0.05)
    assert (areas[2] > 0).all()
    device.play(np.zeros((960, 2), np.float32))  # what is under way
    before = [levels.copy() for levels in areas]
    device.play(np.zeros((14400, 2), np.float32))
    for was, levels in zip(before, areas, strict=True):
        np.testing.assert_allclose(levels, was * [10 ** (-6 / 20), np.exp(-1)], rtol=0.02)


@pytest.mark.parametrize("rate_hz", [48000, 44100, 96000])
def test_a_probe_is_played_once_where_it_is_said_to_be(toy: Bundle, rate_hz: int) -> None:
    device, _ = settled(toy, rate_hz=rate_hz)
    silence = np.zeros((6000, 2), np.float32)
    device.play(silence)
    probe = np.repeat(np.hanning(HOP)[:, None] * np.sin(np.arange(HOP) / 3)[:, None], 2, axis=1).astype(np.float32)
    device.worker.probe = probe
    device.play(silence)
    left, shape = device.worker.probe_at + int(device.words[b.QUEUE_NOW]), device.worker.on_device(probe)
    matches = np.correlate(device.heard[:, 0], shape, "valid")
    assert abs(int(np.argmax(matches)) - left) <= (rate_hz != 48000)  # between two frames, where rates differ
    assert matches.max() > 0.97 * (shape**2).sum()
    assert device.worker.probe is None and not device.heard[left + len(shape) + 100 :].any()
    if rate_hz == 48000:
        np.testing.assert_array_equal(device.heard[left : left + HOP], probe)


class Hand:
    """In the alarm's place: instead of waiting, the device plays, as long as the callback would not ring."""

    def __init__(self, device: FakeDevice, sound: np.ndarray, block: int) -> None:
        self.device, self.sound, self.block, self.over = device, sound, block, False
        device.work = lambda: None

    def wait(self) -> None:
        words, start = self.device.words, self.device.now
        assert words[b.FRAMES] < words[b.WAKE_AT], "it waits for what is there"
        while words[b.FRAMES] < words[b.WAKE_AT] and not self.over:
            self.device.play(self.sound[start : start + self.block], (self.block,))
            start = self.device.now
            self.over = start >= len(self.sound)


@pytest.mark.parametrize("block", [7, 64, 100, 440])
@pytest.mark.parametrize("rate_hz", [48000, 44100])
def test_the_loop_sleeps_when_there_is_nothing_to_do_and_only_then(toy: Bundle, block: int, rate_hz: int) -> None:
    device, _ = settled(toy, rate_hz=rate_hz)
    hand = Hand(device, band_limited(6000, 17000, rate_hz), block)
    device.worker.run(hand, lambda: hand.over)  # type: ignore[arg-type]
    same(device, hand.sound, 5e-5)
    assert wet(device)[-1] == 1.0 and device.words[b.LATE_BLOCKS] == 0


# The queue of live.py, and the shape of things.


def queue(device: FakeDevice, block: int, slack: int = 0) -> int:
    """As LiveSession computes it."""
    worker, rate_hz = device.worker, int(device.words[b.RATE_HZ])
    return queue_frames(block, block, worker.hop, rate_hz, worker.bundle.sample_rate_hz, slack=slack)


def late_blocks(toy: Bundle, rate_hz: int, block: int, start: int, spare: int) -> int:
    """Of a worker that is never late, with the queue that is just enough, and ``spare`` frames more."""
    device, _ = settled(toy, rate_hz=rate_hz, start=start)
    least = queue(device, block) + spare
    device.set_latency(least, least + device.worker.lag_frames)
    device.settle()
    device.play(np.zeros((8000 // block * block, 2), np.float32), (block,))
    return int(device.words[b.LATE_BLOCKS]) if device.words[b.SETTLED] else len(device.after)


@pytest.mark.parametrize("block", [16, 48, 63, 64, 65, 100, 128, 256, 300])
@pytest.mark.parametrize("rate_hz", [48000, 44100, 96000])
def test_the_queue_is_enough_without_slack(toy: Bundle, rate_hz: int, block: int) -> None:
    assert late_blocks(toy, rate_hz, block, 0, 0) == 0
    if rate_hz == 48000:
        assert late_blocks(toy, rate_hz, block, 0, -1) > 0  # and no longer than it must be


@pytest.mark.parametrize("start", [1, 37, 63])
def test_the_queue_is_enough_wherever_the_count_of_frames_stands(toy: Bundle, start: int) -> None:
    assert late_blocks(toy, 48000, 64, start, 0) == 0


def test_a_look_ahead_longer_than_the_window_plays(tmp_path: Path) -> None:
    bundle = read_bundle(toy_bundle.make(tmp_path, geometry=SMALL, hops=(1,), lookahead_hops=4))
    device, _ = settled(bundle)
    sound = noise(6000)
    device.play(sound)
    same(device, sound)


COMPILED = """
import sys; from pathlib import Path
import test_worker as w
from sepstream import kernels
bundle = w.read_bundle(w.toy_bundle.make(Path(sys.argv[1]), geometry=w.SMALL, hops=(1,)))
for form in ({}, {"rate_hz": 44100}, {"inputs": (0,), "outputs": (0,)}):
    device, desk = w.settled(bundle, record=len(form.get("inputs", (0, 1))), **form)
    before = {name: len(k.signatures) for name, k in vars(kernels).items() if hasattr(k, "signatures")}
    sound = w.noise(9000, len(device.inputs))
    device.play(sound[:3000])
    desk.play(w.Scene(w.Selection.stems(bundle, "parents")))
    device.play(sound[3000:], late=range(10, 20).__contains__)
    print(form, [name for name, count in before.items() if len(vars(kernels)[name].signatures) > count])
"""


def test_nothing_is_compiled_while_it_plays(tmp_path: Path) -> None:
    paths = os.pathsep.join(str(ROOT / name) for name in ("engine", "tests"))
    command = [sys.executable, "-c", COMPILED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}, check=True)
    assert [line.rpartition("} ")[2] for line in done.stdout.splitlines()] == ["[]"] * 3

"""The audio callback, called by hand: dry, wet, and what lies between; faults, latency, counters, the compiled twin."""

import ctypes
import select
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_device import FakeDevice, delayed, noise
from sepstream import board as b
from sepstream import callback
from sepstream.callback import FADE, LOUDEST
from sepstream.worker import Alarm

LENGTH = 3000
POISON = np.float32(9999.0)  # where no sound has been published
BLOCKS = st.one_of(
    st.just([1]),
    st.lists(st.one_of(st.integers(2, 700), st.sampled_from([1, FADE - 1, FADE, FADE + 1, 256])), min_size=1, max_size=6).filter(
        lambda blocks: sum(blocks) > 8 * len(blocks)
    ),
)
MAPS = st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True)
STARTS = st.sampled_from([0, 1, b.RING - 300, 5 * b.RING - 1, (1 << 50) + 12345])


class Printer:
    """A worker of one frame a hop, which plays ``sound`` and publishes, after each block, a share of what it could.

    What it has not published yet is POISON on the ring.
    """

    def __init__(self, device: FakeDevice, sound: np.ndarray, shares: list[float], lead: int = 0) -> None:
        self.device, self.sound, self.shares, self.lead = device, sound, shares, lead
        self.start = device.now
        ring = device.board.output_ring()
        ring[(self.start + np.arange(len(sound) + lead)) % b.RING] = POISON
        device.words[b.WET_FROM] = device.words[b.WET_TO] = self.start
        device.words[b.WET_EPOCH] = device.words[b.EPOCH]
        device.work = self.work
        self.turns = 0

    def work(self) -> None:
        words, ring = self.device.words, self.device.board.output_ring()
        done = int(words[b.WET_TO])
        room = min(self.device.now + self.lead, self.start + len(self.sound)) - done
        until = done + int(room * self.shares[self.turns % len(self.shares)])
        ring[np.arange(done, until) % b.RING] = self.sound[done - self.start : until - self.start]
        words[b.WET_TO] = until
        self.turns += 1


def started(**settings: object) -> FakeDevice:
    """A device whose master is up and whose latency is settled."""
    queue, delay = settings.pop("queue", 500), settings.pop("delay", 800)
    device = FakeDevice(**settings)  # type: ignore[arg-type]
    device.set_latency(queue, delay)  # type: ignore[arg-type]
    device.words[b.QUEUE_NOW], device.words[b.DELAY_NOW] = queue, delay
    device.floats[b.FADES_AT + 1] = 1.0
    return device


def straight(device: FakeDevice) -> np.ndarray:
    return np.eye(len(device.outputs), len(device.inputs), dtype=np.float32)


def shares(queue: int, blocks: list[int], published: list[float], frames: int) -> tuple[np.ndarray, FakeDevice]:
    """(frames,) how much of the model is heard: it plays 1 and the input is silent."""
    device = started(inputs=(0,), outputs=(0,), queue=queue)
    Printer(device, np.ones((frames, 1), np.float32), published)
    return device.play(np.zeros((frames, 1), np.float32), blocks)[:, 0], device


# Dry.


@given(BLOCKS, MAPS, MAPS, st.integers(0, 3000), STARTS)
def test_without_a_worker_the_input_plays_through_the_dry_gains_delayed(blocks, inputs, outputs, delay, start) -> None:
    device = FakeDevice(inputs=inputs, outputs=outputs, spare=2, start=start)
    gains = noise(len(outputs), len(inputs), 3) * 10
    device.set_dry(gains)
    device.set_latency(100, delay)
    sound = noise(LENGTH, len(inputs))
    fade_in = np.minimum(np.arange(1, len(sound) + 1) / FADE, 1.0)[:, None]
    np.testing.assert_allclose(device.play(sound, blocks), fade_in * (delayed(sound, delay) @ gains.T), atol=2e-6)
    assert device.words[b.LATE_BLOCKS] == device.words[b.FADES] == 0  # late is what comes after the model was in time


@given(BLOCKS, st.integers(1, 500), st.lists(st.floats(-2, 2, width=32), min_size=4, max_size=4))
def test_dry_gains_go_to_their_targets_in_a_straight_line(blocks, ramp, targets) -> None:
    was, wanted = np.float32([[1, 0], [0, -1]]), np.float32(targets).reshape(2, 2)
    for lane in range(2):  # a constant on one input makes its gains audible
        device = started(ramp_frames=ramp, delay=0)
        device.set_dry(was)
        device.board.area("dry_target", 2, 2)[:] = wanted
        sound = np.zeros((3 * ramp + 1, 2), np.float32)
        sound[:, lane] = 1.0
        walk = np.arange(1, len(sound) + 1)[:, None] / ramp
        line = was[:, lane] + np.clip(wanted[:, lane] - was[:, lane], -walk, walk)
        heard = device.play(sound, blocks)
        np.testing.assert_allclose(heard, line, atol=len(sound) * np.finfo(np.float32).eps)  # a rounding a frame, below 2
        np.testing.assert_array_equal(heard[-1], wanted[:, lane])


# Wet.


@given(BLOCKS, MAPS, MAPS, st.integers(0, 1000), STARTS)
def test_a_model_in_time_is_all_that_is_heard(blocks, inputs, outputs, slack, start) -> None:
    queue = max(blocks) + FADE + slack
    device = started(inputs=inputs, outputs=outputs, spare=1, start=start, queue=queue, delay=queue + 300)
    device.set_dry(np.ones((len(outputs), len(inputs)), np.float32))
    wet = noise(LENGTH, len(outputs), 1)
    Printer(device, wet, [1.0])
    heard = device.play(noise(LENGTH, len(inputs)), blocks)
    from_here = queue + max(blocks) + FADE  # the ring's first frames have come, a block has begun, the fade is over
    np.testing.assert_array_equal(heard[from_here:], delayed(wet, queue)[from_here:])
    assert device.words[b.LATE_BLOCKS] == device.words[b.FADES] == 0 and device.words[b.SETTLED] == 1


@given(BLOCKS, st.integers(-3, 3))
def test_another_epoch_is_not_played(blocks, apart) -> None:
    device = started()
    device.set_dry(straight(device))
    Printer(device, noise(LENGTH, 2, 1), [1.0], lead=2000)
    device.words[b.WET_EPOCH] += apart
    sound = noise(LENGTH)
    heard = device.play(sound, blocks)
    np.testing.assert_array_equal(np.array_equal(heard, delayed(sound, 800)), apart != 0)


@given(BLOCKS, st.integers(0, 3000))
def test_nothing_is_played_from_before_the_stretch_begins(blocks, begins) -> None:
    device = started(queue=900, delay=1000)
    Printer(device, np.ones((LENGTH, 2), np.float32), [1.0], lead=900)
    device.words[b.WET_FROM] = begins
    heard = device.play(np.zeros((LENGTH, 2), np.float32), blocks)
    assert not heard[: 900 + begins].any()
    assert heard[900 + begins + max(blocks) + FADE :].all()


# Between the two.

LATENESS = st.lists(st.sampled_from([0.0, 0.3, 0.7, 1.0, 1.0, 1.0]), min_size=1, max_size=12)


@settings(max_examples=30)
@given(st.integers(FADE, 1500), BLOCKS, LATENESS)
def test_the_model_comes_and_goes_linearly_and_no_frame_is_played_that_was_not_there(queue, blocks, published) -> None:
    share, _ = shares(queue, blocks, published, LENGTH)
    assert share.min() >= 0.0 and share.max() <= 1.0  # POISON would be heard
    steps = np.diff(share, prepend=0.0)
    assert set(np.abs(steps).tolist()) <= {0.0, 1.0 / FADE}
    inside = (share[1:-1] > 0) & (share[1:-1] < 1)
    assert (steps[2:][inside] != 0).all()  # and never rests half-way


@settings(max_examples=30)
@given(st.integers(FADE, 1500), BLOCKS, LATENESS)
def test_what_is_heard_is_the_model_and_the_dry_sound_of_one_moment_in_these_shares(queue, blocks, published) -> None:
    share, _ = shares(queue, blocks, published, LENGTH)
    device = started(queue=queue, delay=queue + 77)
    device.set_dry(straight(device))
    sound, wet = noise(LENGTH), noise(LENGTH, 2, 1)
    Printer(device, wet, published)
    heard = device.play(sound, blocks)
    wanted = share[:, None] * delayed(wet, queue) + (1 - share[:, None]) * delayed(sound, queue + 77)
    np.testing.assert_allclose(heard, wanted, atol=1e-6)


@settings(max_examples=30)
@given(st.integers(FADE, 1500), BLOCKS, LATENESS)
def test_no_step_is_larger_than_those_of_the_two_sounds_and_of_the_fade(queue, blocks, published) -> None:
    device = started(inputs=(0,), outputs=(0,), queue=queue, delay=queue)
    device.set_dry(np.ones((1, 1), np.float32))
    at = np.arange(LENGTH)[:, None]
    wet, sound = (np.sin(at / 50).astype(np.float32), np.sin(at / 70 + 2).astype(np.float32))
    Printer(device, wet, published)
    heard = device.play(sound, blocks)
    own, apart = 1 / 50, np.abs(wet - sound).max()
    assert np.abs(np.diff(heard[queue:], axis=0)).max() <= own + apart / FADE + 1e-6


@settings(max_examples=30)
@given(st.integers(FADE, 1500), BLOCKS, LATENESS)
def test_late_blocks_and_fades_are_those_that_one_hears(queue, blocks, published) -> None:
    share, device = shares(queue, blocks, published, LENGTH)
    ends = np.array([wet for wet, _ in device.after])
    begins = np.concatenate([[0.0], ends[:-1]])
    in_time = ends > np.where(begins == 1.0, 0.999, begins)  # rises, or stays at the top
    first = int(np.argmax(in_time)) if in_time.any() else len(ends)
    assert device.words[b.LATE_BLOCKS] == (~in_time[first:]).sum()
    assert device.words[b.FADES] == ((share[:-1] == 1.0) & (share[1:] < 1.0)).sum()


# Faults.


@given(BLOCKS, st.sets(st.integers(0, LENGTH - 1), max_size=20), st.sampled_from([np.nan, np.inf, -np.inf, 1e30, -2 * LOUDEST]))
def test_what_is_no_sound_becomes_silence_and_counts_once_a_block(blocks, where, bad) -> None:
    device = started(delay=300)
    device.set_dry(straight(device))
    sound = noise(LENGTH)
    for frame in where:
        sound[frame, frame % 2] = bad
    heard = device.play(sound, blocks)
    sound[~(np.abs(sound) <= LOUDEST)] = 0.0
    np.testing.assert_array_equal(heard, delayed(sound, 300))
    starts = np.cumsum([0, *blocks * LENGTH])
    assert device.words[b.FAULTS] == len(np.unique(np.searchsorted(starts, sorted(where), "right")))


def test_the_faintest_is_silence_and_no_fault() -> None:
    device = started(delay=0)
    device.set_dry(straight(device))
    sound = np.float32([[1e-39, 1e-16], [-1e-42, 1e-14], [-1e-20, -1e-14]])
    np.testing.assert_array_equal(device.play(sound), np.float32([[0, 0], [0, 1e-14], [0, -1e-14]]))
    assert device.words[b.FAULTS] == 0


@given(BLOCKS, LATENESS, st.sets(st.integers(0, LENGTH - 1), max_size=20), st.sampled_from([np.nan, np.inf, -np.inf, 1e30]))
def test_what_is_no_sound_on_the_output_ring_is_not_played(blocks, published, where, bad) -> None:
    twins = []
    for fault in (bad, 0.0):
        device = started()
        device.set_dry(straight(device))
        wet = noise(LENGTH, 2, 1)
        wet[list(where), 0] = fault
        Printer(device, wet, published)
        twins.append(device.play(noise(LENGTH), blocks))
    ill = (twins[0] != twins[1]).any(axis=1)
    assert np.isfinite(twins[0]).all()
    assert not twins[0][ill, 0].any()  # silent for these frames
    np.testing.assert_array_equal(twins[0][:, 1], twins[1][:, 1])  # and the other channel knows nothing of it


# Latency, and the end.


@given(BLOCKS, st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 500))
def test_another_latency_is_taken_over_in_silence(blocks, delay, later, before) -> None:
    device = started(delay=delay, queue=100)
    device.set_dry(straight(device))
    sound = noise(before + LENGTH)
    heard = device.play(sound[:before], blocks)
    device.set_latency(101, later)
    heard = np.concatenate([heard, device.play(sound[before:], blocks)])
    down = np.clip(1 - np.arange(1, len(sound) - before + 1) / FADE, 0, 1)
    edges = before + np.cumsum([0, *blocks * (2 * FADE)])
    turn = int(edges[edges >= before + FADE][0])  # the first block that finds silence
    old, new = delayed(sound, delay), delayed(sound, later)
    up = np.minimum(np.arange(1, len(sound) - turn + 1) / FADE, 1)[:, None]
    np.testing.assert_array_equal(heard[:before], old[:before])
    np.testing.assert_allclose(heard[before:turn], down[: turn - before, None] * old[before:turn], atol=1e-6)
    np.testing.assert_allclose(heard[turn:], up * new[turn:], atol=1e-6)
    assert device.words[b.QUEUE_NOW] == 101 and device.words[b.DELAY_NOW] == later


def test_after_another_latency_the_model_is_waited_for_anew() -> None:
    device = started(queue=400, delay=500)
    Printer(device, noise(8000, 2, 1), [1.0])
    device.play(noise(2000))
    assert device.words[b.SETTLED] == 1
    device.set_latency(1000, 1100)
    device.play(noise(FADE), (FADE,))
    device.words[b.WET_EPOCH] = -1
    device.play(noise(1000))
    assert device.words[b.SETTLED] == 0 and device.words[b.LATE_BLOCKS] == 0


@given(BLOCKS, st.booleans())
def test_the_end_fades_to_silence_and_stays_there(blocks, wet) -> None:
    device = started(queue=max(blocks) + FADE, delay=0)
    device.set_dry(straight(device))
    ones = np.ones((LENGTH, 2), np.float32)
    if wet:
        Printer(device, np.ones((LENGTH, 2), np.float32), [1.0])
    device.play(ones, blocks)
    device.words[b.STOP] = 1
    heard = device.play(ones, blocks)
    np.testing.assert_allclose(heard[:, 0], np.clip(1 - np.arange(1, LENGTH + 1) / FADE, 0, 1), atol=1e-6)
    assert not heard[FADE:].any() and device.floats[b.FADES_AT + 1] == 0.0


# The twin, the clock, the counters.


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The callback as Python runs it."""
    for name in ("play_block", "_take", "_give", "_follow_latency", "_ready", "_count", "_follow_dry", "_dry"):
        monkeypatch.setattr(callback, name, getattr(callback, name).py_func)
    monkeypatch.setattr(callback, "fence", lambda: None)
    monkeypatch.setattr(callback, "now_ns", time.monotonic_ns)
    yield


COUNTED = [b.FRAMES, b.CALLBACKS, b.LAST_BLOCK, b.QUEUE_NOW, b.DELAY_NOW, b.SETTLED]
COUNTED += [b.LATE_BLOCKS, b.FADES, b.FAULTS, b.XRUNS]


def story() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Everything that can happen to a stream, and what it leaves on the board."""
    device = FakeDevice(inputs=(1, 0, 3), outputs=(2, 0), spare=1, start=b.RING - 700, ramp_frames=100)
    device.board.area("dry_target", 2, 3)[:] = np.float32([[1, 0, -0.5], [0, 0.7, 0]])
    device.set_latency(300, 400)
    Printer(device, noise(LENGTH, 2, 1), [1.0, 1.0, 1.0, 0.0, 0.2, 0.0, 0.0, 1.0])
    sound = noise(LENGTH, 3)
    sound[700, 1] = np.nan
    heard = [device.play(sound[:2000], (128, 31, 1))]
    device.set_latency(350, 450)
    device.board.area("dry_target", 2, 3)[:] = 0.3
    heard.append(device.play(sound[2000:3000], (64, 200), status=4))
    device.words[b.STOP] = 1
    heard.append(device.play(sound[3000:], (100,)))
    counted = [
        b.FRAMES,
        b.CALLBACKS,
        b.LAST_BLOCK,
        b.QUEUE_NOW,
        b.DELAY_NOW,
        b.SETTLED,
        b.LATE_BLOCKS,
        b.FADES,
        b.FAULTS,
        b.XRUNS,
    ]
    return np.concatenate(heard), device.words[counted].copy(), np.array(device.after)


def test_the_compiled_callback_is_its_plain_twin(request: pytest.FixtureRequest) -> None:
    compiled = story()
    request.getfixturevalue("plain")
    plain_ = story()
    np.testing.assert_allclose(compiled[0], plain_[0], atol=1e-6)  # contracted multiply-adds round once less
    np.testing.assert_array_equal(compiled[1], plain_[1])
    np.testing.assert_array_equal(compiled[2], plain_[2])
    assert compiled[0].any() and (compiled[1][6:] > 0).all()


def test_what_portaudio_calls_is_the_same_callback() -> None:
    pointer, number, address = ctypes.c_void_p, ctypes.c_ulong, callback.address()
    assert address
    call = ctypes.CFUNCTYPE(ctypes.c_int, pointer, pointer, number, pointer, number, pointer)(address)
    by_hand, by_address = started(), started()
    sound = noise(1000)
    for device in (by_hand, by_address):
        device.set_dry(straight(device))
    wanted = by_hand.play(sound, (100,), status=2)
    heard = np.zeros_like(sound)
    for start in range(0, 1000, 100):
        given_, played = sound[start : start + 100].copy(), np.zeros((100, 2), np.float32)
        code = call(given_.ctypes.data, played.ctypes.data, 100, None, 2, by_address.words.ctypes.data)
        assert code == 0  # paContinue
        heard[start : start + 100] = played
    np.testing.assert_array_equal(heard, wanted)
    assert by_address.words[b.XRUNS] == by_hand.words[b.XRUNS] == 10


@given(BLOCKS, st.lists(st.booleans(), min_size=1, max_size=5))
def test_blocks_frames_and_losses_are_counted(blocks, losses) -> None:
    device = started()
    for n, lost in zip(blocks, losses, strict=False):
        device.play(noise(n), (n,), status=4 * lost)
    counted = list(zip(blocks, losses, strict=False))
    assert device.words[b.CALLBACKS] == len(counted)
    assert device.words[b.FRAMES] == sum(n for n, _ in counted)
    assert device.words[b.LAST_BLOCK] == counted[-1][0]
    assert device.words[b.XRUNS] == sum(lost for _, lost in counted)


def test_every_call_leaves_its_time_and_the_oldest_give_way() -> None:
    device, before = started(), time.monotonic_ns()
    device.play(noise(b.TIMES + 10), (1,))
    after, times = time.monotonic_ns(), device.board.callback_times()
    assert times.shape == (b.TIMES, 2)
    starts, durations = times.T
    in_order = np.roll(starts, -10)  # the last 10 lie where the first 10 were
    assert before <= in_order[0] and (np.diff(in_order) >= 0).all() and in_order[-1] <= after
    assert (durations >= 0).all() and (in_order[:-1] + np.roll(durations, -10)[:-1] <= in_order[1:]).all()
    assert device.words[b.CALLBACK_NS] == in_order[-1]


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

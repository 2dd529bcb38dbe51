"""The recorder: files that are in time with each other, whatever comes, goes, is slow, or is full."""

import errno
import os
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sepstream import board as b
from sepstream.audiofile import AudioWriter, unwritable
from sepstream.board import Board
from sepstream.record import AHEAD, CHUNK, Recorder
from small_disk import room

RATE, CHANNELS, HOP = 48000, 2, 256


def sound(slot: int, start: int, frames: int) -> np.ndarray:
    """(frames, channels) what slot ``slot`` plays from frame ``start`` on; never silent, told apart by slot, channel, time."""
    at = np.arange(start, start + frames)[:, None]
    return ((at * (slot + 3)) % 5003 + 1 + np.arange(CHANNELS) / 2).astype(np.float32)


class Stage:
    """A board, a worker that plays onto its rings, and a recorder that takes its turns when told to."""

    def __init__(self, folder: Path, wanted: Callable[[], bool] | None = None) -> None:
        self.board = Board(folder / "board", create=True, record=CHANNELS)
        self.board.words[b.MODEL_HZ], self.board.words[b.INPUTS] = RATE, CHANNELS
        self.takes = folder / "takes"
        self.names: dict[str, int] | None = {}
        self.said: list[str] = []
        self.wanted = True
        self._used: set[int] = set()
        self.recorder = Recorder(self.board, self.takes, lambda: self.names, self.said.append, lambda: self.wanted)

    @property
    def now(self) -> int:
        return int(self.board.words[b.RECORDED])

    def play(self, frames: int, *slots: int) -> None:
        """As the worker does: the input, the buses, and silence where a bus was and is not."""
        tape = self.board.record_ring(CHANNELS)
        assert tape is not None
        self._used |= {0, *slots}
        for start in range(0, frames, CHUNK):
            n = min(CHUNK, frames - start)
            places = (self.now + np.arange(n)) & (b.RECORD_FRAMES - 1)
            for slot in self._used:
                tape[slot, places] = sound(slot, self.now, n) if slot in (0, *slots) else 0.0
            self.board.words[b.RECORDED] += n

    def turns(self, *frames: int, slots: tuple[int, ...] = ()) -> None:
        for n in frames:
            self.play(n, *slots)
            self.recorder.turn()

    def begin(self) -> None:
        self.wanted = True
        self.recorder.turn()

    def end(self) -> None:
        self.wanted = False
        self.recorder.turn()

    def files(self, take: int = 0) -> dict[str, np.ndarray]:
        """By name, (frames, channels), of the n-th take."""
        folder = sorted(self.takes.iterdir())[take]
        return {path.stem: soundfile.read(path, dtype="float32", always_2d=True)[0] for path in sorted(folder.iterdir())}


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def same(audio: np.ndarray, *parts: np.ndarray) -> None:
    np.testing.assert_array_equal(audio, np.concatenate(parts))


def silence(frames: int) -> np.ndarray:
    return np.zeros((frames, CHANNELS), np.float32)


# In time


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 40_000), max_size=12), st.integers(0, b.RECORD_FRAMES + 5))
def test_every_frame_lands_once_in_every_file_however_the_turns_fall(tmp_path_factory, turns, before):
    stage = Stage(tmp_path_factory.mktemp("stage"))
    stage.names = {"drums": 2, "vox": 1}
    stage.play(before, 1, 2)
    stage.begin()
    stage.turns(*turns, slots=(1, 2))
    stage.end()
    length = sum(turns)
    if not length:
        assert not list(stage.takes.iterdir())
        return
    files = stage.files()
    assert set(files) == {"input", "drums", "vox"}
    for name, slot in {"input": 0, **stage.names}.items():
        same(files[name], sound(slot, before, length))


def test_a_bus_that_comes_later_starts_with_silence_and_loses_nothing_though_its_name_comes_last(stage):
    stage.begin()
    stage.turns(1000, 2000)
    stage.turns(3000, slots=(4,))
    stage.names = {"late": 4}
    stage.turns(100, slots=(4,))
    stage.end()
    same(stage.files()["late"], silence(3000), sound(4, 3000, 3100))
    assert len(stage.files()["input"]) == 6100


def test_a_bus_that_is_away_is_silent_and_comes_back_into_the_same_file(stage):
    stage.begin()
    for names, slots in (({"vox": 1}, (1,)), ({"other": 2}, (2,)), ({"vox": 1, "other": 2}, (1, 2))):
        stage.names = names
        stage.turns(5000, slots=slots)
    stage.end()
    files = stage.files()
    same(files["vox"], sound(1, 0, 5000), silence(5000), sound(1, 10_000, 5000))
    same(files["other"], silence(5000), sound(2, 5000, 10_000))


def test_a_slot_that_another_bus_took_over_is_not_heard_twice(stage):
    stage.names = {"old": 1}
    stage.begin()
    stage.turns(5000, 0, slots=(1,))
    stage.names = {"new": 1}
    stage.turns(5000, 0, slots=(1,))
    stage.end()
    same(stage.files()["old"], sound(1, 0, 5000), silence(5000))
    same(stage.files()["new"], silence(5000), sound(1, 5000, 5000))


def test_buses_whose_names_are_alike_have_files_of_their_own(stage):
    stage.names = {"input": 1, "Vox": 2, "vox": 3}
    stage.begin()
    stage.turns(100, 0, slots=(1, 2, 3))
    stage.end()
    files = stage.files()
    assert {name: round(float(audio[1, 0])) for name, audio in files.items()} == {"input": 4, "input-2": 5, "Vox": 6, "vox-2": 7}


def test_what_is_no_number_is_recorded_as_silence(stage):
    stage.begin()
    stage.play(100)
    stage.board.record_ring(CHANNELS)[0, 40:60] = np.nan
    stage.end()
    same(stage.files()["input"], sound(0, 0, 40), silence(20), sound(0, 60, 40))


# When to record


def test_each_take_holds_what_was_played_while_it_was_wanted(stage):
    stage.end()
    stage.turns(1000)
    for length in (2000, 3000):
        stage.begin()
        assert stage.board.words[b.RECORDING] == 1
        stage.turns(length)
        stage.end()
        assert stage.board.words[b.RECORDING] == 0
        stage.turns(500)
    same(stage.files(0)["input"], sound(0, 1000, 2000))
    same(stage.files(1)["input"], sound(0, 3500, 3000))
    assert [line.split()[0] for line in stage.said] == ["recording", "recorded"] * 2


def test_nothing_is_made_before_there_is_a_device(stage):
    stage.board.words[b.INPUTS] = 0
    stage.turns(0, 0)
    assert not stage.takes.exists() and not stage.said
    stage.board.words[b.INPUTS] = CHANNELS
    stage.turns(0, 700)
    stage.end()
    same(stage.files()["input"], sound(0, 0, 700))


def test_nothing_is_made_before_there_is_a_scene(stage):
    stage.names = None
    stage.turns(0, 500)
    assert not stage.takes.exists() and not stage.said
    stage.names = {"vox": 1}
    stage.turns(0, 700, slots=(1,))
    stage.end()
    same(stage.files()["vox"], sound(1, 500, 700))


def test_a_device_with_other_channels_begins_another_take(stage):
    stage.begin()
    stage.turns(1000, 0)
    stage.board.words[b.INPUTS] = 1
    stage.turns(0, 0)
    stage.board.record_ring(1)[0, (stage.now + np.arange(9)) & (b.RECORD_FRAMES - 1)] = 0.5
    stage.board.words[b.RECORDED] += 9
    stage.end()
    same(stage.files(0)["input"], sound(0, 0, 1000))
    np.testing.assert_array_equal(stage.files(1)["input"], np.full((9, 1), 0.5))


def test_a_session_without_room_for_the_channels_says_so_once(stage):
    stage.board.words[b.INPUTS] = 8
    stage.turns(0, 0, 0)
    assert len(stage.said) == 1 and "8 channels" in stage.said[0]


# A slow disk


def test_what_a_slow_disk_missed_is_silent_counted_and_said_once_and_the_rest_is_in_time(stage):
    stage.names = {"vox": 1}
    stage.begin()
    stage.turns(1000, 0, slots=(1,))
    for _ in range(2):
        stage.turns(b.RECORD_FRAMES, 0, slots=(1,))  # a turn that took so long
        stage.turns(20_000, 0, slots=(1,))
    stage.end()
    hole = b.RECORD_FRAMES
    for name, slot in (("input", 0), ("vox", 1)):
        audio = stage.files()[name]
        same(audio[:1000], sound(slot, 0, 1000))
        same(audio[1000 : 1000 + hole], silence(hole))
        same(audio[1000 + hole : 21_000 + hole], sound(slot, 1000 + hole, 20_000))
        assert len(audio) == stage.now
    said = [line for line in stage.said if "fell behind" in line]
    assert len(said) == 1 and f"{hole / RATE:.1f} s" in said[0]
    assert f"{2 * hole / RATE:.1f} s of it silent" in stage.said[-1]


def test_a_ring_that_goes_round_while_it_is_read_is_noticed(stage):
    stage.begin()
    stage.turns(CHUNK)
    reading = stage.recorder._names
    stage.recorder._names = lambda: (stage.play(b.RECORD_FRAMES - AHEAD), reading())[1]
    stage.recorder.turn()
    stage.recorder._names = reading
    stage.end()
    same(stage.files()["input"], silence(CHUNK), sound(0, CHUNK, b.RECORD_FRAMES - AHEAD))


def test_a_long_take_needs_no_more_memory_than_a_short_one(stage):
    stage.names = {f"bus{slot}": slot for slot in range(1, 9)}
    stage.begin()
    stage.turns(0, *[12_000] * 4, slots=(1,))
    tracemalloc.start()
    peaks = []
    for turns in (4, 40):
        tracemalloc.reset_peak()
        stage.turns(*[12_000] * turns, slots=(1,))
        peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    stage.end()
    assert peaks[1] < 1.2 * peaks[0] and peaks[1] < 9 * CHUNK * CHANNELS * 4 * 4


# Trouble


def fails_once(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """The ``at``-th block of all finds a full disk, after half of it was written."""
    write, count = AudioWriter.write, iter(range(10**9))

    def full(self: AudioWriter, block: np.ndarray) -> None:
        if next(count) == at:
            write(self, block[:, : block.shape[1] // 2])
            self.position -= block.shape[1] // 2
            raise unwritable(self.path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        write(self, block)

    monkeypatch.setattr(AudioWriter, "write", full)


@pytest.mark.parametrize("at", range(0, 10))
def test_a_disk_that_is_full_at_any_block_leaves_files_of_one_length_and_one_line(stage, monkeypatch, at):
    stage.names = {"a": 1, "b": 2}
    fails_once(monkeypatch, at)
    stage.begin()
    stage.turns(*[1000] * 6, slots=(1, 2))
    whole = 1000 * (at // 3)
    assert stage.board.words[b.RECORDING] == 0
    assert len(stage.said) == 2 and "No space left on device; free some space" in stage.said[1]
    stage.turns(1000, 1000)
    assert len(stage.said) == 2
    if whole:
        assert "kept" in stage.said[1]
        for name, slot in (("input", 0), ("a", 1), ("b", 2)):
            same(stage.files()[name], sound(slot, 0, whole))
    else:
        assert not list(stage.takes.iterdir())
    stage.end()
    stage.begin()
    start = stage.now
    stage.turns(1000)
    stage.end()
    same(stage.files(-1)["input"], sound(0, start, 1000))


@pytest.mark.parametrize("size", [0, 100, 3000, 20_003])
def test_a_disk_that_is_really_full_keeps_what_is_there_playable(stage, size):
    stage.names = {"a": 1}
    stage.begin()
    with room(size):
        stage.turns(*[1000] * 6, slots=(1,))
    assert len(stage.said) == 2 and "File too large" in stage.said[1]
    kept = 1000 * (size // 8000)
    if kept:
        same(stage.files()["input"], sound(0, 0, kept))
        same(stage.files()["a"], sound(1, 0, kept))
    else:
        assert not list(stage.takes.iterdir())
    assert stage.board.words[b.RECORDING] == 0


def test_a_late_bus_that_finds_no_room_leaves_the_others_whole(stage):
    stage.begin()
    stage.turns(3000, 3000)
    stage.names = {"late": 1}
    with room(0):
        stage.turns(3000)
    assert set(stage.files()) == {"input"}
    same(stage.files()["input"], sound(0, 0, 3000))


@pytest.mark.parametrize("where", ["take", "file"])
def test_a_vanished_folder_or_file_is_told_once_and_the_next_take_is_whole(stage, where):
    stage.names = {"vox": 1}
    stage.begin()
    stage.turns(1000, 0, slots=(1,))
    (take,) = stage.takes.iterdir()
    for path in [p for p in take.iterdir() if where == "take" or "input" in p.name]:
        path.unlink()
    if where == "take":
        take.rmdir()
    stage.turns(1000, 1000, 1000, slots=(1,))
    assert len(stage.said) == 2 and "No such file" in stage.said[1] and stage.board.words[b.RECORDING] == 0
    if where == "file":
        assert set(stage.files()) == {"vox"} and not list(take.glob(".*"))
    stage.end()
    stage.begin()
    start = stage.now
    stage.turns(1000)
    stage.end()
    same(stage.files(-1)["input"], sound(0, start, 1000))


def test_a_place_that_cannot_be_written_to_is_told_once_until_recording_is_wanted_anew(stage):
    stage.takes.write_text("in the way")
    stage.turns(0, 0, 0)
    assert len(stage.said) == 1 and "cannot write" in stage.said[0] and "\n" not in stage.said[0]
    stage.takes.unlink()
    stage.turns(0)
    assert not stage.takes.exists()
    stage.end()
    stage.begin()
    assert stage.board.words[b.RECORDING] == 1


# The thread


def test_closing_ends_the_take_with_its_last_frame(stage, monkeypatch):
    monkeypatch.setattr("sepstream.record.TURN_S", 0.001)
    stage.recorder.start()
    while not stage.board.words[b.RECORDING]:
        threading.Event().wait(0.001)
    stage.play(100_000)
    stage.recorder.close()
    same(stage.files()["input"], sound(0, 0, 100_000))
    assert stage.recorder.status == ""


def test_a_disk_that_hangs_does_not_hold_the_parent_up(stage, monkeypatch):
    monkeypatch.setattr("sepstream.record.TURN_S", 0.001)
    answers, asked, write = threading.Event(), threading.Event(), AudioWriter.write

    def hang(self: AudioWriter, block: np.ndarray) -> None:
        asked.set()
        answers.wait()
        write(self, block)

    monkeypatch.setattr(AudioWriter, "write", hang)
    stage.recorder.start()
    while not asked.is_set():
        stage.play(HOP)
        asked.wait(0.001)
    stage.recorder.close(wait_s=0.01)
    assert "does not answer" in stage.said[-1]
    answers.set()
    stage.recorder.close()
    assert set(stage.files()) == {"input"}

"""Telemetry: what the processes wrote on the board is what a listener reads, in the units that it says."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepstream import board as b
from sepstream.board import Board
from sepstream.telemetry import RECENT, Level, read

HOP_NS = 5_333_333


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Board:
    return Board(tmp_path_factory.mktemp("telemetry") / "board", create=True)


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path / "board", create=True)


def worked(board: Board, times_ns: list[int]) -> None:
    """Hops that took so long, after those that were there before."""
    places = b.HOP_TIMES + 2 * ((int(board.words[b.HOPS]) + np.arange(len(times_ns))) % b.TIMES)
    board.words[places], board.words[places + 1] = times_ns, 1
    board.words[b.HOPS] += len(times_ns)


def test_before_anything_happened_there_is_nothing_to_tell(board: Board) -> None:
    told = read(board)
    assert told.inputs == told.outputs == told.buses == ()
    assert told.provider == "none"
    assert not any((*told[:2], *told[5:15], *told[16:]))  # no division by a rate that is not there yet


# Load.


@given(st.lists(st.integers(1000, 10 * HOP_NS), min_size=1, max_size=400), st.sampled_from([0, 1, RECENT, b.TIMES - 7, b.TIMES]))
def test_the_load_is_what_nineteen_of_twenty_recent_hops_stay_below(page: Board, times: list[int], before: int) -> None:
    page.words[b.HOPS], page.words[b.HOP_NS] = 0, HOP_NS
    worked(page, [10**9] * before + times)
    recent = ([10**9] * before + times)[-RECENT:]
    load, twentieth = read(page).load * HOP_NS, len(recent) / 20
    assert sum(took > load * (1 + 1e-9) for took in recent) <= twentieth + 1
    assert sum(took >= load * (1 - 1e-9) for took in recent) >= twentieth


def test_a_slow_start_is_forgotten_whatever_the_count(page: Board) -> None:
    for before in (1, RECENT, b.TIMES - RECENT, b.TIMES - 1, b.TIMES, 3 * b.TIMES + 5):
        page.words[b.HOPS], page.words[b.HOP_NS] = 0, HOP_NS
        worked(page, [10**9] * min(before, b.TIMES))
        page.words[b.HOPS] = before
        worked(page, [HOP_NS // 4] * RECENT)
        assert read(page).load == pytest.approx(0.25, rel=1e-6)


# Levels.

amplitudes = st.floats(0, 8, width=32)


@given(st.lists(amplitudes, min_size=1, max_size=b.MAX_BUSES), st.sampled_from(["inputs", "outputs", "buses"]))
def test_levels_are_peak_and_root_mean_square_in_their_order(page: Board, peaks: list[float], which: str) -> None:
    count = {"inputs": b.INPUTS, "outputs": b.OUTPUTS, "buses": b.BUSES}[which]
    peaks = peaks if which == "buses" else peaks[: b.MAX_CHANNELS]
    page.words[[b.INPUTS, b.OUTPUTS, b.BUSES]] = 0
    page.words[count] = len(peaks)
    squares = np.float32(peaks) ** 2 / 2  # sines
    page.area({"inputs": "input", "outputs": "output", "buses": "bus"}[which] + "_levels", len(peaks), 2)[:] = np.stack(
        [peaks, squares], axis=1
    )
    told = read(page)._asdict()
    assert [level.peak for level in told.pop(which)] == peaks
    assert [level.rms for level in getattr(read(page), which)] == pytest.approx([p / 2**0.5 for p in peaks], rel=1e-6, abs=1e-22)
    assert all(told[other] == () for other in {"inputs", "outputs", "buses"} - {which})


def test_silence_is_zero_and_not_minus_anything(board: Board) -> None:
    board.words[b.INPUTS] = 1
    assert read(board).inputs == (Level(0.0, 0.0),)


# Times and counts.


@given(st.sampled_from([44100, 48000, 96000]), st.integers(0, 1 << 50), st.integers(0, 4096), st.integers(0, 4096))
def test_frames_become_seconds_and_milliseconds(page: Board, rate: int, frames: int, algorithmic: int, queue: int) -> None:
    page.words[b.RATE_HZ], page.words[b.FRAMES] = rate, frames
    page.words[b.ALGORITHMIC], page.words[b.DELAY] = algorithmic, algorithmic + queue
    told = read(page)
    assert told.seconds == pytest.approx(frames / rate)
    assert told.algorithmic_ms + told.queue_ms == pytest.approx(1000 * (algorithmic + queue) / rate)
    assert told.sample_rate_hz == rate


def test_before_the_queue_is_known_it_is_no_negative_time(board: Board) -> None:
    board.words[b.RATE_HZ], board.words[b.ALGORITHMIC], board.words[b.DELAY] = 48000, 512, 0
    assert read(board).queue_ms == 0.0


@pytest.mark.parametrize(
    "name, words",
    [
        ("late_blocks", [b.LATE_BLOCKS]),
        ("fades", [b.FADES]),
        ("skipped_hops", [b.SKIPPED]),
        ("faults", [b.FAULTS, b.FAULTY_HOPS]),
        ("xruns", [b.XRUNS]),
        ("restarts", [b.RESTARTS]),
    ],
)
def test_each_trouble_is_counted_where_it_belongs(board: Board, name: str, words: list[int]) -> None:
    before = read(board)
    for word in words:
        board.words[word] = 3
    assert read(board) == before._replace(**{name: 3 * len(words)})


def test_it_runs_while_the_device_plays_until_it_is_told_to_stop(board: Board) -> None:
    seen = []
    for state in (b.OPENING, b.PLAYING, b.MISSING, b.PLAYING):
        board.words[b.STATE] = state
        seen.append(read(board).running)
    assert seen == [False, True, False, True] and not read(board).ended
    board.words[b.STOP] = 1
    assert read(board).ended


def test_the_provider_is_told_by_name(board: Board) -> None:
    for provider, name in ((b.CPU, "cpu"), (b.CUDA, "cuda"), (0, "none")):
        board.words[b.PROVIDER] = provider
        assert read(board).provider == name

"""What sep-live shows: it fits, it says what matters, and nothing that comes from outside can upset it."""

import io
import json
import math
import re
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from sepstream.screen import COUNTERS, HOLD_S, Look, Memory, Note, Screen, as_row, remember, render, status_line, to_db
from sepstream.session import Event, View
from sepstream.telemetry import Level, Telemetry

QUIET = Telemetry(True, 1.0, (), (), (), 0.0, 0, 0, 0, 0, 0, 0, 10.67, 5.33, 8.0, "cpu", 48000)
anything = st.floats()
levels = st.builds(Level, anything, anything)
counts = st.integers(0, 2**62)


def a_view(*names: str, **kw: object) -> View:
    n = len(names)
    return View(buses=names, gains_db=(0.0,) * n, mutes=(False,) * n, solos=(False,) * n)._replace(**kw)


def a_look(view: View | None = None, **changes: object) -> Look:
    telemetry = QUIET._replace(inputs=(Level(0.5, 0.1),) * 2, outputs=(Level(0.25, 0.1),) * 2)._replace(**changes)
    return Look(telemetry, view or View(), "disk-live")


def shown(look: Look, memory: Memory | None = None, width: int = 80, height: int = 24, ascii_only: bool = False) -> list[str]:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii" if ascii_only else "utf-8")
    console = Console(file=out, width=width, height=height, force_terminal=False, legacy_windows=False)
    console.print(render(look, memory))
    out.seek(0)
    return out.read().splitlines()


def row(lines: list[str], name: str) -> str:
    return next(line for line in lines if line.startswith(name))


# The picture.


@settings(deadline=None, max_examples=60)
@given(
    width=st.integers(20, 200),
    height=st.integers(8, 60),
    sides=st.tuples(st.integers(0, 64), st.integers(0, 64)),
    heard=st.lists(levels, max_size=6),
    names=st.lists(st.text("abcXYZ09_-", min_size=1, max_size=64), max_size=65, unique_by=str.lower),
    load=anything,
    counted=counts,
    text=st.text(max_size=200),
    notes=st.lists(st.text(max_size=200), max_size=12),
    ascii_only=st.booleans(),
)
def test_whatever_there_is_fits_on_the_console(width, height, sides, heard, names, load, counted, text, notes, ascii_only):
    filled = heard or [Level(0.0, 0.0)]
    telemetry = QUIET._replace(
        inputs=tuple(filled[k % len(filled)] for k in range(sides[0])),
        outputs=tuple(filled[k % len(filled)] for k in range(sides[1])),
        buses=tuple(heard),
        load=load,
        **dict.fromkeys(COUNTERS, counted),
    )
    look = Look(telemetry, a_view(*names, last=text, preset=text, osc=text, midi=(text,)), text, text, text)
    memory = remember(Memory(), telemetry, [Note("12:00:00", Event("audio", note)) for note in notes], 0.0)
    lines = shown(look, memory, width, height, ascii_only)
    assert len(lines) < height
    assert all(Console().measure(line).maximum <= width for line in lines)
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
def test_everything_that_matters_is_there(width, height):
    look = a_look(
        a_view("vox", "drums", gains_db=(0.0, -6.0), mutes=(False, True), last="/bus/drums/mute 1", preset="karaoke"),
        buses=(Level(0.1, 0.05), Level(0.0, 0.0)),
        load=0.34,
        late_blocks=7,
    )._replace(device="USB 1,2 -> USB 1,2", recording="take-20260101-120000 1:23.4")
    memory = remember(Memory(), look.telemetry, [Note("12:00:00", Event("watchdog", "started anew"))], 0.0)
    lines = shown(look, memory, width, height)
    text = "\n".join(lines)
    for word in ("disk-live", "karaoke", "USB 1,2", "take-20260101-120000 1:23.4", "34 %", "cpu", "late 7", "fades 0"):
        assert word in text
    for word in ("skipped 0", "xruns 0", "faults 0", "restarts 0", "/bus/drums/mute 1", "watchdog: started anew"):
        assert word in text
    assert "10.7 algorithmic + 5.3 queue + 8.0 device = 24.0 ms" in text
    assert row(lines, "in 1").endswith("-6.0") and row(lines, "out 2").endswith("-12.0")
    assert re.match(r"drums +M +-6\.0 dB", row(lines, "drums")) and "M" not in row(lines, "vox")


def test_a_meter_is_as_long_as_its_level_and_keeps_its_peak_for_a_moment():
    def bar(memory: Memory, look: Look) -> str:
        return row(shown(look, memory), "in 1")

    loud, soft = a_look(inputs=(Level(1.0, 1.0),)), a_look(inputs=(Level(0.001, 0.001),))
    memory = remember(Memory(), loud.telemetry, (), 0.0)
    assert "·" not in bar(memory, loud) and bar(memory, loud).endswith("0.0")
    held = remember(memory, soft.telemetry, (), HOLD_S)
    assert bar(held, soft).endswith("0.0") and bar(held, soft).count("▄") == 0
    fallen = remember(held, soft.telemetry, (), 2.01 * HOLD_S)
    assert bar(fallen, soft).rstrip().endswith("·")  # at the floor: no number


def test_buses_that_nobody_hears_are_dim_and_the_others_are_not():
    console = Console(width=80, height=24, force_terminal=True, color_system="standard", file=io.StringIO())
    view = a_view("solo", "other", "off", solos=(True, False, True), gains_db=(0.0, 0.0, -90.0))
    console.print(render(a_look(view, buses=(Level(0.5, 0.5),) * 3)))
    dim = {name: f"\x1b[2m{name}" in console.file.getvalue() for name in ("solo", "other", "off")}
    assert dim == {"solo": False, "other": True, "off": True}


def test_without_room_channels_share_a_line_and_buses_a_row_and_none_is_forgotten():
    names = [f"bus-{k}" for k in range(20)]
    look = a_look(a_view(*names), inputs=(Level(0.5, 0.1),) * 16, buses=(Level(0.5, 0.1),) * 20)
    lines = shown(look, height=24)
    text = "\n".join(lines)
    assert row(lines, "in  1-16") and all(re.search(rf"\b{name}\b", text) for name in names)
    crowd = shown(a_look(a_view(*(f"bus-{k}" for k in range(64)))), height=24)
    there = len(re.findall(r"\bbus-\d+\b", "\n".join(crowd)))
    assert f"and {64 - there} more" in "\n".join(crowd)


@pytest.mark.parametrize(("load", "percent"), [(math.nan, 999), (math.inf, 999), (-1.0, 0), (0.604, 60), (35.0, 999)])
def test_the_load_is_a_percentage_whatever_was_measured(load, percent):
    assert f" {percent} %" in "\n".join(shown(a_look(load=load))) and f" {percent} %" in status_line(a_look(load=load))


def test_before_there_is_a_device_it_says_so():
    nothing = Look(QUIET._replace(running=False, seconds=0.0), View())
    assert "STARTING" in shown(nothing)[0] and "starting" in status_line(nothing)
    lost = nothing._replace(telemetry=QUIET._replace(running=False, seconds=9.0))
    assert "WAITING FOR THE DEVICE" in shown(lost)[0] and "waiting for the device" in status_line(lost)


def test_counters_that_move_are_marked_and_those_from_before_are_not():
    memory = remember(Memory(), QUIET._replace(late_blocks=5, xruns=1), (), 0.0)
    assert not memory.fresh
    memory = remember(memory, QUIET._replace(late_blocks=5, xruns=2), (), 1.0)
    assert memory.fresh == {"xruns"}
    assert not remember(memory, QUIET._replace(late_blocks=5, xruns=2), (), 60.0).fresh


# Lines and rows.


@given(levels, anything, counts, st.text(max_size=50))
def test_the_status_is_one_printable_line_whatever_the_numbers(level, load, counted, text):
    line = status_line(a_look(inputs=(level,), load=load, late_blocks=counted)._replace(recording=text))
    assert line.isprintable() and f"late {counted}" in line


@given(levels, anything, counts, st.text(max_size=50))
def test_rows_are_json_with_every_field_of_the_telemetry(level, load, counted, text):
    look = a_look(a_view("vox"), inputs=(level,), buses=(level,), load=load, faults=counted)._replace(device=text)
    read = json.loads(json.dumps(as_row(look, [Event("audio", text)]), allow_nan=False))
    assert set(Telemetry._fields) <= set(read)
    assert read["events"] == [{"source": "audio", "text": text}] and read["faults"] == counted
    assert read["buses"][0] == {"name": "vox", **read["inputs"][0], "gain_db": 0.0, "mute": False, "solo": False}


def test_silence_is_null_in_rows():
    row = json.loads(json.dumps(as_row(a_look(inputs=(Level(0.0, 0.0), Level(0.5, 0.25))))))
    assert row["inputs"] == [{"peak_db": None, "rms_db": None}, {"peak_db": -6.02, "rms_db": -12.04}]


@given(anything)
def test_decibels_are_always_a_number(linear):
    assert -120.0 <= to_db(linear) <= 120.0
    assert math.isclose(to_db(10.0), 20.0)


# The rim.


class Watched:
    """A screen on a stream, and what it looks at."""

    def __init__(self, as_json: bool = False, encoding: str = "utf-8") -> None:
        self.look = a_look()
        self._bytes = io.BytesIO()
        self.screen = Screen(lambda: self.look, as_json, io.TextIOWrapper(self._bytes, encoding=encoding))

    def lines(self) -> list[str]:
        """Written since last asked."""
        written = self._bytes.getvalue().decode()
        self._bytes.truncate(0)
        self._bytes.seek(0)
        return written.splitlines()


def test_plain_lines_are_events_at_once_and_the_state_now_and_then():
    watched = Watched()
    watched.screen.turn(0.0)
    assert len(watched.lines()) == 1
    watched.screen.tell(Event("midi", "gone\x1b[2J"))
    watched.screen.turn(0.1)
    (line,) = watched.lines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d midi: gone \[2J", line)
    watched.screen.turn(4.9)
    assert not watched.lines()
    watched.screen.turn(5.0)
    assert watched.lines() == [status_line(watched.look)]


def test_a_counter_that_runs_brings_a_line_a_second_not_ten():
    watched = Watched()
    for turn in range(31):
        watched.look = a_look(late_blocks=turn)
        watched.screen.turn(turn / 10)
    assert len(watched.lines()) == 4


def test_json_is_a_line_a_second_and_no_event_is_lost():
    watched = Watched(as_json=True)
    for turn in range(35):
        watched.screen.tell(Event("audio", str(turn)))
        watched.screen.turn(turn / 10)
    assert watched.screen._face is not None
    watched.screen._face.close()
    rows = [json.loads(line) for line in watched.lines()]
    assert [event["text"] for row in rows for event in row["events"]] == [str(turn) for turn in range(35)]
    assert len(rows) == 5


def test_a_stream_that_cannot_write_a_name_writes_it_escaped():
    watched = Watched(encoding="ascii")
    watched.screen.tell(Event("midi", "Schlüssel"))
    watched.screen.turn(0.0)
    assert watched.lines()[0].endswith("midi: Schl\\xfcssel")


class Terminal(io.StringIO):
    """One that is wide enough, and may stop taking text."""

    def __init__(self) -> None:
        super().__init__()
        self.going = threading.Event()
        self.going.set()
        self.asked = threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.asked.set()
        self.going.wait()
        return super().write(text)


def test_on_a_terminal_the_last_state_stays_and_the_cursor_comes_back(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    terminal, look = Terminal(), a_look(late_blocks=41)
    screen = Screen(lambda: look, out=terminal)
    screen.start()
    terminal.asked.wait(10)
    look = a_look(late_blocks=42)
    screen.close(10)
    assert "late 42" in terminal.getvalue() and terminal.getvalue().rstrip().endswith("\x1b[?25h")
    assert "\x1b[?1049h" not in terminal.getvalue()  # the alternate screen


def test_a_terminal_that_takes_no_text_holds_nobody_up(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    terminal.going.clear()
    screen = Screen(a_look, out=terminal)
    screen.start()
    assert terminal.asked.wait(10)
    screen.tell(Event("audio", "said meanwhile"))
    screen.close(wait_s=0.01)
    terminal.going.set()
    screen.close(10)
    assert "said meanwhile" in terminal.getvalue()

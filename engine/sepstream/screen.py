"""What sep-live shows: on a terminal one picture that stays in place, in a pipe plain lines, for programs JSON.

``render``, ``status_line`` and ``as_row`` are pure: a Look, and a Memory of what was seen before, to what is shown. Screen
holds them together on a thread of its own, because a terminal can stop taking text (Ctrl-S, a selection with the mouse),
and nobody who has something else to do may wait for it.

Made for a dark room: colour on black, in thin strokes, where there is something to see; everything at rest is dim.
"""

import json
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import NamedTuple, Protocol, TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderResult
from rich.live import Live
from rich.text import Text

from .session import Event, View
from .telemetry import Level, Telemetry

TURN_S = 0.1  # how often to look
STATUS_S = 5.0  # between plain lines while nothing happens
TROUBLE_S = 1.0  # between plain lines while counters run
ROW_S = 1.0  # between lines of JSON
HOLD_S = 1.5  # peaks stand so long
FRESH_S = 5.0  # a counter that moved is marked so long
EVENTS = 8  # shown at most

FLOOR_DB = -60.0  # where meters begin; they end at full scale
NOTHING_DB = -120.0  # silence, to a reader of numbers
LOUD_DB, HOT_DB = -12.0, -3.0  # where meters turn amber and red
BUSY, OVERLOADED = 0.6, 0.9  # and the load
OFF_DB = -90.0  # a fader that stands here is off

REST, GOOD, WARN, BAD, ALARM, TITLE = "dim", "green", "yellow", "bold red", "bold white on red", "bold"

COUNTERS = {  # of Telemetry, and what to call them where there is little room
    "late_blocks": "late",
    "fades": "fades",
    "skipped_hops": "skipped",
    "xruns": "xruns",
    "faults": "faults",
    "restarts": "restarts",
}


class Look(NamedTuple):
    """Everything there is to see at one moment."""

    telemetry: Telemetry
    view: View
    model: str = ""
    device: str = ""  # one line on what was opened
    recording: str = ""  # the take, or nothing


class Note(NamedTuple):
    """An event, and the time of day."""

    clock: str
    event: Event


class Hold(NamedTuple):
    """A peak, linear, and since when it stands."""

    peak: float
    since_s: float


class Memory(NamedTuple):
    """What the screen knows of the past."""

    now_s: float = 0.0
    inputs: tuple[Hold, ...] = ()
    outputs: tuple[Hold, ...] = ()
    buses: tuple[Hold, ...] = ()
    counts: tuple[int, ...] = ()
    moved_s: tuple[float, ...] = ()  # when each counter last moved
    notes: tuple[Note, ...] = ()

    @property
    def fresh(self) -> set[str]:
        """Counters that moved just now."""
        return {name for name, at in zip(COUNTERS, self.moved_s, strict=False) if self.now_s - at < FRESH_S}


class Glyphs(NamedTuple):
    """What meters are drawn with."""

    solid: str
    peak: str
    rest: str
    hold: str
    steps: str  # one character per channel, where there is no room for bars
    ellipsis: str
    dot: str


DRAWN = Glyphs("▄", "▂", "·", "▐", " ▁▂▃▄▅▆▇█", "…", "●")
TYPED = Glyphs("=", "-", " ", "|", " .:-=+*#@", "~", "*")


def remember(memory: Memory, telemetry: Telemetry, notes: Iterable[Note], now_s: float) -> Memory:
    """``memory`` and what is seen now."""
    counts = tuple(getattr(telemetry, name) for name in COUNTERS)
    before = memory.counts or counts  # what was there when we came is no news
    moved = [at if old == new else now_s for old, new, at in zip_longest(before, counts, memory.moved_s, fillvalue=-math.inf)]
    return Memory(
        now_s,
        _held(memory.inputs, telemetry.inputs, now_s),
        _held(memory.outputs, telemetry.outputs, now_s),
        _held(memory.buses, telemetry.buses, now_s),
        counts,
        tuple(moved),
        (*memory.notes, *notes)[-EVENTS:],
    )


def _held(holds: tuple[Hold, ...], levels: tuple[Level, ...], now_s: float) -> tuple[Hold, ...]:
    old = holds if len(holds) == len(levels) else (Hold(0.0, -math.inf),) * len(levels)
    return tuple(
        Hold(level.peak, now_s) if level.peak >= hold.peak or now_s - hold.since_s > HOLD_S else hold
        for level, hold in zip(levels, old, strict=True)
    )


# Numbers as text.


def to_db(linear: float) -> float:
    """NOTHING_DB for silence; what is no number is as loud as can be."""
    if not linear < 1e6:
        return 120.0
    return max(20.0 * math.log10(linear), NOTHING_DB) if linear > 0.0 else NOTHING_DB


def _db_text(linear: float) -> str:
    db = to_db(linear)
    return "-inf" if db == NOTHING_DB else f"{db:.1f}"


def _fader_text(gain_db: float) -> str:
    return "off" if gain_db <= OFF_DB else f"{gain_db:+.1f}"


def _count_text(count: int) -> str:
    return f"{count / 1e6:.1f}M" if count >= 1_000_000 else str(count)


def _time_text(seconds: float) -> str:
    whole = int(seconds)
    hours = f"{whole // 3600}:{whole // 60 % 60:02}" if whole >= 3600 else f"{whole // 60}"
    return f"{hours}:{whole % 60:02}"


def _percent(share: float) -> int:
    """Up to 999; what is no number is as much as can be."""
    return round(100 * max(share, 0.0)) if share < 9.99 else 999


def _printable(text: str) -> str:
    """One line of text that does nothing to a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


# Lines and rows.


def status_line(look: Look) -> str:
    """The state in one line of text."""
    t = look.telemetry
    counts = "  ".join(f"{word} {getattr(t, name)}" for name, word in COUNTERS.items())
    parts = (
        f"{_time_text(t.seconds)} {_state(look) or 'playing'}",
        f"in {_db_text(_loudest(t.inputs))} dB",
        f"out {_db_text(_loudest(t.outputs))} dB",
        f"load {_percent(t.load)} %",
        counts,
        f"latency {t.algorithmic_ms:.1f} + {t.queue_ms:.1f} + {t.device_ms:.1f} = {_total_ms(t):.1f} ms",
        t.provider,
        f"recording {look.recording}" if look.recording else "",
    )
    return _printable("  ".join(filter(None, parts)))


def as_row(look: Look, events: Iterable[Event] = ()) -> dict[str, object]:
    """The line of --json. Levels in dB of full scale; silence has the level null."""
    t, view = look.telemetry, look.view
    strips = zip(view.buses, t.buses, view.gains_db, view.mutes, view.solos, strict=False)
    return {
        **t._asdict(),
        "inputs": [_level_row(level) for level in t.inputs],
        "outputs": [_level_row(level) for level in t.outputs],
        "buses": [
            {"name": name, **_level_row(level), "gain_db": gain_db, "mute": mute, "solo": solo}
            for name, level, gain_db, mute, solo in strips
        ],
        "seconds": round(t.seconds, 3),
        "load": round(t.load, 4) if math.isfinite(t.load) else None,
        **{name: round(getattr(t, name), 3) for name in ("algorithmic_ms", "queue_ms", "device_ms")},
        "total_ms": round(_total_ms(t), 3),
        "model": look.model,
        "preset": view.preset,
        "device": look.device,
        "bypass": view.bypass,
        "last_control": view.last,
        "learning": view.learning,
        "recording": look.recording,
        "events": [event._asdict() for event in events],
    }


def _level_row(level: Level) -> dict[str, float | None]:
    values = {"peak_db": to_db(level.peak), "rms_db": to_db(level.rms)}
    return {name: None if db == NOTHING_DB else round(db, 2) for name, db in values.items()}


def _total_ms(t: Telemetry) -> float:
    return t.algorithmic_ms + t.queue_ms + t.device_ms


def _loudest(levels: Iterable[Level]) -> float:
    return max((level.peak for level in levels), key=to_db, default=0.0)


def _state(look: Look) -> str:
    """What is not as it should be."""
    if look.telemetry.ended:
        return "ended"
    if not look.telemetry.running:
        return "waiting for the device" if look.telemetry.seconds else "starting"
    if look.view.bypass:
        return "bypass"
    return f"master {_fader_text(look.view.master_gain_db)} dB" if look.view.master_gain_db else ""


# The picture.


def render(look: Look, memory: Memory | None = None) -> ConsoleRenderable:
    """As wide and at most as high as the console that it is printed on, less one line."""
    return _Picture(look, memory or remember(Memory(), look.telemetry, (), 0.0))


class _Picture(NamedTuple):
    look: Look
    memory: Memory

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        paper = Paper(max(options.max_width, 20), TYPED if options.ascii_only else DRAWN)
        yield Text("\n").join(draw(self.look, self.memory, paper, max(console.size.height - 1, 4)))


class Paper(NamedTuple):
    """Cells to a line, and what to draw with."""

    width: int
    glyphs: Glyphs = DRAWN

    def line(self, *parts: tuple[str, str], right: Sequence[tuple[str, str]] = ()) -> Text:
        """Texts with their styles, cut to the width; ``right`` ends at the right edge, and is not cut for their sake."""
        end = self._join(right, self.width)
        start = self._join(parts, self.width - end.cell_len - bool(right))
        if right:
            start.append(" " * (self.width - start.cell_len - end.cell_len))
        return start.append_text(end)

    def _join(self, parts: Sequence[tuple[str, str]], width: int) -> Text:
        text = Text(no_wrap=True, overflow="crop")
        for part, style in parts:
            text.append(self.plain(part), style)
        if text.cell_len > width:
            text.truncate(max(width - 1, 0), overflow="crop")
            text.append(self.glyphs.ellipsis[: max(width, 0)])
        return text

    def plain(self, text: str) -> str:
        """One line of text that does nothing to a terminal, and that it can show."""
        shown = _printable(text)
        return shown.encode("ascii", "replace").decode() if self.glyphs is TYPED else shown


class Meter(NamedTuple):
    """One row: a channel, or a bus with its fader."""

    name: str
    level: Level
    hold: Hold
    fader: str = ""
    mute: bool = False
    solo: bool = False
    heard: bool = True


def draw(look: Look, memory: Memory, paper: Paper, height: int) -> list[Text]:
    """At most ``height`` lines. Facts come first, then meters, in ever less room; events and blank lines get the rest."""
    head = [_title(look, paper), *([paper.line((look.device, REST))] if look.device else [])]
    facts = _facts(look, memory, paper)
    room = height - len(head) - len(facts) - min(len(memory.notes), 2)
    scale, *groups = [group for group in _meters(look, memory, paper, room) if group]
    left = height - len(head) - len(facts) - sum(map(len, groups))
    notes = _notes(memory.notes, paper)
    gaps = max(min(left - min(len(notes), 4), len(groups) + 2), 0)
    notes = notes[max(len(notes) - left + gaps, 0) :] if left > gaps else []
    lines = list(head)
    for k, part in enumerate((*groups, facts, notes)):
        lines += (scale if k == 0 else [Text()]) * (k < gaps) + part
    return lines[:height]


def _title(look: Look, paper: Paper) -> Text:
    left = [("sep-live", TITLE), (f"  {look.model}", ""), (f"  {look.view.preset}" if look.view.preset else "", "cyan")]
    right: list[tuple[str, str]] = []
    if state := _state(look):
        right.append((f" {state.upper()} ", "black on yellow"))
    if look.recording:
        take = look.recording if paper.width >= 72 else look.recording.split()[-1]
        right += [(" " * bool(right), ""), (f"{paper.glyphs.dot} {take}", BAD)]
    return paper.line(*left, right=right)


def _facts(look: Look, memory: Memory, paper: Paper) -> list[Text]:
    """Load, latency, counters, the last control; two lines less where there is width."""
    load, latency = _load(look.telemetry, paper), _latency(look.telemetry, paper.width < 60)
    wide = paper.width >= 110
    rows = [[*load, ("    ", ""), *latency]] if wide else [load, latency]
    doors = [*([f"OSC {look.view.osc}"] if look.view.osc else []), *(f"MIDI {port}" for port in look.view.midi)]
    last = (("last    ", REST), (look.view.last or "-", "cyan" if look.view.last else REST))
    if look.view.learning:
        last = (("learn   ", "yellow"), (f"{look.view.learning}: move a control", "yellow"))
    right = ("  ".join(doors), REST)
    fits = cell_len(right[0]) + cell_len(last[1][0]) + 9 < paper.width
    counters = paper.line(*_counters(look.telemetry, memory.fresh, paper.width))
    return [*(paper.line(*row) for row in rows), counters, paper.line(*last, right=[right] if doors and fits else [])]


def _load(t: Telemetry, paper: Paper) -> list[tuple[str, str]]:
    style = GOOD if t.load <= BUSY else WARN if t.load <= OVERLOADED else ALARM
    cells = min(24, paper.width // 3)
    filled = min(cells * _percent(t.load) // 100, cells)
    bar = [(paper.glyphs.solid * filled, "red" if style == ALARM else style), (paper.glyphs.rest * (cells - filled), REST)]
    return [("load    ", REST), *bar, (" ", ""), (f"{_percent(t.load):3} %", style), (f"  {t.provider}", REST)]


def _latency(t: Telemetry, narrow: bool) -> list[tuple[str, str]]:
    names = ("", "", "") if narrow else (" algorithmic", " queue", " device")
    parts: list[tuple[str, str]] = [("latency ", REST)]
    for sign, ms, name in zip(("", " + ", " + "), (t.algorithmic_ms, t.queue_ms, t.device_ms), names, strict=True):
        parts += [(sign, REST), (f"{ms:.1f}", ""), (name, REST)]
    return [*parts, (" = ", REST), (f"{_total_ms(t):.1f} ms", TITLE)]


def _counters(t: Telemetry, fresh: set[str], width: int) -> list[tuple[str, str]]:
    """All of them, or where they do not fit, those that count something."""
    counts = {name: getattr(t, name) for name in COUNTERS}
    texts = {name: f"{COUNTERS[name]} {_count_text(count)}" for name, count in counts.items()}
    if sum(len(text) + 2 for text in texts.values()) > width:
        texts = {name: text for name, text in texts.items() if counts[name] or name == "late_blocks"}
    parts: list[tuple[str, str]] = []
    for name, text in texts.items():
        parts += [(text, ALARM if name in fresh else WARN if counts[name] else REST), ("  ", "")]
    return parts


def _notes(notes: Sequence[Note], paper: Paper) -> list[Text]:
    """The newest last."""
    styles = [REST] * (len(notes) - 1) + [""]
    return [
        paper.line((f"{clock} ", REST), (f"{event.source}: ", REST), (event.text, style))
        for (clock, event), style in zip(notes, styles, strict=False)
    ]


# Meters.


def _meters(look: Look, memory: Memory, paper: Paper, room: int) -> list[list[Text]]:
    """The scale, then inputs, buses, outputs in at most ``room`` lines: a row each, or channels in one line, or buses side
    by side."""
    t = look.telemetry
    inputs, outputs = _channels("in", t.inputs, memory.inputs), _channels("out", t.outputs, memory.outputs)
    buses = _buses(look.view, t.buses, memory.buses)
    columns = Columns.fit((*inputs, *buses, *outputs), paper)
    if len(inputs) + len(buses) + len(outputs) <= room:
        return [[columns.scale()], *([columns.row(meter) for meter in group] for group in (inputs, buses, outputs))]
    above = [_strip("in ", inputs, paper)] if inputs else []
    below = [_strip("out", outputs, paper)] if outputs else []
    return [[Text()], above, _side_by_side(buses, paper, max(room - len(above) - len(below), 1)), below]


def _channels(name: str, levels: Sequence[Level], holds: Sequence[Hold]) -> list[Meter]:
    return [Meter(f"{name} {k}", level, hold) for k, (level, hold) in enumerate(zip(levels, holds, strict=False), 1)]


def _buses(view: View, levels: Sequence[Level], holds: Sequence[Hold]) -> list[Meter]:
    """One for each bus of the scene; the audio process may not know it yet."""
    alone = any(view.solos)
    strips = zip(view.buses, view.gains_db, view.mutes, view.solos, strict=False)
    meters = []
    for k, (name, gain_db, mute, solo) in enumerate(strips):
        level, hold = (levels[k], holds[k]) if k < min(len(levels), len(holds)) else (Level(0.0, 0.0), Hold(0.0, 0.0))
        heard = not mute and (solo or not alone) and gain_db > OFF_DB
        meters.append(Meter(name, level, hold, _fader_text(gain_db), mute, solo, heard))
    return meters


class Columns(NamedTuple):
    """How the cells of a row are shared; 0 for what there is no room for."""

    paper: Paper
    name: int
    flags: int
    fader: int
    bar: int
    number: int

    @classmethod
    def fit(cls, meters: Sequence[Meter], paper: Paper) -> "Columns":
        width = paper.width
        name = min(max((cell_len(meter.name) for meter in meters), default=0), 16, width // 4)
        strips = any(meter.fader for meter in meters)
        flags, fader, number = 4 * (strips and width >= 28), 6 * (strips and width >= 34), 7 * (width >= 24)
        fader += 3 * (strips and width >= 72)
        return cls(paper, name, flags, fader, width - name - flags - fader - number - 1, number)

    def scale(self) -> Text:
        """Decibels above the ends of their bars, where these are long enough."""
        cells = [" "] * self.bar
        for db in (-48, -36, -24, -12, 0) if self.bar >= 30 else ():
            end = round(self.bar * (1 - db / FLOOR_DB))
            cells[end - len(str(db)) : end] = str(db)
        return Text(" " * (self.name + self.flags + self.fader + 1) + "".join(cells), REST)

    def row(self, meter: Meter) -> Text:
        """Name, M and S, fader in dB, bar, the held peak in dB."""
        text = Text(no_wrap=True, overflow="crop")
        text.append(set_cell_size(self.paper.plain(meter.name), self.name), "" if meter.heard else REST)
        if self.flags:
            text.append(" M" if meter.mute else "  ", BAD).append(" S" if meter.solo else "  ", "bold yellow")
        if self.fader:
            unit = " dB" if self.fader > 6 and meter.fader[-1:].isdigit() else ""
            text.append((meter.fader + unit).rjust(self.fader), "" if meter.heard else REST)
        text.append(" ").append_text(self._bar(meter))
        db = to_db(meter.hold.peak)
        if self.number:
            shown = "" if db <= FLOOR_DB else f"{db:.1f}"
            text.append(shown.rjust(self.number), _zone(db) if meter.heard else REST)
        return text

    def _bar(self, meter: Meter) -> Text:
        """Solid to the mean level, thin to the peak, and where the peak was a moment ago."""
        glyphs = self.paper.glyphs
        solid, peak, hold = (_cells(x, self.bar) for x in (meter.level.rms, meter.level.peak, meter.hold.peak))
        cells = glyphs.solid * solid + glyphs.peak * (peak - solid) + glyphs.rest * (self.bar - max(solid, peak))
        if hold:
            cells = cells[: hold - 1] + glyphs.hold + cells[hold:]
        bar, lit = Text(cells), max(hold, peak)
        if not meter.heard:
            bar.stylize(REST)
            return bar
        amber, red = (round(self.bar * (1 - db / FLOOR_DB)) for db in (LOUD_DB, HOT_DB))
        for style, start, end in ((GOOD, 0, amber), (WARN, amber, red), (BAD, red, self.bar)):
            bar.stylize(style, start, min(end, lit))
        bar.stylize(REST, peak, max(hold - 1, 0))
        bar.stylize(REST, lit)
        return bar


def _cells(linear: float, width: int) -> int:
    return min(max(math.ceil(width * (1.0 - to_db(linear) / FLOOR_DB)), 0), width)


def _zone(db: float) -> str:
    return GOOD if db <= LOUD_DB else WARN if db <= HOT_DB else BAD


def _strip(name: str, meters: Sequence[Meter], paper: Paper) -> Text:
    """All channels in one line, one character each."""
    steps = paper.glyphs.steps
    gap = " " * (2 * len(meters) + 16 < paper.width)
    marks = [(steps[_cells(meter.level.peak, len(steps) - 1)] + gap, _zone(to_db(meter.hold.peak))) for meter in meters]
    loudest = max(to_db(meter.hold.peak) for meter in meters)
    number = [(f"{loudest:.1f}".rjust(7), _zone(loudest))] if loudest > FLOOR_DB else []
    return paper.line((f"{name} 1-{len(meters)} ", REST), *marks, right=number)


def _side_by_side(buses: Sequence[Meter], paper: Paper, room: int) -> list[Text]:
    """In so many columns as it takes to show all of them in ``room`` lines; if that is too many, the last line counts."""
    most = max(paper.width // 38, 1)
    count = min(max(-(-len(buses) // room), 1), most)
    shown = list(buses) if len(buses) <= count * room else list(buses)[: count * (room - 1)]
    width = (paper.width - 2 * (count - 1)) // count
    columns = Columns.fit(buses, paper._replace(width=width))
    rows = [columns.row(meter) for meter in shown]
    high = -(-len(shown) // count)
    lines = [Text("  ").join(rows[k::high]) for k in range(high)]
    if rest := buses[len(shown) :]:
        loudest = max(to_db(meter.hold.peak) for meter in rest)
        lines.append(paper.line((f"and {len(rest)} more, the loudest at {loudest:.1f} dB", REST)))
    return lines


# The rim.


class Face(Protocol):
    """One way of showing."""

    def show(self, look: Look, memory: Memory, notes: Sequence[Note]) -> None: ...

    def close(self) -> None: ...


class Terminal:
    """The picture; it stays when we go."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._live.start()

    def show(self, look: Look, memory: Memory, notes: Sequence[Note]) -> None:
        self._live.update(render(look, memory), refresh=True)

    def close(self) -> None:
        self._live.stop()


class Lines:
    """Events as they come; the state every STATUS_S, or sooner when a counter moves."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._shown_s, self._counts = out, -math.inf, ()  # type: TextIO, float, tuple[int, ...]

    def show(self, look: Look, memory: Memory, notes: Sequence[Note]) -> None:
        lines = [f"{note.clock} {note.event.source}: {_printable(note.event.text)}" for note in notes]
        passed_s = memory.now_s - self._shown_s
        if passed_s >= STATUS_S or (passed_s >= TROUBLE_S and memory.counts != self._counts):
            self._shown_s, self._counts = memory.now_s, memory.counts
            lines.append(status_line(look))
        _write(self._out, lines)

    def close(self) -> None:
        """Nothing is owed."""


class Rows:
    """A line of JSON every ROW_S, with the events since the last one."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._shown_s = out, -math.inf
        self._look: Look | None = None
        self._events: list[Event] = []

    def show(self, look: Look, memory: Memory, notes: Sequence[Note]) -> None:
        self._look = look
        self._events += [note.event for note in notes]
        if memory.now_s - self._shown_s >= ROW_S:
            self._shown_s = memory.now_s
            self._put(look)

    def close(self) -> None:
        if self._events and self._look:
            self._put(self._look)

    def _put(self, look: Look) -> None:
        _write(self._out, [json.dumps(as_row(look, self._events), allow_nan=False)])
        self._events.clear()


def _write(out: TextIO, lines: Sequence[str]) -> None:
    """Whatever the stream's encoding makes of a name."""
    coding = getattr(out, "encoding", None) or "utf-8"
    for line in lines:
        print(line.encode(coding, "backslashreplace").decode(coding), file=out, flush=True)


class Screen:
    """``look`` is asked ten times a second, on a thread of ours; it may not raise. ``tell`` and ``close`` never wait for
    the terminal. A reader that has gone ends the showing, not the sound."""

    def __init__(self, look: Callable[[], Look], as_json: bool = False, out: TextIO | None = None) -> None:
        self._look, self._out = look, out or sys.stdout
        self._memory = Memory()
        self._told: deque[Note] = deque()
        self._face: Face | None = None
        self._as_json = as_json
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sepstream screen", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def tell(self, event: Event) -> None:
        self._told.append(Note(time.strftime("%H:%M:%S"), event))

    def close(self, wait_s: float = 1.0) -> None:
        """Show the end, if the terminal takes it."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(wait_s)

    def turn(self, now_s: float) -> None:
        """One look."""
        face = self._face = self._face or self._make_face()
        notes = [self._told.popleft() for _ in range(len(self._told))]
        look = self._look()
        self._memory = remember(self._memory, look.telemetry, notes, now_s)
        face.show(look, self._memory, notes)

    def _make_face(self) -> Face:
        if self._as_json:
            return Rows(self._out)
        console = Console(file=self._out)
        return Terminal(console) if self._out.isatty() and not console.is_dumb_terminal else Lines(self._out)

    def _run(self) -> None:
        try:
            while not self._over.wait(TURN_S):
                self.turn(time.monotonic())
            self.turn(time.monotonic())
        except OSError:  # a closed pipe or terminal, which would complain again when the program ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())
        finally:
            if self._face:
                self._face.close()  # or the terminal stays without a cursor

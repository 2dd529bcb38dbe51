"""Which control of a controller moves which control of ours: the ``[midi]`` table of a preset, and MIDI learn.

    [midi]
    port = "nanoKONTROL2"        # part of a port's name; like channel, it holds for all below that say nothing themselves
    programs = ["karaoke", "voice"]              # program change 1 loads the first of these presets, 2 the second ...
    bind = [
      { cc = 0, control = "bus/1/gain_db" },     # one of cc, cc14 (0..31 with 32..63), nrpn, note, bend, program, pressure
      { note = 36, channel = 10, control = "bus/drums/mute" },
      { cc = 46, control = "preset/load", value = "karaoke" },
    ]

    mode       "absolute" (of cc, cc14, nrpn, bend, pressure): the value is the position
               "toggle" (of note, program): each press goes to the other end
               "momentary": at one end while held, at the other when let go
               "relative": an endless encoder; ``encoder`` names how it counts, ``step`` how far one click goes
               "set": each press gives ``value``
    low, high  the ends, 0..1 of the control's own range on its curve; low may be the greater: the fader is upside down
    pickup     a fader does nothing until it meets the value it is to take over, so that nothing jumps (motor faders: false)
    feedback   the controller is shown the value: LEDs, rings, motor faders; ``lit`` is what lights an LED (its colour)

Files and messages come from anywhere: every value is checked against the table of controls, and errors are one line.
"""

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import ControlError, nearest
from ..expression import quoted
from ..paths import data_dir
from .midi import KINDS, LIMITS, SELECTORS, Kind, Message
from .table import Control, Value, find

VIRTUAL = "virtual"  # the port that others connect by hand: what comes in there is meant, whatever port a binding asks for
MAX_BINDINGS = 1024
MAX_FILE_BYTES = 1 << 20

Mode = Literal["absolute", "toggle", "momentary", "relative", "set"]
MODES: tuple[Mode, ...] = get_args(Mode)
Encoder = Literal["complement", "offset", "sign"]  # -1 is 127, 63 or 65
ENCODERS: tuple[Encoder, ...] = get_args(Encoder)
USUAL: Mapping[Kind, Mode] = {"note": "toggle", "program": "toggle"}  # of the others: absolute
FLAGS: tuple[Kind, ...] = ("bend", "pressure")  # kinds without a number
ONE_WAY = ("text", "channels", "action")  # kinds of controls that only take a value


@dataclass(frozen=True, kw_only=True)
class Binding:
    """One control of a controller and what it does. Raises ControlError for what cannot be."""

    kind: Kind
    number: int = 0
    control: str
    channel: int | None = None  # 1..16; None is any
    port: str | None = None  # part of its name; None is any
    mode: Mode = "absolute"
    value: Value | None = None
    low: float = 0.0
    high: float = 1.0
    encoder: Encoder = "complement"
    step: float = 1 / 128
    pickup: bool = True
    feedback: bool = True
    lit: int = 127

    def __post_init__(self) -> None:
        _one_of("kind", self.kind, KINDS)
        _whole(self.kind, self.number, *LIMITS[self.kind])
        _one_of("mode", self.mode, MODES)
        _one_of("encoder", self.encoder, ENCODERS)
        for name in ("low", "high", "step"):
            _share(name, getattr(self, name))
        for name in ("pickup", "feedback"):
            if not isinstance(getattr(self, name), bool):
                raise ControlError(f"{name} {quoted(getattr(self, name))}; expected true or false")
        if self.channel is not None:
            _whole("channel", self.channel, 1, 16)
        if self.port is not None and not (isinstance(self.port, str) and 1 <= len(self.port) <= 256):
            raise ControlError(f"port {quoted(self.port)}; expected a part of a port's name")
        _whole("lit", self.lit, 1, 127)
        self._check_mode()

    def _check_mode(self) -> None:
        """That source, mode and control go together."""
        if self.mode == "set":
            if self.value is None:
                raise ControlError(f"'{self.control}': value is missing; expected the value to set")
            self.row.accept(self.value, name=self.control)
        elif self.value is not None:
            raise ControlError(f"'{self.control}': a value with mode '{self.mode}'; expected mode = \"set\", or no value")
        elif self.row.kind in ONE_WAY:
            raise ControlError(f"'{self.control}' has no position; expected value = ... to set when pressed")
        if self.mode == "relative" and self.kind not in ("cc", "nrpn"):
            raise ControlError(f"mode 'relative' of a {self.kind}; expected a cc or nrpn")
        if self.mode == "absolute" and self.kind == "program":
            raise ControlError("mode 'absolute' of a program; expected toggle or set")

    @cached_property
    def row(self) -> Control:
        """Of the table of controls. Raises ControlError that names the nearest."""
        if not isinstance(self.control, str):
            raise ControlError(f"control {quoted(self.control)}; expected a name such as bus/1/gain_db")
        return find(self.control)

    @cached_property
    def setting(self) -> Value:
        """``value`` as the control takes it."""
        return self.row.accept(self.value)

    @property
    def source(self) -> tuple[object, ...]:
        """What it listens to."""
        return self.kind, self.number, self.channel, self.port

    def hears(self, port: str, channel: int) -> bool:
        if self.channel not in (None, channel):
            return False
        return self.port is None or port == VIRTUAL or self.port.lower() in port.lower()


DEFAULTS = {f.name: f.default for f in fields(Binding) if f.name not in ("kind", "number", "control")}
OPTIONS = ("control", *DEFAULTS)


@dataclass(frozen=True)
class Bindings:
    """All that hold at a time, in order; one message may do several things."""

    all: tuple[Binding, ...] = ()

    def __post_init__(self) -> None:
        if len(self.all) > MAX_BINDINGS:
            raise ControlError(f"{len(self.all)} MIDI bindings; expected {MAX_BINDINGS} at most")

    def __iter__(self) -> Iterator[Binding]:
        return iter(self.all)

    def of(self, port: str, message: Message) -> tuple[Binding, ...]:
        """Those that ``message`` from ``port`` is for."""
        candidates = self._by_source.get((message.kind, message.number), ())
        return tuple(binding for binding in candidates if binding.hears(port, message.channel))

    @cached_property
    def wide(self) -> frozenset[int]:
        """For the decoder: controllers that are upper halves."""
        return frozenset(binding.number for binding in self.all if binding.kind == "cc14")

    @cached_property
    def _by_source(self) -> dict[tuple[Kind, int], tuple[Binding, ...]]:
        found: dict[tuple[Kind, int], tuple[Binding, ...]] = {}
        for binding in self.all:
            key = binding.kind, binding.number
            found[key] = (*found.get(key, ()), binding)
        return found

    def plus(self, other: "Bindings") -> "Bindings":
        """Those of both, each once."""
        return Bindings(tuple(dict.fromkeys((*self.all, *other.all))))

    def learned(self, new: Binding) -> "Bindings":
        """With ``new`` in the place of whatever had its source or moved its control."""
        others = (b for b in self.all if b.source != new.source and b.control != new.control)
        return Bindings((*others, new))


def learn(port: str | None, message: Message, control: str) -> Binding | None:
    """What binds ``control`` to the knob, key or pad that gave ``message``, or None when it was let go or says nothing yet.

    ``port`` is the part of the port's name to bind to, None for any. Raises ControlError for a control that takes no position.
    """
    selecting = message.kind == "cc" and message.number in SELECTORS  # half of an NRPN's number; its data comes next
    if selecting or (message.kind == "note" and message.raw == 0):
        return None
    button = message.kind in USUAL or find(control).kind == "switch"
    mode: Mode = "relative" if message.step else "toggle" if button else "absolute"
    return Binding(kind=message.kind, number=message.number, channel=message.channel, port=port, control=control, mode=mode)


def read_bindings(table: Mapping[str, object]) -> Bindings:
    """The ``[midi]`` table of a TOML file. Raises ControlError that says which binding, and names the nearest key."""
    _known(table, ("bind", "programs", "port", "channel"), "midi: ")
    usual = {name: table[name] for name in ("port", "channel") if name in table}
    bind, programs = _rows(table, "bind"), _rows(table, "programs")
    found = []
    for place, row in enumerate(bind, 1):
        try:
            found.append(_binding(row, usual))
        except ControlError as error:
            raise ControlError(f"midi: binding {place}: {error}") from None
    for place, name in enumerate(programs, 1):
        try:
            found.append(_binding({"program": place, "control": "preset/load", "value": name}, usual))
        except ControlError as error:
            raise ControlError(f"midi: program {place}: {error}") from None
    return Bindings(tuple(found))


def write_bindings(bindings: Bindings) -> dict[str, object]:
    """The table that reads back as equal bindings; empty for none."""
    return {"bind": [_row(binding) for binding in bindings]} if bindings.all else {}


def load_bindings(name: str) -> Bindings:
    """Ready bindings that are shipped ("nanokontrol2"), or those of a TOML file by its path. Raises ControlError."""
    path = Path(name) if name.endswith(".toml") else _ready_files().get(name)
    if path is None:
        raise ControlError(f"unknown MIDI bindings {quoted(name)}; {nearest(name, _ready_files())}, or the path of a .toml file")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        table = tomllib.loads(data[:MAX_FILE_BYTES].decode("utf8"))
    except OSError as error:
        raise ControlError(f"MIDI bindings '{path}' cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ControlError(f"MIDI bindings '{path}' are not TOML: {' '.join(str(error).split())}") from None
    midi = table.get("midi")
    if len(data) > MAX_FILE_BYTES or not isinstance(midi, dict):
        raise ControlError(f"MIDI bindings '{path}'; expected a table [midi], and {MAX_FILE_BYTES} bytes at most")
    try:
        return read_bindings(midi)
    except ControlError as error:
        raise ControlError(f"'{path}': {error}") from None


@lru_cache(maxsize=64)
def ready_for(port: str) -> Bindings:
    """The shipped bindings of the controller that names its port so; none for a controller that we do not know."""
    for name in _ready_files():
        bindings = load_bindings(name)
        if bindings.all and all(b.port is not None and b.port.lower() in port.lower() for b in bindings):
            return bindings
    return Bindings()


def _ready_files() -> dict[str, Path]:
    return {path.stem: path for path in sorted((data_dir("presets") / "midi").glob("*.toml"))}


def _rows(table: Mapping[str, object], name: str) -> list[Any]:
    rows = table.get(name, [])
    if not isinstance(rows, list) or len(rows) > MAX_BINDINGS:
        raise ControlError(f"midi: {name} {quoted(rows)}; expected a list of {MAX_BINDINGS} at most")
    return rows


def _binding(row: object, usual: Mapping[str, object]) -> Binding:
    if not isinstance(row, Mapping):
        raise ControlError(f'{quoted(row)}; expected a table such as {{ cc = 7, control = "bus/1/gain_db" }}')
    _known(row, (*KINDS, *OPTIONS))
    kinds = [kind for kind in KINDS if kind in row]
    if len(kinds) != 1:
        raise ControlError(f"{' and '.join(kinds) or 'no source'}; expected one of {', '.join(KINDS)}")
    if "control" not in row:
        raise ControlError("control is missing; expected a name such as bus/1/gain_db")
    kind = kinds[0]
    options: dict[str, Any] = {**usual, **{name: value for name, value in row.items() if name not in KINDS}}
    options.setdefault("mode", _usual_mode(kind, "value" in row))
    if isinstance(options.get("value"), list):
        options["value"] = tuple(options["value"])
    return Binding(kind=kind, number=_number_of(kind, row[kind]), **options)


def _number_of(kind: Kind, given: Any) -> int:
    if kind not in FLAGS:
        return _whole(kind, given, *LIMITS[kind])
    if given is not True:
        raise ControlError(f"{kind} {quoted(given)}; expected true")
    return 0


def _usual_mode(kind: Kind, has_value: bool) -> Mode:
    return "set" if has_value else USUAL.get(kind, "absolute")


def _row(binding: Binding) -> dict[str, object]:
    """What is not as it would be anyway."""
    row: dict[str, object] = {binding.kind: True if binding.kind in FLAGS else binding.number, "control": binding.control}
    usual = {**DEFAULTS, "mode": _usual_mode(binding.kind, binding.value is not None)}
    for name, default in usual.items():
        value = getattr(binding, name)
        if value != default:
            row[name] = list(value) if isinstance(value, tuple) else value
    return row


def _known(table: Mapping[str, object], names: Iterable[str], where: str = "") -> None:
    for name in table:
        if name not in names:
            raise ControlError(f"{where}unknown key {quoted(name)}; {nearest(name, names)}")


def _one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ControlError(f"{name} {quoted(value)}; {nearest(str(value), known)}")


def _whole(name: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ControlError(f"{name} {quoted(value)}; expected a whole number from {low} to {high}")
    return value


def _share(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        raise ControlError(f"{name} {quoted(value)}; expected a number from 0 to 1")

"""The table of controls: every control once. OSC addresses, MIDI bindings, preset keys and --set derive from it.

A control's name is its OSC address without the first slash. {bus} stands for the name of a bus ("residual" for what the
others leave) or its place, counted from 1; {region} for that of a named region; {target} and {class} for classes of a
conditioned model. scene.py says what a control does to
the scene; those that it does not know (presets, morph, learn, record) belong to the host.

    python -m sepstream.control.reference > presets/CONTROLS.md  the reference page
"""

import math
import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeGuard

from ..disk import LIMITS as REGION_LIMITS
from ..errors import ControlError, ExpressionError, nearest
from ..expression import MAX_TEXT, quoted
from ..selection import BUS_NAME, MAX_OUTPUT, MAX_OUTPUTS, OFF_DB, check_outputs
from ..selection import LIMITS as STRIP_LIMITS

Value = float | bool | str | tuple[int, ...]
Kind = Literal["number", "switch", "text", "channels", "action"]
Curve = Literal["linear", "fader", "log"]

RAMP_MS = 20.0  # from silence to unity: no click, and no wait
CONDITION = "condition/{target}/{class}"
FADER = ((0.0, OFF_DB), (0.0625, -60.0), (0.25, -30.0), (0.5, -10.0), (0.75, 0.0), (1.0, 12.0), (1.25, 24.0))  # travel, dB


class Change(NamedTuple):
    """A control and the value that it shall take: Change("bus/drums/gain_db", -6.0)."""

    name: str
    value: Value


@dataclass(frozen=True)
class Control:
    """One row. ``low`` and ``high`` bound what is accepted; a fader or a knob travels from ``ends[0]`` to ``ends[1]``.

    Curves: "linear"; "log" has equal steps of log(1 + value), so that zero is on it; "fader" is a mixing desk's: the
    bottom is OFF_DB and off, three quarters of the way are 0 dB, the top is +12 dB.
    """

    name: str
    help: str
    kind: Kind = "number"
    unit: str = ""
    low: float = 0.0
    high: float = 1.0
    default: Value = 0.0
    curve: Curve = "linear"
    travel: tuple[float, float] | None = None
    ramp_ms: float = 0.0

    @property
    def ends(self) -> tuple[float, float]:
        return self.travel or (self.low, self.high)

    def accept(self, value: object, *, clamp: bool = False, name: str = "") -> Value:
        """The value as this control holds it; a number out of range is an error, or goes to the end if ``clamp``.

        Switches take numbers from 0 to 1, channels a single number or a text such as "1,2". Raises ControlError, which
        speaks of the control as ``name``.
        """
        try:
            return _ACCEPT[self.kind](self, value, clamp)
        except _Unfit as expected:
            raise ControlError(f"{name or self.name} {quoted(value)}; expected {expected}") from None

    def to_unit(self, value: Value) -> float:
        """Where a fader stands, 0..1. Raises ControlError for a control that has no fader."""
        if self.kind == "switch":
            return float(bool(value))
        return min(max(self._position(self._number(value)), 0.0), 1.0)

    def from_unit(self, unit: float) -> Value:
        """The value of a fader at 0..1, and at 0 and 1 exactly the ends; a switch is on from the middle."""
        if self.kind == "switch":
            return unit >= 0.5
        self._number(0.0)
        if 0.0 < unit < 1.0:
            return self._value(unit)
        return self.ends[unit >= 1.0]

    def blend(self, a: Value, b: Value, share: float) -> Value:
        """``share`` of the way from ``a`` to ``b``, as the fader goes; what has no fader changes half-way."""
        if self.kind != "number" or a == b:
            return b if share >= 0.5 else a
        start, end = self._position(self._number(a)), self._position(self._number(b))
        return min(max(self._value(start + (end - start) * share), self.low), self.high)

    def _number(self, value: Value) -> float:
        if self.kind != "number" or isinstance(value, str | tuple):
            raise ControlError(f"{self.name} is a {self.kind}; expected a number or a switch, which have faders")
        return float(value)

    def _position(self, value: float) -> float:
        """Of the travel, 0 to 1 between its ends and beyond them outside."""
        if self.curve == "fader":
            return _interpolate(FADER, value, 1, 0)
        low, high, now = (math.log1p(v) if self.curve == "log" else v for v in (*self.ends, value))
        return (now - low) / (high - low)

    def _value(self, position: float) -> float:
        """The inverse of ``_position``."""
        if self.curve == "fader":
            return _interpolate(FADER, position, 0, 1)
        low, high = (math.log1p(v) if self.curve == "log" else v for v in self.ends)
        now = low + (high - low) * position
        return math.expm1(now) if self.curve == "log" else now


def _interpolate(knots: tuple[tuple[float, float], ...], value: float, x: int, y: int) -> float:
    """Along straight lines between knots, which rise; level before the first and after the last."""
    after = bisect_right(knots, value, key=lambda knot: knot[x])
    if after in (0, len(knots)):
        return knots[min(after, len(knots) - 1)][y]
    (start, end), (low, high) = ((knots[after - 1][axis], knots[after][axis]) for axis in (x, y))
    return low + (high - low) * (value - start) / (end - start)


class _Unfit(Exception):
    """What was expected instead of a value."""


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int) or (isinstance(value, float) and not math.isnan(value))


def _number(control: Control, value: object, clamp: bool) -> float:
    wanted = f"a number from {control.low:g} to {control.high:g} {control.unit}".rstrip()
    if isinstance(value, bool) or not _is_number(value):
        raise _Unfit(wanted)
    if not clamp and not control.low <= value <= control.high:
        raise _Unfit(wanted)
    return float(min(max(value, control.low), control.high))


def _switch(_: Control, value: object, clamp: bool) -> bool:
    if not _is_number(value) or not (clamp or 0 <= value <= 1):
        raise _Unfit("true or false, or 1 or 0")
    return value >= 0.5


def _text(_: Control, value: object, clamp: bool) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise _Unfit(f"a text of {MAX_TEXT} characters at most")
    return value


def _channels(_: Control, value: object, clamp: bool) -> tuple[int, ...]:
    items = value.split(",") if isinstance(value, str) else value if isinstance(value, tuple | list) else [value]
    try:
        channels = tuple(_channel(item) for item in items)
        check_outputs(channels)
    except (ValueError, ExpressionError):
        raise _Unfit(f"1 to {MAX_OUTPUTS} different channels from 1 to {MAX_OUTPUT}, such as 1,2") from None
    return channels


def _channel(item: object) -> int:
    """A whole number, as itself, as the float that surfaces send, or as text. Raises ValueError."""
    if isinstance(item, str) and re.fullmatch(r"\s*[0-9]{1,3}\s*", item, re.ASCII):
        return int(item)
    if isinstance(item, int | float) and not isinstance(item, bool) and item in range(MAX_OUTPUT + 1):
        return int(item)
    raise ValueError


_ACCEPT: dict[Kind, Callable[[Control, object, bool], Value]] = {
    "number": _number,
    "switch": _switch,
    "text": _text,
    "action": _text,
    "channels": _channels,
}


def _strip(field: str, help: str, **settings: Any) -> Control:
    if field in STRIP_LIMITS:
        settings = dict(zip(("low", "high"), STRIP_LIMITS[field], strict=True)) | settings
    return Control(f"bus/{{bus}}/{field}", help, **settings)


def _region(field: str, help: str, **settings: Any) -> Control:
    low, high = REGION_LIMITS[field]
    return Control(f"region/{{region}}/{field}", help, low=low, high=high, **settings)


_LEVEL: dict[str, Any] = {"unit": "dB", "low": OFF_DB, "high": 12.0, "curve": "fader", "ramp_ms": RAMP_MS}
_SWITCH: dict[str, Any] = {"kind": "switch", "default": False}
_ACTION: dict[str, Any] = {"kind": "action", "default": ""}

TABLE: tuple[Control, ...] = (
    Control("master/gain_db", "level of all outputs", **_LEVEL),
    Control("bypass", "the input, delayed alike, in place of all buses", ramp_ms=RAMP_MS, **_SWITCH),
    Control("late/gain_db", "level of the input that fills in while the model is late", **_LEVEL),
    _strip("gain_db", "level", unit="dB", curve="fader", travel=(OFF_DB, 12.0), ramp_ms=RAMP_MS),
    _strip("mute", "silence, whatever else is set", ramp_ms=RAMP_MS, **_SWITCH),
    _strip("solo", "silences all buses without solo", ramp_ms=RAMP_MS, **_SWITCH),
    _strip("pan", "balance: -1 the odd outputs of the bus only, 1 the even ones only", ramp_ms=RAMP_MS),
    _strip("wet", "share of the bus; the rest is the input, delayed alike", default=1.0, ramp_ms=RAMP_MS),
    _strip("invert", "phase reversed", ramp_ms=RAMP_MS, **_SWITCH),
    _strip("smooth_ms", "time constant with which its mask follows the model's; not of the residual", unit="ms", curve="log"),
    _strip("outputs", "channels of the device, from 1", kind="channels", default=(1, 2), ramp_ms=RAMP_MS),
    _strip("select", "what it takes, in the language of buses; not of the residual", kind="text", default="mix"),
    _region("x", "centre, on the disk", travel=(-1.0, 1.0)),
    _region("y", "centre, on the disk", travel=(-1.0, 1.0)),
    _region("r", "radius of a disc, hyperbolic", curve="log", travel=(0.0, 8.0), default=1.0),
    _region("a", "half axis of an ellipse, as drawn", travel=(0.01, 1.0), default=0.5),
    _region("b", "half axis of an ellipse, as drawn", travel=(0.01, 1.0), default=0.5),
    _region("angle", "of an ellipse, or where a half-plane lies", unit="degrees", travel=(-180.0, 180.0)),
    _region("offset", "of a half-plane from the middle, hyperbolic", travel=(-4.0, 4.0)),
    _region("inner", "of an annulus, hyperbolic", curve="log", travel=(0.0, 8.0)),
    _region("outer", "of an annulus, hyperbolic", curve="log", travel=(0.0, 8.0), default=1.0),
    _region("low", "least certainty"),
    _region("high", "greatest certainty", default=1.0),
    _region("soft", "width of the edge, hyperbolic", curve="log", travel=(0.0, 2.0)),
    Control(CONDITION, "of the class, in what a conditioned model is asked for as the target", ramp_ms=RAMP_MS),
    Control("add/bus", "one more bus: NAME=EXPRESSION; residual: what the others leave", **_ACTION),
    Control("rename/bus", "OLD=NEW", **_ACTION),
    Control("remove/bus", "take this bus away", **_ACTION),
    Control("remove/region", "take this region away, also from the buses that have more than it", **_ACTION),
    Control("morph", "from preset A to preset B"),
    Control("morph/seconds", "that preset/morph takes", unit="s", high=600.0, default=5.0, curve="log"),
    Control("preset/load", "play this preset", **_ACTION),
    Control("preset/save", "keep what plays under this name", **_ACTION),
    Control("preset/a", "the preset at the one end of morph; no name: what plays", **_ACTION),
    Control("preset/b", "the preset at the other end of morph; no name: what plays", **_ACTION),
    Control("preset/morph", "to this preset, in morph/seconds", **_ACTION),
    Control("learn", "bind what moves next on a MIDI controller to the control of this name; no name: stop", **_ACTION),
    Control("record", "write the input and the buses to disk", **_SWITCH),
    Control("undo", "switched on: take back the last change of the scene", **_SWITCH),
    Control("redo", "switched on: what undo took back", **_SWITCH),
    Control("panic", "switched on: everything back to where the preset had it", **_SWITCH),
)
_ROWS = {row.name: row for row in TABLE}


def find(name: str) -> Control:
    """The row of a concrete name, "bus/drums/gain_db" or "bus/2/gain_db". Raises ControlError with the nearest name."""
    row = _ROWS.get(name) if "{" not in name else None
    kind, _, rest = name.partition("/")
    of, _, field = rest.partition("/")
    if row is None and kind in ("bus", "region") and BUS_NAME.fullmatch(of):
        row = _ROWS.get(f"{kind}/{{{kind}}}/{field}")
        if row is None:
            raise ControlError(f"unknown control {quoted(name)}; {nearest(name, fields_of(kind, of))}")
    if row is None and kind == "condition" and BUS_NAME.fullmatch(of) and BUS_NAME.fullmatch(field):
        row = _ROWS[CONDITION]
    if row is None:
        plain = [known for known in _ROWS if "{" not in known] + ["bus/NAME/gain_db", "region/NAME/x", "condition/NAME/NAME"]
        raise ControlError(f"unknown control {quoted(name)}; {nearest(name, plain)}")
    return row


def fields_of(kind: str, name: str) -> list[str]:
    """Names of all controls of a "bus" or a "region"."""
    return [row.replace(f"{{{kind}}}", name) for row in _ROWS if row.startswith(f"{kind}/")]


def parse_set(text: str) -> Change:
    """``control=value`` -> Change. Whether the scene has such a bus is not asked here. Raises ControlError."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise ControlError(f"setting {quoted(text)} has no '='; expected control=value, such as bus/drums/gain_db=-6")
    control = find(name)
    return Change(name, control.accept(_read(control, value), name=name))


def _read(control: Control, text: str) -> object:
    """A text as the kind of value that the control takes; as it is, where that cannot be."""
    if control.kind == "switch":
        return {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}.get(text.lower(), text)
    if control.kind == "number":
        try:
            return float(text)
        except ValueError:
            return text
    return text

"""What OSC messages mean here: a message to a request, and the messages that answer. Pure.

    /bus/vox/gain_db -6         sets a control: any name of the table (presets/CONTROLS.md) after the slash
    /bus/vox/gain_db            asks for its value, which comes back under the same address
    /region/1/disc x y r [soft] sets a region as a whole: disc, ellipse, half, annulus, certain, lasso
    /region/1                   asks for a region, which comes back in this form
    /controls                   asks for all names and values: /control NAME VALUE, each
    /presets                    asks for the presets that can be loaded: /preset NAME, each
    /subscribe [rate_hz] [port] sends every change, the meters and the state of the engine for 60 s, until it is sent again
    /unsubscribe [port]
    /ping                       is answered by /pong

What comes at the rate of a subscription, levels in dB as peak and RMS: /meter/in/1, /meter/bus/NAME, /meter/out/1; /load
(share of a hop), /late (blocks), /skipped (hops), /faults, /xruns, /restarts (counts), /latency (algorithmic, queue, device
in ms), /provider, /running.

With the word "places" after /subscribe, buses and regions go by their place, 1 for the first, so that one layout fits
every preset; /name/bus/1 says which bus it is. What cannot be done is answered by /error "one line".

Numbers out of range are clamped: faders are dragged beyond their ends. NaN and wrong types are refused.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..disk import LIMITS, RIM, Annulus, Certain, Disc, Ellipse, HalfPlane, Lasso, Region
from ..errors import ControlError, ExpressionError, nearest
from ..expression import located, quoted
from ..telemetry import Level, Telemetry
from .osc import Argument, Message, encode, frames
from .table import Change, Control, Value, find

RATE_HZ = 20.0  # of a subscription that asks for none
MAX_RATE_HZ = 60.0
SILENCE_DB = -120.0  # the lowest that a meter shows
PLACES = "places"
SHAPES: dict[str, type[Region]] = {kind.call: kind for kind in (Disc, Ellipse, HalfPlane, Annulus, Certain, Lasso)}
ANSWERS = ("/pong", "/error")  # of another engine, perhaps; to answer them would never end
_OWNER = re.compile(r"(?:/meter)?/((?:bus|region)/[^/]+)")  # whose address it is


@dataclass(frozen=True)
class SetRegion:
    name: str
    region: Region


@dataclass(frozen=True)
class Ask:
    """For the value of a control."""

    name: str


@dataclass(frozen=True)
class AskRegion:
    name: str


@dataclass(frozen=True)
class AskAll:
    pass


@dataclass(frozen=True)
class AskPresets:
    pass


@dataclass(frozen=True)
class Subscribe:
    rate_hz: float = RATE_HZ
    port: int | None = None  # at the sender's host, if not the sender's own
    by_place: bool = False


@dataclass(frozen=True)
class Unsubscribe:
    port: int | None = None


@dataclass(frozen=True)
class Ping:
    pass


Request = Change | SetRegion | Ask | AskRegion | AskAll | AskPresets | Subscribe | Unsubscribe | Ping


def request(message: Message, known: Callable[[str], Control] = find) -> Request | None:
    """What the message asks for; None where nothing is to be done. Raises ControlError.

    ``known`` gives the row of the table for the name of a control. Whether the scene has such a bus is not asked here.
    """
    if message.address in ANSWERS:
        return None
    path = message.address[1:].split("/")
    try:
        if message.address in _COMMANDS:
            return _COMMANDS[message.address](message.args)
        if path[0] == "region" and len(path) == 2:
            return _ask_region(path[1], message.args)
        if path[0] == "region" and len(path) == 3 and path[2] in SHAPES:
            return _set_region(path[1], SHAPES[path[2]], message)
        if path[0] == "region" and len(path) == 3 and len(message.args) > 1:  # one value sets one number of it
            raise ControlError(f"unknown shape {quoted(path[2])}; {nearest(path[2], SHAPES)}")
        return _control(message, known)
    except ExpressionError as error:
        raise ControlError(str(error)) from None


def value_message(name: str, value: Value) -> Message:
    """The message that sets a control to ``value``, and tells that it stands there. Switches are 1 and 0: every surface
    knows these."""
    match value:
        case bool():
            return Message(f"/{name}", (int(value),))
        case tuple():
            return Message(f"/{name}", value)
    return Message(f"/{name}", (value,))


def region_message(name: str, region: Region) -> Message:
    """The message that makes region ``name`` this one."""
    if isinstance(region, Lasso):
        values = [coordinate for point in region.points for coordinate in point]
    else:
        values = [float(getattr(region, parameter)) for parameter in region.parameters()]
    soft = [float(region.soft)] if region.soft else []
    return Message(f"/region/{name}/{region.call}", (*values, *soft))


def listing(values: Mapping[str, Value]) -> tuple[Message, ...]:
    """The answer to AskAll."""
    return tuple(Message("/control", (name, *value_message(name, value).args)) for name, value in values.items())


def error_message(error: Exception) -> Message:
    return Message("/error", (str(error),))


def labels(buses: Sequence[str], regions: Sequence[str] = ()) -> dict[str, Value]:
    """Which bus and which region stands in which place, to be told like the values of controls: name/bus/1."""
    return {f"name/{place}": owner.partition("/")[2] for owner, place in _places(buses, regions).items()}


def telemetry_messages(now: Telemetry, buses: Sequence[str]) -> tuple[Message, ...]:
    """Levels in dB (peak, then RMS), and the state of the engine. ``buses`` are the scene's names, which the engine may be
    a moment behind."""
    return (
        *(_meter(f"in/{place}", level) for place, level in enumerate(now.inputs, start=1)),
        *(_meter(f"bus/{bus}", level) for bus, level in zip(buses, now.buses, strict=False)),
        *(_meter(f"out/{place}", level) for place, level in enumerate(now.outputs, start=1)),
        Message("/load", (now.load,)),
        Message("/late", (now.late_blocks,)),
        Message("/skipped", (now.skipped_hops,)),
        Message("/faults", (now.faults,)),
        Message("/xruns", (now.xruns,)),
        Message("/restarts", (now.restarts,)),
        Message("/latency", (now.algorithmic_ms, now.queue_ms, now.device_ms)),
        Message("/provider", (now.provider,)),
        Message("/running", (int(now.running),)),
    )


def news(messages: Iterable[Message], buses: Sequence[str], by_place: bool, regions: Sequence[str] = ()) -> tuple[bytes, ...]:
    """Messages to one client -> datagrams; ``by_place`` puts places for the names of ``buses`` and ``regions``."""
    places = _places(buses, regions) if by_place else {}
    return tuple(frames(encode(_placed(address, places), *args) for address, args in messages))


def _places(buses: Sequence[str], regions: Sequence[str]) -> dict[str, str]:
    """bus/vox -> bus/1, region/dark -> region/1."""
    owners = {"bus": buses, "region": regions}
    return {f"{kind}/{name}": f"{kind}/{place}" for kind, names in owners.items() for place, name in enumerate(names, start=1)}


def _placed(address: str, places: Mapping[str, str]) -> str:
    found = _OWNER.match(address)
    if found is None or found[1] not in places:
        return address
    return address[: found.start(1)] + places[found[1]] + address[found.end(1) :]


def _meter(name: str, level: Level) -> Message:
    return Message(f"/meter/{name}", (_decibel(level.peak), _decibel(level.rms)))


def _decibel(linear: float) -> float:
    return max(20 * math.log10(linear), SILENCE_DB) if linear > 0 else SILENCE_DB


def _control(message: Message, known: Callable[[str], Control]) -> Change | Ask:
    name, args = message.address[1:], message.args
    control = known(name)
    if not args:
        return Ask(name)
    value = args[0] if len(args) == 1 else args  # channels may come one by one; others refuse more than one
    return Change(name, control.accept(value, clamp=True, name=name))


def _ask_region(name: str, args: tuple[Argument, ...]) -> AskRegion:
    if args:
        raise ControlError(f"/region/{name}: {len(args)} values; expected none, or a shape such as /region/{name}/disc x y r")
    return AskRegion(name)


def _set_region(name: str, kind: type[Region], message: Message) -> SetRegion:
    numbers = [_number(message.address, value) for value in message.args]
    with located(message.address):
        return SetRegion(name, _lasso(numbers) if kind is Lasso else _shape(kind, numbers))


def _shape(kind: type[Region], numbers: list[float]) -> Region:
    parameters = (*kind.parameters(), "soft")
    if not len(kind.required()) <= len(numbers) <= len(parameters):
        optional = [parameter for parameter in parameters if parameter not in kind.required()]
        raise ExpressionError(f"{len(numbers)} values; expected {' '.join(kind.required())} [{'] ['.join(optional)}]")
    values = {name: _clamp(value, *LIMITS[name]) for name, value in zip(parameters, numbers, strict=False)}
    for low, high in (("inner", "outer"), ("low", "high")):
        if low in values:
            values[low] = min(values[low], values[high])
    if kind in (Disc, Annulus):  # a pad is square
        values |= zip("xy", _within_rim(values["x"], values["y"]), strict=True)
    return kind(**values)


def _lasso(numbers: list[float]) -> Region:
    """Pairs of coordinates; one number more is ``soft``."""
    low, high = LIMITS["x"]
    inside = [_clamp(value, low, high) for value in numbers]
    soft = _clamp(numbers[-1], *LIMITS["soft"]) if len(numbers) % 2 else 0.0
    return Lasso(tuple(zip(inside[::2], inside[1::2], strict=False)), soft=soft)


def _within_rim(x: float, y: float) -> tuple[float, float]:
    norm = math.hypot(x, y)
    scale = 1.0 if norm <= RIM else (RIM - 1e-9) / norm
    return x * scale, y * scale


def _subscribe(args: tuple[Argument, ...]) -> Subscribe:
    numbers = [_number("/subscribe", value) for value in args if value != PLACES]
    if len(numbers) > 2:
        raise ControlError(f"/subscribe: {len(numbers)} numbers; expected [rate_hz] [port], and maybe the word {PLACES}")
    rate_hz = _clamp(numbers[0], 1.0, MAX_RATE_HZ) if numbers else RATE_HZ
    return Subscribe(rate_hz, _port("/subscribe", numbers[1:]), PLACES in args)


def _unsubscribe(args: tuple[Argument, ...]) -> Unsubscribe:
    return Unsubscribe(_port("/unsubscribe", [_number("/unsubscribe", value) for value in args]))


def _port(address: str, numbers: list[float]) -> int | None:
    if not numbers:
        return None
    if len(numbers) > 1 or not 1 <= numbers[0] <= 65535 or numbers[0] % 1:
        raise ControlError(f"{address}: port {', '.join(f'{n:g}' for n in numbers)}; expected one, from 1 to 65535")
    return int(numbers[0])


_COMMANDS: dict[str, Callable[[tuple[Argument, ...]], Request]] = {
    "/controls": lambda args: AskAll(),
    "/presets": lambda args: AskPresets(),
    "/subscribe": _subscribe,
    "/unsubscribe": _unsubscribe,
    "/ping": lambda args: Ping(),
}


def _number(address: str, value: Argument) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise ControlError(f"{address}: {quoted(value)}; expected a number")
    return float(value)


def _clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)

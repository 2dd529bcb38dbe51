"""MIDI bytes <-> messages. Pure; any bytes give messages or nothing, and nothing raises.

The control process feeds ``decode`` with what midi_ports.py heard; midi_bindings.py says what a message means and
midi_surface.py what becomes of it. ``encode`` is the way back, to LEDs and motor faders: decoding what it gives
gives the same value.

Values are 0..1 by the scaling of MIDI 2.0 (min-centre-max): 0, 64 and 127 are exactly 0, 0.5 and 1, and so are 0,
8192 and 16383; a knob at its centre detent is at the centre.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, get_args

MAX_BYTES = 1024  # of one packet; longer ones are system exclusive, which is nobody's control

Kind = Literal["cc", "cc14", "nrpn", "note", "bend", "program", "pressure"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LIMITS: Mapping[Kind, tuple[int, int]] = MappingProxyType(  # numbers of each kind
    {
        "cc": (0, 127),
        "cc14": (0, 31),
        "nrpn": (0, 16382),
        "note": (0, 127),
        "bend": (0, 0),
        "program": (1, 128),
        "pressure": (0, 0),
    }
)
DATA, DATA_LOW, INCREMENT, DECREMENT, NRPN_LOW, NRPN_HIGH, RPN_LOW, RPN_HIGH = 6, 38, 96, 97, 98, 99, 100, 101
SELECTORS = (NRPN_LOW, NRPN_HIGH, RPN_LOW, RPN_HIGH)
NO_PARAMETER = 16383  # "null": data that follows is for nothing


class Message(NamedTuple):
    """What a control of a controller said."""

    kind: Kind
    channel: int  # 1..16
    number: int  # 0 for bend and pressure; programs count from 1, as displays show them
    value: float  # 0..1
    raw: int
    top: int  # the largest that raw can be
    step: int = 0  # +1 or -1 of an NRPN that only goes up and down: it has no value


class Halves(NamedTuple):
    """A 14-bit value on its way; ``low`` stays None for senders that never send it."""

    high: int | None = None
    low: int | None = None


class Parameter(NamedTuple):
    """The NRPN that a channel has selected, if both halves of its number are known, and its data."""

    high: int | None = None
    low: int | None = None
    data: Halves = Halves()

    @property
    def number(self) -> int | None:
        if self.high is None or self.low is None or (self.high << 7 | self.low) == NO_PARAMETER:
            return None
        return self.high << 7 | self.low


class DecoderState(NamedTuple):
    """Of one port. ``wide``: the controllers 0..31 that are the upper halves of 14-bit pairs, as bindings declare them."""

    wide: frozenset[int] = frozenset()
    pairs: Mapping[tuple[int, int], Halves] = MappingProxyType({})  # (channel, upper controller)
    parameters: Mapping[int, Parameter] = MappingProxyType({})  # by channel


def decode(data: bytes, state: DecoderState) -> tuple[tuple[Message, ...], DecoderState]:
    """The messages in ``data``, in order: whole messages, running status, clock and system exclusive in between.

    A controller that is part of an NRPN or of a 14-bit pair gives that message first, and then its own as well,
    because some knobs use these numbers for themselves.
    """
    found: list[Message] = []
    for status, first, second in _events(data[:MAX_BYTES]):
        channel = (status & 15) + 1
        match status >> 4:
            case 0x8:
                found.append(_message("note", channel, first, 0, 127))
            case 0x9:  # velocity 0 is a note off
                found.append(_message("note", channel, first, second, 127))
            case 0xB:
                messages, state = _controller(channel, first, second, state)
                found += messages
            case 0xC:
                found.append(_message("program", channel, first + 1, 127, 127))
            case 0xD:
                found.append(_message("pressure", channel, 0, first, 127))
            case 0xE:
                found.append(_message("bend", channel, 0, second << 7 | first, 16383))
    return tuple(found), state


def encode(kind: Kind, channel: int, number: int, value: float) -> tuple[bytes, ...]:
    """The messages that set a control of a controller to ``value`` 0..1; none for programs and pressure, which show nothing."""
    status, wide = channel - 1, from_unit(value, 16383)
    high, low = wide >> 7, wide & 127
    match kind:
        case "cc":
            return (bytes([0xB0 | status, number, from_unit(value, 127)]),)
        case "cc14":
            return tuple(bytes([0xB0 | status, *pair]) for pair in ((number, high), (number + 32, low)))
        case "nrpn":
            pairs = (NRPN_HIGH, number >> 7), (NRPN_LOW, number & 127), (DATA, high), (DATA_LOW, low)
            return tuple(bytes([0xB0 | status, *pair]) for pair in pairs)
        case "note":
            return (bytes([0x90 | status, number, from_unit(value, 127)]),)
        case "bend":
            return (bytes([0xE0 | status, low, high]),)
        case _:
            return ()


def to_unit(raw: int, top: int) -> float:
    """0..top -> 0..1, by way of the centre."""
    centre = (top + 1) // 2
    return raw / (2 * centre) if raw <= centre else 0.5 + 0.5 * (raw - centre) / (top - centre)


def from_unit(value: float, top: int) -> int:
    """0..1 -> the nearest of 0..top; the inverse of ``to_unit``."""
    centre, value = (top + 1) // 2, min(max(value, 0.0), 1.0)
    return round(value * 2 * centre) if value <= 0.5 else centre + round((value - 0.5) * 2 * (top - centre))


def _events(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(status, first, second) of each channel message; the second is 0 where there is none."""
    status, body = 0, b""
    for byte in data:
        if byte >= 0xF8:  # clock, active sensing: anywhere, even inside a message
            continue
        if byte >= 0x80:
            status, body = byte, b""
        elif 0x80 <= status < 0xF0:
            body += bytes([byte])
            if len(body) == (1 if status >> 4 in (0xC, 0xD) else 2):
                yield status, body[0], body[-1] if len(body) == 2 else 0
                body = b""  # the status may hold for the next


def _message(kind: Kind, channel: int, number: int, raw: int, top: int) -> Message:
    return Message(kind, channel, number, to_unit(raw, top), raw, top)


def _controller(channel: int, number: int, value: int, state: DecoderState) -> tuple[list[Message], DecoderState]:
    found: list[Message] = []
    if number in SELECTORS:
        state = _select(channel, number, value, state)
    parameter = state.parameters.get(channel, Parameter())
    if parameter.number is not None and number in (DATA, DATA_LOW):
        data = _joined(parameter.data, value, number == DATA_LOW)
        state = state._replace(parameters={**state.parameters, channel: parameter._replace(data=data)})
        found += _wide("nrpn", channel, parameter.number, data)
    elif parameter.number is not None and number in (INCREMENT, DECREMENT):
        found.append(_message("nrpn", channel, parameter.number, 0, 127)._replace(step=1 if number == INCREMENT else -1))
    if number & ~32 in state.wide:
        key = channel, number & ~32
        halves = _joined(state.pairs.get(key, Halves()), value, number >= 32)
        state = state._replace(pairs={**state.pairs, key: halves})
        found += _wide("cc14", *key, halves)
    found.append(_message("cc", channel, number, value, 127))
    return found, state


def _select(channel: int, number: int, value: int, state: DecoderState) -> DecoderState:
    """One half of a parameter's number. A registered parameter (RPN) has data that is not for us."""
    old = state.parameters.get(channel, Parameter())
    new = Parameter()
    if number == NRPN_HIGH:
        new = old if old.high == value else Parameter(value, old.low)
    elif number == NRPN_LOW:
        new = old if old.low == value else Parameter(old.high, value)
    return state._replace(parameters={**state.parameters, channel: new})


def _joined(old: Halves, value: int, low: bool) -> Halves:
    """With one more half. A new upper half starts the lower one at 0, as MIDI says, if there ever is a lower one."""
    if low:
        return Halves(old.high, value)
    return old if value == old.high else Halves(value, None if old.low is None else 0)


def _wide(kind: Kind, channel: int, number: int, halves: Halves) -> list[Message]:
    """Of 7 bits as long as the sender shows no more; nothing before the upper half is known."""
    if halves.high is None:
        return []
    if halves.low is None:
        return [_message(kind, channel, number, halves.high, 127)]
    return [_message(kind, channel, number, halves.high << 7 | halves.low, 16383)]

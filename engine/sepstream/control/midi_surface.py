"""What hands on controllers do to our controls, and what the controllers show in return. Pure: time and values are given.

A fader without a motor stands where it was left, not where its control is by now. It does nothing until it meets the
control's value or crosses it; from then on it holds the control, until something else moves that.

A controller is never told the position that a hand is giving it right now; a while later it is told where it really is,
if that is somewhere else.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from ..errors import ControlError
from .midi import Message, encode, to_unit
from .midi_bindings import ONE_WAY, Binding, Bindings
from .table import Change, Value

MEETS = 1 / 127  # as near as a control of 7 bits can be
SAME = 1e-4  # for a value that went through its curve and back
HANDS_OFF_S = 0.3  # a control that was not moved for so long is let go

GetUnit = Callable[[str], float]  # the value of a control now, 0..1; raises ControlError for one that is not there


class Hand(NamedTuple):
    """What is known of one control of one controller."""

    raw: int  # last heard
    down: bool  # pressed, or beyond the middle
    at: float  # where it stands, 0..1 of our control's range
    when: float  # in seconds, last moved


class Surface(NamedTuple):
    """All controllers; a fresh one knows nothing of where their faders stand."""

    hands: Mapping[tuple[Binding, str], Hand] = MappingProxyType({})  # by binding and port
    shown: Mapping[Binding, tuple[bytes, ...]] = MappingProxyType({})  # what the controllers show already


def hear(
    port: str, message: Message, bindings: Bindings, get_unit: GetUnit, surface: Surface, *, now: float
) -> tuple[tuple[Change, ...], Surface]:
    """What ``message`` from ``port`` changes. ``get_unit`` must know of all changes returned before."""
    changes: list[Change] = []
    for binding in bindings.of(port, message):
        key = binding, port
        try:
            value, hand = _act(message, binding, get_unit, surface.hands.get(key), now)
        except ControlError:  # the preset has no such bus
            continue
        if value is not None:
            changes.append(Change(binding.control, value))
        surface = Surface({**surface.hands, key: hand}, _seen(message, binding, surface.shown))
    return tuple(changes), surface


def feedback(
    bindings: Bindings, get_unit: GetUnit, surface: Surface, now: float
) -> tuple[tuple[tuple[str | None, bytes], ...], Surface]:
    """What to send, as (part of a port's name or None for all, message), so that the controllers show the values as they are.

    It asks for the values and sends what has changed, so calling it too often costs time but sends nothing twice; 30
    times a second is smooth, and what one MIDI cable carries for 8 faders.
    """
    moving = {binding for (binding, _), hand in surface.hands.items() if now - hand.when < HANDS_OFF_S and _moves(binding)}
    sent: list[tuple[str | None, bytes]] = []
    shown = dict(surface.shown)
    for binding in bindings:
        if binding.feedback and binding not in moving:
            messages = _display(binding, get_unit)
            if messages != shown.get(binding):
                sent += ((binding.port, message) for message in messages)
                shown[binding] = messages
    return tuple(sent), surface._replace(shown=shown)


def forget(surface: Surface) -> Surface:
    """For a controller that was plugged in: it shows nothing yet."""
    return surface._replace(shown=MappingProxyType({}))


def refit(surface: Surface, bindings: Bindings) -> Surface:
    """For other bindings: what is known of those that stay."""
    stay = frozenset(bindings)
    hands = {key: hand for key, hand in surface.hands.items() if key[0] in stay}
    return Surface(hands, {binding: shown for binding, shown in surface.shown.items() if binding in stay})


def _act(message: Message, binding: Binding, get_unit: GetUnit, hand: Hand | None, now: float) -> tuple[Value | None, Hand]:
    """-> the control's new value or None, and what is known of the hand from now on. Raises ControlError."""
    at, down = binding.low + message.value * (binding.high - binding.low), _down(message)
    here = Hand(message.raw, down, at, now)
    if binding.mode == "set":
        return (binding.setting if _pressed(message, hand) else None), here
    aim, current = None, get_unit(binding.control)
    if binding.mode == "relative" or message.step:
        aim = _turned(message, binding, current)
    elif binding.mode == "absolute" and _holds(binding, hand, at, current):
        aim = at
    elif binding.mode == "toggle" and _pressed(message, hand):
        aim = binding.low if _is_high(binding, current) else binding.high
    elif binding.mode == "momentary" and down != (hand is not None and hand.down):
        aim = binding.high if down else binding.low
    return (None if aim is None else binding.row.from_unit(aim)), here


def _holds(binding: Binding, hand: Hand | None, at: float, current: float) -> bool:
    """Whether a fader that moves to ``at`` takes the control along. It meets a value beyond its own reach at its end."""
    if not binding.pickup or binding.row.kind == "switch":
        return True
    low, high = sorted((binding.low, binding.high))
    target = min(max(current, low), high)
    if hand is None:
        return abs(at - target) <= MEETS
    held, crossed = abs(hand.at - target) <= SAME, (hand.at - target) * (at - target) <= 0
    return held or crossed or abs(at - target) <= MEETS


def _turned(message: Message, binding: Binding, current: float) -> float | None:
    clicks = message.step or _clicks(message.raw, binding)
    if clicks == 0:
        return None
    if binding.row.kind == "switch":
        return float(clicks > 0)
    low, high = sorted((binding.low, binding.high, current))[::2]  # from beyond its reach it only comes back
    return min(max(current + clicks * binding.step * (1 if binding.low <= binding.high else -1), low), high)


def _clicks(raw: int, binding: Binding) -> int:
    if binding.encoder == "offset":
        return raw - 64
    if binding.encoder == "sign":
        return raw if raw < 64 else 64 - raw
    return raw if raw < 64 else raw - 128


def _down(message: Message) -> bool:
    return message.raw > 0 if message.kind == "note" else message.value >= 0.5


def _pressed(message: Message, hand: Hand | None) -> bool:
    """Went down just now. A pedal may say so each time and never that it went up; a fader passes the middle once."""
    fresh = hand is None or not hand.down or hand.raw == message.raw
    return _down(message) and (fresh or message.kind == "note")


def _is_high(binding: Binding, current: float) -> bool:
    return abs(current - binding.high) < abs(current - binding.low)


def _moves(binding: Binding) -> bool:
    """A hand may be on it; buttons are let go at once."""
    return binding.mode in ("absolute", "relative")


def _seen(message: Message, binding: Binding, shown: Mapping[Binding, tuple[bytes, ...]]) -> Mapping[Binding, tuple[bytes, ...]]:
    """A fader shows where it was moved to; a button may have put out its own LED, so it is told again."""
    if binding.mode == "relative" or not binding.feedback:
        return shown
    if binding.mode == "absolute":
        return {**shown, binding: encode(message.kind, binding.channel or 1, message.number, message.value)}
    return {other: messages for other, messages in shown.items() if other != binding}


def _display(binding: Binding, get_unit: GetUnit) -> tuple[bytes, ...]:
    """The messages that show the control's value now; a bus that is not there is dark, what is only done shows nothing."""
    if binding.row.kind in ONE_WAY:
        return ()
    try:
        current = get_unit(binding.control)
    except ControlError:
        value = 0.0
    else:
        value = _position(binding, current) if _moves(binding) else to_unit(binding.lit, 127) * _is_lit(binding, current)
    return encode(binding.kind, binding.channel or 1, binding.number, value)


def _position(binding: Binding, current: float) -> float:
    reach = binding.high - binding.low
    return (current - binding.low) / reach if reach else 0.0


def _is_lit(binding: Binding, current: float) -> bool:
    if binding.mode == "set":
        return abs(current - binding.row.to_unit(binding.setting)) <= SAME
    return _is_high(binding, current)

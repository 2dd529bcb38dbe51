"""Open Sound Control 1.0 as bytes: datagrams to messages and back. What the messages mean is said in osc_protocol.py.

Datagrams come from anyone. `decode` answers any bytes with messages or one ControlError; its work grows with their
number alone, depth and counts are bounded, and an address is compared, never matched as a pattern.

Nothing here is left to the library python-osc: one bundle element of size -4 (24 bytes in all) keeps its parser busy for
ever, nested bundles are limited by the interpreter's stack only, an argument of a type it does not know is dropped from
the message, and its dispatcher can be frozen by an address full of stars. It checks this file in the tests, as does liblo.

Pure: time comes in as an argument.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from ..errors import ControlError
from ..expression import quoted

Argument = float | int | str | bool | bytes
Client = tuple[str, int]  # host and port that a datagram comes from

MAX_DATAGRAM = 65535  # bytes; UDP carries no more
MAX_MESSAGES = 1024  # in one datagram
MAX_ARGUMENTS = 1024  # of one message: a lasso has 513
MAX_DEPTH = 8  # of bundles inside each other
MAX_ADDRESS = 255  # characters
FRAME_BYTES = 1432  # of an answer: what an Ethernet frame carries, so that nothing is lost in fragments

BUNDLE = b"#bundle\0"
IMMEDIATELY = 1
NTP_EPOCH_S = 2208988800  # from 1900, where time tags begin, to 1970
PATTERN = frozenset(" #*,?[]{}")  # not in an address; OSC's patterns are made of them


class Message(NamedTuple):
    address: str
    args: tuple[Argument, ...] = ()


class Timed(NamedTuple):
    """A message, and the seconds until its time tag; 0 for at once and for the past."""

    wait_s: float
    message: Message


def decode(data: bytes, now: float) -> tuple[Timed, ...]:
    """A datagram that came at ``now`` (Unix time) -> its messages in order. Raises ControlError, for any other bytes.

    A datagram that is damaged anywhere gives no message at all. A bundle within a bundle is not due before the outer one.
    """
    if len(data) > MAX_DATAGRAM:
        raise ControlError(f"OSC datagram of {len(data)} bytes; expected {MAX_DATAGRAM} at most")
    found = tuple(islice(_packet(data, 0.0, now, 0), MAX_MESSAGES + 1))
    if len(found) > MAX_MESSAGES:
        raise ControlError(f"OSC bundle of more than {MAX_MESSAGES} messages; send several")
    return found


def encode(address: str, *args: Argument) -> bytes:
    """A message as a datagram; NumPy's numbers count as numbers. Raises ControlError for what OSC cannot carry."""
    tags, data = ",", b""
    for value in args:
        tag, packed = _pack(value)
        tags, data = tags + tag, data + packed
    return _text(address) + _text(tags) + data


def bundle(packets: Iterable[bytes], due: float | None = None) -> bytes:
    """Messages or bundles -> one bundle, due at Unix time ``due``, or at once."""
    tag = IMMEDIATELY if due is None else _ntp(due)
    return BUNDLE + struct.pack(">Q", tag) + b"".join(struct.pack(">i", len(packet)) + packet for packet in packets)


def frames(packets: Iterable[bytes]) -> Iterator[bytes]:
    """Messages -> as few datagrams as hold them: bundles of FRAME_BYTES at most, and a message alone as it is."""
    group: list[bytes] = []
    size = 16  # a bundle's head
    for packet in packets:
        if group and size + 4 + len(packet) > FRAME_BYTES:
            yield _frame(group)
            group, size = [], 16
        group.append(packet)
        size += 4 + len(packet)
    if group:
        yield _frame(group)


def _frame(group: list[bytes]) -> bytes:
    return group[0] if len(group) == 1 else bundle(group)


def _packet(data: bytes, wait_s: float, now: float, depth: int) -> Iterator[Timed]:
    if not data.startswith(BUNDLE):
        yield Timed(wait_s, _message(data))
        return
    if depth == MAX_DEPTH:
        raise ControlError(f"OSC bundle more than {MAX_DEPTH} deep; send its messages side by side")
    reader = _Reader(data, len(BUNDLE))
    wait_s = max(wait_s, _wait_s(reader.number(">Q"), now))
    while reader.left:
        yield from _packet(reader.take(reader.number(">i")), wait_s, now, depth + 1)


def _message(data: bytes) -> Message:
    reader = _Reader(data)
    address = reader.text()
    if not address.startswith("/") or len(address) > MAX_ADDRESS:
        raise ControlError(f"OSC address {quoted(address)}; expected '/' and up to {MAX_ADDRESS - 1} more characters")
    if not PATTERN.isdisjoint(address):
        raise ControlError(f"OSC address {quoted(address)} is a pattern; expected the name of one control, such as /bus/1/mute")
    tags = reader.text() if reader.left else ","  # some senders leave them away where there is no argument
    if not tags.startswith(",") or len(tags) > 1 + MAX_ARGUMENTS:
        raise ControlError(f"{quoted(address)}: type tags {quoted(tags)}; expected ',' and up to {MAX_ARGUMENTS} letters")
    return Message(address, tuple(reader.argument(tag) for tag in tags[1:]))


class _Reader:
    """Bytes from left to right. Raises ControlError where they end too early, or say what OSC does not."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self._data, self._at = data, at

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        if not 0 <= size <= self.left:
            raise ControlError(f"OSC datagram: {size} bytes asked for at byte {self._at} of {len(self._data)}; send it whole")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def text(self) -> str:
        """Up to the next zero, which is there, and padded to a multiple of 4 bytes."""
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise ControlError(f"OSC datagram: the text at byte {self._at} of {len(self._data)} has no end; send it whole")
        size = end - self._at
        found = self.take(size + 4 - size % 4)[:size]
        try:
            return found.decode("utf8")
        except UnicodeDecodeError:
            raise ControlError(f"OSC text {quoted(found)} is not UTF-8; send it as UTF-8") from None

    def argument(self, tag: str) -> Argument:
        if tag not in _ARGUMENTS:
            raise ControlError(f"OSC argument of type {quoted(tag)}; expected one of {', '.join(_ARGUMENTS)}")
        return _ARGUMENTS[tag](self)

    def blob(self) -> bytes:
        found = self.take(self.number(">i"))
        self.take(-len(found) % 4)
        return found


_ARGUMENTS: dict[str, Callable[[_Reader], Argument]] = {
    "i": lambda reader: int(reader.number(">i")),
    "f": lambda reader: _shortest(reader.number(">f")),
    "s": _Reader.text,
    "b": _Reader.blob,
    "T": lambda reader: True,
    "F": lambda reader: False,
    "h": lambda reader: int(reader.number(">q")),
    "d": lambda reader: float(reader.number(">d")),
    "S": _Reader.text,
    "I": lambda reader: True,  # the impulse, also known as bang
}


def _shortest(value: float) -> float:
    """The number with the fewest digits that is this very float32: a surface that sends 0.1 means 0.1, and so says a preset."""
    return float(str(np.float32(value)))


def _pack(value: Any) -> tuple[str, bytes]:
    if isinstance(value, np.generic):
        value = value.item()
    match value:
        case bool():
            return "T" if value else "F", b""
        case int():
            return _integer(value)
        case float():
            return _float(value)
        case str():
            return "s", _text(value)
        case bytes():
            return "b", struct.pack(">i", len(value)) + value + bytes(-len(value) % 4)
    raise ControlError(f"{quoted(value)} cannot be sent as OSC; expected a number, a text, true, false or bytes")


def _integer(value: int) -> tuple[str, bytes]:
    for tag, layout, bits in (("i", ">i", 31), ("h", ">q", 63)):
        if -(1 << bits) <= value < 1 << bits:
            return tag, struct.pack(layout, value)
    raise ControlError(f"{quoted(value)} cannot be sent as OSC; expected an integer of 64 bits")


def _float(value: float) -> tuple[str, bytes]:
    try:
        return "f", struct.pack(">f", value)
    except OverflowError:
        return "d", struct.pack(">d", value)


def _text(value: str) -> bytes:
    data = value.encode("utf8", "replace")
    if b"\0" in data:
        raise ControlError(f"text {quoted(value)} cannot be sent as OSC; expected one without zeros")
    return data + bytes(4 - len(data) % 4)


def _ntp(time: float) -> int:
    """Unix time -> a time tag: seconds since 1900 in steps of 2^-32. It starts again in 2036, and every 136 years."""
    return round((time + NTP_EPOCH_S) * (1 << 32)) % (1 << 64)


def _wait_s(tag: int, now: float) -> float:
    """Seconds from ``now`` to a time tag, which is taken to be within 68 years; 0 for the past."""
    if tag <= IMMEDIATELY:  # 0 is not in the standard, and sent all the same
        return 0.0
    ahead = (tag - _ntp(now)) % (1 << 64)
    return ahead / (1 << 32) if ahead < 1 << 63 else 0.0

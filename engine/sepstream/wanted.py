"""Which device and which of its channels a user asks for: a text, read without a look at what there is.

Apart from device.py, because the process that reads the flags must not open PortAudio: it would be a client of the sound
server beside the one that plays.
"""

import re
from dataclasses import dataclass

from .board import MAX_CHANNELS
from .errors import DeviceError


@dataclass(frozen=True)
class Wanted:
    """``DEV[:CH,...]``: a device by a part of its name (None: the default), and its channels from 1 (none: the first ones)."""

    pattern: str | None
    channels: tuple[int, ...] = ()


def read_wanted(text: str | None) -> Wanted:
    """``"scarlett:3,4"`` -> Wanted("scarlett", (3, 4)). Raises DeviceError."""
    if not text:
        return Wanted(None)
    name, colon, numbers = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9,\s-]*", numbers):
        return Wanted(text)
    channels: list[int] = []
    for part in numbers.split(","):
        found = re.fullmatch(r"\s*([0-9]{1,3})(?:-([0-9]{1,3}))?\s*", part)
        span = range(int(found[1]), int(found[2] or found[1]) + 1) if found else range(0)
        channels += span
        if not span or len(channels) > MAX_CHANNELS or not all(1 <= channel <= MAX_CHANNELS for channel in channels):
            room = f"from 1 to {MAX_CHANNELS}, {MAX_CHANNELS} of them at most"
            raise DeviceError(f"channels '{numbers}' in '{text}'; expected numbers {room}, such as 1,2 or 3-6")
    return Wanted(name or None, tuple(channels))

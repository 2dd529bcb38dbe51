"""What page and server say to each other. Pure: texts and bytes to values, values to texts and bytes.

A page sends JSON, one object a message:

    {"token": "..."}                            first of all, where the server is open to the network
    {"do": [[NAME, VALUE], ...], "id": 7}       controls of the table, in this order, all or none, one step of undo;
                                                region/NAME takes a whole region as presets write it: {"disc": {"x": 0, ...}}
    {"watch": {"meters": true, "bus": "vox"}}   what it wants to see of the sound: meters, points, the mask of which bus

and is sent JSON

    {"hello": {...}}       the model, the table of controls; once
    {"state": {...}, "gone": [...]}  the values of controls, and what else is set; first all, then what has changed
    {"engine": {...}}      load, latencies, counts; four times a second
    {"log": [[SOURCE, TEXT], ...]}
    {"id": 7, "ok": true}  or {"id": 7, "error": "one line"}: the answer to a message that had an id; without one, errors only

and bytes, little-endian, for what is too much for JSON: METERS and COLUMNS below. What a message must be is checked here,
what a control may be by the table (control/table.py), what a scene may be by the scene.
"""

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ..errors import ControlError, nearest
from ..expression import quoted

Floats = NDArray[np.floating[Any]]

MAX_BYTES = 1 << 16  # of a message; a lasso takes a tenth of it
MAX_EDITS = 64  # of a message
MAX_NAME = 160  # characters: region/ and the longest name, and its field
MAX_ID = 1 << 53  # that JavaScript counts to
METERS, COLUMNS = 1, 2  # the first byte of a binary message
LEVEL_FLOOR_DB, LEVEL_STEP_DB = -100.0, 0.5  # of a level in one byte
_METERS, _COLUMNS = struct.Struct("<BBBB"), struct.Struct("<BBHHHI")


@dataclass(frozen=True)
class Token:
    """The word that opens the door."""

    text: str


@dataclass(frozen=True)
class Edit:
    """Names of controls or of whole regions, with the values that they shall take."""

    steps: tuple[tuple[str, Any], ...]
    id: int | None = None


@dataclass(frozen=True)
class Watch:
    """What a page looks at."""

    meters: bool = False
    points: bool = False
    bus: str = ""  # whose mask comes with the points


Said = Token | Edit | Watch


def read(text: str | bytes) -> Said:
    """A page's message. Raises ControlError for anything else, in one line."""
    if isinstance(text, bytes):
        raise ControlError(f"{len(text)} bytes; expected JSON as text")
    if len(text) > MAX_BYTES:
        raise ControlError(f"a message of {len(text)} characters; expected {MAX_BYTES} at most: send less at a time")
    try:
        message = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ControlError(f"no JSON: {' '.join(str(error).split())[:120]}") from None
    if not isinstance(message, dict):
        raise ControlError(f"{quoted(message)}; expected an object with one of {', '.join(_READERS)}")
    kinds = [key for key in message if key in _READERS]
    if len(kinds) != 1:
        found = next((key for key in message if key != "id"), "")
        raise ControlError(f"message {quoted(found)}; expected exactly one of {', '.join(_READERS)}")
    return _READERS[kinds[0]](message[kinds[0]], number_of(message))


def number_of(message: Mapping[str, Any]) -> int | None:
    """The id under which a message wants to be answered. Raises ControlError."""
    number = message.get("id")
    if number is not None and (type(number) is not int or not 0 <= number < MAX_ID):
        raise ControlError(f"id {quoted(number)}; expected a whole number from 0")
    return number


def id_of(text: str | bytes) -> int | None:
    """The id of a message that could not be read, if that much can be."""
    try:
        message = json.loads(text) if len(text) <= MAX_BYTES else None
        return number_of(message) if isinstance(message, dict) else None
    except (ValueError, RecursionError, ControlError):
        return None


def _token(value: Any, _: int | None) -> Token:
    if not isinstance(value, str) or len(value) > MAX_NAME:
        raise ControlError("token: expected the text after # in the address that sep-live showed")
    return Token(value)


def _edit(value: Any, number: int | None) -> Edit:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_EDITS:
        raise ControlError(f"do {quoted(value)}; expected 1 to {MAX_EDITS} pairs [NAME, VALUE]")
    for pair in value:
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and len(pair[0]) <= MAX_NAME):
            raise ControlError(f"do {quoted(pair)}; expected a pair [NAME, VALUE], such as ['bus/1/gain_db', -6]")
    return Edit(tuple((name, _plain(name, item)) for name, item in value), number)


def _plain(name: str, value: Any) -> Any:
    """A value as the table takes it: lists become tuples, whole numbers of any size become floats."""
    if value is None:
        raise ControlError(f"{name} null; expected a value")
    if isinstance(value, list):
        return tuple(value)
    if type(value) is int and abs(value) >= MAX_ID:
        raise ControlError(f"{name} {quoted(value)}; expected a number that is no greater than {MAX_ID}")
    return value


def _watch(value: Any, _: int | None) -> Watch:
    if not isinstance(value, dict):
        raise ControlError(f'watch {quoted(value)}; expected an object such as {{"meters": true, "points": true, "bus": "vox"}}')
    for key, wish in value.items():
        if key not in ("meters", "points", "bus"):
            raise ControlError(f"watch: unknown key {quoted(key)}; {nearest(str(key), ('meters', 'points', 'bus'))}")
        fits = isinstance(wish, str) and len(wish) <= MAX_NAME if key == "bus" else isinstance(wish, bool)
        if not fits:
            raise ControlError(
                f"watch: {key} {quoted(wish)}; expected {'the name of a bus' if key == 'bus' else 'true or false'}"
            )
    return Watch(**value)


_READERS: dict[str, Callable[[Any, int | None], Said]] = {"token": _token, "do": _edit, "watch": _watch}


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:32]} is beyond all numbers")
    return value


# To the page.


def answer(number: int | None, error: Exception | None = None) -> str:
    """To one message."""
    said: dict[str, Any] = {} if number is None else {"id": number}
    return write(said | ({"ok": True} if error is None else {"error": str(error)}))


def write(message: Mapping[str, Any]) -> str:
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any] | None:
    """The message that turns ``old`` into ``new``; None where they are the same."""
    changed = {key: value for key, value in new.items() if key not in old or old[key] != value}
    gone = [key for key in old if key not in new]
    return {"state": changed, "gone": gone} if changed or gone else None


def meters(inputs: Sequence[float], buses: Sequence[float], outputs: Sequence[float]) -> bytes:
    """Linear peaks: how many of each as bytes, then float32 of all."""
    levels = np.asarray([*inputs, *buses, *outputs], "<f4")
    return _METERS.pack(METERS, len(inputs), len(buses), len(outputs)) + levels.tobytes()


def columns(first: int, points: Floats, level_db: Floats, mask: Floats | None) -> bytes:
    """Some hops: ``points`` (hops, 2, bins) on the unit disk, ``level_db`` (hops, bins) of full scale, ``mask`` (hops, bins).

    Head: COLUMNS, whether there is a mask, hops, bins, 0, the number of the first hop. Then for each hop x of all bins and y
    of all bins as int16 of 1/32767, the levels as bytes in steps of LEVEL_STEP_DB above LEVEL_FLOOR_DB, and the mask as
    bytes of 1/255, which without a mask are 255.
    """
    hops, _, bins = points.shape
    place = np.rint(points * 32767.0).astype("<i2").reshape(hops, -1).view(np.uint8)
    level = np.clip(np.rint((level_db - LEVEL_FLOOR_DB) / LEVEL_STEP_DB), 0, 255).astype(np.uint8)
    taken = np.full_like(level, 255) if mask is None else np.rint(np.clip(mask, 0.0, 1.0) * 255.0).astype(np.uint8)
    head = _COLUMNS.pack(COLUMNS, mask is not None, hops, bins, 0, first & 0xFFFFFFFF)
    return head + np.concatenate([place, level, taken], axis=1).tobytes()

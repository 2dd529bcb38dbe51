"""What a page of sep-explore may ask, and the answers: one file at a time, heard on a thread of its own.

No door to the network: surface/server.py turns HTTP requests into ``Asked`` and the Answers back. Each request carries all
that it needs, so nothing is kept for a page but a cache; any thread may ask. Bodies are JSON:

    GET   hello                                  the model, the scales of the picture; stays as it is
    GET   state                                  the file, how much of it is heard, what happened
    PUT   file?name=song.wav                     a sound file, as it is; replaces the one that is open
    POST  cancel                                 stop hearing; the file closes
    POST  tile    {zoom, first, count}           columns of the picture, a byte for each bin
    POST  view    {start_s, stop_s, db, hops}    the bins to be seen, of the first so many frames: view_bytes
    POST  select  {view, CHOICE}                 their masks, a byte each, in the order of the view
    POST  count   {view, CHOICE}                 statistics
    POST  sound   {start, count, CHOICE}         float32 samples at the model's rate, channel after channel
    POST  export  {name, CHOICE} or {stems} or {scene, name}   files, or a preset; names what was written

CHOICE is ``select``, an expression; ``regions`` for it, as presets write them; ``patch``, corners [seconds, Hz]; and ``rest``.
"""

import json
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import explorer
from .analysis import FLOOR_DB, STEP_DB, ZOOM, Store, analyze, opened
from .batch import defect
from .contract import Bundle
from .control import presets
from .control.scene import Scene
from .errors import AudioFileError, BundleError, ControlError, SepstreamError, nearest
from .explorer import Choice, Patch, Question, View
from .expression import quoted
from .render import RenderOptions
from .selection import Selection, read_selection
from .surface.page import model
from .surface.questions import Answer, Asked, refusal

MAX_TILE = 2048  # columns
MAX_SOUND = 1 << 19  # samples of one channel
MAX_POINTS = 40000
MAX_LOG = 200
JSON, BYTES = "application/json", "application/octet-stream"
_VIEW = struct.Struct("<4I")  # frames, bins, points, 0


class Closed(Exception):
    """The file that is being heard is no longer wanted."""


class Explorer:
    """``out`` is where exports go, ``cache`` the folder for what is kept while a file is open (None: the system's).

    Raises BundleError for a model that gives other things than masks.
    """

    def __init__(self, bundle: Bundle, *, out: Path, cache: Path | None = None, provider: str = "auto") -> None:
        if bundle.latent or bundle.conditioned or bundle.gives_spectra:
            what = "draws codes" if bundle.latent else "has to be asked for classes" if bundle.conditioned else "gives spectra"
            raise BundleError(f"model '{bundle.name}' {what}; expected one of masks to explore; sep-render renders it")
        self.bundle, self.out, self.cache, self.provider = bundle, out, cache, provider
        self._log: deque[tuple[float, str]] = deque(maxlen=MAX_LOG)
        self._open: _Open | None = None
        self._number, self._changing = 0, threading.Lock()
        self._told, self._saying = 0, threading.Lock()  # lines of the log so far

    def open(self, path: Path, name: str = "", *, borrowed: bool = False) -> None:
        """Hear another file. A ``borrowed`` one is deleted in the end. Raises AudioFileError for what is no sound; the file
        that was open then stays so."""
        with self._changing:
            found = _Open(path, name or path.name, self, borrowed)
            before, self._open, self._number = self._open, found, self._number + 1
            found.start()
        if before:
            before.close()

    def close(self) -> None:
        """No file is open."""
        with self._changing:
            before, self._open, self._number = self._open, None, self._number + 1
        if before:
            before.close()

    def wait(self) -> None:
        """Until the open file has been heard, or cannot be."""
        if self._open:
            self._open.thread.join()

    def say(self, text: str) -> None:
        """A line of the log."""
        with self._saying:
            self._told += 1
            self._log.append((time.time(), text))

    def answer(self, asked: Asked) -> Answer:
        """Never raises: what is wrong is told in one line, with a status of 400 or more. An upload that is refused is deleted."""
        found = self._try(asked)
        if asked.upload and found.status >= 400:
            asked.upload.unlink(missing_ok=True)
        return found

    def _try(self, asked: Asked) -> Answer:
        try:
            return self._answer(asked)
        except SepstreamError as error:
            return refusal(400, str(error))
        except FileNotFoundError:  # of a tape
            return refusal(409, "the file has been closed meanwhile; ask again")
        except Exception as error:
            self.say(defect(error))
            return refusal(500, defect(error))

    def _answer(self, asked: Asked) -> Answer:
        known: dict[str, tuple[str, Callable[[Asked], Answer]]] = {
            "hello": ("GET", lambda _: _json(hello(self.bundle))),
            "state": ("GET", lambda _: _json(self.state())),
            "file": ("PUT", self._put),
            "cancel": ("POST", self._cancel),
            "tile": ("POST", self._tile),
            "view": ("POST", self._view),
            "select": ("POST", self._select),
            "count": ("POST", self._count),
            "sound": ("POST", self._sound),
            "export": ("POST", self._export),
        }
        if asked.path not in known:
            return refusal(404, f"{quoted(asked.path)}; {nearest(asked.path, known)}")
        method, act = known[asked.path]
        if asked.method != method:
            return refusal(405, f"{asked.path}: {asked.method}; expected {method}")
        return act(asked)

    def state(self) -> dict[str, Any]:
        now = self._open
        log = [[round(at, 3), text] for at, text in self._log]
        return {"number": self._number, "file": now.facts() if now else None, "log": log, "told": self._told}

    def _file(self) -> "_Open":
        now = self._open
        if now is None:
            raise ControlError("no file is open; open or drop one first")
        return now

    def _put(self, asked: Asked) -> Answer:
        name = Path(asked.query.get("name", "")).name[:200]
        if asked.upload is None or not name:
            raise ControlError("file: expected the bytes of a sound file, and ?name=")
        try:
            self.open(asked.upload, name, borrowed=True)
        except SepstreamError as error:
            message = str(error).replace(str(asked.upload), name)
            self.say(message)
            raise AudioFileError(message) from None
        return _json(self.state())

    def _cancel(self, _: Asked) -> Answer:
        if self._open:
            self.say(f"'{self._open.name}' closed")
        self.close()
        return _json(self.state())

    def _tile(self, asked: Asked) -> Answer:
        message = _message(asked, "zoom", "first", "count")
        tapes = self._file().store.picture
        zoom = whole(message, "zoom", 0, len(tapes) - 1)
        first, count = whole(message, "first", 0, 1 << 40), whole(message, "count", 1, MAX_TILE)
        return Answer(200, BYTES, tapes[zoom].read(first, min(first + count, tapes[zoom].rows)).tobytes())

    def _view(self, asked: Asked) -> Answer:
        return Answer(200, BYTES, view_bytes(self.bundle, self._seen(_message(asked, *VIEW))))

    def _seen(self, message: Mapping[str, Any]) -> View:
        known = {key: message[key] for key in VIEW if key in message}
        start_s, stop_s = (number(known, key, -explorer.MAX_SECONDS, explorer.MAX_SECONDS) for key in ("start_s", "stop_s"))
        return self._file().view(start_s, stop_s, number(known, "db", -300.0, 100.0), whole(known, "hops", 0, 1 << 40))

    def _select(self, asked: Asked) -> Answer:
        message = _message(asked, "view", *CHOICE)
        mask = self._mask(message, self._seen(_table(message, "view")))
        return Answer(200, BYTES, np.rint(np.clip(mask, 0, 1) * 255).astype(np.uint8).tobytes())

    def _mask(self, message: Mapping[str, Any], seen: View) -> NDArray[np.float32]:
        found: NDArray[np.float32] = explorer.select(self._file().store, read_choice(message, self.bundle), seen)[0]
        return found

    def _count(self, asked: Asked) -> Answer:
        message = _message(asked, "view", *CHOICE)
        seen = self._seen(_table(message, "view"))
        found = explorer.statistics(self.bundle, seen, self._mask(message, seen))
        rounded = {key: np.asarray(value).tolist() for key, value in found._asdict().items()}
        return _json(rounded | {"match_db": explorer.match_db(found)})

    def _sound(self, asked: Asked) -> Answer:
        message = _message(asked, "start", "count", *CHOICE)
        start, count = whole(message, "start", -(1 << 40), 1 << 40), whole(message, "count", 1, MAX_SOUND)
        heard = explorer.listen(self._file().store, read_choice(message, self.bundle), start, start + count)[0]
        return Answer(200, BYTES, np.ascontiguousarray(heard, "<f4").tobytes())

    def _export(self, asked: Asked) -> Answer:
        message = _message(asked, "name", "stems", "scene", *CHOICE)
        if "scene" in message:
            return self._save(message)
        store = self._file().heard()
        if "stems" in message:
            selection = Selection.stems(self.bundle, _text(message, "stems"))
            question, names = explorer.ask_buses(self.bundle, selection), selection.names
        else:
            question, names = read_choice(message, self.bundle), (_name(message),)
        folder = self.out / Path(self._file().name).stem
        written = explorer.export(store, question, [folder / f"{name}.wav" for name in names], RenderOptions(overwrite=True))
        for file in written:
            self.say(f"wrote {file.path}")
        return _json({"written": [str(file.path) for file in written]})

    def _save(self, message: Mapping[str, Any]) -> Answer:
        selection = read_selection(_table(message, "scene"))
        explorer.ask_buses(self.bundle, selection)  # what this model cannot play is told now
        path = presets.save(_text(message, "name"), Scene(selection))
        self.say(f"saved the preset {path}; load it by sep-live --preset {path.stem}, or sep-render --preset {path.stem}")
        return _json({"written": [str(path)]})


class _Open:
    """One file, from its opening to its closing."""

    def __init__(self, path: Path, name: str, owner: Explorer, borrowed: bool) -> None:
        self.name, self._owner, self._path, self._borrowed = name, owner, path, borrowed
        self._stack = ExitStack()
        self.store: Store = self._stack.enter_context(opened(path, owner.bundle, owner.cache))
        self._closed, self.done, self.fault = False, 0.0, ""
        self.thread = threading.Thread(target=self._hear, name="sep-explore", daemon=True)
        self.view = lru_cache(maxsize=2)(self._look)  # masks are asked for again and again

    def start(self) -> None:
        self._owner.say(
            f"opened '{self.name}': {self.store.seconds:.1f} s, {self.store.rate_hz} Hz, {self.store.channels} channels"
        )
        self.thread.start()

    def close(self) -> None:
        self._closed = True
        self.thread.join()
        self._stack.close()
        if self._borrowed:
            self._path.unlink(missing_ok=True)

    def heard(self) -> Store:
        """The store when all of the file is in it. Raises ControlError."""
        if self.store.samples is None:
            raise ControlError(
                self.fault or f"'{self.name}' is being heard, {100 * self.done:.0f} %; wait until all of it is there"
            )
        return self.store

    def facts(self) -> dict[str, Any]:
        store = self.store
        return {
            "name": self.name,
            "seconds": store.seconds,
            "rate_hz": store.rate_hz,
            "channels": store.channels,
            "samples": store.model_samples,
            "ready_s": store.model_samples / store.bundle.sample_rate_hz,
            "lead_s": float(explorer.middle_s(store, np.zeros(1, np.int64))[0]),  # of the picture's first column
            "hops": store.hops,
            "columns": [tape.rows for tape in store.picture],
            "done": self.done,
            "heard": store.samples is not None,
            "fault": self.fault,
        }

    def _look(self, start_s: float, stop_s: float, db: float, hops: int) -> View:
        return explorer.view(self.store, db, start_s, stop_s, hops=hops)

    def _hear(self) -> None:
        begun = time.monotonic()
        try:
            analyze(self.store, self._progress, self._owner.provider)
            self.done = 1.0
            self._owner.say(f"heard '{self.name}' in {time.monotonic() - begun:.1f} s")
        except Closed:
            return
        except SepstreamError as error:
            self.fault = str(error)
        except Exception as error:
            self.fault = defect(error)
        if self.fault:
            self._owner.say(self.fault)

    def _progress(self, fraction: float) -> None:
        if self._closed:
            raise Closed
        self.done = min(fraction, 0.999)


VIEW = ("start_s", "stop_s", "db", "hops")
CHOICE = ("select", "regions", "patch", "rest")


def hello(bundle: Bundle) -> dict[str, Any]:
    """What of the explorer stays as it is: the model, the scales of picture and sound."""
    return {
        "model": model(bundle),
        "picture": {
            "floor_db": FLOOR_DB,
            "step_db": STEP_DB,
            "zoom": ZOOM,
            "bins": bundle.stft.bins,
            "bin_hz": bundle.sample_rate_hz / bundle.stft.analysis_samples,
            "column_s": bundle.stft.hop_samples / bundle.sample_rate_hz,
        },
        "sample_rate_hz": bundle.sample_rate_hz,
        "most": {"frames": explorer.VIEW_FRAMES, "tile": MAX_TILE, "sound": MAX_SOUND, "corners": explorer.MAX_CORNERS},
    }


def view_bytes(bundle: Bundle, seen: View) -> bytes:
    """Little-endian. Head: how many frames, bins and points. Then int32: the frames' numbers, each bin's place among them,
    each bin's number, each point's place among the bins. Then int16 of 1/32767: each point's x, each point's y. Then a byte
    each: the bins' levels, the points' leaves."""
    points = explorer.cloud(bundle, seen, MAX_POINTS)
    head = _VIEW.pack(len(seen.hops), len(seen.bin), len(points.place), 0)
    numbers = [np.asarray(part, "<i4").tobytes() for part in (seen.hops, seen.frame, seen.bin, points.place)]
    places = [np.rint(np.clip(part, -1, 1) * 32767).astype("<i2").tobytes() for part in (points.x, points.y)]
    return b"".join([head, *numbers, *places, seen.level.tobytes(), points.leaf.tobytes()])


def read_choice(message: Mapping[str, Any], bundle: Bundle) -> Question:
    """Raises ExpressionError or ControlError."""
    text, rest = message.get("select", "mix"), message.get("rest", False)
    if not isinstance(rest, bool):
        raise ControlError(f"rest {quoted(rest)}; expected true or false")
    selection = read_selection({"buses": {"choice": {"select": text}}, "regions": message.get("regions", {})})
    choice = Choice(selection.buses[0].expression, _patch(message.get("patch")), rest)
    return explorer.ask(bundle, choice, regions=selection.regions)


def _patch(value: Any) -> Patch | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise ControlError(f"patch {quoted(value)}; expected corners [seconds, Hz]")
    return Patch(tuple(tuple(corner) if isinstance(corner, list) else corner for corner in value))


def _message(asked: Asked, *known: str) -> dict[str, Any]:
    """The body as an object with no other keys than these. Raises ControlError."""
    try:
        message = json.loads(asked.body)
    except (ValueError, RecursionError) as error:
        raise ControlError(f"{asked.path}: no JSON: {' '.join(str(error).split())[:120]}") from None
    if not isinstance(message, dict):
        raise ControlError(f"{asked.path}: {quoted(message)}; expected an object")
    for key in message:
        if key not in known:
            raise ControlError(f"{asked.path}: unknown key {quoted(key)}; {nearest(key, known)}")
    return message


def _table(message: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = message.get(key)
    if not isinstance(value, dict):
        raise ControlError(f"{key} {quoted(value)}; expected an object")
    return value


def _text(message: Mapping[str, Any], key: str) -> str:
    value = message.get(key)
    if not isinstance(value, str):
        raise ControlError(f"{key} {quoted(value)}; expected text")
    return value


def _name(message: Mapping[str, Any]) -> str:
    """Of a file to write: as that of a bus, so that no path gets through."""
    name = _text(message, "name")
    read_selection({"buses": {name: {"select": "mix"}}})
    return name


def number(message: Mapping[str, Any], key: str, low: float, high: float) -> float:
    """A finite number in a range. Raises ControlError."""
    value = message.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ControlError(f"{key} {quoted(value)}; expected a number from {low:g} to {high:g}")
    return float(value)


def whole(message: Mapping[str, Any], key: str, low: int, high: int) -> int:
    """A whole number in a range. Raises ControlError."""
    value = message.get(key)
    if type(value) is not int or not low <= value <= high:
        raise ControlError(f"{key} {quoted(value)}; expected a whole number from {low} to {high}")
    return value


def _json(value: Any) -> Answer:
    return Answer(200, JSON, json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode())

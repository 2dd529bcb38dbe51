"""A folder that a running sep-live shares among its processes: what was asked for, the board, the scene, the events.

config.json    what the command line said; written once
board          shared memory (board.py)
scene.toml     the scene as it is played, for a control process that has to start anew
view.json      what the screen and the recorder want to know of it
events         one JSON line each, appended by anyone, told to the user by the parent
refusal        why a process cannot do what was asked for
"""

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from .board import STOP, Board
from .errors import DeviceError

SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Config:
    """What sep-live was asked for; names and texts as they were typed, checked by whoever uses them."""

    model: str = "default"
    preset: str | None = None
    input: str | None = None
    output: str | None = None
    block_samples: int = 0  # 0: the device's own period
    queue_samples: int | None = None  # slack for a late model, in samples of the model; None: one hop
    provider: str = "auto"
    midi: tuple[str, ...] = ()
    osc: str = "127.0.0.1:9000"
    surface: str = ""  # where its pages are served; nowhere if empty
    surface_token: str = ""  # what a page has to know, if anything
    record: str | None = None
    settings: tuple[str, ...] = ()  # control=value


class Event(NamedTuple):
    """Something a user should read once."""

    source: str  # audio, control, recorder, watchdog
    text: str


class View(NamedTuple):
    """The scene as a listener sees it."""

    preset: str = ""
    buses: tuple[str, ...] = ()  # in the scene's order, the residual last
    gains_db: tuple[float, ...] = ()
    mutes: tuple[bool, ...] = ()
    solos: tuple[bool, ...] = ()
    master_gain_db: float = 0.0
    bypass: bool = False
    slots: dict[str, int] = {}  # noqa: RUF012  read by nobody but the recorder, and never changed
    last: str = ""  # the last control that somebody moved
    learning: str = ""  # the control that waits for a controller to be moved
    osc: str = ""  # where it listens
    midi: tuple[str, ...] = ()  # ports that are open
    surface: str = ""  # the address of its page


class Session:
    """One end of the folder, in any of the processes."""

    def __init__(self, folder: Path, parent: int | None = None) -> None:
        """An existing folder's; ``parent`` is the process without which this one has nothing to do, if not the one that it
        has now. Raises DeviceError when the folder is gone."""
        self.folder = folder
        try:
            read = json.loads((folder / "config.json").read_text(encoding="utf8"))
        except OSError as error:
            raise DeviceError(f"session '{folder}' is gone: {error.strerror}; start sep-live anew") from None
        self.config = Config(**{f.name: _frozen(read[f.name]) for f in fields(Config)})
        self.board = Board(folder / "board")
        self._events = os.open(folder / "events", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._parent = os.getppid() if parent is None else parent

    @classmethod
    def make(cls, config: Config, record_channels: int = 0) -> "Session":
        """A new folder, in memory where the system has such a place."""
        place = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
        folder = Path(tempfile.mkdtemp(prefix="sepstream-", dir=place))
        try:
            (folder / "config.json").write_text(json.dumps(asdict(config)), encoding="utf8")
            Board(folder / "board", create=True, record=record_channels)
            return cls(folder)
        except BaseException:
            _remove(folder)
            raise

    @property
    def scene_path(self) -> Path:
        """The scene as it is played."""
        return self.scene_of("scene")

    def scene_of(self, name: str) -> Path:
        """Another scene that the control process has to remember."""
        return self.folder / f"{name}.toml"

    def say(self, source: str, text: str) -> None:
        """One line for the user, whole even when several processes speak at once."""
        line = json.dumps([source, text]).encode("utf8")
        os.write(self._events, b"\n" + line + b"\n")  # on a line of its own, though a process may have died half-way

    def refuse(self, source: str, text: str) -> None:
        """Why the process that is about to end cannot do what was asked for. For the parent, who knows what that means."""
        self.keep("refusal", [source, text])

    def refusal(self) -> Event:
        """The newest."""
        return Event(*self.note("refusal", ("", "")))

    def events(self) -> Iterator[Event]:
        """Those since the beginning, then one without a text: call next() again later and it goes on."""
        with (self.folder / "events").open("rb") as file:
            rest = b""
            while True:
                rest += file.read()
                *lines, rest = rest.split(b"\n")
                for line in lines:
                    with suppress(ValueError):  # a line that is empty, or that nobody lived to end
                        yield Event(*json.loads(line))
                yield Event("", "")

    def show(self, view: View) -> None:
        """Tell the parent what is played; it sees the old view or the new one, never a part."""
        self.keep("view.json", view._asdict())

    def view(self) -> "View":
        """What the control process last showed."""
        return View(**self.note("view.json", {}))

    @property
    def device(self) -> str:
        """What the audio process opened; empty before it did."""
        return str(self.note("device", ""))

    @device.setter
    def device(self, text: str) -> None:
        self.keep("device", text)

    def keep(self, name: str, value: object) -> None:
        """A small value for processes to come. Readers find the old one or the new one, never a part."""
        part = self.folder / f"{name}.{os.getpid()}.part"
        part.write_text(json.dumps(value), encoding="utf8")
        part.replace(self.folder / name)

    def note(self, name: str, default: Any) -> Any:
        """What was kept under this name."""
        try:
            return json.loads((self.folder / name).read_text(encoding="utf8"))
        except FileNotFoundError:
            return default

    @property
    def over(self) -> bool:
        """Whether it is time to go: the parent said so, or is no more."""
        return bool(self.board.words[STOP]) or self.orphaned

    @property
    def orphaned(self) -> bool:
        """Whether the process that started this one is no more."""
        return os.getppid() != self._parent

    def remove(self) -> None:
        """The folder and all in it; what others have mapped lives until they end."""
        _remove(self.folder)


def become_child() -> None:
    """Only the parent acts on Ctrl-C. A polite kill ends this one at once. To write to a terminal never stops it."""
    for name in ("SIGINT", "SIGTTOU"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _remove(folder: Path) -> None:
    """Gladly together with others who do the same."""
    shutil.rmtree(folder, ignore_errors=True)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value

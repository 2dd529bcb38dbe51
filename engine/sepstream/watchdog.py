"""The parent of a live session: it starts the audio process and the control process, and starts them anew.

A process is judged by what it does: the audio process by the callback's count and the model's, the control process by its
beat. One that ended, or whose sign of life has stopped, is replaced, and finds the scene as it was: what is played lies on
the board and in the session's folder, not in the processes. When a sound server dies, PortAudio waits for it for ever;
nothing but a kill helps.
"""

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from . import board as b
from .board import Board
from .cli import USAGE
from .errors import DeviceError
from .session import Event, Session

AUDIO_SILENT_S = 1.5  # a callback that did not come for so long does not come any more
MODEL_SILENT_S = 5.0
OPENING_S = 60.0  # the first start of all compiles kernels
CONTROL_SILENT_S = 5.0
END_S = 3.0  # to end by oneself
HASTE_S = 5.0  # a process that lived no longer than this is given AGAIN_S before the next try
AGAIN_S = 1.0
TRIES = 3  # of a process that never gave a sign of life


class Sign(NamedTuple):
    """Of life: a count that goes on, and how long it may stand still."""

    what: str
    count: Callable[[Board], int]
    patience_s: Callable[[Board], float]


@dataclass
class Ward:
    """A child process and the signs of life that are expected of it."""

    session: Session
    name: str
    module: str
    signs: tuple[Sign, ...]
    restarts: int = 0
    begun: bool = False  # it gave a sign of life, now or before it was started anew
    _alive: bool = False  # it did so in this life
    _process: "subprocess.Popen[bytes] | None" = None
    _seen: list[tuple[int, float]] = field(default_factory=list)  # of each sign the newest count, and when it was new
    _born: float = 0.0
    _told: Event | None = None

    def start(self) -> None:
        """In a group of its own: Ctrl-C and Ctrl-Z in a terminal are for the parent. What lies in the folder where somebody
        plays is not imported (-P)."""
        child = ["sepstream.child", self.module, self.name, str(self.session.folder), str(os.getpid())]
        command = [sys.executable, "-P", "-m", *child]
        group = 0 if os.name == "posix" else None
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, process_group=group)
        self._born, self._alive = time.monotonic(), False
        self._seen = [(sign.count(self.session.board), self._born) for sign in self.signs]

    def look(self) -> None:
        """Replace the process if it ended or stopped. Cheap; called many times a second. Raises DeviceError if it says that
        it cannot begin."""
        assert self._process is not None
        now = time.monotonic()
        still, ended = self._still(now), self._process.poll()
        if ended is None and not still:
            return
        if ended == USAGE:
            self._hear_refusal()
        if ended is not None and now - self._born < HASTE_S and now - max(since for _, since in self._seen) < AGAIN_S:
            return  # it died young
        if ended is not None and not self.begun and self.restarts + 1 >= TRIES:
            raise DeviceError(f"the {self.name} process ended {TRIES} times before it began ({ended}); what it said stands above")
        self.end(at_once=True)
        self.restarts += 1
        if ended != USAGE:
            why = f"gave no {still} any more" if ended is None else f"ended ({ended})"
            self.session.say("watchdog", f"the {self.name} process {why} and was started anew")
        self.start()

    def end(self, at_once: bool = False) -> None:
        """Wait for it to end by itself, then make it."""
        if self._process is None:
            return
        try:
            self._process.wait(0 if at_once else END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def _still(self, now: float) -> str:
        """The sign that did not come for too long, if there is one. Nothing is expected before the first of them."""
        board, silent = self.session.board, ""
        for place, (sign, (count, since)) in enumerate(zip(self.signs, self._seen, strict=True)):
            if (new := sign.count(board)) != count:
                self._seen[place] = (new, now)
                self._alive = self.begun = True
            elif now - since > (sign.patience_s(board) if self._alive else OPENING_S):
                silent = sign.what
        return silent

    def _hear_refusal(self) -> None:
        """What cannot even begin is the session's end; what could begin once is told, and tried again."""
        refusal = self.session.refusal()
        if not self.begun:
            raise DeviceError(refusal.text or f"the {self.name} process cannot begin, and did not say why")
        if refusal != self._told:
            self._told = refusal
            self.session.say(*refusal)


class Watchdog:
    """Both processes of a session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        sound = Sign("sound", _callbacks, lambda board: AUDIO_SILENT_S if _plays(board) else OPENING_S)
        model = Sign("result of the model", _hops, lambda board: MODEL_SILENT_S if _plays(board) else math.inf)
        beat = Sign("answer", _beats, lambda _: CONTROL_SILENT_S)
        self.audio = Ward(session, "audio", "sepstream.live", (sound, model))
        self.control = Ward(session, "control", "sepstream.control.host", (beat,))

    def start(self) -> None:
        self.session.board.words[b.STATE] = b.OPENING
        for ward in (self.control, self.audio):
            ward.start()

    def look(self) -> None:
        """Raises DeviceError when the session cannot begin."""
        before = self.audio.restarts
        for ward in (self.audio, self.control):
            ward.look()
        if self.audio.restarts > before:
            self.session.board.words[b.STATE] = b.OPENING
            self.session.board.words[b.RESTARTS] = self.audio.restarts  # whoever reads this knows that the old state is over

    def end(self) -> None:
        """Everything ends: the sound fades, the ports close."""
        self.session.board.words[b.STOP] = 1
        for ward in (self.audio, self.control):
            ward.end()


def _plays(board: Board) -> bool:
    return bool(board.words[b.STATE] == b.PLAYING)


def _callbacks(board: Board) -> int:
    return int(board.words[b.CALLBACKS] + board.words[b.STATE])


def _hops(board: Board) -> int:
    return int(board.words[b.HOPS] + board.words[b.STATE])


def _beats(board: Board) -> int:
    return int(board.words[b.BEAT])

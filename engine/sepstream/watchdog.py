"""The parent of a live session: it starts the audio process and the control process, and starts them anew.

A process is judged by what it does: the audio process by the callback's count, the control process by its beat. One that
ended, or whose sign of life has stopped, is replaced, and finds the scene as it was: what is played lies on the board
and in the session's folder, not in the processes. When a sound server dies, PortAudio waits for it for ever; nothing
but a kill helps.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from . import board as b
from .board import Board
from .session import Session

AUDIO_SILENT_S = 1.5  # a callback that did not come for so long does not come any more
OPENING_S = 60.0  # the first start of all compiles kernels
CONTROL_SILENT_S = 5.0
END_S = 3.0  # to end by oneself
HASTE_S = 5.0  # a process that lived no longer than this is given time before the next try


@dataclass
class Ward:
    """A child process and the sign of life that is expected of it."""

    session: Session
    name: str
    module: str
    sign: Callable[[Board], int]
    patience_s: Callable[[Board], float]
    restarts: int = 0
    _process: "subprocess.Popen[bytes] | None" = None
    _last: tuple[int, float] = (0, 0.0)  # the newest sign of life, and when it was new
    _born: float = field(default=0.0)

    def start(self) -> None:
        command = [sys.executable, "-m", self.module, str(self.session.folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self._born = time.monotonic()
        self._last = (self.sign(self.session.board), self._born)

    def look(self) -> None:
        """Replace the process if it ended or stopped. Cheap; called many times a second."""
        now, board = time.monotonic(), self.session.board
        if (sign := self.sign(board)) != self._last[0]:
            self._last = (sign, now)
        assert self._process is not None
        ended = self._process.poll()
        stopped = now - self._last[1] > self.patience_s(board)
        if ended is None and not stopped:
            return
        if ended is not None and now - self._born < HASTE_S and now - self._last[1] < 1.0:
            return  # it died young: one try a second
        self.end(at_once=True)
        self.restarts += 1
        why = "stopped" if ended is None else f"ended ({ended})"
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


class Watchdog:
    """Both processes of a session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.audio = Ward(session, "audio", "sepstream.live", _callbacks, _audio_patience)
        self.control = Ward(session, "control", "sepstream.control.host", _beats, lambda _: CONTROL_SILENT_S)

    def start(self) -> None:
        self.session.board.words[b.STATE] = b.OPENING
        for ward in (self.control, self.audio):
            ward.start()

    def look(self) -> None:
        before = self.audio.restarts
        for ward in (self.audio, self.control):
            ward.look()
        if self.audio.restarts > before:
            self.session.board.words[b.RESTARTS] = self.audio.restarts
            self.session.board.words[b.STATE] = b.OPENING

    def end(self) -> None:
        """Everything ends: the sound fades, the ports close."""
        self.session.board.words[b.STOP] = 1
        for ward in (self.audio, self.control):
            ward.end()


def _callbacks(board: Board) -> int:
    return int(board.words[b.CALLBACKS] + board.words[b.STATE])


def _audio_patience(board: Board) -> float:
    return {b.PLAYING: AUDIO_SILENT_S, b.MISSING: float("inf")}.get(int(board.words[b.STATE]), OPENING_S)


def _beats(board: Board) -> int:
    return int(board.words[b.BEAT])

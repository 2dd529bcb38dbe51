"""The recorder of sep-live: the input and every bus, each in a file of its own, all as long as each other and in time.

A thread of the parent process. The worker leaves its sound on the board's rings (``Board.record_ring``) and knows nothing
of disks; this thread fetches it, and a slow disk costs nothing while it lags by less than a ring, 5 s. What is
overwritten by then becomes silence. A take is a folder; whatever ends it, its files are playable and get their names.
"""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .audiofile import AudioWriter, unwritable
from .board import INPUTS, MODEL_HZ, RECORD_FRAMES, RECORDED, RECORDING, Board
from .errors import AudioFileError, DeviceError, SepstreamError

F32 = NDArray[np.float32]

INPUT, INPUT_SLOT = "input", 0  # the file's name, and its place on the rings
TURN_S = 0.25  # how often to fetch
CHUNK = 1 << 13  # frames fetched at a time: 4 MiB of 65 stereo buses
AHEAD = 1 << 14  # frames that the worker may be writing beyond those it has counted
FAREWELL_S = 5.0  # for a disk to take the end of a take


@dataclass
class Track:
    """One file of a take, and the slot that it listens to."""

    slot: int
    writer: AudioWriter


class Take:
    """One folder of files of the same length: ``frames``, ``lost`` of them silent because the rings went on without us."""

    def __init__(self, board: Board, folder: Path) -> None:
        """From the next frame on, in a new folder below ``folder``. Raises AudioFileError, and DeviceError where the board
        has no rings for as many channels."""
        self.shape = self.rate_hz, self.channels = shape(board)
        tape = board.record_ring(self.channels)
        if tape is None:
            raise DeviceError(f"no room to record {self.channels} channels in this session; start sep-live anew")
        self._tape, self._words = tape, board.words
        self._at = int(board.words[RECORDED])
        self._tracks: dict[str, Track] = {}  # by the bus; the input is nobody's name
        self.frames = self.lost = 0
        self.folder = _new_folder(folder)

    @property
    def seconds(self) -> float:
        return self.frames / self.rate_hz

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(track.writer.path.stem for track in self._tracks.values())

    def follow(self, until: int, names: Mapping[str, int]) -> None:
        """Write what the rings hold up to frame ``until``, of all buses so far. Raises AudioFileError: time to ``close``."""
        self._meet({"": INPUT_SLOT, **names})  # before there is anything to write: by then a bus may be gone
        self._check_there()
        deaf = self._deaf(names)
        while self._at < until:
            frames = min(CHUNK, until - self._at)
            sound = self._fetch(frames)
            if self._overtaken():  # all at once, so that one long hole comes instead of many
                self._lose(until - self._at)
                return
            sound[deaf] = 0.0
            for track, audio in zip(self._tracks.values(), sound, strict=True):
                track.writer.write(audio.T)
            self._at += frames
            self.frames += frames

    def close(self) -> list[AudioFileError]:
        """Cut every file to the length that all of them have and give it its name; nothing stays of an empty take.
        The files that this fails for stay hidden, if they are there at all."""
        errors = [error for track in self._tracks.values() if (error := self._end(track.writer))]
        if not self.frames:
            with suppress(OSError):  # somebody has deleted it, or put something there
                self.folder.rmdir()
        return errors

    def _meet(self, names: Mapping[str, int]) -> None:
        """A file for each new bus, silent so far."""
        for name, slot in names.items():
            if name in self._tracks:
                self._tracks[name].slot = slot
                continue
            path = self.folder / f"{_unlike(name or INPUT, self.files)}.wav"
            writer = AudioWriter(path, self.rate_hz, self.channels, samples=None).open()
            self._tracks[name] = Track(slot, writer)
            if self.frames:
                writer.resize(self.frames)

    def _check_there(self) -> None:
        """A deleted file can be written to as before, on most systems."""
        for track in self._tracks.values():
            try:
                track.writer.hidden.stat()
            except OSError as error:
                raise unwritable(track.writer.path, error) from None

    def _deaf(self, names: Mapping[str, int]) -> list[int]:
        """Tracks whose slot another bus has by now."""
        owner = {slot: name for name, slot in names.items()}
        return [k for k, (name, track) in enumerate(self._tracks.items()) if owner.get(track.slot, name) != name]

    def _fetch(self, frames: int) -> F32:
        """(tracks, frames, channels), finite."""
        slots = np.array([track.slot for track in self._tracks.values()])
        sound: F32 = self._tape[np.ix_(slots, (self._at + np.arange(frames)) & (RECORD_FRAMES - 1))]
        sound[~np.isfinite(sound)] = 0.0
        return sound

    def _overtaken(self) -> bool:
        return int(self._words[RECORDED]) + AHEAD - RECORD_FRAMES > self._at

    def _lose(self, frames: int) -> None:
        for track in self._tracks.values():
            track.writer.resize(self.frames + frames)
        self._at += frames
        self.frames += frames
        self.lost += frames

    def _end(self, writer: AudioWriter) -> AudioFileError | None:
        try:
            if self.frames:
                writer.resize(self.frames)
                writer.keep()
            else:
                writer.discard()
        except AudioFileError as error:
            return error
        return None


class Recorder:
    """Takes below ``folder``, one after the other, for as long as ``wanted()``.

    ``names()`` tells the buses and their slots, None before there is a scene; ``say`` tells one line to the user; neither
    may raise. After trouble, nothing is recorded until it is wanted anew. ``start`` and ``close`` are for the parent's
    thread, ``turn`` is what ours does.
    """

    def __init__(
        self,
        board: Board,
        folder: Path,
        names: Callable[[], Mapping[str, int] | None],
        say: Callable[[str], None],
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        self.board, self.folder, self._names, self._say, self._wanted = board, folder, names, say, wanted
        self._take: Take | None = None
        self._seen = 0  # frames recorded by the last turn
        self._given_up = self._complained = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sepstream recorder", daemon=True)

    @property
    def status(self) -> str:
        """The take and its length so far; empty while nothing is recorded."""
        take = self._take
        return f"{take.folder.name} {_clock(take.seconds)}" if take else ""

    def start(self) -> None:
        self._thread.start()

    def close(self, wait_s: float = FAREWELL_S) -> None:
        """End the take and the thread; a disk that hangs is left behind after ``wait_s``."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(wait_s)
        if self._thread.is_alive():
            self._say(
                f"recording: the disk does not answer; what it has of {self.status} is below '{self.folder}' in .part files"
            )

    def turn(self) -> None:
        """Begin, go on, or end, as it is wanted. What is written was there a turn ago: by then its buses have their names."""
        before, self._seen = self._seen, int(self.board.words[RECORDED])
        try:
            if not self._wanted():
                self._given_up = False
                self._finish()
            elif self._take is None:
                self._begin()
            elif self._take.shape != shape(self.board):  # another device: the rings are about to be laid out anew
                self._close()
            else:
                self._take.follow(before, self._names() or {})
                self._complain(self._take)
        except SepstreamError as error:
            self._given_up = True
            self._close(error)

    def _run(self) -> None:
        try:
            while not self._over.wait(TURN_S):
                self.turn()
        finally:
            self._wanted = lambda: False
            self.turn()

    def _begin(self) -> None:
        if self._given_up or not all(shape(self.board)) or self._names() is None:  # no device yet, or no scene
            return
        self._take, self._complained = Take(self.board, self.folder), False
        self.board.words[RECORDING] = 1
        self._say(f"recording to '{self._take.folder}'")

    def _finish(self) -> None:
        """The end as it should be: with the sound since the last turn."""
        if self._take is not None:
            self._take.follow(self._seen, self._names() or {})
            self._close()

    def _close(self, error: SepstreamError | None = None) -> None:
        """End the take, if there is one, keep what can be kept, and say it once."""
        take, self._take = self._take, None
        self.board.words[RECORDING] = 0
        failed = take.close() if take else []
        kept = _kept(take) if take and take.frames and not failed else ""
        if trouble := error or next(iter(failed), None):
            self._say(f"recording ended: {trouble}" + (f"; kept {kept}" if kept else ""))
        else:
            self._say(f"recorded {kept or 'nothing'}")

    def _complain(self, take: Take) -> None:
        """About what was lost, once a take."""
        if take.lost and not self._complained:
            self._complained = True
            lost_s = take.lost / take.rate_hz
            self._say(f"recording fell behind, {lost_s:.1f} s became silence; is the disk too slow for {len(take.files)} files?")


def shape(board: Board) -> tuple[int, int]:
    """Rate and channels of what is on the rings; 0 before there is a device."""
    return int(board.words[MODEL_HZ]), int(board.words[INPUTS])


def check_folder(folder: Path) -> None:
    """Make it, if need be. Raises AudioFileError where nothing can be recorded."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise unwritable(folder, error) from None


def _new_folder(parent: Path) -> Path:
    """``take-YYYYMMDD-HHMMSS``, or with a number when that is taken. Raises AudioFileError."""
    name = time.strftime("take-%Y%m%d-%H%M%S")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = parent / _unlike(name, os.listdir(parent))  # noqa: PTH208 - names are all it takes
        folder.mkdir()
    except OSError as error:
        raise unwritable(parent / name, error) from None
    return folder


def _unlike(name: str, others: Iterable[str]) -> str:
    """``name``, or with the first number that tells it from ``others`` on every file system."""
    taken = {other.lower() for other in others}
    numbered = (f"{name}-{number}" for number in count(2))
    return next(candidate for candidate in chain([name], numbered) if candidate.lower() not in taken)


def _kept(take: Take) -> str:
    silent = f", {take.lost / take.rate_hz:.1f} s of it silent" if take.lost else ""
    return f"{_clock(take.seconds)} in '{take.folder}': {', '.join(take.files)}{silent}"


def _clock(seconds: float) -> str:
    tenths = int(10 * seconds)
    return f"{tenths // 600}:{tenths // 10 % 60:02}.{tenths % 10}"

"""Live: a sound card, the worker and the desk, put together; alone in a process of its own when sep-live runs it.

Threads: the callback is PortAudio's, the worker has one of ours, the main thread opens, watches and closes.
"""

import gc
import math
import os
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from . import board as b
from . import device
from .board import Board
from .callback import FADE
from .contract import Bundle, load_bundle
from .control.desk import Desk
from .control.scene import Scene
from .errors import DeviceError, SepstreamError
from .pipeline import RAMP_MS
from .selection import Selection
from .session import Session
from .wanted import read_wanted
from .worker import Alarm, Worker

FIRST_BLOCK_S = 5.0  # a device that opened but does not ask for sound by then is in somebody else's hands
LOOK_S = 0.05  # how often the main thread looks
AGAIN_S = 1.0  # between two tries for a device that is not there, or a worker that fails
FADED_S = 0.5  # for the last fade: longer than any device's block
SWITCH_S = 0.0005  # how long another thread of this process may keep the interpreter
REAL_TIME = 60  # priority of the worker: below the sound server's own threads, above everything else


class LiveSession:
    """An audio device in, buses out, in this process: ``start``, ``play`` a selection, ``stop``; or as a context.

        with LiveSession(load_bundle("default"), Selection.stems(bundle), output="USB:1,2") as live:
            live.play(Selection((read_bus("voice=speech"),)))

    ``input`` and ``output`` are DEV[:CH,...]. ``block_samples`` 0 takes the device's own period; ``queue_samples`` is the
    slack that a late model has before the dry sound stands in, in samples (None: one hop). sep-live runs the same object
    in a process of its own, where no other thread of Python can hold it up, on a ``board`` whose scene others post. Raises
    DeviceError.
    """

    def __init__(
        self,
        bundle: Bundle,
        selection: Selection | None = None,
        *,
        input: str | None = None,
        output: str | None = None,
        block_samples: int = 0,
        queue_samples: int | None = None,
        provider: str = "auto",
        board: Board | None = None,
    ) -> None:
        self.bundle, self.board, self._block = bundle, board or _own_board(), block_samples
        self._slack = bundle.stft.hop_samples if queue_samples is None else queue_samples
        self._wanted_provider = provider
        self.route = device.route(read_wanted(input), read_wanted(output), bundle.sample_rate_hz)
        device.announce(self.board, self.route)
        self.worker = Worker(self.board, bundle, provider)
        self.provider = self.worker.pipeline.provider
        self.failures: list[str] = []  # of the worker's thread, oldest first; whoever tells the user takes them out
        self._desk = Desk(bundle, self.board)
        self._stream: device.Stream | None = None
        self._thread: threading.Thread | None = None
        if board is None or selection is not None:
            self.play(selection or Selection.stems(bundle))

    def __enter__(self) -> "LiveSession":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def play(self, selection: Selection) -> None:
        """The buses to hear, from the next hop on; what changes, fades."""
        self._desk.play(Scene(selection))

    def start(self) -> None:
        """Sound, from now on; dry until the model has filled the queue."""
        self._prepare()
        self._thread = threading.Thread(target=self._work, name="sepstream worker", daemon=True)
        try:
            self._stream = device.Stream(self.board, self.route, self._block)
        except DeviceError:
            self._alarm.close()
            raise
        self._thread.start()
        try:
            self.settle()
        except DeviceError:
            self._close()
            raise
        self.board.words[b.DEVICE_US] = round(1e6 * self._stream.latency_s)
        self.board.words[b.STATE] = b.PLAYING

    def stop(self) -> None:
        """Fade out, then close the device."""
        if self._stream is None:
            return
        self.board.words[b.STOP] = 1
        faded_by = time.monotonic() + FADED_S
        while self.board.floats[b.FADES_AT + 1] > 0.0 and time.monotonic() < faded_by:
            time.sleep(0.005)
        self._close()
        self.board.words[b.STATE] = 0

    def summary(self) -> str:
        """One line on what was opened."""
        route, rate = self.route, self.route.rate_hz
        total = 1000 * int(self.board.words[b.DELAY]) / rate
        return (
            f"{route.input.label} {_numbers(route.input_channels)} -> {route.output.label} {_numbers(route.output_channels)}, "
            f"{rate} Hz, blocks of {int(self.board.words[b.STEADY_BLOCK])}, {total:.1f} ms and the device's own, {self.provider}"
        )

    def settle(self) -> None:
        """Fit the queue to the device's blocks; call it now and then, for some devices change them while they play."""
        words = self.board.words
        given_up = time.monotonic() + FIRST_BLOCK_S
        while words[b.QUEUE] < 0 and not words[b.STEADY_BLOCK]:
            if time.monotonic() > given_up:
                told = f"asked for sound only {int(words[b.CALLBACKS])} times" if words[b.CALLBACKS] else "asked for no sound"
                raise DeviceError(f"'{self.route.output.label}' opened, but {told} in {FIRST_BLOCK_S:g} s; is it in use?")
            time.sleep(0.002)
        rate, model = self.route.rate_hz, self.bundle.sample_rate_hz
        queue = queue_frames(int(words[b.STEADY_BLOCK]), int(words[b.GRAIN]), self.worker.hop, rate, model, slack=self._slack)
        if queue > words[b.QUEUE]:
            words[b.QUEUE], words[b.DELAY] = queue, queue + self.worker.lag_frames

    def _close(self) -> None:
        assert self._stream is not None and self._thread is not None
        self._ending = True
        self._alarm.ring()
        self._thread.join(1.0)
        self._stream.close()
        self._alarm.close()
        self.board.words[b.WAKE_FD] = -1
        self._stream = self._thread = None

    def _prepare(self) -> None:
        """A board as the callback expects it, and nothing on it that an earlier stream computed."""
        words = self.board.words
        self._alarm, self._ending = Alarm(), False
        words[b.WAKE_FD], words[b.QUEUE], words[b.SETTLED] = self._alarm.write, -1, 0
        words[b.LAST_BLOCK : b.MOMENT + 1] = 0
        words[b.STATE], words[b.STOP] = b.OPENING, 0
        words[b.RAMP_FRAMES] = round(self.route.rate_hz * RAMP_MS / 1000)
        words[b.EPOCH] += 1
        self.board.floats[b.FADES_AT : b.FADES_AT + 2] = 0.0

    def _work(self) -> None:
        """The worker's thread: first among equals, and without the collector, whose pauses one would hear."""
        with suppress(AttributeError, OSError):  # a system without it, or a user without the right: it goes on as it is
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(REAL_TIME))
        worker: Worker | None = self.worker
        while not self._ending:
            try:
                self.worker = worker or Worker(self.board, self.bundle, self._wanted_provider)
                self.worker.run(self._alarm, lambda: self._ending)
            except Exception as error:  # whatever it is: the callback plays dry meanwhile, and a fresh worker knows nothing of it
                self.board.words[b.FAULTY_HOPS] += 1
                self.failures.append(f"{type(error).__name__}: {error}")
                worker = None
                time.sleep(AGAIN_S)


def queue_frames(block: int, grain: int, hop: int, rate_hz: int, model_hz: int, *, slack: int) -> int:
    """Frames from an input to its place on the output ring, for ``hop`` and ``slack`` in samples of the model.

    A hop is complete when the device's blocks, of up to ``block`` frames and multiples of ``grain``, have covered it, and must
    be there, with a fade's length to spare, one block later; the rest is slack.
    """
    incomplete = hop - math.gcd(grain, hop) if rate_hz == model_hz else (hop - 1) * rate_hz // model_hz
    return block + incomplete + FADE + math.ceil(slack * rate_hz / model_hz)


def _numbers(channels: tuple[int, ...]) -> str:
    return ",".join(str(channel + 1) for channel in channels)


def _own_board() -> Board:
    """For a session without other processes: nobody else needs to find it."""
    with tempfile.TemporaryDirectory(prefix="sepstream-") as folder:
        return Board(Path(folder) / "board", create=True)


def main(session: Session) -> None:
    """The audio process of sep-live: play until the session is over, wait for a device that is gone. Raises SepstreamError
    for one that has never been there."""
    sys.setswitchinterval(SWITCH_S)
    bundle = load_bundle(session.config.model)
    words, told = session.board.words, ""
    while not session.over:
        words[b.STATE] = b.OPENING  # each try is a sign of life
        try:
            _play(session, bundle)
        except SepstreamError as error:
            if not words[b.FRAMES]:
                raise
            words[b.STATE] = b.MISSING
            if str(error) != told:
                session.say("audio", told := str(error))
            time.sleep(AGAIN_S)
            device.look_again()


def _play(session: Session, bundle: Bundle) -> None:
    """One stream's life. A device that vanishes ends the process, not the stream: PortAudio's own close may hang for ever,
    so the parent, who sees the callback stop, kills and replaces it."""
    config = session.config
    live = LiveSession(
        bundle,
        input=config.input,
        output=config.output,
        block_samples=config.block_samples,
        queue_samples=config.queue_samples,
        provider=config.provider,
        board=session.board,
    )
    gc.collect()
    gc.freeze()
    gc.disable()  # its pauses would be heard, and nothing here makes cycles
    live.start()
    session.device = live.summary()
    session.say("audio", session.device)
    while not session.over:
        live.settle()
        while live.failures:
            session.say("audio", f"the model's thread failed and was started anew: {live.failures.pop(0)}")
        time.sleep(LOOK_S)
    live.stop()

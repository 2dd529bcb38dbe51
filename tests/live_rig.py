"""A whole stage for the live tests: a JACK server, sep-live as a process in it, and the player (live_player.py) round it.

    with live_rig.stage("--preset", "stems") as rig:    # until it plays; at the end Ctrl-C, and nothing may be left of it
        rig.feed("bright")
        start = rig.run(48000)
        rig.assert_unity(start, rig.now)

Frames are the server's. All waits are bounded and none is for a time; on a synchronous server (the default) nothing
depends on how fast the machine is. The other kind (PACED) loses the block of a client that is late, so its blocks are long.
"""

import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jack_server
from jack_server import Child, Server, wait_until
from live_player import CYCLES, FRAMES, LOG, Tape
from sepstream import board as b
from sepstream.board import Board
from sepstream.control import osc
from sepstream.errors import DeviceError
from sepstream.telemetry import Telemetry, read

START_S = 120.0  # for processes to load what they need, on a machine that has other things to do
HELD_S = "20"  # a server that waits for a test is not dead
RAMP = 960  # frames: 20 ms
PACED: Any = {"sync": False, "gate": False, "period": 2048}  # of ``stage``: a server that goes on when a client dies
QUIET_DB = -120.0
COMMAND = (sys.executable, "-u", "-m", "live_stage")  # sep-live


class Rig:
    """What ``stage`` makes."""

    player: Child
    tape: Tape

    def __init__(self, jack: Server, root: Path, live: Child, channels: int, sync: bool, gate: bool) -> None:
        self.jack, self.root, self.live, self.channels = jack, root, live, channels
        self.sync, self.gate = sync, gate  # who waits: the server for its clients, the player for the model
        self.session = root / "session"
        self.device = 0  # frames that PortAudio itself takes
        self.board: Board = None  # type: ignore[assignment]  # until it is there
        self._inbox: list[osc.Message] = []
        self.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.client.bind(("127.0.0.1", 0))
        self.client.settimeout(START_S)

    # The session.

    def wait(self, condition: Callable[[], object], what: str, seconds: float = START_S) -> None:
        """For a condition, or the end of sep-live."""
        ended = self.live.process.poll
        try:
            wait_until(lambda: ended() is not None or condition(), what, seconds)
        except TimeoutError as error:
            raise AssertionError(f"{error}; {self.trouble}") from None
        assert ended() is None, f"sep-live ended with {ended()} while {what} was waited for: {self.said}"

    def begin(self) -> None:
        """Until the model's sound is heard, as the scene has it."""
        self.wait(self._found_board, "a session")
        self.start_player()
        self.settle()
        if self.gate:
            self.run(4096)

    def settle(self) -> None:
        """Until everything that was posted is played, by the model, over cables that are all there."""
        words, cables = self.board.words, self.tape.inputs + self.tape.outputs

        def settled() -> bool:
            posted = words[b.TAKEN] == words[b.MAIL] > 0
            return bool(words[b.STATE] == b.PLAYING and posted and self.is_wet and self.tape.state[5] >= cables)

        with self.unhurried():
            self.wait(settled, "the model's sound")

    @contextmanager
    def unhurried(self) -> Iterator[None]:
        """While the player waits for the model, so that nothing is late on any machine; if the server waits for it."""
        before = self.gate
        self.set_gate(self.sync)
        yield
        self.set_gate(before)

    @property
    def folder(self) -> Path:
        """The session's."""
        return next(self.session.glob("sepstream-*"))

    @property
    def view(self) -> dict[str, Any]:
        """What sep-live's own screen shows."""
        with suppress(FileNotFoundError):
            return dict(json.loads((self.folder / "view.json").read_text()))
        return {}

    @property
    def said(self) -> list[str]:
        """All that sep-live has printed."""
        with suppress(TimeoutError, EOFError):
            while True:
                self.live.line(0.0)
        return self.live.lines

    @property
    def words(self) -> dict[str, int]:
        names = "STATE FRAMES CALLBACKS QUEUE_NOW DELAY_NOW LATE_BLOCKS FADES FAULTS HOPS SKIPPED MAIL TAKEN BEAT RESTARTS"
        return {name: int(self.board.words[getattr(b, name)]) for name in names.split()} if self.board is not None else {}

    @property
    def trouble(self) -> str:
        """What helps to find out what went wrong."""
        return f"sep-live said {self.said[-8:]}; the board: {self.words}"

    @property
    def telemetry(self) -> Telemetry:
        return read(self.board)

    @property
    def is_wet(self) -> bool:
        """Whether the model is in time."""
        return bool(self.board.floats[b.FADES_AT] == 1.0 and self.board.floats[b.FADES_AT + 1] == 1.0)

    def pid(self, name: str) -> int:
        """Of the audio or the control process, 0 if there is none."""
        modules = {"audio": ("sepstream.live", "live_fault"), "control": ("sepstream.control.host",)}[name]
        found = [pid for pid, words in self.children().items() if any(module in words for module in modules)]
        return found[0] if found else 0

    def children(self) -> dict[int, list[str]]:
        """Of sep-live, with their command lines."""
        found: dict[int, list[str]] = {}
        for task in Path(f"/proc/{self.live.process.pid}/task").glob("*/children"):
            with suppress(OSError):
                for pid in task.read_text().split():
                    found[int(pid)] = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        return found

    def end(self, number: int = signal.SIGINT) -> int:
        """Ctrl-C. -> the exit code; nothing is left, no process and no file."""
        pids = self.children()
        self.live.process.send_signal(number)
        code = self.live.process.wait(START_S)
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the end of all its processes")
        assert not list(self.session.iterdir()), list(self.session.iterdir())
        return code

    def close(self) -> None:
        self.client.close()
        self.stop_player()

    # Sound.

    def start_player(self) -> None:
        """Another one after another ``stop_player``, with a tape of its own."""
        folder = Path(tempfile.mkdtemp(prefix="tape-", dir=self.root))
        self.player = self.jack.child("-m", "live_player", str(folder), "2", str(self.channels))
        self.player.expect("ready", START_S)
        self.tape = Tape(folder, 2, self.channels)
        self.tell(f"board {self.folder / 'board'}")
        self.set_gate(self.gate)

    def stop_player(self) -> None:
        self.player.stop()

    def tell(self, line: str) -> None:
        """A command to the player."""
        self.player.say(line)
        self.player.expect("done", START_S)

    def set_gate(self, on: bool) -> None:
        """Whether the player waits for the model."""
        self.gate = on
        self.tell(f"gate {'on' if on else 'off'}")

    def feed(self, name: str) -> int:
        """Play another signal. -> a frame from which on it is heard from sep-live, too."""
        self.tell(f"feed {name}")
        return self.run(self.delay + 2048)

    @property
    def now(self) -> int:
        """The frame up to which there is a recording."""
        return int(self.tape.state[1])

    def run(self, frames: int) -> int:
        """Until that many more are recorded, whatever becomes of sep-live. -> ``now``."""
        end = self.now + frames
        wait_until(lambda: self.now >= end, f"{frames} frames", START_S)
        return self.now

    @property
    def delay(self) -> int:
        """Frames from an input to its sound, as declared: algorithmic and queue."""
        return int(self.board.words[b.DELAY])

    @property
    def gap(self) -> int:
        """The frame from which on nothing is missing."""
        return int(self.tape.state[6])

    def assert_nothing_is_missing(self, start: int) -> None:
        """On the tape, since what is heard at frame ``start`` was fed: a server that was held up for long goes on later."""
        assert self.gap <= start - self.delay - self.device, (start, self.tape.state)

    def heard(self, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """(frames, outputs) of sep-live and (frames, inputs) of what it was fed ``delay`` frames before."""
        assert self.now - FRAMES < start - self.delay - self.device, "that is no longer on the tape"
        at, outputs = np.arange(start, end) - int(self.tape.state[0]), self.tape.outputs
        fed = (at - self.delay - self.device) % FRAMES
        return self.tape.sound[at % FRAMES, :outputs], self.tape.sound[fed, outputs:]

    def gains(self, start: int, end: int, output: int = 0, channel: int | None = None) -> np.ndarray:
        """(frames,) what was played of what was fed, for signals that are never near zero."""
        out, fed = self.heard(start, end)
        return out[:, output] / fed[:, output % self.tape.inputs if channel is None else channel]

    def error_db(self, start: int, end: int) -> float:
        """How far the outputs are from the input of the same channels, at the worst sample, relative to the loudest."""
        out, fed = self.heard(start, end)
        fed = np.take(fed, np.arange(out.shape[1]) % fed.shape[1], axis=1)
        return decibels(np.abs(out - fed).max() / np.abs(fed).max())

    def assert_unity(self, start: int, end: int, limit_db: float = QUIET_DB) -> None:
        """Output == input, ``delay`` frames later, in every frame."""
        assert end - start > 1000
        self.assert_nothing_is_missing(start)
        error = self.error_db(start, end)
        assert error < limit_db, f"{error:.1f} dB in frames {start}..{end}; {self.words}"

    def wait_exact(self, gain: float = 1.0, limit_db: float = -100.0) -> None:
        """Until two blocks in a row are the input times ``gain``: a paced server loses some on a busy machine."""

        def exact() -> bool:
            start, end = self.now - 2 * PACED["period"], self.now
            out, fed = self.heard(start, end)
            far = np.abs(out - gain * fed[:, : out.shape[1]]).max() / max(np.abs(fed).max(), 1e-9)
            return bool(start > self.tape.state[0] + self.delay and fed.any(1).all() and decibels(far) < limit_db)

        self.wait(exact, f"the input times {gain}")

    # Control.

    @property
    def port(self) -> int:
        """Where sep-live listens for OSC."""
        self.wait(lambda: self.view.get("osc"), "OSC")
        return int(self.view["osc"].rpartition(":")[2])

    def send(self, address: str, *values: Any) -> None:
        self.client.sendto(osc.encode(address, *values), ("127.0.0.1", self.port))

    def oscsend(self, address: str, types: str = "", *values: object) -> None:
        """By the program of that name."""
        subprocess.run(["oscsend", "127.0.0.1", str(self.port), address, types, *map(str, values)], check=True, timeout=START_S)

    def answer(self) -> osc.Message:
        """The next message to us."""
        while not self._inbox:
            self._inbox += [message for _, message in osc.decode(self.client.recv(65536), 0.0)]
        return self._inbox.pop(0)

    def ask(self, address: str) -> Any:
        """The value of a control."""
        self.send(address)
        message = self.answer()
        assert message.address == address, message
        return message.args[0]

    def ping(self) -> None:
        """Until somebody answers: in a flood datagrams are lost, and who sends much nonsense is not listened to for a while."""
        self.client.settimeout(0.1)

        def answered() -> bool:
            self.send("/ping")
            with suppress(TimeoutError):
                while self.answer().address != "/pong":
                    pass
                return True
            return False

        self.wait(answered, "a pong")
        self.client.settimeout(START_S)

    def posting(self, act: Callable[[], object]) -> int:
        """Have the sound card wait while somebody asks for something. -> the frame before which it was on the board."""
        mail = int(self.board.words[b.MAIL])
        self.tell("hold")
        act()
        return self.posted(mail)

    def posted(self, mail: int) -> int:
        """The frame before which the message after number ``mail`` was on the board."""
        self.wait(lambda: max(self._log()["mail"], default=0) > mail, "a scene")
        assert self.tape.state[3] == 0, "the sound card waited for too long"
        log = self._log()
        return int(log["frame"][np.argmax(log["mail"] > mail)])

    def _log(self) -> dict[str, np.ndarray]:
        """Its columns, of one moment: it grows meanwhile."""
        rows = int(self.tape.state[4])
        log = self.tape.log[:rows] if rows <= CYCLES else np.roll(self.tape.log, -(rows % CYCLES), axis=0)
        return dict(zip(LOG, log.T, strict=True))

    def late(self, start: int, end: int) -> int:
        """Blocks that were late in these frames."""
        log = self._log()
        inside = log["late"][(log["frame"] >= start) & (log["frame"] <= end)]
        return int(inside[-1] - inside[0])

    def set(self, name: str, value: Any) -> None:
        """A control, by OSC, until it is heard in full."""
        mail = int(self.board.words[b.MAIL])
        self.send(f"/{name}", value)
        self.wait(lambda: self.board.words[b.MAIL] > mail, f"/{name}")
        self.settle()
        self.run(self.delay + 2 * RAMP + 2048)

    def _found_board(self) -> bool:
        for path in self.session.glob("sepstream-*/board"):
            with suppress(DeviceError):  # it is being made
                self.board = Board(path)
        return self.board is not None


def free_port() -> int:
    """For a UDP socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def decibels(x: float) -> float:
    return float(20 * np.log10(max(x, 1e-30)))


def steps(lane: np.ndarray) -> float:
    """The largest step from one sample to the next."""
    return float(np.abs(np.diff(lane)).max())


@contextmanager
def stage(
    *arguments: str,
    preset: str = "",
    period: int = 128,
    sync: bool = True,
    rate: int = 48000,
    channels: int = 2,
    midi: str = "none",
    fault: bool = False,
    gate: bool = True,
) -> Iterator[Rig]:
    """``preset`` is the text of one; ``channels`` of the outputs; ``gate``: the sound card waits for the model."""
    with ExitStack() as stack:
        jack = stack.enter_context(jack_server.server(period, sync, rate, max(channels, 2)))
        rig = stack.enter_context(_rigged(jack, arguments, preset, sync, channels, midi, fault, gate))
        rig.begin()
        yield rig
        if rig.live.process.poll() is None:
            rig.set_gate(False)
            assert rig.end() == 0, rig.said


@contextmanager
def _rigged(
    jack: Server, arguments: tuple[str, ...], preset: str, sync: bool, channels: int, midi: str, fault: bool, gate: bool
) -> Iterator[Rig]:
    pytest.importorskip("jack", reason="needs JACK-Client")
    root = Path(tempfile.mkdtemp(prefix="stage-", dir="/dev/shm"))
    try:
        with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
            for name, value in environment(root, sync, fault).items():
                patch.setenv(name, value)
            arguments = ("--osc", f"127.0.0.1:{free_port()}", "--midi", midi, *arguments)
            if preset:
                (root / "presets" / "test.toml").write_text(preset)
                arguments += ("--preset", "test")
            if channels > 2:
                arguments += ("--output", f"system:1-{channels}")
            live = stack.enter_context(jack.child("-m", "live_stage", *arguments))
            yield stack.enter_context(closing(Rig(jack, root, live, channels, sync, gate)))
    finally:
        shutil.rmtree(root)


def environment(root: Path, sync: bool = True, fault: bool = False) -> dict[str, str]:
    """For sep-live: folders of its own, and below ``root``."""
    for name in ("session", "presets"):
        (root / name).mkdir()
    places = {"SEPSTREAM_STAGE": str(root / "session"), "SEPSTREAM_PRESETS": str(root / "presets")}
    return places | {"SEPSTREAM_PATIENCE": HELD_S if sync else "", "SEPSTREAM_AUDIO": "live_fault" if fault else ""}


def command(*arguments: str) -> tuple[int, str, str]:
    """sep-live to its end. -> exit code, what it printed, and what it complained of."""
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=START_S, check=False)
    return done.returncode, done.stdout, done.stderr

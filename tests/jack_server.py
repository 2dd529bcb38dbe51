"""A JACK server of one's own, and processes to put round it: the sound card and the MIDI cables of the live tests.

    with jack_server.server(period=128) as jack:                   # jackd with its dummy driver, in 0.1 s
        with jack.child("-c", code) as sender:                     # a Python process that finds this server by itself
            sender.expect("ready")
            jack.connect("sender:out", "sepstream:midi_in")

In its synchronous mode (the default) the server waits for its clients: nothing is ever late, and every sample can be
checked. A client that is killed there stops the whole graph for good, so each test has a server of its own, and the
server is ended by force if it does not end by itself. All waits are bounded, and none of them sleeps for a result.

While a server stands, the environment of this process names it, so that libjack finds it here and in children.
"""

import os
import queue
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import pytest

PATIENCE = 20.0  # seconds; a busy machine is slow, a wedged one never answers
PACKAGES = {  # program -> Debian's package
    "jackd": "jackd2",
    "jack_lsp": "jackd2",
    "jack_connect": "jackd2",
    "jack_bufsize": "jackd2",
    "oscsend": "liblo-tools",
    "oscdump": "liblo-tools",
}

# Whatever becomes of this process, those it started do not outlive it (nor the thread that started them).
_TIED = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


def require(*programs: str) -> None:
    """Skips the test when a program is missing, and names its package; in CI (``CI=true``) the test fails instead."""
    missing = sorted({PACKAGES[program] for program in programs if shutil.which(program) is None})
    if missing:
        lacking(f"apt-get install {' '.join(missing)}")


def lacking(remedy: str) -> None:
    """A component is not there: a failure in CI, a skip anywhere else."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"needs a component that is not installed: {remedy}")


def wait_until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Returns as soon as ``condition()`` is true. Raises TimeoutError, saying ``what`` was waited for."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.005)


class Child:
    """A running process: its output by lines, its input, and an end that it is given the chance to come to by itself."""

    def __init__(self, command: list[str]) -> None:
        self.lines: list[str] = []  # all that it has printed up to the last ``expect`` or ``line``
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.process = subprocess.Popen(
            [*_TIED, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self.stop()

    def line(self, seconds: float = PATIENCE) -> str:
        """The next line it prints, errors included. Raises TimeoutError, EOFError."""
        try:
            line = self._queue.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError(f"{self._said()} and then nothing for {seconds:g} s") from None
        if line is None:
            self._queue.put(None)
            raise EOFError(f"{self._said()} and ended")
        self.lines.append(line)
        return line

    def expect(self, text: str, seconds: float = PATIENCE) -> str:
        """The next line that holds ``text``; those before it are skipped (and kept in ``lines``)."""
        end = time.monotonic() + seconds
        while text not in (line := self.line(max(0.0, end - time.monotonic()))):
            pass
        return line

    def say(self, line: str) -> None:
        """One line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def stop(self, seconds: float = PATIENCE) -> int:
        """Asks it to end (Ctrl-C), then orders (SIGTERM), then kills. -> its exit code, or minus the signal."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is not None:
                break
            self.process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
        self._reader.join(seconds)  # before its pipe is closed under it
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(BrokenPipeError):
                assert pipe is not None
                pipe.close()
        return self.process.returncode

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def _said(self) -> str:
        return f"process {self.process.args!r} said {self.lines!r}"


class Server:
    """A running ``jackd``; made by ``server``."""

    def __init__(self, name: str, options: list[str]) -> None:
        self.name, self._options = name, options
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the server
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Also again after ``stop`` or ``kill``: the drill of a sound server that goes and returns."""
        self._process = subprocess.Popen([*_TIED, "jackd", "-n", self.name, *self._options], stdout=self._log, stderr=self._log)
        try:
            wait_until(lambda: self._ended() or self.answers(), f"JACK server {self.name}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {self.log()}") from None
        assert not self._ended(), f"jackd ended at once: {self.log()}"

    def stop(self, seconds: float = 5.0) -> None:
        """Ends it; by force when a dead client holds it."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._reap()

    def kill(self) -> None:
        """Ends it without a warning to anyone."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    def set_rate(self, rate: int) -> None:
        """For the next ``start``."""
        self._options[self._options.index("-r") + 1] = str(rate)

    def answers(self) -> bool:
        return _tool("jack_lsp", "-s", self.name).returncode == 0

    def ports(self) -> set[str]:
        """Names of all ports, "client:port"."""
        return set(_tool("jack_lsp", "-s", self.name).stdout.split("\n")) - {""}

    def wait_for(self, *ports: str, seconds: float = PATIENCE) -> None:
        wait_until(lambda: self.ports() >= set(ports), f"ports {ports}", seconds)

    def connect(self, source: str, sink: str, seconds: float = PATIENCE) -> None:
        """A cable; waits for its ends to appear. It carries from JACK's next cycle on: what is sent in this one is lost."""
        self._patch("jack_connect", source, sink, seconds)

    def disconnect(self, source: str, sink: str, seconds: float = PATIENCE) -> None:
        self._patch("jack_disconnect", source, sink, seconds)

    def child(self, *arguments: str) -> Child:
        """A Python process, ``python ARGUMENTS``, that finds this server and the packages under test."""
        return Child([sys.executable, "-u", *arguments])

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def close(self) -> None:
        self.stop()
        self._log.close()

    def _ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _patch(self, tool: str, source: str, sink: str, seconds: float) -> None:
        self.wait_for(source, sink, seconds=seconds)
        done = _tool(tool, "-s", self.name, source, sink)
        assert done.returncode == 0, f"{tool} {source} {sink}: {done.stdout}"

    def _reap(self) -> None:
        """Until it is waited for, a dead server keeps its name; what it left in shared memory would stay for ever."""
        assert self._process is not None
        self._process.wait(PATIENCE)
        self._process = None
        for left in Path("/dev/shm").glob(f"jack*{self.name}*"):
            left.unlink(missing_ok=True)


@contextmanager
def server(period: int = 128, sync: bool = True, rate: int = 48000, channels: int = 2) -> Iterator[Server]:
    """A fresh server under a name that nobody else has. ``sync=False`` paces it like a sound card, late clients and all."""
    require("jackd", "jack_lsp", "jack_connect")
    mode = ["--no-realtime", "--sync", "--timeout", "5000"] if sync else ["--realtime", "--timeout", "2000"]
    driver = ["-d", "dummy", "-r", str(rate), "-p", str(period), "-C", str(channels), "-P", str(channels)]
    name = f"test{os.getpid()}_{secrets.token_hex(3)}"
    jack = Server(name, ["--no-mlock", "--port-max", "256", *mode, *driver])  # 256: the default takes 103 MB of /dev/shm
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in environment(name).items():
            patch.setenv(variable, value)
        try:
            jack.start()
            yield jack
        finally:
            jack.close()


def environment(name: str) -> dict[str, str]:
    """What libjack reads: the server's name, and that it must not start one by itself."""
    root = Path(__file__).resolve().parents[1]
    return {
        "JACK_DEFAULT_SERVER": name,
        "JACK_NO_START_SERVER": "1",
        "JACK_NO_AUDIO_RESERVATION": "1",
        "PYTHONPATH": os.pathsep.join(str(root / room) for room in ("engine", "training", "export", "tests")),
    }


def _tool(*command: str) -> subprocess.CompletedProcess[str]:
    """One of JACK's own; it may hang when the server does."""
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, f"no answer in {PATIENCE:g} s")

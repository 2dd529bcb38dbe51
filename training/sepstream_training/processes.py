"""One process for each device: started, watched and ended together. No torch here; the processes have it.

Lightning would start them by running this process's command line again: there is none in a notebook or a test, and
where a process dies, the others wait for it. Here the command's module is started anew for each device, by a parent that
does not train: it passes on the first Ctrl-C as a polite one, and ends all when one has failed. A process whose
parent is gone stops politely by itself. torchrun and srun start processes of their own; then this file does nothing.
"""

import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepstream.errors import DataError

FAILED, INTERRUPTED = 2, 130  # exit statuses; 130 is what shells report for Ctrl-C
STARTED_BY_US = "SEPSTREAM_ERRORS"  # in the environment of a process: the folder that its last words go to
POLL_S = 0.1
COMMAND = [sys.executable, "-m", f"{__package__}.cli"]
GRACE_S = 20.0  # for the others to end by themselves, once one has ended before its time


Child = subprocess.Popen[bytes]


@dataclass(frozen=True)
class Machines:
    """What a run is spread over: ``devices`` of each of ``nodes``. ``strategy`` is Lightning's name."""

    devices: int = 1
    nodes: int = 1
    strategy: str = "ddp"
    accelerator: str = "auto"

    @property
    def processes(self) -> int:
        return self.devices * self.nodes


def wanted(machines: Machines) -> bool:
    """Whether this process should start others, rather than be one of them."""
    started = "LOCAL_RANK" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1
    return machines.processes > 1 and not started


def rank() -> int:
    """The number of this process among all, as far as its environment tells; 0 where it is alone."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if name in os.environ:
            return int(os.environ[name])
    return 0


def run(arguments: Sequence[str], machines: Machines) -> int:
    """Run sep-train with ``arguments`` once for each device of this node -> exit status. What failed is one line on stderr.

    Raises DataError where other nodes could not find this one.
    """
    place = _meeting_place(machines)
    with tempfile.TemporaryDirectory(prefix="sepstream-train-") as words:
        children: list[Child] = []
        with _signals_to(children):
            for local in range(machines.devices):
                children.append(_start(arguments, {**place, **_numbers(machines, local), STARTED_BY_US: words}))
            failed = _watch(children)
        for child in children:
            child.communicate()  # closes the pipe
        if failed is not None:
            print(f"sep-train: {_last_words(Path(words), children, failed, machines)}", file=sys.stderr)
            return FAILED
        return max(child.returncode for child in children)


def report(line: str) -> None:
    """The last words of this process: to the parent that started it, or to stderr."""
    if folder := os.environ.get(STARTED_BY_US):
        (Path(folder) / os.environ["LOCAL_RANK"]).write_text(line, encoding="utf8")
    else:
        print(f"sep-train: {line}", file=sys.stderr)


def obey_parent() -> None:
    """Where a parent started this process: stop politely when it says so or is gone, and at once if that takes too long."""

    def wait() -> None:
        while os.read(0, 1):  # until the parent's end of the pipe is closed; sys.stdin would be locked at the end
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_S)
        os._exit(FAILED)

    if STARTED_BY_US in os.environ:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # before the first step, which has handlers of its own
        threading.Thread(target=wait, daemon=True).start()


def _meeting_place(machines: Machines) -> Mapping[str, str]:
    if machines.nodes > 1:
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if name not in os.environ]
        if missing:
            raise DataError(
                f"--nodes {machines.nodes}: {', '.join(missing)} not set; set MASTER_ADDR, MASTER_PORT and NODE_RANK on each "
                "node, or start sep-train with srun or torchrun"
            )
        return {}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "NODE_RANK": "0"}


def _numbers(machines: Machines, local: int) -> Mapping[str, str]:
    node = int(os.environ["NODE_RANK"]) if machines.nodes > 1 else 0
    return {"LOCAL_RANK": str(local), "RANK": str(node * machines.devices + local), "WORLD_SIZE": str(machines.processes)}


def _start(arguments: Sequence[str], settings: Mapping[str, str]) -> Child:
    """In a session of its own: a terminal's Ctrl-C reaches the parent alone, and each child once."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **settings}
    return subprocess.Popen([*COMMAND, *arguments], stdin=subprocess.PIPE, env=environment, start_new_session=True)


def _watch(children: Sequence[Child]) -> int | None:
    """Wait for all; once one has ended before its time, not for long -> the first that failed by itself."""
    failed, since = None, math.inf
    while any(child.poll() is None for child in children):
        failed = _failed(children) if failed is None else failed
        since = min(since, time.monotonic() if any(child.returncode for child in children) else math.inf)
        if time.monotonic() - since > GRACE_S:
            for child in children:
                child.kill()
            return failed
        time.sleep(POLL_S)
    return _failed(children) if failed is None else failed


def _failed(children: Sequence[Child]) -> int | None:
    """One that was killed explains what others complain of."""
    bad = [index for index, child in enumerate(children) if child.poll() not in (None, 0, INTERRUPTED)]
    return min(bad, key=lambda index: int(children[index].returncode), default=None)


def _last_words(folder: Path, children: Sequence[Child], failed: int, machines: Machines) -> str:
    """Of the one that was killed; otherwise of the one that spoke first, which the others may only have suffered from."""
    who, status = f"process {failed} of {machines.devices}", children[failed].returncode
    if status < 0:
        return f"{who} was ended by {signal.Signals(-status).name}; go on with --resume auto"
    said = min(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns, default=None)
    return said.read_text(encoding="utf8") if said else f"{who} ended with status {status}; go on with --resume auto"


@contextmanager
def _signals_to(children: Sequence[Child]) -> Iterator[None]:
    """Ctrl-C and SIGTERM go on to the children: politely, and the second time as an end."""
    asked = False

    def pass_on(*_: Any) -> None:
        nonlocal asked
        for child in children:
            if child.poll() is None:
                child.send_signal(signal.SIGKILL if asked else signal.SIGTERM)
        asked = True

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

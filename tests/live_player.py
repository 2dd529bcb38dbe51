"""Those who play with sep-live in the live tests: ``python -m live_player FOLDER INPUTS OUTPUTS``, two JACK clients.

The feeder gives it a known signal, sample by sample of the server's frame count; the recorder hears its outputs, and by a
cable of its own what the feeder gave, onto a tape in FOLDER that the tests read while it runs. Whenever sep-live's ports
appear, the cables are put in.

Both can make a synchronous server wait: for a worker that has not done its hop yet (gate), so that on the busiest machine
nothing is late that need not be; and for the control process, until it has posted a scene (hold), so that it is known to
the sample when something was asked for.

    feed NAME      what to play, see SIGNALS
    board PATH     whose worker and whose mailbox to wait for
    gate on|off
    hold           before the next block, until there is mail
    midi HEX ...   messages, one with each of the next blocks
    press HEX      a message with the next block, and hold before the one after it

Each command is answered by "done".
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import jack
import numpy as np
import soundfile

from sepstream import board as b
from sepstream.board import Board

FRAMES = 1 << 23  # of tape, a loop of three minutes
CYCLES = 1 << 18  # of the log, a loop too
HOLD_S = 4.0  # the server gives a client five
LOUD = 0.5  # of all signals

F32 = np.ndarray
LOG = ("frame", "mail", "late", "delay", "steady")  # of each block: where it began, and what the board said then


class Tape:
    """What was heard, by frames of the server since ``base``, modulo FRAMES; the one side writes, the other reads."""

    def __init__(self, folder: Path, inputs: int, outputs: int, create: bool = False) -> None:
        mode, lanes = "w+" if create else "r", outputs + inputs
        self.inputs, self.outputs = inputs, outputs
        self.state = np.memmap(
            folder / "state", np.int64, mode, shape=(8,)
        )  # base, until, gaps, expired holds, blocks, cables, gap
        self.sound = np.memmap(folder / "tape", np.float32, mode, shape=(FRAMES, lanes))  # outputs, then what was fed
        self.log = np.memmap(folder / "log", np.int64, mode, shape=(CYCLES, len(LOG)))


class Player:
    def __init__(self, folder: Path, inputs: int, outputs: int) -> None:
        self.tape = Tape(folder, inputs, outputs, create=True)
        self.feeder, self.recorder = (jack.Client(name, no_start_server=True) for name in ("feeder", "recorder"))
        self.signals = {name: make(inputs, self.feeder.samplerate) for name, make in SIGNALS.items()}
        self.feed, self.gate, self.hold, self.board = "silence", False, False, None
        self.midi: list[bytes] = []
        self._mail = 0  # seen when the hold began
        self._give = [self.feeder.outports.register(f"out_{k}") for k in range(inputs)]
        self._hear = [self.recorder.inports.register(f"in_{k}") for k in range(outputs)]
        self._hear += [self.recorder.inports.register(f"fed_{k}") for k in range(inputs)]
        self._keys = self.feeder.midi_outports.register("midi")
        self.feeder.set_process_callback(self._feed)
        self.recorder.set_process_callback(self._record)
        for client in (self.feeder, self.recorder):
            _activate(client)
        for k in range(inputs):
            self.feeder.connect(f"feeder:out_{k}", f"recorder:fed_{k}")

    def plug(self) -> None:
        """The cables that can be put in and are not yet."""
        cables = [(f"feeder:out_{k}", self._find(f"in_{k}", "is_input")) for k in range(self.tape.inputs)]
        cables += [(self._find(f"out_{k}", "is_output"), f"recorder:in_{k}") for k in range(self.tape.outputs)]
        cables += [("feeder:midi", port) for port in self._names("^sepstream-midi-in.*:midi_in$")]
        count = 0
        for source, sink in cables:
            if source and sink:
                count += 1
                if sink not in [port.name for port in self.feeder.get_all_connections(source)]:
                    self.feeder.connect(source, sink)
        self.tape.state[5] = count

    def _find(self, name: str, kind: str) -> str:
        """sep-live's port; the newest, if a process that was killed has not gone yet."""
        return (["", *self._names(f"^sepstream(-[0-9]+)?:{name}$", **{kind: True})])[-1]

    def _names(self, pattern: str, **kind: bool) -> list[str]:
        return [port.name for port in self.feeder.get_ports(pattern, **kind)]

    def _feed(self, frames: int) -> None:
        self._wait()
        start = self.feeder.last_frame_time
        block = self.signals[self.feed](start + np.arange(frames))
        for port, lane in zip(self._give, block.T, strict=True):
            port.get_array()[:] = lane
        self._keys.clear_buffer()
        if self.midi:
            self._keys.write_midi_event(0, self.midi.pop(0))
        self._note(start)

    def _wait(self) -> None:
        if self.board is None:
            return
        words, end = self.board.words, time.monotonic() + HOLD_S
        if self.hold and not self.midi:
            while words[b.MAIL] == self._mail and time.monotonic() < end:
                time.sleep(0.0005)
            self.tape.state[3] += words[b.MAIL] == self._mail
            self.hold = False
        while self.gate and words[b.STATE] == b.PLAYING and words[b.FRAMES] >= words[b.WAKE_AT] and time.monotonic() < end:
            time.sleep(0.0002)

    def _note(self, start: int) -> None:
        state, row = self.tape.state, int(self.tape.state[4])
        if self.board is not None:
            words, steady = self.board.words, self.board.floats[b.FADES_AT] == 1.0
            self.tape.log[row % CYCLES] = start, words[b.MAIL], words[b.LATE_BLOCKS], words[b.DELAY_NOW], steady
            state[4] = row + 1

    def _record(self, frames: int) -> None:
        state, start = self.tape.state, self.recorder.last_frame_time
        if not state[0]:
            state[0] = state[1] = start
        at = start - int(state[0])
        if start != state[1]:
            state[2], state[6] = state[2] + 1, start
        places = (at + np.arange(frames)) % FRAMES
        for k, port in enumerate(self._hear):
            self.tape.sound[places, k] = port.get_array()
        state[1] = start + frames

    def obey(self, line: str) -> None:
        match line.split():
            case ["feed", name]:
                assert name in self.signals
                self.feed = name
            case ["board", path]:
                self.board = Board(Path(path))
            case ["gate", switch]:
                self.gate = switch == "on"
            case ["hold" | "press", *messages]:
                assert self.board is not None
                self._mail = int(self.board.words[b.MAIL])
                self.midi += [bytes.fromhex(message) for message in messages]
                self.hold = True
            case ["midi", *messages]:
                self.midi += [bytes.fromhex(message) for message in messages]
            case _:
                raise ValueError(line)

    def close(self) -> None:
        for client in (self.feeder, self.recorder):
            client.deactivate()
            client.close()


def _activate(client: jack.Client) -> None:
    """A real-time server does not wait for long, and a busy machine may need more."""
    for _ in range(20):
        try:
            return client.activate()
        except jack.JackError:
            time.sleep(0.1)
    client.activate()


# Signals: (inputs, rate) -> frames (n,) -> (n, inputs).


def _bright(inputs: int, rate: int) -> Callable[[np.ndarray], F32]:
    """Noise that is never near zero, so that each sample tells its gain; without a period that anything else has."""
    table = np.random.default_rng(3).uniform(0.5, 1.0, (65537, inputs)) * LOUD
    table *= np.random.default_rng(4).choice([-1.0, 1.0], table.shape)
    return lambda at: table[at % len(table)].astype(np.float32)


def _sine(inputs: int, rate: int) -> Callable[[np.ndarray], F32]:
    hertz = 220.0 * np.arange(1, inputs + 1)
    return lambda at: (LOUD * np.sin(2 * np.pi * hertz / rate * at[:, None])).astype(np.float32)


def _tones(inputs: int, rate: int) -> Callable[[np.ndarray], F32]:
    """Up to 18 kHz, as dense as music."""
    hertz = np.geomspace(50.0, 18000.0, 24)
    phases = np.random.default_rng(5).uniform(0, 2 * np.pi, (24, inputs))
    return lambda at: (LOUD / 24 * np.sin(2 * np.pi / rate * np.outer(at, hertz)[:, :, None] + phases).sum(1)).astype(np.float32)


def _music(inputs: int, rate: int) -> Callable[[np.ndarray], F32]:
    """What is there to be separated, over and over; at 48 kHz in time."""
    music = soundfile.read(Path(__file__).resolve().parents[1] / "demo" / "mixture.flac", dtype="float32", always_2d=True)[0]
    music = np.resize(music.T, (inputs, len(music))).T
    return lambda at: music[at % len(music)]


def _damaged(inputs: int, rate: int) -> Callable[[np.ndarray], F32]:
    """Bright, and in places what no sound card should give."""
    bright = _bright(inputs, rate)
    odd = np.array([np.nan, np.inf, -np.inf, 3e38, 1e-42], np.float32)

    def play(at: np.ndarray) -> F32:
        block = bright(at)
        hit = at % 7 == 0
        block[hit] = odd[at[hit] % len(odd), None]
        return block

    return play


SIGNALS: dict[str, Callable[[int, int], Callable[[np.ndarray], F32]]] = {
    "silence": lambda inputs, _: lambda at: np.zeros((len(at), inputs), np.float32),
    "bright": _bright,
    "sine": _sine,
    "tones": _tones,
    "music": _music,
    "damaged": _damaged,
}


def main(folder: str, inputs: str, outputs: str) -> None:
    import threading  # noqa: PLC0415

    player = Player(Path(folder), int(inputs), int(outputs))
    over = threading.Event()

    def plug() -> None:
        while not over.wait(0.02):
            try:
                player.plug()
            except jack.JackError:  # a port has gone in this very moment
                continue

    plugger = threading.Thread(target=plug)
    plugger.start()
    print("ready", flush=True)
    try:
        for line in sys.stdin:
            player.obey(line)
            print("done", flush=True)
    finally:
        over.set()
        plugger.join()
        player.close()


if __name__ == "__main__":
    main(*sys.argv[1:])

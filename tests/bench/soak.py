"""A stage in fast motion: sep-live for minutes or hours under everything at once. Prints one JSON line.

    python tests/bench/soak.py [--minutes 10] [--period 128] [--calm]

A sine goes in; out come the buses of presets that change every second, while OSC and MIDI flood in and a second process
takes a core. Watched from outside, by a JACK client of its own: every sample that comes out is a number, and none steps
further from the one before than a sine of that level in a cross-fade can (a click would). The sound server waits for its
clients (JACK's synchronous mode), so that no step is its own doing. ``--calm`` leaves the floods and the busy process out.
"""

import argparse
import json
import math
import os
import socket
import subprocess
import sys
import time

import jack
import numpy as np
from live_board import Config, Times, b, quantiles_us, running

from sepstream.control import osc

PRESETS = ("karaoke", "voice", "drumless", "stems", "disk-explorer", "six-outputs")
HZ, LEVEL = 220.0, 0.25
STEP = 4.0 * LEVEL * 2 * math.pi * HZ / 48000  # a sine's own, with +12 dB of preset gains on top
BUSY = "while True: pass"
MIDI = """
import rtmidi, time, sys, random
out = rtmidi.MidiOut(rtmidi.API_UNIX_JACK, name='soak-keys')
out.open_virtual_port('out')
print('ready', flush=True)
while True:
    for k in range(50):
        out.send_message([0xB0, random.randrange(128), random.randrange(128)])
    time.sleep(0.02)
"""
FLOOD = """
import random, socket, sys, time
from sepstream.control import osc
client, numbers, port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), random.Random(0), int(sys.argv[1])
while True:  # 10,000 messages a second, a tenth of them damaged
    for _ in range(100):
        message = osc.encode(f"/bus/{numbers.randrange(1, 6)}/pan", numbers.uniform(-1.0, 1.0))
        client.sendto(numbers.randbytes(len(message)) if numbers.random() < 0.1 else message, ("127.0.0.1", port))
    time.sleep(0.01)
"""


class Ears:
    """Feeds the sine and listens to the first output."""

    def __init__(self) -> None:
        self.client = jack.Client("soak", no_start_server=True)
        self._give, self._take = self.client.outports.register("out"), self.client.inports.register("in")
        self._phase, self._last, self.age = 0, 0.0, 0
        self.samples, self.worst_step, self.bad, self.silent, self.longest_silence = 0, 0.0, 0, 0, 0
        self.client.set_process_callback(self._process)

    def __enter__(self) -> "Ears":
        self.client.activate()
        for port in ("in_0", "in_1"):
            self.client.connect(self._give, f"sepstream:{port}")
        self.client.connect("sepstream:out_0", self._take)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.deactivate()
        self.client.close()

    def _process(self, frames: int) -> None:
        at = self._phase + np.arange(frames)
        self._give.get_array()[:] = LEVEL * np.sin(2 * np.pi * HZ / 48000 * at)
        self._phase = (self._phase + frames) % 48000  # 220 whole cycles a second
        heard, self.age = self._take.get_array(), self.age + frames
        if self.age < 48000:  # the cable was plugged in while the sine was on its way
            self._last = float(heard[-1])
            return
        steps = np.abs(np.diff(heard, prepend=np.float32(self._last)))
        self.bad += int((~np.isfinite(heard)).sum())
        self.worst_step = max(self.worst_step, float(steps.max()))
        self.silent = self.silent + frames if not heard.any() else 0
        self.longest_silence = max(self.longest_silence, self.silent)
        self._last, self.samples = float(heard[-1]), self.samples + frames


def memory_mb(pid: int) -> float:
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--period", type=int, default=128)
    parser.add_argument("--calm", action="store_true")
    flags = parser.parse_args()
    port = free_port()
    with running(Config(preset="stems", osc=f"127.0.0.1:{port}"), flags.period, sync=True) as (session, watchdog), Ears() as ears:
        words, rate = session.board.words, int(session.board.words[b.RATE_HZ])
        assert rate == 48000, rate
        control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        codes = () if flags.calm else (BUSY, MIDI, FLOOD)
        helpers = [subprocess.Popen([sys.executable, "-c", code, str(port)], stdout=subprocess.DEVNULL) for code in codes]
        times, began, memory, changes = Times(session.board), time.monotonic(), [], 0
        pids = {"audio": watchdog.audio.pid, "control": watchdog.control.pid}
        while time.monotonic() - began < 60 * flags.minutes:
            control.sendto(osc.encode("/preset/load", PRESETS[changes % len(PRESETS)]), ("127.0.0.1", port))
            changes += 1
            time.sleep(1.0)
            times.look()
            watchdog.look()
            if changes % 10 == 0:
                memory.append({name: memory_mb(pid) for name, pid in pids.items()})
        for helper in helpers:
            helper.kill()
            helper.wait()
        wall, _ = times.hops.T
        settled = memory[len(memory) // 4 :]  # caches fill at first
        print(
            json.dumps(
                {
                    "bench": "soak",
                    "minutes": round((time.monotonic() - began) / 60, 2),
                    "calm": flags.calm,
                    "period": flags.period,
                    "presets_loaded": changes,
                    "restarts": watchdog.audio.restarts + watchdog.control.restarts,
                    "late_blocks": int(words[b.LATE_BLOCKS]),
                    "fades": int(words[b.FADES]),
                    "skipped_hops": int(words[b.SKIPPED]),
                    "faults": int(words[b.FAULTS] + words[b.FAULTY_HOPS]),
                    "xruns": int(words[b.XRUNS]),
                    "seconds_heard": round(ears.samples / 48000, 1),
                    "samples_that_are_no_numbers": ears.bad,
                    "worst_step": round(ears.worst_step, 5),
                    "step_bound": round(STEP, 5),
                    "longest_silence_ms": round(1000 * ears.longest_silence / 48000, 1),
                    "hop_us": quantiles_us(wall),
                    "memory_mb": {name: [round(at[name], 1) for at in (settled[0], settled[-1])] for name in pids}
                    if settled
                    else {},
                }
            )
        )


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()

"""The audio callback and the hop of a running session, without and with load beside it. Prints one JSON line.

    python tests/bench/bench_callback.py [--seconds 20] [--period 128]

A dummy sound card wakes nobody in time on a busy or virtual machine, so the machine itself is measured beside it: a
thread of the highest priority that sleeps for one period again and again ("stalls": how often it woke a period late).
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
from live_board import Config, Times, b, quantiles_us, running

BUSY = {  # beside the engine, each in a process of its own
    "idle": "",
    "python": "while True: pass",
    "interface": "import json, time\nwhile True: json.loads(json.dumps([[0.5] * 32] * 64)); time.sleep(1 / 60)",
}


class Stalls(threading.Thread):
    """How often this machine wakes its most urgent thread a whole period late."""

    def __init__(self, period_s: float) -> None:
        super().__init__(daemon=True)
        self.period_s, self.count, self.worst_s, self.over = period_s, 0, 0.0, False

    def run(self) -> None:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(90))
        except (AttributeError, OSError):
            self.count = -1  # not allowed here: the figure would mean nothing
            return
        while not self.over:
            asleep = time.monotonic()
            time.sleep(self.period_s)
            late = time.monotonic() - asleep - self.period_s
            self.count += late > self.period_s
            self.worst_s = max(self.worst_s, late)


def measure(seconds: float, period: int, beside: str) -> dict[str, object]:
    with running(Config(midi=("none",), osc="none"), period) as (session, watchdog):
        words, rate = session.board.words, int(session.board.words[b.RATE_HZ])
        busy = subprocess.Popen([sys.executable, "-c", BUSY[beside]]) if BUSY[beside] else None
        stalls = Stalls(period / rate)
        stalls.start()
        counters = {"late_blocks": b.LATE_BLOCKS, "fades": b.FADES, "skipped_hops": b.SKIPPED, "xruns": b.XRUNS}
        before, times = {name: int(words[word]) for name, word in counters.items()}, Times(session.board)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.5)
            times.look()
            watchdog.look()
        stalls.over = True
        if busy:
            busy.kill()
            busy.wait()
        starts, durations = times.callbacks.T
        intervals, period_ns, hop_ns = np.diff(starts), 1e9 * period / rate, int(words[b.HOP_NS])
        wall, worked = times.hops.T
        return {
            "beside": beside,
            "callbacks": len(starts),
            "callback_us": quantiles_us(durations),
            "callback_late_per_min": round(60 / seconds * int((intervals > 1.5 * period_ns).sum()), 1),
            "hop_us": quantiles_us(wall),
            "hop_processor_us": quantiles_us(worked),
            "hop_share_p99": round(float(np.percentile(wall, 99)) / hop_ns, 3),
            **{f"{name}_per_min": round(60 / seconds * (int(words[word]) - before[name]), 1) for name, word in counters.items()},
            "machine_stalls_per_min": round(60 / seconds * stalls.count, 1),
            "machine_stall_max_ms": round(1000 * stalls.worst_s, 1),
            "load_average": os.getloadavg()[0],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--period", type=int, default=128)
    flags = parser.parse_args()
    runs = [measure(flags.seconds, flags.period, beside) for beside in BUSY]
    print(json.dumps({"bench": "callback", "period": flags.period, "seconds": flags.seconds, "runs": runs}))


if __name__ == "__main__":
    main()

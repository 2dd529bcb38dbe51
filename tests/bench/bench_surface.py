"""How soon a selection is heard and seen in the explorer, and how fast files open; the reference interface beside it.

    python tests/bench/bench_surface.py [--model default] [--minutes 10] [--skip-long]

Asks as a page does, over HTTP, a server on a thread of this process. ``ms`` is the clock, from the release of the hand to the
bytes of the answer, p50 and p95; ``cpu_ms`` the processor's time for one, which others that use the machine do not change.
``heard`` is the first quarter of a second of the selected sound; ``seen`` the mask of every bin on the screen (a drag asks
for that again and again); ``counted`` the statistics. Prints one JSON line. The reference's figures are those
of hyper-unmix's own interface with an 8-second clip on two cores.
"""

import argparse
import http.client
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from sepstream.contract import load_bundle
from sepstream.explore import Explorer
from sepstream.surface.questions import questions
from sepstream.surface.server import Server

ROOT = Path(__file__).resolve().parents[2]
REFERENCE_S = {
    "open": [1.7, 4.7],
    "network": [0.9, 1.3],
    "draw": [7.5, 8.9],
    "selection released until heard": [11.6, 18.4],
    "a class toggled until heard": [6.0, 14.0],
    "memory_mib": 1600,
    "longest file": 8,
}
CHOICES = ("speech", "cell(drums)", "disc(0.3,0.1,r=0.8,soft=0.1)", "(side(speech)|side(bass))&certain(0.3..1)")
REPEATS = 12


def write_clip(path: Path, seconds: float) -> None:
    """The demo mixture again and again, each time at another level and with a little noise, stereo, 48 kHz, 16 bits."""
    rng, rate_hz = np.random.default_rng(0), 48000
    mixture, _ = soundfile.read(ROOT / "demo" / "mixture.flac", dtype="float32", always_2d=True)
    left = round(seconds * rate_hz)
    with soundfile.SoundFile(path, "w", rate_hz, 2, subtype="PCM_16") as file:
        while left > 0:
            part = mixture[:left] * rng.uniform(0.3, 1.0) + 1e-3 * rng.standard_normal((min(left, len(mixture)), 2))
            file.write(np.broadcast_to(part, (len(part), 2)).astype(np.float32))
            left -= len(part)


class Page:
    """Asks over one connection."""

    def __init__(self, server: Server) -> None:
        self._line = http.client.HTTPConnection(*server.address)

    def ask(self, path: str, **body: Any) -> bytes:
        self._line.request("POST", f"/api/{path}", json.dumps(body))
        answer = self._line.getresponse()
        found = answer.read()
        assert answer.status == 200, found
        return found


def timed(act: Callable[[str], object]) -> dict[str, float]:
    """Of one call, over all choices."""
    for choice in CHOICES:
        act(choice)
    clock, cpu = [], time.process_time()
    for _ in range(REPEATS):
        for choice in CHOICES:
            start = time.perf_counter()
            act(choice)
            clock.append(1000 * (time.perf_counter() - start))
    spent = 1000 * (time.process_time() - cpu) / len(clock)
    return {"p50_ms": round(np.percentile(clock, 50), 1), "p95_ms": round(np.percentile(clock, 95), 1), "cpu_ms": round(spent, 1)}


def memory_mib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def measure(explorer: Explorer, server: Server, path: Path, span_s: float, cache: Path) -> dict[str, Any]:
    start, cpu, before = time.perf_counter(), time.process_time(), memory_mib()
    explorer.open(path)
    while not (facts := explorer.state()["file"])["hops"] and not facts["fault"]:
        time.sleep(0.01)
    first = time.perf_counter() - start
    explorer.wait()
    taken, spent, facts = time.perf_counter() - start, time.process_time() - cpu, explorer.state()["file"]
    page = Page(server)  # not before: a line on which nothing is asked for long is closed
    view = {"start_s": 0.0, "stop_s": span_s, "db": -60.0, "hops": facts["hops"]}
    middle = round(span_s / 2 * 48000)
    found = {
        "seconds": round(facts["seconds"], 1),
        "file_mib": round(path.stat().st_size / 2**20, 1),
        "first_frames_s": round(first, 2),
        "open_s": round(taken, 2),
        "open_cpu_s": round(spent, 2),
        "open_share_of_length": round(taken / facts["seconds"], 3),
        "peak_mib": memory_mib(),
        "peak_mib_before": before,
        "kept_on_disk_mib": round(sum(f.stat().st_size for f in cache.rglob("*") if f.is_file()) / 2**20, 1),
        "heard": timed(lambda choice: page.ask("sound", select=choice, start=middle, count=12000)),
        "seen": timed(lambda choice: page.ask("select", select=choice, view=view)),
        "counted": timed(lambda choice: page.ask("count", select=choice, view=view)),
        "moved": timed(lambda choice: page.ask("view", **{**view, "start_s": 1e-3 * len(choice)})),
    }
    explorer.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="default")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--skip-long", action="store_true")
    args = parser.parse_args()
    scratch = Path(tempfile.mkdtemp())
    explorer = Explorer(load_bundle(args.model), out=scratch / "out", cache=scratch / "cache", provider="cpu")
    server = Server("127.0.0.1", 0, index="explore.html", api=questions(explorer.answer))
    server.start()
    files = []
    try:
        for seconds in (8.0, *([] if args.skip_long else [60 * args.minutes])):
            write_clip(scratch / "clip.wav", seconds)
            files.append(measure(explorer, server, scratch / "clip.wav", seconds, scratch / "cache"))
    finally:
        explorer.close()
        server.close()
        shutil.rmtree(scratch)
    load = round(os.getloadavg()[0], 2)
    print(json.dumps({"bench": "surface", "model": args.model, "files": files, "reference_s": REFERENCE_S, "load": load}))


if __name__ == "__main__":
    main()

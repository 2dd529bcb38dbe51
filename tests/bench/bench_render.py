"""How fast files render on one core, and how much memory it takes against their length.

    python tests/bench/bench_render.py [--model default] [--minutes 1 10]

Renders stereo noise at 48 kHz and at 44.1 kHz (with resampling) through the command itself, each file in a process of
its own. Prints one JSON line; real_time_factor 12 means twelve times faster than real time, peak memory in MiB.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

COMMAND = "import sys; from sepstream.cli import render_main; sys.exit(render_main(sys.argv[1:]))"


def write_noise(path: Path, minutes: float, rate_hz: int) -> None:
    rng = np.random.default_rng(0)
    second = (0.1 * rng.standard_normal((rate_hz, 2))).astype(np.float32)
    with soundfile.SoundFile(path, "w", rate_hz, 2, subtype="PCM_16") as file:
        for _ in range(round(60 * minutes)):
            file.write(second)


def render(path: Path, model: str, out: Path) -> dict[str, object]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    arguments = [str(path), "--out", str(out), "--model", model, "--provider", "cpu", "--json", "--overwrite"]
    done = subprocess.run([sys.executable, "-c", COMMAND, *arguments], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = json.loads(done.stdout)
    return {
        "seconds": report["seconds"],
        "real_time_factor": round(report["real_time_factor"], 2),
        "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2),
        "peak_mib_so_far": round(after.ru_maxrss / 1024, 1),  # of all children: rising files, rising figure, or none
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="default")
    parser.add_argument("--minutes", type=float, nargs="+", default=[0.5, 1, 10])
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for rate_hz in (48000, 44100):
            for minutes in args.minutes if rate_hz == 48000 else args.minutes[:1]:
                path = Path(scratch) / f"noise_{rate_hz}_{minutes}.wav"
                write_noise(path, minutes, rate_hz)
                rows.append({"rate_hz": rate_hz, "minutes": minutes, **render(path, args.model, Path(scratch) / "out")})
                path.unlink()
    print(json.dumps({"bench": "render", "model": args.model, "files": rows, "load": round(os.getloadavg()[0], 2)}))


if __name__ == "__main__":
    main()

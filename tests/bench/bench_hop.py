"""What one hop costs on one core: thread-CPU time, hot (back to back) and paced (one per hop, asleep between).

    python tests/bench/bench_hop.py [--model default] [--hops 2000] [--stems leaves]

Prints one JSON line. Times in microseconds; shares are of the hop's duration. "engine" is everything but the model.
Paced is what a live worker sees: caches are cold after each sleep. Run it alone: another process on the same core
takes the caches, too.
"""

import argparse
import contextlib
import gc
import json
import os
import platform
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sepstream.contract import load_bundle
from sepstream.pipeline import Pipeline
from sepstream.selection import Selection


class Clock:
    """Thread-CPU time of the model inside each hop, by standing in for the separator's ``step``."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.step, self.model_s = pipeline.separator.step, 0.0
        pipeline.separator.step = self  # type: ignore[method-assign, assignment]

    def __call__(self, *args: object) -> object:
        start = time.thread_time()
        result = self.step(*args)  # type: ignore[arg-type]
        self.model_s = time.thread_time() - start
        return result


def measure(pipeline: Pipeline, clock: Clock, hops: int, pause_s: float) -> NDArray[np.float64]:
    """(hops, 2) microseconds: the whole hop, and the model in it."""
    rng = np.random.default_rng(0)
    blocks = 0.1 * rng.standard_normal((64, pipeline.channels, pipeline.block_samples)).astype(np.float32)
    times, due = np.zeros((hops, 2)), time.perf_counter()
    for i in range(hops):
        due += pause_s
        time.sleep(max(0.0, due - time.perf_counter()))
        start = time.thread_time()
        pipeline.step(blocks[i % 64])
        times[i] = time.thread_time() - start, clock.model_s
    return times * 1e6


def summary(times: NDArray[np.float64], hop_us: float) -> dict[str, object]:
    columns = {"hop": times[:, 0], "model": times[:, 1], "engine": times[:, 0] - times[:, 1]}
    quantiles = {name: {f"p{q}": round(float(np.percentile(t, q)), 1) for q in (50, 95, 99)} for name, t in columns.items()}
    return {
        **{f"{name}_us": values for name, values in quantiles.items()},
        "hop_share_p99": round(quantiles["hop"]["p99"] / hop_us, 3),
        "engine_part_of_hop_p50": round(quantiles["engine"]["p50"] / quantiles["hop"]["p50"], 3),
        "engine_part_of_hop_p99": round(quantiles["engine"]["p99"] / quantiles["hop"]["p99"], 3),
    }


@contextlib.contextmanager
def like_a_worker() -> Iterator[str]:
    """As live runs: no garbage collection, real-time scheduling where the system grants it."""
    scheduling = "real-time"
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(5))
    except (AttributeError, PermissionError):
        scheduling = "ordinary"
    gc.collect()
    gc.disable()
    yield scheduling
    gc.enable()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="default")
    parser.add_argument("--stems", default="leaves")
    parser.add_argument("--channels", type=int, default=2)
    parser.add_argument("--hops", type=int, default=2000)
    args = parser.parse_args()
    bundle = load_bundle(args.model)
    pipeline = Pipeline(bundle, Selection.stems(bundle, args.stems), args.channels, provider="cpu")
    hop_us = 1e6 * bundle.stft.hop_samples / bundle.sample_rate_hz
    clock = Clock(pipeline)
    with like_a_worker() as scheduling:
        measure(pipeline, clock, 100, 0.0)
        hot = measure(pipeline, clock, args.hops, 0.0)
        paced = measure(pipeline, clock, args.hops, hop_us / 1e6)
    print(json.dumps({
        "bench": "hop", "model": bundle.name, "buses": len(pipeline.buses), "channels": args.channels, "hops": args.hops,
        "hop_us": round(hop_us, 1), "hot": summary(hot, hop_us), "paced": summary(paced, hop_us), "scheduling": scheduling,
        "load": round(os.getloadavg()[0], 2), "processor": platform.processor() or platform.machine(),
    }))  # fmt: skip


if __name__ == "__main__":
    main()

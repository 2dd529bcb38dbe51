"""What a bundle costs: CPU time of one core per hop, live and for files, measured on the machine at hand. For the card."""

import math
import platform
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sepstream.contract import Bundle
from sepstream.latent import LatentPipeline
from sepstream.pipeline import Pipeline
from sepstream.selection import Selection

SECONDS = 3.0


class Speed(NamedTuple):
    """``live_share`` and ``worst_share``: median and 99th percentile of a hop's cost, as a share of its time, for stereo and
    all classes, NaN of a model that cannot be played live; ``file_factor``: audio seconds per CPU second, files not read or
    written; ``processor``: its name."""

    live_share: float
    worst_share: float
    file_factor: float
    processor: str


def time_per_hop(bundle: Bundle) -> Speed:
    if bundle.latent:
        return Speed(math.nan, math.nan, _offline_factor(bundle), processor())
    hop_s = bundle.stft.hop_samples / bundle.sample_rate_hz
    live = _costs_s(bundle, bundle.graphs[0].hops) / (bundle.graphs[0].hops * hop_s)
    files = _costs_s(bundle, bundle.graphs[-1].hops).mean() / (bundle.graphs[-1].hops * hop_s)
    return Speed(float(np.median(live)), float(np.percentile(live, 99)), float(1 / files), processor())


def _costs_s(bundle: Bundle, hops: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """CPU seconds of each of the calls that make up some seconds of noise."""
    pipeline = Pipeline(bundle, Selection.stems(bundle, "all"), 2, provider="cpu", hops=hops)
    noise = np.random.default_rng(0).standard_normal((2, pipeline.block_samples)).astype(np.float32) * np.float32(0.1)
    costs = np.empty(max(2, int(SECONDS * bundle.sample_rate_hz / pipeline.block_samples)))
    for i in range(len(costs)):
        start = time.thread_time()
        pipeline.step(noise)
        costs[i] = time.thread_time() - start
    return costs


def _offline_factor(bundle: Bundle) -> float:
    """Audio seconds per CPU second, of one chunk of a model that draws."""
    assert bundle.latent is not None
    pipeline = LatentPipeline(bundle, Selection.stems(bundle, "all"), 2, provider="cpu")
    noise = np.random.default_rng(0).standard_normal((2, pipeline.latency_samples)).astype(np.float32) * np.float32(0.1)
    pipeline.process(noise)
    start = time.process_time()
    pipeline.process(noise[:, : pipeline.block_samples])
    return pipeline.block_samples / bundle.sample_rate_hz / (time.process_time() - start)


def processor() -> str:
    """The processor's name where the system tells it, otherwise its kind."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf8", errors="replace").splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()

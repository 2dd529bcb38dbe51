"""The model bundle: what a model promises to the engine, in one place.

Training, export and engine share the values below; nothing else documents the format.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import BundleError, nearest

FORMAT = 1

F64 = NDArray[np.float64]


class Windows(NamedTuple):
    """``analysis`` (analysis_samples,) and ``synthesis`` (synthesis_samples,), float64."""

    analysis: F64
    synthesis: F64


@dataclass(frozen=True)
class StftSpec:
    """An asymmetric-window STFT: long analysis for resolution, short synthesis for latency.

    Wang, Naithani, Politis, Virtanen 2021 (arXiv 2106.11794): the frame is ``analysis_samples`` long,
    only its last ``synthesis_samples`` are heard, so these alone are the algorithmic latency.
    """

    analysis_samples: int
    synthesis_samples: int
    hop_samples: int

    def __post_init__(self) -> None:
        n, l, r = self.analysis_samples, self.synthesis_samples, self.hop_samples
        if not 0 < r <= l <= 2 * r or l > n:
            raise BundleError(
                f"stft: analysis {n}, synthesis {l}, hop {r} samples; expected hop <= synthesis <= 2 hops <= 2 analysis; "
                "use one of the presets ultra, live, quality"
            )
        if n % 2 or (n == l and l != 2 * r):
            raise BundleError(f"stft: analysis {n} samples must be even, and longer than synthesis unless synthesis is 2 hops")

    @property
    def bins(self) -> int:
        """Number of frequency bins of one frame."""
        return self.analysis_samples // 2 + 1

    @property
    def latency_samples(self) -> int:
        """Algorithmic latency: collecting a hop plus waiting for the overlap, whatever the analysis length."""
        return self.synthesis_samples

    def windows(self) -> Windows:
        """The window pair; their product over the synthesis span overlap-adds to exactly one."""
        n, l, r = self.analysis_samples, self.synthesis_samples, self.hop_samples
        v = l - r  # overlapping samples
        up = np.sin(np.pi * (np.arange(v) + 0.5) / (2 * v)) ** 2 if v else np.empty(0)
        product = np.concatenate([up, np.ones(2 * r - l), up[::-1]])
        rise = np.sin(np.pi * (np.arange(n - v) + 0.5) / (2 * (n - v)))
        analysis = np.concatenate([rise, np.sqrt(up[::-1])])
        return Windows(analysis, product / analysis[n - l :])

    @property
    def magnitude_scale(self) -> float:
        """Spectra times this are network magnitudes: a full-scale sine reads 0.5, whatever the window."""
        return 1.0 / float(self.windows().analysis.sum())


GEOMETRIES = {
    "ultra": StftSpec(1024, 256, 128),
    "live": StftSpec(2048, 512, 256),
    "quality": StftSpec(2048, 1024, 512),
}


def geometry(name: str) -> StftSpec:
    """One of the named 48 kHz geometries."""
    if name not in GEOMETRIES:
        raise BundleError(f"unknown geometry '{name}'; {nearest(name, GEOMETRIES)}")
    return GEOMETRIES[name]

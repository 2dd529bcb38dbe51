"""Samples to spectra and back: the asymmetric-window STFT, state in, state out.

Called by pipeline.py on the worker thread. A whole signal is one block from a fresh state; there is no second code path.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .contract import StftSpec

F32 = NDArray[np.float32]
C64 = NDArray[np.complex64]


class AnalysisState(NamedTuple):
    history: F32  # (channels, analysis - hop): the newest input that the next frame still sees


class SynthesisState(NamedTuple):
    overlap: F32  # (lanes, synthesis - hop): what earlier frames still owe the next hop


class Stft:
    """The windows of one geometry as float32, and the two transforms. Holds no signal."""

    def __init__(self, spec: StftSpec) -> None:
        windows = spec.windows()
        self.spec = spec
        self.analysis_window = windows.analysis.astype(np.float32)
        self.synthesis_window = windows.synthesis.astype(np.float32)

    def analysis_state(self, channels: int) -> AnalysisState:
        return AnalysisState(np.zeros((channels, self.spec.analysis_samples - self.spec.hop_samples), np.float32))

    def synthesis_state(self, lanes: int) -> SynthesisState:
        return SynthesisState(np.zeros((lanes, self.spec.synthesis_samples - self.spec.hop_samples), np.float32))

    def analyze(self, block: F32, state: AnalysisState) -> tuple[C64, AnalysisState]:
        """(channels, hops * hop) samples -> (hops, channels, bins) spectra, each of the frame that ends with its hop."""
        channels, samples = block.shape
        frames = np.empty((samples // self.spec.hop_samples, channels, self.spec.analysis_samples), np.float32)
        newest = np.empty_like(state.history)
        kernels.cut_frames(state.history, block, self.analysis_window, frames, newest)
        spectra: C64 = np.fft.rfft(frames)  # type: ignore[assignment]  # single precision in, single out
        return spectra, AnalysisState(newest)

    def synthesize(self, spectra: C64, state: SynthesisState) -> tuple[F32, SynthesisState]:
        """(hops, lanes, bins) spectra -> (lanes, hops * hop) samples, delayed by synthesis - hop against the input."""
        frames = np.fft.irfft(spectra, self.spec.analysis_samples)
        hops, lanes, _ = frames.shape
        samples = np.empty((lanes, hops * self.spec.hop_samples), np.float32)
        overlap = state.overlap.copy()
        kernels.overlap_add(frames, self.synthesis_window, overlap, samples)
        return samples, SynthesisState(overlap)

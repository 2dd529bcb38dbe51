"""From the sound card's rate to the model's and back while it plays: a streaming resampler, state in, state out.

Called on the worker thread, once before the pipeline and once behind it, where the two rates differ.

Target sample k is the band-limited signal at source time k * source_hz / target_hz - delay: a sinc that cuts at the lower
of the two Nyquist frequencies, under a Kaiser window (Kaiser 1974, "Nonrecursive digital filter design using the I0-sinh
window function"), tabulated for every phase that the ratio of the rates can meet (Smith, "Digital Audio Resampling").

HALF_WIDTH is the trade-off between delay and band. With 32 samples of the lower rate on either side (0.73 ms at 44.1 kHz)
the 93 dB leave a transition of 0.093 of that rate, half of it on either side of its Nyquist frequency:

    flat within 0.0003 dB up to 0.907 of the lower Nyquist frequency: 20.0 kHz at 44.1 kHz, 21.7 kHz at 48 kHz
    images of that band, and aliases that would fall into it: 93 dB down each
    at the lower Nyquist frequency -6 dB: what lies just above it folds back, into the edge above that band only

Twice the delay would halve the edge; half of it would begin to dull the sound at 18 kHz.
"""

from fractions import Fraction
from math import ceil, gcd
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .errors import DeviceError

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

HALF_WIDTH = 32  # samples of the lower rate
STOP_DB = 93.0  # more would widen the transition into the 20 kHz of a 44.1 kHz device
HIGHEST_HZ = 768_000
LARGEST_TABLE = 1 << 22  # bytes; 44.1 to 48 kHz takes 40 kB


class BridgeState(NamedTuple):
    history: F32  # (channels, past): the newest input that later output still sees
    heard: int  # source samples so far


class Bridge:
    """(channels, n) samples at ``source_hz`` -> (channels, m) at ``target_hz``, for any n >= 0. Holds no signal.

    After N source samples exactly ``produced(N)`` = ceil(N * target_hz / source_hz) target samples have come out: all
    whose own time k * source_hz / target_hz lies before N. The delay is the least that is a ``whole`` number of samples
    of the source or of the target; ``behind`` source samples of delay that the signal already has count into that
    number. So the way into a model and out of it takes a whole number of the device's samples:

        inward = Bridge(device_hz, model_hz, whole="source")
        outward = Bridge(model_hz, device_hz, whole="target", behind=model_samples)
        inward.delay_source_samples + outward.delay_target_samples + model_samples * Fraction(device_hz, model_hz)

    At equal rates the samples pass as they are, without delay. Raises DeviceError for rates that it cannot bridge.
    """

    def __init__(self, source_hz: int, target_hz: int, *, whole: Literal["source", "target"] = "source", behind: int = 0) -> None:
        self._up, self._down = _ratio(source_hz, target_hz)
        step = Fraction(self._down, self._up)  # source samples from one target sample to the next
        reach = HALF_WIDTH * max(Fraction(1), step) if step != 1 else Fraction(0)
        unit = Fraction(1) if whole == "source" else step
        delay = ceil((reach + behind) / unit) * unit - behind
        self.delay_source_samples: Fraction = delay
        self.delay_target_samples: Fraction = delay / step
        taps = max(1, ceil(delay + reach))  # the newest lies at or just before the target sample's own time
        if self._up * taps * np.dtype(np.float32).itemsize > LARGEST_TABLE:
            raise DeviceError(
                f"cannot resample {source_hz} Hz to {target_hz} Hz: their ratio {self._down}:{self._up} takes {self._up * taps} "
                f"filter taps, at most {LARGEST_TABLE // 4} fit; choose a common rate such as 44100 or 48000 Hz for the device"
            )
        ages = np.arange(taps)[::-1]  # a row lies on the samples in their order, oldest first
        phases = np.arange(self._up)[:, None] + self._up * ages - int(delay * self._up)
        self._table = _windowed_sinc(phases / self._up, min(1.0, self._up / self._down), float(reach)).astype(np.float32)
        self._past = taps - 1
        self.step(np.zeros((1, 1), np.float32), self.initial_state(1))  # compile before the sound starts

    def initial_state(self, channels: int) -> BridgeState:
        return BridgeState(np.zeros((channels, self._past), np.float32), 0)

    def step(self, block: F32, state: BridgeState) -> tuple[F32, BridgeState]:
        """(channels, n) -> (channels, m), m = produced(heard + n) - produced(heard), and the state for the next block."""
        channels, samples = block.shape
        audio = np.empty((channels, self._past + samples), np.float32)  # of one layout: kernels are compiled for no other
        np.concatenate([state.history, block], axis=1, out=audio)
        heard = state.heard + samples
        first = self.produced(state.heard)
        at, row = divmod(first * self._down - state.heard * self._up, self._up)
        out = np.empty((channels, self.produced(heard) - first), np.float32)
        kernels.resample(audio, self._table, self._down, at, row, out)
        return out, BridgeState(audio[:, samples:].copy(), heard)

    def produced(self, source_samples: int) -> int:
        """Target samples that have come out when ``source_samples`` in total have gone in."""
        return -(-source_samples * self._up // self._down)

    def needed(self, state: BridgeState, target_samples: int) -> int:
        """The least n for which steps of n source samples in all, from ``state`` on, give ``target_samples`` or more."""
        last = self.produced(state.heard) + target_samples - 1
        return last * self._down // self._up + 1 - state.heard if target_samples > 0 else 0


def _ratio(source_hz: int, target_hz: int) -> tuple[int, int]:
    """The rates in lowest terms: target, source."""
    for hz in (source_hz, target_hz):
        if not (0 < hz <= HIGHEST_HZ and float(hz).is_integer()):
            raise DeviceError(
                f"cannot resample {source_hz!r:.20} Hz to {target_hz!r:.20} Hz: a rate is a whole number from 1 to {HIGHEST_HZ}; "
                "choose another rate for the device"
            )
    common = gcd(int(source_hz), int(target_hz))
    return int(target_hz) // common, int(source_hz) // common


def _windowed_sinc(x: F64, cutoff: float, reach: float) -> F64:
    """The filter at ``x`` source samples from its centre; ``cutoff`` is a share of the source's Nyquist frequency."""
    if reach == 0.0:
        return np.ones_like(x)
    beta = 0.1102 * (STOP_DB - 8.7)
    window = np.i0(beta * np.sqrt(np.maximum(0.0, 1.0 - (x / reach) ** 2))) / np.i0(beta)
    filter_: F64 = np.where(np.abs(x) < reach, cutoff * np.sinc(cutoff * x) * window, 0.0)
    return filter_

"""Mel bands as two fixed matrices: bins to bands for what a network sees, and masks of bands back to masks of bins.

Slaney's scale and area norm (M. Slaney 1998, Auditory Toolbox), as librosa has them: linear to 1 kHz, logarithmic above.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

F64 = NDArray[np.float64]

LINEAR_HZ = 200 / 3  # a mel, below the corner
CORNER_HZ = 1000.0
LOG_STEP = np.log(6.4) / 27  # of a mel, above it


def mel_filters(bins: int, bin_hz: float, bands: int, low_hz: float, high_hz: float) -> F64:
    """(bands, bins) triangles over magnitudes, each of the same area. Raises ValueError for a range or number of no use."""
    if not 0 <= low_hz < high_hz or bands < 1:
        raise ValueError(f"{bands} mel bands from {low_hz:g} to {high_hz:g} Hz; expected 1 or more, low < high")
    low, high = (float(_mel(hz)) for hz in (low_hz, high_hz))
    corners_hz = _hz(np.linspace(low, high, bands + 2))
    hz = np.arange(bins) * bin_hz
    rise = (hz - corners_hz[:-2, None]) / np.diff(corners_hz[:-1])[:, None]
    fall = (corners_hz[2:, None] - hz) / np.diff(corners_hz[1:])[:, None]
    filters = np.maximum(0, np.minimum(rise, fall)) * (2 / (corners_hz[2:] - corners_hz[:-2]))[:, None]
    if not filters.any(axis=1).all():
        raise ValueError(f"{bands} mel bands in {bins} bins of {bin_hz:g} Hz leave some without a bin; expected fewer bands")
    return np.asarray(filters)


def band_shares(filters: F64) -> F64:
    """(bands, bins) filters -> (bands, bins) weights that sum to one in each bin: a bin's mask is the mean of the masks of
    the bands that hear it, by how well they do. What no band hears (0 Hz, half the rate) follows the nearest bin that one
    does."""
    heard = np.flatnonzero(filters.sum(axis=0) > 0)
    nearest = heard[np.abs(np.arange(filters.shape[1])[:, None] - heard).argmin(axis=1)]
    shares = filters[:, nearest]
    return np.asarray(shares / shares.sum(axis=0))


def _mel(hz: ArrayLike) -> F64:
    hz = np.asarray(hz, np.float64)
    linear = np.minimum(hz, CORNER_HZ) / LINEAR_HZ
    return np.asarray(linear + np.log(np.maximum(hz, CORNER_HZ) / CORNER_HZ) / LOG_STEP)


def _hz(mel: ArrayLike) -> F64:
    mel = np.asarray(mel, np.float64)
    corner = CORNER_HZ / LINEAR_HZ
    return np.asarray(np.minimum(mel, corner) * LINEAR_HZ * np.exp(np.maximum(mel - corner, 0) * LOG_STEP))

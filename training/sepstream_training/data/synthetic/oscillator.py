"""What voices and instruments in NumPy are made of."""

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def saw(phase: F64, brightness: F64 | float) -> F64:
    """Sum over k of brightness^k sin(k phase) / k: a saw, softer as ``brightness`` falls from 1; in closed form."""
    return np.arctan2(brightness * np.sin(phase), 1 - brightness * np.cos(phase))


def faded(time_s: F64, hold_s: float) -> F64:
    """An envelope: 2 ms up, held, 50 ms down."""
    return np.clip(time_s / 0.002, 0, 1) * np.clip(1 - (time_s - hold_s) / 0.05, 0, 1)

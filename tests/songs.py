"""Sounds for the tests of the explorer: made, written, read back; (channels, samples) float32."""

from pathlib import Path

import numpy as np
import soundfile


def noise(channels: int, samples: int, seed: int = 0, wander_samples: float = 3000.0) -> np.ndarray:
    """Noise whose level wanders, so that masks move and there is something to be seen."""
    level = 10 ** (np.sin(np.arange(samples) / wander_samples) - 1.5)
    return (level * np.random.default_rng(seed).standard_normal((channels, samples))).astype(np.float32)


def sound(path: Path, audio: np.ndarray, rate_hz: int = 48000) -> Path:
    soundfile.write(path, audio.T, rate_hz, subtype="FLOAT")
    return path


def read(path: str | Path) -> np.ndarray:
    return soundfile.read(path, dtype="float32", always_2d=True)[0].T

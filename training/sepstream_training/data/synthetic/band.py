"""A band in NumPy: a drum kit, a guitar and a bass, each with a character of its own for every song."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .oscillator import faded, saw
from .smf import Note
from .song import CRASH, HAT, HAT_OPEN, KICK, PARTS, RIDE, SNARE, TOM_HIGH, TOM_LOW, TOM_MID, Song

F64 = NDArray[np.float64]
Strike = Callable[[int, float], F64]  # pitch, seconds -> the sound of one note


class Stroke(NamedTuple):
    """One drum: a decaying tone that starts ``bend`` times higher, and decaying noise above ``edge_hz``."""

    tone: float
    tone_hz: float
    bend: float
    tone_s: float
    noise: float
    noise_s: float
    edge_hz: float


DRUMS = {
    KICK: Stroke(1.0, 52, 3.0, 0.10, 0.05, 0.006, 1000),
    SNARE: Stroke(0.5, 190, 1.3, 0.05, 0.5, 0.07, 1200),
    TOM_LOW: Stroke(0.9, 90, 1.5, 0.15, 0.06, 0.02, 600),
    TOM_MID: Stroke(0.9, 125, 1.5, 0.13, 0.06, 0.02, 600),
    TOM_HIGH: Stroke(0.9, 170, 1.5, 0.11, 0.06, 0.02, 600),
    HAT: Stroke(0.0, 400, 1.0, 0.01, 0.2, 0.018, 7000),
    HAT_OPEN: Stroke(0.0, 400, 1.0, 0.01, 0.2, 0.12, 6500),
    CRASH: Stroke(0.02, 420, 1.0, 0.20, 0.22, 0.45, 4500),
    RIDE: Stroke(0.05, 510, 1.0, 0.15, 0.13, 0.20, 6000),
}
MAX_NOTE_S = 3.0


def play(song: Song, name: str, notes: Sequence[Note], rate_hz: int) -> F64:
    """Every note of a part, struck by that part's instrument, added up."""
    rng = np.random.default_rng([song.seed, PARTS.index(name)])
    strike = {"bass": _bass, "drums": _kit, "guitar": _guitar}[name](rate_hz, rng)
    beat_s = 60 / song.tempo_bpm
    end_s = max((note.start_beats for note in notes), default=0) * beat_s + MAX_NOTE_S
    out = np.zeros(int(end_s * rate_hz) + 1)
    for note in sorted(notes):  # in time, so that a longer performance begins like a shorter one
        sound = strike(note.pitch, min(note.length_beats * beat_s, MAX_NOTE_S - 0.1)) * (note.velocity / 127) ** 2
        start = int(note.start_beats * beat_s * rate_hz)
        out[start : start + len(sound)] += sound
    return out


def _kit(rate_hz: int, rng: np.random.Generator) -> Strike:
    """A drum kit with its own tuning and damping -> strike(pitch, seconds)."""
    tuning, damping = rng.uniform(0.9, 1.12), rng.uniform(0.7, 1.3)
    time_s = np.arange(int(1.5 * rate_hz)) / rate_hz
    frequency_hz = np.fft.rfftfreq(len(time_s), 1 / rate_hz)

    def strike(pitch: int, seconds: float) -> F64:
        drum = DRUMS[pitch]
        sweep_hz = drum.tone_hz * tuning * (1 + (drum.bend - 1) * np.exp(-time_s / 0.025))
        tone = np.sin(2 * np.pi * np.cumsum(sweep_hz) / rate_hz) * np.exp(-time_s / drum.tone_s / damping)
        band = frequency_hz**2 / (frequency_hz**2 + drum.edge_hz**2) / (1 + (frequency_hz / 9000) ** 2)
        noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(len(time_s))) * band, len(time_s))
        return (drum.tone * tone + drum.noise * noise * np.exp(-time_s / drum.noise_s / damping)) * faded(time_s, 1.4)

    return strike


def _guitar(rate_hz: int, rng: np.random.Generator) -> Strike:
    """A guitar: plucked strings with their own ring and plucking place -> strike(pitch, seconds)."""
    return _plucked(rate_hz, rng.uniform(1.5, 3.0), rng.uniform(2000, 6000), rng.uniform(0.1, 0.3))


def _bass(rate_hz: int, rng: np.random.Generator) -> Strike:
    """A bass: plucked strings or a filtered saw, as the song's seed has it -> strike(pitch, seconds)."""
    if rng.integers(2):
        return _plucked(rate_hz, 2.5, rng.uniform(400, 1200), rng.uniform(0.15, 0.35))
    open_s, bright = rng.uniform(0.1, 0.5), rng.uniform(0.75, 0.92)

    def strike(pitch: int, seconds: float) -> F64:
        time_s = np.arange(int((seconds + 0.05) * rate_hz)) / rate_hz
        brightness = 0.3 + (bright - 0.3) * np.exp(-time_s / open_s)
        return saw(2 * np.pi * _hz(pitch) * time_s, brightness) * faded(time_s, seconds)

    return strike


def _plucked(rate_hz: int, ring_s: float, brightness_hz: float, place: float) -> Strike:
    """A string instrument -> strike(pitch, seconds). A pitch is computed once and rings as long as it is held."""

    @cache
    def string(pitch: int) -> F64:
        return string_of(_hz(pitch), rate_hz, ring_s, brightness_hz, place)

    def strike(pitch: int, seconds: float) -> F64:
        sound = string(pitch)[: int((seconds + 0.05) * rate_hz)]
        return sound * faded(np.arange(len(sound)) / rate_hz, seconds)

    return strike


def string_of(f0_hz: float, rate_hz: int, ring_s: float, brightness_hz: float, place: float) -> F64:
    """A string plucked at ``place`` (0..1) of its length: Karplus-Strong's loop, solved in the frequency domain.

    The spectrum of a decaying loop is 1 / (1 - loop); there the delay may be a fraction of a sample, so the string is
    in tune at every rate. Sampling the spectrum folds time: the buffer is as long as the ring, where it is 60 dB down.
    """
    size = 2 ** int(np.ceil(np.log2(ring_s * rate_hz)))
    frequency_hz = np.fft.rfftfreq(size, 1 / rate_hz)
    turns = -2j * np.pi * frequency_hz / f0_hz
    decay_per_s = np.log(1000) / ring_s + (frequency_hz / 400) ** 1.5
    pluck = (1 - np.exp(turns * place)) * np.exp(-frequency_hz / brightness_hz) / (1 + frequency_hz / f0_hz)
    return np.fft.irfft(pluck / (1 - np.exp(turns - decay_per_s / f0_hz)), size)


def _hz(pitch: int) -> float:
    return 440 * 2 ** ((pitch - 69) / 12)

"""Sources made from nothing: two voices and a band, with no data set.

Two values describe a performance: a ``Speaker`` says text, a ``Song`` holds the notes of a bass, a drummer and a
guitarist who play together. Two engines perform both: programs (eSpeak NG; FluidSynth with a General MIDI sound font)
and plain NumPy. Values in, sound out: with the NumPy engine the same value gives the same samples, bit for bit.

Called by the training data pipeline (``generate``) and by ``demo`` (``say`` and ``play``). All sound is mono float32.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepstream.errors import DataError, nearest

from . import babble, band, programs
from .programs import missing_package
from .song import PARTS, Song, compose, looped
from .speaker import VOICES, Speaker, cast, check_name, sentence

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

ENGINES = ("auto", "programs", "numpy")


def generate(name: str, seconds: float, sample_rate_hz: int, rng: np.random.Generator, *, engine: str = "auto") -> F32:
    """A new performance of one leaf class -> (samples,) float32, about -20 dBFS RMS where active, peak at most 0.99.

    ``name`` is one of ``male female bass drums guitar``. ``engine`` is ``programs``, ``numpy``, or ``auto``: programs
    where installed, else NumPy. Raises DataError for an unknown name or engine, a length or rate out of range, and a
    program that is missing or fails.
    """
    if name in VOICES:
        return _monologue(cast(name, rng), seconds, sample_rate_hz, rng, engine)
    return play(compose(rng), name, seconds, sample_rate_hz, engine=engine)


def say(speaker: Speaker, text: str, sample_rate_hz: int, *, engine: str = "auto") -> F32:
    """Text -> (samples,) of speech, as long as it takes. The NumPy engine babbles: the letters' sounds, one by one.

    Raises DataError like ``generate``.
    """
    check_name(speaker.name, VOICES)
    _check_rate(sample_rate_hz)
    perform = programs.say if _uses_programs(engine, speaker.name) else babble.say
    return _leveled(perform(speaker, text, sample_rate_hz))


def play(song: Song, name: str, seconds: float, sample_rate_hz: int, *, engine: str = "auto") -> F32:
    """One part of the song, looped to ``seconds`` -> (samples,), in time with the other parts of the same song.

    Raises DataError like ``generate``.
    """
    check_name(name, PARTS)
    samples = _sample_count(seconds, sample_rate_hz)
    perform = programs.play if _uses_programs(engine, name) else band.play
    sound = perform(song, name, list(looped(song, name, seconds)), sample_rate_hz)
    return _leveled(_fitted(sound, samples))


def _monologue(speaker: Speaker, seconds: float, rate_hz: int, rng: np.random.Generator, engine: str) -> F32:
    """Sentences with pauses between them, cut to length."""
    samples, spoken = _sample_count(seconds, rate_hz), 0
    pieces: list[NDArray[Any]] = []
    while spoken < samples:
        pieces += [say(speaker, sentence(rng), rate_hz, engine=engine), np.zeros(int(rng.uniform(0.1, 0.6) * rate_hz))]
        spoken += sum(map(len, pieces[-2:]))
    return _leveled(_fitted(np.concatenate(pieces), samples))


# ---- levels and checks ----------------------------------------------------------------------------------------------

ACTIVE_RMS = 0.1  # -20 dBFS
MAX_PEAK = 0.99


def _leveled(sound: F64) -> F32:
    """The same sound at the house level: its active 20 dB at -20 dBFS RMS, its peak at most 0.99."""
    sound = np.asarray(sound, float)
    peak = np.max(np.abs(sound), initial=0.0)
    if peak == 0:
        return sound.astype(np.float32)
    power = np.array([np.mean(block**2) for block in np.array_split(sound, max(1, len(sound) // 500))])
    active = power[power > 0.01 * power.max()].mean()
    return np.asarray(sound * min(ACTIVE_RMS / np.sqrt(active), MAX_PEAK / peak), np.float32)


def _fitted(sound: F64, samples: int) -> F64:
    """Cut or padded with silence to ``samples``."""
    return np.pad(sound[:samples], (0, max(0, samples - len(sound))))


def _uses_programs(engine: str, name: str) -> bool:
    """Whether programs make this class. Raises DataError for an unknown engine or a missing program asked for."""
    if engine not in ENGINES:
        raise DataError(f"unknown engine '{engine}'; {nearest(engine, ENGINES)}")
    package = missing_package(name)
    if engine == "programs" and package:
        raise DataError(f"engine 'programs' cannot make '{name}': install Debian package {package}, or use 'numpy'")
    return engine != "numpy" and package is None


def _check_rate(sample_rate_hz: int) -> None:
    if not 8000 <= sample_rate_hz <= 192000:
        raise DataError(f"sample rate {sample_rate_hz} Hz is out of range; use 8000 to 192000")


def _sample_count(seconds: float, sample_rate_hz: int) -> int:
    _check_rate(sample_rate_hz)
    if not 0 < seconds < float("inf"):
        raise DataError(f"{seconds} seconds of sound cannot be made; ask for more than 0")
    return round(seconds * sample_rate_hz)

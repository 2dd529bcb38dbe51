"""A voice in NumPy: a pulse and a hiss through moving resonances. It says the letters of a text, one by one."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .oscillator import saw
from .speaker import Speaker

F64 = NDArray[np.float64]
C128 = NDArray[np.complex128]


class Sound(NamedTuple):
    """One speech sound: how long, how loud its voice and its hiss, where the hiss and the first three formants lie."""

    seconds: float
    voice: float = 0.0
    hiss: float = 0.0
    hiss_hz: float = 1500.0
    f1_hz: float = 500.0
    f2_hz: float = 1500.0
    f3_hz: float = 2500.0


def _vowel(*formants_hz: float) -> list[Sound]:
    return [Sound(0.11, 1.0, 0.01, 3000.0, *formants_hz)]


def _hum(*formants_hz: float) -> list[Sound]:
    return [Sound(0.07, 0.35, 0.0, 3000.0, *formants_hz)]


def _hiss(hz: float, gain: float = 0.25, voice: float = 0.0) -> list[Sound]:
    return [Sound(0.08, voice, gain, hz)]


def _stop(hz: float, voice: float = 0.0) -> list[Sound]:
    return [Sound(0.05, voice), Sound(0.02, voice, 0.5, hz)]


LETTERS = {  # formants at a man's size, roundish values of spoken English; letters not here are said like "e"
    "a": _vowel(730, 1090, 2440), "e": _vowel(530, 1840, 2480), "i": _vowel(300, 2290, 3010),
    "o": _vowel(570, 840, 2410), "u": _vowel(300, 870, 2240), "y": _vowel(300, 2200, 2900),
    "m": _hum(250, 1000, 2200), "n": _hum(250, 1500, 2400), "l": _hum(350, 1100, 2600),
    "r": _hum(400, 1200, 1600), "w": _hum(300, 700, 2200),
    "s": _hiss(6500), "x": _hiss(6000), "z": _hiss(6000, 0.15, 0.2), "f": _hiss(4500, 0.1), "v": _hiss(4500, 0.06, 0.3),
    "c": _hiss(3000), "j": _hiss(2700, 0.15, 0.2), "h": _hiss(1500, 0.1),
    "p": _stop(900), "b": _stop(800, 0.1), "t": _stop(4500), "d": _stop(4000, 0.1),
    "k": _stop(2000), "g": _stop(1800, 0.1), "q": _stop(1900),
    " ": [Sound(0.04)], ",": [Sound(0.2)], ".": [Sound(0.3)], "?": [Sound(0.3)],
}  # fmt: skip
SIZE = {"male": 1.0, "female": 1.17}  # a shorter vocal tract lifts all formants


def say(speaker: Speaker, text: str, rate_hz: int) -> F64:
    rng = np.random.default_rng([speaker.seed, *text.encode()])
    sounds = np.array([sound for letter in text.lower() for sound in LETTERS.get(letter, LETTERS["e"])])
    sounds[:, 0] *= 160 / speaker.words_per_minute * rng.uniform(0.8, 1.25, len(sounds))
    sounds[:, 3:] *= SIZE[speaker.name]
    hop = rate_hz // 100
    tracks = _tracks(sounds, hop / rate_hz)
    voice, hiss = np.repeat(tracks[:, :2], hop, axis=0).T
    phase = 2 * np.pi * np.cumsum(_melody(speaker.f0_hz, len(voice), rate_hz, rng)) / rate_hz
    # the pulse train's harmonics fall as 1/k; what is left at the Nyquist frequency would fold back
    pulses = saw(phase, np.exp(-6 * speaker.f0_hz / rate_hz))
    noise = rng.standard_normal(len(hiss))
    frequency_hz = np.fft.rfftfreq(4 * hop, 1 / rate_hz)
    voiced = _filtered(pulses * voice, _formants(tracks, frequency_hz, SIZE[speaker.name]))
    return voiced + _filtered(noise * hiss, _band_pass(np.minimum(tracks[:, 2:3], 0.42 * rate_hz), frequency_hz))


def _tracks(sounds: F64, hop_s: float) -> F64:
    """(sounds, 7) -> (frames, 6): every column but the length, gliding from sound to sound."""
    ends = np.cumsum(sounds[:, 0])
    knots = np.stack([ends - 0.75 * sounds[:, 0], ends - 0.25 * sounds[:, 0]], axis=1).ravel()
    clock = np.arange(0, ends[-1], hop_s)
    return np.stack([np.interp(clock, knots, np.repeat(column, 2)) for column in sounds[:, 1:].T], axis=1)


def _melody(f0_hz: float, samples: int, rate_hz: int, rng: np.random.Generator) -> F64:
    """f0 per sample: a falling line, an accent every third of a second or so, a slight tremor."""
    accents = rng.uniform(0.95, 1.07, samples // (rate_hz // 3) + 2)
    accented = np.interp(np.arange(samples), np.linspace(0, samples, len(accents)), accents)
    tremor = 1 + 0.01 * np.sin(2 * np.pi * rng.uniform(4, 6) * np.arange(samples) / rate_hz)
    return f0_hz * np.linspace(1.06, 0.93, samples) * accented * tremor


def _formants(tracks: F64, frequency_hz: NDArray[np.floating], size: float) -> C128:
    """Complex response (frames, bins): three moving resonances and two that stay."""
    response = np.tile(1 + 1j * frequency_hz / 700, (len(tracks), 1))  # the lips radiate the high notes better
    higher = np.broadcast_to([3500 * size, 4500 * size], (len(tracks), 2))
    for centre_hz in np.hstack([tracks[:, 3:], higher]).T:
        width_hz = 60 + 0.04 * centre_hz[:, None]
        square = centre_hz[:, None] ** 2
        response *= square / (square - frequency_hz**2 + 1j * frequency_hz * width_hz)
    return response


def _band_pass(centre_hz: F64, frequency_hz: NDArray[np.floating]) -> C128:
    """Complex response (frames, bins): one broad resonance."""
    inside = 0.5j * frequency_hz * centre_hz
    return np.asarray(inside / (centre_hz**2 - frequency_hz**2 + inside))


def _filtered(sound: F64, response: C128) -> F64:
    """A filter that moves: (frames x hop,) samples and (frames, bins) -> the same samples, filtered frame by frame.

    Hann frames of two hops, transformed at four: two hops of silence take the resonances' ringing.
    """
    frames = len(response)
    hop = len(sound) // frames
    pairs = np.pad(sound, (0, hop)).reshape(frames + 1, hop)
    windowed = np.hstack([pairs[:-1], pairs[1:]]) * np.hanning(2 * hop + 1)[:-1]
    pieces = np.fft.irfft(np.fft.rfft(windowed, 4 * hop) * response, 4 * hop).reshape(frames, 4, hop)
    out = np.zeros((frames + 3, hop))
    for quarter in range(4):
        out[quarter : quarter + frames] += pieces[:, quarter]
    return out.ravel()

"""Mixtures made while they are needed: what is drawn, how it is bent, how loud, where it stands.

Pure functions of a random generator: the same generator gives the same mixture.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import NDArray

from sepstream.errors import DataError

from .library import Clip, Library

F32 = NDArray[np.float32]

SILENCE_RMS = 1e-4


@dataclass(frozen=True)
class MixSpec:
    """How mixtures are drawn. Levels in dB; probabilities 0..1; speeds are the largest change in semitones."""

    seconds: float = 5.0
    activity: float = 0.8  # each class sounds with this probability, at least two do
    partly: float = 0.3  # an active class starts or stops inside the excerpt
    coherent: float = 0.5  # instruments play the same bars of the same song
    second_voice: float = 0.1  # a class is sung by two clips at once
    level_db: float = 4.0  # spread (standard deviation) of each class
    family_db: float = 3.0  # spread of speech against music
    mix_low_db: float = -34.0  # RMS of the mixture, drawn evenly
    mix_high_db: float = -12.0
    speech_speed: float = 1.0
    music_speed: float = 3.0  # of every family that is not called speech
    filter_db: float = 6.0  # spread of a smooth random equaliser
    filtered: float = 0.5
    stereo: float = 0.5  # mixtures that are panned; the others are the same in both channels

    def __post_init__(self) -> None:
        for name in ("activity", "partly", "coherent", "second_voice", "filtered", "stereo"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"recipe key 'mix.{name}' is {getattr(self, name)}; expected a probability, 0 to 1")
        if not self.seconds > 0 or self.mix_low_db > self.mix_high_db:
            raise DataError("recipe keys 'mix.*': expected seconds > 0 and mix_low_db <= mix_high_db")


def draw_mixture(
    library: Library, families: Mapping[str, Sequence[str]], spec: MixSpec, rate_hz: int, rng: np.random.Generator
) -> F32:
    """(leaves, 2, samples) stems; a silent leaf is all zeros. Leaves in the order of ``families``."""
    leaves = [leaf for members in families.values() for leaf in members]
    stems = np.zeros((len(leaves), 2, round(spec.seconds * rate_hz)), np.float32)
    chosen = _draw_clips(library, _draw_active(leaves, spec.activity, rng), spec, rng)
    widest = np.pi / 4 if rng.random() < spec.stereo else 0.0
    for family, members in families.items():
        active = [leaf for leaf in members if leaf in chosen]
        family_gain_db = rng.normal(0, spec.family_db) - 10 * np.log10(max(1, len(active)))
        speed = spec.speech_speed if family == "speech" else spec.music_speed
        factor = 2 ** (rng.uniform(-speed, speed) / 12)  # one for the family, so that bars stay together
        starts = _draw_starts([clip for leaf in active for clip in chosen[leaf]], stems.shape[2] * factor, rng)
        for leaf in active:
            mono = np.sum([_excerpt(clip, starts[_bars(clip)], factor, stems.shape[2]) for clip in chosen[leaf]], axis=0)
            mono = _level(_bend(mono, spec, rate_hz, rng), family_gain_db + rng.normal(0, spec.level_db), rate_hz)
            stems[leaves.index(leaf)] = _pan(widest, rng)[:, None] * mono
    return _set_mix_level(stems, rng.uniform(spec.mix_low_db, spec.mix_high_db))


def _draw_active(leaves: list[str], activity: float, rng: np.random.Generator) -> set[str]:
    active = {leaf for leaf in leaves if rng.random() < activity}
    while len(active) < min(2, len(leaves)):
        active.add(leaves[rng.integers(len(leaves))])
    return active


def _draw_clips(library: Library, active: set[str], spec: MixSpec, rng: np.random.Generator) -> dict[str, list[Clip]]:
    """One or two clips for each active class; the first instrument's song is what the others may join."""
    chosen: dict[str, list[Clip]] = {}
    song = ""
    for leaf in sorted(active):
        together = [clip for clip in library[leaf] if song and clip.group == song]
        if together and rng.random() < spec.coherent:
            chosen[leaf] = [together[rng.integers(len(together))]]
        else:
            chances = [clip.chance for clip in library[leaf]]
            count = 1 + (rng.random() < spec.second_voice)
            chosen[leaf] = [library[leaf][i] for i in rng.choice(len(chances), size=count, p=chances)]
        song = song or chosen[leaf][0].group
    return chosen


def _draw_starts(clips: Iterable[Clip], wanted: float, rng: np.random.Generator) -> dict[str, int]:
    """Where in each clip an excerpt of ``wanted`` samples starts; before 0, where the clip is shorter than that.

    Clips of one group start together, where the shortest of them sounds.
    """
    spare: dict[str, int] = {}
    for clip in clips:
        own = len(clip.samples) - int(np.ceil(wanted))
        spare[_bars(clip)] = min(own, spare.get(_bars(clip), own))
    return {bars: int(rng.integers(min(0, most), max(0, most) + 1)) for bars, most in spare.items()}


def _bars(clip: Clip) -> str:
    """What is sample-aligned shares this name; a clip without a group is alone."""
    return clip.group or str(clip.cached)


def _excerpt(clip: Clip, start: int, factor: float, length: int) -> F32:
    """(length,) samples of the clip from ``start``, played ``factor`` times as fast; silence where it has none."""
    wanted = int(np.ceil(length * factor)) + 8  # a few more, so that the resampled piece is long enough
    piece = np.zeros(wanted, np.float32)
    inside = clip.samples[max(0, start) : max(0, start + wanted)]
    before = max(0, -start)
    piece[before : before + len(inside)] = inside.astype(np.float32) / 32768
    if factor != 1.0:
        piece = soxr.resample(piece, factor, 1.0, quality="MQ")
    return piece[:length]


def _bend(mono: F32, spec: MixSpec, rate_hz: int, rng: np.random.Generator) -> F32:
    """Random polarity, sometimes a smooth equaliser, sometimes an entry or an exit."""
    mono = mono * rng.choice(np.array([-1, 1], np.float32))
    if rng.random() < spec.filtered:
        mono = _equalise(mono, rng.normal(0, spec.filter_db / 2, size=7), rate_hz)
    if rng.random() < spec.partly:
        edge = rng.uniform(0.1, 0.9) * len(mono)
        fade = np.clip((np.arange(len(mono)) - edge) / (0.05 * rate_hz), 0, 1)
        mono = mono * (fade if rng.random() < 0.5 else 1 - fade)
    return mono.astype(np.float32)


def _equalise(mono: F32, gains_db: NDArray[np.float64], rate_hz: int) -> F32:
    """Gains at frequencies from 60 Hz to half the rate, evenly spaced in log frequency, with lines between."""
    knots_hz = np.geomspace(60, rate_hz / 2, len(gains_db))
    hz = np.fft.rfftfreq(len(mono), 1 / rate_hz)
    curve = 10 ** (np.interp(np.log(hz + 1), np.log(knots_hz + 1), gains_db) / 20)
    return np.fft.irfft(np.fft.rfft(mono) * curve, len(mono)).astype(np.float32)


def _level(mono: F32, gain_db: float, rate_hz: int) -> F32:
    """Loudness of the sounding parts (20 ms frames within 30 dB of the loudest) set to ``gain_db`` re an RMS of 1."""
    frame = min(rate_hz // 50, len(mono))
    power = np.square(mono[: len(mono) // frame * frame].reshape(-1, frame)).mean(axis=1)
    sounding = power[power > power.max(initial=0.0) * 1e-3]
    rms = np.sqrt(sounding.mean()) if sounding.size else 0.0
    return mono * np.float32(10 ** (gain_db / 20) / rms) if rms > SILENCE_RMS else np.zeros_like(mono)


def _pan(widest: float, rng: np.random.Generator) -> F32:
    """Constant-power gains (left, right), at most ``widest`` radians from the middle."""
    angle = np.pi / 4 + rng.uniform(-widest, widest)
    return np.array([np.cos(angle), np.sin(angle)], np.float32)


def _set_mix_level(stems: F32, level_db: float) -> F32:
    rms = np.sqrt(np.square(stems.sum(axis=0)).mean())
    return stems * np.float32(10 ** (level_db / 20) / rms) if rms > 0 else stems

"""Mixtures made while they are needed: what is drawn, how it is bent, how loud, where it stands; or a track as it is.

Pure functions of a random generator: the same generator gives the same mixture. A sound is (samples,) mono, or
(2, samples) where the data is in stereo.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np
import soxr
from numpy.typing import NDArray

from sepstream.errors import DataError

from .entries import F32, MIX
from .library import FULL_SCALE, Clip, Library, Track

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
    stereo: float = 0.5  # mixtures that are panned, or keep their stereo; the others are the same in both channels

    def __post_init__(self) -> None:
        for name in ("activity", "partly", "coherent", "second_voice", "filtered", "stereo"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"recipe key 'mix.{name}' is {getattr(self, name)}; expected a probability, 0 to 1")
        for name in ("level_db", "family_db", "speech_speed", "music_speed", "filter_db"):
            if not getattr(self, name) >= 0:
                raise DataError(f"recipe key 'mix.{name}' is {getattr(self, name)}; expected a spread, 0 or more")
        if not self.seconds > 0 or self.mix_low_db > self.mix_high_db:
            raise DataError("recipe keys 'mix.*': expected seconds > 0 and mix_low_db <= mix_high_db")


def draw_mixture(
    library: Library, families: Mapping[str, Sequence[str]], spec: MixSpec, rate_hz: int, rng: np.random.Generator
) -> F32:
    """(leaves, 2, samples) stems; a silent leaf is all zeros. Leaves in the order of ``families``."""
    leaves = [leaf for members in families.values() for leaf in members]
    stems = np.zeros((len(leaves), 2, round(spec.seconds * rate_hz)), np.float32)
    there = [leaf for leaf in leaves if library[leaf]]
    chosen = _draw_clips(library, _draw_active(there, spec.activity, rng), spec, rng)
    widest = np.pi / 4 if rng.random() < spec.stereo else 0.0
    for family, members in families.items():
        active = [leaf for leaf in members if leaf in chosen]
        family_gain_db = rng.normal(0, spec.family_db) - 10 * np.log10(max(1, len(active)))
        speed = spec.speech_speed if family == "speech" else spec.music_speed
        factor = 2 ** (rng.uniform(-speed, speed) / 12)  # one for the family, so that bars stay together
        starts = _draw_starts([clip for leaf in active for clip in chosen[leaf]], stems.shape[2] * factor, rng)
        for leaf in active:
            # mono joins stereo in the middle
            sound = reduce(np.add, (_excerpt(clip, starts[clip.bars], factor, stems.shape[2]) for clip in chosen[leaf]))
            sound = sound.mean(axis=0) if sound.ndim == 2 and not widest else sound
            sound = _level(_bend(sound, spec, rate_hz, rng), family_gain_db + rng.normal(0, spec.level_db), rate_hz)
            stems[leaves.index(leaf)] = _placed(sound, widest, rng)
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
        together = library.of_song(leaf, song)
        if together and rng.random() < spec.coherent:
            chosen[leaf] = [together[int(rng.integers(len(together)))]]
        else:
            chosen[leaf] = library.draw(leaf, 1 + (rng.random() < spec.second_voice), rng)
        song = song or chosen[leaf][0].group
    return chosen


def _draw_starts(clips: Iterable[Clip], wanted: float, rng: np.random.Generator) -> dict[str, int]:
    """Where in each clip an excerpt of ``wanted`` samples starts; before 0, where the clip is shorter than that.

    Clips of one group start together, where the shortest of them sounds.
    """
    spare: dict[str, int] = {}
    for clip in clips:
        own = len(clip.samples) - int(np.ceil(wanted))
        spare[clip.bars] = min(own, spare.get(clip.bars, own))
    return {bars: _draw_start(most, rng) for bars, most in spare.items()}


def _draw_start(spare: int, rng: np.random.Generator) -> int:
    """Where an excerpt starts, of a sound that is ``spare`` samples longer; before 0, if it is shorter."""
    return int(rng.integers(min(0, spare), max(0, spare) + 1))


def _excerpt(clip: Clip, start: int, factor: float, length: int) -> F32:
    """``length`` samples of the clip from ``start``, played ``factor`` times as fast; silence where it has none."""
    wanted = length if factor == 1.0 else int(np.ceil(length * factor)) + 8  # a few more, for the resampler
    samples = clip.samples
    piece = np.zeros((wanted, *samples.shape[1:]), np.float32)
    inside = samples[max(0, start) : max(0, start + wanted)]
    before = max(0, -start)
    piece[before : before + len(inside)] = inside / np.float32(FULL_SCALE) if inside.dtype == np.int16 else inside
    if factor != 1.0:
        piece = soxr.resample(piece, factor, 1.0, quality="MQ")
    return piece[:length].T


def _bend(sound: F32, spec: MixSpec, rate_hz: int, rng: np.random.Generator) -> F32:
    """Random polarity, sometimes a smooth equaliser, sometimes an entry or an exit."""
    length = sound.shape[-1]
    sound = sound * rng.choice(np.array([-1, 1], np.float32))
    if rng.random() < spec.filtered:
        sound = _equalise(sound, rng.normal(0, spec.filter_db / 2, size=7), rate_hz)
    if rng.random() < spec.partly:
        edge = rng.uniform(0.1, 0.9) * length
        fade = np.clip((np.arange(length) - edge) / (0.05 * rate_hz), 0, 1)
        sound = sound * (fade if rng.random() < 0.5 else 1 - fade)
    return sound.astype(np.float32)


def _equalise(sound: F32, gains_db: NDArray[np.float64], rate_hz: int) -> F32:
    """Gains at frequencies from 60 Hz to half the rate, evenly spaced in log frequency, with lines between."""
    length = sound.shape[-1]
    knots_hz = np.geomspace(60, rate_hz / 2, len(gains_db))
    hz = np.fft.rfftfreq(length, 1 / rate_hz)
    curve = 10 ** (np.interp(np.log(hz + 1), np.log(knots_hz + 1), gains_db) / 20)
    return np.fft.irfft(np.fft.rfft(sound) * curve, length).astype(np.float32)


def _level(sound: F32, gain_db: float, rate_hz: int) -> F32:
    """Loudness of the sounding parts (20 ms frames within 30 dB of the loudest), of both channels together, set to
    ``gain_db`` re an RMS of 1."""
    length = sound.shape[-1]
    frame = min(rate_hz // 50, length)
    power = np.square(sound[..., : length // frame * frame].reshape(-1, length // frame, frame)).mean(axis=2).sum(axis=0)
    sounding = power[power > power.max(initial=0.0) * 1e-3]
    rms = np.sqrt(sounding.mean()) if sounding.size else 0.0
    return sound * np.float32(10 ** (gain_db / 20) / rms) if rms > SILENCE_RMS else np.zeros_like(sound)


def _placed(sound: F32, widest: float, rng: np.random.Generator) -> F32:
    """(2, samples): mono at constant power, at most ``widest`` radians from the middle; stereo as it is or mirrored."""
    angle = rng.uniform(-widest, widest)
    if sound.ndim == 2:
        return sound if angle < 0 else sound[::-1]
    gains = np.array([np.cos(np.pi / 4 + angle), np.sin(np.pi / 4 + angle)], np.float32)
    return gains[:, None] * sound


def _set_mix_level(stems: F32, level_db: float) -> F32:
    rms = np.sqrt(np.square(stems.sum(axis=0)).mean())
    return stems * np.float32(10 ** (level_db / 20) / rms) if rms > 0 else stems


# ---- tracks as they are -----------------------------------------------------------------------------------------------


class Heard(NamedTuple):
    """A stretch of a track: its leaves (leaves, 2, samples), its parents (parents, 2, samples), its mixture (2, samples).

    Mixture and parents are the data set's own files where it has them, otherwise the sums of the leaves.
    """

    leaves: F32
    parents: F32
    mix: F32


def hear(track: Track, families: Mapping[str, Sequence[str]], start: int, length: int) -> Heard:
    """``length`` samples of a track from ``start``, as they are; silence where it has none (before 0, after its end)."""
    by_family = {parent: _stems(track, members, start, length) for parent, members in families.items()}
    leaves = np.concatenate(list(by_family.values()))

    def whole(name: str, stems: F32) -> F32:
        return _in_stereo([track.sums[name]], start, length) if name in track.sums else stems.sum(axis=0)

    return Heard(leaves, np.stack([whole(*each) for each in by_family.items()]), whole(MIX, leaves))


def draw_excerpt(track: Track, leaves: Iterable[str], length: int, rng: np.random.Generator) -> F32:
    """(leaves, 2, length) stems of a track as they are, from a place drawn at random; a short track stands in silence."""
    return _stems(track, leaves, _draw_start(track.length - length, rng), length)


def _stems(track: Track, leaves: Iterable[str], start: int, length: int) -> F32:
    return np.stack([_in_stereo(track.leaves[leaf], start, length) for leaf in leaves])


def _in_stereo(clips: Sequence[Clip], start: int, length: int) -> F32:
    """(2, length): the sum of the clips, mono in both channels; of none, silence."""
    silence = np.zeros((2, length), np.float32)
    return reduce(np.add, (_excerpt(clip, start, 1.0, length) for clip in clips), silence)

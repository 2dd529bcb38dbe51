"""Mixtures made while they are needed: what is drawn, how it is bent, how loud, where it stands.

Pure functions of a random generator: the same generator gives the same mixture.
"""

from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import NDArray

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
    music_speed: float = 3.0
    filter_db: float = 6.0  # spread of a smooth random equaliser
    filtered: float = 0.5
    stereo: float = 0.5  # mixtures that are panned; the others are the same in both channels


def draw_mixture(library: Library, families: dict[str, list[str]], spec: MixSpec, rate_hz: int, rng: np.random.Generator) -> F32:
    """(leaves, 2, samples) stems; a silent leaf is all zeros. Leaves in the order of ``families``."""
    length = round(spec.seconds * rate_hz)
    leaves = [leaf for members in families.values() for leaf in members]
    active = _draw_active(leaves, spec.activity, rng)
    clips = _draw_clips(library, active, spec, rng)
    stems = np.zeros((len(leaves), 2, length), np.float32)
    widest = np.pi / 4 if rng.random() < spec.stereo else 0.0
    for family, members in families.items():
        family_gain_db = rng.normal(0, spec.family_db) - 10 * np.log10(max(1, len(active & set(members))))
        speed = spec.speech_speed if family == "speech" else spec.music_speed
        factor = 2 ** (rng.uniform(-speed, speed) / 12)  # one factor per family: bars stay together
        place = rng.random()
        for leaf in members:
            if leaf in active:
                mono = sum(_excerpt(clip, length, factor, place, rng) for clip in clips[leaf])
                mono = _bend(mono, spec, rate_hz, rng)
                mono = _level(mono, family_gain_db + rng.normal(0, spec.level_db))
                stems[leaves.index(leaf)] = _pan(widest, rng)[:, None] * mono
    return _set_mix_level(stems, rng.uniform(spec.mix_low_db, spec.mix_high_db))


def _draw_active(leaves: list[str], activity: float, rng: np.random.Generator) -> set[str]:
    active = {leaf for leaf in leaves if rng.random() < activity}
    while len(active) < min(2, len(leaves)):
        active.add(leaves[rng.integers(len(leaves))])
    return active


def _draw_clips(library: Library, active: set[str], spec: MixSpec, rng: np.random.Generator) -> dict[str, list[Clip]]:
    chosen = {}
    group = ""
    for leaf in sorted(active):
        clips = library[leaf]
        count = 1 + (rng.random() < spec.second_voice)
        chosen[leaf] = [clips[i] for i in rng.integers(len(clips), size=count)]
        together = [clip for clip in clips if group and clip.group == group]
        if together and rng.random() < spec.coherent:
            chosen[leaf] = [together[rng.integers(len(together))]]
        group = group or chosen[leaf][0].group
    return chosen


def _excerpt(clip: Clip, length: int, factor: float, place: float, rng: np.random.Generator) -> F32:
    """``length`` samples from the clip at ``factor`` times its speed; a shorter clip stands somewhere in silence."""
    wanted = int(np.ceil(length * factor)) + 8
    total = len(clip.samples)
    start = int(place * max(0, total - wanted)) if clip.group else int(rng.integers(max(1, total - wanted)))
    piece = clip.samples[start : start + wanted].astype(np.float32) / 32768
    if abs(factor - 1) > 1e-3:
        piece = soxr.resample(piece, factor, 1.0, quality="MQ")
    out = np.zeros(length, np.float32)
    at = int(rng.integers(max(1, length - len(piece) + 1)))
    piece = piece[: length - at]
    out[at : at + len(piece)] = piece
    return out


def _bend(mono: F32, spec: MixSpec, rate_hz: int, rng: np.random.Generator) -> F32:
    """Random polarity, sometimes a smooth equaliser, sometimes an entry or an exit."""
    mono = mono * rng.choice(np.float32([-1, 1]))
    if rng.random() < spec.filtered:
        knots_hz = np.geomspace(60, rate_hz / 2, 7)
        gains_db = rng.normal(0, spec.filter_db / 2, size=7)
        hz = np.fft.rfftfreq(len(mono), 1 / rate_hz)
        curve = 10 ** (np.interp(np.log(hz + 1), np.log(knots_hz + 1), gains_db) / 20)
        mono = np.fft.irfft(np.fft.rfft(mono) * curve.astype(np.float32), len(mono))
    if rng.random() < spec.partly:
        edge = rng.integers(len(mono))
        fade = np.clip((np.arange(len(mono)) - edge) / (0.05 * rate_hz), 0, 1)
        mono = mono * (fade if rng.random() < 0.5 else 1 - fade)
    return mono.astype(np.float32)


def _level(mono: F32, gain_db: float) -> F32:
    """Loudness of the sounding parts (20 ms frames within 30 dB of the loudest) set to ``gain_db`` re an RMS of 1."""
    frames = mono[: len(mono) // 480 * 480].reshape(-1, 480)
    power = np.square(frames).mean(axis=1)
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

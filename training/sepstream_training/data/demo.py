"""The demo: a small piece in which two people talk over a band, and what each of the five contributed.

``python -m sepstream_training.data.demo OUT_DIR`` writes ``mixture.flac`` and one reference per class: 24 s, stereo,
48 kHz. The references are rounded to 16 bits before they are added, so they sum to the mixture exactly.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from sepstream.errors import SepstreamError
from sepstream_training.data.synthetic import play, say
from sepstream_training.data.synthetic.song import (
    CRASH,
    HAT,
    HAT_OPEN,
    KICK,
    PARTS,
    SNARE,
    TOM_HIGH,
    TOM_LOW,
    TOM_MID,
    Song,
    bass_bar,
    drum_bar,
    guitar_bar,
    humanized,
)
from sepstream_training.data.synthetic.speaker import Speaker

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]

RATE_HZ = 48000
SECONDS = 24.0  # twelve bars at 120 beats per minute: a bar is two seconds
PEAK = 10 ** (-1 / 20)
LEVEL_DB = {"male": 4.0, "female": 4.5, "bass": -1.0, "drums": 3.0, "guitar": 0.0}
PAN = {"male": 0.2, "female": -0.1, "bass": 0.0, "drums": 0.05, "guitar": -0.45}  # -1 is left, 1 is right

A_MINOR, C, D_MINOR, E, F, G = (9, 12, 16), (0, 4, 7), (2, 5, 9), (4, 8, 11), (5, 9, 12), (7, 11, 14)
CHORDS = (A_MINOR, F, C, G, A_MINOR, F, C, G, D_MINOR, E, A_MINOR, A_MINOR)

REST = ""
WALK, PUSH = "1.....1.5...3.5.", "1..1..5.8..8..5."
BASS = (WALK, WALK, WALK, PUSH, PUSH, PUSH, PUSH, PUSH, REST, REST, PUSH, "1...............")

BEAT = {KICK: "x.....x.x.......", SNARE: "....x.......x..o", HAT: "x.o.x.o.x.o.x.o."}
DRIVE = {KICK: "x..x..x.x..x....", SNARE: "....x.......x...", HAT: "xoxoxoxoxoxoxo..", HAT_OPEN: "..............x."}
ROLL = {KICK: "x.......x.......", SNARE: "....x...oxx.....", TOM_HIGH: "...........xx...", TOM_LOW: ".............xxx"}
RISE = {TOM_LOW: "........o.oo....", TOM_MID: "............xx..", SNARE: "..............xx"}
END = {KICK: "x...............", CRASH: "x..............."}
RETURN = DRIVE | {CRASH: "x..............."}
SILENCE: dict[int, str] = {}
DRUMS = (BEAT, BEAT, BEAT, BEAT, DRIVE, DRIVE, DRIVE, ROLL, SILENCE, RISE, RETURN, END)

PICK, STRUM = "0.2.3.4.5.4.3.2.", "D...D.U...U.D.U."
GUITAR = (REST, REST, REST, REST, PICK, PICK, STRUM, STRUM, PICK, "D...............", STRUM, "D...............")

MAN = Speaker("male", f0_hz=108, words_per_minute=165, variant=2, accent="en-us", seed=1)
WOMAN = Speaker("female", f0_hz=205, words_per_minute=170, variant=1, accent="en", seed=2)
LINES = (  # second, who, what: in turn, then over one another, alone in the break, together at the end
    (3.5, MAN, "Here is a small band, and two people talking over it. Nobody played this, it was calculated."),
    (8.2, WOMAN, "Now the guitar has walked in. It sits to your left, and will not be quiet."),
    (12.0, MAN, "Pull one fader down, and one of us is gone, as if nobody had been here."),
    (13.4, WOMAN, "Excuse me, I was speaking. Draw a circle."),
    (16.6, WOMAN, "Listen. No drums, no bass."),
    (18.3, MAN, "And now, only me."),
    (20.2, WOMAN, "Everybody back together, thank you!"),
    (20.9, MAN, "That was the whole story. Good night."),
)


def write(folder: Path) -> None:
    """Writes ``mixture.flac`` and the five references. Raises DataError for a program, OSError for the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    references = quantized(perform())
    for name, reference in references.items():
        _write(folder / f"{name}.flac", reference)
    _write(folder / "mixture.flac", _sum(references))


def perform() -> dict[str, F64]:
    """Everybody in their place in the room: class -> (2, samples)."""
    dry: dict[str, NDArray[Any]] = {name: _voice(name) for name in ("male", "female")}
    dry |= {name: play(piece(), name, SECONDS, RATE_HZ) for name in PARTS}
    return {name: _in_room(10 ** (LEVEL_DB[name] / 20) * sound, PAN[name]) for name, sound in dry.items()}


def piece() -> Song:
    """The twelve bars, with the hands of three players."""
    rng = np.random.default_rng(12)
    bars = range(len(CHORDS))
    parts = {
        "bass": [note for bar in bars for note in bass_bar(BASS[bar], CHORDS[bar], bar)],
        "drums": [note for bar in bars for note in drum_bar(DRUMS[bar], bar)],
        "guitar": [note for bar in bars for note in guitar_bar(GUITAR[bar], CHORDS[bar], bar)],
    }
    hands = {name: humanized(notes, rng) for name, notes in parts.items()}
    return Song(tempo_bpm=120, beats=48, parts=hands, programs={"bass": 33, "drums": 8, "guitar": 25}, seed=12)


def quantized(references: dict[str, F64]) -> dict[str, I32]:
    """One gain for all, so that the mixture peaks at -1 dBFS; then whole 16-bit steps (int32: their sum must fit)."""
    gain = 32767 * PEAK / np.max(np.abs(_sum(references)))
    return {name: np.round(gain * reference).astype(np.int32) for name, reference in references.items()}


def _voice(name: str) -> F64:
    """All lines of one voice on the clock of the piece, (samples,)."""
    out = np.zeros(round(SECONDS * RATE_HZ))
    for start_s, speaker, text in LINES:
        if speaker.name == name:
            sound = say(speaker, text, RATE_HZ)
            start = round(start_s * RATE_HZ)
            out[start : start + len(sound)] += sound[: len(out) - start]
    return out


def _in_room(sound: NDArray[Any], pan: float) -> F64:
    """(samples,) -> (2, samples): panned at constant power, with a short, soft room that is different in each ear."""
    angle = np.pi / 4 * (1 + pan)
    direct = np.array([[np.cos(angle)], [np.sin(angle)]]) * sound
    time_s = np.arange(round(0.35 * RATE_HZ)) / RATE_HZ
    echoes = np.random.default_rng(7).standard_normal((2, len(time_s))) * np.exp(-time_s / 0.06) * (time_s > 0.004)
    size = len(sound) + len(time_s)
    warm = 1 / (1 + np.fft.rfftfreq(size, 1 / RATE_HZ) / 3000)
    wet = np.fft.irfft(np.fft.rfft(echoes, size) * np.fft.rfft(sound, size) * warm, size)[:, : len(sound)]
    return np.asarray(direct + 0.009 * wet)


def _sum(references: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    return np.asarray(np.sum(list(references.values()), axis=0))


def _write(path: Path, steps: I32) -> None:
    soundfile.write(path, steps.T.astype(np.int16), RATE_HZ, subtype="PCM_16")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the demo: mixture.flac and one reference per class.")
    parser.add_argument("folder", metavar="OUT_DIR", type=Path)
    folder = parser.parse_args().folder
    try:
        write(folder)
    except (SepstreamError, OSError) as error:
        raise SystemExit(f"demo: {error}") from None
    print(f"{folder}: mixture.flac and 5 references, {SECONDS:g} s")


if __name__ == "__main__":
    main()

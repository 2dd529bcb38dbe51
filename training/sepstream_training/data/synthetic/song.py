"""What a band plays: the notes of a bass, a drummer and a guitarist who play together. A bar is sixteen steps, and a step is one
character."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .smf import Note

PARTS = ("bass", "drums", "guitar")

SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
PROGRESSIONS = {  # degrees of the scale, from 1: one chord a bar
    "major": ((1, 5, 6, 4), (1, 6, 4, 5), (4, 1, 5, 6), (2, 5, 1, 1), (1, 3, 4, 5)),
    "minor": ((1, 6, 3, 7), (1, 4, 6, 5), (1, 7, 6, 7), (6, 7, 1, 1), (1, 3, 7, 4)),
}
BASS_LINES = (  # 1 3 5 8: root, third, fifth, octave of the bar's chord
    "1...1...1...1...",
    "1.1.1.1.1.1.5.3.",
    "1..1..5.8..8..5.",
    "1.....1.5.....3.",
    "1.8.1.8.5.8.3.8.",
    "1..5..8.1..5..3.",
)
GUITAR_FIGURES = (  # 0-5: one tone of the chord, from the lowest; D and U: a stroke over all of them, down and up
    "0.2.3.4.5.4.3.2.",
    "0.3.2.4.3.5.4.3.",
    "D...D.U...U.D.U.",
    "D...............",
    "..U...U...U...U.",
    "0...D...2...D.U.",
    "D.D.D.D.D.D.D.D.",
)
KICK, SNARE, TOM_LOW, TOM_MID, TOM_HIGH = 36, 38, 45, 47, 50  # General MIDI drums
HAT, HAT_OPEN, CRASH, RIDE = 42, 46, 49, 51
GROOVES = (  # x: a stroke; o: a soft one
    {KICK: "x.......x.......", SNARE: "....x.......x...", HAT: "x.o.x.o.x.o.x.o."},
    {KICK: "x..x......x.....", SNARE: "....x.......x..o", HAT: "xoxoxoxoxoxoxoxo"},
    {KICK: "x...x...x...x...", SNARE: "....x.......x...", HAT_OPEN: "..x...x...x...x."},
    {KICK: "x.....x...x.....", SNARE: "....x..o.o..x...", RIDE: "x...x.o.x...x.o."},
    {KICK: "x.........x.....", SNARE: "........x.......", HAT: "x...x...x...x.x."},
    {KICK: "x.x.......x.....", SNARE: "....x.......x...", TOM_LOW: "......x.......x.", HAT: "x.x.x.x.x.x.x.x."},
)
FILLS = (
    {KICK: "x.......x.......", SNARE: "....x...xx......", TOM_HIGH: "..........xx....", TOM_LOW: "............xxxx"},
    {KICK: "x.....x.........", SNARE: "....x.....ooxx..", TOM_MID: "..............xx", HAT: "x.o.x.o........."},
    {KICK: "x...x...x...x...", TOM_HIGH: "x.x.............", TOM_MID: "....x.xx........", TOM_LOW: "........x.xxx.x."},
)
PROGRAMS = {  # General MIDI, from 0; the drums' programs are kits
    "bass": (32, 33, 34, 35, 36, 38, 39),
    "drums": (0, 8, 16, 24, 25, 32, 40),
    "guitar": (24, 25, 26, 27, 28, 29, 30),
}


def bass_bar(line: str, chord: Sequence[int], bar: int) -> list[Note]:
    """A bass line over one chord, its root at E1 to D#2; each note lasts until the next."""
    root = 28 + (chord[0] - 28) % 12
    tones = {"1": root, "3": root + chord[1] - chord[0], "5": root + chord[2] - chord[0], "8": root + 12}
    steps = [step for step, mark in enumerate(line) if mark in tones] + [16]
    return [Note(4 * bar + start / 4, 0.9 * (end - start) / 4, tones[line[start]], 92) for start, end in pairwise(steps)]


def drum_bar(groove: Mapping[int, str], bar: int) -> list[Note]:
    """One bar of a groove: General MIDI drum -> sixteen steps."""
    velocity = {"x": 105, "o": 60}
    return [
        Note(4 * bar + step / 4, 0.2, drum, velocity[mark])
        for drum, line in groove.items()
        for step, mark in enumerate(line)
        if mark in velocity
    ]


def guitar_bar(figure: str, chord: Sequence[int], bar: int) -> list[Note]:
    """One bar of a figure over one chord: up to six tones from E2 upwards; they ring for at most a half note."""
    tones = [pitch for pitch in range(40, 77) if (pitch - chord[0]) % 12 in {tone - chord[0] for tone in chord}][:6]
    steps = [step for step, mark in enumerate(figure) if mark != "."] + [16]
    return [
        Note(4 * bar + step / 4 + 0.02 * lag, min(2.0, (end - step) / 4 + 0.2), pitch, 88)
        for step, end in pairwise(steps)
        for lag, pitch in enumerate(_stroke(tones, figure[step]))
    ]


def humanized(notes: Iterable[Note], rng: np.random.Generator) -> tuple[Note, ...]:
    """The same notes, a hundredth of a beat early or late and a little louder or softer."""
    return tuple(
        note._replace(
            start_beats=max(0.0, note.start_beats + float(rng.normal(0, 0.01))),
            velocity=int(np.clip(note.velocity + rng.normal(0, 7), 1, 127)),
        )
        for note in notes
    )


def _stroke(tones: list[int], mark: str) -> list[int]:
    """A figure's mark -> the tones it plays, in order."""
    return {"D": tones, "U": tones[:2:-1]}.get(mark) or [tones[int(mark)]]


def _triad(key: int, scale: str, degree: int) -> tuple[int, int, int]:
    """Root, third and fifth on a degree of the scale, ascending from a pitch class (0 is C)."""
    steps = [degree - 1, degree + 1, degree + 3]
    root, third, fifth = (key + SCALES[scale][step % 7] + 12 * (step // 7) for step in steps)
    return root, third, fifth


@dataclass(frozen=True)
class Song:
    """Notes of each part, in a loop of ``beats``; a General MIDI program each; ``seed`` tunes the NumPy instruments."""

    tempo_bpm: float
    beats: int
    parts: Mapping[str, Sequence[Note]]
    programs: Mapping[str, int]
    seed: int


def compose(rng: np.random.Generator) -> Song:
    """A random song: a loop of eight bars whose bass, drums and guitar share key, chords and tempo."""
    key, scale = int(rng.integers(12)), str(rng.choice(list(PROGRESSIONS)))
    degrees = PROGRESSIONS[scale][rng.integers(len(PROGRESSIONS[scale]))] * 2
    chords = [_triad(key, scale, degree) for degree in degrees]
    bass, guitar = rng.choice(BASS_LINES), rng.choice(GUITAR_FIGURES)
    grooves = [GROOVES[rng.integers(len(GROOVES))]] * 7 + [FILLS[rng.integers(len(FILLS))]]
    parts = {
        "bass": [note for bar, chord in enumerate(chords) for note in bass_bar(bass, chord, bar)],
        "drums": [note for bar, groove in enumerate(grooves) for note in drum_bar(groove, bar)],
        "guitar": [note for bar, chord in enumerate(chords) for note in guitar_bar(guitar, chord, bar)],
    }
    return Song(
        tempo_bpm=float(rng.uniform(75, 150)),
        beats=32,
        parts={name: humanized(notes, rng) for name, notes in parts.items()},
        programs={name: int(rng.choice(PROGRAMS[name])) for name in PARTS},
        seed=int(rng.integers(2**31)),
    )


def looped(song: Song, name: str, seconds: float) -> Iterable[Note]:
    """The part's notes that start within ``seconds``, loop after loop."""
    end_beats = seconds * song.tempo_bpm / 60
    for start in range(0, int(np.ceil(end_beats)), song.beats):
        for note in song.parts[name]:
            if start + note.start_beats < end_beats:
                yield note._replace(start_beats=start + note.start_beats)

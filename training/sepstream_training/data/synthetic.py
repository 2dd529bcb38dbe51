"""Sources made from nothing: two voices and a band, with no data set.

Two values describe a performance: a ``Speaker`` says text, a ``Song`` holds the notes of a bass, a drummer and a
guitarist who play together. Two engines perform both: programs (eSpeak NG; FluidSynth with a General MIDI sound font)
and plain NumPy. Values in, sound out: with the NumPy engine the same value gives the same samples, bit for bit.

Called by the training data pipeline (``generate``) and by ``demo`` (``say`` and ``play``). All sound is mono float32.
"""

import io
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import gcd
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from sepstream.errors import DataError, nearest
from sepstream_training.data import smf
from sepstream_training.data.smf import Note

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
C128 = NDArray[np.complex128]
Strike = Callable[[int, float], F64]  # pitch, seconds -> the sound of one note

VOICES = ("male", "female")
PARTS = ("bass", "drums", "guitar")
ENGINES = ("auto", "programs", "numpy")


# ---- the public face ------------------------------------------------------------------------------------------------


def generate(name: str, seconds: float, sample_rate_hz: int, rng: np.random.Generator, *, engine: str = "auto") -> F32:
    """A new performance of one leaf class -> (samples,) float32, about -20 dBFS RMS where active, peak at most 0.99.

    ``name`` is one of ``male female bass drums guitar``. ``engine`` is ``programs``, ``numpy``, or ``auto``: programs
    where installed, else NumPy. Raises DataError for an unknown name or engine, a length or rate out of range, and a
    program that is missing or fails.
    """
    if name in VOICES:
        return _monologue(cast(name, rng), seconds, sample_rate_hz, rng, engine)
    return play(compose(rng), name, seconds, sample_rate_hz, engine=engine)


class Speaker(NamedTuple):
    """Who speaks: ``name`` is a voice class, ``variant`` one of eSpeak NG's voices of that class, counted from 0."""

    name: str
    f0_hz: float
    words_per_minute: int
    variant: int
    accent: str
    seed: int


def cast(name: str, rng: np.random.Generator) -> Speaker:
    """A random speaker of class ``male`` or ``female``. Raises DataError for any other name."""
    _check_name(name, VOICES)
    return Speaker(
        name=name,
        f0_hz=float(rng.uniform(*F0_RANGE_HZ[name])),
        words_per_minute=int(rng.integers(130, 190)),
        variant=int(rng.integers(len(ESPEAK_F0_HZ[name]))),
        accent=str(rng.choice(ACCENTS)),
        seed=int(rng.integers(2**31)),
    )


def sentence(rng: np.random.Generator) -> str:
    """A sentence nobody has said before, as far as we know."""
    return str(rng.choice(FRAMES)).format_map({kind: rng.choice(words) for kind, words in WORDS.items()})


def say(speaker: Speaker, text: str, sample_rate_hz: int, *, engine: str = "auto") -> F32:
    """Text -> (samples,) of speech, as long as it takes. The NumPy engine babbles: the letters' sounds, one by one.

    Raises DataError like ``generate``.
    """
    _check_name(speaker.name, VOICES)
    _check_rate(sample_rate_hz)
    perform = _espeak if _uses_programs(engine, speaker.name) else _babble
    return _leveled(perform(speaker, text, sample_rate_hz))


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


def play(song: Song, name: str, seconds: float, sample_rate_hz: int, *, engine: str = "auto") -> F32:
    """One part of the song, looped to ``seconds`` -> (samples,), in time with the other parts of the same song.

    Raises DataError like ``generate``.
    """
    _check_name(name, PARTS)
    samples = _sample_count(seconds, sample_rate_hz)
    perform = _fluidsynth if _uses_programs(engine, name) else _band
    sound = perform(song, name, list(_looped(song, name, seconds)), sample_rate_hz)
    return _leveled(_fitted(sound, samples))


# ---- what is said ---------------------------------------------------------------------------------------------------

ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-029")  # file names: eSpeak takes a variant to no other
F0_RANGE_HZ = {"male": (95.0, 140.0), "female": (182.0, 230.0)}  # with intonation: 85-155 and 165-255 Hz

WORDS = {
    "thing": "river kettle garden engine window lantern market ladder pocket mountain teacher painter".split(),
    "things": "pencils doors apples engines letters stories birds shoes clouds bottles neighbours".split(),
    "like": "quiet yellow heavy broken careful hollow early silver crowded patient empty gentle".split(),
    "does": "carries follows paints forgets repairs watches answers borrows measures collects".split(),
    "where": ["behind the house", "near the harbour", "under the bridge", "on the roof", "across the field"],
    "when": ["before noon", "every winter", "after the rain", "at seven", "once a week", "in the evening"],
}
FRAMES = (
    "The {like} {thing} {does} {things} {when}.",
    "Almost {when}, a {thing} {where} {does} the {things}.",
    "Nobody {does} {like} {things} {where}, and the {thing} is full of snow.",
    "Is there a {thing} {where}, or only {things}?",
    "My {thing} {does} it {when}, because the {things} are {like}.",
)


def _monologue(speaker: Speaker, seconds: float, rate_hz: int, rng: np.random.Generator, engine: str) -> F32:
    """Sentences with pauses between them, cut to length."""
    samples, spoken = _sample_count(seconds, rate_hz), 0
    pieces: list[NDArray[Any]] = []
    while spoken < samples:
        pieces += [say(speaker, sentence(rng), rate_hz, engine=engine), np.zeros(int(rng.uniform(0.1, 0.6) * rate_hz))]
        spoken += sum(map(len, pieces[-2:]))
    return _leveled(_fitted(np.concatenate(pieces), samples))


# ---- what is played: a bar is sixteen steps, and a step is one character -------------------------------------------

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


def _looped(song: Song, name: str, seconds: float) -> Iterable[Note]:
    """The part's notes that start within ``seconds``, loop after loop."""
    end_beats = seconds * song.tempo_bpm / 60
    for start in range(0, int(np.ceil(end_beats)), song.beats):
        for note in song.parts[name]:
            if start + note.start_beats < end_beats:
                yield note._replace(start_beats=start + note.start_beats)


# ---- the programs ---------------------------------------------------------------------------------------------------

SOUND_FONTS = ("/usr/share/sounds/sf2/FluidR3_GM.sf2", "/usr/share/soundfonts/FluidR3_GM.sf2")
ESPEAK_F0_HZ = {  # median pitch of m1-m7 and f1-f5 at eSpeak's pitch 50, measured over one sentence
    "male": (93, 101, 104, 92, 102, 100, 105),
    "female": (178, 193, 208, 178, 202),
}
ESPEAK_PITCH_STEP = 0.0103  # one step of eSpeak's pitch, as a change of ln f0, measured


def missing_package(name: str) -> str | None:
    """The Debian package without which class ``name`` has no program to make it; None where all is there."""
    if name in VOICES:
        return None if shutil.which("espeak-ng") else "espeak-ng"
    if not shutil.which("fluidsynth"):
        return "fluidsynth"
    return None if any(Path(font).is_file() for font in SOUND_FONTS) else "fluid-soundfont-gm"


def _espeak(speaker: Speaker, text: str, rate_hz: int) -> F64:
    voice = f"{speaker.accent}+{speaker.name[0]}{speaker.variant + 1}"
    interval = np.log(speaker.f0_hz / ESPEAK_F0_HZ[speaker.name][speaker.variant])
    pitch = str(int(np.clip(50 + interval / ESPEAK_PITCH_STEP, 0, 99)))
    speed = str(speaker.words_per_minute)
    wave = _run(["espeak-ng", "-v", voice, "-p", pitch, "-s", speed, "--stdout", "--", text])
    sound = _read(io.BytesIO(wave), rate_hz)
    time_s = np.arange(len(sound)) / rate_hz
    return sound * _faded(time_s, time_s[-1] - 0.05)  # eSpeak ends with a click


def _fluidsynth(song: Song, name: str, notes: Sequence[Note], rate_hz: int) -> F64:
    """Always at 48 kHz, then resampled: FluidSynth transposes its samples without an anti-aliasing filter."""
    font = next(font for font in SOUND_FONTS if Path(font).is_file())
    channel = smf.DRUM_CHANNEL if name == "drums" else 0
    with tempfile.TemporaryDirectory() as folder:
        score, wave = Path(folder, "score.mid"), Path(folder, "score.wav")
        score.write_bytes(smf.encode(notes, tempo_bpm=song.tempo_bpm, program=song.programs[name], channel=channel))
        dry = ["-R", "0", "-C", "0"]
        _run(["fluidsynth", "-niq", *dry, "-g", "0.3", "-r", "48000", "-O", "float", "-F", str(wave), font, str(score)])
        return _read(wave, rate_hz)


def _run(command: list[str], timeout_s: float = 120.0) -> bytes:
    """The program's standard output. Raises DataError, in one line, where it fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, stdin=subprocess.DEVNULL, check=True)
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.decode(errors="replace").split("\n")[0] or f"exit status {error.returncode}").strip()
        raise DataError(f"{command[0]} failed: {reason}; try engine 'numpy'") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(f"{command[0]} did not finish: {error}; try engine 'numpy'") from None
    return done.stdout


def _read(wave: Path | io.BytesIO, rate_hz: int) -> F64:
    """A WAV file -> its channels' mean (samples,) at ``rate_hz``. Raises DataError where there is no sound in it."""
    try:
        sound, wave_rate_hz = soundfile.read(wave, always_2d=True)
    except soundfile.SoundFileError as error:
        raise DataError(f"no sound came out of the program: {error}; try engine 'numpy'") from None
    return _resampled(sound.mean(axis=1), wave_rate_hz, rate_hz)


def _resampled(sound: F64, from_hz: int, to_hz: int) -> F64:
    """Band-limited resampling of a whole sound: its spectrum, cut or padded."""
    common = gcd(from_hz, to_hz)
    blocks = -(-len(sound) // (from_hz // common))
    spectrum = np.fft.rfft(sound, blocks * from_hz // common)
    return np.fft.irfft(spectrum, blocks * to_hz // common) * to_hz / from_hz


# ---- voices in NumPy: a pulse and a hiss through moving resonances --------------------------------------------------


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


def _babble(speaker: Speaker, text: str, rate_hz: int) -> F64:
    rng = np.random.default_rng([speaker.seed, *text.encode()])
    sounds = np.array([sound for letter in text.lower() for sound in LETTERS.get(letter, LETTERS["e"])])
    sounds[:, 0] *= 160 / speaker.words_per_minute * rng.uniform(0.8, 1.25, len(sounds))
    sounds[:, 3:] *= SIZE[speaker.name]
    hop = rate_hz // 100
    tracks = _tracks(sounds, hop / rate_hz)
    voice, hiss = np.repeat(tracks[:, :2], hop, axis=0).T
    phase = 2 * np.pi * np.cumsum(_melody(speaker.f0_hz, len(voice), rate_hz, rng)) / rate_hz
    # the pulse train's harmonics fall as 1/k; what is left at the Nyquist frequency would fold back
    pulses = _saw(phase, np.exp(-6 * speaker.f0_hz / rate_hz))
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


# ---- the band in NumPy ----------------------------------------------------------------------------------------------


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


def _band(song: Song, name: str, notes: Sequence[Note], rate_hz: int) -> F64:
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
        return (drum.tone * tone + drum.noise * noise * np.exp(-time_s / drum.noise_s / damping)) * _faded(time_s, 1.4)

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
        return _saw(2 * np.pi * _hz(pitch) * time_s, brightness) * _faded(time_s, seconds)

    return strike


def _plucked(rate_hz: int, ring_s: float, brightness_hz: float, place: float) -> Strike:
    """A string instrument -> strike(pitch, seconds). A pitch is computed once and rings as long as it is held."""

    @cache
    def string(pitch: int) -> F64:
        return _string(_hz(pitch), rate_hz, ring_s, brightness_hz, place)

    def strike(pitch: int, seconds: float) -> F64:
        sound = string(pitch)[: int((seconds + 0.05) * rate_hz)]
        return sound * _faded(np.arange(len(sound)) / rate_hz, seconds)

    return strike


def _string(f0_hz: float, rate_hz: int, ring_s: float, brightness_hz: float, place: float) -> F64:
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


def _saw(phase: F64, brightness: F64 | float) -> F64:
    """Sum over k of brightness^k sin(k phase) / k: a saw, softer as ``brightness`` falls from 1; in closed form."""
    return np.arctan2(brightness * np.sin(phase), 1 - brightness * np.cos(phase))


def _faded(time_s: F64, hold_s: float) -> F64:
    """An envelope: 2 ms up, held, 50 ms down."""
    return np.clip(time_s / 0.002, 0, 1) * np.clip(1 - (time_s - hold_s) / 0.05, 0, 1)


def _hz(pitch: int) -> float:
    return 440 * 2 ** ((pitch - 69) / 12)


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


def _check_name(name: str, names: Sequence[str]) -> None:
    if name not in names:
        raise DataError(f"unknown source '{name}'; {nearest(name, names)}")


def _check_rate(sample_rate_hz: int) -> None:
    if not 8000 <= sample_rate_hz <= 192000:
        raise DataError(f"sample rate {sample_rate_hz} Hz is out of range; use 8000 to 192000")


def _sample_count(seconds: float, sample_rate_hz: int) -> int:
    _check_rate(sample_rate_hz)
    if not 0 < seconds < float("inf"):
        raise DataError(f"{seconds} seconds of sound cannot be made; ask for more than 0")
    return round(seconds * sample_rate_hz)

"""Speakers and songs, performed by programs: eSpeak NG, and FluidSynth with a General MIDI sound font."""

import io
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from math import gcd
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from sepstream.errors import DataError

from . import smf
from .oscillator import faded
from .smf import Note
from .song import Song
from .speaker import ESPEAK_F0_HZ, VOICES, Speaker

F64 = NDArray[np.float64]

SOUND_FONTS = ("/usr/share/sounds/sf2/FluidR3_GM.sf2", "/usr/share/soundfonts/FluidR3_GM.sf2")
ESPEAK_PITCH_STEP = 0.0103  # one step of eSpeak's pitch, as a change of ln f0, measured


def missing_package(name: str) -> str | None:
    """The Debian package without which class ``name`` has no program to make it; None where all is there."""
    if name in VOICES:
        return None if shutil.which("espeak-ng") else "espeak-ng"
    if not shutil.which("fluidsynth"):
        return "fluidsynth"
    return None if any(Path(font).is_file() for font in SOUND_FONTS) else "fluid-soundfont-gm"


def say(speaker: Speaker, text: str, rate_hz: int) -> F64:
    voice = f"{speaker.accent}+{speaker.name[0]}{speaker.variant + 1}"
    interval = np.log(speaker.f0_hz / ESPEAK_F0_HZ[speaker.name][speaker.variant])
    pitch = str(int(np.clip(50 + interval / ESPEAK_PITCH_STEP, 0, 99)))
    speed = str(speaker.words_per_minute)
    wave = _run(["espeak-ng", "-v", voice, "-p", pitch, "-s", speed, "--stdout", "--", text])
    sound = _read(io.BytesIO(wave), rate_hz)
    time_s = np.arange(len(sound)) / rate_hz
    return sound * faded(time_s, time_s[-1] - 0.05)  # eSpeak ends with a click


def play(song: Song, name: str, notes: Sequence[Note], rate_hz: int) -> F64:
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

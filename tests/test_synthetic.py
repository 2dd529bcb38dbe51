"""Sources made from nothing: the laws of the generator, of the MIDI file it writes, and of the demo it made."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sepstream.errors import DataError
from sepstream_training.data.synthetic import band, generate, play, say, smf
from sepstream_training.data.synthetic.programs import missing_package
from sepstream_training.data.synthetic.smf import Note
from sepstream_training.data.synthetic.song import PARTS, compose
from sepstream_training.data.synthetic.speaker import ACCENTS, ESPEAK_F0_HZ, VOICES, cast

DEMO = Path(__file__).parents[1] / "demo"
LEAVES = VOICES + PARTS
RATES_HZ = (8000, 16000, 44100, 48000)
SEEDS = range(4)


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def needs_programs(name: str) -> None:
    """A machine may lack the programs; CI installs them (.ci/system-packages), and there a missing one is a failure."""
    if package := missing_package(name):
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"needs Debian package {package}")


def median_f0_hz(sound: np.ndarray, rate_hz: int) -> float:
    """The strongest lag of the autocorrelation from 70 to 400 Hz, over the louder, clearly periodic 60 ms frames."""
    size = int(0.06 * rate_hz)
    frames = sound[: len(sound) // size * size].astype(float).reshape(-1, size)
    frames = frames[frames.std(axis=1) > 0.5 * sound.std()]
    spectra = np.fft.rfft(frames * np.hanning(size), 4 * size)
    correlation = np.fft.irfft(np.abs(spectra) ** 2)
    shortest, longest = rate_hz // 400, rate_hz // 70
    lags = shortest + correlation[:, shortest:longest].argmax(axis=1)
    periodic = correlation[np.arange(len(lags)), lags] > 0.4 * correlation[:, 0]
    return float(np.median(rate_hz / lags[periodic]))


def spectrum(sound: np.ndarray, rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies in Hz, and each one's share of the energy."""
    power = np.abs(np.fft.rfft(sound)) ** 2
    return np.fft.rfftfreq(len(sound), 1 / rate_hz), power / power.sum()


@pytest.mark.parametrize("name", LEAVES)
@pytest.mark.parametrize("engine", ["numpy", "programs"])
def test_a_seed_replays_bit_for_bit(name, engine):
    if engine == "programs":
        needs_programs(name)
    first, second = (generate(name, 2.0, 16000, seeded(3), engine=engine) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, generate(name, 2.0, 16000, seeded(4), engine=engine))


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("name", LEAVES)
def test_every_class_sounds_at_the_house_level_in_the_length_asked_for(name, rate_hz):
    samples = 2 * rate_hz + 19  # divided and multiplied by 44100 or 48000 it lands just below itself
    sound = generate(name, samples / rate_hz, rate_hz, seeded(1), engine="numpy")
    assert sound.shape == (samples,) and sound.dtype == np.float32
    assert np.isfinite(sound).all() and np.abs(sound).max() <= 0.99
    assert -32 < 20 * np.log10(sound.std()) < -17


@pytest.mark.parametrize("name", LEAVES)
def test_programs_keep_the_same_promises(name):
    needs_programs(name)
    sound = generate(name, 3.0, 44100, seeded(1), engine="programs")
    assert sound.shape == (3 * 44100,) and sound.dtype == np.float32
    assert np.isfinite(sound).all() and np.abs(sound).max() <= 0.99
    assert -32 < 20 * np.log10(sound.std()) < -17


@pytest.mark.parametrize("name", LEAVES)
def test_the_shortest_sound_is_one_sample(name):
    assert generate(name, 1 / 8000, 8000, seeded(), engine="numpy").shape == (1,)


@pytest.mark.parametrize("engine", ["numpy", "programs"])
@pytest.mark.parametrize("name, low_hz, high_hz", [("male", 85, 155), ("female", 165, 255)])
def test_men_speak_lower_than_women(name, low_hz, high_hz, engine):
    if engine == "programs":
        needs_programs(name)
    for seed in SEEDS:
        f0_hz = median_f0_hz(generate(name, 4.0, 16000, seeded(seed), engine=engine), 16000)
        assert low_hz < f0_hz < high_hz, f"seed {seed}"


@pytest.mark.parametrize("accent", ACCENTS)
def test_every_espeak_voice_speaks_at_the_pitch_it_was_cast_for(accent):
    """eSpeak NG drops a variant it cannot apply without a word, and a man speaks in the woman's place."""
    needs_programs("female")
    for name in VOICES:
        for variant in range(len(ESPEAK_F0_HZ[name])):
            speaker = cast(name, seeded())._replace(variant=variant, accent=accent)
            f0_hz = median_f0_hz(say(speaker, "Nobody follows early stories near the harbour.", 16000), 16000)
            assert f0_hz == pytest.approx(speaker.f0_hz, rel=0.15), f"{name} {variant}"


def test_bass_lies_below_the_guitar_and_drums_reach_above_both():
    for seed in SEEDS:
        song = compose(seeded(seed))
        shares = {name: spectrum(play(song, name, 4.0, 48000, engine="numpy"), 48000) for name in PARTS}
        centroid_hz = {name: (hz * share).sum() for name, (hz, share) in shares.items()}
        above_8_khz = {name: share[hz > 8000].sum() for name, (hz, share) in shares.items()}
        assert shares["bass"][1][shares["bass"][0] < 400].sum() > 0.85
        assert centroid_hz["bass"] < centroid_hz["guitar"]
        assert above_8_khz["drums"] > 10 * max(above_8_khz["bass"], above_8_khz["guitar"])


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_a_string_is_in_tune_at_every_rate(rate_hz):
    """E4 at 8 kHz has 24.3 samples to a period: a delay of whole samples would be 20 cents off."""
    sound = band.string_of(329.63, rate_hz, 2.0, 3000.0, 0.2)
    hz, share = spectrum(np.pad(sound, (0, 4 * len(sound))), rate_hz)
    near = np.abs(hz - 329.63) < 30
    cents = 1200 * np.log2(hz[near][share[near].argmax()] / 329.63)
    assert abs(cents) < 2


def test_the_players_of_a_song_share_one_scale():
    for seed in range(50):
        song = compose(seeded(seed))
        classes = {note.pitch % 12 for name in ("bass", "guitar") for note in song.parts[name]}
        assert len(classes) <= 7
        assert all(28 <= note.pitch <= 55 for note in song.parts["bass"])


@pytest.mark.parametrize("seconds", [0.7, 2.3, 3.1])
@pytest.mark.parametrize("name", PARTS)
def test_a_longer_performance_begins_like_a_shorter_one(name, seconds):
    song = compose(seeded(5))
    short = play(song, name, seconds, 16000, engine="numpy")
    long = play(song, name, 30.0, 16000, engine="numpy")[: len(short)]
    np.testing.assert_allclose(short / short.std(), long / long.std(), atol=1e-4)


def test_unknown_names_engines_and_lengths_are_refused_in_one_line():
    cases = {
        "did you mean 'guitar'": lambda: generate("guitr", 1.0, 16000, seeded()),
        "unknown source 'piano'": lambda: play(compose(seeded()), "piano", 1.0, 16000),
        "known: male, female": lambda: cast("bass", seeded()),
        "did you mean 'numpy'": lambda: generate("bass", 1.0, 16000, seeded(), engine="nunpy"),
        "ask for more than 0": lambda: generate("male", 0.0, 16000, seeded()),
        "use 8000 to 192000": lambda: generate("drums", 1.0, 4000, seeded()),
    }
    for text, call in cases.items():
        with pytest.raises(DataError, match=text) as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name, package", [("male", "espeak-ng"), ("drums", "fluidsynth")])
def test_a_missing_program_is_named_and_auto_does_without(name, package, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=f"install Debian package {package}"):
        generate(name, 1.0, 16000, seeded(), engine="programs")
    auto, plain = (generate(name, 1.0, 16000, seeded(), engine=engine) for engine in ("auto", "numpy"))
    np.testing.assert_array_equal(auto, plain)


@pytest.mark.parametrize("script", ["echo broken >&2; exit 3", "echo this is no sound"])
def test_a_failing_program_is_reported_in_one_line(script, monkeypatch, tmp_path):
    program = tmp_path / "espeak-ng"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"^(espeak-ng failed: broken|no sound came out).*try engine 'numpy'$"):
        generate("female", 1.0, 16000, seeded(), engine="programs")


def read_midi(data: bytes) -> list[tuple[float, int, int]]:
    """An independent reader of what ``smf`` writes -> (beat, status, first data byte) of every channel message."""
    assert data[:8] == b"MThd\x00\x00\x00\x06" and data[14:18] == b"MTrk"
    assert int.from_bytes(data[18:22], "big") == len(data) - 22
    ticks_per_beat, at, tick, messages = int.from_bytes(data[12:14], "big"), 22, 0, []
    while at < len(data):
        delta = 0
        while True:
            delta, more, at = delta << 7 | data[at] & 0x7F, data[at] & 0x80, at + 1
            if not more:
                break
        tick += delta
        if data[at] == 0xFF:
            at += 3 + data[at + 2]
            continue
        messages.append((tick / ticks_per_beat, data[at], data[at + 1]))
        at += 2 if data[at] & 0xF0 == 0xC0 else 3
    return messages


def test_a_midi_file_holds_every_note_once_and_frees_a_pitch_before_repeating_it():
    notes = [Note(1.0, 1.0, 40, 90), Note(0.0, 1.0, 40, 100), Note(500.25, 0.5, 127, 1)]
    assert read_midi(smf.encode(notes, tempo_bpm=90.5, program=33, channel=2)) == [
        (0, 0xC2, 33), (0, 0x92, 40), (1, 0x82, 40), (1, 0x92, 40), (2, 0x82, 40), (500.25, 0x92, 127),
        (500.75, 0x82, 127),
    ]  # fmt: skip


def test_the_references_of_the_demo_sum_to_its_mixture():
    names = [*LEAVES, "mixture"]
    sound = {name: soundfile.read(DEMO / f"{name}.flac", dtype="int16")[0].astype(int) for name in names}
    mixture = sound.pop("mixture")
    np.testing.assert_array_equal(sum(sound.values()), mixture)
    assert mixture.shape == (24 * 48000, 2)
    assert 20 * np.log10(np.abs(mixture).max() / 32768) == pytest.approx(-1, abs=0.1)
    assert all(np.abs(reference).max() > 1000 for reference in sound.values())

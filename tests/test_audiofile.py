"""Sound files and resampling: lengths, bits, honest errors, and no half file under a final name."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from sepstream.audiofile import FORMATS, AudioReader, AudioWriter, Resampler, encoding, lead_samples, quantize
from sepstream.errors import AudioFileError
from small_disk import room

RATE = 48000
EVERY_ENCODING = [(name, bits) for name, row in FORMATS.items() for bits in row.encodings]


def noise(channels: int, samples: int, level: float = 0.1) -> np.ndarray:
    return (np.random.default_rng(samples).standard_normal((channels, samples)) * level).astype(np.float32)


def read(path: Path, size: int = 4096) -> np.ndarray:
    with AudioReader(path) as reader:
        return np.concatenate(list(reader.blocks(size)), axis=1)


def write(path: Path, audio: np.ndarray, rate_hz: int = RATE, size: int = 1000, **how: str | None) -> AudioWriter:
    with AudioWriter(path, rate_hz, len(audio), samples=audio.shape[1], **how) as writer:
        for start in range(0, audio.shape[1], size):
            writer.write(audio[:, start : start + size])
    return writer


def complaint(path: Path) -> str:
    """The one line that reading the file ends in; it names the file."""
    with pytest.raises(AudioFileError) as caught:
        read(path)
    assert "\n" not in str(caught.value) and path.name in str(caught.value)
    return str(caught.value)


# Reading


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_blocks_of_any_size_add_up_to_the_file(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, noise(2, 5003).T, RATE)
    whole = soundfile.read(path, dtype="float32", always_2d=True)[0].T
    for size in (17, 509, 5003, 100_000):
        np.testing.assert_array_equal(read(path, size), whole)


def test_rate_channels_and_length_are_known_before_reading(tmp_path):
    soundfile.write(tmp_path / "a.flac", noise(3, 777).T, 11025)
    with AudioReader(tmp_path / "a.flac") as reader:
        assert (reader.rate_hz, reader.channels, reader.samples, reader.position) == (11025, 3, 777, 0)


def test_a_flac_that_does_not_know_its_length_is_counted(tmp_path):
    path = tmp_path / "piped.flac"
    soundfile.write(path, noise(2, 9000).T, RATE)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the low four bits, and the next four bytes: total samples in STREAMINFO
    data[22:26] = bytes(4)
    path.write_bytes(data)
    with AudioReader(path) as reader:
        assert reader.samples == 9000
    assert read(path).shape == (2, 9000)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_named_with_their_time(tmp_path, bad):
    audio = noise(2, 24000)
    audio[1, 12000] = audio[0, 23000] = bad
    soundfile.write(tmp_path / "a.wav", audio.T, RATE, subtype="FLOAT")
    message = complaint(tmp_path / "a.wav")
    assert str(bad) in message and "0.250000 s" in message


def test_a_missing_file_a_folder_and_an_empty_file_are_told_apart(tmp_path):
    (tmp_path / "empty.wav").touch()
    assert "does not exist" in complaint(tmp_path / "missing.wav")
    assert "is a folder" in complaint(tmp_path)
    assert "empty" in complaint(tmp_path / "empty.wav")


@pytest.mark.parametrize("name", ["text.wav", "text.raw"])
def test_text_is_no_sound_whatever_its_name(tmp_path, name):
    (tmp_path / name).write_text("not sound at all\n" * 99)
    assert "not a sound file" in complaint(tmp_path / name)


def test_a_header_without_samples_is_refused(tmp_path):
    soundfile.write(tmp_path / "none.wav", np.zeros((0, 2)), RATE)
    assert "holds no samples" in complaint(tmp_path / "none.wav")


def test_a_cut_flac_says_where_it_is_damaged(tmp_path):
    soundfile.write(tmp_path / "cut.flac", noise(2, 48000).T, RATE)
    data = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    assert "damaged at 0." in complaint(tmp_path / "cut.flac")


# Writing


@pytest.mark.parametrize(("name", "bits"), EVERY_ENCODING)
def test_every_encoding_keeps_rate_channels_and_length(tmp_path, name, bits):
    path = tmp_path / f"a.{name}"
    write(path, noise(3, 5003), 44100, format=name, bits=bits)
    with AudioReader(path) as reader:
        assert (reader.rate_hz, reader.channels, reader.samples) == (44100, 3, 5003)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(("name", "bits", "error"), [("wav", "32f", 0), ("wav", "24", 2**-24), ("flac", "16", 2**-16)])
def test_samples_come_back_within_half_a_code(tmp_path, name, bits, error):
    audio = noise(2, 5003)
    write(tmp_path / "a", audio, format=name, bits=bits)
    assert np.abs(read(tmp_path / "a") - audio).max() <= error


@pytest.mark.parametrize("bits", [16, 24])
@given(data=st.data())
def test_quantizing_gives_back_every_code(bits, data):
    code = data.draw(st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1))
    sample = np.array([code / 2 ** (bits - 1)], np.float32)
    assert quantize(sample, bits)[0] >> (32 - bits) == code


def test_beyond_full_scale_integers_clip_and_count_but_floats_do_not(tmp_path):
    audio = np.array([[1.0, -1.0, 1.5, -3.0, 0.5]], np.float32)
    assert write(tmp_path / "i.wav", audio, bits="16").clipped == 2
    assert write(tmp_path / "f.wav", audio, bits="32f").clipped == 0
    np.testing.assert_array_equal(read(tmp_path / "i.wav"), np.array([[1 - 2**-15, -1, 1 - 2**-15, -1, 0.5]], np.float32))
    np.testing.assert_array_equal(read(tmp_path / "f.wav"), audio)


@pytest.mark.parametrize(
    ("name", "bits", "word"), [("ogg", "16", "leave bits out"), ("flac", "32f", "24 or 16"), ("aac", None, "wav, flac, ogg")]
)
def test_impossible_encodings_name_the_possible_ones(name, bits, word):
    with pytest.raises(AudioFileError, match=word):
        encoding(name, bits)


@pytest.mark.parametrize(
    ("name", "rate_hz", "channels"), [("flac", RATE, 9), ("ogg", 384000, 1), ("ogg", RATE, 256), ("flac", 700000, 1)]
)
def test_a_format_that_is_too_small_says_its_limits(tmp_path, name, rate_hz, channels):
    with pytest.raises(AudioFileError, match="use wav"):
        AudioWriter(tmp_path / "a", rate_hz, channels, samples=1, format=name)


def test_a_wav_beyond_four_gibibytes_becomes_rf64(tmp_path):
    for samples, container in ((2**29 - 2**14, "WAV"), (2**29, "RF64")):
        with AudioWriter(tmp_path / "a.wav", RATE, 2, samples=samples, bits="32f") as writer:
            writer.write(noise(2, 10))
        assert soundfile.info(tmp_path / "a.wav").format == container
        assert read(tmp_path / "a.wav").shape == (2, 10)


@pytest.mark.parametrize(("samples", "container"), [(10, "WAVEX"), (2**29 - 2**14, "WAVEX"), (2**29, "RF64")])
def test_a_wav_of_unknown_length_becomes_rf64_only_if_it_must(tmp_path, samples, container):
    with AudioWriter(tmp_path / "a.wav", RATE, 2, samples=None) as writer:
        writer.resize(samples - 5)
        writer.write(noise(2, 5))
    assert (soundfile.info(tmp_path / "a.wav").format, soundfile.info(tmp_path / "a.wav").frames) == (container, samples)
    np.testing.assert_array_equal(soundfile.read(tmp_path / "a.wav", start=samples - 7, dtype="float32")[0][2:].T, noise(2, 5))


def test_resizing_cuts_the_end_off_or_appends_silence(tmp_path):
    audio = noise(2, 1000)
    with AudioWriter(tmp_path / "a.wav", RATE, 2, samples=None) as writer:
        for step in (lambda: writer.resize(100), lambda: writer.write(audio), lambda: writer.resize(300)):
            step()
        writer.write(audio[:, :50])
        writer.resize(400)
    silence = np.zeros((2, 100), np.float32)
    np.testing.assert_array_equal(
        read(tmp_path / "a.wav"), np.concatenate([silence, audio[:, :200], audio[:, :50], silence[:, :50]], 1)
    )


def test_a_file_has_no_name_before_it_is_whole(tmp_path):
    with AudioWriter(tmp_path / "a.wav", RATE, 1, samples=10) as writer:
        writer.write(noise(1, 10))
        writer.finish()
        assert [p.name.startswith(".a.wav.") for p in tmp_path.iterdir()] == [True]
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_an_interrupted_file_leaves_the_old_one_and_nothing_else(tmp_path, stop):
    write(tmp_path / "a.wav", noise(1, 10))
    with pytest.raises(stop), AudioWriter(tmp_path / "a.wav", RATE, 1, samples=99) as writer:
        writer.write(noise(1, 20))
        raise stop
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]
    assert read(tmp_path / "a.wav").shape == (1, 10)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("room_bytes", [0, 20, 3000, 9000])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, name, room_bytes):
    """Whether the header, a block or only the last block while closing does not fit."""
    with room(room_bytes), pytest.raises(AudioFileError, match=r"cannot write '.*a\.x': File too large; free some space"):
        write(tmp_path / "a.x", noise(2, 40_000), format=name)
    assert not list(tmp_path.iterdir())


def test_a_last_block_that_is_lost_while_closing_is_noticed(tmp_path):
    """One by one over the sizes around the whole file: either all of it is there, or it is an error."""
    audio = noise(1, 3000)
    write(tmp_path / "a.flac", audio, format="flac")
    size = (tmp_path / "a.flac").stat().st_size
    for room_bytes in range(size - 40, size + 1, 8):
        (tmp_path / "a.flac").unlink(missing_ok=True)
        try:
            with room(room_bytes):
                write(tmp_path / "a.flac", audio, format="flac")
        except AudioFileError:
            assert not list(tmp_path.iterdir())
        assert not (tmp_path / "a.flac").exists() or read(tmp_path / "a.flac").shape == audio.shape


def test_an_output_below_a_file_or_in_no_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "a.wav", tmp_path / "no folder" / "a.wav"):
        with pytest.raises(AudioFileError, match="choose an output folder"):
            write(path, noise(1, 10))


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    (tmp_path / "a.wav").mkdir()
    with pytest.raises(AudioFileError, match="Is a directory"):
        write(tmp_path / "a.wav", noise(1, 10))
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


# Resampling


def stream(audio: np.ndarray, from_hz: int, to_hz: int, size: int) -> np.ndarray:
    resampler = Resampler(from_hz, to_hz, len(audio))
    blocks = [resampler.process(audio[:, start : start + size]) for start in range(0, audio.shape[1], size)]
    return np.concatenate([*blocks, resampler.flush()], axis=1)


@pytest.mark.parametrize(("from_hz", "to_hz"), [(44100, 48000), (8000, 48000), (192000, 48000), (44101, 48000)])
def test_resampling_in_blocks_equals_resampling_at_once(from_hz, to_hz):
    audio = noise(2, 5003)
    whole = stream(audio, from_hz, to_hz, 5003)
    assert abs(whole.shape[1] - 5003 * to_hz / from_hz) <= 1
    for size in (17, 509, 1024):
        np.testing.assert_array_equal(stream(audio, from_hz, to_hz, size), whole)


@settings(deadline=None, max_examples=20)
@given(st.sampled_from([8000, 11025, 22050, 44100, 96000, 192000]), st.integers(0, 6000))
def test_there_and_back_is_never_more_than_a_sample_off(rate_hz, samples):
    there = stream(np.zeros((1, samples), np.float32), rate_hz, 48000, 4096)
    assert abs(stream(there, 48000, rate_hz, 4096).shape[1] - samples) <= 1 + rate_hz // 48000


@pytest.mark.parametrize(("from_hz", "to_hz"), [(44100, 48000), (8000, 48000), (192000, 48000), (48000, 44100)])
def test_a_resampled_tone_keeps_time_and_level(from_hz, to_hz):
    """Away from the ends: to 90 dB (soxr's arithmetic) up to 70 % of the lower Nyquist frequency, to 0.01 dB up to 90 %."""
    nyquist_hz, droop = min(from_hz, to_hz) / 2, 1 - 10 ** (-0.01 / 20)
    for hz, error in ((0.1 * nyquist_hz, 10**-4.5), (0.7 * nyquist_hz, 10**-4.5), (0.9 * nyquist_hz, droop)):
        audio = np.sin(2 * np.pi * hz * np.arange(from_hz // 4) / from_hz).astype(np.float32)[None]
        heard = stream(audio, from_hz, to_hz, 4096)[0]
        expected = np.sin(2 * np.pi * hz * np.arange(heard.size) / to_hz)
        middle = slice(heard.size // 4, -heard.size // 4)
        assert np.square(heard[middle] - expected[middle]).mean() < error**2 * np.square(expected[middle]).mean()


def test_lanes_of_a_resampler_do_not_mix():
    audio = noise(2, 3000)
    alone = stream(audio[:1], 44100, 48000, 509)
    audio[1] = 1e6
    np.testing.assert_array_equal(stream(audio, 44100, 48000, 509)[:1], alone)


@given(st.integers(1, 200_000), st.integers(1, 200_000))
def test_the_lead_is_whole_at_both_rates_and_long_enough(rate_hz, other_hz):
    lead = lead_samples(rate_hz, other_hz)
    assert lead * other_hz % rate_hz == 0
    assert lead * 100 >= rate_hz or rate_hz == other_hz

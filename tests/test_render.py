"""Files through the pipeline: what goes in comes out, in time, in full, and all of it or none."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

import toy_bundle
from sepstream.batch import RenderConfig, Task, choose, plan
from sepstream.contract import Bundle, load_bundle
from sepstream.errors import AudioFileError, ExpressionError
from sepstream.pipeline import Pipeline
from sepstream.render import PipelineFactory, RenderOptions, RenderReport, pipelines, render_file
from sepstream.selection import Selection, Strip, read_bus
from small_disk import room

RATE = 48000
LEAVES = ("male", "female", "bass", "drums", "guitar")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(toy_bundle.make(tmp_path_factory.mktemp("models")))


@pytest.fixture(scope="module")
def leaves(bundle: Bundle) -> PipelineFactory:
    return pipelines(bundle, Selection.stems(bundle, "leaves"), "cpu")


def noise(channels: int, samples: int, level: float = 0.1) -> np.ndarray:
    return (np.random.default_rng(samples).standard_normal((channels, samples)) * level).astype(np.float32)


def band(channels: int, samples: int, rate_hz: int) -> np.ndarray:
    """Noise that fades in and out, below 70 % of the lower Nyquist frequency of the file and of the model."""
    spectrum = np.fft.rfft(noise(channels, samples))
    spectrum[:, np.fft.rfftfreq(samples, 1 / rate_hz) > 0.35 * min(rate_hz, RATE)] = 0
    return (np.fft.irfft(spectrum, samples) * np.hanning(samples)).astype(np.float32)


def sound(path: Path, audio: np.ndarray, rate_hz: int = RATE, subtype: str = "FLOAT") -> Path:
    soundfile.write(path, audio.T, rate_hz, subtype=subtype)
    return path


def read(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="float32", always_2d=True)[0].T


def total(report: RenderReport) -> np.ndarray:
    return np.sum([read(bus.path) for bus in report.buses], axis=0, dtype=np.float64)


def snr_db(found: np.ndarray, expected: np.ndarray) -> float:
    return float(10 * np.log10(np.square(expected, dtype=np.float64).sum() / np.square(found - expected).sum()))


def files(folder: Path) -> list[str]:
    """Everything below the folder, hidden names too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# What comes out


@pytest.mark.parametrize(("rate_hz", "channels"), [(8000, 1), (44100, 2), (44101, 1), (48000, 2), (192000, 6)])
@pytest.mark.parametrize("samples", [20011, 40000])
def test_rate_channels_and_length_are_the_inputs(tmp_path, leaves, rate_hz, channels, samples):
    report = render_file(sound(tmp_path / "in.wav", noise(channels, samples), rate_hz), tmp_path, leaves)
    assert tuple(bus.name for bus in report.buses) == LEAVES
    for bus in report.buses:
        info = soundfile.info(bus.path)
        assert (info.samplerate, info.channels, info.frames) == (rate_hz, channels, samples)
        assert bus.path == tmp_path / "in" / f"{bus.name}.wav"


@pytest.mark.parametrize("stems", ["leaves", "parents"])
@pytest.mark.parametrize("samples", [1, 255, 256, 2049, 50001])
def test_a_level_of_the_tree_adds_up_to_the_input(tmp_path, bundle, stems, samples):
    """No resampler: only float32 rounding of five terms, some 2^-24 each, and of an FFT there and back."""
    audio = noise(2, samples)
    factory = pipelines(bundle, Selection.stems(bundle, stems), "cpu")
    report = render_file(sound(tmp_path / "in.wav", audio), tmp_path, factory)
    assert np.abs(total(report) - audio).max() < 20 * 2**-24


def test_the_residual_is_what_the_others_leave(tmp_path, bundle):
    audio = noise(1, 30000)
    chosen = Selection((read_bus("voice=0.5*speech"), read_bus("drums=drums")), residual=Strip())
    report = render_file(sound(tmp_path / "in.wav", audio), tmp_path, pipelines(bundle, chosen, "cpu"))
    assert [bus.name for bus in report.buses] == ["voice", "drums", "residual"]
    assert np.abs(total(report) - audio).max() < 20 * 2**-24


@pytest.mark.parametrize(("rate_hz", "channels"), [(8000, 1), (11025, 1), (44100, 2), (96000, 1), (192000, 6)])
def test_resampled_the_leaves_add_up_to_the_input_in_the_common_band(tmp_path, leaves, rate_hz, channels):
    """soxr leaves 90 dB there and back (see test_audiofile); the file's ends count as well."""
    audio = band(channels, rate_hz // 2 + 11, rate_hz)
    report = render_file(sound(tmp_path / "in.wav", audio, rate_hz), tmp_path, leaves)
    assert snr_db(total(report), audio) > 85


@pytest.mark.parametrize("rate_hz", [8000, 44100, 44101, 48000, 192000])
@pytest.mark.parametrize("lookahead_hops", [0, 3])
def test_a_click_stays_at_its_sample(tmp_path, rate_hz, lookahead_hops):
    bundle = load_bundle(toy_bundle.make(tmp_path, lookahead_hops=lookahead_hops))
    factory = pipelines(bundle, Selection.stems(bundle, "leaves"), "cpu")
    for place in (0, 1234, rate_hz // 4 - 1):
        audio = np.zeros((1, rate_hz // 4), np.float32)
        audio[0, place] = 0.9
        report = render_file(sound(tmp_path / "in.wav", audio, rate_hz), tmp_path, factory, RenderOptions(overwrite=True))
        assert np.abs(total(report)).argmax() == place


def test_a_file_sounds_as_it_does_live(tmp_path, bundle, leaves):
    audio = noise(2, 40000)
    live = Pipeline(bundle, Selection.stems(bundle, "leaves"), 2, provider="cpu", hops=1)
    padded = np.concatenate([audio, np.zeros((2, live.latency_samples), np.float32)], axis=1)
    played = np.concatenate([live.process(padded[:, i : i + 509]) for i in range(0, padded.shape[1], 509)], axis=2)
    report = render_file(sound(tmp_path / "in.wav", audio), tmp_path, leaves)
    for bus, heard in zip(report.buses, played[:, :, live.latency_samples :], strict=True):
        np.testing.assert_allclose(read(bus.path), heard, atol=2**-22)


def test_a_file_does_not_hear_the_one_before(tmp_path, bundle, leaves):
    first, second = sound(tmp_path / "first.wav", noise(1, 30000, 0.9)), sound(tmp_path / "second.wav", noise(1, 20000))
    render_file(first, tmp_path / "a", leaves)
    after = render_file(second, tmp_path / "a", leaves)
    alone = render_file(second, tmp_path / "b", pipelines(bundle, Selection.stems(bundle), "cpu"))
    for one, other in zip(after.buses, alone.buses, strict=True):
        np.testing.assert_array_equal(read(one.path), read(other.path))


def test_silence_stays_silent_and_has_no_level(tmp_path, leaves):
    report = render_file(sound(tmp_path / "in.wav", np.zeros((2, 5000))), tmp_path, leaves)
    assert all(bus.rms_db is None and bus.peak_db is None and not read(bus.path).any() for bus in report.buses)


def test_the_report_tells_the_levels_of_the_files(tmp_path, leaves):
    report = render_file(sound(tmp_path / "in.wav", noise(2, 30000), 44100), tmp_path, leaves)
    assert (report.seconds, report.latency_samples, report.provider, report.model) == (30000 / 44100, 512, "cpu", "toy")
    for bus in report.buses:
        audio = read(bus.path).astype(np.float64)
        assert bus.rms_db == pytest.approx(10 * np.log10(np.square(audio).mean()))
        assert bus.peak_db == pytest.approx(20 * np.log10(np.abs(audio).max()))


def test_integers_that_clip_are_counted_and_told(tmp_path, leaves):
    report = render_file(sound(tmp_path / "in.wav", noise(1, 20000, 3.0)), tmp_path, leaves, RenderOptions("flac", "16"))
    clipped = [bus for bus in report.buses if bus.clipped]
    assert clipped and len(report.warnings) == len(clipped)
    assert f"{clipped[0].clipped} samples beyond full scale" in report.warnings[0]


def test_an_mp3_that_ends_early_is_rendered_as_far_as_it_goes_and_told(tmp_path, leaves):
    path = tmp_path / "in.mp3"
    soundfile.write(path, noise(1, 48000).T, RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    report = render_file(path, tmp_path, leaves)
    assert "ends after" in report.warnings[0] and "of the 1.00 s" in report.warnings[0]
    assert {soundfile.info(bus.path).frames for bus in report.buses} == {round(report.seconds * RATE)}


# What stops it


def fails(call: Callable[[], object]) -> str:
    with pytest.raises(AudioFileError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("bad", "words"), [(np.nan, "nan at 0.500000 s"), (np.inf, "inf at 0.500000 s"), (1e7, "beyond 1e+06")])
def test_samples_that_are_no_sound_leave_nothing_behind(tmp_path, leaves, bad, words):
    audio = noise(1, 48000)
    audio[0, 24000] = bad
    assert words in fails(lambda: render_file(sound(tmp_path / "in.wav", audio), tmp_path / "out", leaves))
    assert files(tmp_path) == ["in.wav"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, BrokenPipeError])
@pytest.mark.parametrize("rate_hz", [48000, 44100])
def test_an_interruption_leaves_nothing_behind(tmp_path, leaves, stop, rate_hz):
    def interrupt(fraction: float) -> None:
        if fraction > 0.5:
            assert sum(name.endswith(".part") for name in files(tmp_path / "out")) == len(LEAVES)
            raise stop

    with pytest.raises(stop):
        render_file(sound(tmp_path / "in.wav", noise(1, 60000), rate_hz), tmp_path / "out", leaves, progress=interrupt)
    assert files(tmp_path) == ["in.wav"]


def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path, leaves):
    source = sound(tmp_path / "in.wav", noise(1, 60000))
    with room(100_000):
        assert "free some space" in fails(lambda: render_file(source, tmp_path / "out", leaves))
    assert files(tmp_path) == ["in.wav"]


def test_an_output_folder_below_a_file_is_refused(tmp_path, leaves):
    source = sound(tmp_path / "in.wav", noise(1, 1000))
    assert "choose an output folder" in fails(lambda: render_file(source, source, leaves))
    (tmp_path / "in").touch()
    assert "choose an output folder" in fails(lambda: render_file(source, tmp_path, leaves))
    assert files(tmp_path) == ["in", "in.wav"]


def test_a_format_that_cannot_hold_the_input_is_told_before_anything_is_written(tmp_path, leaves):
    source = sound(tmp_path / "in.wav", noise(9, 1000))
    assert "use wav" in fails(lambda: render_file(source, tmp_path, leaves, RenderOptions("flac")))
    assert files(tmp_path) == ["in.wav"]


def test_the_input_is_never_overwritten(tmp_path, leaves):
    (tmp_path / "drums").mkdir()
    source = sound(tmp_path / "drums" / "drums.wav", noise(1, 1000))
    before = source.read_bytes()
    assert "is the input itself" in fails(lambda: render_file(source, tmp_path, leaves, RenderOptions(overwrite=True)))
    assert source.read_bytes() == before and files(tmp_path / "drums") == ["drums.wav"]


# What was there before


def test_files_that_are_there_are_kept_and_the_others_made(tmp_path, leaves):
    source = sound(tmp_path / "in.wav", noise(1, 1000))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "drums.wav").write_text("precious")
    report = render_file(source, tmp_path, leaves)
    assert [bus.name for bus in report.buses] == [name for name in LEAVES if name != "drums"]
    assert report.kept == (tmp_path / "in" / "drums.wav",)
    assert report.kept[0].read_text() == "precious"
    again = render_file(source, tmp_path, leaves)
    assert not again.buses and len(again.kept) == len(LEAVES) and again.real_time_factor is None


def test_overwrite_replaces_them(tmp_path, leaves):
    source = sound(tmp_path / "in.wav", noise(1, 1000))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "drums.wav").write_text("worthless")
    report = render_file(source, tmp_path, leaves, RenderOptions(overwrite=True))
    assert len(report.buses) == len(LEAVES) and not report.kept
    assert read(tmp_path / "in" / "drums.wav").shape == (1, 1000)


# Many files


def names(*paths: str) -> dict[str, str]:
    return {task.source.as_posix(): task.name.as_posix() for task in plan([Path(p) for p in paths], Path("out"))}


def test_inputs_with_one_name_are_told_apart_by_suffix_and_then_by_folder():
    assert names("a/song.wav", "b/tune.wav") == {"a/song.wav": "song", "b/tune.wav": "tune"}
    assert names("a/song.wav", "a/Song.flac") == {"a/song.wav": "song.wav", "a/Song.flac": "Song.flac"}
    assert names("live/song.wav", "studio/song.wav", "tune.wav") == {
        "live/song.wav": "live/song.wav",
        "studio/song.wav": "studio/song.wav",
        "tune.wav": "tune",
    }


def test_a_file_named_twice_is_rendered_once():
    assert names("song.wav", "./song.wav", "a/../song.wav") == {"a/../song.wav": "song"}


@given(st.lists(st.lists(st.sampled_from(["Xy", "xy", "z", "z.wav", "z.flac"]), min_size=1, max_size=4), max_size=8))
def test_no_two_inputs_share_an_output_folder(paths):
    tasks = plan([Path("/", *parts) for parts in paths], Path("out"))
    assert len({task.name for task in tasks}) == len(tasks) == len({tuple(parts) for parts in paths})
    assert not any(task.name.is_absolute() for task in tasks)


def test_folders_are_searched_for_sound_but_not_in_hidden_or_output_folders(tmp_path):
    for name in ("b.wav", "a/x.FLAC", "a/b/y.mp3", "notes.txt", ".hidden.wav", ".git/z.wav", "out/b/drums.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [task.source.relative_to(tmp_path).as_posix() for task in plan([tmp_path], tmp_path / "out")]
    assert found == ["b.wav", "a/x.FLAC", "a/b/y.mp3"]


def test_a_folder_cannot_be_its_own_output(tmp_path):
    assert "choose another --out" in fails(lambda: plan([tmp_path], tmp_path))


def test_a_folder_without_sound_is_told_by_the_reader(tmp_path, leaves):
    (task,) = plan([tmp_path], Path("out"))
    assert task == Task(tmp_path, Path(tmp_path.name))
    assert "is a folder; expected a sound file" in fails(lambda: render_file(task.source, tmp_path / "out", leaves))


def test_leaves_are_chosen_only_when_nothing_else_is(bundle):
    def buses(**flags: object) -> list[str]:
        return [bus.name for bus in choose(RenderConfig((), Path(), **flags), bundle).buses]

    assert buses() == list(LEAVES)
    assert buses(buses=("vox=speech",)) == ["vox"]
    assert buses(stems="parents", buses=("vox=speech",)) == ["speech", "music", "vox"]
    assert choose(RenderConfig((), Path(), residual=True), bundle).residual


def test_one_bus_name_twice_is_refused(bundle):
    with pytest.raises(ExpressionError, match="drums"):
        choose(RenderConfig((), Path(), stems="leaves", buses=("drums=bass",)), bundle)


# Memory

PEAK = """
import sys
from pathlib import Path
from sepstream.contract import load_bundle
from sepstream.render import pipelines, render_file
from sepstream.selection import Selection

bundle = load_bundle(Path(sys.argv[1]))
render_file(Path(sys.argv[2]), Path(sys.argv[3]), pipelines(bundle, Selection.stems(bundle, "parents"), "cpu"))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory of one program is read from Linux's /proc")
def test_memory_does_not_grow_with_the_length(tmp_path):
    """Six minutes more, resampled, are 40 MB in and out of the pipeline: they may not stay."""
    model = toy_bundle.make(tmp_path, hops=(1, 32), sample_rate_hz=8000)
    peaks = []
    for minutes in (1, 7):
        source = sound(tmp_path / f"{minutes}.wav", np.tile(noise(1, 5512 * 60), minutes), 5512, "PCM_16")
        command = [sys.executable, "-c", PEAK, str(model), str(source), str(tmp_path / "out")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)})
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 6000  # KiB

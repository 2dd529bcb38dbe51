"""Data sets of every layout, as small copies made here: what is read of them, what is mixed of them, what is wrong with them."""

import itertools
import json
import shutil
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import toy_bundle
from sepstream.contract import Bundle, ClassSpec, StftSpec, read_bundle
from sepstream.errors import DataError
from sepstream_export import evaluate
from sepstream_training.cli import train_main
from sepstream_training.data import shards
from sepstream_training.data.entries import MIX, Wanted
from sepstream_training.data.layouts import LAYOUTS, has_split, layout_of, read_library, wanted_by
from sepstream_training.data.library import Clip, Held, Library, Named, Track, gathered
from sepstream_training.data.loader import Mixtures, StreamedMixtures, sounds, training_batches, training_sounds
from sepstream_training.data.mixing import MixSpec, draw_mixture, hear
from sepstream_training.data.shards import convert, write_shards
from sepstream_training.data.stream import Stream, open_stream
from sepstream_training.recipe import Recipe, load_recipe
from sepstream_training.share import Share

F32 = NDArray[np.float32]
Samples = NDArray[np.int16]

RATE_HZ = 24000  # the training rate of the recipes below: nothing is resampled, so sums are exact
SECONDS = 0.5
FAMILIES = {"speech": ["male", "female"], "music": ["bass", "drums", "guitar"]}
LEAVES = [leaf for members in FAMILIES.values() for leaf in members]
NAMES = {leaf: [leaf, f"speech_{leaf}"] for leaf in LEAVES}
FOUR = {"voice": ["vocals"], "accompaniment": ["drums", "bass", "other"]}
SPLITS = ("train", "valid", "test")
VALIDATION_SONG = "Actions - One Minute Smile"  # one of those that musdb names
TRACKS = 4

torch.set_num_threads(1)


def steps(*seed: int, seconds: float = SECONDS, channels: int = 1) -> Samples:
    """Soft noise in whole 16-bit steps, so that files and sums hold it exactly."""
    size = (round(seconds * RATE_HZ), channels)
    return np.random.default_rng(seed).integers(-3000, 3000, size, dtype=np.int16)


def write(path: Path, samples: Samples, rate_hz: int = RATE_HZ) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate_hz, subtype="PCM_16")
    return path


def seed_of(*words: object) -> int:
    return zlib.crc32(repr(words).encode())


# ---- small copies -----------------------------------------------------------------------------------------------------


def folders(root: Path) -> None:
    for split, leaf, n in itertools.product(SPLITS, LEAVES, range(2)):
        write(root / split / leaf / f"{n}.wav", steps(seed_of(split, leaf, n)))


def rows(root: Path) -> list[dict[str, object]]:
    """Two sounds in each file, of which a row names one; the instruments are of two songs."""
    table: list[dict[str, object]] = []
    for split, leaf, n in itertools.product(SPLITS, LEAVES, range(2)):
        path = write(root / "sounds" / f"{split}-{leaf}-{n}.flac", steps(seed_of(split, leaf, n), seconds=2 * SECONDS))
        group = f"{split}/{n}" if leaf in FAMILIES["music"] else None
        cell = {"path": str(path.relative_to(root)), "split": split, "cls": leaf, "group": group}
        table.append({**cell, "offset": SECONDS, "seconds": SECONDS})
    return table


def csv_manifest(root: Path) -> None:
    table = rows(root)
    lines = [",".join(table[0]), *(",".join("" if cell is None else str(cell) for cell in row.values()) for row in table)]
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")


def parquet_manifest(root: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows(root)), root / "manifest.parquet")


def stems(root: Path) -> None:
    """The second track of each split has no guitar; a file that is nobody's lies beside."""
    for split, n, leaf in itertools.product(SPLITS, range(TRACKS), LEAVES):
        if (n, leaf) != (1, "guitar"):
            write(root / split / f"song {n}" / f"{leaf}.wav", steps(seed_of(split, n, leaf), channels=2))
        write(root / split / f"song {n}" / "triangle.wav", steps(1))


def lsx(root: Path) -> None:
    """Tracks in folders of different depth; the second has a silent source, the third is linked."""
    for split in ("tr", "cv", "tt"):
        for n in range(TRACKS):
            parts = {leaf: steps(seed_of(split, n, leaf)) for leaf in LEAVES}
            if n == 1:
                parts["male"] = np.zeros_like(parts["male"])
            sums = {f"{parent}_mix": sum(parts[leaf] for leaf in members) for parent, members in FAMILIES.items()}
            sums["mix"] = sums["speech_mix"] + sums["music_mix"]
            folder = root / split / ("deep/er" if n else ".") / f"track{n}"
            target = root.with_name("elsewhere") / split if n == 2 else folder
            for name, samples in {**parts, **sums}.items():
                write(target / f"{f'speech_{name}' if name in FAMILIES['speech'] else name}.wav", samples)
            if n == 2:
                folder.symlink_to(target, target_is_directory=True)
        write(root / split / ".hidden" / "a.wav", steps(1))


def musdb18(root: Path) -> None:
    songs = {"train": ["A - One", "B - Two", VALIDATION_SONG], "test": ["C - Three"]}
    for subset, names in songs.items():
        for name in names:
            parts = {leaf: steps(seed_of(name, leaf), channels=2) for members in FOUR.values() for leaf in members}
            for leaf, samples in {**parts, "mixture": sum(parts.values())}.items():
                write(root / subset / name / f"{leaf}.wav", samples)


def slakh(root: Path) -> None:
    """Two guitars, a piano that no class is for, a stem that was not rendered, and the folder of doubles."""
    stems_of = {"S00": "Bass", "S01": "Drums", "S02": "Guitar", "S03": "Guitar", "S04": "Piano", "S05": "Bass"}
    for split, n in itertools.product(("train", "validation", "test", "omitted"), range(TRACKS)):
        folder = root / split / f"Track{n:05d}"
        facts = {name: {"inst_class": cls, "audio_rendered": name != "S05"} for name, cls in stems_of.items()}
        for name in list(stems_of)[:-1]:
            write(folder / "stems" / f"{name}.flac", steps(seed_of(split, n, name)))
        (folder / "metadata.yaml").write_text(yaml.safe_dump({"audio_dir": "stems", "stems": facts}))
        write(folder / "mix.flac", steps(1))


BAND = {"rhythm": ["bass", "drums"], "harmony": ["guitar"]}
MAKERS: dict[str, tuple[Callable[[Path], None], dict[str, list[str]]]] = {
    "folders": (folders, FAMILIES),
    "manifest": (csv_manifest, FAMILIES),
    "parquet": (parquet_manifest, FAMILIES),
    "stems": (stems, FAMILIES),
    "lsx": (lsx, FAMILIES),
    "musdb18": (musdb18, FOUR),
    "slakh": (slakh, BAND),
}
PREMIXED = ("stems", "lsx", "musdb18", "slakh")
NUMBERED = tuple(MAKERS)  # what is read like files: mixtures have a number
ALL = (*MAKERS, "shards")


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of each layout; the shards are those of LSX."""
    home = tmp_path_factory.mktemp("copies")
    for name, (make, _) in MAKERS.items():
        (home / name).mkdir()
        make(home / name)
    list(convert(recipe(home / "lsx"), home / "shards", seconds=0, mib=0.1))
    return {name: home / name for name in ALL}


def families_of(name: str) -> dict[str, list[str]]:
    return MAKERS[name][1] if name in MAKERS else FAMILIES


def recipe(root: Path, *overrides: str, families: dict[str, list[str]] = FAMILIES) -> Recipe:
    small = ["train.batch=2", "mix.seconds=0.25", "data.channels=2", "data.window=4", "data.draws=3", "data.valid_mixtures=4"]
    return load_recipe("tiny", [f"data.root={json.dumps(str(root))}", f"classes={json.dumps(families)}", *small, *overrides])


def wanted(root: Path, name: str, split: str = "train") -> Wanted:
    families = families_of(name)
    names = {leaf: NAMES.get(leaf, [leaf]) for members in families.values() for leaf in members}
    return Wanted(root, split, names, families)


def read(copies: dict[str, Path], name: str, split: str = "train") -> Library:
    return read_library(wanted(copies[name], name, split), RATE_HZ, channels=2)


def waves(clips: Iterable[Clip]) -> Counter[bytes]:
    return Counter(np.ascontiguousarray(clip.samples).tobytes() for clip in clips)


# ---- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_a_layout_is_found_out_and_every_split_is_read_whole_and_apart(copies: dict[str, Path], name: str) -> None:
    assert layout_of(wanted(copies[name], name)) == name.replace("parquet", "manifest")
    of_split = [waves(itertools.chain.from_iterable(read(copies, name, split).values())) for split in SPLITS]
    for found in of_split:
        found.pop(bytes(len(next(iter(found)))), None)  # silence is the same everywhere
    assert all(of_split)
    assert not (of_split[0] & of_split[1] or of_split[0] & of_split[2] or of_split[1] & of_split[2])
    for clips in read(copies, name).values():
        assert sum(clip.chance for clip in clips) == pytest.approx(1)


@pytest.mark.parametrize("name", ALL)
def test_files_are_read_as_they_are(copies: dict[str, Path], name: str) -> None:
    """A class's first file, as soundfile has it: of mono data one channel, of stereo both."""
    first = {
        "folders": ("train/bass/0.wav", "bass"), "manifest": ("sounds/train-bass-0.flac", "bass"),
        "parquet": ("sounds/train-bass-0.flac", "bass"), "stems": ("train/song 0/bass.wav", "bass"),
        "lsx": ("tr/track0/bass.wav", "bass"), "musdb18": ("train/A - One/bass.wav", "bass"),
        "slakh": ("train/Track00000/stems/S00.flac", "bass"), "shards": ("../lsx/tr/track0/bass.wav", "bass"),
    }  # fmt: skip
    path, leaf = first[name]
    samples, _ = soundfile.read(copies[name] / path, dtype="int16")
    expected = samples[len(samples) // 2 :] if name in ("manifest", "parquet") else samples
    assert any(np.array_equal(clip.samples, expected) for clip in read(copies, name)[leaf])


def test_seconds_without_an_offset_are_a_remark(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", steps(1))
    (tmp_path / "list.csv").write_text("path,split,cls,seconds\na.wav,train,bass,0.1\n")
    (clip,) = read_library(Wanted(tmp_path / "list.csv", "train", {"bass": ["bass"]}), RATE_HZ)["bass"]
    assert len(clip.samples) == round(SECONDS * RATE_HZ)


def test_a_group_with_a_mix_in_a_manifest_is_a_track(tmp_path: Path) -> None:
    bass, drums = steps(1), steps(2)
    for name, samples in {"b": bass, "d": drums, "m": bass + drums, "alone": bass}.items():
        write(tmp_path / f"{name}.wav", samples)
    lines = ["b.wav,train,bass,1", "d.wav,train,drums,1", "m.wav,train,mix,1", "alone.wav,train,bass,"]
    (tmp_path / "manifest.csv").write_text("\n".join(["path,split,cls,group", *lines]))
    found = read_library(Wanted(tmp_path, "train", {"bass": ["bass"], "drums": ["drums"]}), RATE_HZ)
    (track,) = found.tracks
    assert (track.name, len(found["bass"]), list(track.sums)) == ("1", 2, [MIX])


def test_tracks_without_splits_are_shared_out(tmp_path: Path) -> None:
    for n in range(20):
        write(tmp_path / f"song {n:02d}" / "bass.wav", steps(n, seconds=0.05))
    of_split = {s: read_library(Wanted(tmp_path, s, {"bass": ["bass"]}), RATE_HZ).tracks for s in ("train", "valid")}
    names = {split: {track.name for track in tracks} for split, tracks in of_split.items()}
    assert (len(names["train"]), len(names["valid"])) == (18, 2)
    assert not names["train"] & names["valid"]
    assert not has_split(Wanted(tmp_path, "test", {"bass": ["bass"]}))


def test_the_rest_is_whatever_no_other_class_goes_by(copies: dict[str, Path]) -> None:
    names = {"bass": ["Bass"], "drums": ["drums"], "other": ["*"]}
    found = read_library(Wanted(copies["slakh"], "train", names, {"all": list(names)}), RATE_HZ)
    assert {leaf: len(clips) for leaf, clips in found.items()} == {"bass": TRACKS, "drums": TRACKS, "other": 3 * TRACKS}
    assert all(MIX in track.sums for track in found.tracks)  # with the rest it is all there is; before, it was not
    assert not any(track.sums for track in read(copies, "slakh").tracks)


def test_doubles_of_slakh_are_read_only_when_they_are_asked_for(copies: dict[str, Path]) -> None:
    omitted = waves(read(copies, "slakh", "omitted")["bass"])
    assert sum(omitted.values()) == TRACKS
    assert not any(omitted & waves(read(copies, "slakh", split)["bass"]) for split in SPLITS)


def test_validation_of_musdb_is_what_the_package_names(copies: dict[str, Path]) -> None:
    assert [track.name for track in read(copies, "musdb18", "valid").tracks] == [VALIDATION_SONG]
    assert [track.name for track in read(copies, "musdb18").tracks] == ["A - One", "B - Two"]


@pytest.mark.skipif(not (shutil.which("ffmpeg") and shutil.which("ffprobe")), reason="stem files need ffmpeg and ffprobe")
def test_stem_files_of_musdb_hold_the_sources_in_their_streams(tmp_path: Path) -> None:
    pitches_hz = {"mixture": 200, "drums": 300, "bass": 600, "other": 1200, "vocals": 2400}
    tones = [
        part for hz in pitches_hz.values() for part in ("-f", "lavfi", "-i", f"sine=frequency={hz}:sample_rate=44100:duration=1")
    ]
    streams = [part for n in range(len(pitches_hz)) for part in ("-map", f"{n}:a")]
    path = tmp_path / "train" / "A - One.stem.mp4"
    path.parent.mkdir()
    subprocess.run(["ffmpeg", "-v", "error", *tones, *streams, "-c:a", "aac", "-ac", "2", str(path)], check=True)
    found = read_library(wanted(tmp_path, "musdb18"), 44100, channels=2)
    for leaf in ("drums", "bass", "other", "vocals"):
        (clip,) = found[leaf]
        assert clip.samples.shape[1] == 2
        spectrum = np.abs(np.fft.rfft(clip.samples[:, 0] * np.hanning(len(clip.samples))))
        assert spectrum.argmax() * 44100 / len(clip.samples) == pytest.approx(pitches_hz[leaf], abs=2)
    assert list(found.tracks[0].sums) == [MIX]


def test_stem_files_without_ffmpeg_are_an_error_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train/A - One.stem.mp4").write_bytes(b"a film")
    for module in [name for name in sys.modules if name.partition(".")[0] == "stempeg"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataError, match=r"A - One.stem.mp4' needs the package musdb and the program ffmpeg; install them"):
        read_library(wanted(tmp_path, "musdb18"), RATE_HZ)


# ---- tracks as they are -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", (*PREMIXED, "shards"))
@settings(max_examples=12)
@given(start=st.integers(-RATE_HZ, RATE_HZ), length=st.integers(1, RATE_HZ))
def test_the_sources_of_a_track_add_up_to_its_mix_and_its_parents(
    copies: dict[str, Path], name: str, start: int, length: int
) -> None:
    families = families_of(name)
    for track in read(copies, name).tracks:
        leaves, parents, mix = hear(track, families, start, length)
        assert leaves.shape == (sum(map(len, families.values())), 2, length)
        assert mix.shape == (2, length)
        np.testing.assert_allclose(leaves.sum(axis=0), mix, atol=1e-6)
        np.testing.assert_allclose(parents.sum(axis=0), mix, atol=1e-6)
        outside = np.arange(start, start + length)
        assert not leaves[..., (outside < 0) | (outside >= track.length)].any()


def test_mix_and_parents_are_the_files_of_the_data_set(tmp_path: Path) -> None:
    """Where they are no sums, they are heard all the same; training is told so."""
    lsx(tmp_path / "lsx")
    sums = {name: steps(seed_of(name)) for name in ("mix", "music_mix", "speech_mix")}
    for name, samples in sums.items():
        write(tmp_path / "lsx/tr/track0" / f"{name}.wav", samples)
    track = next(t for t in read({"lsx": tmp_path / "lsx"}, "lsx").tracks if t.name == "track0")
    heard = hear(track, FAMILIES, 0, track.length)
    for own, name in ((heard.mix, "mix"), (heard.parents[0], "speech_mix"), (heard.parents[1], "music_mix")):
        np.testing.assert_array_equal(own[1], sums[name][:, 0] / np.float32(32768))


def test_a_mixture_that_is_no_sum_is_worth_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lsx(tmp_path / "lsx")
    write(tmp_path / "lsx/tr/track0/mix.wav", steps(5))
    for _ in range(2):  # once: the second time nothing is new
        read({"lsx": tmp_path / "lsx"}, "lsx")
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith("the mixture of 1 of 4 tracks is not the sum of its leaves (worst: 'track0', ")


def test_a_missing_stem_is_silent(copies: dict[str, Path]) -> None:
    tracks = {track.name: track for track in read(copies, "stems").tracks}
    silent = {name: not hear(track, FAMILIES, 0, 100).leaves[LEAVES.index("guitar")].any() for name, track in tracks.items()}
    assert silent == {f"song {n}": n == 1 for n in range(TRACKS)}


def test_two_stems_of_one_class_are_added(copies: dict[str, Path]) -> None:
    track = read(copies, "slakh").tracks[0]
    guitars = [soundfile.read(copies["slakh"] / f"train/Track00000/stems/S0{n}.flac", dtype="float32")[0] for n in (2, 3)]
    np.testing.assert_allclose(hear(track, BAND, 0, track.length).leaves[2, 0], sum(guitars), atol=1e-6)


@pytest.mark.parametrize("name", PREMIXED)
def test_validation_hears_every_track_as_it_is(copies: dict[str, Path], name: str) -> None:
    spec = recipe(copies[name], families=families_of(name))
    found = sounds(spec, "valid")
    heard = Mixtures(found, spec, "valid")
    for first in (0, len(found.tracks)):  # a second round hears other places
        parts = [heard[first + n].numpy() for n in range(len(found.tracks))]
        assert {next(t.name for t in found.tracks if holds(t, spec, part)) for part in parts} == {t.name for t in found.tracks}


def holds(track: Track, spec: Recipe, part: F32) -> bool:
    """Whether ``part`` is a stretch of the track, to the sample."""
    whole = hear(track, spec.classes, 0, track.length).leaves
    length = part.shape[2]
    starts = np.flatnonzero(np.all(whole[:, 0, : whole.shape[2] - length + 1] == part[:, 0, :1], axis=0))
    return any(np.array_equal(whole[:, :, start : start + length], part) for start in starts)


@pytest.mark.parametrize("as_is", [0.0, 0.5, 1.0])
def test_training_hears_tracks_as_they_are_as_often_as_asked(copies: dict[str, Path], as_is: float) -> None:
    spec = recipe(copies["lsx"], f"data.as_is={as_is}")
    found = sounds(spec, "train")
    mixtures = Mixtures(found, spec, "train")
    own = [any(holds(track, spec, mixtures[n].numpy()) for track in found.tracks) for n in range(24)]
    assert np.mean(own) == pytest.approx(as_is, abs=0.25 if as_is == 0.5 else 0)


# ---- stereo -----------------------------------------------------------------------------------------------------------


def clips_of(samples: NDArray[np.generic], *others: NDArray[np.generic]) -> Library:
    """Every class has these clips."""
    return gathered(
        (Named(leaf, Held(Path(f"{leaf}{n}"), "", held=each)) for leaf in LEAVES for n, each in enumerate((samples, *others))),
        LEAVES,
    )


PLAIN = MixSpec(seconds=SECONDS, activity=1, partly=0, second_voice=0, speech_speed=0, music_speed=0, filtered=0, stereo=1)


@pytest.mark.parametrize("speed", [0.0, 2.0])
def test_stereo_clips_keep_their_image_or_are_mirrored(speed: float) -> None:
    both = steps(1, channels=1) @ np.array([[4, 1]], np.int16)  # twice as loud, and more, on the left
    ratios = set()
    for seed in range(6):
        spec = replace(PLAIN, speech_speed=speed, music_speed=speed)
        stems = draw_mixture(clips_of(both), FAMILIES, spec, RATE_HZ, np.random.default_rng(seed))
        power = np.square(stems, dtype=np.float64).sum(axis=2)
        ratios |= set(np.round(power[:, 0] / power[:, 1], 2))
    assert ratios == {16.0, round(1 / 16, 2)}


def test_unpanned_mixtures_hold_the_middle_of_stereo_clips() -> None:
    stems = draw_mixture(clips_of(steps(1, channels=2)), FAMILIES, replace(PLAIN, stereo=0), RATE_HZ, np.random.default_rng(1))
    np.testing.assert_allclose(stems[:, 0], stems[:, 1], rtol=1e-6)
    assert stems.any(axis=(1, 2)).all()


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), stereo=st.floats(0, 1))
def test_mono_and_stereo_clips_are_mixed_at_the_level_asked_for(seed: int, stereo: float) -> None:
    spec = MixSpec(seconds=0.25, second_voice=1.0, stereo=stereo, mix_low_db=-20, mix_high_db=-20)
    found = clips_of(steps(1, channels=2), steps(2)[:, 0])
    stems = draw_mixture(found, FAMILIES, spec, RATE_HZ, np.random.default_rng(seed))
    assert np.isfinite(stems).all()
    assert 10 * np.log10(np.square(stems.sum(axis=0, dtype=np.float64)).mean()) == pytest.approx(-20, abs=1e-3)


def test_what_is_over_full_scale_is_not_clipped(tmp_path: Path) -> None:
    loud = np.random.default_rng(1).uniform(-2, 2, 1000).astype(np.float32)
    (tmp_path / "train/bass").mkdir(parents=True)
    soundfile.write(tmp_path / "train/bass/a.wav", loud, RATE_HZ, subtype="FLOAT")
    found = read_library(Wanted(tmp_path, "train", {"bass": ["bass"]}), RATE_HZ)
    np.testing.assert_array_equal(found["bass"][0].samples, loud)
    write_shards(found, tmp_path / "shards", "train", RATE_HZ)
    (again,) = read_library(Wanted(tmp_path / "shards", "train", {"bass": ["bass"]}), RATE_HZ)["bass"]
    np.testing.assert_allclose(again.samples, loud, atol=2 * 2**-23)


# ---- the same number is the same mixture ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NUMBERED)
def test_a_mixture_depends_on_seed_and_number_alone(copies: dict[str, Path], name: str) -> None:
    as_is = "data.as_is=0.5" if name in PREMIXED else "data.as_is=0"
    spec = recipe(copies[name], as_is, families=families_of(name))
    one, again = (Mixtures(sounds(spec, "train"), spec, "train") for _ in range(2))
    forward = [one[n] for n in range(6)]
    backward = [again[n] for n in reversed(range(6))]
    assert all(torch.equal(a, b) for a, b in zip(forward, reversed(backward), strict=True))
    other = replace(spec, seed=spec.seed + 1)
    assert not torch.equal(Mixtures(sounds(other, "train"), other, "train")[0], forward[0])


def batches(spec: Recipe, steps_done: int, count: int) -> list[torch.Tensor]:
    done = steps_done * spec.train.batch
    return list(itertools.islice(training_batches(training_sounds(spec), spec, Share(done)), count))


@pytest.mark.parametrize("name", ["lsx", "shards"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_where_it_was(copies: dict[str, Path], name: str, workers: int) -> None:
    spec = recipe(copies[name], "data.as_is=0.5", f"data.workers={workers}")
    whole, rest = batches(spec, 0, 5), batches(spec, 3, 2)
    assert torch.equal(torch.stack(whole[3:]), torch.stack(rest))
    assert len({batch.numpy().tobytes() for batch in whole}) == 5
    if name == "lsx":
        assert torch.equal(torch.stack(whole), torch.stack(batches(replace(spec, data=replace(spec.data, workers=1)), 0, 5)))


# ---- shards -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("seconds", [0.0, 0.2])
def test_shards_hold_the_clips_of_what_they_were_made_of(
    copies: dict[str, Path], name: str, seconds: float, tmp_path: Path
) -> None:
    """To the sample; cut ones when their pieces are put together again."""
    found = read(copies, name)
    made = write_shards(found, tmp_path, "train", RATE_HZ, seconds=seconds, mib=0.02)
    assert len(made) > 1
    again = read({name: tmp_path}, name)
    for leaf in found:
        if not seconds:
            assert waves(again[leaf]) == waves(found[leaf])
            assert Counter(clip.group for clip in again[leaf]) == Counter(clip.group for clip in found[leaf])
        assert sum(len(clip.samples) for clip in again[leaf]) == sum(len(clip.samples) for clip in found[leaf])
        assert not seconds or max(len(clip.samples) for clip in again[leaf]) <= seconds * RATE_HZ
    assert len(again.tracks) == len(found.tracks) * (3 if seconds else 1)
    for track in again.tracks:
        heard = hear(track, families_of(name), 0, track.length)
        np.testing.assert_allclose(heard.leaves.sum(axis=0), heard.mix, atol=1e-6)
    if seconds and found.tracks:
        song = found.tracks[0]
        pieces = [
            hear(t, families_of(name), 0, t.length).leaves
            for t in sorted(again.tracks, key=lambda t: t.name)
            if t.name.startswith(f"{song.name}@")
        ]
        np.testing.assert_array_equal(np.concatenate(pieces, axis=2), hear(song, families_of(name), 0, song.length).leaves)


def test_shards_are_the_same_bytes_each_time(copies: dict[str, Path], tmp_path: Path) -> None:
    found = read(copies, "folders")
    one, again = (write_shards(found, tmp_path / name, "train", RATE_HZ, mib=0.05) for name in ("a", "b"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in again]


def test_every_stretch_of_shards_has_every_class(tmp_path: Path) -> None:
    """They are read from front to back: a class that comes last would not be heard for long."""
    counts = {"male": 40, "bass": 10}
    clips = (
        Named(leaf, Held(Path(f"{leaf}{n}"), "", held=steps(n, seconds=0.01)[:, 0]))
        for leaf, count in counts.items()
        for n in range(count)
    )
    made = write_shards(gathered(clips, counts), tmp_path, "train", RATE_HZ, mib=1)
    want = Wanted(tmp_path, "train", {leaf: [leaf] for leaf in counts})
    order = [name for shard in made for unit in shards.listed_units(shard, want) for name, _ in unit]
    assert all("bass" in order[n : n + 12] for n in range(len(order) - 12))


def keys(units: Iterable[Sequence[Named]]) -> list[str]:
    return [str(named.clip.cached) for unit in units for named in unit]


@pytest.mark.parametrize(("ranks", "workers"), [(1, 1), (1, 3), (2, 2)])
def test_readers_together_see_every_clip_once_an_epoch(copies: dict[str, Path], ranks: int, workers: int) -> None:
    spec = recipe(copies["shards"])
    stream = training_sounds(spec)
    assert isinstance(stream, Stream)
    everything = [
        key
        for shard in stream.shards
        for unit in shards.listed_units(shard, stream.wanted)
        for name, (key, *_) in unit
        if name in LEAVES
    ]
    readers = ranks * workers
    seen: list[Counter[str]] = [Counter(), Counter()]
    for reader in range(readers):
        lengths = [
            sum(
                sum(1 for _ in shards.listed_units(stream.shards[n], stream.wanted)) for n in stream.order(epoch, reader, readers)
            )
            for epoch in (0, 1)
        ]
        units = stream.units(reader, readers)
        for epoch, length in enumerate(lengths):
            seen[epoch] += Counter(keys(itertools.islice(units, length)))
    assert seen == [Counter(everything)] * 2


@pytest.mark.parametrize("skip", range(0, 14, 3))
def test_a_stream_goes_on_after_what_was_read(copies: dict[str, Path], skip: int) -> None:
    stream = training_sounds(recipe(copies["shards"]))
    assert isinstance(stream, Stream)
    whole = keys(itertools.islice(stream.units(0, 2), skip, skip + 8))
    assert keys(itertools.islice(stream.units(0, 2, skip), 8)) == whole


def test_ranks_hear_different_mixtures_and_each_track_once(copies: dict[str, Path]) -> None:
    spec = recipe(copies["shards"], "data.as_is=1", "mix.seconds=0.5", "data.draws=1")
    heard = []
    for rank in range(2):
        stream = training_sounds(spec)
        assert isinstance(stream, Stream)
        mine = sum(1 for n in stream.order(0, rank, 2) for _ in shards.listed_units(stream.shards[n], stream.wanted))
        heard += [mixture.numpy() for mixture in itertools.islice(StreamedMixtures(stream, spec, Share(0, rank, 2)), mine)]
    expected = [hear(track, FAMILIES, 0, track.length).leaves for track in read(copies, "lsx").tracks]
    assert {part.tobytes() for part in heard} == {part.tobytes() for part in expected}
    assert len(heard) == len(expected)


def test_patterns_and_folders_name_the_same_shards(copies: dict[str, Path]) -> None:
    want = wanted(copies["shards"], "shards")
    found = shards.shards_of(want)
    home = copies["shards"]
    for pattern in (f"train-{{000000..{len(found) - 1:06d}}}.tar", "{train,valid,test}-*.tar"):
        assert shards.shards_of(replace(want, root=home / pattern)) == found
    assert layout_of(replace(want, root=home / "train-*.tar")) == "shards"


def test_shards_of_others_need_a_sound_and_its_class(tmp_path: Path) -> None:
    import webdataset  # noqa: PLC0415 - takes a second

    sound = write(tmp_path / "a.wav", steps(1)).read_bytes()
    (tmp_path / "shards/train").mkdir(parents=True)
    with webdataset.TarWriter(str(tmp_path / "shards/train/00.tar"), encoder=False) as tar:
        tar.write({"__key__": "some/where/a", "wav": sound, "json": b'{"cls": "Bass"}', "txt": b"a bass"})
    stream = open_stream(Wanted(tmp_path / "shards", "train", {"low": ["bass"]}), RATE_HZ // 2, 1, seed=1)
    (named,) = next(stream.units(0, 1))
    assert (named.name, named.clip.group, named.track) == ("low", "", False)
    assert len(named.clip.samples) == round(SECONDS * RATE_HZ / 2)


def test_generated_clips_join_a_stream(copies: dict[str, Path]) -> None:
    spec = recipe(copies["shards"], "data.synthetic_share=1", "data.synthetic_seconds=1", "data.synthetic_clips=1")
    stream = training_sounds(spec)
    assert isinstance(stream, Stream)
    window = next(stream.windows(0, 1, 0, 2))
    assert sum(clip.chance for clip in window.library["bass"] if isinstance(clip, Held)) == 0
    assert sum(clip.chance for clip in window.library["bass"]) == pytest.approx(1)


def test_the_command_writes_every_split(
    copies: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["shards", str(copies["folders"]), str(tmp_path), "--recipe", "tiny", "--mib", "1"])
    shards.main()
    assert capsys.readouterr().out.splitlines() == [f"{tmp_path}: {split}, 10 sounds in 1 shards" for split in SPLITS]
    with pytest.raises(SystemExit, match=r"holds shards of split 'train' already; choose another folder") as end:
        shards.main()
    assert "\n" not in str(end.value)


# ---- what is wrong is said --------------------------------------------------------------------------------------------


def nothing(root: Path) -> None:
    pass


def other_rate(root: Path) -> None:
    write(root / "train/song 0/bass.wav", steps(1), RATE_HZ // 2)


def other_length(root: Path) -> None:
    write(root / "train/song 0/bass.wav", steps(1, seconds=0.4))


def no_bass(root: Path) -> None:
    for file in root.rglob("*bass.wav"):
        file.unlink()


def no_sound(root: Path) -> None:
    min((root / "train").rglob("bass.wav")).write_text("not a sound\nat all")


def no_columns(root: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"path": "a.wav"}]), root / "manifest.parquet")


def no_table(root: Path) -> None:
    (root / "manifest.parquet").write_bytes(b"PAR1 of something else")


def offset_of(text: str) -> Callable[[Path], None]:
    def harm(root: Path) -> None:
        write(root / "a.wav", steps(1))
        (root / "manifest.csv").write_text(f"path,split,cls,offset\na.wav,train,bass,{text}\n")

    return harm


def no_guitar(root: Path) -> None:
    (root / "tr/track0/guitar.wav").unlink()


def no_metadata(root: Path) -> None:
    (root / "train/Track00000/metadata.yaml").unlink()


def hostile_metadata(root: Path) -> None:
    (root / "train/Track00000/metadata.yaml").write_text("stems: !!python/object/apply:os.system ['true']")


def empty_metadata(root: Path) -> None:
    (root / "train/Track00000/metadata.yaml").write_text("stems: 3")


WRONG: list[tuple[str, Callable[[Path], None], str, str]] = [
    ("folders", nothing, "stem", r"data.layout 'stem' is unknown; did you mean 'stems'\? known: auto, "),
    ("folders", shutil.rmtree, "folders", "does not exist; set data.root"),
    ("lsx", shutil.rmtree, "lsx", "does not exist; set data.root"),
    ("folders", no_sound, "auto", "class 'male' has no files"),
    ("stems", no_bass, "auto", "class 'bass' has no files in .* expected sounds of 'bass or speech_bass'"),
    ("stems", other_rate, "auto", "drums.wav' has 24000 Hz, .* 'bass.wav' 12000 Hz, .*; expected one rate in a track"),
    ("stems", other_length, "auto", "samples; expected one length in a track"),
    ("stems", no_sound, "auto", "bass.wav' cannot be read as sound"),
    ("lsx", no_guitar, "auto", "lacks 'guitar.wav'; a silent source is a file of zeros"),
    ("folders", no_columns, "auto", "lacks the columns cls, split; expected path, split, cls"),
    ("folders", no_table, "auto", "manifest.parquet' cannot be read"),
    ("folders", offset_of("-1"), "auto", "offset of 'a.wav' is '-1'; expected seconds, 0 or more"),
    ("folders", offset_of("nan"), "auto", "offset of 'a.wav' is 'nan'; expected seconds, 0 or more"),
    ("folders", nothing, "manifest", "has no manifest.csv or manifest.parquet"),
    ("folders", nothing, "shards", "names no archives"),
    ("slakh", no_metadata, "auto", "has no metadata.yaml; expected a track of Slakh2100"),
    ("slakh", hostile_metadata, "auto", "cannot be read .*; expected the metadata of Slakh2100"),
    ("slakh", empty_metadata, "auto", "cannot be read .*; expected the metadata of Slakh2100"),
]


@pytest.mark.parametrize(("name", "harm", "layout", "words"), WRONG, ids=lambda value: getattr(value, "__name__", None))
def test_data_that_cannot_be_used_is_named_in_one_line(
    tmp_path: Path, name: str, harm: Callable[[Path], None], layout: str, words: str
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    if name != "folders":
        MAKERS[name][0](root)
    elif harm is no_sound:
        write(root / "train/bass/bass.wav", steps(1))
    harm(root)
    with pytest.raises(DataError, match=words) as error:
        read_library(wanted(root, name), RATE_HZ, layout=layout)
    assert "\n" not in str(error.value)


def test_an_offset_behind_the_end_is_named(tmp_path: Path) -> None:
    offset_of("9")(tmp_path)
    with pytest.raises(DataError, match=r"a.wav' cannot be read as sound \(it ends before 9 s\)"):
        read_library(Wanted(tmp_path, "train", {"bass": ["bass"]}), RATE_HZ)


@pytest.fixture
def shard(copies: dict[str, Path], tmp_path: Path) -> Path:
    path = tmp_path / "train-000000.tar"
    path.write_bytes((copies["shards"] / path.name).read_bytes())
    return path


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9])
def test_a_truncated_shard_is_named_wherever_it_was_cut(shard: Path, kept: float) -> None:
    data = shard.read_bytes().rstrip(bytes(1))
    shard.write_bytes(data[: round(kept * len(data) / 512) * 512])  # between two blocks, where tar itself is content
    with pytest.raises(DataError, match=r"train-000000.tar' is truncated or no tar archive") as error:
        read_library(wanted(shard.parent, "shards"), RATE_HZ)
    assert "\n" not in str(error.value)


def test_a_shard_that_breaks_in_the_middle_is_named_while_it_streams(shard: Path) -> None:
    stream = open_stream(wanted(shard.parent, "shards"), RATE_HZ, 1, seed=1)
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"train-000000.tar' is truncated or no tar archive") as error:
        list(itertools.islice(stream.units(0, 1), 50))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ({"json": b'{"cls": "bass"}'}, "is json; expected a sound and its .json"),
        ({"flac": b"x"}, "is flac; expected a sound and its .json"),
        ({"flac": b"x", "json": b"[1]"}, "'a.json' cannot be used"),
        ({"flac": b"x", "json": b'{"group": "b"}'}, "'a.json' cannot be used"),
        ({"flac": b"x", "json": b'{"cls": "bass", "track": true}'}, "'a.json' cannot be used .*a track without a group"),
        ({"flac": b"x", "json": b'{"cls": "bass", "gain": NaN}'}, "'a.json' cannot be used .*no number"),
        ({"flac": b"x", "json": b'{"cls": "bass"' + b" " * 70000 + b"}"}, "'a.json' cannot be used .*bytes long"),
        ({"flac": b"x", "json": b'{"cls": "bass"}'}, "cannot be read as sound"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_members_that_are_no_clip_are_named(tmp_path: Path, sample: dict[str, bytes], words: str, streamed: bool) -> None:
    import webdataset  # noqa: PLC0415

    with webdataset.TarWriter(str(tmp_path / "train-0.tar"), encoder=False) as tar:
        tar.write({"__key__": "a", **sample})
    want = Wanted(tmp_path, "train", {"bass": ["bass"]})
    with pytest.raises(DataError, match=words) as error:
        if streamed:
            next(Stream((tmp_path / "train-0.tar",), want, RATE_HZ, 1, seed=1).units(0, 1))
        else:
            read_library(want, RATE_HZ)
    assert "\n" not in str(error.value)


def test_more_readers_than_shards_are_refused(shard: Path) -> None:
    stream = open_stream(wanted(shard.parent, "shards"), RATE_HZ, 1, seed=1)
    with pytest.raises(DataError, match="1 shards cannot be shared by 2 readers"):
        next(stream.units(0, 2))


def test_a_class_that_is_in_no_shard_is_named_before_training(copies: dict[str, Path]) -> None:
    spec = recipe(copies["shards"], families={**FAMILIES, "animals": ["dog"]})
    with pytest.raises(DataError, match=r"class 'dog' has no files in .* \(layout shards, split train\)"):
        training_sounds(spec)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.layout=shard"], "data.layout 'shard' is unknown; did you mean 'shards'?"),
        (["data.channels=3"], "'data.channels' is 3; expected 1 or 2"),
        (["data.as_is=2"], "'data.as_is' is 2.0; expected 0 to 1"),
        (["data.draws=0"], "'data.draws' is 0; expected 1 or more"),
        (["data.window=0"], "'data.window' is 0; expected 1 or more"),
        (["data.folders={bass: 3}"], "'data.folders.bass' is 3; expected a name or a list of names"),
        (["data.as_is=0.5"], "data.as_is is 0.5, but .* holds no tracks"),
        (["data.tree=/nowhere.toml"], "class tree '/nowhere.toml' cannot be read"),
    ],
)
def test_recipes_that_ask_for_what_is_not_there_are_refused(copies: dict[str, Path], overrides: list[str], words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        training_sounds(recipe(copies["folders"], *overrides))
    assert "\n" not in str(error.value)


def test_shards_without_tracks_cannot_be_heard_as_they_are(copies: dict[str, Path], tmp_path: Path) -> None:
    write_shards(read(copies, "folders"), tmp_path, "train", RATE_HZ)
    with pytest.raises(DataError, match=r"data.as_is is 1, but .* holds no tracks"):
        training_sounds(recipe(tmp_path, "data.as_is=1"))


# ---- class trees ------------------------------------------------------------------------------------------------------

TREE = """
mix = "all"
[parents]
loud = "loud_mix"
[leaves.loud]
kit = "drums"
[leaves.soft]
harp = "harp"
flute = "wind"
"""


def test_another_class_tree_is_read_by_a_toml_file(tmp_path: Path) -> None:
    (tmp_path / "tree.toml").write_text(TREE)
    parts = {name: steps(seed_of(name)) for name in ("drums", "harp", "wind")}
    for name, samples in {**parts, "loud_mix": parts["drums"], "all": sum(parts.values())}.items():
        write(tmp_path / "set/tr/one" / f"{name}.wav", samples)
    (tmp_path / "mine.yaml").write_text(
        f"name: mine\ndata: {{root: {tmp_path / 'set'}, tree: {tmp_path / 'tree.toml'}, as_is: 1}}"
    )
    spec = load_recipe(str(tmp_path / "mine.yaml"), ["data.layout=auto"])
    assert spec.classes == {"loud": ["kit"], "soft": ["harp", "flute"]}
    found = read_library(wanted_by(spec, "train"), RATE_HZ)
    (track,) = found.tracks
    assert set(track.sums) == {MIX, "loud"}
    np.testing.assert_array_equal(track.leaves["flute"][0].samples, parts["wind"][:, 0])
    heard = hear(track, spec.classes, 0, track.length)
    np.testing.assert_allclose(heard.parents.sum(axis=0), heard.mix, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mix = ", "cannot be read"),
        ("leafs = 3", "key 'leafs' is unknown; did you mean 'leaves'?"),
        ("mix = 'mix'", r"expected \[parents\] and \[leaves.PARENT\]"),
        ("leaves = 3", "holds 3; expected"),
        ("[leaves]\nmusic = 'a'", "holds 'a'; expected"),
        ("[leaves.music]\nbass = 3", "file names as text"),
        ("[leaves.music]\nbass = 'b'\n[parents]\nmusik = 'm'", "parent 'musik' has no leaves; did you mean 'music'?"),
    ],
)
def test_a_file_that_is_no_class_tree_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "tree.toml").write_text(text)
    (tmp_path / "mine.yaml").write_text(f"name: mine\ndata: {{tree: {tmp_path / 'tree.toml'}}}")
    with pytest.raises(DataError, match=words) as error:
        load_recipe(str(tmp_path / "mine.yaml"))
    assert "\n" not in str(error.value)


def test_a_class_that_is_not_in_the_tree_is_named(copies: dict[str, Path]) -> None:
    with pytest.raises(DataError, match=r"class 'guitars' is not in the tree of the data set; did you mean 'guitar'?"):
        read_library(Wanted(copies["lsx"], "train", {"guitars": ["guitars"]}), RATE_HZ)


# ---- journeys ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lsx", "shards", "parquet"])
def test_a_training_runs_on_it(copies: dict[str, Path], name: str, tmp_path: Path) -> None:
    overrides = [f"data.root={copies[name]}", "mix.seconds=0.25", "train.batch=2", "train.steps=2", "train.validate_every=2"]
    extra = ["data.valid_mixtures=2", "data.channels=2", "data.window=2", f"data.as_is={float(name != 'parquet')}"]
    assert train_main(["tiny", *overrides, *extra, "--quiet", "--out", str(tmp_path / "out")]) == 0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(toy_bundle.make(tmp_path_factory.mktemp("toy"), geometry=StftSpec(512, 128, 64), sample_rate_hz=RATE_HZ))


@pytest.mark.parametrize("name", ALL)
def test_scores_are_of_the_data_sets_own_tracks_of_its_split_for_testing(
    copies: dict[str, Path], bundle: Bundle, name: str
) -> None:
    families = families_of(name)
    classes = [*(ClassSpec(parent, None, "#000000") for parent in families)]
    classes += [ClassSpec(leaf, parent, "#000000") for parent, members in families.items() for leaf in members]
    stems = list(evaluate.mixtures(copies[name], replace(bundle, classes=tuple(classes)), 4))
    own = read(copies, name, "test").tracks
    if not own:
        assert [part.shape for part in stems] == [(len(LEAVES), 2, 10 * RATE_HZ)] * 4
    else:
        expected = [hear(track, families, 0, track.length).leaves for track in own]
        assert {part.tobytes() for part in stems} == {part.tobytes() for part in expected}


def test_every_layout_stands_in_these_tests() -> None:
    of_clips = {"events", "tut_rare", "weak_labels"}  # which test_weak_data has
    assert {name.replace("parquet", "manifest") for name in ALL} | of_clips == set(LAYOUTS)

"""Data with clip labels: the generator of mixtures, the layouts, and the caches of what a network hears."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import soundfile
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sepstream.contract import StftSpec
from sepstream.errors import DataError
from sepstream_training.data import remix, segments, tagged, tut_rare, weak_labels
from sepstream_training.data.entries import MIX, Wanted
from sepstream_training.data.events import class_in_name, events_by_class, split_events
from sepstream_training.data.layouts import layout_of, read_library
from sepstream_training.data.loader import Mixtures, sounds
from sepstream_training.data.remix import Event, RemixSpec, draw_remix, write_remixes
from sepstream_training.data.tagged import Parameters, TaggedClip, TaggedClips, clips_of, parameters_of, write_cache
from sepstream_training.recipe import Recipe, load_recipe
from small_disk import room

F32 = NDArray[np.float32]
Capture = pytest.CaptureFixture[str]

RATE_HZ = 8000
CLASSES = ("cough", "drawer", "keys")

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEPSTREAM_CACHE", str(tmp_path / "cache"))


def noise(seconds: float, *seed: int, rate_hz: int = RATE_HZ, channels: int = 1) -> F32:
    shape = (round(seconds * rate_hz), channels)
    return np.random.default_rng(seed).uniform(-0.4, 0.4, shape).astype(np.float32)


def write(path: Path, sound: F32, rate_hz: int = RATE_HZ) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, rate_hz, subtype="FLOAT")
    return path


@pytest.fixture
def events(tmp_path: Path) -> Path:
    """DCASE2013's naming: ten of each class."""
    for i, name in enumerate(CLASSES):
        for number in range(10):
            write(tmp_path / "events" / f"{name}{number:02d}.wav", noise(0.1 + 0.01 * number, i, number))
    return tmp_path / "events"


def wanted(root: Path, split: str = "train", names: Sequence[str] = CLASSES) -> Wanted:
    return Wanted(root, split, {name: [name] for name in names})


# ---- isolated events --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cough07.wav", "cough_07.wav", "cough-7.flac", "cough 07.ogg", "cough.wav"])
def test_a_name_begins_with_its_class(name: str) -> None:
    assert class_in_name(Path(name)) == "cough"


def test_events_are_found_split_without_overlap_and_read(events: Path) -> None:
    write(events / "laughter" / "anything.wav", noise(0.1, 9))
    assert list(events_by_class(events)) == [*CLASSES, "laughter"]
    assert layout_of(wanted(events)) == "events"
    parts = {split: read_library(wanted(events, split), RATE_HZ) for split in ("train", "valid", "test")}
    assert [len(parts[split]["cough"]) for split in parts] == [8, 1, 1]
    clips = [clip.cached for library in parts.values() for clip in library["cough"]]
    assert len(set(clips)) == 10
    assert split_events(events_by_class(events)) == split_events(events_by_class(events))
    assert split_events(events_by_class(events), seed=1) != split_events(events_by_class(events))


# ---- mixtures of them -------------------------------------------------------------------------------------------------


def of(lengths: Sequence[int]) -> list[Event]:
    return [Event(CLASSES[i % 3], np.full(n, 0.1 * (i + 1), np.float32)) for i, n in enumerate(lengths)]


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 1500), min_size=1, max_size=6),
    seed=st.integers(0, 999),
    overlap=st.booleans(),
    most=st.integers(1, 6),
    noisy=st.sampled_from([0.0, 0.1, 3.0]),
)
def test_a_mixture_is_the_sum_of_its_sources(lengths: list[int], seed: int, overlap: bool, most: int, noisy: float) -> None:
    """To the last bit, at full scale, whatever is drawn; and the noise is as loud as was asked."""
    spec = RemixSpec(seconds=0.1, rate_hz=RATE_HZ, overlap=overlap, most_events=most, noise=noisy)
    drawn = draw_remix(of(lengths), spec, np.random.default_rng(seed))
    assert drawn.mix.shape == (800,)
    assert 32700 <= np.abs(drawn.mix).max() <= 32767
    assert 1 <= len(drawn.sources) <= min(most, 3)
    clean = sum(drawn.sources.values(), np.zeros(800, np.int32))
    np.testing.assert_array_equal(drawn.mix, clean + drawn.noise)
    ratio = np.square(drawn.noise.astype(float)).sum() / np.square(clean.astype(float)).sum()
    assert ratio == pytest.approx(noisy, rel=0.02, abs=1e-6)
    if not overlap:
        sounding = np.stack(list(drawn.sources.values())) != 0
        assert sounding.sum(axis=0).max() == 1


def test_events_too_long_for_the_mixture_fill_it_without_a_gap() -> None:
    spec = RemixSpec(seconds=0.1, rate_hz=RATE_HZ, most_events=4, noise=0.0)
    for seed in range(20):
        mix = draw_remix(of([900]), spec, np.random.default_rng(seed)).mix
        assert (mix != 0).all()


def test_events_that_fill_it_exactly_and_shorter_ones_keep_their_length() -> None:
    spec = RemixSpec(seconds=0.1, rate_hz=RATE_HZ, most_events=1, noise=0.0)
    assert (draw_remix(of([800]), spec, np.random.default_rng(0)).mix != 0).sum() == 800
    starts = set()
    for seed in range(20):
        sounding = np.flatnonzero(draw_remix(of([300]), spec, np.random.default_rng(seed)).mix)
        assert len(sounding) == 300 == sounding[-1] - sounding[0] + 1
        starts.add(int(sounding[0]))
    assert len(starts) > 10


@pytest.fixture
def remixed(events: Path, tmp_path: Path) -> Path:
    write_remixes(events, tmp_path / "mixed", RemixSpec(seconds=0.5, rate_hz=RATE_HZ, mixtures=20, seed=3))
    return tmp_path / "mixed"


def test_a_data_set_of_mixtures_is_complete_and_the_same_for_the_same_seed(events: Path, remixed: Path, tmp_path: Path) -> None:
    tracks = {
        split: sorted(path for path in (remixed / split).iterdir() if path.is_dir()) for split in ("train", "valid", "test")
    }
    assert [len(found) for found in tracks.values()] == [16, 2, 2]
    with (remixed / "train/weak_labels.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    for row, track in zip(rows, tracks["train"], strict=True):
        stems = {path.stem: soundfile.read(path, dtype="int16")[0].astype(int) for path in track.iterdir()}
        mix = stems.pop("mix")
        np.testing.assert_array_equal(mix, sum(stems.values()))
        assert row["filename"] == f"{track.name}/mix.flac"
        assert {name for name in CLASSES if row[name] == "1"} == set(stems) - {"noise"}
    for seed, same in ((3, True), (4, False)):
        again = tmp_path / f"again{seed}"
        write_remixes(events, again, RemixSpec(seconds=0.5, rate_hz=RATE_HZ, mixtures=20, seed=seed))
        files = [path.relative_to(remixed) for path in sorted(remixed.rglob("*.flac"))]
        assert (
            all((again / file).is_file() and (again / file).read_bytes() == (remixed / file).read_bytes() for file in files)
            == same
        )


def test_the_command_says_what_it_did_or_what_is_wrong(events: Path, tmp_path: Path, capsys: Capture) -> None:
    flags = ["--seconds", "0.2", "--mixtures", "10", "--rate-hz", "8000", "--most-events", "2", "--overlap", "--noise", "0"]
    assert remix.main([str(events), str(tmp_path / "out"), *flags]) == 0
    assert "8 train, 1 valid, 1 test" in capsys.readouterr().out
    for arguments, message in (
        ([str(events), str(tmp_path / "out")], "exists; expected a new folder"),
        ([str(events), str(tmp_path / "new"), "--seconds", "0"], "--seconds is 0"),
        ([str(events), str(tmp_path / "new"), "--train", "0.9", "--valid", "0.2"], "--valid is 0.2"),
        ([str(tmp_path / "nowhere"), str(tmp_path / "new")], "is no folder"),
    ):
        assert remix.main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert not (tmp_path / "new").exists()


def test_a_full_disk_leaves_nothing(events: Path, tmp_path: Path, capsys: Capture) -> None:
    with room(4096):
        assert remix.main([str(events), str(tmp_path / "out"), "--mixtures", "10"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"events", "cache"}


def test_mixtures_are_tracks_with_their_stems_and_clips_with_their_labels(remixed: Path) -> None:
    assert layout_of(wanted(remixed)) == "weak_labels"
    library = read_library(wanted(remixed), RATE_HZ)
    assert len(library.tracks) == 16
    assert not any(MIX in track.sums for track in library.tracks)  # there is noise that no class has
    whole = read_library(wanted(remixed, names=(*CLASSES, "noise")), RATE_HZ)
    assert all(MIX in track.sums for track in whole.tracks)
    for clip, track in zip(weak_labels.clips(wanted(remixed), 0.5), library.tracks, strict=True):
        assert set(clip.labels) == {name for name, clips in track.leaves.items() if clips}
        assert clip.read().samples.shape == (4000, 1)
    grouped = Wanted(remixed, "train", {"mouth": ["cough"], "things": ["drawer", "keys"]})
    labels = [clip.labels for clip in weak_labels.clips(wanted(remixed), 0.5)]
    for clip, each in zip(weak_labels.clips(grouped, 0.5), labels, strict=True):
        assert ("things" in clip.labels) == ("drawer" in each or "keys" in each)


def test_the_reference_systems_own_folders_are_read_the_same(tmp_path: Path) -> None:
    """DCASE2013 mixtures: training, development, validation; NAME.wav beside NAME/CLASS.wav, silent ones included."""
    for split, number in (("training", 1), ("development", 2), ("validation", 3)):
        sounds = {name: noise(0.2, number, i) * (i != number % 3) for i, name in enumerate(CLASSES)}
        for name, sound in sounds.items():
            write(tmp_path / "d" / split / "aa" / f"{name}.wav", sound)
        write(tmp_path / "d" / split / "aa.wav", np.sum(list(sounds.values()), axis=0))
        labels = [str(int(i != number % 3)) for i in range(3)]
        (tmp_path / "d" / split / "weak_labels.csv").write_text(f"filename,{','.join(CLASSES)}\naa.wav,{','.join(labels)}\n")
    for split, absent in (("train", "drawer"), ("valid", "keys"), ("test", "cough")):
        (clip,) = weak_labels.clips(wanted(tmp_path / "d", split), 1.0)
        assert set(clip.labels) == set(CLASSES) - {absent}
        (track,) = read_library(wanted(tmp_path / "d", split), RATE_HZ).tracks
        assert MIX in track.sums


@pytest.mark.parametrize("text", ["name,cough\na.wav,1\n", "filename,cough\na.wav,2\n", "filename,cough\na.wav\n"])
def test_a_broken_table_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "d/train").mkdir(parents=True)
    (tmp_path / "d/train/weak_labels.csv").write_text(text)
    with pytest.raises(DataError, match=r"weak_labels\.csv' cannot be read") as error:
        list(weak_labels.clips(wanted(tmp_path / "d"), 1.0))
    assert "\n" not in str(error.value)


# ---- TUT rare sound events --------------------------------------------------------------------------------------------

RARE = ("babycry", "glassbreak", "gunshot", "background")


@pytest.fixture
def rare(tmp_path: Path) -> Path:
    for folder, count in (("training", 11), ("testing", 3)):
        for number in range(count):
            place = tmp_path / "rare" / folder
            parts = noise(0.3, number, channels=2)
            write(place / f"{number:04d}.bg.wav", parts[:, :1])
            write(place / f"{number:04d}.event.wav", parts[:, 1:])
            write(place / f"{number:04d}.mix_0db.wav", parts)
            facts = {"event_type": RARE[number % 3], "event_segment": [0.1, 0.25]}
            (place / f"{number:04d}.yaml").write_text(yaml.safe_dump(facts))
    return tmp_path / "rare"


def test_rare_events_are_tracks_of_two_channels_and_three_clips(rare: Path) -> None:
    assert layout_of(wanted(rare, names=RARE)) == "tut_rare"
    counts = {split: len(read_library(wanted(rare, split, RARE), RATE_HZ).tracks) for split in ("train", "test")}
    assert counts == {"train": 9, "test": 3}
    clips = list(tut_rare.clips(wanted(rare, "valid", RARE), 0.3))
    assert len(clips) == 2 * 3  # items 0 and 10
    background, event, mix = clips[:3]
    assert background.labels == {"background": 0.3}
    assert event.labels == {"babycry": pytest.approx(0.15)}
    assert mix.labels == {**background.labels, **event.labels}
    stems = noise(0.3, 0, channels=2)
    np.testing.assert_array_equal(mix.read().samples[:, 0], stems.sum(axis=1))  # the sum, not the mean
    (track,) = [t for t in read_library(wanted(rare, "test", RARE), RATE_HZ).tracks if t.name == "0000.mix_0db"]
    np.testing.assert_allclose(track.leaves["background"][0].samples / 32768, stems[:, 0], atol=2e-5)
    np.testing.assert_allclose(track.leaves["babycry"][0].samples / 32768, stems[:, 1], atol=2e-5)


def test_a_description_without_an_event_is_named(rare: Path) -> None:
    (rare / "training/0000.yaml").write_text("event: x\n")
    with pytest.raises(DataError, match=r"0000\.yaml' cannot be read"):
        list(tut_rare.clips(wanted(rare, "valid", RARE), 0.3))


# ---- Audioset segments ------------------------------------------------------------------------------------------------


@pytest.fixture
def audioset(tmp_path: Path) -> Path:
    """Two folders of ten clips; clip 0 lies in both."""
    for folder, other in (("Fire_alarm", 0), ("Dog_barking", 1)):
        for number in range(10):
            name = "both" if number == 0 else f"{folder}{number}"
            write(tmp_path / "a" / folder / f"{name}.wav", noise(3.5, other, number))
            (tmp_path / "a" / folder / f"{name}.txt").write_text(
                f"file {name}.eaf Human Speech AM\n1\t2\n{folder.replace('_', ' ')}\nTC 00:00:0.2 - 00:00:0.9\t1.2\t2.5\n"
                f"Human Speech\n2.0\t{2.8 + 0.2 * other}\n"
            )
    return tmp_path / "a"


def test_segments_have_the_labels_of_what_sounds_in_them_long_enough(audioset: Path) -> None:
    names = ("fire_alarm", "dog_barking", "human_speech")
    assert segments.found(wanted(audioset, names=names))
    clips = {split: list(segments.clips(wanted(audioset, split, names), 1.0)) for split in ("train", "valid", "test")}
    whole = {clip.name: clip for each in clips.values() for clip in each}
    assert len(whole) == 19 * 3  # of 3.5 s; the clip in two folders is one
    sources = [{clip.name.rpartition("@")[0] for clip in each} for each in clips.values()]
    assert all(not one & other for i, one in enumerate(sources) for other in sources[i + 1 :])
    first = next(clip for name, clip in whole.items() if name.endswith("Fire_alarm3.wav@0"))
    assert first.labels == {"fire_alarm": pytest.approx(0.7)}
    second = next(clip for name, clip in whole.items() if name.endswith("Fire_alarm3.wav@1"))
    assert second.labels == {"fire_alarm": pytest.approx(0.8)}
    third = next(clip for name, clip in whole.items() if name.endswith("Fire_alarm3.wav@2"))  # .5 s of alarm is too short
    assert third.labels == {"human_speech": pytest.approx(0.8)}
    both = next(clip for name, clip in whole.items() if name.endswith("both.wav@2"))
    assert both.labels == {"human_speech": pytest.approx(0.9)}  # the mean of two texts
    assert {"fire_alarm", "dog_barking"} == set(next(c for n, c in whole.items() if n.endswith("both.wav@0")).labels)
    assert len(first.read().samples) == RATE_HZ


def test_splits_give_each_class_its_share() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random((500, 4)) < [0.5, 0.2, 0.1, 0.04]
    parts = segments.stratified(labels, (0.8, 0.1, 0.1))
    assert set(parts) == {0, 1, 2}
    for part, share in enumerate((0.8, 0.1, 0.1)):
        np.testing.assert_allclose(labels[parts == part].sum(axis=0), share * labels.sum(axis=0), atol=3)


def test_a_text_of_odd_times_is_named(audioset: Path) -> None:
    (audioset / "Fire_alarm/Fire_alarm1.txt").write_text("Fire alarm\n1.0\t2.0\t3.0\n")
    with pytest.raises(DataError, match=r"Fire_alarm1\.txt' cannot be read \(3 times"):
        list(segments.clips(wanted(audioset, names=("fire_alarm",)), 1.0))


# ---- caches -----------------------------------------------------------------------------------------------------------

SMALL = Parameters(RATE_HZ, 256, 256, 128, 100, 0.25, CLASSES)


def clip(number: int, seconds: float = 0.25) -> TaggedClip:
    labels = {name: 0.1 for i, name in enumerate(CLASSES) if (number >> i) & 1}
    return TaggedClip(f"clip {number}", lambda: tagged.Sound(noise(seconds, 7, number), RATE_HZ), labels)


def small(root: Path, *overrides: str) -> Recipe:
    geometry = "geometry={analysis: 256, synthesis: 256, hop: 128}"
    own = [geometry, "sample_rate_hz=8000", "band_bins=100", "follow_hz=[1000, 3000]", "mix.seconds=0.25"]
    options = "model.options={bins: 100, bin_hz: 31.25, bands: 10, high_hz: 3000, channels: [3], kernel_bands: 3}"
    classes = f"classes=[{', '.join(CLASSES)}]"
    return load_recipe("weak", [*own, options, classes, "data.folders={}", "lookahead_hops=4", f"data.root={root}", *overrides])


def test_a_cache_holds_what_the_network_hears(tmp_path: Path) -> None:
    assert write_cache((clip(n, 0.2 + 0.02 * n) for n in range(8)), SMALL, tmp_path / "valid.h5") == 8
    read = TaggedClips(tmp_path / "valid.h5", SMALL, 1, shuffled=False)
    assert len(read) == 8
    spec = StftSpec(256, 256, 128)
    window = np.sin(np.pi * (np.arange(256) + 0.5) / 256)
    for number in range(8):
        magnitude, labels = read[number]
        sound = np.zeros(2000)
        own = noise(0.2 + 0.02 * number, 7, number)[:2000, 0]
        sound[: len(own)] = own
        for t in range(SMALL.frames):
            frame = sound[t * 128 : t * 128 + 256] * window
            np.testing.assert_allclose(magnitude[t], np.abs(np.fft.rfft(frame))[:100] / window.sum(), atol=1e-6)
        assert labels.tolist() == [(number >> i) & 1 for i in range(3)]
    assert spec.magnitude_scale == pytest.approx(1 / window.sum())
    with h5py.File(tmp_path / "valid.h5") as file:
        assert json.loads(file.attrs["parameters"])["hop_samples"] == 128
        assert file["names"][3] == b"clip 3"


def test_training_hears_every_clip_once_an_epoch_and_softer_ones(tmp_path: Path) -> None:
    write_cache(map(clip, range(8)), SMALL, tmp_path / "c.h5")
    plain = TaggedClips(tmp_path / "c.h5", SMALL, 1, shuffled=False)
    read = TaggedClips(tmp_path / "c.h5", SMALL, 1, shuffled=True, quietest=0.6)
    orders = []
    for epoch in range(2):
        drawn = [read[8 * epoch + place] for place in range(8)]
        orders.append([int(labels @ [1, 2, 4]) for _, labels in drawn])
        for (magnitude, _), number in zip(drawn, orders[-1], strict=True):
            gain = magnitude.sum() / plain[number].magnitude.sum()
            assert 0.6 <= gain <= 1
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(8))
    assert orders[0] != orders[1]
    again = TaggedClips(tmp_path / "c.h5", SMALL, 1, shuffled=True, quietest=0.6)
    np.testing.assert_array_equal(again[3].magnitude, read[3].magnitude)


def test_noise_is_as_loud_as_asked(tmp_path: Path) -> None:
    asked = Parameters(**{**vars(SMALL), "noise_snr_db": 0.0})
    write_cache(map(clip, range(4)), SMALL, tmp_path / "clean.h5")
    write_cache(map(clip, range(4)), asked, tmp_path / "noisy.h5")
    power = [
        sum(float(np.square(TaggedClips(tmp_path / name, SMALL, 1, shuffled=False)[n].magnitude).sum()) for n in range(4))
        for name in ("clean.h5", "noisy.h5")
    ]
    assert power[1] / power[0] == pytest.approx(2, rel=0.15)


MISMATCHES: dict[str, Any] = {
    "sample_rate_hz": 16000, "analysis_samples": 512, "hop_samples": 200, "bins": 99, "seconds": 0.3, "classes": ("keys",),
}  # fmt: skip


@pytest.mark.parametrize("name", MISMATCHES)
def test_a_cache_of_other_parameters_is_refused_by_name(tmp_path: Path, name: str) -> None:
    write_cache([clip(1)], SMALL, tmp_path / "c.h5")
    with pytest.raises(DataError, match=f"has {name} ") as error:
        TaggedClips(tmp_path / "c.h5", Parameters(**{**vars(SMALL), name: MISMATCHES[name]}), 1, shuffled=False)
    assert "\n" not in str(error.value)
    assert "write it anew" in str(error.value)


def test_what_is_no_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.h5").write_text("nothing")
    with pytest.raises(DataError, match="cannot be read"):
        TaggedClips(tmp_path / "c.h5", SMALL, 1, shuffled=False)
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["magnitudes"] = [1]
    with pytest.raises(DataError, match="is no cache of clips"):
        TaggedClips(tmp_path / "d.h5", SMALL, 1, shuffled=False)


def test_a_clip_that_is_no_sound_leaves_no_cache(tmp_path: Path) -> None:
    broken = TaggedClip("broken", lambda: tagged.Sound(np.full((100, 1), np.nan, np.float32), RATE_HZ), {})
    with pytest.raises(DataError, match="'broken' cannot be read as sound"):
        write_cache([clip(1), broken], SMALL, tmp_path / "c.h5")
    with pytest.raises(DataError, match="has no clips"):
        write_cache([], SMALL, tmp_path / "c.h5")
    assert list(tmp_path.glob("*")) == []


def test_the_command_writes_caches_of_any_layout(remixed: Path, tmp_path: Path, capsys: Capture) -> None:
    recipe = small(remixed)
    clips = list(clips_of(recipe, "train"))
    assert len(clips) == 16
    tracks = small(remixed, "data.layout=stems")  # the same folders, without their table: a class is there that is heard
    pieces = list(clips_of(tracks, "train"))
    assert len(pieces) == 2 * 16
    assert {name for piece in pieces[:2] for name in piece.labels} == set(clips[0].labels)
    isolated = small(remixed.parent / "events")  # what a run with this recipe would draw
    drawn = list(clips_of(isolated, "train", 3))
    assert len(drawn) == 3
    stems = Mixtures(sounds(isolated, "train"), isolated, "train")[1].numpy()
    np.testing.assert_array_equal(drawn[1].read().samples.T, stems.sum(axis=0))
    assert set(drawn[1].labels) == {name for name, stem in zip(CLASSES, stems, strict=True) if stem.any()}
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"base": "weak", "classes": list(CLASSES)}))
    overrides = [
        "geometry={analysis: 256, synthesis: 256, hop: 128}", "sample_rate_hz=8000", "band_bins=100", "follow_hz=[1000, 3000]",
        "mix.seconds=0.25", "data.folders={}",
    ]  # fmt: skip
    arguments = [str(remixed), str(tmp_path / "caches"), "--recipe", str(own), *overrides, "--noise-snr-db", "20"]
    assert tagged.main(arguments) == 0
    assert "train.h5: 16 clips" in capsys.readouterr().out
    assert parameters_of(recipe) == SMALL
    assert len(TaggedClips(tmp_path / "caches/valid.h5", SMALL, 1, shuffled=False)) == 2
    assert tagged.main([str(tmp_path / "nowhere"), str(tmp_path / "x"), "--recipe", str(own)]) == 2
    assert capsys.readouterr().err.count("\n") == 1

"""Mixtures and the libraries they are drawn from."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sepstream.errors import DataError
from sepstream_training.data import library, synthetic
from sepstream_training.data.entries import Wanted
from sepstream_training.data.layouts import read_library
from sepstream_training.data.library import Clip, Library, blend, generate_library
from sepstream_training.data.loader import training_batches, validation_batches
from sepstream_training.data.mixing import MixSpec, draw_mixture
from sepstream_training.recipe import Recipe, load_recipe
from sepstream_training.share import Share

RATE_HZ = 8000
FAMILIES = {"speech": ["male", "female"], "music": ["bass", "drums", "guitar"]}
LEAVES = [leaf for members in FAMILIES.values() for leaf in members]
PLAIN = MixSpec(seconds=1.0, partly=0, second_voice=0, speech_speed=0, music_speed=0, filtered=0, stereo=0)

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEPSTREAM_CACHE", str(tmp_path / "cache"))


def noise(seconds: float, seed: int) -> NDArray[np.int16]:
    return (np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * RATE_HZ)) * 32767).astype(np.int16)


def clip(folder: Path, samples: NDArray[np.int16], group: str = "", chance: float = 1.0) -> Clip:
    path = folder / f"{len(list(folder.iterdir()))}.npy"
    np.save(path, samples)
    return Clip(path, group, chance)


@pytest.fixture(scope="module")
def noises(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Two clips of each leaf that never rest, one longer and one shorter than an excerpt."""
    folder = tmp_path_factory.mktemp("noises")
    return Library(
        {
            leaf: [clip(folder, noise(seconds, 10 * i + n), chance=0.5) for n, seconds in enumerate((3.0, 0.6))]
            for i, leaf in enumerate(LEAVES)
        }
    )


def draw(sounds: Mapping[str, Sequence[Clip]], spec: MixSpec, *seed: int) -> NDArray[np.float32]:
    return draw_mixture(Library(sounds), FAMILIES, spec, RATE_HZ, np.random.default_rng(seed))


# ---- mixtures ---------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000), often=st.floats(0, 1), speed=st.sampled_from([0.0, 0.5, 12.0]), level_db=st.floats(-60, 0))
def test_every_mixture_is_sound(noises: Library, seed: int, often: float, speed: float, level_db: float) -> None:
    """Finite, at the level that was asked for, at least two classes heard, and the others are not there at all."""
    spec = MixSpec(
        seconds=0.5, activity=often, partly=often, second_voice=often, filtered=often, stereo=often,
        speech_speed=speed, music_speed=speed, mix_low_db=level_db, mix_high_db=level_db,
    )  # fmt: skip
    stems = draw(noises, spec, seed)
    assert stems.shape == (len(LEAVES), 2, RATE_HZ // 2)
    assert stems.dtype == np.float32
    assert np.isfinite(stems).all()
    heard = np.square(stems).sum(axis=(1, 2)) > 0
    assert heard.sum() >= 2
    assert 10 * np.log10(np.square(stems.sum(axis=0, dtype=np.float64)).mean()) == pytest.approx(level_db, abs=1e-3)


def test_the_same_seed_is_the_same_mixture_and_another_is_another(noises: Library) -> None:
    one, same, other = (draw(noises, MixSpec(seconds=0.5), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_silent_leaves_are_exactly_zero_and_as_frequent_as_asked(noises: Library) -> None:
    silent = np.array([(draw(noises, replace(PLAIN, activity=0.6), 5, n) == 0).all(axis=(1, 2)) for n in range(300)])
    assert silent.mean() == pytest.approx(0.4, abs=0.06)  # two are always heard, which takes 0.02; four sigma are 0.05
    assert (len(LEAVES) - silent.sum(axis=1)).min() == 2


def test_unpanned_mixtures_are_the_same_in_both_channels_and_panned_ones_are_not(noises: Library) -> None:
    middle, wide = draw(noises, replace(PLAIN, stereo=0), 1), draw(noises, replace(PLAIN, stereo=1), 1)
    np.testing.assert_allclose(middle[:, 0], middle[:, 1], rtol=1e-6)
    active = np.square(wide).sum(axis=(1, 2)) > 0
    assert not np.allclose(wide[active, 0], wide[active, 1])
    ratios = np.sqrt(np.square(wide[active]).sum(axis=2))
    assert (ratios.min(axis=1) >= 0).all()
    assert np.ptp(ratios[:, 0] / ratios[:, 1]) > 0.1


@pytest.mark.parametrize("speed", [0.0, 3.0])
@pytest.mark.parametrize("seconds", [(5.0, 4.0, 5.0), (0.7, 0.5, 0.6)], ids=["longer", "shorter"])
def test_coherent_bars_are_aligned_to_the_sample(tmp_path: Path, speed: float, seconds: tuple[float, ...]) -> None:
    """One song, whose parts are all one noise and end at different times: where two sound, they are the same wave."""
    song = noise(5.0, 1)
    parts = {
        leaf: [clip(tmp_path, song[: round(s * RATE_HZ)], "song")] for leaf, s in zip(FAMILIES["music"], seconds, strict=True)
    }
    sounds = parts | {leaf: [clip(tmp_path, noise(2.0, 2))] for leaf in FAMILIES["speech"]}
    for seed in range(8):
        stems = draw(sounds, replace(PLAIN, activity=1, coherent=1, music_speed=speed), seed)[2:, 0]
        both = slice(*np.flatnonzero(np.abs(stems).min(axis=0) > 1e-6)[[200, -200]])  # clear of the resampler's edges
        assert both.stop - both.start > 0.3 * RATE_HZ
        likeness = np.corrcoef(stems[:, both])
        np.testing.assert_allclose(np.abs(likeness), 1, atol=1e-3)


def test_bars_of_other_songs_are_joined_only_by_chance(tmp_path: Path) -> None:
    sounds = {
        leaf: [clip(tmp_path, noise(2.0, 7 * n), f"song {n}", chance=1 / 20) for n in range(20)] for leaf in FAMILIES["music"]
    } | {leaf: [clip(tmp_path, noise(2.0, 3))] for leaf in FAMILIES["speech"]}

    def coherent(probability: float) -> float:
        pairs = [draw(sounds, replace(PLAIN, activity=1, coherent=probability), 1, n)[2:4, 0] for n in range(40)]
        return float(np.mean([abs(np.corrcoef(pair)[0, 1]) > 0.9 for pair in pairs]))

    assert coherent(0.0) < 0.25
    assert coherent(1.0) == 1.0


def test_a_clip_shorter_than_the_excerpt_is_whole_and_stands_in_silence(tmp_path: Path) -> None:
    short = noise(0.25, 1)
    sounds = {leaf: [clip(tmp_path, short)] for leaf in LEAVES}
    begins = set()
    for seed in range(6):
        stem = draw(sounds, replace(PLAIN, activity=1), seed)[0, 0]
        (heard,) = np.nonzero(stem)
        begins.add(heard[0])
        piece = stem[heard[0] : heard[0] + len(short)]
        assert heard[-1] < heard[0] + len(short) <= len(stem)
        assert abs(np.corrcoef(piece, short)[0, 1]) > 0.9999
    assert len(begins) > 3


def test_speed_moves_the_pitch_by_at_most_the_semitones_asked_for(tmp_path: Path) -> None:
    sine = (np.sin(2 * np.pi * 1000 / RATE_HZ * np.arange(4 * RATE_HZ)) * 20000).astype(np.int16)
    sounds = {leaf: [clip(tmp_path, sine)] for leaf in LEAVES}
    heard_hz = []
    for seed in range(12):
        stems = draw(sounds, replace(PLAIN, activity=1, speech_speed=2.0, music_speed=2.0), seed)[:, 0]
        spectrum = np.abs(np.fft.rfft(stems * np.hanning(stems.shape[1]), 8 * stems.shape[1]))
        peaks_hz = spectrum.argmax(axis=1) * RATE_HZ / (8 * stems.shape[1])
        assert np.ptp(peaks_hz[2:]) == 0  # a band keeps its pitch and tempo together
        heard_hz += peaks_hz.tolist()
    assert 1000 * 2 ** (-2 / 12) - 1 < min(heard_hz) < 960
    assert 1040 < max(heard_hz) < 1000 * 2 ** (2 / 12) + 1


@pytest.mark.parametrize(
    "wrong", [{"activity": 1.5}, {"stereo": -0.1}, {"seconds": 0.0}, {"mix_low_db": 0.0, "mix_high_db": -1.0}]
)
def test_impossible_mixtures_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(DataError, match="mix"):
        MixSpec(**wrong)


# ---- batches ----------------------------------------------------------------------------------------------------------


def recipe(*overrides: str) -> Recipe:
    return load_recipe("tiny", ["train.batch=2", "mix.seconds=0.25", "data.valid_mixtures=3", *overrides])


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_depend_on_neither_workers_nor_restarts(noises: Library, workers: int) -> None:
    def take(steps_done: int, count: int, workers: int) -> torch.Tensor:
        batches = iter(training_batches(noises, recipe(f"data.workers={workers}"), Share(2 * steps_done)))
        return torch.stack([next(batches) for _ in range(count)])

    whole = take(0, 4, 0)
    assert torch.equal(take(0, 4, workers), whole)
    assert torch.equal(take(3, 1, workers), whole[3:])
    assert not torch.equal(whole[0], whole[1])


def test_validation_is_the_same_every_time_and_not_the_training(noises: Library) -> None:
    first, again = (torch.cat(list(validation_batches(noises, recipe()))) for _ in range(2))
    assert first.shape[0] == 3
    assert torch.equal(first, again)
    assert not torch.equal(first[:2], next(iter(training_batches(noises, recipe(), Share()))))
    assert not torch.equal(first, torch.cat(list(validation_batches(noises, recipe("seed=2")))))


# ---- libraries --------------------------------------------------------------------------------------------------------


def write(path: Path, seconds: float = 0.5, rate_hz: int = 16000, channels: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(1).uniform(-0.5, 0.5, (round(seconds * rate_hz), channels)), rate_hz)
    return path


def load(root: Path, **names: str) -> Library:
    return read_library(Wanted(root, "train", {leaf: [name] for leaf, name in names.items()}), RATE_HZ)


def test_a_folder_is_read_as_mono_at_the_wanted_rate_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "data/train/voice/deep/a.flac")
    (clip,) = load(tmp_path / "data", male="voice")["male"]
    assert clip.samples.shape == (RATE_HZ // 2,)
    assert (clip.group, clip.chance) == ("", 1.0)
    monkeypatch.setattr(library, "_decode", lambda *_: pytest.fail("decoded again"))
    assert load(tmp_path / "data", male="voice")["male"] == [clip]
    monkeypatch.undo()
    monkeypatch.setenv("SEPSTREAM_CACHE", str(tmp_path / "cache"))
    write(path, seconds=0.75)
    (changed,) = load(tmp_path / "data", male="voice")["male"]
    assert len(changed.samples) == round(0.75 * RATE_HZ)


def test_a_manifest_gives_files_their_class_and_group(tmp_path: Path) -> None:
    write(tmp_path / "a.wav"), write(tmp_path / "b.wav"), write(tmp_path / "c.wav")
    (tmp_path / "manifest.csv").write_text(
        "path,split,cls,group\na.wav,train,bass,song/1\nb.wav,train,speech_male,\nc.wav,valid,bass,song/2\nb.wav,train,other,\n"
    )
    sounds = load(tmp_path, bass="bass", male="speech_male")
    assert {name: [clip.group for clip in clips] for name, clips in sounds.items()} == {"bass": ["song/1"], "male": [""]}


def missing_folder(root: Path) -> None:
    root.rmdir()


def empty_class(root: Path) -> None:
    (root / "train/male").mkdir(parents=True)


def text_as_sound(root: Path) -> None:
    (root / "train/male").mkdir(parents=True)
    (root / "train/male/readme.wav").write_text("not a sound\nat all")


def no_samples(root: Path) -> None:
    write(root / "train/male/empty.wav", seconds=0)


def listed_but_gone(root: Path) -> None:
    (root / "manifest.csv").write_text("path,split,cls\ngone.wav,train,male\n")


def manifest_of_something_else(root: Path) -> None:
    (root / "manifest.csv").write_text("file,label\na.wav,male\n")


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        (missing_folder, "does not exist; set data.root"),
        (empty_class, "class 'male' has no files"),
        (text_as_sound, "readme.wav' cannot be read"),
        (no_samples, "empty.wav' cannot be read"),
        (listed_but_gone, "gone.wav' cannot be read"),
        (manifest_of_something_else, "lacks the columns cls, path, split"),
    ],
)
def test_data_that_cannot_be_used_is_named_in_one_line(tmp_path: Path, harm: Callable[[Path], None], word: str) -> None:
    root = tmp_path / "data"
    root.mkdir()
    harm(root)
    with pytest.raises(DataError, match=word) as error:
        load(root, male="male")
    assert "\n" not in str(error.value)


def generate(split: str = "train", count: int = 2) -> Library:
    return generate_library(LEAVES, split, RATE_HZ, count=count, seconds=1.0, engine="numpy")


def test_generated_sounds_are_made_once_and_songs_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    first = generate()
    monkeypatch.setattr(synthetic, "play", lambda *_, **__: pytest.fail("played again"))
    monkeypatch.setattr(synthetic, "generate", lambda *_, **__: pytest.fail("spoken again"))
    assert generate() == first
    assert all(len(clip.samples) == RATE_HZ and clip.samples.any() for clips in first.values() for clip in clips)
    assert [clip.group for clip in first["bass"]] == [clip.group for clip in first["guitar"]]
    assert len({clip.group for clip in first["bass"]}) == 2
    assert {clip.group for clip in first["male"]} == {""}
    assert len(list((Path(os.environ["SEPSTREAM_CACHE"]) / "audio").iterdir())) == 2 * len(LEAVES)


def test_generated_splits_are_different_sounds_of_different_songs() -> None:
    train, valid = generate("train"), generate("valid")
    for leaf in LEAVES:
        waves = [clip.samples.tobytes() for clip in [*train[leaf], *valid[leaf]]]
        assert len(set(waves)) == 4
    assert not {clip.group for clip in train["bass"]} & {clip.group for clip in valid["bass"]}


def test_the_generator_names_a_class_that_it_cannot_make() -> None:
    with pytest.raises(DataError, match="unknown source 'violin'"):
        generate_library(["violin"], "train", RATE_HZ, count=1, seconds=1.0, engine="numpy")


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_blended_clips_are_drawn_with_their_share(tmp_path: Path, share: float) -> None:
    loud, soft = (tmp_path / "loud"), (tmp_path / "soft")
    loud.mkdir(), soft.mkdir()
    own = Library({leaf: [clip(loud, noise(2.0, n), chance=1 / 3) for n in range(3)] for leaf in LEAVES})
    made = Library({leaf: [clip(soft, np.full(2 * RATE_HZ, 999, np.int16))] for leaf in LEAVES})
    both = blend(own, made, share)
    assert all(sum(clip.chance for clip in clips) == pytest.approx(1) for clips in both.values())
    stems = np.concatenate([draw(both, replace(PLAIN, activity=1), 3, n)[:, 0] for n in range(40)])
    assert np.mean(np.ptp(stems, axis=1) < 1e-3 * np.abs(stems).max(axis=1)) == pytest.approx(share, abs=0.12)

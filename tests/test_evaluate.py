"""Scores of what is heard: what counts and what does not, through stand-ins for the model whose worth is known."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

import toy_bundle
from sepstream.contract import Bundle, ClassSpec, StftSpec, read_bundle
from sepstream.errors import BundleError, DataError
from sepstream.spectral import Stft
from sepstream_export import evaluate
from sepstream_export.evaluate import CEILING_DB, FLOOR_DB, LEAK_FLOOR_DB, SYNTHETIC, Score, SiSdr, mixtures, score, table

F32 = NDArray[np.float32]

LEAVES = ("male", "female", "bass", "drums", "guitar")
RATE_HZ = 8000
SMALL = StftSpec(512, 128, 64)
EXACT_DB = 90.0  # float32 leaves about 140 dB; the sums of the parents and of the mixture take some


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(toy_bundle.make(tmp_path_factory.mktemp("toy"), geometry=SMALL, sample_rate_hz=RATE_HZ))


class Stub:
    """Plays, for a mixture it knows, what ``separate`` makes of its stems (leaves, channels, samples), a latency later."""

    def __init__(self, bundle: Bundle, stems: F32, separate: Callable[[F32], F32]) -> None:
        music, speech = stems[2:].sum(axis=0), stems[:2].sum(axis=0)
        self.targets = np.concatenate([[speech, music], stems])
        self.latency_samples = bundle.latency_samples
        self.separate = separate
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    def process(self, audio: F32) -> F32:
        np.testing.assert_allclose(audio[:, : -self.latency_samples], self.targets[2:].sum(axis=0), atol=1e-6)
        assert not audio[:, -self.latency_samples :].any()
        return np.pad(self.separate(self.targets), ((0, 0), (0, 0), (self.latency_samples, 0)))


def stems(silent: tuple[str, ...] = (), seconds: float = 1.0) -> F32:
    """Five leaves in two channels: noise of different colours, some of them silent."""
    rng = np.random.default_rng(3)
    noise = rng.standard_normal((len(LEAVES), 2, round(seconds * RATE_HZ))).astype(np.float32) * np.float32(0.05)
    for i, name in enumerate(LEAVES):
        spectrum = np.fft.rfft(noise[i])
        spectrum[:, np.abs(np.arange(spectrum.shape[1]) - (i + 1) * spectrum.shape[1] // 6) > spectrum.shape[1] // 5] = 0
        noise[i] = 0.0 if name in silent else np.fft.irfft(spectrum, noise.shape[2])
    return noise


def scores(bundle: Bundle, sounds: F32, separate: Callable[[F32], F32]) -> dict[str, Score]:
    stub = Stub(bundle, sounds, separate)
    found = score(bundle, sounds, stub, Stft(bundle.stft))
    assert stub.resets == 1
    assert [one.name for one in found] == list(bundle.class_names)
    return {one.name: one for one in found}


def counted(one: Score) -> SiSdr:
    assert one.si_sdr is not None
    return one.si_sdr


def mixture(targets: F32) -> F32:
    return np.broadcast_to(targets[2:].sum(axis=0), targets.shape)


# ---- what counts ------------------------------------------------------------------------------------------------------


def test_the_sources_themselves_score_as_high_as_numbers_go(bundle: Bundle) -> None:
    for one in scores(bundle, stems(), lambda targets: targets).values():
        assert EXACT_DB < counted(one).heard <= CEILING_DB
        assert counted(one).heard - counted(one).mixture > EXACT_DB - 20


def test_the_mixture_in_every_place_improves_nothing(bundle: Bundle) -> None:
    for one in scores(bundle, stems(), mixture).values():
        assert counted(one).heard == pytest.approx(counted(one).mixture, abs=1e-3)
        assert one.leak_db == pytest.approx(0, abs=1e-3)


def test_a_gain_changes_no_score(bundle: Bundle) -> None:
    loud = scores(bundle, stems(), lambda targets: np.float32(3) * (targets + np.float32(0.1) * mixture(targets)))
    soft = scores(bundle, stems(), lambda targets: np.float32(0.2) * (targets + np.float32(0.1) * mixture(targets)))
    for name in bundle.class_names:
        assert counted(loud[name]).heard == pytest.approx(counted(soft[name]).heard, abs=1e-2)


def test_silence_scores_the_floor_and_is_never_an_improvement(bundle: Bundle) -> None:
    """A class 60 dB below the rest: its mixture scores the floor too, so silence wins nothing there either."""
    sounds = stems()
    sounds[0] *= 1e-3
    for one in scores(bundle, sounds, np.zeros_like).values():
        assert counted(one).heard == FLOOR_DB
        assert counted(one).heard <= counted(one).mixture
        assert one.leak_db == LEAK_FLOOR_DB
    assert counted(scores(bundle, sounds, mixture)["male"]).mixture == FLOOR_DB


def test_a_silent_output_lowers_the_mean_of_its_class(bundle: Bundle) -> None:
    """It used to be dropped: a model that mutes what it cannot separate looked better than one that tries."""
    good = counted(scores(bundle, stems(), lambda targets: targets)["bass"])
    mute = counted(scores(bundle, stems(), np.zeros_like)["bass"])
    rows = [Score("bass", False, each, -20.0) for each in (good, mute)]
    means = evaluate._means(rows)
    assert means["present"] == 2
    assert means["si_sdr_db"] == pytest.approx((good.heard + FLOOR_DB) / 2, abs=0.01)


def test_an_absent_class_counts_in_its_level_only(bundle: Bundle) -> None:
    found = scores(bundle, stems(silent=("male", "drums")), lambda targets: np.float32(0.1) * mixture(targets))
    for name in ("male", "drums"):
        assert found[name].absent
        assert found[name].si_sdr is None
        assert found[name].leak_db == pytest.approx(-20, abs=0.01)
        assert evaluate._means([found[name]]) == {
            "si_sdr_db": None, "improvement_db": None, "mixture_db": None, "oracle_db": None,
            "absent_level_db": -20.0, "present": 0, "absent": 1,
        }  # fmt: skip
    for name in ("speech", "female", "bass"):
        assert not found[name].absent
        assert evaluate._means([found[name]])["absent_level_db"] is None


def test_a_class_that_is_all_there_is_counts_nowhere(bundle: Bundle) -> None:
    """Its mixture is the target already: any figure would say nothing of separation."""
    found = scores(bundle, stems(silent=("bass", "drums", "guitar", "female")), lambda targets: targets)
    assert all(found[name].si_sdr is None and not found[name].absent for name in ("speech", "male"))
    assert all(found[name].si_sdr is None and found[name].absent for name in ("music", "female", "bass"))


def test_the_protocol_of_the_reference_bounds_nothing_and_drops_the_same_pairs(bundle: Bundle) -> None:
    sounds = stems(silent=("drums",))
    sounds[0] *= 1e-3
    stub = Stub(bundle, sounds, mixture)
    found = {one.name: one for one in score(bundle, sounds, stub, Stft(bundle.stft), bounded=False)}
    assert counted(found["male"]).mixture < FLOOR_DB
    assert found["drums"].si_sdr is None
    pairs = {name: evaluate._pair(one) for name, one in found.items()}
    assert np.isnan(pairs["drums"]).all()
    assert pairs["male"] == (counted(found["male"]).heard, counted(found["male"]).mixture)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_an_output_that_is_no_sound_is_an_error_and_no_score(bundle: Bundle, poison: float) -> None:
    def broken(targets: F32) -> F32:
        return np.where(np.arange(targets.shape[2]) == 100, np.float32(poison), targets)

    with pytest.raises(BundleError, match="the output holds NaN or Inf"):
        scores(bundle, stems(), broken)


def test_the_oracle_is_above_the_mixture_and_below_the_sources(bundle: Bundle) -> None:
    found = scores(bundle, stems(), lambda targets: targets)
    for level in bundle.levels:
        gains = [counted(found[name]).oracle - counted(found[name]).mixture for name in bundle.class_names[level]]
        assert np.mean(gains) > 3
    assert all(counted(one).oracle < EXACT_DB for one in found.values())


def test_the_oracle_loses_nothing_where_nothing_overlaps(bundle: Bundle) -> None:
    """One sound after the other, with a rest as long as a frame between them: every frame is one class's alone."""
    sounds = stems()
    turn = sounds.shape[2] // len(LEAVES)
    rest = np.arange(sounds.shape[2]) % turn >= turn - SMALL.analysis_samples
    for i in range(len(LEAVES)):
        sounds[i, :, rest | (np.arange(sounds.shape[2]) // turn != i)] = 0
    for one in scores(bundle, sounds, lambda targets: targets).values():
        assert counted(one).oracle > EXACT_DB


# ---- the mixtures -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sounds of each class, of instruments under their parent's name."""
    root = tmp_path_factory.mktemp("dataset")
    rng = np.random.default_rng(1)
    for leaf in LEAVES:
        folder = root / "valid" / (leaf if leaf in LEAVES[:2] else f"music_{leaf}")
        folder.mkdir(parents=True)
        for number in range(2):
            soundfile.write(folder / f"{number}.wav", rng.uniform(-0.5, 0.5, 3 * RATE_HZ), RATE_HZ)
    return root


def test_the_same_seed_draws_the_same_mixtures_and_another_draws_others(dataset: Path, bundle: Bundle) -> None:
    first, again = (list(mixtures(dataset, bundle, 3)) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(next(mixtures(dataset, bundle, 1)), first[0])
    assert not np.array_equal(next(mixtures(dataset, bundle, 1, seed=1)), first[0])
    assert first[0].shape == (len(LEAVES), 2, 10 * RATE_HZ)
    np.testing.assert_allclose(first[0][:, 0], first[0][:, 1], rtol=1e-6)  # mono and stereo in turn
    assert not np.allclose(first[1][:, 0], first[1][:, 1], rtol=1e-2)


def test_a_whole_evaluation_holds_finite_figures_for_every_class_and_level(dataset: Path, bundle: Bundle) -> None:
    result = evaluate.evaluate(bundle, mixtures(dataset, bundle, 4))
    assert list(result) == [*bundle.class_names, "parents", "leaves", "all"]
    for label, row in result.items():
        assert all(value is None or np.isfinite(value) for value in row.values()), label
        assert row["present"] + row["absent"] <= 4 * {"parents": 2, "leaves": 5, "all": 7}.get(label, 1)
    assert result["all"]["oracle_db"] > result["all"]["mixture_db"]
    assert result["leaves"]["present"] + result["parents"]["present"] == result["all"]["present"]
    lines = table(result).splitlines()
    assert len(lines) == 2 + len(result)
    assert {line.count("|") for line in lines} == {8}


def test_an_evaluation_as_the_reference_does_it(dataset: Path, bundle: Bundle) -> None:
    result = evaluate.evaluate_as_reference(bundle, mixtures(dataset, bundle, 3))
    names = [f"{kind}_{name}" for kind in ("est", "noisy") for name in bundle.class_names]
    assert list(result) == [*names, "global_avg", "files"]
    assert result["files"] == 3
    assert all(value is None or np.isfinite(value) for value in result.values())
    lines = evaluate.reference_table(result).splitlines()
    assert len(lines) == 3 + len(bundle.class_names)
    assert {line.count("|") for line in lines} == {4}


def test_generated_sounds_need_no_data(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "SYNTHETIC_CLIPS", 1)
    monkeypatch.setattr(evaluate, "SYNTHETIC_SECONDS", 1.0)
    (one,) = mixtures(SYNTHETIC, bundle, 1)
    assert one.any()


def test_a_flat_tree_of_classes_is_scored_as_one_level() -> None:
    manifest, _ = toy_bundle.values(geometry=SMALL, sample_rate_hz=RATE_HZ)
    flat = tuple(ClassSpec(name, None, "#000000") for name in ("male", "female", "bass", "drums", "guitar", "x", "y"))
    bundle = replace(manifest, classes=flat)
    sounds = np.concatenate([stems(), np.zeros_like(stems()[:2])])

    class Same(Stub):
        def process(self, audio: F32) -> F32:
            return np.pad(sounds, ((0, 0), (0, 0), (self.latency_samples, 0)))

    found = score(bundle, sounds, Same(bundle, stems(), lambda targets: targets), Stft(bundle.stft))
    assert [one.absent for one in found] == [False] * 5 + [True] * 2
    assert all(counted(one).heard > EXACT_DB for one in found[:5])


def test_flat_classes_are_found_in_folders_that_say_their_family(dataset: Path) -> None:
    manifest, _ = toy_bundle.values(geometry=SMALL, sample_rate_hz=RATE_HZ)
    flat = replace(manifest, classes=tuple(ClassSpec(leaf, None, "#000000") for leaf in LEAVES))
    assert next(mixtures(dataset, flat, 1)).shape == (len(LEAVES), 2, 10 * RATE_HZ)


def test_the_mixture_of_a_track_is_the_data_sets_own(bundle: Bundle, tmp_path: Path) -> None:
    sounds = stems(seconds=2.0).mean(axis=1)
    wind = np.random.default_rng(9).standard_normal(sounds.shape[1]) * 0.05
    whole = {"speech_mix": sounds[:2].sum(axis=0), "music_mix": sounds[2:].sum(axis=0)}
    files = whole | dict(zip(("speech_male", "speech_female", *LEAVES[2:]), sounds, strict=True))
    for track, mix in (("calm", sounds.sum(axis=0)), ("windy", sounds.sum(axis=0) + wind)):
        (tmp_path / "tt" / track).mkdir(parents=True)
        for name, sound in (files | {"mix": mix}).items():
            soundfile.write(tmp_path / "tt" / track / f"{name}.wav", sound, RATE_HZ, subtype="FLOAT")
    calm, windy = mixtures(tmp_path, bundle, 2)
    assert calm.shape == (len(LEAVES), 2, 2 * RATE_HZ) and windy.shape == (len(LEAVES) + 1, 2, 2 * RATE_HZ)
    np.testing.assert_allclose(windy.sum(axis=0)[0], sounds.sum(axis=0) + wind, atol=1e-4)  # kept in 16 bits
    np.testing.assert_allclose(windy[: len(LEAVES)], calm, atol=1e-6)


@pytest.mark.parametrize(("missing", "words"), [("", "does not exist"), ("valid/male", "class 'male' has no files")])
def test_a_data_set_without_sounds_is_named(bundle: Bundle, tmp_path: Path, missing: str, words: str) -> None:
    for leaf in LEAVES if missing else ():
        (tmp_path / "set/valid" / leaf).mkdir(parents=True)
    with pytest.raises(DataError, match=words):
        next(mixtures(tmp_path / "set", bundle, 1))

"""What TensorBoard shows is what is heard: sounds, scores, spectrograms and the disk, read back from the event file."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sepstream import disk, kernels
from sepstream.spectral import Stft
from sepstream_training import draw
from sepstream_training.data.loader import Mixtures
from sepstream_training.metrics import si_sdr_improvement
from sepstream_training.recipe import load_recipe
from sepstream_training.separation import Separation
from sepstream_training.train import load_network, sounds
from training_runs import SHORT, log, run

TINY = [*SHORT, "data.valid_mixtures=3", "train.views=2"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three validations, and time for one set of views beside the last."""
    folder = tmp_path_factory.mktemp("views") / "out"
    assert run(folder, *TINY, "train.views_every_s=1e6") == 0
    return folder


@pytest.fixture(scope="module")
def events(out: Path) -> EventAccumulator:
    board = EventAccumulator(str(out / "tb"), size_guidance=dict.fromkeys(("audio", "images", "scalars"), 0))
    return board.Reload()


def mixture(number: int, *overrides: str) -> tuple[Separation, torch.Tensor]:
    """An untrained module, and the stems of validation mixture ``number``."""
    recipe = load_recipe("tiny", [*TINY, *overrides])
    torch.manual_seed(0)
    return Separation(recipe).eval(), Mixtures(sounds(recipe, "valid"), recipe, "valid")[number]


# ---- the event file ---------------------------------------------------------------------------------------------------


def test_losses_and_figures_are_curves(out: Path, events: EventAccumulator) -> None:
    expected = {f"valid/{name}" for name in ("loss", "mask", "sdr", "si_sdri", "si_sdri_speech", "si_sdri_music")}
    assert expected <= set(events.Tags()["scalars"])
    rows = [float(row["valid/loss"]) for row in log(out) if row["valid/loss"]]
    assert [event.value for event in events.Scalars("valid/loss")] == pytest.approx(rows)
    assert len(rows) == 3


def test_scores_are_means_over_the_mixtures_in_which_a_class_counts(out: Path) -> None:
    """The last validation's network is the one in the checkpoint."""
    recipe, network = load_network(out / "last.ckpt")
    module = Separation(recipe).eval()
    gains = []
    mixtures = Mixtures(sounds(recipe, "valid"), recipe, "valid")
    for stems in (mixtures[n] for n in range(3)):
        heard = module.hearing(network, stems)
        pairs = zip(heard.estimates.numpy(), heard.targets.numpy(), strict=True)
        gains.append([si_sdr_improvement(estimate, target, heard.mixture.numpy()) for estimate, target in pairs])
    last = log(out)[-1]
    for name, values in zip(recipe.class_names, np.array(gains).T, strict=True):
        if not np.isnan(values).all():
            assert float(last[f"valid/si_sdri_{name}"]) == pytest.approx(np.nanmean(values), abs=1e-3)


def test_sounds_are_the_mixture_and_every_class_at_the_first_and_the_last_validation(events: EventAccumulator) -> None:
    names = ["mixture", *load_recipe("tiny").class_names]
    assert set(events.Tags()["audio"]) == {f"example_{n}/{name}" for n in (0, 1) for name in names}
    for number in (0, 1):
        clips = events.Audio(f"example_{number}/mixture")
        assert [clip.step for clip in clips] == [2, 6]
        audio, rate_hz = soundfile.read(io.BytesIO(clips[0].encoded_audio_string))
        assert rate_hz == 24000
        truth = mixture(number)[1].sum(dim=0).mean(dim=0).numpy()
        assert audio == pytest.approx(truth, abs=2 / 32767)  # 16 bits, cut off


def test_pictures_are_spectrograms_and_the_disk(events: EventAccumulator) -> None:
    assert set(events.Tags()["images"]) == {f"example_{n}/{view}" for n in (0, 1) for view in ("spectrograms", "disk")}
    for view, size in (("disk", (draw.SIDE, draw.SIDE)), ("spectrograms", (95, 8 * (171 + draw.GAP)))):
        images = events.Images(f"example_0/{view}")
        assert [image.step for image in images] == [2, 6]
        picture = Image.open(io.BytesIO(images[0].encoded_image_string))
        assert picture.size == size


def test_views_change_nothing_and_come_as_often_as_they_may(out: Path, tmp_path: Path) -> None:
    assert run(tmp_path / "often", *TINY, "train.views_every_s=0") == 0
    assert [row["valid/loss"] for row in log(tmp_path / "often")] == [row["valid/loss"] for row in log(out)]
    board = EventAccumulator(str(tmp_path / "often/tb"), size_guidance={"images": 0}).Reload()
    assert [image.step for image in board.Images("example_0/disk")] == [2, 4, 6]


def test_a_closer_look_shows_the_truth_what_is_left_and_the_parameters(tmp_path: Path) -> None:
    closer = ["train.views=1", "train.views_closely=true", "train.parameters_every=3", "train.validate_every=6"]
    assert run(tmp_path / "out", *TINY, *closer) == 0
    board = EventAccumulator(str(tmp_path / "out/tb"), size_guidance=dict.fromkeys(("audio", "images", "histograms"), 0)).Reload()
    names = load_recipe("tiny").class_names
    wanted = {f"example_0/{name}/{kind}" for name in names for kind in ("true", "residual", "residual_true")}
    assert wanted <= set(board.Tags()["audio"])
    assert {"example_0/spectrogram_pairs", "example_0/waveforms"} <= set(board.Tags()["images"])
    parameters = {name.removeprefix("network.") for name, _ in mixture(0)[0].named_parameters()}
    for kind in ("weights", "gradients"):
        assert {f"{kind}/network.{name}" for name in parameters} <= set(board.Tags()["histograms"])
        (name, *_) = sorted(parameters)
        assert [event.step for event in board.Scalars(f"norm_of_{kind}/network.{name}")] == [0, 3]
        assert all(event.value > 0 for event in board.Scalars(f"norm_of_{kind}/network.{name}"))


# ---- what is heard ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overrides", [[], ["geometry=quality"]])
def test_what_is_heard_is_what_the_engine_would_make_of_the_masks(overrides: list[str]) -> None:
    module, stems = mixture(0, *overrides)
    heard = module.hear(stems)
    stft, recipe = Stft(module.recipe.training_stft), module.recipe
    late, hop = stft.spec.synthesis_samples - stft.spec.hop_samples, stft.spec.hop_samples
    sound = stems.sum(dim=0).numpy()
    hops = len(heard.magnitude)
    padded = np.pad(sound, ((0, 0), (0, hops * hop - sound.shape[1])))
    spectra = stft.analyze(padded, stft.analysis_state(2))[0]
    magnitude = np.sqrt(np.square(np.abs(spectra)).mean(axis=1))[:, : recipe.band_bins] * stft.spec.magnitude_scale
    assert heard.magnitude.numpy() == pytest.approx(magnitude, abs=1e-6)
    classes = len(recipe.class_names)
    masked = np.empty((hops, classes, *spectra.shape[1:]), np.complex64)
    kernels.apply_masks(spectra, np.ascontiguousarray(heard.masks.numpy()), 256, 341, masked)  # 6 to 8 kHz
    lanes = stft.synthesize(masked.reshape(hops, 2 * classes, -1), stft.synthesis_state(2 * classes))[0]
    expected = lanes.reshape(classes, 2, -1)[..., late : late + sound.shape[1]]
    assert heard.estimates.numpy() == pytest.approx(expected, abs=2e-5)


def test_the_estimates_of_a_level_add_up_to_the_mixture() -> None:
    module, stems = mixture(1)
    heard = module.hear(stems)
    for level in module.recipe.levels:
        torch.testing.assert_close(heard.estimates[level].sum(dim=0), heard.mixture, atol=1e-5, rtol=0)
        torch.testing.assert_close(heard.targets[level].sum(dim=0), heard.mixture, atol=1e-5, rtol=0)


# ---- what is drawn ----------------------------------------------------------------------------------------------------


def pixels(picture: Any, code: str) -> np.ndarray:
    """(n, 2) disk coordinates of the pixels of one colour."""
    rows, columns = np.nonzero((picture == draw.rgb(code).astype(np.uint8)).all(axis=2))
    scale = 2 * draw.REACH / draw.SIDE
    return np.stack([(columns + 0.5) * scale - draw.REACH, draw.REACH - (rows + 0.5) * scale], axis=1)


def plain(vectors: Any = ((0, 0, 1),), curvature: float = 1.0, **given: Any) -> Any:
    """A disk with nothing else on it, and a legend of blanks."""
    empty = {"embedding": np.zeros((0, 2), np.float32), "labels": np.zeros(0, int), "weights": np.zeros(0, np.float32)}
    lines = np.array(vectors, np.float32)
    return draw.disk(**{**empty, **given}, vectors=lines, curvature=curvature, names=[" "] * len(lines), first=len(lines))


@settings(max_examples=15)
@given(angle=st.floats(0, 2 * math.pi), offset=st.floats(-1.2, 1.2))
def test_a_geodesic_is_drawn_where_the_engine_has_it(angle: float, offset: float) -> None:
    vector = (-math.sinh(offset), math.cosh(offset) * math.cos(angle), math.cosh(offset) * math.sin(angle))
    drawn, arc = pixels(plain([vector]), draw.colour(0)), disk.geodesic(vector)
    assert len(drawn) > 30
    straight = math.isinf(arc.radius)
    away = drawn @ [arc.x, arc.y] if straight else np.hypot(*(drawn - [arc.x, arc.y]).T) - arc.radius
    pixel = 2 * draw.REACH / draw.SIDE
    assert np.abs(away).max() < pixel
    assert (np.hypot(*drawn.T) < 1).all()
    for end in arc.ends:  # it reaches the rim on both sides
        assert np.hypot(*(drawn - end).T).min() < 0.2


@pytest.mark.parametrize("curvature", [1.0, 0.0])
def test_a_bin_is_drawn_at_its_point_in_the_colour_of_its_class(curvature: float) -> None:
    u = np.array([[0.5, 0.8], [0.5, 0.8], [-2.0, 0.1]], np.float32)
    given: dict[str, Any] = {"embedding": u, "labels": np.array([0, 0, 2]), "weights": np.ones(3, np.float32)}
    picture = plain([(5.0, 0.0, 0.1)] * 1, curvature, **given).astype(float)
    places = np.tanh(np.hypot(*u.T))[:, None] * u / np.hypot(*u.T)[:, None] if curvature else u
    reach = draw.REACH if curvature else float(np.quantile(np.hypot(*u.T), 0.99))
    for (x, y), label in zip(places, given["labels"], strict=True):
        row, column = (np.array([1 - y / reach, 1 + x / reach]) * draw.SIDE / 2).astype(int).clip(0, draw.SIDE - 1)
        ground, ink = draw.rgb(draw.GROUND), draw.rgb(draw.colour(1 + label))
        assert ((picture[row, column] - ground) @ (ink - ground)) / np.square(ink - ground).sum() > 0.3


def test_a_wave_fills_its_columns_from_its_lowest_to_its_highest_sample() -> None:
    picture = draw.waveform([(np.repeat([0.5, -0.5], 50).astype(np.float32), "#ffffff")], rows=40, columns=10).sum(axis=2)
    ground = draw.rgb(draw.GROUND).sum()
    lit = [np.nonzero(column > ground)[0] for column in picture.T]
    assert all(rows.size <= 2 for rows in lit)  # a constant is a line
    assert all(abs(rows.mean() - 9.5) <= 1 for rows in lit[:5])  # half of full scale up
    assert all(abs(rows.mean() - 29.5) <= 1 for rows in lit[5:])


def test_low_frequencies_are_below_and_loud_ones_bright() -> None:
    magnitude = np.full((20, 10), 1e-6, np.float32)
    magnitude[:, 1] = 0.5
    picture = draw.spectrogram(magnitude, "#3d8be8")
    assert picture.shape == (10, 20, 3)
    assert picture.sum(axis=(1, 2)).argmax() == 8
    assert (picture[8] == 255).all()

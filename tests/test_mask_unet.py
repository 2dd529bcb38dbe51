"""The U-Net that estimates masks, in all its forms: the laws, its published sizes, what its options do; trained and exported."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from sepstream.cli import render_main
from sepstream.contract import Bundle, read_bundle
from sepstream.errors import DataError
from sepstream_export import parity, speed
from sepstream_export.evaluate import evaluate, mixtures
from sepstream_export.package import export
from sepstream_training.data.loader import Mixtures, sounds
from sepstream_training.models import Network, StreamingNetwork, build
from sepstream_training.recipe import Recipe, load_recipe
from sepstream_training.separation import Separation
from sepstream_training.train import train
from streaming_contract import Stage, verify

CLASSES, BINS = 3, 21
SMALL = {"bins": BINS, "widths": [3, 4, 5], "convolutions": 2}
RECURRENT = {"recurrent": 2, "units": 6}
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "leaky, all normalised": {"leak": 0.2, "normalize_input": True, "normalize_output": True},
    "recurrent": RECURRENT | {"input": "log"},
    "variational": RECURRENT | {"variational": True, "latent": 4, "normalize_input": True},
    "self-normalising": {"self_normalizing": True, "input": "log", "activation": "elu"},
    "shares": {"activation": "softmax"},
}
TOLERANCE = 1e-11  # float64 sums in another order

torch.set_num_threads(1)

every_form = pytest.mark.parametrize("form", FORMS)


def make(form: str, classes: int = CLASSES, **options: Any) -> Network:
    """A small network in float64 whose normalisations do something."""
    torch.manual_seed(4)
    network = build("mask_unet", classes, SMALL | FORMS[form] | options).double().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return network


def causal(form: str, **options: Any) -> StreamingNetwork:
    network = make(form, streaming=True, **options)
    assert isinstance(network, StreamingNetwork)
    return network


def magnitudes(batch: int, frames: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 10 ** torch.empty(batch, frames, BINS, dtype=torch.float64).uniform_(-5, -1, generator=generator)


# ---- the laws ---------------------------------------------------------------------------------------------------------


@every_form
def test_the_causal_form_obeys_the_streaming_contract(form: str) -> None:
    network = causal(form)

    def step(block: NDArray[np.float64], state: Any) -> tuple[NDArray[np.float64], Any]:
        with torch.no_grad():
            masks, _, state = network.step(torch.from_numpy(np.ascontiguousarray(block)), state)
        return masks.numpy(), state

    stage = Stage(lambda: network.initial_state(2), step, axis=1, tolerance=TOLERANCE, empty=False, lanes=True)
    verify(stage, magnitudes(2, 40).numpy())
    with torch.no_grad():
        torch.testing.assert_close(
            network(magnitudes(2, 40))[0], torch.from_numpy(step(magnitudes(2, 40).numpy(), network.initial_state(2))[0])
        )


@every_form
@pytest.mark.parametrize("frames", [1, 7, 8, 13])
def test_the_form_for_files_takes_any_length_hears_both_ways_and_its_own_signal_alone(form: str, frames: int) -> None:
    network, x = make(form), magnitudes(2, frames)
    changed = x.clone()
    changed[0, -1] *= 30
    with torch.no_grad():
        before, after = network(x)[0], network(changed)[0]
    assert before.shape == (2, frames, CLASSES, BINS)
    assert (before[0, 0] != after[0, 0]).any()
    torch.testing.assert_close(before[1], after[1], rtol=0, atol=TOLERANCE)
    assert not isinstance(network, StreamingNetwork)


@pytest.mark.parametrize("streaming", [False, True])
def test_recurrence_runs_over_time_and_never_over_the_batch(streaming: bool) -> None:
    """The original's ran over the batch: its items heard each other, its frames did not."""
    network = make("recurrent", streaming=streaming, convolutions=1, widths=[2, 2])
    x = magnitudes(2, 40)
    first, other = x.clone(), x.clone()
    first[:, 0] *= 30
    other[1] *= 30
    with torch.no_grad():
        plain = network(x)[0]
        assert (network(first)[0][0, -1] != plain[0, -1]).any()  # far beyond what the convolutions reach
        torch.testing.assert_close(network(other)[0][0], plain[0], rtol=0, atol=TOLERANCE)


@every_form
@pytest.mark.parametrize("streaming", [False, True])
def test_masks_are_masks_and_every_parameter_learns(form: str, streaming: bool) -> None:
    network = make(form, streaming=streaming, dropout=0.1).train()
    x = magnitudes(3, 12)
    x[0] = 0.0
    out, u = network(x)
    masks = out if network.independent else out.softmax(dim=2)
    assert u.shape == (3, 12, 0, BINS)
    assert masks.ge(0).all() and masks.le(1).all()
    loss = (masks - torch.rand_like(masks)).square().mean() + sum(term for term in network.own_terms.values())
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.ne(0).any(), name


# ---- what it is -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 15_379_379),
        ({"recurrent": 3}, 51_589_557 - 5_901_312 - 2 * 513),
        ({"recurrent": 3, "variational": True}, 85_152_181 - 5_901_312 - 2 * 513),
        ({"normalize_output": True}, 15_379_379 + 2 * 513),
    ],
)
def test_the_published_networks_have_as_many_parameters(options: dict[str, Any], count: int) -> None:
    """As counted in the original at its defaults, without the convolutions that it never calls and the numbers it freezes."""
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in build("mask_unet", 1, options).parameters()) == count


def test_the_variational_form_draws_in_training_only() -> None:
    network, x = make("variational", dropout=0.0, recurrent_dropout=0.0), magnitudes(1, 8)
    assert torch.equal(network(x)[0], network(x)[0])
    assert not network.own_terms
    network.train()
    assert not torch.equal(network(x)[0], network(x)[0])


def test_the_divergence_is_that_from_the_standard_normal_distribution() -> None:
    network, x = make("variational", dropout=0.0), magnitudes(2, 8)
    seen: list[torch.Tensor] = []
    network.middle.distribution.register_forward_hook(lambda *call: seen.append(call[2].detach()))  # type: ignore[union-attr, operator]
    network.train()(x)
    mean, log_sigma = (part.numpy() for part in seen[0].chunk(2, dim=2))
    wanted = 0.5 * np.mean(mean**2 + np.exp(log_sigma) ** 2 - np.log(np.exp(log_sigma) ** 2) - 1)
    assert network.own_terms["kl"].item() == pytest.approx(wanted, rel=1e-9)


def test_a_self_normalising_network_keeps_mean_and_deviation_without_a_norm() -> None:
    """Klambauer et al. 2017: from layer to layer activations stay near mean 0 and variance 1."""
    torch.manual_seed(1)
    options = {"bins": 64, "widths": [32, 32], "convolutions": 8, "self_normalizing": True, "dropout": 0.0}
    network = build("mask_unet", 1, options).eval()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    block = network.middle  # type: ignore[union-attr]
    with torch.no_grad():
        y = block(torch.randn(2, 32, 64, 64), network.memory())  # type: ignore[operator]
    inner = y[:, :, 8:-8, 8:-8]  # zeros beyond the edges are no part of the theory
    assert abs(float(inner.mean())) < 0.25
    assert 0.5 < float(inner.std()) < 1.5


@pytest.mark.parametrize("activation", ["sigmoid", "relu", "hardtanh", "tanh", "prelu", "selu", "elu"])
def test_every_activation_makes_masks(activation: str) -> None:
    with torch.no_grad():
        masks = make("plain", activation=activation)(magnitudes(1, 8))[0]
    assert masks.ge(0).all() and masks.le(1).all() and masks.std() > 0


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"activation": "sigmiod"}, "expected one of sigmoid"),
        ({"input": "decibel"}, "expected one of linear, log"),
        ({"variational": True}, "expected recurrent layers"),
        ({"self_normalizing": True, "leak": 0.1}, "whose activation is SELU"),
        ({"widths": [4]}, "two or more"),
        ({"widths": [2] * 9}, "a bin that is left"),
        ({"units": 0}, "must be above 0"),
        ({"unitz": 3}, "unitz"),
    ],
)
def test_a_network_that_cannot_be_is_refused_in_one_line(options: dict[str, Any], word: str) -> None:
    with pytest.raises(DataError, match=word) as error:
        build("mask_unet", CLASSES, SMALL | options)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="for a single class"):
        build("mask_unet", 1, SMALL | {"activation": "softmax"})
    with pytest.raises(DataError, match="none is a share of another"):
        build("mask_unet", CLASSES, SMALL, tied=[3])


# ---- trained, exported, played ----------------------------------------------------------------------------------------

LEAVES = ["male", "bass", "drums"]
SMALL_STFT = [
    "geometry={analysis: 128, synthesis: 128, hop: 64}", "sample_rate_hz=8000", "divisor=1", "band_bins=65",
    "follow_hz=[2000.0, 4000.0]",
]  # fmt: skip
QUICK = [
    "data.synthetic_clips=1", "data.synthetic_seconds=4", "data.synthetic_engine=numpy", "data.workers=0",
    "data.valid_mixtures=2", "mix.seconds=1.0", "train.batch=4", "train.steps=2", "train.validate_every=2",
    "train.warmup_steps=0", "train.decay_steps=0", "train.ema=0.0", "train.views=0", "train.schedule=constant-decay",
    "train.rate=1e-2", "window={past: 8, hops: 16, future: 8}",
]  # fmt: skip
NET = "bins: 65, widths: [4, 6, 8], convolutions: 1, dropout: 0.0"
TRAINED = {  # recipe and what is changed in it: each form, each way of hearing, every kind of term
    "unet": [f"model.options={{{NET}, normalize_output: true}}", "loss.ratio=1", "loss.ratio_power=2"],
    "unet_lstm": [f"model.options={{{NET}, recurrent: 1, units: 8, input: log}}", "loss.l1=1", "loss.rmse=1", "loss.si_sdr=0"],
    "unet_vae": [f"model.options={{{NET}, recurrent: 1, units: 8, variational: true, latent: 4}}", "loss.kl=0.01"],
    "unet_selu": [f"model.options={{{NET}, self_normalizing: true, input: log}}", "loss.component=1"],
    "unet_vocals": [
        f"model.options={{{NET}, normalize_input: true}}", "targets=[male]", "data.root=synthetic", "data.layout=auto",
        "data.as_is=0", "data.licence=none",
    ],
    "unet_live": [f"model.options={{{NET}, streaming: true, recurrent: 1, units: 8, input: log}}"],
}  # fmt: skip


def small_recipe(name: str) -> Recipe:
    classes = [] if name == "unet_live" else [f"classes=[{', '.join(LEAVES)}]"]
    return load_recipe(name, [*SMALL_STFT, *QUICK, *classes, *TRAINED[name]])


@pytest.mark.parametrize("name", TRAINED)
def test_every_recipe_learns(name: str) -> None:
    """Twenty steps on one batch: its loss falls, and so does every term that has a weight."""
    recipe = small_recipe(name)
    torch.manual_seed(1)
    module = Separation(recipe).train()
    mixtures_of = Mixtures(sounds(recipe, "train"), recipe, "train")
    batch = torch.stack([mixtures_of[n] for n in range(4)])
    optimizer, found = module.configure_optimizers(), []
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    for _ in range(20):
        losses = module.losses(batch)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        found.append(losses["loss"].item())
    assert np.isfinite(found).all()
    assert np.mean(found[-3:]) < found[0], found
    assert ("kl" in losses) == (name == "unet_vae")


@pytest.fixture(scope="module", params=TRAINED)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "FRAMES", 96)
        patch.setattr(speed, "SECONDS", 0.1)
        checkpoint = train(small_recipe(request.param), folder / "run", progress=False).checkpoint
        return export(checkpoint, folder / request.param, name=request.param)


def test_it_is_exported_with_proof_and_loses_nothing(
    exported: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = read_bundle(exported.folder)
    assert (bundle.disk, bundle.masks) == (None, "independent")
    assert bundle.kind == ("step" if bundle.name == "unet_live" else "window")
    assert set(bundle.parity) - {"window_snr_db"} == {"torch_step", "onnx_step", "onnx_many", "pipeline_snr_db"}
    wanted = {"unet_live": ("speech", "music", "male", "female", "bass", "drums", "guitar"), "unet_vocals": ("male",)}
    assert bundle.class_names == wanted.get(bundle.name, tuple(LEAVES))
    song = tmp_path / "in" / "song.wav"
    song.parent.mkdir()
    sound = 0.3 * np.random.default_rng(1).standard_normal((9000, 2)).astype(np.float32)
    soundfile.write(song, sound, 8000, subtype="FLOAT")
    assert render_main([str(song.parent), "--model", str(bundle.folder), "--out", str(tmp_path / "out"), "--residual"]) == 0
    parts = [soundfile.read(path, dtype="float32")[0] for path in sorted((tmp_path / "out").rglob("*.wav"))]
    assert len(parts) == len(bundle.leaves) + 1
    np.testing.assert_allclose(sum(parts), sound, atol=1e-4)
    capsys.readouterr()
    assert render_main([str(song), "--model", str(bundle.folder), "--out", str(tmp_path / "no"), "--bus", "a=disc(0,0,1)"]) == 2
    assert f"model '{bundle.name}' has classes only" in capsys.readouterr().err


def test_a_bundle_of_one_target_is_scored_in_mixtures_with_the_others(exported: Bundle) -> None:
    if exported.name != "unet_vocals":
        return
    (stems, *_) = mixtures("synthetic", exported, 1)
    assert exported.training["others"] == ["bass", "drums"]
    assert stems.shape[0] == 3
    result = evaluate(exported, [stems])
    assert set(result) == {"male", "parents", "leaves", "all"}

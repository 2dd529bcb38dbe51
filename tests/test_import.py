"""Checkpoints of the reference system: files of exactly its form, and its forward pass written down once more in float64."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from sepstream.cli import render_main
from sepstream.contract import StftSpec
from sepstream.errors import DataError
from sepstream_export import parity, speed
from sepstream_export.cli import export_main
from sepstream_training.losses import class_masks
from sepstream_training.reference import import_reference, is_reference
from sepstream_training.train import load_network, training_facts

Capture = pytest.CaptureFixture[str]
F64 = NDArray[np.float64]

ORACLE = Path(__file__).resolve().parents[2] / "shared" / "oracles" / "hyper_oracle.npz"
CLASSES, BINS, UNITS, LAYERS = 7, 17, 5, 2
FORMS: dict[str, dict[str, Any]] = {
    "published": {},
    "euclid": {"k": 0.0},
    "steep": {"k": 0.5, "dim": 8},
    "causal": {"bidirectional": False},
    "trained curvature": {"trained": 1.7},
    "trained curvature back": {"k": 0.5, "trained": 0.5},
    "trained curvature a little below": {"trained": 0.98},
    "wide": {"dim": 128},
}
EXACT = 2e-5  # of masks: float32 weights of the head, through logits of some tens

torch.set_num_threads(1)


def make(folder: Path, *, k: float = 1.0, dim: int = 2, bidirectional: bool = True, trained: float | None = None) -> Path:
    """A Lightning file of the reference's form, small: its names, its shapes, its configuration."""
    torch.manual_seed(11)
    lstm = nn.LSTM(BINS, UNITS, LAYERS, bidirectional=bidirectional)
    linear = nn.Linear(UNITS * (1 + bidirectional), BINS * dim)
    points = torch.randn(CLASSES, dim)
    points *= 0.6 * torch.rand(CLASSES, 1) / points.norm(dim=1, keepdim=True) / (k or 1.0) ** 0.5
    state = {f"lstm.LSTM.{name}": value for name, value in lstm.state_dict().items()}
    state |= {f"mask_layer.linear.{name}": 3 * value for name, value in linear.state_dict().items()}
    state |= {
        "lstm.norm_layer.weight": torch.rand(BINS) + 0.5,
        "lstm.norm_layer.bias": torch.randn(BINS),
        "lstm.norm_layer.running_mean": -8 + torch.randn(BINS),
        "lstm.norm_layer.running_var": 4 + torch.rand(BINS),
        "lstm.norm_layer.num_batches_tracked": torch.tensor(7),
        "mask_layer.mlr.p_k": points,
        "mask_layer.mlr.a_k": torch.randn(CLASSES, dim),
    }
    if k > 0:
        state["mask_layer.mlr.ball.isp_c"] = torch.tensor(np.log(np.expm1(k)), dtype=torch.float32)
    if trained is not None:
        state["mask_layer.tp.c"] = torch.tensor([trained])
    model = {
        "n_sources": 7, "n_layers": LAYERS, "hidden_dim": UNITS, "n_freq_bins": BINS, "dropout": 0.3,
        "bidirectional": bidirectional, "hyperbolic_dim": dim, "hyperbolic_train": trained is not None, "hyperbolic_k": k,
    }  # fmt: skip
    configuration = {
        "data": {"train_batch_size": 10, "train_chunk_sec": 3.2, "eval_batch_size": 10, "num_workers": 4},
        "model": model,
        "training": {"epochs": 300, "num_gpu": 1, "learning_rate": 1e-3, "seed": 2},
        "features": {"window_length": 32, "fft_size": 32, "hop_length": 16, "normalize": True},
        "loss": {"loss_type": "mask", "mag_weights": True},
    }
    path = folder / "model.ckpt"
    weights = {f"model.{name}": value.detach().clone() for name, value in state.items()}
    content = {"epoch": 3, "global_step": 1200, "pytorch-lightning_version": "2.0.0", "state_dict": weights, "loops": {}}
    torch.save({**content, "hparams_name": "kwargs", "hyper_parameters": configuration}, path)
    return path


# ---- its forward pass, in float64, from the papers --------------------------------------------------------------------


def reference_masks(path: Path, magnitude: F64) -> F64:
    """(frames, bins) normalised magnitudes -> (frames, classes, bins)."""
    content = torch.load(path, weights_only=True)
    model = content["hyper_parameters"]["model"]
    state = {name.removeprefix("model."): value.double() for name, value in content["state_dict"].items()}
    norm = {name: state[f"lstm.norm_layer.{name}"].numpy() for name in ("weight", "bias", "running_mean", "running_var")}
    features = (np.log(magnitude + 1e-8) - norm["running_mean"]) / np.sqrt(norm["running_var"] + 1e-5) * norm["weight"] + norm[
        "bias"
    ]
    lstm = nn.LSTM(BINS, UNITS, LAYERS, bidirectional=model["bidirectional"]).double()
    lstm.load_state_dict({name.removeprefix("lstm.LSTM."): v for name, v in state.items() if name.startswith("lstm.LSTM.")})
    with torch.no_grad():
        heard = lstm(torch.from_numpy(features))[0].numpy()
    v = heard @ state["mask_layer.linear.weight"].numpy().T + state["mask_layer.linear.bias"].numpy()
    v = v.reshape(-1, model["hyperbolic_dim"])  # frames, bins, then dimensions
    p, a = (state[f"mask_layer.mlr.{name}"].numpy() for name in ("p_k", "a_k"))
    if model["hyperbolic_k"] == 0:
        logits = 4 * ((v[:, None] - p) * a).sum(-1)
    else:
        mapped = float(state.get("mask_layer.tp.c", torch.tensor(model["hyperbolic_k"])))
        logits = hyperbolic_mlr(to_ball(v, mapped), p, a, float(np.log1p(np.exp(float(state["mask_layer.mlr.ball.isp_c"])))))
    logits = logits.reshape(len(magnitude), BINS, CLASSES).transpose(0, 2, 1)
    return np.concatenate([softmax(logits[:, :2]), softmax(logits[:, 2:])], axis=1)


def to_ball(v: F64, c: float) -> F64:
    """The exponential map at the origin, and not beyond 0.999 of the ball (Ganea et al. 2018, eq. 12)."""
    length = np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-5)
    x = np.tanh(np.clip(np.sqrt(c) * length, -15, 15)) * v / (np.sqrt(c) * length)
    size = np.linalg.norm(x, axis=1, keepdims=True)
    return np.where(size > 0.999 / np.sqrt(c), x / np.maximum(size, 1e-15) * 0.999 / np.sqrt(c), x)


def hyperbolic_mlr(x: F64, p: F64, a: F64, c: float) -> F64:
    """Ganea et al. 2018, eq. 25, normals in the tangent space at the origin: (N, dim) points -> (N, K) logits."""
    x, q = x[:, None], -p[None]
    xq, qq, xx = (x * q).sum(-1, keepdims=True), (q * q).sum(-1, keepdims=True), (x * x).sum(-1, keepdims=True)
    z = ((1 + 2 * c * xq + c * xx) * q + (1 - c * qq) * x) / (1 + 2 * c * xq + c * c * xx * qq)
    norm = np.linalg.norm(a, axis=1)
    inside = 2 * np.sqrt(c) * (z * a).sum(-1) / np.maximum((1 - c * (z * z).sum(-1)) * norm, 1e-15)
    return 2 * norm / np.sqrt(c) * np.arcsinh(inside)


def softmax(logits: F64) -> F64:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@pytest.mark.skipif(not ORACLE.exists(), reason="the reference arrays (shared/oracles) are not beside this checkout")
@pytest.mark.parametrize("dim", [2, 8])
@pytest.mark.parametrize("name", ["c1", "c0.5"])
def test_the_forward_pass_written_here_is_the_reference_systems(dim: int, name: str) -> None:
    arrays = np.load(ORACLE)
    c = float(name[1:])
    x = to_ball(arrays[f"d{dim}_u"], c)
    np.testing.assert_allclose(x, arrays[f"d{dim}_{name}_topoincare"], atol=1e-12)
    p, a = arrays[f"d{dim}_{name}_p_k"].astype(float), arrays[f"d{dim}_a"].astype(float)
    np.testing.assert_allclose(hyperbolic_mlr(x, p, a, c), arrays[f"d{dim}_{name}_mlr_logits_f64"], atol=1e-6)


# ---- the import -------------------------------------------------------------------------------------------------------


def magnitudes(frames: int) -> F64:
    return np.asarray(10 ** np.random.default_rng(2).uniform(-7, 0, (frames, BINS)))


@pytest.mark.parametrize("form", FORMS)
def test_an_imported_network_makes_the_masks_of_the_reference(form: str, tmp_path: Path) -> None:
    source = make(tmp_path, **FORMS[form])
    assert is_reference(source)
    recipe, network = load_network(import_reference(source, tmp_path / "ours.ckpt"))
    assert recipe.class_names == ["music", "speech", "bass", "drums", "guitar", "male", "female"]
    assert (recipe.stft, recipe.sample_rate_hz, recipe.mix.seconds) == (StftSpec(32, 32, 16), 16000, 3.2)
    heard = magnitudes(40)
    wanted = reference_masks(source, heard)
    with torch.no_grad():
        logits, _ = network.double()(torch.from_numpy(heard)[None])
    masks = class_masks(logits, recipe.levels)[0].numpy()
    np.testing.assert_allclose(masks, wanted, atol=EXACT)
    assert np.ptp(wanted, axis=(0, 2)).max() > 0.5, "the masks hardly move: this would show nothing"


def test_what_is_known_of_its_training_is_kept(tmp_path: Path) -> None:
    facts = training_facts(import_reference(make(tmp_path), tmp_path / "ours.ckpt"))
    assert (facts["recipe"], facts["steps"], facts["hours_of_mixtures_heard"]) == ("imported", 1200, 10.7)


@pytest.mark.parametrize("form", ["published", "causal", "trained curvature"])
def test_sep_export_takes_it_as_it_is_and_the_bundle_renders(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(parity, "FRAMES", 96)
    monkeypatch.setattr(speed, "SECONDS", 0.1)
    source, out = make(tmp_path, **FORMS[form]), tmp_path / "bundle"
    assert export_main([str(source), "--out", str(out)]) == 0
    card = (out / "card.md").read_text(encoding="utf8")
    assert "AGPL-3.0-or-later" in card and "weights: Apache" not in card
    soundfile = pytest.importorskip("soundfile")
    noise = 0.1 * np.random.default_rng(1).standard_normal(8000)
    soundfile.write(tmp_path / "x.wav", noise, 16000, subtype="FLOAT")
    assert render_main([str(tmp_path / "x.wav"), "--model", str(out), "--out", str(tmp_path), "--stems", "parents"]) == 0
    capsys.readouterr()
    stems = [soundfile.read(tmp_path / f"x/{name}.wav")[0] for name in ("music", "speech")]
    np.testing.assert_allclose(sum(stems), noise, atol=1e-5)


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no configuration": (lambda c: c.pop("hyper_parameters"), "not of the reference's form (KeyError: 'hyper_parameters')"),
    "no features": (lambda c: c["hyper_parameters"].pop("features"), "KeyError: 'features'"),
    "a layer too few": (lambda c: c["hyper_parameters"]["model"].update(n_layers=3), "not of the reference's form (KeyError"),
    "a layer too many": (lambda c: c["hyper_parameters"]["model"].update(n_layers=1), "have no place for"),
    "other units": (lambda c: c["hyper_parameters"]["model"].update(hidden_dim=6), "size mismatch"),
    "other bins": (lambda c: c["hyper_parameters"]["model"].update(n_freq_bins=16), "not of the reference's form"),
    "words for numbers": (lambda c: c["hyper_parameters"]["model"].update(n_layers="many"), "ValueError"),
    "other sources": (lambda c: c["hyper_parameters"]["model"].update(n_sources=4), "4 sources; expected the 7"),
    "other window": (lambda c: c["hyper_parameters"]["features"].update(normalize=False), "its window is not normalized"),
    "no curvature": (lambda c: c["state_dict"].pop("model.mask_layer.mlr.ball.isp_c"), "isp_c"),
    "bent the other way": (
        lambda c: c["state_dict"].update({"model.mask_layer.tp.c": torch.tensor([-0.1])}),
        "curvature is -0.1",
    ),
    "point outside": (lambda c: c["state_dict"]["model.mask_layer.mlr.p_k"].mul_(100), "a point outside of the ball"),
    "no normal": (lambda c: c["state_dict"]["model.mask_layer.mlr.a_k"][2].zero_(), "no normal"),
    "NaN": (lambda c: c["state_dict"]["model.mask_layer.linear.bias"].fill_(torch.nan), "weights that are no numbers"),
    "text for weights": (lambda c: c["state_dict"].update({"model.mask_layer.linear.bias": "x"}), "not of the reference's form"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_file_of_another_form_is_refused_in_one_line(fault: str, tmp_path: Path, capsys: Capture) -> None:
    change, words = WRONG[fault]
    source = edit(make(tmp_path), change)
    with pytest.raises(DataError) as error:
        import_reference(source, tmp_path / "ours.ckpt")
    assert words in str(error.value)
    assert "\n" not in str(error.value) and str(source) in str(error.value)
    assert not (tmp_path / "ours.ckpt").exists()
    assert export_main([str(source), "--out", str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "touched",))

    source = make(tmp_path)
    content = torch.load(source, weights_only=True)
    content["callbacks"] = Hostile()
    torch.save(content, source)
    assert not is_reference(source)
    with pytest.raises(DataError, match="not of the reference's form"):
        import_reference(source, tmp_path / "ours.ckpt")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(100)])
def test_a_file_that_is_no_checkpoint_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    assert not is_reference(tmp_path / "x")
    assert not is_reference(tmp_path / "nowhere")

"""The CNN that weak labels train, and what it hears through: mel bands, PCEN, convolutions that stream."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sepstream.errors import DataError
from sepstream_training.models import build
from sepstream_training.models.mel import band_shares, mel_filters
from sepstream_training.models.pcen import BLOCK, Pcen

F64 = NDArray[np.float64]

ORACLE = Path(__file__).resolve().parents[2] / "shared" / "oracles" / "weak_oracle.npz"
BINS, BIN_HZ, BANDS = 129, 62.5, 12
SMALL = {"bins": BINS, "bin_hz": BIN_HZ, "bands": BANDS, "channels": [4, 3]}
LIVE: dict[str, dict[str, Any]] = {  # forms that stream
    "plain": {},
    "causal": {"future": 0, "masks": "sigmoid"},
    "uneven": {"kernel_frames": [3, 1, 4], "kernel_bands": [3, 1, 5], "future": [2, 0, 1], "feature": "log1p"},
    "grouped": {"groups": [1, 2, 1], "channels": [4, 4], "coordinates": False, "activation": "relu", "batch_norm": False},
    "coordinates": {"coordinates": True, "padding": ["reflection", "zero", "zero"], "kernel_frames": [1, 3, 3], "feature": "mel"},
    "pooled": {"pooling": ["max", "none", "mean"], "pool_kernel": [2, 1], "pool_stride": [2, 1], "pool_pad_bands": 1},
    "strided": {"stride_bands": [2, 1, 1], "masks": "sigmoid", "energy": "exactly", "dropout_of": "channels"},
    "pcen": {"feature": "pcen", "pcen": {"channels": 2, "smooth": [0.05, 0.3], "per_band": True}},
    "no bands": {"feature": "spectrogram", "masks": "sigmoid", "energy": "at_most", "normalised": False},
}
WHOLE: dict[str, dict[str, Any]] = {  # and those that need the whole signal
    "strides of frames": {"stride_frames": [1, 2, 1]},
    "pooled frames": {"pooling": ["max", "none", "mean"]},
    "reflection": {"padding": "reflection"},
    "zero phase": {"feature": "pcen", "pcen": {"zero_phase": True}},
}

torch.set_num_threads(1)


def network(options: dict[str, Any], classes: int = 3) -> Any:
    torch.manual_seed(0)
    net: Any = build("mask_cnn", classes, {**SMALL, **options})
    with torch.no_grad():
        net.train()
        net.stretch(magnitudes(5, batch=4, frames=24))  # gathers statistics
    return net.eval()


def magnitudes(seed: int, batch: int = 2, frames: int = 30) -> torch.Tensor:
    return 10 ** (torch.rand(batch, frames, BINS, generator=torch.Generator().manual_seed(seed)) * 4 - 5)


def steps(net: Any, magnitude: torch.Tensor, cuts: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    state, found = net.initial_state(len(magnitude)), []
    with torch.no_grad():
        for part in torch.split(magnitude, list(cuts), dim=1):
            masks, _, state = net.step(part, state)
            found.append(masks)
    return torch.cat(found, dim=1), state


# ---- mel --------------------------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(bands=st.integers(1, 40), low_hz=st.floats(0, 500), high_hz=st.floats(4000, 8000))
def test_filters_have_one_area_and_shares_sum_to_one(bands: int, low_hz: float, high_hz: float) -> None:
    filters = mel_filters(1025, 8000 / 1024, bands, low_hz, high_hz)
    assert filters.shape == (bands, 1025)
    assert (filters >= 0).all()
    np.testing.assert_allclose(filters.sum(axis=1) * 8000 / 1024, 1, rtol=0.15)  # triangles of area 1, sampled
    shares = band_shares(filters)
    np.testing.assert_allclose(shares.sum(axis=0), 1)
    inside = filters.sum(axis=0) > 0
    np.testing.assert_allclose(shares[:, inside], filters[:, inside] / filters[:, inside].sum(axis=0))
    assert (shares[:, 0] == shares[:, np.flatnonzero(inside)[0]]).all()  # 0 Hz follows the first that is heard


def test_bands_without_a_bin_are_refused() -> None:
    with pytest.raises(ValueError, match="leave some without a bin"):
        mel_filters(33, 250, 64, 0, 8000)


@pytest.mark.skipif(not ORACLE.is_file(), reason=f"{ORACLE} holds librosa's filters, and is not here")
def test_filters_are_those_of_librosa() -> None:
    np.testing.assert_allclose(mel_filters(513, 15.625, 64, 0, 8000), np.load(ORACLE)["mel_fb"], atol=1e-8)


# ---- PCEN -------------------------------------------------------------------------------------------------------------


def smoothed(energy: F64, s: float) -> F64:
    out = np.empty_like(energy)
    out[..., 0] = energy[..., 0]
    for t in range(1, energy.shape[-1]):
        out[..., t] = (1 - s) * out[..., t - 1] + s * energy[..., t]
    return out


def reference(layer: Pcen, energy: F64) -> F64:
    """(B, bands, T) in float64, frame by frame."""
    alpha, delta, root = (
        f(getattr(layer, name).detach().double()).numpy()
        for f, name in ((torch.sigmoid, "alpha"), (torch.exp, "log_delta"), (torch.sigmoid, "root"))
    )
    shares = layer.shares.detach().double().softmax(dim=1).numpy() if layer.smooth.shape[1] > 1 else None
    eps, out = float(layer.log_eps.detach().double().exp()), []
    for c, coefficients in enumerate(torch.sigmoid(layer.smooth.detach().double()).tolist()):
        mean = np.zeros_like(energy)
        for k, s in enumerate(coefficients):
            each = smoothed(energy, s)
            each = smoothed(each[..., ::-1], s)[..., ::-1] if layer.zero_phase else each
            mean = mean + each * (1 if shares is None else shares[c, k])
        out.append((energy * (eps + mean) ** -alpha[c] + delta[c]) ** root[c] - delta[c] ** root[c])
    return np.stack(out, axis=1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"smooth": [0.025], "eps": 1e-3},
        {"zero_phase": True},
        {"smooth": [0.015, 0.04, 0.5], "per_band": True},
        {"channels": 3, "train_smooth": True, "train_eps": True, "zero_phase": True},
    ],
    ids=str,
)
def test_pcen_against_float64(options: dict[str, Any]) -> None:
    torch.manual_seed(3)
    layer, frames = Pcen(5, **options), BLOCK + 40  # longer than one matrix product
    energy = np.random.default_rng(0).exponential(1e-2, (2, 5, frames)) * 10 ** np.linspace(-3, 1, frames)
    found = layer(torch.tensor(energy, dtype=torch.float32)).detach().numpy()
    np.testing.assert_allclose(found, reference(layer, energy), rtol=2e-4, atol=2e-5)


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_pcen_streams(cuts: list[int]) -> None:
    layer, frames = Pcen(5, channels=2, smooth=[0.1, 0.4]), sum(cuts)
    energy = torch.rand(2, 5, frames) + 1e-3
    memory, heard, found = torch.full((2, *layer.memory(5)), 7.0), torch.zeros(2), []  # of a signal that was not there
    for part in torch.split(energy, cuts, dim=2):
        out, memory = layer.step(part, memory, heard)
        heard = torch.ones(2)
        found.append(out)
    torch.testing.assert_close(torch.cat(found, dim=3), layer(energy), rtol=1e-5, atol=1e-6)


def test_pcen_learns_all_that_is_to_be_trained() -> None:
    layer = Pcen(4, channels=2, per_band=True, smooth=[0.1, 0.3], train_smooth=True, train_eps=True)
    layer(torch.rand(2, 4, 12)).sum().backward()
    gradients = {name: value.grad for name, value in layer.named_parameters()}
    assert set(gradients) == {"alpha", "log_delta", "root", "smooth", "shares", "log_eps"}
    assert all(value is not None and value.abs().sum() > 0 for value in gradients.values())
    fixed = Pcen(4)
    assert not fixed.log_eps.requires_grad
    assert "smooth" not in dict(fixed.named_parameters())
    assert not any(value.requires_grad for value in Pcen(4, train_smooth=True, train_eps=True, trained=False).parameters())


@pytest.mark.skipif(not ORACLE.is_file(), reason=f"{ORACLE} holds the reference's outputs, and is not here")
def test_pcen_is_that_of_the_reference() -> None:
    data = np.load(ORACLE)
    energy = torch.from_numpy(data["pcen.E"][:, 0])

    def check(wanted: str, state: str = "", **options: Any) -> None:
        layer = Pcen(8, **options)
        if state:
            values = {"alpha": "i_sig_alpha", "log_delta": "log_delta", "root": "i_sig_r"}
            given = {ours: torch.from_numpy(data[f"{state}.{name}"]).reshape(1, -1, 1) for ours, name in values.items()}
            given["shares"] = torch.from_numpy(data[f"{state}.z_ks"])[None, :, :, None]
            layer.load_state_dict(layer.state_dict() | given)
        target = data[wanted].reshape(2, 1, 8, -1)
        np.testing.assert_allclose(layer(energy).detach(), target, atol=2e-6)

    check("pcen.forward_only_s0.025", smooth=[0.025])
    check("pcen.no_arti_s0.04", smooth=[0.04], zero_phase=True)
    check("pcen.layer_s.out", "pcen.layer_s.state", smooth=data["pcen.layer_s.s"].tolist(), zero_phase=True)
    check("pcen.layer_perband.out", "pcen.layer_perband.state", smooth=[0.015, 0.08], zero_phase=True, per_band=True)


# ---- the network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", [[1] * 9, [2, 17, 1, 5], [9, 3, 1]], ids=str)
@pytest.mark.parametrize("form", LIVE)
def test_any_blocks_give_the_same_and_leave_the_given_state_alone(form: str, cuts: list[int]) -> None:
    net, x = network(LIVE[form]), magnitudes(0, frames=sum(cuts))
    fresh = net.initial_state(2)
    found, state = steps(net, x, cuts)
    once, state_once = steps(net, x, [x.shape[1]])
    torch.testing.assert_close(found, once, rtol=1e-4, atol=1e-4)  # logarithms of masks, where these are shares
    torch.testing.assert_close(state, state_once, rtol=1e-4, atol=1e-5)
    assert (fresh == 0).all()
    with torch.no_grad():
        net.step(x, fresh)
    assert (fresh == 0).all()


@pytest.mark.parametrize("form", LIVE)
def test_a_step_gives_what_the_whole_signal_gives_from_the_first_frame_on(form: str) -> None:
    net, x = network(LIVE[form]), magnitudes(1)
    late = net.lookahead
    with torch.no_grad():
        whole, _ = net.of_bins(net.stretch(x))
    found, _ = steps(net, x, [7, 1, 22])
    torch.testing.assert_close(found[:, late:], whole[:, : x.shape[1] - late], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", LIVE)
def test_the_future_and_other_signals_change_nothing(form: str) -> None:
    net, x = network(LIVE[form]), magnitudes(2)
    other = magnitudes(9)
    other[0, :20] = x[0, :20]
    found, _ = steps(net, other, [30])
    clean, _ = steps(net, x, [30])
    torch.testing.assert_close(found[0, :20], clean[0, :20])
    assert (found[0, 20:] != clean[0, 20:]).any()


@pytest.mark.parametrize("form", [*LIVE, *WHOLE])
def test_masks_lie_within_0_and_1_and_share_out_the_mixture_where_they_say_so(form: str) -> None:
    options = LIVE.get(form) or WHOLE.get(form, {})
    net, x = network({**options, "streaming": form in LIVE}), magnitudes(3, frames=31)
    with torch.no_grad():
        found, embedding = net(x)
    assert found.shape == (2, 31, 3, BINS)
    assert embedding.shape == (2, 31, 0, BINS)
    assert net.independent == (options.get("masks") == "sigmoid")
    masks = found if net.independent else found.exp()
    assert ((masks >= 0) & (masks <= 1 + 1e-6)).all()
    total = masks.sum(dim=2)[:, net.lookahead if form in LIVE else 0 :]
    if not net.independent or options.get("energy") == "exactly":
        torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-4, atol=1e-4)
    if options.get("energy") == "at_most":
        assert (total <= 1 + 1e-5).all()


@pytest.mark.parametrize("form", WHOLE)
def test_what_does_not_stream_says_so(form: str) -> None:
    with pytest.raises(DataError, match="expected streaming: false"):
        build("mask_cnn", 3, {**SMALL, **WHOLE[form]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "log"}, "features"),
        ({"feature": "mfcc"}, "mfcc"),
        ({"kernel_bands": [3, 3]}, "kernel_bands has 2 values; expected one, or 3"),
        ({"activation": "tanh"}, "activation is 'tanh'"),
        ({"future": 5}, "future is 5; expected 0 to 4"),
        ({"masks": "relu"}, "expected softmax or sigmoid"),
        ({"bands": 400}, "expected fewer bands"),
        ({"feature": "pcen", "pcen": {"smooth": [1.5]}}, "coefficients in 0..1"),
    ],
)
def test_options_of_no_use_are_said_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        build("mask_cnn", 3, {**SMALL, **options})
    assert "\n" not in str(error.value)

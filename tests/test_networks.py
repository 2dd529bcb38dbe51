"""The networks, each through the same laws, in float64 so that only the law can fail; and the disk head they share."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sepstream.errors import DataError
from sepstream_training.losses import class_masks
from sepstream_training.models import Network, StreamingNetwork, build
from sepstream_training.models.disk_head import MAX_RADIUS, DiskHead, hyperplanes
from streaming_contract import Stage, verify

ORACLE = Path(__file__).resolve().parents[2] / "shared" / "oracles" / "hyper_oracle.npz"

CLASSES, BINS, LEVELS = 7, 19, [slice(0, 2), slice(2, 7)]
OPTIONS: dict[str, dict[str, Any]] = {
    "band_split": {"bands": [[3, 2], [1, 5], [2, 4]], "width": 6, "units": 5, "blocks": 2},
    "band_split whole": {"bands": [[3, 2], [1, 5], [2, 4]], "width": 8, "units": 5, "blocks": 2, "whole": 10},
    "hyper_unmix": {"bins": BINS, "units": 7, "layers": 3},
}
TOLERANCE = 1e-11  # float64 sums in another order, through a few layers

torch.set_num_threads(1)

every_network = pytest.mark.parametrize("kind", OPTIONS)
every_dilation = pytest.mark.parametrize("dilation", [1, 3])


def make(kind: str, dilation: int = 1, **options: Any) -> StreamingNetwork:
    """A tiny network whose normalisation does something, ready to stream."""
    torch.manual_seed(5)
    network = build(kind.partition(" ")[0], CLASSES, OPTIONS[kind] | {"dilation": dilation} | options).double().eval()
    assert isinstance(network, StreamingNetwork)
    settle(network)
    return network


def settle(network: Network) -> None:
    network.norm.running_mean.uniform_(-6, -2)  # type: ignore[union-attr]
    network.norm.running_var.uniform_(0.5, 4)  # type: ignore[union-attr]


def magnitudes(batch: int, frames: int, seed: int = 1) -> torch.Tensor:
    """(batch, frames, BINS), from far below the network's hearing to full scale."""
    generator = torch.Generator().manual_seed(seed)
    return 10 ** torch.empty(batch, frames, BINS, dtype=torch.float64).uniform_(-7, 0, generator=generator)


def fresh(network: StreamingNetwork, batch: int) -> torch.Tensor:
    return network.initial_state(batch).double()


@every_network
@every_dilation
def test_network_obeys_the_streaming_contract(kind: str, dilation: int) -> None:
    network = make(kind, dilation)

    def step(block: NDArray[np.float64], state: torch.Tensor) -> tuple[NDArray[np.float64], torch.Tensor]:
        with torch.no_grad():
            logits, u, state = network.step(torch.from_numpy(np.ascontiguousarray(block)), state)
        return torch.cat([logits, u], dim=2).numpy(), state

    stage = Stage(lambda: fresh(network, 2), step, axis=1, tolerance=TOLERANCE, empty=False, lanes=True)
    verify(stage, magnitudes(2, 40).numpy())


@every_network
@every_dilation
def test_any_grouping_of_frames_gives_the_whole(kind: str, dilation: int) -> None:
    network = make(kind, dilation)

    @given(blocks=st.lists(st.integers(1, 7), min_size=1, max_size=6))
    def check(blocks: list[int]) -> None:
        x, state, parts = magnitudes(1, sum(blocks)), fresh(network, 1), []
        with torch.no_grad():
            for block in x.split(blocks, dim=1):
                logits, _, state = network.step(block, state)
                parts.append(logits)
            torch.testing.assert_close(torch.cat(parts, dim=1), network(x)[0], rtol=0, atol=TOLERANCE)

    check()


@every_network
@every_dilation
def test_a_step_leaves_the_given_state_alone_and_a_fresh_state_is_fresh(kind: str, dilation: int) -> None:
    network = make(kind, dilation)
    state = fresh(network, 2)
    _, _, middle = network.step(magnitudes(2, 5), state)
    before = middle.clone()
    network.step(magnitudes(2, 4, seed=2), middle)
    assert torch.equal(middle, before)
    assert state.eq(0).all() and network.initial_state(2).eq(0).all()
    assert middle.shape == state.shape
    assert state.shape[0] == dilation


@every_network
@every_dilation
def test_poison_reaches_its_own_frame_and_nothing_before_it(kind: str, dilation: int) -> None:
    network = make(kind, dilation)
    x = magnitudes(1, 12)
    x[:, 7, 3] = torch.nan
    with torch.no_grad():
        logits, _ = network(x)
        clean, _ = network(magnitudes(1, 12))
    torch.testing.assert_close(logits[:, :7], clean[:, :7], rtol=0, atol=TOLERANCE)
    assert logits[:, 7].isnan().any()


@every_network
def test_one_chain_fed_every_third_frame_is_the_interleaved_network(kind: str) -> None:
    network, x = make(kind, dilation=3), magnitudes(2, 20)
    with torch.no_grad():
        whole, u = network(x)
        for first in range(3):
            logits, u_chain = network(x[:, first::3], chains=1)
            torch.testing.assert_close(logits, whole[:, first::3], rtol=0, atol=TOLERANCE)
            torch.testing.assert_close(u_chain, u[:, first::3], rtol=0, atol=TOLERANCE)


@every_network
def test_masks_of_a_level_sum_to_one(kind: str) -> None:
    with torch.no_grad():
        logits, _ = make(kind)(magnitudes(2, 9))
    masks = class_masks(logits, LEVELS)
    assert masks.shape == (2, 9, CLASSES, BINS)
    assert masks.ge(0).all()
    for level in LEVELS:
        torch.testing.assert_close(masks[:, :, level].sum(dim=2), torch.ones(2, 9, BINS).double())


@every_network
@pytest.mark.parametrize(
    "head", [{"curvature": 0.0}, {"curvature": 0.5}, {"trainable_curvature": True}, {"dim": 8}], ids=lambda h: str(*h.items())
)
def test_every_parameter_learns_from_a_finite_gradient(kind: str, head: dict[str, Any]) -> None:
    network = make(kind, dilation=3, **head).train()
    x = magnitudes(3, 9)
    x[0] = 0.0  # silence must not be a special case
    logits, _ = network(x, chains=1)
    torch.nn.functional.cross_entropy(logits.transpose(1, 2), torch.randint(CLASSES, (3, 9, BINS))).backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert ("head.log_curvature" in gradients) == ("trainable_curvature" in head)
    for name, gradient in gradients.items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        assert gradient.ne(0).any(), name


def test_dropout_acts_in_training_only_and_never_on_the_input() -> None:
    network, x = make("hyper_unmix", dropout=0.5), magnitudes(1, 6)
    assert torch.equal(network(x)[0], network(x)[0])
    network.train()
    network.norm.eval()
    assert not torch.equal(network(x)[0], network(x)[0])
    single = make("hyper_unmix", dropout=0.5, layers=1).train()
    assert torch.equal(single(x)[0], single(x)[0])  # one layer has no in-between


# ---- both directions --------------------------------------------------------------------------------------------------


def make_offline(**options: Any) -> Network:
    torch.manual_seed(6)
    given = {"bins": BINS, "units": 5, "layers": 2, "bidirectional": True} | options
    network = build("hyper_unmix", CLASSES, given).double().eval()
    settle(network)
    return network


def lstm_in_numpy(x: NDArray[Any], weights: dict[str, NDArray[Any]], suffix: str) -> NDArray[np.float64]:
    """Hochreiter & Schmidhuber 1997 with a forget gate, one direction: (T, inputs) -> (T, units)."""
    w, r = weights[f"cell.weight_ih_{suffix}"], weights[f"cell.weight_hh_{suffix}"]
    bias = weights[f"cell.bias_ih_{suffix}"] + weights[f"cell.bias_hh_{suffix}"]
    h = c = np.zeros(r.shape[1])
    out = []
    for frame in x[::-1] if suffix.endswith("reverse") else x:
        i, f, g, o = np.split(w @ frame + r @ h + bias, 4)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
        out.append(h)
    return np.array(out[::-1] if suffix.endswith("reverse") else out)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("dim", [2, 7])
def test_the_bidirectional_network_is_the_published_stack(layers: int, dim: int) -> None:
    network, x = make_offline(layers=layers, dim=dim, floor=1e-8), magnitudes(2, 11)
    with torch.no_grad():
        logits, u = network(x)
    weights = {name: value.detach().numpy() for name, value in network.state_dict().items()}
    for item in range(2):
        heard = np.log(x[item].numpy() + 1e-8)
        heard = (heard - weights["norm.running_mean"]) / np.sqrt(weights["norm.running_var"] + 1e-5)
        heard = heard * weights["norm.weight"] + weights["norm.bias"]
        for layer in range(layers):
            own = {name.removeprefix(f"layers.{layer}."): value for name, value in weights.items()}
            heard = np.concatenate([lstm_in_numpy(heard, own, s) for s in ("l0", "l0_reverse")], axis=1)
        v = (heard @ weights["linear.weight"].T + weights["linear.bias"]).reshape(-1, dim, BINS)
        with torch.no_grad():
            wanted, wanted_u = network.head(torch.from_numpy(v))
        torch.testing.assert_close(logits[item], wanted, rtol=0, atol=1e-10)
        torch.testing.assert_close(u[item], wanted_u, rtol=0, atol=1e-10)


def test_the_bidirectional_network_hears_the_future_and_its_own_signal_alone() -> None:
    network, x = make_offline(), magnitudes(2, 9)
    changed = x.clone()
    changed[0, -1] *= 0.5
    with torch.no_grad():
        before, after = network(x)[0], network(changed)[0]
    assert (before[0, 0] != after[0, 0]).any()
    torch.testing.assert_close(before[1], after[1], rtol=0, atol=TOLERANCE)
    assert not isinstance(network, StreamingNetwork)


@pytest.mark.parametrize("dim", [2, 128])
@pytest.mark.parametrize("head", [{"curvature": 0.0}, {"curvature": 1.0}, {"trainable_curvature": True}], ids=str)
def test_every_parameter_of_the_bidirectional_network_learns(head: dict[str, Any], dim: int) -> None:
    network = make_offline(dim=dim, **head).train()
    logits, _ = network(magnitudes(3, 9))
    torch.nn.functional.cross_entropy(logits.transpose(1, 2), torch.randint(CLASSES, (3, 9, BINS))).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all() and parameter.grad.ne(0).any(), name


# ---- tied masks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hyper_unmix", "band_split"])
def test_tied_leaves_share_the_mask_of_their_parent(kind: str) -> None:
    network, x = make(kind), magnitudes(2, 5)
    with torch.no_grad():
        free, u = network(x)
        network.tied = (2, 3)
        logits, same_u = network(x)
    assert torch.equal(u, same_u)
    masks = class_masks(logits, LEVELS)
    for level in LEVELS:
        torch.testing.assert_close(masks[:, :, level].sum(dim=2), torch.ones(2, 5, BINS).double())
    for parent, members in ((0, slice(2, 4)), (1, slice(4, 7))):
        torch.testing.assert_close(masks[:, :, members].sum(dim=2), masks[:, :, parent])
        within = free[:, :, members].softmax(dim=2)
        torch.testing.assert_close(masks[:, :, members], free[:, :, LEVELS[0]].softmax(dim=2)[:, :, parent, None] * within)


@pytest.mark.parametrize(
    ("kind", "options", "word"),
    [
        ("band_spilt", {}, "did you mean 'band_split'"),
        ("hyper_unmix", {"unitz": 3}, "unitz"),
        ("hyper_unmix", {"curvature": -1.0}, "curvature > 0"),
        ("hyper_unmix", {"curvature": 0.0, "trainable_curvature": True}, "curvature > 0"),
        ("hyper_unmix", {"dim": 1}, "dim >= 2"),
        ("hyper_unmix", {"layers": 0}, "expected all > 0"),
        ("hyper_unmix", {"floor": 0.0}, "expected all > 0"),
        ("hyper_unmix", {"bidirectional": True, "dilation": 3}, "dilation is 3; expected 1"),
        ("hyper_unmix", {"curvature": 0.0, "embedding_curvature": 1.0}, "two fixed curvatures"),
        ("band_split", {"bands": [3, 4]}, "model.options"),
        ("band_split", {"bands": [[3, 4]], "units": 5, "whole": 7}, "multiple of units"),
    ],
)
def test_a_network_that_cannot_be_is_refused_in_one_line(kind: str, options: dict[str, Any], word: str) -> None:
    with pytest.raises(DataError, match=word) as error:
        build(kind, CLASSES, options)
    assert "\n" not in str(error.value)


# ---- the head ---------------------------------------------------------------------------------------------------------


def tangents(dim: int, count: int = 200) -> NDArray[np.float64]:
    """(count, dim) vectors with lengths from nothing to far beyond the clip, the zero vector first."""
    rng = np.random.default_rng(3)
    directions = rng.standard_normal((count, dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions * np.concatenate([[0.0], np.geomspace(1e-6, 50, count - 1)])[:, None]


def mobius_logits(v: NDArray[Any], p: NDArray[Any], a: NDArray[Any], c: float) -> NDArray[np.float64]:
    """Ganea et al. 2018, eq. 25, with the factor 2|a|: (N, dim) tangents, a point and a normal per class -> (N, K)."""
    root, length = np.sqrt(c), np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-300)
    x = np.minimum(np.tanh(root * length), 0.999) / root * v / length
    x, y = x[:, None], -p[None]
    xy, xx, yy = (x * y).sum(-1, keepdims=True), (x * x).sum(-1, keepdims=True), (y * y).sum(-1, keepdims=True)
    z = ((1 + 2 * c * xy + c * xx) * y + (1 - c * yy) * x) / (1 + 2 * c * xy + c * c * xx * yy)
    norm = np.linalg.norm(a, axis=1)
    inside = 2 * root * (z * a).sum(-1) / ((1 - c * (z * z).sum(-1)) * norm)
    return 2 * norm / root * np.arcsinh(inside)


def run_head(head: DiskHead, v: NDArray[np.float64], dtype: torch.dtype = torch.float64) -> tuple[NDArray[Any], NDArray[Any]]:
    """(N, dim) -> logits (N, K), embedding (N, dim)."""
    with torch.no_grad():
        logits, u = head.to(dtype)(torch.from_numpy(v.T).to(dtype))
    return logits.double().numpy().T, u.double().numpy().T


def bent_head(dim: int, c: float) -> DiskHead:
    """A head as training may leave it: normals of all lengths, hyperplanes on both sides of the centre."""
    torch.manual_seed(7)
    head = DiskHead(CLASSES, dim, c).double()
    with torch.no_grad():
        head.normal.copy_(torch.randn(CLASSES, dim) * torch.logspace(-1, 0.7, CLASSES)[:, None])
        head.offset.uniform_(-1.5, 1.5)
    return head


@pytest.mark.parametrize("dim", [2, 8])
@pytest.mark.parametrize("c", [0.25, 1.0, 4.0])  # their square roots and logarithms lose nothing in float32
def test_head_is_the_hyperbolic_mlr_in_closed_form(dim: int, c: float) -> None:
    head = bent_head(dim, c)
    a, offset = head.normal.detach().numpy(), head.offset.detach().numpy()
    direction = a / np.linalg.norm(a, axis=1, keepdims=True)
    p = np.tanh(offset / 2)[:, None] * direction / np.sqrt(c)  # the hyperplane's point nearest to the centre
    logits, u = run_head(head, tangents(dim))
    np.testing.assert_allclose(logits, mobius_logits(tangents(dim), p, a, c), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(u, tangents(dim) * np.sqrt(c) * shortening(tangents(dim) * np.sqrt(c)), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dim", [2, 8])
@pytest.mark.parametrize("c", [0.25, 1.0, 4.0])
def test_points_and_normals_of_the_ball_become_the_same_hyperplanes(dim: int, c: float) -> None:
    rng = np.random.default_rng(8)
    p, a = rng.uniform(-0.6, 0.6, (CLASSES, dim)) / np.sqrt(c * dim), rng.standard_normal((CLASSES, dim))
    head = DiskHead(CLASSES, dim, c).double()
    normal, offset = hyperplanes(torch.from_numpy(p), torch.from_numpy(a), c)
    with torch.no_grad():
        head.normal.copy_(normal)
        head.offset.copy_(offset)
    np.testing.assert_allclose(run_head(head, tangents(dim))[0], mobius_logits(tangents(dim), p, a, c), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("c", [0.0, 1.0])
def test_the_detail_adds_a_linear_form_to_what_the_disk_decides(c: float) -> None:
    torch.manual_seed(10)
    plain, detailed = DiskHead(CLASSES, 2, c).double(), DiskHead(CLASSES, 2, c, detail=3).double()
    detailed.load_state_dict(plain.state_dict() | {"refine": detailed.refine})
    v = torch.randn(50, 5, 7, dtype=torch.float64)
    with torch.no_grad():
        logits, u = plain(v[:, :2])
        for before, after in zip((logits, u), detailed(v), strict=True):
            torch.testing.assert_close(before, after)  # a fresh one is the disk alone
        detailed.refine.normal_()
        found, same = detailed(v)
        torch.testing.assert_close(same, u)
        torch.testing.assert_close(detailed.of_embedding(u), logits)
        wanted = logits + torch.einsum("kd,ndf->nkf", detailed.refine, v[:, 2:])
        torch.testing.assert_close(found, wanted)
        detailed.temperature = 0.5
        torch.testing.assert_close(detailed(v)[0], 2 * wanted)


@pytest.mark.parametrize(("embedding", "own"), [(1.0, 1.3), (1.0, 0.6), (0.5, 0.5)])
def test_a_point_of_one_ball_is_classified_in_another(embedding: float, own: float) -> None:
    """The reference system, after its trained curvature has left that of its classes; as far as the point is in both balls."""
    rng = np.random.default_rng(9)
    p, a = rng.uniform(-0.4, 0.4, (CLASSES, 2)), rng.standard_normal((CLASSES, 2))
    head = DiskHead(CLASSES, 2, own, embedding_curvature=embedding).double()
    with torch.no_grad():
        head.log_curvature.fill_(np.log(own))
        normal, offset = hyperplanes(torch.from_numpy(p), torch.from_numpy(a), own)
        head.normal.copy_(normal)
        head.offset.copy_(offset)
    v = tangents(2)
    length = np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-300)
    x = np.minimum(np.tanh(np.sqrt(embedding) * length), 0.999) / np.sqrt(embedding) * v / length
    inside = np.sqrt(own) * np.linalg.norm(x, axis=1) < 0.999
    assert inside.mean() > 0.5
    x_norm = np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)
    again = x / x_norm * np.arctanh(np.minimum(np.sqrt(own) * x_norm, 0.999)) / np.sqrt(own)  # the tangent of x in the other ball
    np.testing.assert_allclose(run_head(head, v)[0], mobius_logits(again, p, a, own), rtol=1e-6, atol=1e-6)
    assert np.isfinite(run_head(head, v)[0]).all()


@pytest.mark.parametrize("c", [0.0, 1.0])
def test_temperature_divides_the_logits(c: float) -> None:
    head, warm = bent_head(2, c), bent_head(2, c)
    warm.temperature = 2.5
    np.testing.assert_allclose(run_head(warm, tangents(2))[0] * 2.5, run_head(head, tangents(2))[0], rtol=1e-12)


def shortening(u: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.minimum(1.0, MAX_RADIUS / np.maximum(np.linalg.norm(u, axis=1, keepdims=True), 1e-300))


def test_flat_head_is_euclidean_and_the_limit_of_curved_ones() -> None:
    flat = bent_head(2, 0.0)
    a, offset = flat.normal.detach().numpy(), flat.offset.detach().numpy()
    norm = np.linalg.norm(a, axis=1)
    v = tangents(2)
    logits, u = run_head(flat, v)
    np.testing.assert_allclose(logits, 4 * (v @ a.T - offset * norm), atol=1e-10)
    np.testing.assert_array_equal(u, v)
    c = 4.0**-12
    curved = bent_head(2, c)
    with torch.no_grad():
        curved.offset *= 2 * c**0.5  # a distance at curvature 1, twice as long as on the tangent plane
    near = np.linalg.norm(v, axis=1) < 3
    np.testing.assert_allclose(run_head(curved, v[near])[0], logits[near], atol=1e-4)


@pytest.mark.parametrize("dim", [2, 8])
def test_float32_is_enough_for_the_head(dim: int) -> None:
    """Each product of <X, w> is off by an ulp or two of its size; asinh passes that on at most as it is, the scale
    multiplies. At the rim, on the very boundary of the steepest class, that is a hundredth of a logit.
    """
    exact, _ = run_head(bent_head(dim, 1.0), tangents(dim))
    single, _ = run_head(bent_head(dim, 1.0), tangents(dim), torch.float32)
    ulps = (dim + 1) * 2 * np.finfo(np.float32).eps
    rounding = ulps * np.cosh(2 * MAX_RADIUS) * np.cosh(bent_head(dim, 1.0).offset.detach().numpy())
    assert (np.abs(single - exact) < 2 * bent_head(dim, 1.0).normal.detach().norm(dim=1).numpy() * rounding).all()
    calm = np.linalg.norm(tangents(dim), axis=1) < 1
    assert np.abs(single - exact)[calm].max() < 1e-4


@pytest.mark.skipif(not ORACLE.exists(), reason="the reference arrays (shared/oracles) are not beside this checkout")
@pytest.mark.parametrize("dim", [2, 8])
@pytest.mark.parametrize("name", ["c1", "c0.5"])
def test_head_agrees_with_the_reference_system(dim: int, name: str) -> None:
    arrays = np.load(ORACLE)
    w, b, s = (arrays[f"d{dim}_{name}_closed_{letter}"] for letter in "wbs")
    c = float(arrays[f"d{dim}_{name}_c_effective"])
    head = DiskHead(CLASSES, dim, c).double()
    with torch.no_grad():
        head.log_curvature.fill_(np.log(c))
        head.normal.copy_(torch.from_numpy(w / np.linalg.norm(w, axis=1, keepdims=True) * s[:, None] * np.sqrt(c) / 2))
        head.offset.copy_(torch.from_numpy(np.arcsinh(-b)))
    logits, u = run_head(head, arrays[f"d{dim}_u"])
    np.testing.assert_allclose(logits, arrays[f"d{dim}_{name}_mlr_logits_f64"], atol=1e-6)
    radius = np.linalg.norm(u, axis=1, keepdims=True)
    disk = np.tanh(radius) / np.sqrt(c) * u / np.maximum(radius, 1e-300)
    np.testing.assert_allclose(disk, arrays[f"d{dim}_{name}_topoincare"], atol=1e-6)


@pytest.mark.skipif(not ORACLE.exists(), reason="the reference arrays (shared/oracles) are not beside this checkout")
@pytest.mark.parametrize("dim", [2, 8])
def test_flat_head_agrees_with_the_reference_system(dim: int) -> None:
    arrays = np.load(ORACLE)
    p, a = arrays[f"d{dim}_euclid_p_k"].astype(float), arrays[f"d{dim}_a"].astype(float)
    head = DiskHead(CLASSES, dim, 0.0).double()
    with torch.no_grad():
        head.normal.copy_(torch.from_numpy(a))
        head.offset.copy_(torch.from_numpy((p * a).sum(axis=1) / np.linalg.norm(a, axis=1)))
    logits, _ = run_head(head, arrays[f"d{dim}_u"])
    np.testing.assert_allclose(logits, arrays[f"d{dim}_euclid_logits_u"], rtol=1e-6, atol=1e-6)

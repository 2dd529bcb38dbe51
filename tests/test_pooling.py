"""Heads that pool masks to the probability of a class: laws, float64 references, and that each of them learns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sepstream.errors import DataError
from sepstream_training.models.pooling import HEADS, RankPooling, Rescaled, build_head

ORACLE = Path(__file__).resolve().parents[2] / "shared" / "oracles" / "weak_oracle.npz"
BANDS, FRAMES, CLASSES = 8, 15, 3
OPTIONS: dict[str, dict[str, Any]] = {  # of every kind of head; the same kind in its forms
    "max": {},
    "mean": {},
    "rank": {"decay": 0.9},
    "rank, trained": {"decay": 0.9, "trained": True},
    "attention": {"units": 4},
    "linear": {},
    "linear, ranked": {"ranked": True, "bias": False},
    "cnn": {"kernel": 3, "stride": 2},
    "cnn, two blocks": {"blocks": 2, "kernel": 3, "stride": 2},
    "recurrent": {"units": 6},
    "recurrent, lstm": {"cell": "lstm", "units": 6, "layers": 2},
}
INSIDE = ("max", "mean", "rank", "rank, trained", "attention")  # means: never beyond what they pool

torch.set_num_threads(1)


def head(what: str, rescaled: bool = False) -> torch.nn.Module:
    torch.manual_seed(1)
    return build_head(what.partition(",")[0], CLASSES, BANDS, FRAMES, OPTIONS[what], rescaled=rescaled)


def masks(seed: int, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, CLASSES, BANDS, FRAMES, generator=torch.Generator().manual_seed(seed))


def test_every_kind_is_tested() -> None:
    assert {what.partition(",")[0] for what in OPTIONS} == set(HEADS)


@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("what", OPTIONS)
def test_it_gives_probabilities_and_keeps_clips_apart(what: str, rescaled: bool) -> None:
    pool, x = head(what, rescaled), masks(0)
    y = pool(x)
    assert y.shape == (2, CLASSES)
    assert ((y >= 0) & (y <= 1)).all()
    torch.testing.assert_close(pool(x[1:]), y[1:])


@pytest.mark.parametrize("what", [each for each in OPTIONS if each != "attention"])
def test_classes_are_pooled_apart(what: str) -> None:
    x = masks(1)
    other = x.clone()
    other[:, 0] = 1 - other[:, 0]
    pool = head(what)
    torch.testing.assert_close(pool(other)[:, 1:], pool(x)[:, 1:])


@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
@pytest.mark.parametrize("what", INSIDE)
def test_means_lie_between_the_faintest_and_the_strongest_bin(what: str, seed: int) -> None:
    x = masks(seed)
    y = head(what)(x)
    assert (y <= x.amax(dim=(2, 3)) + 1e-6).all()
    assert (y >= x.amin(dim=(2, 3)) - 1e-6).all()


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), decay=st.floats(0, 1), trained=st.booleans())
def test_rank_pooling_against_float64(seed: int, decay: float, trained: bool) -> None:
    decay = min(max(decay, 1e-3), 1 - 1e-6) if trained else decay
    x = masks(seed)
    ranked = np.sort(x.numpy().astype(np.float64).reshape(2, CLASSES, -1), axis=2)[..., ::-1]
    weights = float(decay) ** np.arange(ranked.shape[2])
    wanted = (ranked * weights).sum(axis=2) / weights.sum()
    found = RankPooling(CLASSES, decay, trained)(x).detach().numpy()
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_rank_pooling_is_the_maximum_and_the_mean_at_its_ends() -> None:
    x = masks(3)
    torch.testing.assert_close(RankPooling(CLASSES, 0.0)(x), x.amax(dim=(2, 3)))
    torch.testing.assert_close(RankPooling(CLASSES, 1.0)(x), x.mean(dim=(2, 3)))


def test_a_trained_decay_moves() -> None:
    """Towards the maximum, where the probability should rise."""
    pool = RankPooling(CLASSES, 0.9, trained=True)
    pool(masks(4)).sum().backward()  # type: ignore[no-untyped-call]
    assert pool.raw_decay is not None
    assert pool.raw_decay.grad is not None
    assert (pool.raw_decay.grad < 0).all()


@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("what", OPTIONS)
def test_masks_learn_through_it(what: str, rescaled: bool) -> None:
    """A few steps on masks and head: the clip labels are met better."""
    pool = head(what, rescaled)
    raw = torch.nn.Parameter(torch.zeros(4, CLASSES, BANDS, FRAMES) + 0.1 * torch.randn(4, CLASSES, BANDS, FRAMES))
    labels = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 1], [1, 0, 1]])
    optimizer = torch.optim.Adam([raw, *pool.parameters()], lr=0.05)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy(pool(torch.sigmoid(raw)), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.02


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("ranks", {}, "did you mean 'rank'"),
        ("rank", {"decay": 1.5}, "decay is 1.5"),
        ("rank", {"decays": 1}, "decays"),
        ("recurrent", {"cell": "gruu"}, "did you mean 'gru'"),
        ("cnn", {"blocks": 5}, "leave nothing of a clip"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        build_head(kind, CLASSES, BANDS, FRAMES, options)
    assert "\n" not in str(error.value)


def test_a_clip_of_another_length_is_refused() -> None:
    with pytest.raises(DataError, match="clips of one length"):
        head("linear")(masks(0)[..., :-1])


@pytest.mark.skipif(not ORACLE.is_file(), reason=f"{ORACLE} holds the reference's outputs, and is not here")
def test_heads_are_those_of_the_reference() -> None:
    data = np.load(ORACLE)
    x = torch.from_numpy(data["heads.masks"])
    classes, bands, frames = x.shape[1:]

    def stacked(prefix: str) -> dict[str, torch.Tensor]:
        """Its linear maps, one module for each class."""
        return {
            f"linear.{name}": torch.from_numpy(np.concatenate([data[f"{prefix}.{i}.{name}"] for i in range(classes)]))
            for name in ("weight", "bias")
        }

    def check(kind: str, state: dict[str, torch.Tensor], wanted: str, **options: Any) -> None:
        pool = build_head(kind, classes, bands, frames, options)
        pool.load_state_dict(state)
        target: NDArray[np.float32] = data[wanted]
        np.testing.assert_allclose(pool(x).detach(), target.reshape(len(x), classes), atol=2e-6)

    check("max", {}, "heads.GlobalMaxPooling2d")
    check("mean", {}, "heads.GlobalAvgPooling2d")
    for decay in (0.9, 0.99, 0.999, 0.9998):
        check("rank", {}, f"heads.GWRP_dc{decay}", decay=decay)
    for ranked in (False, True):
        linear = stacked(f"heads.FC_sort{ranked}.state.FCs")
        plain = {name.removeprefix("linear."): value for name, value in linear.items()}
        check("linear", plain, f"heads.FC_sort{ranked}.out", ranked=ranked)
    cnn = {f"cnn.0.{n}": torch.from_numpy(data[f"heads.DWCNN.state.CNN.convolutions.0.{n}"]) for n in ("weight", "bias")}
    check("cnn", cnn | stacked("heads.DWCNN.state.FC.FCs"), "heads.DWCNN.out")
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    cell = {f"cell.{name}": torch.from_numpy(data[f"heads.RNN.state.RNN.{name}"]) for name in names}
    check("recurrent", cell | stacked("heads.RNN.state.ChannelWiseFC.FCs"), "heads.RNN.out")
    rescaler = Rescaled(torch.nn.Identity(), classes)
    rescaler.load_state_dict({"weight": torch.from_numpy(data["heads.rescaler.w"]), "bias": torch.zeros(classes)})
    found = rescaler(torch.from_numpy(data["heads.rescaler.in"])).detach()
    np.testing.assert_allclose(found, data["heads.rescaler.out"], atol=1e-6)

"""The mean of checkpoints: what it is, what it keeps, and what it refuses."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sepstream_training.checkpoints import recipe_of
from sepstream_training.mean import main, mean
from sepstream_training.recipe import load_recipe
from sepstream_training.train import load_network, train
from training_runs import SHORT, SMALL, Capture, read, run

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A short run, and another that went on from its weights, with data of another licence."""
    folder = tmp_path_factory.mktemp("runs")
    first, second = folder / "first/last.ckpt", folder / "second/last.ckpt"
    assert run(first.parent, *SHORT, "data.licence=the first") == 0
    assert run(second.parent, *SHORT, "data.licence=the second", "train.rate=1e-2", "--start", str(first)) == 0
    return [first, second]


def weights(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """All but counters."""
    return {name: value for name, value in state["state_dict"].items() if value.is_floating_point()}


def test_it_is_the_weighted_mean_of_every_weight_and_says_whose_data_it_heard(runs: list[Path]) -> None:
    a, b = (weights(read(path)) for path in runs)
    assert any(not torch.equal(a[name], b[name]) for name in a)
    found = mean(runs, [3, 1])
    for name, value in weights(found).items():
        expected = 0.75 * a[name].double().numpy() + 0.25 * b[name].double().numpy()
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-6, atol=1e-9)
    assert recipe_of(found).data.licence == "the first; the second"


def test_of_equals_it_is_what_they_are(runs: list[Path]) -> None:
    same = read(runs[1])["state_dict"]
    for shares in ([1, 1, 1], [0.1, 0.7, 0.2]):
        found = mean([runs[1]] * 3, shares)["state_dict"]
        assert found.keys() == same.keys()
        assert all(torch.equal(found[name], value) for name, value in same.items())
    assert all(torch.equal(value, same[name]) for name, value in weights(mean(runs, [0, 1])).items())


def test_it_is_a_checkpoint_like_any_other_and_a_run_goes_on_from_it(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "mean.ckpt"
    assert main([*map(str, runs), "--out", str(out)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["mean.ckpt"]
    _, network = load_network(out)
    expected = mean(runs, [1, 1])["state_dict"]
    assert all(torch.equal(value, expected[f"network.{name}"]) for name, value in network.state_dict().items())
    steps = read(out)["global_step"]
    again = load_recipe("tiny", [*SHORT, "data.licence=the first; the second", f"train.steps={steps + 1}"])
    assert train(again, tmp_path / "on", resume=out, progress=False).steps == steps + 1


def test_what_is_no_mean_is_refused_in_one_line(runs: list[Path], tmp_path: Path, capsys: Capture) -> None:
    assert run(tmp_path / "other", *SMALL, "train.steps=1", "model.options.blocks=2") == 0
    other, out = tmp_path / "other/last.ckpt", tmp_path / "out.ckpt"
    ahead = tmp_path / "ahead.ckpt"  # the same weights, but they speak of other frames
    state = read(runs[0])
    state["hyper_parameters"]["recipe"]["lookahead_hops"] = 3
    torch.save(state, ahead)
    turned = tmp_path / "turned.ckpt"  # nor of other classes
    state = read(runs[0])
    classes = state["hyper_parameters"]["recipe"]["classes"]
    state["hyper_parameters"]["recipe"]["classes"] = dict(reversed(classes.items()))
    torch.save(state, turned)
    broken = tmp_path / "broken.ckpt"
    state = read(runs[0])
    next(weights for weights in state["state_dict"].values() if weights.is_floating_point()).fill_(math.nan)
    torch.save(state, broken)
    text = tmp_path / "text.ckpt"
    text.write_text("no checkpoint")
    capsys.readouterr()
    for arguments, words in (
        ([runs[0], other], "is another network than"),
        ([runs[0], ahead], "is another network than"),
        ([runs[0], turned], "is another network than"),
        ([runs[0], broken, "--shares", "1", "0"], "holds weights that are no numbers"),
        ([*runs, "--out", "."], "exists; choose another"),
        ([runs[0], text], "cannot be read"),
        ([runs[0], tmp_path / "nowhere.ckpt"], "cannot be read"),
        ([*runs, "--shares", "1"], "expected 2 numbers"),
        ([*runs, "--shares", "0", "0"], "not all 0"),
        ([*runs, "--shares", "2", "-1"], "numbers from 0"),
        ([*runs, "--shares", "nan", "1"], "numbers from 0"),
        ([*runs, "--out", str(other)], "exists; choose another"),
        ([*runs, "--out", str(tmp_path / "no/such/folder.ckpt")], "cannot be written"),
    ):
        assert main(["--out", str(out), *map(str, arguments)]) == 2
        said, err = capsys.readouterr()
        assert (said, err.count("\n"), err[:6]) == ("", 1, "mean: ") and words in err
    assert not out.exists()
    assert not list(tmp_path.glob("**/*.part"))

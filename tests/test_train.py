"""A whole training, small: it learns, its checkpoints are safe and complete, and what is wrong is said in one line."""

import csv
import signal
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
import yaml

from sepstream.errors import DataError
from sepstream_training.cli import train_main
from sepstream_training.recipe import RECIPES, TrainSpec, load_recipe, recipe_from_tree, recipe_to_tree, recipe_to_yaml
from sepstream_training.train import Separation, load_network, sounds, train, training_facts

Capture = pytest.CaptureFixture[str]

SMALL = ["data.synthetic_seconds=2", "data.valid_mixtures=2", "mix.seconds=0.5", "train.batch=2"]
SHORT = [*SMALL, "train.steps=6", "train.validate_every=2"]
NETWORKS = {
    "band_split": [],
    "hyper_unmix": ["model.kind=hyper_unmix", "model.options={bins: 342, units: 6, layers: 2, dilation: 3, dropout: 0.5}"],
}

torch.set_num_threads(1)


def run(out: Path, *arguments: str) -> int:
    return train_main(["tiny", *arguments, "--quiet", "--out", str(out)])


def read(checkpoint: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(checkpoint, weights_only=True)
    return state


def log(out: Path) -> list[dict[str, str]]:
    files = sorted(out.glob("csv/*/metrics.csv"), key=lambda path: int(path.parent.name.rpartition("_")[2]))
    return [row for path in files for row in csv.DictReader(path.read_text().splitlines())]


def same_state(one: Path, other: Path) -> None:
    """Weights, averages and optimiser, bit for bit."""
    a, b = read(one), read(other)
    assert a["global_step"] == b["global_step"]
    for key in ("current_model_state", "state_dict", "averaging_state"):
        assert a[key].keys() == b[key].keys()
        for name in a[key]:
            assert torch.equal(a[key][name], b[key][name]), f"{key} {name}"
    moments = [state["optimizer_states"][0]["state"] for state in (a, b)]
    for index, values in moments[0].items():
        for name, value in values.items():
            assert torch.equal(value, moments[1][index][name]), f"optimizer {index} {name}"


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals = signal.SIGINT) -> None:
    """Ctrl-C while ``step``, counted from 0, is being taken."""
    original = Separation.training_step

    def interrupted(self: Separation, batch: torch.Tensor, index: int) -> torch.Tensor:
        if self.global_step == step:
            signal.raise_signal(number)
        return original(self, batch, index)

    monkeypatch.setattr(Separation, "training_step", interrupted)


def one_line(capsys: Capture) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("sep-train: ")
    return err


# ---- it learns --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_losses_fall_and_the_checkpoint_holds_the_network(tmp_path: Path, kind: str) -> None:
    assert run(tmp_path / "out", *SMALL, *NETWORKS[kind], "train.steps=40", "train.validate_every=10", "train.rate=2e-2") == 0
    losses = [float(row["valid/loss"]) for row in log(tmp_path / "out") if row["valid/loss"]]
    assert len(losses) == 4
    assert losses[-1] < losses[0] - 0.1
    recipe, network = load_network(tmp_path / "out/last.ckpt")
    assert recipe.model.kind == kind
    assert not network.training
    averaged = read(tmp_path / "out/last.ckpt")["state_dict"]
    assert all(torch.equal(value, averaged[f"network.{name}"]) for name, value in network.state_dict().items())
    assert training_facts(tmp_path / "out/last.ckpt")["steps"] == 40


def test_synthetic_clips_join_a_folders_own_in_training_only(tmp_path: Path) -> None:
    for leaf in ("male", "female", "bass", "drums", "guitar"):
        for split in ("train", "valid"):
            (tmp_path / split / leaf).mkdir(parents=True)
            soundfile.write(tmp_path / split / leaf / "a.wav", torch.rand(4000).numpy(), 8000)
    recipe = load_recipe("tiny", [*SMALL, f"data.root={tmp_path}", "data.synthetic_share=0.25"])
    assert [clip.chance for clip in sounds(recipe, "train")["male"]] == [0.75, 0.125, 0.125]
    assert [clip.chance for clip in sounds(recipe, "valid")["male"]] == [1.0]


def test_rate_warms_up_stays_and_falls_to_nothing() -> None:
    spec = TrainSpec(steps=100, warmup_steps=10, decay_steps=20)
    factors = [spec.rate_factor(step) for step in range(101)]
    assert factors[0] == 0.1
    assert factors[9:81] == [1.0] * 72
    assert factors[90] == 0.5
    assert factors[100] == 0.0
    assert all(TrainSpec(steps=10, warmup_steps=0, decay_steps=0).rate_factor(step) == 1.0 for step in range(11))


# ---- it goes on -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETWORKS)
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    arguments = [*SHORT, *NETWORKS[kind], "train.validate_every=4"]
    assert run(whole, *arguments) == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, step=2)
        assert run(broken, *arguments) == 130
    err = capsys.readouterr().err
    assert err.startswith("stopped at step 3 of 6; to go on: sep-train tiny ")
    assert err.endswith(f"--out {broken} --resume auto\n")
    assert read(broken / "last.ckpt")["global_step"] == 3
    assert run(broken, *arguments, "--resume", "auto") == 0
    same_state(whole / "last.ckpt", broken / "last.ckpt")
    assert [row["valid/loss"] for row in log(whole)] == [row["valid/loss"] for row in log(broken)]


def test_a_killed_run_goes_on_from_its_last_validation(tmp_path: Path) -> None:
    assert run(tmp_path / "whole", *SHORT) == 0
    assert run(tmp_path / "again", *SHORT, "--resume", str(tmp_path / "whole/step=4.ckpt")) == 0
    same_state(tmp_path / "whole/last.ckpt", tmp_path / "again/last.ckpt")


def test_a_finished_run_goes_on_with_more_steps_and_needs_none_with_fewer(tmp_path: Path) -> None:
    stable = [*SHORT, "train.decay_steps=0"]
    assert run(tmp_path / "whole", *stable) == 0
    assert run(tmp_path / "two", *stable, "train.steps=4") == 0
    assert run(tmp_path / "two", *stable, "--resume", "auto") == 0
    same_state(tmp_path / "whole/last.ckpt", tmp_path / "two/last.ckpt")
    before = (tmp_path / "two/last.ckpt").read_bytes()
    assert run(tmp_path / "two", *stable, "train.steps=3", "--resume", "auto") == 0
    assert (tmp_path / "two/last.ckpt").read_bytes() == before


def test_a_polite_kill_keeps_the_state_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at(monkeypatch, step=1, number=signal.SIGTERM)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert train(load_recipe("tiny", SHORT), tmp_path / "out", progress=False).steps == 2
    assert read(tmp_path / "out/last.ckpt")["global_step"] == 2
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_resume_auto_starts_anew_where_there_is_nothing(tmp_path: Path) -> None:
    assert run(tmp_path / "out", *SHORT, "train.steps=1", "--resume", "auto") == 0
    assert read(tmp_path / "out/last.ckpt")["global_step"] == 1


@pytest.mark.parametrize("resumed", [False, True])
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_state(
    tmp_path: Path, resumed: bool, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    if resumed:
        assert run(tmp_path / "out", *SHORT, "train.steps=2") == 0
    original = Separation.losses

    def poisoned(self: Separation, stems: torch.Tensor) -> dict[str, torch.Tensor]:
        losses = original(self, stems)
        return {name: value * torch.nan for name, value in losses.items()} if self.global_step == 3 and self.training else losses

    monkeypatch.setattr(Separation, "losses", poisoned)
    assert run(tmp_path / "out", *SHORT, *(["--resume", "auto"] if resumed else [])) == 2
    assert "is nan at step 3; lower train.rate" in one_line(capsys)
    state = read(tmp_path / "out/last.ckpt")
    assert state["global_step"] == 3
    assert all(value.isfinite().all() for key in ("state_dict", "current_model_state") for value in state[key].values())


# ---- what is wrong is said --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train.stesp=3"], "'train.stesp' is unknown; did you mean 'steps'?"),
        (["modle.kind=x"], "'modle' is unknown; did you mean 'model'?"),
        (["model.kind=band_spilt"], "did you mean 'band_split'?"),
        (["model.options.unitz=3"], "unexpected keyword argument 'unitz'"),
        (["model.options.bands=[[10, 3]]"], "network of 30 bins; expected band_bins, 342"),
        (["train.steps"], "override 'train.steps' is no assignment; expected KEY=VALUE"),
        (["train.steps.x=1"], "'steps' is a value, not a group"),
        (["name=[1"], "override 'name=[1' is not YAML"),
        (["train.steps=many"], "'train.steps' is 'many'; expected a number"),
        (["train.steps=2.5"], "'train.steps' is 2.5; expected a whole number"),
        (["train.steps=0"], "'train.steps' is 0; expected 1 or more"),
        (["train.ema=1"], "'train.ema' is 1.0; expected 0 to 1, without 1"),
        (["train=fast"], "'train' is 'fast'; expected keys and values"),
        (["classes={speech: male}"], "'classes.speech' is 'male'; expected a list"),
        (["classes={speech: [male], music: [male]}"], "expected different names"),
        (["mix.stereo=2"], "expected a probability"),
        (["mix.seconds=0.01"], "'mix.seconds' is 0.01; expected 0.0853 or more"),
        (["geometry=fast"], "unknown geometry 'fast'"),
        (["band_bins=600"], "'band_bins' is 600; expected 1 to 513"),
        (["follow_hz=[6000]"], "'follow_hz' is [6000]; expected 2 values"),
        (["follow_hz=[7000, 9000]"], "expected low < high <= 8015.62"),
        (["data.root=/nowhere"], "data folder '/nowhere' does not exist; set data.root"),
        (["classes={speech: [male], music: [violin]}"], "unknown source 'violin'"),
        (["data.synthetic_engine=magic"], "unknown engine 'magic'"),
        (["--resume", "/nowhere.ckpt"], "checkpoint '/nowhere.ckpt' cannot be read"),
        (["--resume", __file__], "cannot be read"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_are_named_in_one_line(tmp_path: Path, arguments: list[str], words: str, capsys: Capture) -> None:
    assert run(tmp_path / "out", *SHORT, *arguments) == 2
    assert words in one_line(capsys)
    assert not (tmp_path / "out/last.ckpt").exists()


def test_unknown_recipes_name_the_nearest(capsys: Capture) -> None:
    assert train_main(["tinny"]) == 2
    assert "recipe 'tinny' is neither a file nor shipped; did you mean 'tiny'?" in one_line(capsys)


@pytest.mark.parametrize("text", ["", "[1, 2]", "name: x", "a: b: c", "\x00"])
def test_files_that_are_no_recipe_are_refused(tmp_path: Path, text: str, capsys: Capture) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    assert train_main([str(tmp_path / "bad.yaml")]) == 2
    assert "recipe" in one_line(capsys)


def test_a_class_without_files_is_named(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "train/male").mkdir(parents=True)
    soundfile.write(tmp_path / "train/male/a.wav", [0.1] * 800, 8000)
    assert run(tmp_path / "out", *SHORT, f"data.root={tmp_path}") == 2
    assert "class 'female' has no files" in one_line(capsys)


def test_a_run_is_never_overwritten_nor_continued_with_another_network(tmp_path: Path, capsys: Capture) -> None:
    assert run(tmp_path, *SHORT, "train.steps=1") == 0
    before = (tmp_path / "last.ckpt").read_bytes()
    assert run(tmp_path, *SHORT) == 2
    assert "holds a run already; go on with --resume auto" in one_line(capsys)
    assert run(tmp_path, *SHORT, "model.options.units=9", "--resume", "auto") == 2
    assert "is another network's (size mismatch" in one_line(capsys)
    assert (tmp_path / "last.ckpt").read_bytes() == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "file/out", *SHORT) == 2
    assert "cannot be made" in one_line(capsys)


# ---- recipes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_shipped_recipes_print_themselves_whole_and_make_a_network(name: str, tmp_path: Path, capsys: Capture) -> None:
    assert train_main([name, "train.rate=1e-3", "--print-config"]) == 0
    printed = capsys.readouterr().out
    (tmp_path / "printed.yaml").write_text(printed)
    recipe = load_recipe(name, ["train.rate=1e-3"])
    assert load_recipe(str(tmp_path / "printed.yaml")) == recipe
    assert recipe_to_yaml(recipe) == printed
    assert recipe_from_tree(recipe_to_tree(recipe)) == recipe
    assert yaml.safe_load(printed)["train"]["rate"] == 1e-3
    assert recipe.name == name
    assert Separation(recipe).network.bins == recipe.band_bins


def test_a_class_of_a_checkpoint_from_elsewhere_is_no_surprise(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": {}, "global_step": 1}, tmp_path / "other.ckpt")
    with pytest.raises(DataError, match=r"no recipe in it.*expected one written by sep-train"):
        load_network(tmp_path / "other.ckpt")

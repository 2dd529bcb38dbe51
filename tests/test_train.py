"""A whole training, small: it learns, its checkpoints are safe and complete, and what is wrong is said in one line."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import soundfile
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sepstream.errors import DataError
from sepstream_training.checkpoints import start_from, start_partly
from sepstream_training.cli import train_main
from sepstream_training.data.loader import Mixtures
from sepstream_training.models.disk_head import DiskHead
from sepstream_training.parallel import trainer_arguments
from sepstream_training.processes import Machines
from sepstream_training.recipe import RECIPES, TrainSpec, load_recipe, recipe_from_tree, recipe_to_tree, recipe_to_yaml
from sepstream_training.schedule import Plateau, Rate
from sepstream_training.separation import Separation
from sepstream_training.train import load_network, sounds, task, train, training_facts
from training_runs import NETWORKS, SHORT, SMALL, Capture, log, one_line, read, run, same_state

UNET = "{bins: 342, widths: [2, 2]}"

torch.set_num_threads(1)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals = signal.SIGINT) -> None:
    """Ctrl-C while ``step``, counted from 0, is being taken."""
    original = Separation.training_step

    def interrupted(self: Separation, batch: torch.Tensor, index: int) -> torch.Tensor:
        if self.global_step == step:
            signal.raise_signal(number)
        return original(self, batch, index)

    monkeypatch.setattr(Separation, "training_step", interrupted)


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


def test_recurrent_layers_learn_at_a_rate_of_their_own() -> None:
    recipe = load_recipe("tiny", [*SMALL, "train.recurrent_factor=0.25", "train.warmup_steps=0", "train.rate=0.1"])
    module = Separation(recipe)
    optimizer = module.configure_optimizers()
    Rate(recipe.train).on_train_batch_start(SimpleNamespace(optimizers=[optimizer], global_step=0))  # type: ignore[arg-type]
    rates = {id(each): group["lr"] for group in optimizer.param_groups for each in group["params"]}
    for name, parameter in module.named_parameters():
        assert rates[id(parameter)] == pytest.approx(0.025 if ".cell." in name else 0.1), name
    assert len(Separation(load_recipe("tiny", SMALL)).configure_optimizers().param_groups) == 1


def test_a_run_ends_with_its_last_plateau_and_has_ended_when_it_is_resumed(tmp_path: Path) -> None:
    """No loss is lower by a million: every validation after the first is a plateau."""
    plateaus = [*SHORT, "train.plateau_delta=1e6", "train.plateau_patience=0", "train.max_plateaus=2", "train.steps=20"]
    assert run(tmp_path / "out", *plateaus) == 0
    assert read(tmp_path / "out/last.ckpt")["global_step"] == 6
    assert run(tmp_path / "out", *plateaus, "--resume", "auto") == 0
    assert read(tmp_path / "out/last.ckpt")["global_step"] == 6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="16 bits need an NVIDIA GPU")
def test_sixteen_bits_begin_with_the_scale_of_the_recipe() -> None:
    (plugin,) = trainer_arguments(Machines(), TrainSpec(precision="16-mixed", grad_scale=8.0))["plugins"]
    assert plugin.scaler.get_scale() == 8.0


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
    assert "the loss is nan at step 3, mixtures 6, 7 of seed 1; lower train.rate" in one_line(capsys)
    state = read(tmp_path / "out/last.ckpt")
    assert state["global_step"] == 3
    assert all(value.isfinite().all() for key in ("state_dict", "current_model_state") for value in state[key].values())


@pytest.mark.parametrize("resumed", [False, True])
def test_the_mixtures_of_a_broken_step_are_named_and_can_be_made_again(
    tmp_path: Path, resumed: bool, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The second batch of the second step: its numbers are found where the data is made, not where it is counted."""
    broken = {6, 7}
    original = Mixtures.__getitem__

    def poisoned(self: Mixtures, number: int) -> torch.Tensor:
        return original(self, number) * (torch.nan if self.split == "train" and number in broken else 1)

    arguments = [*SHORT, "train.accumulate=2", "train.validate_every=1"]
    if resumed:
        assert run(tmp_path / "out", *arguments, "train.steps=1") == 0
    monkeypatch.setattr(Mixtures, "__getitem__", poisoned)
    assert run(tmp_path / "out", *arguments, *(["--resume", "auto"] if resumed else [])) == 2
    assert "the loss is nan at step 1, mixtures 6, 7 of seed 1;" in one_line(capsys)
    assert all(value.isfinite().all() for value in read(tmp_path / "out/last.ckpt")["state_dict"].values())
    broken.clear()
    assert run(tmp_path / "out", *arguments, "train.steps=2", "--resume", "auto") == 0


def test_a_gradient_that_is_no_number_names_the_whole_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The square root of nothing: a loss of 0, a slope of infinity times 0."""
    original = Separation.losses

    def steep(self: Separation, stems: torch.Tensor) -> dict[str, torch.Tensor]:
        losses = original(self, stems)
        zero = (losses["loss"] - losses["loss"].detach()).abs().sqrt()
        return {**losses, "loss": losses["loss"] + zero} if self.training else losses

    monkeypatch.setattr(Separation, "losses", steep)
    assert run(tmp_path / "out", *SHORT, "train.accumulate=2") == 2
    assert "the gradient is nan at step 0, mixtures 0, 1, 2, 3 of seed 1;" in one_line(capsys)


def test_a_validation_that_is_no_number_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    original = Separation.losses

    def poisoned(self: Separation, stems: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: value if self.training else value * torch.nan for name, value in original(self, stems).items()}

    monkeypatch.setattr(Separation, "losses", poisoned)
    assert run(tmp_path / "out", *SHORT) == 2
    assert "the validation loss is nan at step 2; lower train.rate" in one_line(capsys)


# ---- how it goes on ---------------------------------------------------------------------------------------------------

EVERYTHING = ["data.workers=1", "train.accumulate=2", "train.validate_every=1", "train.steps=7", "train.ema=0.7", "train.keep=2"]
EVERYTHING += ["train.schedule=plateau", "train.plateau_patience=0", "train.rate=1", "train.warmup_steps=0", "train.patience=20"]
EVERYTHING += ["train.weight_decay=0.1"]
KILLED_AT_STEP_5 = """
import os, signal, sys
import torch
UNET = "{bins: 342, widths: [2, 2]}"

torch.set_num_threads(1)
from sepstream_training.cli import train_main
from sepstream_training.separation import Separation
original = Separation.training_step
def killed(self, batch, index):
    if index == 11:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, batch, index)
Separation.training_step = killed
train_main(sys.argv[1:])
"""


def test_a_run_killed_amid_a_step_goes_on_to_the_same_losses_and_weights(tmp_path: Path) -> None:
    """With everything that has a memory: averages, accumulated gradients, a plateau that has cut, data workers, patience."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    arguments = [*SMALL, *NETWORKS["hyper_unmix"], *EVERYTHING]
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_STEP_5, "tiny", *arguments, "--quiet", "--out", str(broken)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    assert read(broken / "last.ckpt")["global_step"] == 5
    assert read(broken / "last.ckpt")["callbacks"]["Rate"]["cuts"] > 0
    assert run(broken, *arguments, "--resume", "auto") == 0
    assert run(whole, *arguments) == 0
    same_state(whole / "last.ckpt", broken / "last.ckpt")
    one, other = read(whole / "last.ckpt"), read(broken / "last.ckpt")
    assert one["callbacks"]["Rate"] == other["callbacks"]["Rate"]
    assert one["mixtures"] == other["mixtures"] == 7 * 2 * 2
    losses = [[row["valid/loss"] for row in log(out) if row["valid/loss"]] for out in (whole, broken)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 7
    kept = [sorted(path.name for path in out.glob("step=*.ckpt")) for out in (whole, broken)]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 2


@pytest.mark.parametrize("index", [2, 3])
def test_ctrl_c_loses_neither_a_step_nor_a_validation(tmp_path: Path, index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pressed in the first half of a step, and in the second, after which a validation is due."""
    arguments = [*SHORT, "train.accumulate=2", "train.steps=3", "train.schedule=plateau", "train.plateau_patience=0"]
    original = Separation.training_step

    def interrupted(self: Separation, batch: torch.Tensor, number: int) -> torch.Tensor:
        if number == index:
            signal.raise_signal(signal.SIGINT)
        return original(self, batch, number)

    assert run(tmp_path / "whole", *arguments) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Separation, "training_step", interrupted)
        assert run(tmp_path / "broken", *arguments) == 130
    assert read(tmp_path / "broken/last.ckpt")["global_step"] == 2
    assert run(tmp_path / "broken", *arguments, "--resume", "auto") == 0
    same_state(tmp_path / "whole/last.ckpt", tmp_path / "broken/last.ckpt")
    assert [row["valid/loss"] for row in log(tmp_path / "whole")] == [row["valid/loss"] for row in log(tmp_path / "broken")]


def test_patience_ends_a_run_that_learns_nothing_and_more_patience_goes_on(tmp_path: Path, capsys: Capture) -> None:
    arguments = ["tiny", *SMALL, "train.validate_every=1", "train.steps=9", "train.rate=1e-12", "train.ema=0"]
    flags = ["--out", str(tmp_path / "out"), "--resume", "auto"]
    assert train_main([*arguments, "train.patience=2", *flags]) == 0
    steps = read(tmp_path / "out/last.ckpt")["global_step"]
    assert steps < 9
    assert capsys.readouterr().out == f"{tmp_path}/out/last.ckpt: {steps} steps, and no better for 2 validations\n"
    assert train_main([*arguments, "train.patience=2", *flags]) == 0
    assert read(tmp_path / "out/last.ckpt")["global_step"] == steps
    assert train_main([*arguments, "train.patience=3", *flags]) == 0
    assert read(tmp_path / "out/last.ckpt")["global_step"] > steps


@given(losses=st.lists(st.floats(0.1, 10), max_size=40), patience=st.integers(0, 4))
def test_a_plateau_is_torchs_own(losses: list[float], patience: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=patience, threshold=0.0, eps=0.0)
    ours, spec = Plateau(), TrainSpec(schedule="plateau", warmup_steps=0)
    for loss in losses:
        theirs.step(loss)
        ours = ours.after(loss, patience)
        assert spec.rate_factor(10**6, ours.cuts) == optimizer.param_groups[0]["lr"]
        assert Plateau(**ours._asdict()) == ours


@pytest.mark.parametrize("keep", [0, 1])
def test_as_many_best_checkpoints_are_kept_as_are_wanted(tmp_path: Path, keep: int) -> None:
    assert run(tmp_path / "out", *SHORT, f"train.keep={keep}") == 0
    assert len(list((tmp_path / "out").glob("step=*.ckpt"))) == keep


def test_a_run_in_16_bits_learns_and_exports_in_32(tmp_path: Path) -> None:
    arguments = [*SMALL, "train.steps=20", "train.validate_every=10", "train.rate=2e-2", "train.precision=bf16-mixed"]
    assert run(tmp_path / "out", *arguments) == 0
    losses = [float(row["valid/loss"]) for row in log(tmp_path / "out") if row["valid/loss"]]
    assert losses[-1] < losses[0]
    _, network = load_network(tmp_path / "out/last.ckpt")
    assert {value.dtype for value in network.parameters()} == {torch.float32}


def test_the_disk_stays_in_32_bits() -> None:
    head = DiskHead(7)
    v = torch.randn(3, 2, 50).bfloat16() * 2
    with torch.autocast("cpu", torch.bfloat16):
        logits, u = head(v)
    expected = head(v.float())
    assert torch.equal(logits, expected[0])
    assert torch.equal(u, expected[1])


def test_throughput_is_in_every_log(tmp_path: Path, capsys: Capture, caplog: pytest.LogCaptureFixture) -> None:
    arguments = ["tiny", *SMALL, "train.steps=10", "train.validate_every=5", "--out", str(tmp_path / "out")]
    with caplog.at_level("INFO", "sepstream_training"):
        assert train_main(arguments) == 0
    rows = [row for row in log(tmp_path / "out") if row["train/waiting"]]
    assert rows
    for row in rows:
        assert 0 <= float(row["train/waiting"]) <= 1
        assert float(row["train/hours_a_minute"]) > 0
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("step ")]
    assert len(lines) == 2
    assert lines[0].startswith("step 5 of 10: ")
    assert all(word in lines[0] for word in ("train/hours_a_minute", "train/waiting", "valid/loss", "steps/s", " left"))


# ---- another start ----------------------------------------------------------------------------------------------------


def test_a_new_run_starts_from_anothers_weights(tmp_path: Path) -> None:
    """A rate of next to nothing leaves them as they were; steps and mixtures are counted anew."""
    assert run(tmp_path / "one", *SHORT) == 0
    still = [*SMALL, "train.steps=1", "train.validate_every=1", "train.rate=1e-12", "train.ema=0"]
    assert run(tmp_path / "two", *still, "seed=9", "--start", str(tmp_path / "one/last.ckpt")) == 0
    old, new = read(tmp_path / "one/last.ckpt"), read(tmp_path / "two/last.ckpt")
    for name, value in old["state_dict"].items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(new["state_dict"][name], value, atol=1e-9, rtol=1e-6)
    assert (new["global_step"], new["mixtures"]) == (1, 2)


def test_what_a_network_has_grown_keeps_its_initialisation_and_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run(tmp_path / "one", *SHORT, "train.steps=1") == 0
    recipe = load_recipe("tiny", [*SMALL, "model.options.blocks=2", "model.options.whole=8"])
    torch.manual_seed(5)
    module, fresh = Separation(recipe), Separation(recipe)
    fresh.load_state_dict(module.state_dict())
    with caplog.at_level("INFO", "sepstream_training"):
        start_from(module, recipe, tmp_path / "one/last.ckpt")
    old = read(tmp_path / "one/last.ckpt")["state_dict"]
    grown = [name for name in module.state_dict() if name not in old]
    for name, value in module.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name] if name in grown else old[name])
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(
        f"not in '{tmp_path}/one/last.ckpt', so they start as they are made: {len(grown)} tensors, blocks.0.whole."
    )


def test_a_start_takes_what_fits_of_a_network_of_other_bins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run(tmp_path / "one", *SHORT, "train.steps=1") == 0
    halves = ["geometry=ultra", "band_bins=173", "model.options.bands=[[10, 2], [6, 4], [5, 9], [3, 28]]"]
    recipe = load_recipe("tiny", [*SMALL, *halves])
    module, before = Separation(recipe), Separation(recipe)
    before.load_state_dict(module.state_dict())
    with caplog.at_level("INFO", "sepstream_training"):
        start_partly(module, recipe, tmp_path / "one/last.ckpt")
    old, fresh = read(tmp_path / "one/last.ckpt")["state_dict"], before.state_dict()
    for name, value in module.state_dict().items():
        of_bins = name.startswith(("network.norm", "network.encode", "network.decode")) and "num_batches" not in name
        kept = of_bins and fresh[name].shape != old[name].shape
        assert of_bins or not kept
        assert torch.equal(value, fresh[name] if kept else old[name]), name
    (line,) = [record.getMessage() for record in caplog.records]
    assert "as they are made: norm.weight, " in line and "blocks" not in line


TURNED = "classes={music: [bass, drums, guitar], speech: [male, female]}"


def test_a_start_that_does_not_fit_is_an_error(tmp_path: Path, capsys: Capture) -> None:
    assert run(tmp_path / "one", *SHORT, "train.steps=1", "model.options.blocks=2") == 0
    one, other_rate = str(tmp_path / "one/last.ckpt"), ["sample_rate_hz=44100", "follow_hz=[5000, 7000]"]
    alone, torn = str(tmp_path / "alone.ckpt"), str(tmp_path / "torn.ckpt")
    torch.save({key: value for key, value in read(Path(one)).items() if key != "optimizer_states"}, alone)
    Path(torn).write_bytes(Path(one).read_bytes()[:5000])
    for arguments, words in (
        (["--start", one, "model.options.blocks=2", "model.options.units=9"], "is another network's (size mismatch"),
        (["--start", one], "is another network's (Unexpected key(s)"),
        (["--start", one, "--resume", one], "--resume goes on with a run, --start and --start-partly begin"),
        (["--start-partly", one, "--resume", one], "another from its weights; choose one"),
        (["--start-partly", one, "model.kind=hyper_unmix", "model.options={bins: 342}"], "is a network of kind band_split"),
        (["--start", one, "model.options.blocks=2", TURNED], "has the classes in another order, speech, music, male, "),
        (["--start-partly", one, TURNED], "; list them in its order"),
        (["--resume", one, "model.options.blocks=2", TURNED, "train.steps=2"], "has the classes in another order"),
        (["--start", "/nowhere.ckpt"], "checkpoint '/nowhere.ckpt' cannot be read (No such file"),
        (["--start", torn], "cannot be read (it is damaged, or holds something else than weights"),
        (["--resume", alone, "model.options.blocks=2"], "lacks optimizer_states, so no run goes on from it"),
        (["--start", one, "model.options.blocks=2", *other_rate], "has bins of 23.4375 Hz (48000 Hz, live), the"),
        (["--resume", one, "model.options.blocks=2", *other_rate], "use its sample_rate_hz and geometry"),
    ):
        assert run(tmp_path / "two", *SHORT, *arguments) == 2
        assert words in one_line(capsys)


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
        (["train.accumulate=0"], "'train.accumulate' is 0; expected 1 or more"),
        (["train.patience=-1"], "'train.patience' is -1; expected 0 or more"),
        (["train.keep=-1"], "'train.keep' is -1; expected 0 or more"),
        (["train.weight_decay=-1"], "'train.weight_decay' is -1.0; expected 0 or more"),
        (["train.plateau_factor=1"], "'train.plateau_factor' is 1.0; expected between 0 and 1"),
        (["train.precision=bf16"], "'train.precision' is 'bf16'; expected one of 32-true, bf16-mixed, 16-mixed"),
        (["train.schedule=platau"], "'train.schedule' is 'platau'; expected one of constant-decay, plateau"),
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
        (["targets=[male]"], "'targets' is ['male']; expected some of the classes, each once, and classes without parents"),
        (["classes=[male, bass]", "targets=[male]"], "'targets' is ['male']; expected none, for the masks of 'band_split' are"),
        (["classes=[male, bass]", "model.tied=true"], "'model.tied' is True; expected false, for the classes have no parents"),
        (["classes=[male, bass]", "loss.best_permutation=true"], "'loss.mask' is 1; expected 0 with loss.best_permutation"),
        (["loss={l1: 1, mask: 0, best_permutation: true}"], "'loss.best_permutation' is True; expected false: it takes all of"),
        (["model.kind=mask_unet", f"model.options={UNET}"], "'loss.mask' is 1; expected 0, for the masks of 'mask_unet' are"),
        (["train.max_plateaus=-1"], "'train.max_plateaus' is -1; expected 0 or more"),
        (["train.recurrent_factor=0"], "'train.recurrent_factor' is 0.0; expected more than 0"),
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
def test_shipped_recipes_print_themselves_whole_and_make_what_they_train(name: str, tmp_path: Path, capsys: Capture) -> None:
    assert train_main([name, "train.rate=1e-3", "--print-config"]) == 0
    printed = capsys.readouterr().out
    (tmp_path / "printed.yaml").write_text(printed)
    recipe = load_recipe(name, ["train.rate=1e-3"])
    assert load_recipe(str(tmp_path / "printed.yaml")) == recipe
    assert recipe_to_yaml(recipe) == printed
    assert recipe_from_tree(recipe_to_tree(recipe)) == recipe
    assert yaml.safe_load(printed)["train"]["rate"] == 1e-3
    assert recipe.name == name
    assert sum(value.numel() for value in task(recipe).shipped().parameters()) > 1000


def test_a_class_of_a_checkpoint_from_elsewhere_is_no_surprise(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": {}, "global_step": 1}, tmp_path / "other.ckpt")
    with pytest.raises(DataError, match=r"no recipe in it.*expected one written by sep-train"):
        load_network(tmp_path / "other.ckpt")

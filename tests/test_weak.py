"""Separation learned from clip labels alone: what is compared, what is scored, and a whole journey from events to stems."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from sepstream.cli import render_main
from sepstream.contract import read_bundle
from sepstream.errors import DataError
from sepstream_export import evaluate, parity, speed
from sepstream_export.cli import eval_main, export_main
from sepstream_training import tags
from sepstream_training.cli import train_main
from sepstream_training.data import remix, tagged
from sepstream_training.data.tagged import Tagged
from sepstream_training.models.pooling import HEADS
from sepstream_training.recipe import RECIPES, load_recipe, recipe_to_yaml
from sepstream_training.separation import Separation
from sepstream_training.tags import Answer, absent_loss, figures, labels_of
from sepstream_training.train import load_network
from training_runs import Capture, log, read

F64 = NDArray[np.float64]

ORACLE = Path(__file__).resolve().parents[2] / "shared" / "oracles" / "weak_oracle.npz"
RATE_HZ = 8000
CLASSES = ("low", "high", "click")
SMALL = [
    "geometry={analysis: 256, synthesis: 256, hop: 128}", "sample_rate_hz=8000", "band_bins=129", "follow_hz=[1000, 4000]",
    "mix.seconds=0.5", f"classes=[{', '.join(CLASSES)}]", "data.folders={}", "data.workers=0", "lookahead_hops=2",
    "model.options={bins: 129, bin_hz: 31.25, bands: 16, high_hz: 4000, channels: [6], kernel_bands: 3, kernel_frames: 3, "
    "dropout: 0.0, masks: sigmoid, energy: at_most}",
]  # fmt: skip

torch.set_num_threads(1)


def small(*overrides: str) -> Any:
    return load_recipe("weak", [*SMALL, *overrides])


# ---- what is compared -------------------------------------------------------------------------------------------------


def test_absent_masks_cost_their_mean() -> None:
    masks = torch.stack([torch.full((4, 5), value) for value in (0.2, 0.5, 0.9)])[None].repeat(2, 1, 1, 1)
    assert absent_loss(masks, torch.tensor([[1.0, 0, 1], [1, 0, 0]])).item() == pytest.approx((0.5 + 0.5 + 0.9) / 3)
    assert absent_loss(masks, torch.ones(2, 3)).item() == 0


@pytest.mark.skipif(not ORACLE.is_file(), reason=f"{ORACLE} holds the reference's losses, and is not here")
@pytest.mark.parametrize("prefix", ["tut", "audioset"])
def test_the_losses_are_those_of_the_reference(prefix: str) -> None:
    data = {name: torch.from_numpy(np.asarray(value)) for name, value in np.load(ORACLE).items() if value.dtype.kind == "f"}
    masks, found, labels = (data[f"{prefix}.{name}"] for name in ("masks_rand", "labels_rand", "loss.y"))
    tags_loss = torch.nn.functional.binary_cross_entropy(found, labels)
    torch.testing.assert_close(tags_loss, data[f"{prefix}.loss.bce"])
    torch.testing.assert_close(absent_loss(masks, labels), data[f"{prefix}.loss.l1_absent"])
    torch.testing.assert_close(0.7 * tags_loss + 0.3 * absent_loss(masks, labels), data[f"{prefix}.loss.total_lambda0.3"])


def test_labels_say_which_stems_are_heard() -> None:
    stems = torch.zeros(2, 3, 2, 100)
    stems[0, 1] = 1.0
    stems[0, 2] = 1e-4  # 80 dB below
    stems[1, 0] = stems[1, 2] = 1e-3
    assert labels_of(stems).tolist() == [[0, 1, 0], [1, 0, 1]]
    np.testing.assert_array_equal(tagged.sounding(stems[0].numpy()), labels_of(stems)[0].bool())


@pytest.mark.parametrize("head", HEADS)
def test_every_head_learns_to_tell_classes_apart(head: str) -> None:
    """A tone, a higher tone, a click; which of them are in a clip is all that is said."""
    options = {"rank": "{decay: 0.9, trained: true}", "cnn": "{kernel: 3, stride: 2}"}.get(head, "{}")
    torch.manual_seed(0)
    module = Separation(small(f"tags.head={head}", f"tags.options={options}", f"tags.rescaled={str(head == 'mean').lower()}"))
    rng = np.random.default_rng(0)
    labels = (rng.random((12, 3)) < 0.5).astype(np.float32)
    magnitude = 1e-3 * rng.random((12, 30, 129), dtype=np.float32)
    magnitude[:, :, 8:12] += 0.1 * labels[:, 0, None, None]
    magnitude[:, :, 70:74] += 0.1 * labels[:, 1, None, None]
    magnitude[:, 14:16] += 0.1 * labels[:, 2, None, None]
    batch = Tagged(torch.from_numpy(magnitude), torch.from_numpy(labels))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = module.losses(batch)["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < losses[0] - 0.05


def test_any_network_can_learn_from_clip_labels() -> None:
    options = "model.options={bands: [[10, 3], [6, 8], [5, 10]], width: 8, units: 8, blocks: 1, dilation: 2}"
    own = [override for override in SMALL if "model.options" not in override and "lookahead" not in override]
    recipe = load_recipe("weak", [*own, "band_bins=128", "model.kind=band_split", options, "lookahead_hops=2"])
    module = Separation(recipe)
    stems = torch.randn(2, 3, 2, 4000) * torch.tensor([[1.0, 0, 1], [0, 1, 1]])[:, :, None, None]
    losses, answer = module.answer(stems)
    assert answer.labels.tolist() == [[1, 0, 1], [0, 1, 1]]
    assert answer.probabilities.shape == (2, 3)
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    assert all(value.grad is not None for value in module.network.parameters())


# ---- what is scored ---------------------------------------------------------------------------------------------------


def slow_auc(found: F64, there: NDArray[np.bool_]) -> float:
    """How often a clip with the class comes before one without; ties count half."""
    pairs = found[there][:, None] - found[~there][None]
    return float((pairs > 0).mean() + 0.5 * (pairs == 0).mean())


def slow_average_precision(found: F64, there: NDArray[np.bool_]) -> float:
    order = np.argsort(-found)
    hits = there[order]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def test_figures_against_their_definitions() -> None:
    rng = np.random.default_rng(1)
    found, there = rng.permuted(np.linspace(0.01, 0.99, 120)).reshape(40, 3), rng.random((40, 3)) < [0.5, 0.2, 0.0]
    rows = figures(Answer(torch.tensor(found), torch.tensor(there)), CLASSES, 0.4)
    for index, name in enumerate(CLASSES[:2]):
        p, y = found[:, index], there[:, index]
        assert rows[name]["roc_auc"] == pytest.approx(slow_auc(p, y), abs=1e-6)
        assert rows[name]["average_precision"] == pytest.approx(slow_average_precision(p, y), abs=1e-6)
        hits = (p >= 0.4) & y
        assert rows[name]["f1"] == pytest.approx(2 * hits.sum() / ((p >= 0.4).sum() + y.sum()), abs=1e-6)
        assert rows[name]["clips"] == y.sum()
    assert rows["click"] == {"roc_auc": None, "average_precision": None, "f1": None, "clips": 0}
    counts = there.sum(axis=0)[:2]
    each = [float(rows[name]["roc_auc"] or 0) for name in CLASSES[:2]]
    assert rows["macro"]["roc_auc"] == pytest.approx(np.mean(each))
    assert rows["weighted"]["roc_auc"] == pytest.approx(np.average(each, weights=counts))


# ---- the journey ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Events, mixtures of them, caches of these."""
    folder = tmp_path_factory.mktemp("weak")
    time_s = np.arange(1600) / RATE_HZ
    for number in range(10):
        sounds = {
            "low": np.sin(2 * np.pi * (280 + 5 * number) * time_s),
            "high": np.sin(2 * np.pi * (2400 + 20 * number) * time_s),
            "click": np.random.default_rng(number).standard_normal(1600) * (time_s % 0.1 < 0.004),
        }
        for name, sound in sounds.items():
            (folder / "events").mkdir(exist_ok=True)
            soundfile.write(folder / "events" / f"{name}{number:02d}.wav", 0.5 * sound, RATE_HZ)
    mixing = ["--seconds", "0.5", "--mixtures", "120", "--rate-hz", str(RATE_HZ), "--most-events", "3", "--overlap"]
    assert remix.main([str(folder / "events"), str(folder / "mixed"), *mixing, "--noise", "0.001", "--valid", "0.15"]) == 0
    recipe = folder / "small.yaml"
    recipe.write_text(recipe_to_yaml(small()))
    assert tagged.main([str(folder / "mixed"), str(folder / "caches"), "--recipe", str(recipe)]) == 0
    return folder


@pytest.fixture(scope="module")
def trained(mixed: Path) -> Path:
    arguments = [
        str(mixed / "small.yaml"), f"data.root={mixed / 'caches'}", "train.steps=60", "train.validate_every=20",
        "train.rate=2e-2", "train.batch=12", "train.ema=0.5", "train.decay_steps=20", "tags.options={decay: 0.97}",
        "tags.quietest=0.8",
    ]  # fmt: skip
    assert train_main([*arguments, "--quiet", "--out", str(mixed / "run")]) == 0
    return mixed / "run"


def test_it_learns_from_a_cache_and_says_how_well(trained: Path, mixed: Path, capsys: Capture) -> None:
    rows = [row for row in log(trained) if row["valid/loss"]]
    assert float(rows[-1]["valid/loss"]) < float(rows[0]["valid/loss"])
    assert float(rows[-1]["valid/roc_auc"]) > 0.8
    assert "valid/si_sdri" not in rows[-1]  # there are no stems to be scored
    kept = [path for path in trained.glob("step*.ckpt")]
    assert len(kept) == 2
    assert tags.main([str(trained / "last.ckpt"), "--split", "valid", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["weighted"]["roc_auc"] == pytest.approx(float(rows[-1]["valid/roc_auc"]), abs=1e-3)
    # the same clips as tracks with stems: labels are then those of the stems
    assert tags.main([str(trained / "last.ckpt"), f"data.root={mixed / 'mixed'}", "data.valid_mixtures=18"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0] == "| class | ROC-AUC | average precision | F1 | clips |"
    assert [line.split("|")[1].strip() for line in table[2:]] == [*CLASSES, "macro", "weighted"]


def test_a_broken_off_run_goes_on_as_if_it_had_not_been(mixed: Path, tmp_path: Path) -> None:
    arguments = [str(mixed / "small.yaml"), f"data.root={mixed / 'caches'}", "train.validate_every=2", "train.decay_steps=0"]
    for out, steps in (("whole", 4), ("part", 2)):
        assert train_main([*arguments, f"train.steps={steps}", "--quiet", "--out", str(tmp_path / out)]) == 0
    assert train_main([*arguments, "train.steps=4", "--quiet", "--out", str(tmp_path / "part"), "--resume", "auto"]) == 0
    whole, part = (read(tmp_path / out / "last.ckpt")["state_dict"] for out in ("whole", "part"))
    assert all(torch.equal(value, part[name]) for name, value in whole.items())


def test_it_is_exported_rendered_and_scored(trained: Path, mixed: Path, tmp_path: Path, capsys: Capture) -> None:
    """Torch, ONNX Runtime and the pipeline agree, or there would be no bundle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "FRAMES", 96)
        patch.setattr(speed, "SECONDS", 0.1)
        assert export_main([str(trained / "last.ckpt"), "--out", str(tmp_path / "bundle"), "--name", "weak"]) == 0
        capsys.readouterr()
        bundle = read_bundle(tmp_path / "bundle")
        assert bundle.disk is None
        assert bundle.masks == "independent"
        assert bundle.class_names == CLASSES
        assert bundle.latency_samples == 256 + 2 * 128
        assert all(value < 1e-4 for name, value in bundle.parity.items() if name != "pipeline_snr_db")
        track = next(path for path in sorted((mixed / "mixed/test").iterdir()) if path.is_dir())
        flags = ["--model", str(tmp_path / "bundle"), "--out", str(tmp_path / "out"), "--residual", "--provider", "cpu"]
        assert render_main([str(track / "mix.flac"), *flags]) == 0
        heard = {path.stem: soundfile.read(path)[0] for path in (tmp_path / "out").rglob("*.wav")}
        assert set(heard) == {*CLASSES, "residual"}
        np.testing.assert_allclose(sum(heard.values()), soundfile.read(track / "mix.flac")[0], atol=1e-4)
        capsys.readouterr()
        patch.setattr(evaluate, "LONGEST_S", 1.0)
        assert eval_main([str(tmp_path / "bundle"), str(mixed / "mixed"), "--mixtures", "12", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert {name for name in scores if name in CLASSES} == set(CLASSES)  # matched by name, whatever order files are in


def test_whoever_needs_the_whole_signal_is_packed_in_windows(tmp_path: Path) -> None:
    """Strides over time do not stream: such a network is built, trained and heard all the same."""
    option = SMALL[-1].replace("kernel_frames: 3", "kernel_frames: 3, stride_frames: [2, 1], streaming: false")
    recipe = load_recipe("weak", [*SMALL[:-1], option, "lookahead_hops=0"])
    module = Separation(recipe)
    losses, answer = module.answer(torch.randn(2, 3, 2, 4000))
    assert losses["loss"].isfinite()
    heard = module.hear(torch.randn(3, 2, 4000))
    assert heard.estimates.shape == (3, 2, 4000)
    assert answer.probabilities.shape == (2, 3)


# ---- what does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lookahead_hops=1"], "'lookahead_hops' is 1; expected 2"),
        (["tags.head=ranks"], "did you mean 'rank'"),
        (["tags.options={decay: 2}"], "decay is 2"),
        (["tags.quietest=0"], "tags.quietest"),
        (["tags.threshold=1"], "tags.threshold"),
        (["classes={tones: [low, high], other: [click]}"], "classes are a tree; expected a list"),
        (["loss.tags=0", "loss.absent=0", "loss.mask=1"], "loss.mask"),
        (["loss.tags=0", "loss.absent=0"], "not all 0"),
        (["model.options.bandz=3"], "bandz"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        Separation(small(*overrides))
    assert "\n" not in str(error.value)


def test_clips_without_stems_need_the_loss_of_tags(mixed: Path, tmp_path: Path, capsys: Capture) -> None:
    arguments = [
        str(mixed / "small.yaml"),
        f"data.root={mixed / 'caches'}",
        "loss={mask: 0.0, sdr: 1.0}",
        "--quiet",
        "--out",
        str(tmp_path / "x"),
    ]
    assert train_main(arguments) == 2
    error = capsys.readouterr().err
    assert "only labels are known; set loss.tags above 0" in error
    assert error.count("\n") == 1


def test_a_cache_of_another_recipe_is_refused_before_the_first_step(mixed: Path, tmp_path: Path, capsys: Capture) -> None:
    arguments = [
        str(mixed / "small.yaml"),
        f"data.root={mixed / 'caches'}",
        "mix.seconds=0.4",
        "--quiet",
        "--out",
        str(tmp_path / "x"),
    ]
    assert train_main(arguments) == 2
    error = capsys.readouterr().err
    assert "has seconds 0.5; expected 0.4" in error
    assert error.count("\n") == 1


def test_a_checkpoint_that_knows_no_tags_is_refused(mixed: Path, tmp_path: Path, capsys: Capture) -> None:
    assert tags.main([str(tmp_path / "none.ckpt")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("weak*.yaml")))
def test_every_recipe_makes_its_network(name: str) -> None:
    module = Separation(load_recipe(name))
    assert module.tagger is not None
    recipe, network = module.recipe, module.network
    with torch.no_grad():
        found, _ = network.eval()(torch.rand(1, 9, recipe.band_bins))
    assert found.shape == (1, 9, len(recipe.leaves), recipe.band_bins)


def test_a_checkpoint_holds_its_network(trained: Path) -> None:
    recipe, network = load_network(trained / "last.ckpt")
    assert recipe.model.kind == "mask_cnn"
    assert not network.training

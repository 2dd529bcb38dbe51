"""The reference system, small: every row of its table of results trains, falls, is exported, renders and obeys the laws."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

import streaming_contract
from sepstream.cli import render_main
from sepstream.cli_bundle import bundle_main
from sepstream.cli_live import live_main
from sepstream.contract import BandSpec, Bundle, StftSpec, read_bundle
from sepstream.errors import BundleError, DataError
from sepstream.pipeline import Pipeline
from sepstream.selection import Selection
from sepstream_export import parity, speed
from sepstream_export.package import export
from sepstream_training.models import Network, StreamingNetwork
from sepstream_training.recipe import Recipe, load_recipe, recipe_from_tree, recipe_to_tree
from sepstream_training.train import load_network, train

Capture = pytest.CaptureFixture[str]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

TINY = [
    "data.synthetic_seconds=2", "data.synthetic_clips=1", "data.valid_mixtures=2", "data.workers=0", "mix.seconds=0.5",
    "train.batch=4", "train.steps=16", "train.validate_every=4", "train.rate=2e-2", "train.warmup_steps=0", "train.decay_steps=0",
    "model.options.units=6", "model.options.layers=2", "model.options.dropout=0", "window={past: 6, hops: 20, future: 5}",
]  # fmt: skip
CONFIGURATIONS: dict[str, tuple[str, list[str]]] = {
    "mask": ("hyper_unmix", []),
    "spectrogram": ("hyper_unmix_spectrogram", []),
    "waveform": ("hyper_unmix_waveform", []),
    "euclid": ("hyper_unmix_euclid", []),
    "wide": ("hyper_unmix_wide", []),
    "euclid_wide": ("hyper_unmix_euclid_wide", []),
    "trained curvature": ("hyper_unmix", ["model.options.trainable_curvature=true", "model.tied=true", "loss.si_sdr=0.02"]),
    "causal": ("hyper_unmix", ["model.options.bidirectional=false", "loss.magnitude_weights=false"]),
}
HOP = 256
ROUNDING = 2e-5  # float32 sums of an STFT and its way back

torch.set_num_threads(1)


class Made(NamedTuple):
    bundle: Bundle
    recipe: Recipe
    network: Network
    losses: list[float]  # at each validation


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    name, changes = CONFIGURATIONS[request.param]
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "FRAMES", 96)
        patch.setattr(speed, "SECONDS", 0.1)
        checkpoint = train(load_recipe(name, [*TINY, *changes]), folder / "run", progress=False).checkpoint
        bundle = export(checkpoint, folder / "bundle", name="tiny")
    return Made(bundle, *load_network(checkpoint), validation_losses(folder / "run"))


def validation_losses(run: Path) -> list[float]:
    files = run.glob("csv/*/metrics.csv")
    rows = [row for path in files for row in csv.DictReader(path.read_text().splitlines())]
    return [float(row["valid/loss"]) for row in rows if row["valid/loss"]]


def sound(channels: int, samples: int) -> F32:
    """Noise whose level wanders, so that masks move."""
    level = 10 ** (1.5 * np.sin(np.arange(samples) / 2000) - 2)
    return (level * np.random.default_rng(5).standard_normal((channels, samples))).astype(np.float32)


# ---- every configuration ----------------------------------------------------------------------------------------------


def test_it_trains_and_the_loss_falls(made: Made) -> None:
    assert all(np.isfinite(made.losses))
    assert made.losses[-1] < made.losses[0]
    if made.network.head.log_curvature.requires_grad:
        assert made.network.head.curvature() > 0
        assert made.network.head.curvature() != 1.0


def test_the_bundle_says_what_it_is(made: Made) -> None:
    bundle, streams = made.bundle, isinstance(made.network, StreamingNetwork)
    assert read_bundle(bundle.folder) == bundle
    assert (bundle.sample_rate_hz, bundle.stft, bundle.band.bins) == (16000, StftSpec(512, 512, 256), 257)
    assert bundle.kind == ("step" if streams else "window")
    assert bundle.lookahead_hops == (0 if streams else 5)
    assert bundle.latency_samples == 512 + bundle.lookahead_hops * HOP
    assert bundle.is_live == streams
    assert bundle.disk.dim == made.recipe.model.options["dim"]
    figures = bundle.parity
    assert all(figures[name] < parity.MASK_LIMIT for name in ("torch_step", "onnx_step", "onnx_many", "embedding", "disk_head"))
    assert ("window_snr_db" in figures) != streams
    card = (bundle.folder / "card.md").read_text(encoding="utf8")
    assert ("It cannot be played live." in card) != streams
    assert ("- live, stereo" in card) == streams


def test_it_obeys_the_laws_of_a_stream(made: Made) -> None:
    hops = made.bundle.graphs[-1].hops
    pipeline = Pipeline(made.bundle, Selection.stems(made.bundle, "all"), 2, provider="cpu", hops=hops)

    def step(block: F32, state: Any) -> tuple[F32, Any]:
        pipeline.state = state
        return pipeline.process(block), pipeline.state

    streaming_contract.verify(streaming_contract.Stage(pipeline.initial_state, step), sound(2, 26000))


@pytest.mark.parametrize("which", ["parents", "leaves"])
def test_a_level_adds_up_to_the_mix_after_the_declared_latency(made: Made, which: str) -> None:
    pipeline = Pipeline(made.bundle, Selection.stems(made.bundle, which), 2, provider="cpu", hops=made.bundle.graphs[-1].hops)
    signal, late = sound(2, 20000), pipeline.latency_samples
    total = pipeline.process(np.pad(signal, ((0, 0), (0, late)))).sum(axis=0)
    assert np.abs(total[:, :late]).max() < 1e-6
    np.testing.assert_allclose(total[:, late:], signal, atol=ROUNDING * np.abs(signal).max())


def test_tied_leaves_add_up_to_their_parent(made: Made) -> None:
    pipeline = Pipeline(made.bundle, Selection.stems(made.bundle, "all"), 1, provider="cpu", hops=made.bundle.graphs[-1].hops)
    speech, music, male, female, *instruments = pipeline.process(sound(1, 30000))
    for parent, members in ((speech, [male, female]), (music, instruments)):
        apart = np.abs(parent - np.sum(members, axis=0)).max()
        assert (apart < ROUNDING) == made.recipe.model.tied


def test_it_renders_files_of_any_rate(made: Made, tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)[:, None] * np.array([0.2, 0.1])
    soundfile.write(tmp_path / "tone.wav", tone, 44100, subtype="FLOAT")
    command = [
        str(tmp_path / "tone.wav"),
        "--model",
        str(made.bundle.folder),
        "--out",
        str(tmp_path / "out"),
        "--stems",
        "leaves",
    ]
    assert render_main(command) == 0
    stems = [soundfile.read(path)[0] for path in sorted((tmp_path / "out/tone").iterdir())]
    assert [len(stem) for stem in stems] == [44100] * 5
    np.testing.assert_allclose(np.sum(stems, axis=0)[1000:-1000], tone[1000:-1000], atol=1e-3)


# ---- windows ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Not trained at all: a random network is as good as any where windows are concerned."""
    recipe = load_recipe("hyper_unmix", [*TINY, "train.steps=1", "train.validate_every=1"])
    folder = tmp_path_factory.mktemp("window")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "SECONDS", 0.1)
        checkpoint = train(recipe, folder / "run", progress=False).checkpoint
        return Made(export(checkpoint, folder / "bundle", name="w"), *load_network(checkpoint), [])


def test_a_window_sounds_like_torch_on_each_window(window: Made) -> None:
    """Against an STFT and overlap-add in float64, written here: frame n is heard with the frames of its call's window."""
    spec, (past, hops, future) = window.recipe.window, (6, 20, 5)
    assert (spec.past, spec.hops, spec.future) == (past, hops, future)
    signal = sound(1, 5 * hops * HOP)[0].astype(np.float64)
    w = np.sin(np.pi * (np.arange(512) + 0.5) / 512)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(signal, (HOP, 0)), 512)[::HOP]
    spectra = np.fft.rfft(frames * w)
    heard = np.pad(np.abs(spectra) / w.sum(), ((past + future, hops), (0, 0)))
    out = np.zeros((7, len(signal) + 2 * hops * HOP))
    for call in range(6):
        with torch.no_grad():
            part = torch.from_numpy(heard[call * hops : call * hops + past + hops + future].astype(np.float32))
            logits = window.network(part[None])[0][0, past : past + len(part) - past - future].double()
        masks = torch.cat([logits[:, :2].softmax(dim=1), logits[:, 2:].softmax(dim=1)], dim=1).numpy()
        for i, mask in enumerate(masks):
            n = call * hops + i - future
            if 0 <= n < len(spectra):
                out[:, n * HOP : n * HOP + 512] += np.fft.irfft(mask * spectra[n]) * w
    pipeline = Pipeline(window.bundle, Selection.stems(window.bundle, "all"), 1, provider="cpu", hops=hops)
    late = pipeline.latency_samples
    got = pipeline.process(np.pad(signal, (0, late))[None].astype(np.float32))[:, 0, late:]
    wanted = out[:, HOP : HOP + len(signal)]
    inside = slice(0, len(signal) - HOP)
    assert 10 * np.log10(np.square(wanted[:, inside]).sum() / np.square(got - wanted)[:, inside].sum()) > parity.AUDIO_LIMIT_DB


@pytest.mark.parametrize(("start", "changes"), [(live_main, ["--input", "none"]), (live_main, ["--measure-latency"])])
def test_a_window_is_refused_live_in_one_line(
    window: Made, start: Callable[..., int], changes: list[str], capsys: Capture
) -> None:
    assert start(["--model", str(window.bundle.folder), *changes]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "is of kind window: it takes 20 hops per call and hears what is to come" in err
    assert "use it with sep-render" in err
    with pytest.raises(BundleError, match="kind window"):
        Pipeline(window.bundle, Selection.stems(window.bundle, "all"), 1, provider="cpu")


def test_a_temperature_makes_masks_harder_or_softer(window: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph's own masks, the manifest's head (parity compares the two) and the classes' order all follow."""
    monkeypatch.setattr(speed, "SECONDS", 0.1)
    checkpoint = window.bundle.folder.parent / "run/last.ckpt"
    hard = export(checkpoint, tmp_path / "hard", name="hard", temperature=0.25)
    assert hard.disk.scale == pytest.approx([4 * scale for scale in window.bundle.disk.scale])
    assert hard.training["temperature"] == 0.25
    assert "temperature" not in window.bundle.training


def test_a_window_is_shown_with_its_parts(window: Made, capsys: Capture) -> None:
    assert bundle_main(["show", str(window.bundle.folder)]) == 0
    assert "0.5 s at once: 6 hops before, 20 that it gives, 5 after; for files only" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lookahead_hops": 12}, "(12 or more frames, 257): the context of a window"),
        ({"kind": "step", "lookahead_hops": 5}, "rising numbers up to 4096, the first 1"),
        ({"lookahead_hops": 5, "band": BandSpec(200, 0, 200)}, "inputs[0].shape"),
    ],
)
def test_a_context_that_cannot_be_is_refused(window: Made, change: dict[str, Any], words: str, tmp_path: Path) -> None:
    from sepstream.contract import write_bundle  # noqa: PLC0415

    files = {spec.file: (window.bundle.folder / spec.file).read_bytes() for spec in window.bundle.graphs}
    with pytest.raises(BundleError) as error:
        write_bundle(replace(window.bundle, **change), files, "x", tmp_path / "x")
    assert words in str(error.value)


# ---- recipes ----------------------------------------------------------------------------------------------------------


def test_the_table_of_results_is_six_recipes_that_differ_in_one_thing_or_two() -> None:
    base = recipe_to_tree(load_recipe("hyper_unmix"))
    rows = {}
    for name, changes in CONFIGURATIONS.values():
        if not changes:
            recipe = load_recipe(name)
            options = recipe.model.options
            loss = next(term for term in ("mask", "spectrogram", "waveform") if getattr(recipe.loss, term))
            rows[name] = (loss, options["curvature"], options["dim"])
            tree = recipe_to_tree(recipe)
            assert {key for key in base if base[key] != tree[key]} <= {"name", "loss", "model"}
    assert sorted(rows.values()) == [
        ("mask", 0.0, 2), ("mask", 0.0, 128), ("mask", 1.0, 2), ("mask", 1.0, 128), ("spectrogram", 1.0, 2), ("waveform", 1.0, 2)
    ]  # fmt: skip
    assert (base["model"]["options"]["layers"], base["model"]["options"]["units"]) == (4, 600)


def test_a_recipe_changes_its_base_group_by_group_but_for_the_classes(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "base: hyper_unmix\nname: mine\nclasses: {voice: [low, high], rest: [noise, hum]}\nmodel: {options: {units: 7}}\n"
    )
    mine, base = load_recipe(str(path), ["train.steps=5"]), load_recipe("hyper_unmix")
    assert mine.class_names == ["voice", "rest", "low", "high", "noise", "hum"]
    assert mine.model.options == {**base.model.options, "units": 7}
    assert (mine.train.steps, mine.stft) == (5, base.stft)
    assert recipe_from_tree(recipe_to_tree(base)) == base


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["geometry={analysis: 512, hop: 256}"], "expected a name, or {analysis: SAMPLES"),
        (["geometry={analysis: 512, synthesis: 512, hop: 100}"], "hop <= synthesis <= 2 hops"),
        (["geometry=3"], "'geometry' is 3; expected a name"),
        (["window.hops=0"], "'window.hops' is 0; expected 1 to 4096"),
        (["window.futre=1"], "did you mean 'future'?"),
        (["model.tied=maybe"], "'model.tied' is 'maybe'; expected true or false"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(changes: list[str], words: str) -> None:
    with pytest.raises((DataError, BundleError)) as error:
        load_recipe("hyper_unmix", changes)
    assert words in str(error.value)


@pytest.mark.parametrize("base", ["hyper_unmixx", "hyper_unmix_wide", "[1]"])
def test_a_base_that_is_none_is_refused(tmp_path: Path, base: str) -> None:
    (tmp_path / "x.yaml").write_text(f"base: {base}\nname: x\n")
    with pytest.raises(DataError, match=r"shipped|stands on its own"):
        load_recipe(str(tmp_path / "x.yaml"))

"""The LQ-VAE and its priors: laws and float64 references of the parts; one tiny training of every stage, bundled and rendered."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from sepstream import contract
from sepstream.cli import render_main
from sepstream.cli_live import live_main
from sepstream.contract import Bundle, load_bundle, write_bundle
from sepstream.describe import as_json, describe
from sepstream.errors import BundleError, ExpressionError
from sepstream.latent import LatentPipeline
from sepstream.selection import Selection
from sepstream.separator import Separator
from sepstream_export.cli import export_main
from sepstream_training.cli import train_main
from sepstream_training.latent import Continuation
from sepstream_training.models.lqvae import PEAKS_WEIGHT, Autoencoder, Quantiser, recon_loss
from sepstream_training.models.prior import Prior
from sepstream_training.recipe import load_recipe
from sepstream_training.train import load_task, task

RENDER = [sys.executable, "-c", "import sys; from sepstream.cli import render_main; sys.exit(render_main())"]
SMALL = [
    *("data.root=synthetic", "data.synthetic_clips=1", "data.synthetic_seconds=3", "data.synthetic_engine=numpy"),
    *("data.workers=0", "data.valid_mixtures=1", "mix.seconds=0.512"),
    *("train.batch=2", "train.steps=4", "train.validate_every=4", "train.views=0", "train.threads=1", "train.ema=0.5"),
    """model.options={
        codec: {strides: [[4, 4], [4, 4]], width: 6, depth: 1, dim: 4, codes: 12},
        prior: {width: 8, layers: 2, heads: 2, attention: 8, mlp: 8, context: 5},
        sampling: {likelihood: counts}, chunk_codes: 8, fade_codes: 2, draws: 3}""",
]

torch.set_num_threads(1)


# ---- the autoencoder


def parameters(module: torch.nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def test_the_published_sizes_are_those_of_the_default_autoencoder():
    with torch.device("meta"):
        codec = Autoencoder()
    assert (parameters(codec.encoder), parameters(codec.decoder)) == (147_456, 155_713)
    assert (codec.hop, codec.reach) == (64, 83)  # a code hears 5250 samples ahead


def test_the_full_recipe_makes_priors_of_the_published_size_but_for_positions():
    with torch.device("meta"):
        module = task(load_recipe("lqvae_full_priors"))
    assert isinstance(module, Continuation)
    biases = 48 * (512 + 1)
    assert [parameters(prior) for prior in module.priors] == [161_928_192 - 8192 * 1024 + biases] * 2


def small_codec(seed: int = 0) -> Autoencoder:
    torch.manual_seed(seed)
    codec = Autoencoder(strides=((4, 2), (2,)), width=5, depth=2, dim=3, codes=7).eval()
    codec.quantiser.codebook.normal_()
    return codec


def test_codes_and_sounds_depend_on_no_more_than_the_declared_reach():
    codec = small_codec()
    assert codec.hop == 16
    place, length = 12, 25
    sound = torch.randn(1, 1, length * codec.hop, requires_grad=True)
    codec.encoder(sound)[0, :, place].sum().backward()
    heard = sound.grad[0, 0].abs().view(length, -1).sum(dim=1).nonzero().flatten()
    vectors = torch.randn(1, 3, length, requires_grad=True)
    codec.sound(vectors)[0, place * codec.hop : (place + 1) * codec.hop].sum().backward()
    told = vectors.grad[0].abs().sum(dim=0).nonzero().flatten()
    for found in (heard, told):
        assert place - codec.reach <= int(found.min()) <= int(found.max()) <= place + codec.reach
    assert int(heard.max()) >= place + codec.reach - 1, "and no less, but for whole codes"


def test_a_sound_of_whole_codes_goes_in_and_comes_out_as_long():
    codec = small_codec()
    codes = codec.encode(torch.randn(2, 9 * codec.hop))
    assert codes.shape == (2, 9)
    assert codec.decode(codes).shape == (2, 9 * codec.hop)


def test_the_reconstruction_loss_is_its_formula():
    rng = np.random.default_rng(2)
    heard, wanted = rng.standard_normal((2, 3, 5000))
    error = np.square(heard - wanted)
    reference = error.mean() + PEAKS_WEIGHT * np.sort(error, axis=1)[:, -2048:].mean()
    assert float(recon_loss(torch.tensor(heard), torch.tensor(wanted))) == pytest.approx(reference, rel=1e-12)


# ---- the codebook


def trained_quantiser(vectors: Tensor, codes: int = 6, decay: float = 0.9) -> Quantiser:
    torch.manual_seed(1)
    quantiser = Quantiser(codes, vectors.shape[1], decay).double().train()
    quantiser(vectors)
    return quantiser


def test_the_first_batch_fills_the_codebook_and_later_ones_move_it_as_the_reference_says():
    vectors = torch.randn(2, 3, 40, dtype=torch.float64)
    quantiser = trained_quantiser(vectors)
    assert bool(quantiser.ready)
    quantiser.counts[2] = 0.2  # a code that is hardly used
    before = {name: value.numpy().copy() for name, value in quantiser.named_buffers()}
    found = quantiser(vectors)
    flat = vectors.transpose(1, 2).reshape(-1, 3).numpy()
    nearest = np.square(flat[:, None] - before["codebook"]).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(found.codes.flatten(), nearest)
    one_hot = np.eye(6)[nearest]
    counts = 0.9 * before["counts"] + 0.1 * one_hot.sum(axis=0)
    sums = 0.9 * before["sums"] + 0.1 * one_hot.T @ flat
    used = counts >= 1
    np.testing.assert_allclose(quantiser.counts, counts, rtol=1e-12)
    np.testing.assert_allclose(quantiser.codebook[used], sums[used] / counts[used, None], rtol=1e-12)
    for anew in quantiser.codebook[~used].numpy():
        assert (np.abs(flat - anew).max(axis=1) < 1e-12).any(), "a code that is not used begins where something is"


def test_quantised_vectors_are_codes_with_the_gradient_of_what_was_quantised():
    vectors = torch.randn(2, 3, 40, dtype=torch.float64, requires_grad=True)
    quantiser = trained_quantiser(vectors.detach()).eval()
    before = quantiser.codebook.clone()
    found = quantiser(vectors)
    assert torch.allclose(found.vectors.transpose(1, 2), quantiser.codebook[found.codes])
    (gradient,) = torch.autograd.grad((found.vectors * torch.arange(3.0)[:, None]).sum(), vectors, retain_graph=True)
    assert torch.allclose(gradient, torch.arange(3.0, dtype=torch.float64)[:, None].expand_as(gradient))
    reference = (found.vectors - vectors).square().mean()
    assert torch.allclose(found.commit, reference)
    assert torch.equal(quantiser.codebook, before), "nothing moves outside of training"


def test_more_codes_than_vectors_are_filled_with_vectors_slightly_apart():
    quantiser = trained_quantiser(torch.randn(1, 4, 3, dtype=torch.float64), codes=11)
    assert torch.isfinite(quantiser.codebook).all()


def test_the_sum_loss_is_zero_for_sounds_whose_codes_add_up_and_reaches_the_encoder_on_both_ways():
    codec = small_codec().train()
    sounds = 0.1 * torch.randn(2, 2, 64 * codec.hop)
    codec.losses(*sounds, 16000)
    codec.eval()
    terms = codec.losses(*sounds, 16000)
    halves = [codec.quantiser(codec.encoder(sound[:, None])).vectors for sound in sounds]
    of_codes = codec.quantiser(0.5 * halves[0] + 0.5 * halves[1]).vectors
    of_sounds = codec.quantiser(codec.encoder((0.5 * sounds[0] + 0.5 * sounds[1])[:, None])).vectors
    assert terms["sum"].item() == pytest.approx((of_codes - of_sounds).square().mean().item(), abs=1e-9)
    assert codec.losses(sounds[0], sounds[0], 16000)["sum"].item() == pytest.approx(0.0, abs=1e-12)
    for branch in (of_codes, of_sounds):
        gradients = torch.autograd.grad(branch.sum(), list(codec.encoder.parameters()), retain_graph=True)
        assert max(each.abs().max().item() for each in gradients) > 0


# ---- the prior


def small_prior(layers: int = 2, context: int = 4) -> tuple[Prior, Tensor]:
    torch.manual_seed(3)
    prior = Prior(9, 5, width=8, layers=layers, heads=2, attention=6, mlp=7, context=context).double().eval()
    for value in prior.parameters():
        torch.nn.init.normal_(value, std=0.5)
    return prior, torch.randn(9, 5, dtype=torch.float64)


def test_one_code_after_the_other_is_the_whole_sequence_however_long():
    prior, codebook = small_prior()
    codes = torch.randint(9, (3, 15))
    keys, values = ([torch.zeros(prior.cache_shape(3), dtype=torch.float64) for _ in prior.layers] for _ in range(2))
    ages = torch.full((4,), 5)
    last, found = torch.full((3,), 9), []
    for t in range(15):
        logits, new_keys, new_values = prior.step(last, ages, keys, values, codebook)
        for layer in range(2):
            keys[layer][:, :, t % 4], values[layer][:, :, t % 4] = new_keys[layer], new_values[layer]
        ages = (ages + 1).clamp(max=5)
        ages[t % 4] = 1
        found.append(logits)
        last = codes[:, t]
    assert torch.allclose(torch.stack(found, dim=1), prior(codes, codebook), atol=1e-12)


def test_a_prior_hears_the_past_alone_and_no_further_back_than_its_context():
    prior, codebook = small_prior(layers=1, context=3)
    codes = torch.randint(9, (1, 12))
    before = prior(codes, codebook)
    for changed in (4, 8):
        other = codes.clone()
        other[0, changed] = (codes[0, changed] + 1) % 9
        differs = ((prior(other, codebook) - before).abs().amax(dim=2)[0] > 1e-12).nonzero().flatten().tolist()
        assert differs == [t for t in range(changed + 1, changed + 5) if t < 12]


# ---- the journey: two runs, a bundle, files


class Journey(NamedTuple):
    folder: Path
    codec: Path  # checkpoints
    priors: Path
    bundle: Path


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Journey:
    folder = tmp_path_factory.mktemp("lqvae")
    codec, priors, bundle = (folder / name for name in ("codec", "priors", "bundle"))
    assert train_main(["lqvae", *SMALL, "--quiet", "--out", str(codec)]) == 0
    start = ["--start", str(codec / "last.ckpt")]
    assert train_main(["lqvae_priors", *SMALL, "--quiet", "--out", str(priors), *start]) == 0
    assert export_main([str(priors / "last.ckpt"), "--out", str(bundle)]) == 0
    return Journey(folder, codec / "last.ckpt", priors / "last.ckpt", bundle)


@pytest.fixture(scope="module")
def bundle(journey: Journey) -> Bundle:
    return load_bundle(journey.bundle)


@pytest.fixture(scope="module")
def song(journey: Journey) -> str:
    rng = np.random.default_rng(1)
    path = journey.folder / "song.wav"
    soundfile.write(path, 0.1 * rng.standard_normal((9000, 2)), 22050, subtype="FLOAT")
    return str(path)


def test_the_second_run_leaves_the_autoencoder_alone_and_counts_what_it_hears(journey):
    first, second = load_task(journey.codec), load_task(journey.priors)
    assert isinstance(second, Continuation)
    for name, value in first.codec.state_dict().items():
        assert torch.equal(value, second.codec.state_dict()[name]), name
    codes_heard = 4 * 2 * (round(0.512 * 16000) // 256)  # steps, batch, codes
    assert int(second.counts[:, 3].sum()) == codes_heard
    assert len(second.counts[:, :3].unique(dim=0)) == len(second.counts)


def test_a_resumed_run_counts_on(journey):
    out = journey.folder / "longer"
    longer = [option.replace("train.steps=4", "train.steps=6") for option in SMALL]
    assert train_main(["lqvae_priors", *longer, "--quiet", "--out", str(out), "--resume", str(journey.priors)]) == 0
    before, after = load_task(journey.priors), load_task(out / "last.ckpt")
    assert int(after.counts[:, 3].sum()) == int(before.counts[:, 3].sum()) * 6 // 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["lqvae_priors"], "the autoencoder is untrained; expected --start CHECKPOINT"),
        (["lqvae", "classes=[bass, drums, guitar]"], "has 3 leaves, bass, drums, guitar; expected 2"),
        (["lqvae", "model.options={codex: {}}"], "'codex' is unknown; did you mean 'codec'"),
        (["lqvae", "model.options={codec: {strides: [[3]]}}"], "expected even strides"),
        (["lqvae", "model.options={weights: {summ: 1}}"], "'weights.summ' is 1; expected numbers of recon, spectra, commit, sum"),
        (["lqvae_priors", "model.options.chunk_codes=7"], "'model.options.chunk_codes' is 7; expected whole hops of 512 samples"),
        (["lqvae_priors", "model.options.sampling={top_p: 2}"], "top_p is 2; expected more than 0, 1 at most"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(tmp_path, capsys, arguments, says):
    assert train_main([*arguments, "data.workers=0", "--quiet", "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_an_autoencoder_alone_is_no_model(journey, tmp_path, capsys):
    assert export_main([str(journey.codec), "--out", str(tmp_path / "bundle")]) == 2
    assert "of an autoencoder alone" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_the_bundle_says_what_it_is_and_that_torch_and_its_graphs_agree(bundle):
    assert (bundle.kind, bundle.class_names, bundle.disk, bundle.is_live) == ("offline", ("bass", "drums"), None, False)
    assert bundle.parity["codes"] <= 0.01
    assert bundle.parity["logits"] < 1e-4
    assert min(bundle.parity["decoder_snr_db"], bundle.parity["sum_snr_db"]) > 80
    text = describe(bundle)
    assert "3 side by side" in text
    assert as_json(bundle)["latent"]["sampling"]["likelihood"] == "counts"
    card = (bundle.folder / "card.md").read_text(encoding="utf8")
    assert "It cannot be played live" in card
    assert not re.search(r"\bnan\b", card)


def test_it_cannot_be_played_live_and_says_why_and_how_late_it_would_be(journey, bundle, capsys):
    late_s = bundle.latency_samples / bundle.sample_rate_hz
    with pytest.raises(BundleError, match=f"3 draws for 0.1 s of sound and then keeps the best, {late_s:.1f} s late"):
        bundle.check_live()
    assert live_main(["--model", str(journey.bundle)]) != 0
    err = capsys.readouterr().err
    assert "of kind offline" in err
    assert err.count("\n") == 1
    with pytest.raises(BundleError, match="of kind offline"):
        Separator(bundle)


def render(*arguments: object) -> tuple[int, str, str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*RENDER, *map(str, arguments)], capture_output=True, text=True, env=environment, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_command_renders_and_a_seed_is_a_file(journey, song):
    heard = {}
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        out = journey.folder / name
        status, line, err = render(song, "--out", out, "--model", journey.bundle, "--seed", seed, "--residual", "--json")
        assert (status, err) == (0, "")
        assert [bus["name"] for bus in json.loads(line)["buses"]] == ["bass", "drums", "residual"]
        heard[name] = np.stack([soundfile.read(out / "song" / f"{bus}.wav")[0] for bus in ("bass", "drums", "residual")])
    assert heard["one"].shape == (3, 9000, 2)
    np.testing.assert_array_equal(heard["one"], heard["same"])
    assert np.abs(heard["one"] - heard["other"]).max() > 1e-4
    assert np.abs(heard["one"][2]).max() < 1e-5, "nothing is left of the mixture"


def test_flags_and_errors_are_those_of_any_model(journey, song, tmp_path, capsys):
    base = [song, "--out", str(tmp_path / "stems"), "--model", str(journey.bundle)]
    for flags, says in (
        (["--stems", "bass,piano"], "unknown class 'piano'; known: leaves, parents, all, bass, drums"),
        (["--bus", "x=disc(0,0,0.5)"], "needs a disk"),
        (["--sampling", "top_k=x"], "--sampling top_k is 'x'; expected a whole number"),
        (["--sampling", "top_p=7"], "top_p is 7.0; expected more than 0"),
    ):
        assert render_main([*base, *flags]) == 2
        err = capsys.readouterr().err
        assert says in err, err
        assert err.count("\n") == 1
    assert not (tmp_path / "stems").exists()
    flags = ["--bus", "half=0.5*bass", "--format", "flac", "--sampling", "likelihood=gaussian", "--sampling", "top_k=3"]
    assert render_main([*base, *flags]) == 0
    assert (tmp_path / "stems" / "song" / "half.flac").is_file()


def test_settings_are_refused_by_models_that_do_not_draw(song, tmp_path, capsys):
    assert render_main([song, "--out", str(tmp_path), "--model", "disk-live", "--sampling", "top_k=3"]) == 2
    assert "'disk-live' is of kind step; leave it out" in capsys.readouterr().err


# ---- the laws of the pipeline


def pipeline(bundle: Bundle, channels: int = 1, **how: object) -> LatentPipeline:
    return LatentPipeline(bundle, Selection.stems(bundle, "all"), channels, provider="cpu", **how)


def mixture(bundle: Bundle, channels: int = 1, samples: int = 7000) -> np.ndarray:
    return (0.1 * np.random.default_rng(2).standard_normal((channels, samples))).astype(np.float32)


def whole(made: LatentPipeline, sound: np.ndarray) -> np.ndarray:
    made.reset()
    return made.process(np.pad(sound, ((0, 0), (0, made.latency_samples))))


def test_any_blocks_are_the_whole_and_reset_is_a_fresh_start(bundle):
    made, sound = pipeline(bundle, 2), mixture(bundle, 2)
    wanted = whole(made, sound)
    padded = np.pad(sound, ((0, 0), (0, made.latency_samples)))
    made.reset()
    cuts = np.cumsum([0, 1, 17, 509, 0, 2048, 5000])
    heard = np.concatenate([made.process(block) for block in np.split(padded, cuts, axis=1)], axis=2)
    np.testing.assert_array_equal(heard, wanted)


def test_what_is_found_is_the_mixture_again_after_the_declared_latency(bundle):
    made, sound = pipeline(bundle, 2), mixture(bundle, 2)
    heard = whole(made, sound)
    assert made.latency_samples == bundle.latency_samples
    np.testing.assert_array_equal(heard[:, :, : made.latency_samples - bundle.stft.hop_samples], 0)
    np.testing.assert_allclose(heard.sum(axis=0)[:, made.latency_samples :], sound, atol=1e-6)


def test_the_future_does_not_change_what_was_given(bundle):
    sound = mixture(bundle)
    changed = sound.copy()
    changed[:, 5000:] = 0.3
    one, other = (whole(pipeline(bundle), each)[:, :, :5000] for each in (sound, changed))
    np.testing.assert_array_equal(one, other)


def test_a_fault_is_counted_and_silenced(bundle):
    made, sound = pipeline(bundle), mixture(bundle)
    sound[0, 100] = np.nan
    assert np.isfinite(whole(made, sound)).all()
    assert made.faults == 1


def test_counts_that_are_not_there_cannot_be_asked_for(bundle, tmp_path):
    latent = replace(bundle.latent, sampling=replace(bundle.latent.sampling, likelihood="gaussian"))
    tables = replace(bundle.graphs[2], outputs=bundle.graphs[2].outputs[:1])
    plain = replace(bundle, latent=latent, graphs=(*bundle.graphs[:2], tables, *bundle.graphs[3:]))
    with pytest.raises(ExpressionError, match="'counts', and model 'bundle' has none"):
        pipeline(plain, sampling=bundle.latent.sampling)


# ---- the manifest


def change(path: str, value: object) -> Callable[[dict], None]:
    *keys, last = path.split(".")

    def apply(tree: dict) -> None:
        for key in keys:
            tree = tree[int(key)] if isinstance(tree, list) else tree[key]
        tree[int(last) if isinstance(tree, list) else last] = value

    return apply


def settle(tree: dict) -> None:
    """The latency that follows from the other fields: what is wrong with these is to be told."""
    latent, stft = tree["latent"], tree["stft"]
    waits = sum(latent[name] for name in ("chunk_codes", "margin_codes", "fade_codes")) if latent else 0
    late = waits * latent["hop_samples"] - stft["hop_samples"] if latent else 0
    tree["latency_samples"] = late + stft["synthesis_samples"]


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("latent", None, "latent is None; expected a value for kind offline"),
        ("kind", "step", "expected a value for kind offline, and for no other"),
        ("latent.codes", 13, "shapes is"),
        ("latent.draws", 0, "draws is 0; expected 1 to 4096"),
        ("latent.fade_codes", 9, "fade_codes is 9"),
        ("latent.fade_codes", 1, "latent.fade_codes is 1; expected whole hops of 512 samples"),
        ("latent.margin_codes", 1, "graphs[0].inputs shapes"),
        ("latent.sampling.top_p", 0.0, "top_p is 0.0"),
        ("latent.sampling.likelihood", "guess", "likelihood is 'guess'; did you mean 'gaussian'? known: gaussian, counts"),
        ("graphs.3.states", [], "graphs[3].states is ()"),
        ("graphs.1.hops", 3, "graphs[1].hops is 3"),
        ("classes.0.parent", "drums", "parents before leaves"),
        ("latency_samples", 7, "chunk, margin and fade + synthesis_samples - hop_samples"),
    ],
)
def test_a_manifest_that_is_not_of_its_kind_is_refused_by_field(bundle, tmp_path, path, value, says):
    tree = json.loads((bundle.folder / contract.MANIFEST).read_text(encoding="utf8"))
    change(path, value)(tree)
    if path != "latency_samples":
        settle(tree)
    (tmp_path / contract.MANIFEST).write_text(json.dumps(tree), encoding="utf8")
    with pytest.raises(BundleError) as caught:
        load_bundle(tmp_path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bundle_that_is_written_again_is_the_same(bundle, tmp_path):
    files = {graph.file: (bundle.folder / graph.file).read_bytes() for graph in bundle.graphs}
    again = write_bundle(bundle, files, (bundle.folder / "card.md").read_text(encoding="utf8"), tmp_path / "again")
    assert replace(again, folder=bundle.folder) == bundle

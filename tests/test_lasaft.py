"""LaSAFT's family: what each formula says, against plain loops in float64; what each network promises; that it learns, is
exported as it is, and blends."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import streaming_contract as contract
from sepstream.cli import render_main
from sepstream.contract import load_bundle
from sepstream.errors import DataError
from sepstream.pipeline import Pipeline
from sepstream.selection import Selection, Weight
from sepstream_export.package import export
from sepstream_training.losses import spectra_sdr_loss, window_losses
from sepstream_training.models.blocks import KINDS, Across, Attention, BlockSpec, Dense, LaSaft, LightSaft, Recurrent, Tdf
from sepstream_training.models.causal import Memory, Surroundings
from sepstream_training.models.conditioning import Modulation, film, gpocm, pocm
from sepstream_training.models.lasaft import Conditioned, StreamingLaSaft, lasaft
from sepstream_training.recipe import RECIPES, AskedSpec, load_recipe
from sepstream_training.separation import Separation
from sepstream_training.wishes import draw, granted
from training_runs import SHORT, log, one_line, run

SPEC = BlockSpec(channels=3, layers=2, least=4, latent=3, key=5, embedding=4)
SMALL = {"bins": 17, "levels": 2, "width": 4, "layers": 2, "latent": 2, "key": 4, "embedding": 4}
FORMS = {
    "mapping": {},
    "masking": {"estimate": "masking", "last": "tanh"},
    "complex_masking": {"estimate": "complex_masking", "last": "tanh"},
    "magnitude_mapping": {"spectrum": "magnitude"},
    "magnitude_masking": {"spectrum": "magnitude", "estimate": "masking", "last": "sigmoid"},
}


def network(kind: str = "tfc_lasaft", **options: object) -> Conditioned:
    torch.manual_seed(4)
    return lasaft(3, **{**SMALL, "encoder": kind, "decoder": kind, **options}).eval()


def sound(net: Conditioned, batch: int, frames: int, channels: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(9)
    return 0.01 * torch.randn(batch, channels, frames, net.bins, generator=generator, dtype=torch.complex64)


# The blocks, against their formulas.


def alive(block: torch.nn.Module) -> torch.nn.Module:
    """In float64, with statistics that matter."""
    for module in block.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean):
                torch.nn.init.normal_(values)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return block.double().eval()


def across(layer: Across, x: np.ndarray) -> np.ndarray:
    linear, norm = layer[0], layer[1]
    y = np.einsum("ctf,gf->ctg", x, linear.weight.detach().numpy())
    mean, var, scale, shift = (
        v.detach().numpy()[:, None, None] for v in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return np.maximum((y - mean) / np.sqrt(var + norm.eps) * scale + shift, 0)


def shares(attention: Attention, e: np.ndarray) -> np.ndarray:
    q = attention.query.weight.detach().numpy() @ e + attention.query.bias.detach().numpy()
    scores = np.exp(q @ attention.keys.detach().numpy() / math.sqrt(len(q)))
    return scores / scores.sum()


def test_frequency_is_transformed_as_the_formulas_say():
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    x, e = rng.standard_normal((3, 4, 8)), rng.standard_normal(4)
    given = torch.from_numpy(x)[None], torch.from_numpy(e)[None], Memory()
    tdf, full, heavy, light = (
        alive(b) for b in (Tdf(8, SPEC), Tdf(8, BlockSpec(channels=3, bottleneck=0)), LaSaft(8, SPEC), LightSaft(8, SPEC))
    )
    with torch.no_grad():
        got = [block(*given)[0].numpy() for block in (tdf, full, heavy, light)]
    np.testing.assert_allclose(got[0], across(tdf.maps[1], across(tdf.maps[0], x)), atol=1e-12)
    np.testing.assert_allclose(got[1], across(full.maps[0], x), atol=1e-12)
    values = across(heavy.values[1], across(heavy.values[0], x)).reshape(3, 4, 8, 3)  # the latent sources last
    np.testing.assert_allclose(got[2], values @ shares(heavy.attention, e), atol=1e-12)
    sources = across(light.sources, x).reshape(3, 4, 3, -1)  # the latent sources first
    mixed = np.einsum("l,ctlb->ctb", shares(light.attention, e), sources)
    np.testing.assert_allclose(got[3], across(light.back, mixed), atol=1e-12)


def test_a_dense_block_sees_all_that_came_before_and_gives_the_last():
    torch.manual_seed(2)
    block = alive(Dense(2, SPEC, (3, 3)))
    x = torch.randn(1, 2, 6, 5, dtype=torch.float64)
    for memory, pad in ((Memory(), (1, 1, 2, 0)), (Surroundings(), (1, 1, 1, 1))):
        heard = x
        for layer in block.layers:
            conv, norm, act = layer
            y = torch.nn.functional.conv2d(torch.nn.functional.pad(heard, pad), conv.weight, conv.bias)
            y = act(norm(y))
            heard = torch.cat([heard, y], dim=1)
        assert torch.allclose(block(x, memory), y, atol=1e-12)


def test_recurrence_is_of_each_channel_alone():
    torch.manual_seed(3)
    block = alive(Recurrent(8, BlockSpec(channels=3, least=4, directions=1)))
    x = torch.randn(1, 3, 7, 8, dtype=torch.float64)
    cell = block.time.cell
    w, u, b, d = (p.detach().numpy() for p in (cell.weight_ih_l0, cell.weight_hh_l0, cell.bias_ih_l0, cell.bias_hh_l0))
    wanted = np.zeros((3, 7, 4))
    for c in range(3):
        h = np.zeros(4)
        for t in range(7):
            a, r = w @ x[0, c, t].numpy() + b, u @ h + d
            reset, update = (1 / (1 + np.exp(-(a[i : i + 4] + r[i : i + 4]))) for i in (0, 4))
            h = (1 - update) * np.tanh(a[8:] + reset * r[8:]) + update * h
            wanted[c, t] = h
    np.testing.assert_allclose(block(x, x, Memory())[0].detach().numpy(), across(block.back, wanted), atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), channels=st.integers(1, 4))
def test_modulations_are_their_formulas(seed: int, channels: int):
    rng = np.random.default_rng(seed)
    x, scale, shift = (
        rng.standard_normal((2, channels, 3, 4)),
        rng.standard_normal((2, channels**2)),
        rng.standard_normal((2, channels)),
    )
    tensors = [torch.from_numpy(v) for v in (x, scale, shift)]
    filmed, pointed, gated, simple = np.empty_like(x), np.empty_like(x), np.empty_like(x), np.empty_like(x)
    for b, c in np.ndindex(2, channels):
        filmed[b, c] = scale[b, c] * x[b, c] + shift[b, c]
        simple[b, c] = scale[b, 0] * x[b, c] + shift[b, 0]
        pointed[b, c] = shift[b, c] + sum(scale[b, i * channels + c] * x[b, i] for i in range(channels))
        gated[b, c] = x[b, c] / (1 + np.exp(-pointed[b, c]))
    np.testing.assert_allclose(film(tensors[1][:, :channels], tensors[2])(tensors[0]), filmed, atol=1e-12)
    np.testing.assert_allclose(film(tensors[1][:, :1], tensors[2][:, :1])(tensors[0]), simple, atol=1e-12)
    np.testing.assert_allclose(pocm(*tensors[1:])(tensors[0]), pointed, atol=1e-12)
    np.testing.assert_allclose(gpocm(*tensors[1:])(tensors[0]), gated, atol=1e-12)


@pytest.mark.parametrize("by", ["film_simple", "film", "pocm", "gpocm"])
@pytest.mark.parametrize("control", ["dense", "conv"])
@pytest.mark.parametrize("vector", ["embedding", "one_hot"])
def test_conditions_between_classes_blend_continuously(by: str, control: str, vector: str):
    """The first way asks for a blend as the embedding of a blend; each small step of the wish is a small step of what it does."""
    torch.manual_seed(6)
    modulation = Modulation(4, 2, 3, by=by, vector=vector, control=control, embedding=4, layers=4).eval()
    wishes = torch.stack([torch.linspace(1, 0, 101), torch.linspace(0, 1, 101), torch.zeros(101), torch.zeros(101)], dim=1)
    with torch.no_grad():
        embedding = modulation.embed(wishes)
        found = [how(torch.ones(101, 3, 1, 1)) for how in modulation(wishes, embedding)]
    assert len(found) == 2
    assert torch.allclose(embedding, torch.lerp(embedding[:1], embedding[-1:], wishes[:, 1:2]), atol=1e-6)
    for way in found:
        assert (way[-1] - way[0]).abs().max() > 1e-4
        assert way.diff(dim=0).abs().max() < 0.1 * (way.max() - way.min() + 0.01)


# The networks.


@pytest.mark.parametrize(
    ("encoder", "decoder", "by", "parameters"),
    [
        ("tfc", "tfc", "film", 720_676),
        ("tfc_tdf", "tfc_tdf", "film", 1_069_508),
        ("tfc_lasaft", "tfc_lasaft", "film", 7_998_436),
        ("tfc", "tfc", "gpocm", 1_146_268),
        ("tfc_tdf", "tfc_tdf", "gpocm", 1_495_100),
        ("tfc_lasaft", "tfc_lasaft", "gpocm", 8_424_028),
        ("tfc_lightsaft", "tfc_lightsaft", "gpocm", 2_374_236),
        ("tfc_tdf", "tfc_lightsaft", "gpocm", 1_928_924),
    ],
)
def test_the_published_variants_have_as_many_parameters_as_the_originals(encoder: str, decoder: str, by: str, parameters: int):
    with torch.device("meta"):  # shapes without numbers
        net = lasaft(4, channels=2, encoder=encoder, decoder=decoder, by=by)
    assert sum(p.numel() for p in net.parameters()) == parameters


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_every_block_makes_a_network_that_answers(kind: str, form: str):
    net = network(kind, **FORMS[form])
    x = sound(net, 2, 7)
    with torch.no_grad():
        answer = net.answer(x, net.identity(2))
    assert answer.shape == (2, 2, 7, 3, 17) and torch.isfinite(answer.abs()).all()
    assert torch.allclose(net.answer(x[1:], net.identity())[0], answer[1], atol=1e-4 * float(answer.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_every_block_obeys_the_laws_of_a_stream(kind: str):
    net = network(kind, streaming=True)
    assert isinstance(net, StreamingLaSaft)
    x = sound(net, 1, 24, channels=1)[0].transpose(0, 1)
    signal = torch.view_as_real(x.contiguous()).numpy()  # (T, channels, bins, 2)

    def step(block, state):
        with torch.no_grad():
            found, state = net.step(torch.from_numpy(np.ascontiguousarray(block))[None], net.identity(), state)
        return found[0].numpy(), state

    stage = contract.Stage(net.initial_state, step, axis=0, tolerance=1e-4 * float(np.abs(signal).max()) + 1e-6, empty=False)
    contract.verify(stage, signal)


@pytest.mark.parametrize("stages", ["encoder", "decoder", "full"])
@pytest.mark.parametrize("encoder", ["tfc_tdf", "tfc_lightsaft"])
def test_several_targets_at_once_are_what_they_are_one_by_one(stages: str, encoder: str):
    net = network("tfc_lightsaft", encoder=encoder, stages=stages)
    assert net.asked.unet.shared == (stages == "decoder" and encoder == "tfc_tdf")
    x, wishes = sound(net, 2, 6), torch.rand(2, 5, 3)
    together = net.answer(x, wishes)
    for target in range(5):
        alone = net.answer(x, wishes[:, target : target + 1])[:, :, :, 0]
        assert torch.allclose(alone, together[:, :, :, target], atol=1e-5)


def test_the_encoder_runs_once_for_all_targets_where_no_condition_touches_it():
    net = network("tfc_lightsaft", encoder="tfc_tdf")
    rows: list[int] = []
    net.asked.unet.middle.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    net.answer(sound(net, 2, 6, channels=1), net.identity(2))
    assert rows == [2]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("streaming", [False, True])
def test_what_is_asked_for_blends_continuously(form: str, streaming: bool):
    """The finer the fader's steps, the smaller what they change: there is no jump anywhere on its way."""
    net = network("tfc_lightsaft", streaming=streaming, **FORMS[form])
    x = sound(net, 1, 9)

    def largest_step(count: int) -> float:
        share = torch.linspace(0, 1, count)
        wishes = torch.stack([1 - share, share, torch.zeros(count)], dim=1)[None]
        with torch.no_grad():
            return float(net.answer(x, wishes).diff(dim=3).abs().max())

    assert 0 < largest_step(129) < 0.5 * largest_step(17)


def test_more_channels_than_the_network_has_are_heard_some_at_a_time():
    net = network(channels=2)
    x = sound(net, 1, 6, channels=3)
    answer = net.answer(x, net.identity())
    last = torch.cat([x[:, 2:], x[:, 2:]], dim=1)
    assert torch.allclose(answer[:, :2], net.answer(x[:, :2], net.identity()), atol=1e-6)
    assert torch.allclose(answer[:, 2:], net.answer(last, net.identity())[:, :1], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bins": 18}, "bins is 18; expected a multiple of 4 and one"),
        ({"encoder": "tfcx"}, "encoder is 'tfcx'; expected one of tfc, tdc"),
        ({"by": "filmy"}, "by is 'filmy'; expected one of film_simple"),
        (
            {"spectrum": "magnitude", "estimate": "complex_masking"},
            "estimate is 'complex_masking'; expected one of mapping, masking",
        ),
        ({"halved": [3]}, r"halved is \[3\]; expected levels below 2"),
        ({"streaming": True, "halved": [0]}, "none of a network that streams"),
        ({"width": 0}, "must be above 0"),
    ],
)
def test_options_that_make_no_network_are_refused(options: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        network(**options)  # type: ignore[arg-type]


# Losses and wishes.


def test_losses_of_windows_are_their_formulas():
    rng = np.random.default_rng(8)
    heard, wanted = rng.standard_normal((2, 3, 5, 40))
    rows = {name: [] for name in ("distortion", "sdr_like", "dsr", "ldsr", "nsdr", "ncs", "nlcs")}
    for h, w in zip(heard.reshape(-1, 40), wanted.reshape(-1, 40), strict=True):
        t = (h @ w) / (w @ w) * w
        r = h - t
        cos = h @ w / np.linalg.norm(h) / np.linalg.norm(w)
        rows["distortion"].append(np.linalg.norm(r))
        rows["sdr_like"].append(r @ r - t @ t)
        rows["dsr"].append((r @ r) / (t @ t))
        rows["ldsr"].append(math.log((r @ r) / (t @ t)))
        rows["nsdr"].append(-(t @ t) / (r @ r))
        rows["ncs"].append(-cos)
        rows["nlcs"].append(-math.log(cos + 1))
    found = window_losses(torch.from_numpy(heard), torch.from_numpy(wanted))
    for name, values in rows.items():
        assert float(found[name]) == pytest.approx(np.mean(values), rel=1e-4), name


def test_losses_of_windows_stay_finite_in_silence():
    silence = torch.zeros(2, 8, requires_grad=True)
    for loss in window_losses(silence, torch.zeros(2, 8)).values():
        (gradient,) = torch.autograd.grad(loss, silence, retain_graph=True)
        assert torch.isfinite(loss) and torch.isfinite(gradient).all()


def test_a_silent_wish_is_measured_against_the_mixture():
    mix = torch.randn(1, 2, 5, 9, dtype=torch.complex128)
    silence = torch.zeros(1, 2, 5, 1, 9, dtype=torch.complex128)
    assert float(spectra_sdr_loss(mix[:, :, :, None] * 0.1, silence, mix)) == pytest.approx(10 * math.log10(0.01 + 1e-3))
    assert float(spectra_sdr_loss(mix[:, :, :, None], mix[:, :, :, None], mix)) == pytest.approx(-30)


def test_wishes_are_drawn_as_the_recipe_says():
    torch.manual_seed(1)
    plain = draw(AskedSpec(targets=3), 50, 4)
    assert plain.shape == (50, 3, 4) and torch.equal(plain.sum(dim=2), torch.ones(50, 3)) and plain.max() == 1
    assert (plain.flatten(0, 1).sum(dim=0) > 10).all()
    many = draw(AskedSpec(targets=1, blended=0.5, everything=0.25, nothing=0.125), 4000, 4)[:, 0]
    whole, none = (many == 1).all(dim=1), (many == 0).all(dim=1)
    one_hot = ((many == 0) | (many == 1)).all(dim=1) & ~whole & ~none
    assert [float(kind.float().mean()) for kind in (whole, none, one_hot)] == pytest.approx([0.25, 0.125, 0.125], abs=0.03)
    assert many.min() >= 0 and many.max() <= 1 and ((many > 0).sum(dim=1)[~whole] <= 2).all()


def test_what_was_wished_for_is_the_weighted_sum():
    leaves = torch.randn(2, 1, 3, 4, 5, dtype=torch.complex64)
    wishes = torch.rand(2, 2, 4)
    wanted = sum(wishes[:, :, k][:, None, None, :, None] * leaves[:, :, :, k][:, :, :, None] for k in range(4))
    assert torch.allclose(granted(leaves, wishes), wanted, atol=1e-6)


# Recipes, training, export.

BASE = (
    "classes=[male, bass, drums]",
    "geometry={analysis: 256, synthesis: 256, hop: 128}",
    "band_bins=33",
    "follow_hz=[3000, 6000]",
    "window={past: 8, hops: 16, future: 8}",
    "model.kind=lasaft",
    "loss.mask=0",
)
OPTIONS = "bins: 33, width: 4, layers: 2, levels: 2, latent: 2, key: 4, embedding: 4"


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("lasaft*.yaml")))
def test_every_variant_is_a_recipe_that_makes_a_network(name: str):
    """In its own form, but small."""
    recipe = load_recipe(name)
    few = {"width": 2, "layers": 1, "latent": 2, "key": 4, "embedding": 4}
    net = lasaft(len(recipe.classes), **{**recipe.model.options, **few})
    assert net.bins == recipe.band_bins and recipe.is_flat and recipe.name == name
    assert ("live" in name) == net.streams
    assert net.answer(sound(net, 1, 2), net.identity()).shape == (1, 2, 2, len(recipe.classes), net.bins)


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ("encoder: tfc, by: film", ["loss.spectra_mse=1"]),
        ("encoder: tfc_tdf, decoder: tfc_lightsaft, streaming: true", ["loss.spectra_mse=1", "lookahead_hops=2"]),
        ("encoder: tdc_rnn, by: film_simple, control: conv", ["loss.spectra_l1=1"]),
        (
            "channels: 2, estimate: complex_masking, last: tanh, vector: one_hot",
            ["loss.ldsr=1", "loss.waveform=1", "loss.window_s=0.1"],
        ),
        ("spectrum: magnitude, estimate: masking, last: sigmoid", ["loss.spectra_l1=1", "asked.blended=0.5"]),
    ],
)
def test_every_form_learns(options: str, settings: list[str], tmp_path: Path):
    """Some steps on one and the same batch, so that the loss must fall."""
    recipe = load_recipe("tiny", [*SHORT, *BASE, f"model.options={{{OPTIONS}, {options}}}", *settings])
    torch.manual_seed(3)
    module = Separation(recipe).train()
    stems = 0.1 * torch.randn(2, 3, 2, 6000, generator=torch.Generator().manual_seed(2))
    stems *= torch.tensor([1.0, 0.5, 0.25])[:, None, None]
    optimizer = torch.optim.Adam(module.parameters(), 5e-3)
    losses = []
    for _ in range(25):
        torch.manual_seed(1)
        found = module.losses(stems)
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        losses.append(float(found["loss"].detach()))
    assert min(losses[-5:]) < losses[0] and losses[-1] < max(losses[:5])
    heard = module.eval().hear(stems[0])
    assert heard.estimates.shape == heard.targets.shape == (3, 2, 6000) and torch.isfinite(heard.estimates).all()
    assert set(module.losses(stems)) >= {"loss", "sdr"}


def test_a_streaming_form_is_trained_exported_rendered_and_blended(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The journey: complex spectra in and out, with a look-ahead, asked for blends."""
    options = f"model.options={{{OPTIONS}, streaming: true, encoder: tfc_tdf, decoder: tfc_lightsaft}}"
    assert run(tmp_path / "run", *SHORT, *BASE, options, "loss.spectra_mse=1", "lookahead_hops=2", "asked.blended=0.3") == 0
    assert {"valid/spectra_mse", "valid/sdr"} <= log(tmp_path / "run")[0].keys()
    bundle = export(tmp_path / "run" / "last.ckpt", tmp_path / "blend", name="blend")
    assert (bundle.kind, bundle.signal, bundle.conditioned, bundle.is_live) == ("step", "spectra", True, True)
    assert bundle.parity["onnx_step"] < 1e-4 and bundle.parity["pipeline_snr_db"] > 80
    x = (0.1 * np.random.default_rng(1).standard_normal((2, 9600))).astype(np.float32)
    ways = []
    for share in np.linspace(0, 1, 9):
        conditions = (Weight("drums", "drums", float(1 - share)), Weight("drums", "bass", float(share)))
        selection = Selection(Selection.stems(bundle, "drums").buses, conditions=conditions)
        ways.append(Pipeline(bundle, selection, 2, provider="cpu").process(x)[0])
    steps = [np.abs(b - a).max() for a, b in pairwise(ways)]
    assert min(steps) > 0 and max(steps) < 0.6 * sum(steps)
    soundfile.write(tmp_path / "x.wav", x.T, 48000, subtype="FLOAT")
    command = [str(tmp_path / "x.wav"), "--model", str(tmp_path / "blend"), "--out", str(tmp_path / "out"), "--residual"]
    assert render_main([*command, "--set", "condition/drums/bass=0.5"]) == 0
    parts = [soundfile.read(path, dtype="float32")[0] for path in sorted((tmp_path / "out" / "x").glob("*.wav"))]
    assert len(parts) == 4
    np.testing.assert_allclose(sum(parts), x.T, atol=1e-5)
    capsys.readouterr()


def test_a_form_that_hears_both_ways_is_exported_in_windows(tmp_path: Path):
    options = f"model.options={{{OPTIONS}, spectrum: magnitude, estimate: masking, last: sigmoid, encoder: tdc_rnn}}"
    assert run(tmp_path / "run", *SHORT, *BASE, options, "loss.spectra_l1=1", "asked.targets=2") == 0
    bundle = export(tmp_path / "run" / "last.ckpt", tmp_path / "window", name="window")
    assert (bundle.kind, bundle.signal, bundle.conditioned, bundle.is_live) == ("window", "magnitude", True, False)
    assert load_bundle(bundle.folder).lookahead_hops == 8
    assert bundle.parity["onnx_step"] < 1e-4 and bundle.parity["pipeline_snr_db"] > 80


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["loss.mask=1", "loss.spectra_l1=1"], "recipe key 'loss.mask' is 1; expected 0, for 'lasaft' is asked for classes"),
        (["classes={a: [male, bass], b: [drums]}", "loss.spectra_l1=1"], "recipe key 'classes' is"),
        (["asked.blended=0.7", "asked.nothing=0.7", "loss.sdr=1"], "recipe key 'asked' is"),
        (["asked.targets=0", "loss.sdr=1"], "recipe key 'asked.targets' is 0; expected 1 or more"),
    ],
)
def test_recipes_that_ask_for_what_cannot_be_are_refused(
    settings: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(tmp_path / "run", *SHORT, *BASE, f"model.options={{{OPTIONS}}}", *settings) == 2
    assert message in one_line(capsys)


def test_only_networks_that_are_asked_are_compared_with_wishes():
    with pytest.raises(DataError, match=r"loss.spectra_l1' is 1; expected 0: 'band_split' is not asked for classes"):
        Separation(load_recipe("tiny", ["loss.spectra_l1=1"]))

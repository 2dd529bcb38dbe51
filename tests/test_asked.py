"""Models that are asked for their classes, and models that give spectra: the laws of the pipeline, and conditions as controls."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

import streaming_contract as contract
import toy_asked
import toy_bundle
from sepstream.cli import render_main
from sepstream.contract import MANIFEST, Bundle, read_bundle, write_bundle
from sepstream.control import presets, scene
from sepstream.control.scene import Scene
from sepstream.control.table import Change
from sepstream.describe import describe
from sepstream.errors import BundleError, ControlError, ExpressionError
from sepstream.kernels import rows_to_spectra, spectra_to_rows, spectra_to_signal
from sepstream.pipeline import Pipeline
from sepstream.program import Code
from sepstream.selection import Selection, Strip, Weight, compile, read_bus, read_selection
from toy_asked import SMALL

BLEND = (Weight("drums", "drums", 0.75), Weight("drums", "bass", 0.5), Weight("voice", "drums", 0.25))


@pytest.fixture(scope="module")
def spectra(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(toy_asked.make(tmp_path_factory.mktemp("spectra")))


@pytest.fixture(scope="module")
def stereo(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(toy_asked.make(tmp_path_factory.mktemp("stereo"), channels=2))


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(toy_asked.make(tmp_path_factory.mktemp("masks"), spectra=False))


def noise(channels: int, samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal((channels, samples))).astype(np.float32)


def choose(*expressions: str, residual: bool = False, conditions: tuple[Weight, ...] = ()) -> Selection:
    buses = tuple(read_bus(f"bus{i}={e}") for i, e in enumerate(expressions))
    return Selection(buses, Strip() if residual else None, conditions=conditions)


def as_stage(pipeline: Pipeline) -> contract.Stage:
    def step(block: np.ndarray, state: object) -> tuple[np.ndarray, object]:
        pipeline.state = state  # type: ignore[assignment]
        return pipeline.process(block), pipeline.state

    return contract.Stage(pipeline.initial_state, step)


def heard(bundle: Bundle, selection: Selection, x: np.ndarray, hops: int = 1) -> np.ndarray:
    """(buses, channels, samples), the latency taken off."""
    pipeline = Pipeline(bundle, selection, len(x), provider="cpu", hops=hops)
    late = pipeline.latency_samples
    return pipeline.process(np.pad(x, ((0, 0), (0, late))))[:, :, late:]


def refusal(error: type[Exception], run: object, *arguments: object) -> str:
    with pytest.raises(error) as refused:
        run(*arguments)  # type: ignore[operator]
    assert "\n" not in str(refused.value)
    return str(refused.value)


# The laws.


@pytest.mark.parametrize("hops", [1, 3])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_any_grouping_of_blocks_obeys_the_laws_of_a_stream(stereo: Bundle, hops: int, channels: int) -> None:
    selection = replace(Selection.stems(stereo, residual=True), conditions=BLEND)
    pipeline = Pipeline(stereo, selection, channels, provider="cpu", hops=hops)
    contract.verify(as_stage(pipeline), noise(channels, 800))


@pytest.mark.parametrize("kind", ["spectra", "stereo", "masks"])
@pytest.mark.parametrize("channels", [1, 3])
def test_whatever_was_asked_and_selected_the_residual_makes_up_the_mix(
    kind: str, channels: int, request: pytest.FixtureRequest
) -> None:
    bundle: Bundle = request.getfixturevalue(kind)
    x = noise(channels, 960, seed=3)
    x[:, 300:600] = 0.0  # silence has no share of anything above the band
    for conditions in ((), BLEND):
        parts = heard(bundle, choose("drums + 0.5*bass", "voice", residual=True, conditions=conditions), x)
        assert np.abs(parts[0]).max() > 0.01
        np.testing.assert_allclose(parts.sum(axis=0), x, atol=1e-5)
        other = heard(bundle, choose("drums", "mix - drums", "!drums", conditions=conditions), x)
        np.testing.assert_allclose(other[0] + other[1], x, atol=1e-5)
        np.testing.assert_array_equal(other[1], other[2])


def test_channels_in_lanes_of_their_own_do_not_mix(spectra: Bundle) -> None:
    x = noise(3, 640)
    selection = Selection.stems(spectra)
    alone = [heard(spectra, selection, x[c : c + 1])[:, 0] for c in range(3)]
    np.testing.assert_allclose(heard(spectra, selection, x), np.stack(alone, axis=1), atol=1e-7)


def test_one_channel_of_a_stereo_model_is_heard_on_both_sides(stereo: Bundle) -> None:
    x = noise(1, 640)
    selection = Selection.stems(stereo)
    np.testing.assert_allclose(
        heard(stereo, selection, x)[:, 0], heard(stereo, selection, np.repeat(x, 2, axis=0))[:, 1], atol=1e-7
    )


@pytest.mark.parametrize("kind", ["spectra", "masks"])
def test_what_is_heard_is_what_was_asked_for(kind: str, request: pytest.FixtureRequest) -> None:
    """Against a float64 STFT of whole frames: 0.5 drums + mix, the drums being asked for as a blend."""
    bundle: Bundle = request.getfixturevalue(kind)
    x = noise(1, 640)
    got = heard(bundle, choose("0.5*drums + mix", conditions=BLEND), x)[0, 0]
    bins, hop, size = bundle.band.bins, SMALL.hop_samples, SMALL.analysis_samples
    windows = SMALL.windows()
    padded = np.concatenate([np.zeros(size - hop), x[0].astype(np.float64), np.zeros(2 * hop)])
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    mix = np.fft.rfft(frames * windows.analysis)
    asked = (0.75 * toy_asked.weights(bins)[0] + 0.5 * toy_asked.weights(bins)[1]).astype(np.float64)
    if kind == "spectra":
        before = np.concatenate([np.zeros_like(mix[:1]), mix[:-1]])
        drums = asked * (0.6 * mix + 0.4 * before)[:, :bins]
        band = mix[:, bins - 6 : bins]
        share = (drums[:, -6:] * band.conj()).real.sum(axis=1) / np.square(np.abs(band)).sum(axis=1).clip(1e-30)
        above = np.clip(share, 0, 1)[:, None] * mix[:, bins:]
    else:
        drums = 0.5 * asked * mix[:, :bins]
        above = 0.5 * asked[-6:].mean() * mix[:, bins:]
    tails = np.fft.irfft(0.5 * np.concatenate([drums, above], axis=1) + mix)[:, -SMALL.synthesis_samples :] * windows.synthesis
    wanted = np.zeros(len(frames) * hop + size)
    for n, tail in enumerate(tails):
        wanted[n * hop : n * hop + len(tail)] += tail
    late = SMALL.synthesis_samples - hop
    np.testing.assert_allclose(got, wanted[late : late + 640], atol=2e-6)


# Conditions.


@pytest.mark.parametrize("kind", ["spectra", "masks"])
def test_a_fader_from_one_class_to_another_blends_them_continuously(kind: str, request: pytest.FixtureRequest) -> None:
    bundle: Bundle = request.getfixturevalue(kind)
    x, steps = noise(1, 640), 10
    ways = []
    for step in range(steps + 1):
        share = step / steps
        conditions = (Weight("drums", "drums", 1 - share), Weight("drums", "bass", share))
        ways.append(heard(bundle, choose("drums", conditions=conditions), x)[0, 0])
    ends = heard(bundle, choose("drums", "bass"), x)[:, 0]
    np.testing.assert_allclose([ways[0], ways[-1]], ends, atol=1e-6)
    apart = np.abs(ends[1] - ends[0]).max()
    assert apart > 0.01
    assert all(0 < np.abs(b - a).max() < 1.5 * apart / steps for a, b in pairwise(ways))


def test_a_condition_that_jumps_is_walked_to_as_a_fader_does(masks: Bundle) -> None:
    pipeline = Pipeline(masks, choose("drums"), 1, provider="cpu")
    x = noise(1, 64)
    pipeline.process(x)
    pipeline.select(choose("drums", conditions=(Weight("drums", "drums", 0.0), Weight("drums", "bass", 1.0))))
    seen = []
    for _ in range(80):
        pipeline.process(x[:, :16])
        seen.append(pipeline.state.condition[0].copy())
    rows = np.array(seen)
    assert np.abs(np.diff(rows, axis=0)).max() <= 16 / (0.020 * 48000) + 1e-6
    np.testing.assert_allclose(rows[-1], [0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-5)


def test_a_new_scene_goes_on_from_what_is_asked_now(masks: Bundle) -> None:
    pipeline = Pipeline(masks, choose("drums"), 1, provider="cpu")
    pipeline.process(noise(1, 64))
    before = pipeline.state.condition
    pipeline.change(compile(choose("bass", "drums", conditions=BLEND), masks))
    np.testing.assert_array_equal(pipeline.state.condition, before)


def test_conditions_travel_with_the_compiled_selection(masks: Bundle) -> None:
    code = compile(choose("drums", conditions=BLEND), masks).code
    again = Code.unpack(code.pack())
    np.testing.assert_array_equal(again.conditions, [[0.75, 0.5, 0], [0, 1, 0], [0.25, 0, 1]])
    assert "conditions beyond" in refusal(ControlError, Code.unpack, replace_last(code, np.nan))


def replace_last(code: Code, value: float) -> bytes:
    matrix = code.conditions.copy()
    code.conditions[-1, -1] = value
    data = code.pack()
    code.conditions[:] = matrix
    return data


def test_what_cannot_be_asked_is_refused_in_one_line(spectra: Bundle, masks: Bundle, tmp_path: Path) -> None:
    plain = read_bundle(toy_bundle.make(tmp_path, geometry=SMALL))
    cases = [
        (plain, choose("mix", conditions=BLEND), "condition drums/drums: model 'toy' is not asked for classes"),
        (
            masks,
            choose("mix", conditions=(Weight("drums", "bas", 1.0),)),
            "condition drums/bas: unknown class 'bas'; did you mean 'bass'",
        ),
        (
            spectra,
            choose("drums & bass"),
            "bus 'bus0': '&' needs masks, model 'asked' gives spectra; expected sums and gains of drums",
        ),
        (spectra, choose("drums - bass"), "bus 'bus0': '-' needs masks"),
        (spectra, choose("drums & disc(0,0,1)"), "bus 'bus0': "),
        (spectra, Selection((replace(read_bus("a=drums"), smooth_ms=10.0),)), "bus 'a': smooth_ms 10 smooths masks"),
    ]
    for bundle, selection, message in cases:
        assert refusal(ExpressionError, compile, selection, bundle).startswith(message)
    for bad in (1.5, -0.1, True, "1"):
        assert "expected a number from 0 to 1" in refusal(
            ExpressionError, lambda v=bad: choose("mix", conditions=(Weight("a", "b", v),))
        )
    assert "expected a table" in refusal(
        ExpressionError, read_selection, {"buses": {"a": {"select": "mix"}}, "conditions": {"a": 1}}
    )


# Controls.


def test_a_condition_is_set_asked_for_saved_and_morphed_as_a_control(
    masks: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SEPSTREAM_PRESETS", str(tmp_path))
    before = Scene(choose("drums"))
    assert (scene.get(before, "condition/drums/drums"), scene.get(before, "condition/drums/bass")) == (1.0, 0.0)
    after = before
    for name, value in (("condition/voice/bass", 0.5), ("condition/drums/bass", 0.25), ("condition/drums/drums", 0.5)):
        after = scene.put(after, Change(name, value))
        assert scene.get(after, name) == value and name in scene.names(after)
    assert "expected a number from 0 to 1" in refusal(ControlError, scene.put, after, Change("condition/drums/bass", 2.0))
    assert scene.get(scene.put(after, Change("condition/drums/bass", 2.0), clamp=True), "condition/drums/bass") == 1.0
    path = presets.save("blend", after)
    assert presets.load(path).scene == after
    halfway = scene.morph(before, after, 0.5)
    assert [scene.get(halfway, f"condition/{name}") for name in ("drums/drums", "drums/bass", "voice/bass")] == [
        0.75,
        0.125,
        0.25,
    ]
    matrix = compile(halfway.selection, masks).condition
    np.testing.assert_allclose(matrix, [[0.75, 0.125, 0], [0, 1, 0], [0, 0.25, 1]])


def test_files_are_rendered_with_the_conditions_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = str(toy_asked.make(tmp_path))
    soundfile.write("x.wav", noise(2, 4800).T, 48000, subtype="FLOAT")
    wanted = heard(read_bundle(model), choose("drums", conditions=BLEND), soundfile.read("x.wav", dtype="float32")[0].T)
    flags = [flag for target, name, value in BLEND for flag in ("--set", f"condition/{target}/{name}={value}")]
    assert render_main(["x.wav", "--model", model, "--out", "out", "--bus", "beat=drums", "--residual", *flags]) == 0
    beat, rest = (soundfile.read(f"out/x/{name}.wav", dtype="float32")[0].T for name in ("beat", "residual"))
    np.testing.assert_allclose(beat, wanted[0], atol=1e-6)
    np.testing.assert_allclose(beat + rest, noise(2, 4800), atol=1e-5)
    capsys.readouterr()
    for setting, message in (
        ("condition/drums/bas=1", "condition drums/bas: unknown class 'bas'; did you mean 'bass'"),
        ("master/gain_db=-3", "master/gain_db is for live sound; expected a control of a file's buses"),
        ("bus/beet/mute=1", "unknown bus 'beet'; did you mean 'beat'"),
    ):
        assert render_main(["x.wav", "--model", model, "--out", "out2", "--bus", "beat=drums", "--set", setting]) == 2
        assert message in capsys.readouterr().err
        assert not Path("out2").exists()


# The bundle.


def test_a_bundle_says_what_it_hears_and_whether_it_is_asked(stereo: Bundle, masks: Bundle) -> None:
    assert (stereo.gives_spectra, stereo.graph_channels, stereo.conditioned) == (True, 2, True)
    assert (masks.gives_spectra, masks.graph_channels, masks.conditioned) == (False, 0, True)
    assert "--set condition/drums/bass=0.5" in describe(masks) and "spectra of the classes" in describe(stereo)


def test_a_manifest_that_says_nothing_of_signal_and_condition_means_masks_of_magnitudes(tmp_path: Path) -> None:
    folder = toy_bundle.make(tmp_path, geometry=SMALL)
    tree = json.loads((folder / MANIFEST).read_text())
    assert (tree.pop("signal"), tree.pop("conditioned")) == ("magnitude", False)
    (folder / MANIFEST).write_text(json.dumps(tree))
    bundle = read_bundle(folder)
    assert (bundle.gives_spectra, bundle.conditioned) == (False, False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"signal": "spectrum"}, "signal is 'spectrum'; did you mean 'spectra'"),
        ({"signal": "magnitude"}, "inputs[0].shape of 'signal' is [1, 1, 20, 2]; expected [1, 20] (hops, band bins)"),
        ({"conditioned": False}, "states is"),
        ({"masks": "shares"}, "signal is 'spectra'; expected no disk and masks 'independent'"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    manifest, graphs = toy_asked.values()
    assert message in refusal(BundleError, write_bundle, replace(manifest, **changes), graphs, "", tmp_path / "bad")  # type: ignore[arg-type]


# The kernels.


def test_the_kernels_of_spectra_are_their_plain_twins() -> None:
    rng = np.random.default_rng(5)
    mix = (rng.standard_normal((2, 2, 9)) + 1j * rng.standard_normal((2, 2, 9))).astype(np.complex64)
    found = rng.standard_normal((2, 3, 2, 6, 2)).astype(np.float32)
    for compile_it in (True, False):
        signal = np.zeros((2, 3, 6, 2), np.float32)
        unity, rows, out = (
            np.zeros((2, 2, 13), np.float32),
            np.zeros((2, 2, 3, 13), np.float32),
            np.zeros((2, 3, 2, 9), np.complex64),
        )
        for kernel, arguments in (
            (spectra_to_signal, (mix, 0.5, signal)),
            (spectra_to_rows, (mix, found, 0.5, 2, 5, unity, rows)),
            (rows_to_spectra, (rows, mix, out)),
        ):
            (kernel if compile_it else kernel.py_func)(*arguments)
        np.testing.assert_allclose(signal[:, 2], signal[:, 1])
        np.testing.assert_allclose(signal[..., 0] + 1j * signal[..., 1], 0.5 * mix[:, [0, 1, 1], :6], rtol=1e-6)
        np.testing.assert_allclose(out[..., :6], 2 * (found[..., 0] + 1j * found[..., 1]), rtol=1e-5)
        classes = out[..., :6].astype(np.complex128)
        common = (classes[..., 2:5] * mix[:, None, :, 2:5].conj()).real.sum(axis=3)
        share = np.clip(common / np.square(np.abs(mix[:, None, :, 2:5])).sum(axis=3), 0, 1)
        np.testing.assert_allclose(out[..., 6:], share[..., None] * mix[:, None, :, 6:], rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(unity[:, :, -1], 1)

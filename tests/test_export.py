"""A trained checkpoint becomes a bundle that computes the same, or nothing at all; and the two commands around it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from sepstream import disk
from sepstream.contract import CARD, MANIFEST, Bundle, read_bundle
from sepstream.errors import BundleError, DataError
from sepstream.pipeline import Pipeline
from sepstream.selection import Selection
from sepstream_export import evaluate, package, parity, speed
from sepstream_export.cli import eval_main, export_main
from sepstream_export.graph import StepGraph, export_graph
from sepstream_export.package import MANY_HOPS, export
from sepstream_training.data.synthetic import generate
from sepstream_training.losses import class_masks
from sepstream_training.recipe import Recipe, load_recipe
from sepstream_training.train import load_network, train

Capture = pytest.CaptureFixture[str]
F32 = NDArray[np.float32]

SHORT = ["data.synthetic_seconds=2", "data.valid_mixtures=2", "mix.seconds=0.5", "train.batch=2"]
STEPS = ["train.steps=3", "train.validate_every=3", "train.rate=3e-2"]
BANDS = "bands: [[10, 3], [6, 8], [5, 18], [3, 58]], width: 6, units: 5, blocks: 2"
VARIANTS = {  # both networks with both dilations, every kind of curvature, and more than a disk
    "band_split 1 flat": ("band_split", f"{BANDS}, dilation: 1, whole: 10, curvature: 0.0"),
    "band_split 3 trained": ("band_split", f"{BANDS}, dilation: 3, curvature: 0.5, trainable_curvature: true"),
    "band_split 3 detailed": ("band_split", f"{BANDS}, dilation: 3, detail: 3"),
    "hyper_unmix 3 curved": ("hyper_unmix", "units: 6, layers: 2, dilation: 3, curvature: 1.0"),
    "hyper_unmix 1 trained": ("hyper_unmix", "units: 6, layers: 2, dilation: 1, trainable_curvature: true"),
}
LEAVES = ("male", "female", "bass", "drums", "guitar")
EPS = float(np.finfo(np.float32).eps)
REGROUPED = 1e-5  # float32 sums in another order, through a small network over some hundred frames

torch.set_num_threads(1)


class Exported(NamedTuple):
    checkpoint: Path
    bundle: Bundle
    recipe: Recipe
    network: Any


def trained(folder: Path, kind: str, options: str) -> Path:
    recipe = load_recipe("tiny", [*SHORT, *STEPS, f"model.kind={kind}", f"model.options={{{options}}}"])
    return train(recipe, folder, progress=False).checkpoint


@pytest.fixture(scope="module", params=VARIANTS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("exported")
    checkpoint = trained(folder / "run", *VARIANTS[request.param])
    return Exported(checkpoint, export(checkpoint, folder / "bundle", name="tiny"), *load_network(checkpoint))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("run") / "out", *VARIANTS["band_split 3 trained"])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    """The graphs of ``checkpoint`` are made once, and proven on less, for all tests of what is around them."""
    monkeypatch.setattr(package, "export_graph", lambda network, levels, hops: graphs_of(checkpoint, hops))
    monkeypatch.setattr(parity, "FRAMES", 2 * MANY_HOPS)
    monkeypatch.setattr(speed, "SECONDS", 0.1)
    monkeypatch.setattr(evaluate, "PLAIN", replace(evaluate.PLAIN, seconds=2.0))


@cache
def graphs_of(checkpoint: Path, hops: int) -> Any:
    recipe, network = load_network(checkpoint)
    return export_graph(network, recipe.levels, hops)


def magnitudes(frames: int, seed: int = 0) -> F32:
    """(frames, 342), from far below the network's hearing to full scale."""
    return (10 ** np.random.default_rng(seed).uniform(-7, 0, (frames, 342))).astype(np.float32)


def run_graph(bundle: Bundle, hops: int, magnitude: F32) -> tuple[F32, F32, F32]:
    """The ONNX file itself, state handed on from call to call -> masks, embedding, last state."""
    spec = next(graph for graph in bundle.graphs if graph.hops == hops)
    session = ort.InferenceSession(bundle.folder / spec.file, providers=["CPUExecutionProvider"])
    state, masks, embeddings = np.zeros(spec.inputs[1].shape, np.float32), [], []
    for start in range(0, len(magnitude), hops):
        found, embedding, state = session.run(None, {"magnitude": magnitude[start : start + hops], "state": state})
        masks.append(found)
        embeddings.append(embedding)
    return np.concatenate(masks), np.concatenate(embeddings), state


# ---- the same sound, whoever computes it ------------------------------------------------------------------------------


def test_a_checkpoint_becomes_a_bundle_that_says_what_it_is(exported: Exported) -> None:
    bundle, recipe, network = exported.bundle, exported.recipe, exported.network
    assert read_bundle(bundle.folder) == bundle
    assert bundle.class_names == ("speech", "music", *LEAVES)
    assert bundle.latency_samples == 512
    assert [spec.hops for spec in bundle.graphs] == [1, MANY_HOPS]
    assert bundle.graphs[0].inputs[1].shape == tuple(network.initial_state().shape)
    with torch.no_grad():
        assert bundle.disk.curvature == pytest.approx(network.head.curvature(), rel=1e-6)
    assert bundle.training["steps"] == 3
    assert bundle.training["parameters"] == sum(p.numel() for p in network.parameters())
    assert bundle.licence["data"] == "generated by sepstream's own synthesis"
    low, high = (hop * 48000 / 2048 for hop in (bundle.band.follow_low, bundle.band.follow_high))
    assert (low, high) == pytest.approx(recipe.follow_hz, abs=48000 / 2048)


def test_parity_is_proven_with_numbers(exported: Exported) -> None:
    figures = exported.bundle.parity
    assert set(figures) == {"torch_step", "onnx_step", "onnx_many", "embedding", "disk_head", "pipeline_snr_db"}
    assert figures["pipeline_snr_db"] > parity.AUDIO_LIMIT_DB
    assert all(0 <= value < parity.MASK_LIMIT for name, value in figures.items() if name != "pipeline_snr_db")


def test_the_manifests_disk_head_makes_the_graphs_masks_of_its_embedding(exported: Exported) -> None:
    """Both sides lift u and take <X, w> in float32: no term is off by more than 16 ulps of its size (exp(2|u|) turns the
    rounding of an exponent up to 8 into 8 ulps), asinh passes on what it gets at most, the scale multiplies, and a softmax
    moves by at most half of what its logits move by. With detail, the masks of what the disk decides.
    """
    bundle = exported.bundle
    masks, embedding, _ = run_graph(bundle, 1, magnitudes(24))
    with torch.no_grad():
        decided = exported.network.decided(torch.from_numpy(embedding))
    masks = masks if decided is None else class_masks(decided[None], exported.recipe.levels)[0].numpy()
    lifted = disk.lift(embedding, bundle.disk.curvature)
    logits = disk.logits(lifted, bundle.disk).astype(np.float64)
    powers = [np.exp(logits[:, level] - logits[:, level].max(axis=1, keepdims=True)) for level in bundle.levels]
    wanted = np.concatenate([power / power.sum(axis=1, keepdims=True) for power in powers], axis=1)
    sizes = np.matmul(np.abs(bundle.disk.vectors), np.abs(lifted)) * np.array(bundle.disk.scale)[:, None]
    bound = 0.5 * 2 * 16 * EPS * sizes.max(axis=1, keepdims=True) + 4 * EPS
    assert (np.abs(masks - wanted) <= bound).all()
    assert np.ptp(masks, axis=0).max() > 100 * bound.mean(), "the masks hardly move: this would show nothing"


def test_the_graph_of_many_hops_is_the_graph_of_one(exported: Exported) -> None:
    heard = magnitudes(3 * MANY_HOPS)
    for one, many in zip(run_graph(exported.bundle, 1, heard), run_graph(exported.bundle, MANY_HOPS, heard), strict=True):
        np.testing.assert_allclose(one, many, rtol=REGROUPED, atol=REGROUPED)


@pytest.mark.parametrize("hops", [1, MANY_HOPS])
def test_law_7_the_pipeline_sounds_like_torch_on_the_whole_signal(exported: Exported, hops: int) -> None:
    """Against an STFT and overlap-add in float64, written here; the sound comes in blocks that fit nothing."""
    bundle = exported.bundle
    signal = sound(40000)
    wanted = torch_whole(exported, signal.astype(np.float64))
    pipeline = Pipeline(bundle, Selection.stems(bundle, "all"), 2, provider="cpu", hops=hops)
    late, sizes = pipeline.latency_samples, [17, 509, 256, 0, 1, 4096, 255]
    cuts = np.cumsum(sizes * 20)
    padded = np.pad(signal, ((0, 0), (0, late)))
    heard = np.concatenate([pipeline.process(block) for block in np.split(padded, cuts, axis=1)], axis=2)[:, :, late:]
    assert heard.shape == wanted.shape
    for name, one, other in zip(bundle.class_names, heard, wanted, strict=True):
        snr_db = 10 * np.log10(np.square(other).sum() / np.square(one - other).sum())
        assert snr_db > parity.AUDIO_LIMIT_DB, name


def sound(samples: int) -> F32:
    """(2, samples) of two glides, a hiss on one side, and a rest."""
    rng, seconds = np.random.default_rng(4), np.arange(samples) / 48000
    left = np.sin(2 * np.pi * (200 + 900 * seconds) * seconds) + 0.1 * rng.standard_normal(samples)
    right = np.sign(np.sin(2 * np.pi * (90 + 300 * seconds) * seconds))
    return (np.stack([left, right]) * 0.2 * (np.abs(seconds - 0.5) > 0.05)).astype(np.float32)


def torch_whole(exported: Exported, signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, samples) -> (classes, 2, samples): the recipe's definition of the model, one line after the other."""
    recipe, stft = exported.recipe, exported.recipe.stft
    size, tail, hop = stft.analysis_samples, stft.synthesis_samples, stft.hop_samples
    windows = stft.windows()
    padded = np.pad(signal, ((0, 0), (size - hop, 2 * size)))
    frames = (padded.shape[1] - size) // hop + 1
    spectra = np.stack([np.fft.rfft(padded[:, n * hop : n * hop + size] * windows.analysis) for n in range(frames)])
    loudness = np.sqrt(np.square(np.abs(spectra)).mean(axis=1))[:, : recipe.band_bins] / windows.analysis.sum()
    with torch.no_grad():
        logits, _ = exported.network(torch.from_numpy(loudness.astype(np.float32))[None])
    masks = class_masks(logits, recipe.levels)[0].double().numpy()
    low, high = (round(hz * size / recipe.sample_rate_hz) for hz in recipe.follow_hz)
    above = masks[:, :, low : min(high, recipe.band_bins)].mean(axis=2)
    full = np.concatenate([masks, np.repeat(above[:, :, None], stft.bins - recipe.band_bins, axis=2)], axis=2)
    out = np.zeros((masks.shape[1], 2, padded.shape[1]))
    for n in range(frames):
        pieces = np.fft.irfft(full[n][:, None] * spectra[n][None], size)
        out[:, :, n * hop + size - tail : n * hop + size] += pieces[:, :, -tail:] * windows.synthesis
    return out[:, :, size - hop :][:, :, : signal.shape[1]]


# ---- or nothing at all ------------------------------------------------------------------------------------------------


def weights_after_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is not what was trained."""

    quick = package._prove

    def other(network: Any, levels: list[slice], bundle: Bundle) -> Any:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        return quick(network, levels, bundle)

    monkeypatch.setattr(package, "_prove", other)


def one_graph_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph for files has a bias of its own."""

    def biased(network: Any, levels: list[slice], hops: int) -> Any:
        network.norm.bias.data += 0.2
        done = export_graph(network, levels, hops)
        network.norm.bias.data -= 0.2
        return done

    many_by(monkeypatch, biased)


def embedding_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The masks are right, but in files every region of the disk would be mirrored."""
    original = StepGraph.forward

    def mirrored(self: StepGraph, magnitude: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, ...]:
        masks, embedding, after = original(self, magnitude, state)
        return masks, -embedding, after

    monkeypatch.setattr(StepGraph, "forward", mirrored)
    many_by(monkeypatch, export_graph)


def many_by(monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
    """The graph of one hop as it is, that of many hops by ``make``."""
    quick = package.export_graph
    monkeypatch.setattr(package, "export_graph", lambda *given: make(*given) if given[-1] == MANY_HOPS else quick(*given))


def disk_head_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graphs are right, but the manifest's classes lie elsewhere."""
    original = package._disk
    monkeypatch.setattr(package, "_disk", lambda head: replace(original(head), vectors=original(head).vectors[::-1]))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("sabotage", [weights_after_export, one_graph_of_two, embedding_alone, disk_head_alone])
def test_a_bundle_that_computes_something_else_is_never_written(
    sabotage: Any, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    sabotage(monkeypatch)
    with pytest.raises(BundleError, match=r"^bundle 'x': parity failed, \{.*\}; expected .*") as error:
        export(checkpoint, tmp_path / "out/x", name="x")
    assert "\n" not in str(error.value)
    assert list(tmp_path.rglob("*")) == [tmp_path / "scratch"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("field", ["torch_step", "embedding", "disk_head", "pipeline_snr_db"])
def test_parity_never_holds_for_what_is_no_number(field: str, value: float) -> None:
    good = parity.Parity(1e-6, 1e-6, 1e-6, 1e-6, 1e-6, 120.0)
    assert good.holds
    assert not replace(good, **{field: -value if field.endswith("_db") else value}).holds


@pytest.mark.usefixtures("quick")
def test_an_existing_folder_stays_as_it_is_unless_it_is_a_bundle_to_be_replaced(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(BundleError, match="exists; expected a new folder"):
            export(checkpoint, tmp_path / "photos", name="x", overwrite=overwrite)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["a.jpg"]
    first = export(checkpoint, tmp_path / "x", name="first")
    with pytest.raises(BundleError, match=r"exists; expected .*--overwrite"):
        export(tmp_path / "no.ckpt", tmp_path / "x", name="second")  # said before anything is read
    assert read_bundle(tmp_path / "x") == first
    export(checkpoint, tmp_path / "x", name="second", overwrite=True)
    assert read_bundle(tmp_path / "x").name == "second"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "x"]


@pytest.mark.parametrize("content", [None, b"", b"hello\n", b"PK\x03\x04" + bytes(100), "folder", "other"])
def test_what_is_no_checkpoint_is_refused_in_one_line(content: Any, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "x.ckpt"
    if content == "folder":
        path.mkdir()
    elif content == "other":
        torch.save({"state_dict": {}, "hyper_parameters": {}, "global_step": 1}, path)
    elif content is not None:
        path.write_bytes(content)
    assert export_main([str(path), "--out", str(tmp_path / "out")]) == 2
    assert f"checkpoint '{path}' cannot be read" in one_line(capsys, "sep-export")
    assert not (tmp_path / "out").exists()


# ---- the card ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_the_card_holds_scores_speed_licences_parity_and_limits(checkpoint: Path, tmp_path: Path) -> None:
    row = {"si_sdr_db": 7.25, "improvement_db": 6.5, "mixture_db": 0.75, "oracle_db": 12.0, "absent_level_db": None, "present": 3}
    spoilt = {**row, "si_sdr_db": 0.5, "improvement_db": -0.25}
    scores = {"about": "three mixtures", "speech": row, "bass": spoilt, "drums": spoilt}
    bundle = export(checkpoint, tmp_path / "x", name="x", evaluate=lambda trial: scores)
    assert bundle.scores == scores
    text = (tmp_path / "x" / CARD).read_text(encoding="utf8")
    assert "three mixtures\n\n**Worse than the mixture itself: bass, drums.**\n\n| class | SI-SDR |" in text
    assert "| speech | 7.2 | 6.5 | 0.8 | 12.0 | - | 3 |" in text
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == ["# x", "## Scores", "## Speed", "## Training", "## Data and licences", "## Parity", "## Limits"]
    for words in (
        "Separates speech (male, female), music (bass, drums, guitar)", "10.7 ms algorithmic latency", "on one core",
        "- weights: Apache-2.0", "- data: generated by sepstream", "- disk head: ", "hears 0 to 8.0 kHz", "-34 and -12 dBFS",
    ):  # fmt: skip
        assert words in text, words


@pytest.mark.parametrize(
    ("overrides", "given", "words", "pool"),
    [
        (["data.root=/pool"], "", "LibriSpeech (V. Panayotov et al., CC-BY-4.0); ", True),
        (["data.root=/pool", "data.synthetic_share=0.2"], "", "cut, resampled, mixed; some generated by sepstream", True),
        (["data.root=synthetic"], "", "generated by sepstream's own synthesis", False),
        (["data.root=/pool", "data.licence=''"], "", "not stated: the recipe's data.licence is empty", False),
        (["data.root=/pool", "data.licence=''"], "a\nb", "a b", False),
        (["data.root=/pool"], "somebody's", "somebody's", False),
    ],
)
def test_the_licence_is_that_of_the_data_it_heard(overrides: list[str], given: str, words: str, pool: bool) -> None:
    said = package.card.licence(load_recipe("live", overrides).data, given)["data"]
    assert words in said
    assert ("LibriSpeech" in said) == pool
    assert said.isprintable()  # or no manifest would take it


# ---- the commands -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sounds of each class in valid/CLASS."""
    root = tmp_path_factory.mktemp("dataset")
    for name in LEAVES:
        (root / "valid" / name).mkdir(parents=True)
        for number in range(2):
            sound = generate(name, 4.0, 16000, np.random.default_rng(number), engine="numpy")
            soundfile.write(root / "valid" / name / f"{number}.wav", sound, 16000)
    return root


def one_line(capsys: Capture, command: str) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith(f"{command}: ")
    return err


def strict(text: str) -> Any:
    """JSON without NaN and Infinity, which are not JSON."""

    def constant(name: str) -> None:
        raise AssertionError(f"{name} in JSON")

    return json.loads(text, parse_constant=constant)


@pytest.mark.usefixtures("quick")
def test_exported_scored_and_scored_again_gives_the_same_figures(
    checkpoint: Path, dataset: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "small"
    scored = [str(dataset), "--mixtures", "2"]
    assert export_main([str(checkpoint), "--out", str(out), "--evaluate", *scored, "--licence", "ours"]) == 0
    printed, err = capsys.readouterr()
    assert printed.startswith(f"{out}: parity {{") and printed.count("\n") == 1 and not err
    assert strict(printed.partition("parity ")[2]) == read_bundle(out).parity
    manifest = strict((out / MANIFEST).read_text(encoding="utf8"))
    assert (manifest["name"], manifest["licence"]["data"]) == ("small", "ours")

    results = []
    for model in (out, checkpoint):
        assert eval_main([str(model), *scored, "--json"]) == 0
        results.append(strict(capsys.readouterr().out))
    assert results[0] == results[1] == read_bundle(out).scores
    assert results[0].keys() - {"about"} == {"speech", "music", *LEAVES, "parents", "leaves", "all"}

    assert eval_main([str(out), *scored]) == 0
    about, _, table = capsys.readouterr().out.partition("\n\n")
    assert about == results[0]["about"]
    assert table.strip() in (out / CARD).read_text(encoding="utf8")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "{tmp}/a b"], "name is 'a b'; expected 1 to 64 of letters, digits"),
        (["--out", "{tmp}/x", "--name", "../y"], "name is '../y'"),
        (["--out", "{tmp}/file/x"], "file' cannot be used (File exists); choose another place"),
        (["--out", "{tmp}/file"], "exists; expected a new folder"),
        (
            ["--out", "{tmp}/x", "--evaluate", "/nowhere"],
            "data set '/nowhere' is no folder; expected sounds in /nowhere/valid/CLASS",
        ),
        (["--out", "{tmp}/x", "--evaluate", "{tmp}"], "class 'male' has no files in"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    arguments: list[str], words: str, checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "file").write_text("")
    assert export_main([str(checkpoint), *(text.format(tmp=tmp_path) for text in arguments)]) == 2
    assert words in one_line(capsys, "sep-export")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["/nowhere", "{data}"], "model '/nowhere' is neither a folder"),
        (["{data}", "{data}"], "cannot be read"),
        (["{data}/valid/bass/0.wav", "{data}"], "expected one written by sep-train"),
        (["{data}", "/nowhere"], "data set '/nowhere' is no folder"),
    ],
)
def test_what_cannot_be_scored_is_named_in_one_line(arguments: list[str], words: str, dataset: Path, capsys: Capture) -> None:
    assert eval_main([text.format(data=dataset) for text in arguments]) == 2
    assert words in one_line(capsys, "sep-eval")


@pytest.mark.parametrize("count", ["0", "-1", "many", "1.5"])
def test_a_count_of_mixtures_is_one_or_more(count: str, dataset: Path, capsys: Capture) -> None:
    with pytest.raises(SystemExit, match="2"):
        eval_main(["x", str(dataset), f"--mixtures={count}"])
    assert f"'{count}' is no count; expected 1 or more" in capsys.readouterr().err


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted; nothing was written"),
        (ModuleNotFoundError("No module named 'onnxscript'", name="onnxscript"), 2, "pip install 'sepstream[train]'"),
        (OSError(28, "No space left on device"), 2, "No space left on device"),
        (ZeroDivisionError("a\nb"), 2, "internal error: ZeroDivisionError: a b; please report it"),
        (DataError("two\nlines"), 2, "two lines"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_whatever_happens_in_the_middle_leaves_nothing(
    error: BaseException,
    status: int,
    words: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    def fail(*_: Any) -> Iterator[None]:
        raise error

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(package, "measure", fail)
    assert export_main([str(checkpoint), "--out", str(tmp_path / "x")]) == status
    assert words in one_line(capsys, "sep-export")
    assert not list(tmp_path.iterdir())

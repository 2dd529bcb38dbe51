"""The bundle: what is written is read back, and whatever is damaged, mislabelled or hostile is refused in one line."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import toy_bundle
from sepstream import contract
from sepstream.cli_bundle import bundle_main
from sepstream.contract import MANIFEST, Bundle, DiskSpec, StftSpec, load_bundle, read_bundle, resolve, write_bundle
from sepstream.describe import as_json, describe
from sepstream.errors import BundleError
from sepstream.onnxfile import MAX_DEPTH, MAX_FIELDS, Model, read_model

SMALL = StftSpec(64, 32, 16)
Tree = dict[str, Any]
F32 = NDArray[np.float32]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_bundle.make(tmp_path_factory.mktemp("pristine"), geometry=SMALL, hops=(1, 3), lookahead_hops=2)


@pytest.fixture
def toy(pristine: Path, tmp_path: Path) -> Path:
    """A copy of the toy bundle that a test may spoil."""
    return Path(shutil.copytree(pristine, tmp_path / "toy"))


def edit(folder: Path, change: Callable[[Tree], object]) -> None:
    tree = json.loads((folder / "bundle.json").read_text())
    change(tree)
    (folder / "bundle.json").write_text(json.dumps(tree))


def repack(folder: Path, data: bytes) -> None:
    """Put ``data`` in the place of the first graph, with a hash that is right."""
    (folder / "step1.onnx").write_bytes(data)
    edit(folder, lambda tree: tree["graphs"][0].update(sha256=hashlib.sha256(data).hexdigest()))


def refusal(call: Callable[..., object], *args: Any, **kwargs: Any) -> str:
    """The message of the BundleError that ``call`` must raise: one line that says what was expected, or what is known."""
    with pytest.raises(BundleError) as refused:
        call(*args, **kwargs)
    assert len(str(refused.value).splitlines()) == 1
    return str(refused.value)


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def set_in(*path: str | int) -> Callable[[Any], Callable[[Tree], None]]:
    """set_in("stft", "hop_samples")(7) is a change of a manifest."""

    def with_value(value: Any) -> Callable[[Tree], None]:
        def change(tree: Any) -> None:
            for step in path[:-1]:
                tree = tree[step]
            tree[path[-1]] = value

        return change

    return with_value


# ---- the toy itself, as other tests lean on it -----------------------------------------------------------------------


def run(bundle: Bundle, graph: int, magnitude: F32) -> tuple[F32, F32]:
    """(hops, bins) magnitudes -> masks and embedding of the whole, the state carried from call to call."""
    spec = bundle.graphs[graph]
    session = ort.InferenceSession(str(bundle.folder / spec.file), providers=["CPUExecutionProvider"])
    states = [np.zeros(tensor.shape, np.float32) for tensor in spec.inputs[1:]]
    masks, embedding = [], []
    for block in np.split(magnitude, len(magnitude) // spec.hops):
        feed = dict(zip((tensor.name for tensor in spec.inputs), [block, *states], strict=True))
        mask, u, *states = session.run(None, feed)
        masks.append(mask)
        embedding.append(u)
    return np.concatenate(masks), np.concatenate(embedding)


@pytest.mark.parametrize(("geometry", "lookahead"), [("ultra", 0), ("live", 1), (SMALL, 5)])
def test_the_toy_network_gives_the_same_in_calls_of_one_hop_and_of_three(geometry: Any, lookahead: int, tmp_path: Path) -> None:
    bundle = read_bundle(toy_bundle.make(tmp_path, geometry=geometry, hops=(1, 3), lookahead_hops=lookahead))
    magnitude = np.random.default_rng(1).random((12, bundle.band.bins), np.float32) ** 4
    singly, by_three = run(bundle, 0, magnitude), run(bundle, 1, magnitude)
    assert all(np.array_equal(a, b) for a, b in zip(singly, by_three, strict=True))
    for level in bundle.levels:
        np.testing.assert_allclose(singly[0][:, level].sum(axis=1), 1.0, atol=1e-6)


def test_the_toy_network_remembers_and_tells_classes_apart(pristine: Path) -> None:
    bundle = read_bundle(pristine)
    magnitude = np.random.default_rng(2).random((12, bundle.band.bins), np.float32) ** 4
    changed = np.concatenate([magnitude[:3] + 1, magnitude[3:]])
    masks, embedding = run(bundle, 0, magnitude)
    assert not np.array_equal(masks[-1], run(bundle, 0, changed)[0][-1])
    assert set(masks[:, 2:].argmax(axis=1).ravel()) == set(range(len(bundle.leaves)))
    odds = np.exp(np.array(bundle.disk.scale)[:, None] * np.arcsinh(np.array(bundle.disk.vectors) @ lift(embedding)))
    for level in bundle.levels:
        np.testing.assert_allclose(odds[:, level] / odds[:, level].sum(axis=1, keepdims=True), masks[:, level], atol=1e-5)


def lift(u: F32) -> F32:
    """(hops, 2, bins) u -> (hops, 3, bins) X of ``DiskSpec``."""
    radius = np.linalg.norm(u, axis=1, keepdims=True)
    lifted: F32 = np.concatenate([np.cosh(2 * radius), np.sinh(2 * radius) * u / radius], axis=1)
    return lifted


def test_the_toy_graphs_pass_the_checker_of_onnx(pristine: Path) -> None:
    for file in pristine.glob("*.onnx"):
        onnx.checker.check_model(onnx.load(file), full_check=True)


# ---- writing and reading --------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    manifest, graphs = toy_bundle.values(geometry=SMALL, lookahead_hops=1)
    written = write_bundle(manifest, graphs, "# card, with an umlaut: ü\n", tmp_path / "toy")
    assert read_bundle(tmp_path / "toy") == written
    specs = tuple(replace(spec, sha256=hashlib.sha256(graphs[spec.file]).hexdigest()) for spec in manifest.graphs)
    assert written == replace(manifest, graphs=specs, card_sha256=written.card_sha256, folder=tmp_path / "toy")
    assert written.latency_samples == 32 + 16
    again = write_bundle(written, graphs, "# card, with an umlaut: ü\n", tmp_path / "again")
    assert replace(again, folder=written.folder) == written


def test_a_bundle_may_be_copied_and_renamed(toy: Path, tmp_path: Path) -> None:
    shutil.copytree(toy, tmp_path / "elsewhere")
    assert replace(read_bundle(tmp_path / "elsewhere"), folder=toy) == read_bundle(toy)


def test_a_flat_tree_and_a_euclidean_disk_are_fine(tmp_path: Path) -> None:
    manifest, graphs = toy_bundle.values(geometry=SMALL)
    flat = tuple(replace(each, parent=None) for each in manifest.classes)
    disk = DiskSpec(0.0, manifest.disk.scale, ((1.0, 0.5, 0.0),) * 7)  # not spacelike, and need not be
    bundle = write_bundle(replace(manifest, classes=flat, disk=disk), graphs, "", tmp_path / "flat")
    assert bundle.levels == (slice(0, 7),) and bundle.parents == bundle.leaves


def test_a_model_may_have_classes_only_and_masks_that_do_not_add_up(tmp_path: Path) -> None:
    bundle = read_bundle(toy_bundle.make(tmp_path, geometry=SMALL, classes_only=True))
    assert bundle.disk is None and bundle.embedding_dim == 0 and bundle.masks == "independent"
    assert [[tensor.name for tensor in spec.outputs] for spec in bundle.graphs] == [["masks", "mean_out"]] * 2
    assert json.loads((bundle.folder / MANIFEST).read_text())["disk"] is None
    assert "no regions" in describe(bundle) and as_json(bundle)["prototypes"] == {}


def test_a_manifest_that_says_nothing_of_masks_means_shares(toy: Path) -> None:
    tree = json.loads((toy / MANIFEST).read_text())
    assert tree.pop("masks") == "shares"
    (toy / MANIFEST).write_text(json.dumps(tree))
    assert read_bundle(toy).masks == "shares"


def test_a_disk_and_its_embedding_come_together(toy: Path, tmp_path: Path) -> None:
    manifest, graphs = toy_bundle.values(geometry=SMALL)
    assert "outputs after masks" in refusal(write_bundle, replace(manifest, disk=None), graphs, "", tmp_path / "less")
    bare, graphs = toy_bundle.values(geometry=SMALL, classes_only=True)
    assert "outputs after masks and embedding" in refusal(
        write_bundle, replace(bare, disk=manifest.disk), graphs, "", tmp_path / "more"
    )
    assert "did you mean 'independent'" in refusal(
        write_bundle, replace(bare, masks="indepndent"), graphs, "", tmp_path / "masks"
    )


def test_an_existing_folder_is_overwritten_only_on_request(toy: Path) -> None:
    manifest, graphs = toy_bundle.values(name="second", geometry=SMALL)
    assert "overwrite" in refusal(write_bundle, manifest, graphs, "", toy)
    assert read_bundle(toy).name == "toy"
    assert write_bundle(manifest, graphs, "", toy, overwrite=True).name == "second"
    assert read_bundle(toy).name == "second"
    assert names(toy.parent) == ["toy"]


def test_overwriting_spares_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    manifest, graphs = toy_bundle.values(geometry=SMALL)
    (tmp_path / "thesis.txt").write_text("years of work")
    refusal(write_bundle, manifest, graphs, "", tmp_path, overwrite=True)
    assert names(tmp_path) == ["thesis.txt"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_an_interrupted_write_leaves_nothing(at: int, stop: type[BaseException], tmp_path: Path, monkeypatch: Any) -> None:
    manifest, graphs = toy_bundle.values(geometry=SMALL)
    interrupt(monkeypatch, "write_bytes", at, stop)
    with pytest.raises(stop):
        write_bundle(manifest, graphs, "", tmp_path / "toy")
    assert names(tmp_path) == []


@pytest.mark.parametrize("at", [0, 1])
def test_an_interrupted_overwrite_leaves_the_old_bundle(at: int, toy: Path, monkeypatch: Any) -> None:
    manifest, graphs = toy_bundle.values(name="second", geometry=SMALL)
    interrupt(monkeypatch, "rename", at, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(manifest, graphs, "", toy, overwrite=True)
    assert read_bundle(toy).name == "toy"
    assert names(toy.parent) == ["toy"]


def interrupt(monkeypatch: Any, method: str, at: int, stop: type[BaseException]) -> None:
    """Let the call number ``at`` of a method of Path end in ``stop``."""
    original, calls = getattr(Path, method), []

    def faulty(self: Path, *args: Any) -> Any:
        calls.append(self)
        if len(calls) == at + 1:
            raise stop
        return original(self, *args)

    monkeypatch.setattr(Path, method, faulty)


def test_what_a_reader_would_refuse_is_never_written(tmp_path: Path) -> None:
    manifest, graphs = toy_bundle.values(geometry=SMALL)
    bad: list[tuple[Bundle, dict[str, bytes], str]] = [
        (replace(manifest, sample_rate_hz=1), graphs, "sample_rate_hz"),
        (replace(manifest, scores={"mean": float("nan")}), graphs, "cannot hold"),
        (replace(manifest, scores={"mean": Path()}), graphs, "cannot hold"),
        (replace(manifest, opset=17), graphs, "opset_import"),
        (manifest, {**graphs, "extra.onnx": b""}, "extra.onnx"),
        (replace(manifest, graphs=(replace(manifest.graphs[0], file="../out.onnx"),)), {"../out.onnx": b""}, "graphs[0].file"),
    ]
    for bundle, files, named in bad:
        message = refusal(write_bundle, bundle, files, "", tmp_path / "toy")
        assert named in message and ".toy-" not in message  # the folder that was asked for, not the scratch one
        assert names(tmp_path) == []


# ---- refusals: the manifest -----------------------------------------------------------------------------------------

graph, magnitude, state_out = ("graphs", 1), ("graphs", 1, "inputs", 0), ("graphs", 1, "outputs", 2)
WRONG: dict[str, tuple[Callable[[Tree], object], str]] = {  # what is done to the manifest, what the error must say
    "newer format": (set_in("format")(2), "format is 2; expected 1"),
    "no format": (lambda t: t.pop("format"), "format is None"),
    "yes for a format": (set_in("format")(True), "format is True"),
    "window without a context": (set_in("kind")("window"), "the context of a window"),
    "offline kind": (set_in("kind")("offline"), "latent is None; expected a value for kind offline"),
    "unknown kind": (set_in("kind")("stop"), "did you mean 'step'?"),
    "kind of a wrong type": (set_in("kind")([["step"]]), "kind is"),
    "unknown key": (set_in("sample_rate")(48000), "'sample_rate' is unknown; did you mean 'sample_rate_hz'?"),
    "unknown inner key": (set_in("stft", "hops_samples")(16), "'stft.hops_samples' is unknown; did you mean 'hop_samples'?"),
    "missing key": (lambda t: t.pop("band"), "band is missing"),
    "missing inner key": (lambda t: t["classes"][3].pop("colour"), "classes[3].colour is missing"),
    "latency that lies": (set_in("latency_samples")(32), "latency_samples is 32; expected 64"),
    "fractional rate": (set_in("sample_rate_hz")(48000.5), "sample_rate_hz is 48000.5; expected a whole number"),
    "rate out of range": (set_in("sample_rate_hz")(0), "sample_rate_hz is 0"),
    "rate as text": (set_in("sample_rate_hz")("48000"), "sample_rate_hz is '48000'"),
    "bool for a number": (set_in("lookahead_hops")(True), "lookahead_hops is True"),
    "huge number": (set_in("opset")(10**300), "opset is"),
    "impossible geometry": (set_in("stft", "hop_samples")(64), "stft.analysis_samples 64, synthesis_samples 32, hop_samples 64"),
    "odd geometry": (set_in("stft", "analysis_samples")(65), "stft.analysis_samples 65"),
    "name that is a path": (set_in("name")("../toy"), "name is '../toy'"),
    "band above the spectrum": (set_in("band", "bins")(34), "band.bins is 34; expected 33"),
    "band that follows itself": (set_in("band", "follow_high")(12), "band.follow_low, follow_high"),
    "object for a list": (set_in("classes")({}), "classes is {}; expected a list"),
    "list for an object": (set_in("disk")([]), "disk is []; expected an object"),
    "no classes": (set_in("classes")([]), "classes is []"),
    "class twice": (set_in("classes", 3, "name")("male"), "classes is"),
    "class in capitals": (set_in("classes", 3, "name")("Male"), "classes[3].name is 'Male'"),
    "class with a line break": (set_in("classes", 3, "name")("male\n"), "classes[3].name"),
    "unknown parent": (set_in("classes", 3, "parent")("spech"), "did you mean 'speech'?"),
    "third level": (set_in("classes", 4, "parent")("male"), "classes[4].parent is 'male'"),
    "childless parent": (lambda t: [c.update(parent="music") for c in t["classes"][2:]], "classes[0].name is 'speech'"),
    "leaf before parent": (lambda t: t["classes"].reverse(), "classes[5].parent"),
    "colour by name": (set_in("classes", 0, "colour")("red"), "classes[0].colour is 'red'"),
    "too few vectors": (lambda t: (t["disk"]["vectors"].pop(), t["disk"]["scale"].pop()), "disk.vectors is 6 rows"),
    "ragged vectors": (lambda t: t["disk"]["vectors"][2].pop(), "disk.vectors is"),
    "vectors without scale": (lambda t: t["disk"]["scale"].pop(), "disk.vectors is"),
    "timelike vector": (set_in("disk", "vectors", 1)([2.0, 1.0, 1.0]), "disk.vectors[1] is (2.0, 1.0, 1.0); expected a space"),
    "no steepness": (set_in("disk", "scale", 1)(0), "disk.scale[1] is 0"),
    "negative curvature": (set_in("disk", "curvature")(-1), "disk.curvature is -1"),
    "number beyond floats": (set_in("disk", "vectors", 0, 0)(10**400), "disk.vectors[0][0]"),
    "no graphs": (set_in("graphs")([]), "graphs[].hops is []"),
    "graphs out of order": (lambda t: t["graphs"].reverse(), "graphs[].hops is [3, 1]"),
    "no graph for one hop": (lambda t: t["graphs"].pop(0), "graphs[].hops is [3]"),
    "one file twice": (set_in(*graph, "file")("Step1.onnx"), "graphs[].file"),
    "path upwards": (set_in(*graph, "file")("../step3.onnx"), "graphs[1].file is '../step3.onnx'; expected a plain file name"),
    "path downwards": (set_in(*graph, "file")("a/step3.onnx"), "graphs[1].file is 'a/step3.onnx'"),
    "windows path": (set_in(*graph, "file")("a\\step3.onnx"), "graphs[1].file"),
    "absolute path": (set_in(*graph, "file")("/etc/step3.onnx"), "graphs[1].file is '/etc/step3.onnx'"),
    "drive": (set_in(*graph, "file")("c:step3.onnx"), "graphs[1].file"),
    "parent folder": (set_in(*graph, "file")(".."), "graphs[1].file is '..'"),
    "file with a null byte": (set_in(*graph, "file")("a\0.onnx"), "graphs[1].file"),
    "hash of a wrong length": (set_in(*graph, "sha256")("00"), "graphs[1].sha256 is '00'; expected 64 hex digits"),
    "wrong input shape": (
        set_in(*magnitude, "shape")([3, 9]), "graphs[1].inputs[0].shape of 'magnitude' is [3, 9]; expected [3, 11]"
    ),
    "batch axis": (set_in(*magnitude, "shape")([1, 3, 11]), "graphs[1].inputs[0].shape"),
    "masks without a class": (
        set_in("graphs", 1, "outputs", 0, "shape")([3, 6, 11]), "expected [3, 7, 11] (hops, classes, band bins)"
    ),
    "embedding in space": (set_in("graphs", 1, "outputs", 1, "shape")([3, 3, 11]), "expected [3, 2, 11] (hops, dim, band bins)"),
    "dynamic size": (set_in(*magnitude, "shape")(["T", 11]), "graphs[1].inputs[0].shape[0] is 'T'"),
    "size of zero": (set_in(*magnitude, "shape")([0, 11]), "graphs[1].inputs[0].shape is [0, 11]"),
    "no size": (set_in(*magnitude, "shape")([]), "graphs[1].inputs[0].shape is []"),
    "too many elements": (set_in(*magnitude, "shape")([1 << 20, 1 << 20]), "graphs[1].inputs[0].shape"),
    "double precision": (set_in(*magnitude, "dtype")("float64"), "graphs[1].inputs[0].dtype is 'float64'"),
    "name with a space": (set_in(*magnitude, "name")("mag nitude"), "graphs[1].inputs[0].name"),
    "name twice": (set_in(*magnitude, "name")("masks"), "graphs[1].inputs, outputs"),
    "state that ends": (lambda t: t["graphs"][1]["outputs"].pop(), "graphs[1].states"),
    "state without a pair": (lambda t: t["graphs"][1]["states"].pop(), "graphs[1].states"),
    "states crossed": (lambda t: t["graphs"][1]["states"].reverse(), "graphs[1].states"),
    "pair of three": (lambda t: t["graphs"][1]["states"][0].append("x"), "graphs[1].states[0]"),
    "state that changes shape": (set_in(*state_out, "shape")([2, 11]), "graphs[1].outputs[2].shape of 'mean_out' is [2, 11]"),
    "states that differ between graphs": (
        lambda t: [t["graphs"][1][side][n].update(shape=[2, 11]) for side, n in (("inputs", 1), ("outputs", 2))],
        "graphs[1].states shapes",
    ),
    "infinite score": (set_in("scores", "mean")(float("inf")), "a number is Infinity"),
    "score that escapes": (set_in("scores", "mean")("\x1b[2J"), "scores.mean"),
    "score with half a character": (set_in("scores", "mean")("\ud800"), "scores.mean"),
    "key with a line break": (set_in("scores", "a\nb")(1), "scores is 'a\\nb'"),
    "text for facts": (set_in("licence")("MIT"), "licence is 'MIT'; expected an object"),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_manifest_is_refused_by_file_and_field(fault: str, toy: Path) -> None:
    change, said = WRONG[fault]
    edit(toy, change)
    message = refusal(read_bundle, toy)
    assert message.startswith(f"{toy / 'bundle.json'}: ") and said in message


def test_facts_of_any_depth_are_refused(toy: Path) -> None:
    deep: Tree = {}
    for _ in range(contract.MAX_DEPTH + 1):
        deep = {"in": deep}
    edit(toy, set_in("training")(deep))
    assert "training.in.in" in refusal(read_bundle, toy)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "not JSON"),
        (b"step", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b"[]", "manifest is []; expected an object"),
        (b'{"format": 1, "format": 1}', "key 'format' is given twice"),
        (b'{"format": 1, "kind": "step", "opset": NaN}', "a number is NaN"),
        (b'{"opset": -Infinity}', "a number is -Infinity"),
        (b'{"format": 1e999}', "format is inf"),
        (b'{"format": ' + b"1" * 10_000 + b"}", "not JSON"),
        (b" " * (1 << 20) + b"{}", "size is over 1048576 bytes"),
    ],
    ids=range(11),
)
def test_text_that_is_no_manifest_is_refused(text: bytes, said: str, toy: Path) -> None:
    (toy / "bundle.json").write_bytes(text)
    message = refusal(read_bundle, toy)
    assert message.startswith(f"{toy / 'bundle.json'}: ") and said in message


# ---- refusals: the files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bundle.json", "card.md", "step1.onnx", "step3.onnx"])
def test_a_missing_or_cut_file_is_named(name: str, toy: Path) -> None:
    data = (toy / name).read_bytes()
    for cut in (len(data) - 1, len(data) // 2, 0):
        (toy / name).write_bytes(data[:cut])
        if name != "bundle.json" or cut < len(data) - 1:  # its last byte is a line end
            assert refusal(read_bundle, toy).startswith(f"{toy / name}: ")
    (toy / name).unlink()
    assert refusal(read_bundle, toy).startswith(f"{toy / name}: cannot be read (No such file")


@pytest.mark.parametrize("name", ["card.md", "step1.onnx"])
def test_one_flipped_bit_is_noticed(name: str, toy: Path) -> None:
    data = bytearray((toy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (toy / name).write_bytes(data)
    message = refusal(read_bundle, toy)
    assert message.startswith(f"{toy / name}: SHA-256 is ") and "sha256 of bundle.json" in message


@pytest.mark.parametrize("name", ["bundle.json", "card.md", "step1.onnx"])
def test_links_may_not_lead_out_of_the_folder(name: str, toy: Path, tmp_path: Path) -> None:
    (toy / name).rename(tmp_path / name)
    (toy / name).symlink_to(tmp_path / name)
    message = refusal(read_bundle, toy)
    assert message.startswith(f"{toy / name}: ") and "inside the folder" in message


def test_links_within_the_folder_and_to_it_are_fine(toy: Path, tmp_path: Path) -> None:
    (toy / "card.md").rename(toy / "README.md")
    (toy / "card.md").symlink_to("README.md")
    (tmp_path / "link").symlink_to(toy)
    assert read_bundle(tmp_path / "link").name == "toy"


def test_links_in_a_circle_folders_and_pipes_are_no_files(toy: Path) -> None:
    (toy / "card.md").unlink()
    (toy / "card.md").symlink_to("card.md")
    assert "card.md: cannot be read" in refusal(read_bundle, toy)
    (toy / "card.md").unlink()
    (toy / "card.md").mkdir()
    assert "a regular file" in refusal(read_bundle, toy)
    (toy / "card.md").rmdir()
    os.mkfifo(toy / "card.md")  # reading one would wait for ever
    assert "a regular file" in refusal(read_bundle, toy)


# ---- refusals: inside the ONNX file ---------------------------------------------------------------------------------


def constant(value: Any, dtype: Any = np.float32, name: str = "spare") -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def add_node(op: str, **attributes: Any) -> Callable[[onnx.ModelProto], object]:
    return lambda model: model.graph.node.append(helper.make_node(op, [], ["spare"], **attributes))


def add_constant(tensor: onnx.TensorProto) -> Callable[[onnx.ModelProto], object]:
    return lambda model: model.graph.initializer.append(tensor)


def branch(node: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph([node], "branch", [], [helper.make_tensor_value_info("inner", TensorProto.FLOAT, [1])])


def nested(depth: int, value: float = 0.0) -> onnx.NodeProto:
    """A Constant within ``depth`` If nodes."""
    node = helper.make_node("Constant", [], ["inner"], value=constant([value]))
    for _ in range(depth):
        node = helper.make_node("If", ["yes"], ["inner"], then_branch=branch(node), else_branch=branch(node))
    return node


def outside(tensor: onnx.TensorProto) -> onnx.TensorProto:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def sparse(model: onnx.ModelProto) -> None:
    values, indices = constant([np.nan]), constant([0], np.int64)
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3]))


def dimension(model: onnx.ModelProto) -> Any:
    return model.graph.input[0].type.tensor_type.shape.dim[0]


def sequence(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.CopyFrom(helper.make_sequence_type_proto(model.graph.input[0].type))


nan, inf = float("nan"), float("inf")
FOREIGN: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "operator of another domain": (add_node("Evil", domain="com.evil"), "domain of 'Evil' is 'com.evil'"),
    "operator of a domain beside": (add_node("Scaler", domain="ai.onnx.ml"), "'ai.onnx.ml'"),
    "opset of another domain": (
        lambda m: m.opset_import.append(helper.make_opsetid("com.evil", 1)), "opset_import is ['', 'com.evil']"
    ),
    "no opset": (lambda m: m.ClearField("opset_import"), "opset_import is []"),
    "other opset": (lambda m: m.opset_import[0].CopyFrom(helper.make_opsetid("", 19)), "opset_import.version is 19; expected 20"),
    "function": (
        lambda m: m.functions.append(helper.make_function("", "Add", ["a"], ["b"], [], [helper.make_opsetid("", 20)])),
        "model.functions is present",
    ),
    "training graph": (lambda m: m.training_info.add(), "model.training_info is present"),
    "external data": (lambda m: outside(m.graph.initializer[0]), "data_location is external"),
    "external entry alone": (lambda m: m.graph.initializer[0].external_data.add(key="location", value="x"), "is external"),
    "external data in a node": (
        lambda m: add_node("Constant", value=outside(m.graph.initializer.pop(0)))(m),
        "attribute[0].t 'memory'.data_location is external",
    ),
    "sparse constant": (sparse, "graph.sparse_initializer is present"),
    "sparse attribute": (
        add_node("Constant", sparse_value=helper.make_sparse_tensor(constant([1.0]), constant([0], np.int64), [3])),
        "sparse_tensor is present",
    ),
    "text constant": (add_constant(onnx.TensorProto(data_type=8, string_data=[b"x"])), "data_type is 8"),
    "bfloat16 constant": (add_constant(helper.make_tensor("spare", TensorProto.BFLOAT16, [1], [1.0])), "data_type is 16"),
    "NaN": (add_constant(constant([0, nan])), "'spare'.raw_data is nan; expected finite"),
    "infinity": (add_constant(constant([0, -inf])), "'spare'.raw_data is -inf"),
    "NaN in double": (add_constant(constant([0, nan], np.float64)), "'spare'.raw_data is nan"),
    "NaN in half": (add_constant(constant([0, nan], np.float16)), "'spare'.raw_data is nan"),
    "NaN in float_data": (add_constant(onnx.TensorProto(data_type=1, float_data=[0, nan])), "float_data is nan"),
    "infinity in double_data": (add_constant(onnx.TensorProto(data_type=11, double_data=[inf])), "double_data is inf"),
    "half as integers": (add_constant(onnx.TensorProto(data_type=10, int32_data=[0x7E00])), "int32_data is present"),
    "half a number": (add_constant(onnx.TensorProto(data_type=1, raw_data=b"123")), "raw_data is 3 bytes long"),
    "NaN in a node": (add_node("Constant", value=constant([nan])), "raw_data is nan"),
    "NaN in a node's float": (add_node("Constant", value_float=nan), "attribute[0].f is nan"),
    "NaN in a node's floats": (add_node("Constant", value_floats=[0.0, inf]), "attribute[0].floats is inf"),
    "NaN in a subgraph": (
        lambda m: m.graph.node.append(nested(1, nan)), "attribute[0].g.node[0].attribute[0].t 'spare'.raw_data is nan"
    ),
    "NaN in a subgraph of a subgraph": (lambda m: m.graph.node.append(nested(3, nan)), "raw_data is nan"),
    "foreign operator in a subgraph": (
        add_node("If", then_branch=branch(helper.make_node("Evil", [], ["inner"], domain="x"))),
        "attribute[0].g.node[0].domain of 'Evil' is 'x'",
    ),
    "subgraphs without end": (lambda m: m.graph.node.append(nested(MAX_DEPTH + 1)), f"{MAX_DEPTH + 1} subgraphs deep"),
    "dynamic size": (lambda m: setattr(dimension(m), "dim_param", "T"), "graph.input[0] 'magnitude' dimension is 'T'"),
    "no size": (lambda m: dimension(m).Clear(), "graph.input[0] 'magnitude' dimension is 0"),
    "negative size": (lambda m: setattr(dimension(m), "dim_value", -1), "dimension is -1"),
    "other size": (lambda m: setattr(dimension(m), "dim_value", 2), "graph.input[0].shape is (2, 11); expected (1, 11)"),
    "other name": (lambda m: setattr(m.graph.output[1], "name", "u"), "graph.output[1].name is 'u'; expected 'embedding'"),
    "other type": (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 11), "graph.input[0].dtype is 'float64'"),
    "sequence": (sequence, "graph.input[0] 'magnitude'.type.sequence_type is present"),
    "input more": (lambda m: m.graph.input.append(m.graph.input[0]), "graph.input is ["),
    "output less": (lambda m: m.graph.output.pop(), "graph.output is ["),
    "outputs swapped": (lambda m: (m.graph.output.append(m.graph.output[0]), m.graph.output.pop(0)), "graph.output[0].name"),
    "no graph": (lambda m: m.ClearField("graph"), "graph.input is []"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FOREIGN)
def test_a_foreign_thing_in_an_onnx_file_is_refused(fault: str, toy: Path) -> None:
    change, said = FOREIGN[fault]
    model = onnx.load(toy / "step1.onnx")
    change(model)
    repack(toy, model.SerializeToString())
    message = refusal(read_bundle, toy)
    assert message.startswith(f"{toy / 'step1.onnx'}: ") and said in message


def test_what_is_harmless_in_an_onnx_file_passes(toy: Path) -> None:
    model = onnx.load(toy / "step1.onnx")
    model.opset_import[0].domain = "ai.onnx"
    model.graph.node.append(nested(2, 1.0))
    helper.set_model_props(model, {"note": "NaN"})
    for dtype in (np.int64, np.uint8, np.bool_, np.float16, np.float64):
        model.graph.initializer.append(constant([0, 1], dtype))
    repack(toy, model.SerializeToString())
    assert read_bundle(toy).name == "toy"


def test_a_graph_in_two_pieces_is_read_as_one(toy: Path) -> None:
    """Protobuf merges a message that comes twice, so a reader of the first or the last piece alone would be fooled."""
    whole = (toy / "step1.onnx").read_bytes()
    hidden = onnx.ModelProto(graph=onnx.GraphProto(initializer=[constant([nan])])).SerializeToString()
    repack(toy, hidden + whole)
    assert "'spare'.raw_data is nan" in refusal(read_bundle, toy)
    repack(toy, onnx.ModelProto(graph=onnx.GraphProto(doc_string="harmless")).SerializeToString() + whole)
    assert read_bundle(toy).name == "toy"


def test_work_on_hostile_bytes_is_bounded() -> None:
    assert f"more than {MAX_FIELDS} fields" in refusal(read_model, b"\x08\x00" * (MAX_FIELDS + 1))
    assert "cut off or damaged" in refusal(read_model, b"\xff" * 1000)
    assert "cut off or damaged" in refusal(read_model, b"\x3a\xff\xff\xff\xff\x0f")
    assert "cut off or damaged" in refusal(read_model, b"\x0b\x0c")  # a group, of the old wire format
    assert "not UTF-8" in refusal(read_model, b"\x42\x03\x0a\x01\xff")


# ---- nothing else is ever raised ------------------------------------------------------------------------------------

flips = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def flipped(data: bytes, flips: list[tuple[int, int]]) -> bytes:
    spoiled = bytearray(data)
    for place, byte in flips:
        spoiled[place % len(data)] = byte
    return bytes(spoiled)


def answers(call: Callable[..., object], *args: Any) -> None:
    """``call`` returns, or raises a BundleError of one line."""
    try:
        call(*args)
    except BundleError as error:
        assert len(str(error).splitlines()) == 1


@given(flips)
def test_any_bytes_in_a_manifest_are_answered(pristine: Path, tmp_path_factory: pytest.TempPathFactory, flips: Any) -> None:
    folder = Path(shutil.copytree(pristine, tmp_path_factory.getbasetemp() / "flipped", dirs_exist_ok=True))
    (folder / "bundle.json").write_bytes(flipped((pristine / "bundle.json").read_bytes(), flips))
    answers(read_bundle, folder)


@given(st.data(), json_values)
def test_any_value_in_a_manifest_is_answered(pristine: Path, data: st.DataObject, value: Any) -> None:
    tree = json.loads((pristine / "bundle.json").read_text())
    inner = tree
    for _ in range(data.draw(st.integers(0, 4))):
        below = [
            each for each in (inner.values() if isinstance(inner, dict) else inner) if isinstance(each, dict | list) and each
        ]
        inner = data.draw(st.sampled_from(below)) if below else inner
    inner[data.draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))] = value
    answers(
        lambda: contract._check_bundle(contract._bundle_from_manifest(contract._parse_json(json.dumps(tree).encode()), Path()))
    )


@given(st.binary(max_size=200))
def test_any_bytes_for_an_onnx_file_are_answered(data: bytes) -> None:
    answers(read_model, data)


@given(flips, st.integers(0, 1 << 16))
def test_any_spoiled_onnx_file_is_answered(pristine: Path, flips: Any, cut: int) -> None:
    data = (pristine / "step1.onnx").read_bytes()
    answers(read_model, flipped(data, flips))
    answers(read_model, data[: cut % len(data)])


def test_reader_and_onnx_agree_on_a_healthy_file(pristine: Path) -> None:
    model = onnx.load(pristine / "step3.onnx")
    inputs, outputs = (
        tuple((port.name, "float32", tuple(d.dim_value for d in port.type.tensor_type.shape.dim)) for port in side)
        for side in (model.graph.input, model.graph.output)
    )
    assert read_model((pristine / "step3.onnx").read_bytes()) == Model(20, inputs, outputs)  # type: ignore[arg-type]


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoints(toy: Path, tmp_path: Path, monkeypatch: Any) -> Path:
    home = tmp_path / "checkpoints"
    shutil.copytree(toy, home / "live")
    shutil.copytree(toy, home / "quality")
    monkeypatch.setattr(contract, "data_dir", lambda kind: tmp_path / kind)
    return home


def test_a_model_is_found_by_name_by_folder_and_by_default(checkpoints: Path, toy: Path, monkeypatch: Any) -> None:
    (checkpoints / "default").write_text("quality\n")
    assert resolve("live") == checkpoints / "live"
    assert resolve("default") == checkpoints / "quality"
    assert resolve(toy) == resolve(str(toy)) == toy
    monkeypatch.chdir(toy.parent)
    assert load_bundle("toy").folder == Path("toy")
    (toy.parent / "live").mkdir()  # a folder of that name which is no bundle does not hide the model
    assert resolve("live") == checkpoints / "live"


def test_an_unknown_model_names_the_nearest_one(checkpoints: Path) -> None:
    assert "did you mean 'quality'? known: live, quality" in refusal(resolve, "qualty")
    assert "known: live, quality" in refusal(resolve, "no/such/folder")
    assert "known: live, quality" in refusal(resolve, "\0\n")
    assert f"{checkpoints / 'default'} is missing" in refusal(resolve, "default")
    (checkpoints / "default").write_text("../../toy")
    assert "known: live, quality" in refusal(resolve, "default")
    (checkpoints / "default").write_text("live\n" * 100)
    assert f"{checkpoints / 'default'}: size is over" in refusal(resolve, "default")


def test_without_a_checkpoints_folder_a_name_is_refused(monkeypatch: Any) -> None:
    def missing(kind: str) -> Path:
        raise FileNotFoundError(f"no folder for {kind}")

    monkeypatch.setattr(contract, "data_dir", missing)
    assert "no folder for checkpoints" in refusal(resolve, "live")


# ---- sep-bundle -----------------------------------------------------------------------------------------------------


def test_show_says_what_matters(pristine: Path, capsys: Any) -> None:
    assert bundle_main(["show", str(pristine)]) == 0
    shown = capsys.readouterr()
    assert shown.out == describe(read_bundle(pristine)) + "\n" and not shown.err
    for fact in (
        "toy (step",
        "48000 Hz",
        "hop 16",
        "64 samples = 1.33 ms",
        "speech: male, female",
        "masks 3x7x11",
        "weights: CC0-1.0",
    ):
        assert fact in shown.out


def test_show_as_json_is_the_manifest_and_what_follows(pristine: Path, capsys: Any) -> None:
    assert bundle_main(["show", "--json", str(pristine)]) == 0
    tree = json.loads(capsys.readouterr().out)
    manifest = json.loads((pristine / "bundle.json").read_text())
    assert {key: tree[key] for key in manifest} == manifest
    assert tree["latency_ms"] == 1.33 and tree["parents"] == ["speech", "music"]
    assert tree == json.loads(json.dumps(as_json(read_bundle(pristine))))


def test_check_lists_every_file(pristine: Path, capsys: Any) -> None:
    assert bundle_main(["check", str(pristine)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["bundle.json", "card.md", "step1.onnx", "step3.onnx", "ok"]
    assert bundle_main(["check", str(pristine), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_a_refused_bundle_is_one_line_on_stderr_and_status_2(toy: Path, capsys: Any) -> None:
    (toy / "card.md").write_text("other")
    assert bundle_main(["check", str(toy)]) == 2
    said = capsys.readouterr()
    assert not said.out and said.err.startswith(f"sep-bundle: {toy / 'card.md'}: SHA-256") and said.err.count("\n") == 1


def test_sep_bundle_is_a_program(toy: Path) -> None:
    engine = str(Path(contract.__file__).parents[1])
    command = [sys.executable, "-m", "sepstream.cli_bundle", "check", str(toy)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": engine}, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1], done.stderr) == (0, "ok", "")


def test_a_reader_that_leaves_is_no_fault(toy: Path) -> None:
    engine = str(Path(contract.__file__).parents[1])
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "sepstream.cli_bundle", "show", str(toy)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": engine}, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")

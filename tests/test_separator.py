"""The ONNX Runtime door: bound buffers that nobody notices, and states that are values."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import streaming_contract as contract
import toy_bundle
from sepstream.contract import Bundle, StftSpec, read_bundle
from sepstream.errors import BundleError
from sepstream.separator import Separator


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(toy_bundle.make(tmp_path_factory.mktemp("toy"), geometry=StftSpec(64, 32, 16), hops=(1, 4)))


def magnitudes(bundle: Bundle, frames: int) -> np.ndarray:
    return np.random.default_rng(3).random((frames, bundle.band.bins), np.float32)


def as_stage(separator: Separator) -> contract.Stage:
    """Frames on the last axis; a block of several calls runs them in turn."""
    hops = separator.graph.hops

    def step(block: np.ndarray, state: object) -> tuple[np.ndarray, object]:
        outputs = []
        for at in range(0, block.shape[1], hops):
            found, state = separator.step(np.ascontiguousarray(block[:, at : at + hops].T), state)  # type: ignore[arg-type]
            both = np.concatenate([found.masks, found.embedding], axis=1)
            outputs.append(np.moveaxis(both, 0, -1).copy())
        return np.concatenate(outputs, axis=-1), state

    return contract.Stage(separator.initial_state, step, grain=hops, keep=separator.keep, empty=False)


@pytest.mark.parametrize("hops", [1, 4])
def test_the_session_obeys_the_laws_of_a_stream(bundle: Bundle, hops: int) -> None:
    contract.verify(as_stage(Separator(bundle, hops, "cpu")), magnitudes(bundle, 240).T)


def test_bound_buffers_give_what_a_plain_run_gives(bundle: Bundle) -> None:
    separator = Separator(bundle, 1, "cpu")
    state, plain = separator.initial_state(), dict.fromkeys((n for n, _ in separator.graph.states))
    plain = {name: np.zeros(spec.shape, np.float32) for name, spec in zip(plain, separator.graph.inputs[1:], strict=True)}
    for frame in magnitudes(bundle, 50):
        found, state = separator.step(frame[None], state)
        outputs = dict(
            zip(
                [o.name for o in separator.session.get_outputs()],
                separator.session.run(None, {"magnitude": frame[None], **plain}),
                strict=True,
            )
        )
        plain = {name_in: outputs[name_out] for name_in, name_out in separator.graph.states}
        np.testing.assert_array_equal(found.masks, outputs["masks"])
        np.testing.assert_array_equal(found.embedding, outputs["embedding"])


def test_an_overwritten_state_is_refused_not_misread(bundle: Bundle) -> None:
    separator = Separator(bundle, 1, "cpu")
    frame = magnitudes(bundle, 1)
    _, old = separator.step(frame, separator.initial_state())
    _, now = separator.step(frame, old)
    separator.step(frame, now)
    with pytest.raises(AssertionError, match="keep"):
        separator.step(frame, old)


def test_a_number_of_hops_without_a_graph_is_refused(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"no graph takes 7 hops.*\[1, 4\]"):
        Separator(bundle, 7, "cpu")


def test_a_graph_that_the_runtime_refuses_is_one_line(bundle: Bundle, tmp_path: Path) -> None:
    broken = toy_bundle.make(tmp_path)
    good = read_bundle(broken)
    (broken / good.graphs[0].file).write_bytes(b"\x08\x01")
    with pytest.raises(BundleError) as refusal:
        Separator(good, 1, "cpu")
    assert good.graphs[0].file in str(refusal.value) and "\n" not in str(refusal.value)


def test_opening_a_model_leaves_the_arithmetic_of_its_thread_alone(tmp_path: Path) -> None:
    """ONNX Runtime's set_denormal_as_zero makes the thread that opens the first session flush denormals for good, with
    every thread it starts later: other people's numbers, in a host that only imported us.
    """
    folder = toy_bundle.make(tmp_path)
    code = (
        "import sys; from sepstream.contract import read_bundle; from sepstream.separator import Separator; "
        "Separator(read_bundle(sys.argv[1]), 1, 'cpu'); print(sys.float_info.min / 2 > 0)"
    )
    command = [sys.executable, "-c", code, str(folder)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1] / "engine")}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    assert done.stdout.strip() == "True"

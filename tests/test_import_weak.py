"""A checkpoint of the weakly labelled reference system, as it writes them, becomes a bundle with the same masks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from sepstream.cli import render_main
from sepstream.contract import Bundle, read_bundle
from sepstream.errors import DataError
from sepstream.separator import Separator
from sepstream_export import parity, speed
from sepstream_export.cli import export_main
from sepstream_training.reference_weak import import_reference, is_reference
from sepstream_training.train import load_network

F32 = NDArray[np.float32]
ORACLE = Path(__file__).resolve().parents[2] / "shared" / "oracles" / "weak_oracle.npz"
LATE = 6  # frames that the networks of the oracle hear ahead
SAME = 1e-5

torch.set_num_threads(1)


def oracle() -> Any:
    if not ORACLE.is_file():
        pytest.skip(f"{ORACLE} holds the trained networks and their outputs, and is not here")
    return np.load(ORACLE)


def written(path: Path, prefix: str) -> Path:
    """The oracle's network as the reference system would have saved it, NumPy's scalars included."""
    data = oracle()
    state = {
        name.removeprefix(f"{prefix}.state."): torch.from_numpy(np.asarray(data[name]))
        for name in data.files
        if name.startswith(f"{prefix}.state.")
    }
    config = json.loads(str(data[f"{prefix}.config_json"]))
    config |= {name: [torch.tensor(data[f"{prefix}.{name}"])] for name in ("shift", "scaling")}
    config |= {"class_dc": np.float64(config["class_dc"]), "mask_use_batch_norm": np.bool_(True)}
    metrics = [np.float64(0.9), np.float32(0.8)]
    torch.save({"model_state_dict": state, "config": config, "optimizer_state_dict": {}, "train_metrics": metrics}, path)
    return path


@pytest.fixture(scope="module", params=["tut", "audioset"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Bundle]:
    folder = tmp_path_factory.mktemp("weak")
    source = written(folder / "reference.ckpt", request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "FRAMES", 96)
        patch.setattr(speed, "SECONDS", 0.1)
        assert export_main([str(source), "--out", str(folder / "bundle"), "--name", request.param]) == 0
    return request.param, source, read_bundle(folder / "bundle")


def through(bundle: Bundle, hops: int, magnitude: F32) -> F32:
    """(T, bins) through the engine's session -> masks (T, classes, bins), those of frame t in row t + LATE."""
    separator = Separator(bundle, hops, "cpu")
    state, masks = separator.initial_state(), []
    for frames in magnitude.reshape(-1, hops, magnitude.shape[1]):
        found, state = separator.step(frames, state)
        masks.append(found.masks.copy())
    return np.concatenate(masks)


def test_the_network_gives_the_masks_of_the_oracle(tmp_path: Path) -> None:
    for prefix in ("tut", "audioset"):
        data = oracle()
        _, network = load_network(import_reference(written(tmp_path / prefix, prefix), tmp_path / f"{prefix}.ckpt"))
        heard: Any = network
        with torch.no_grad():
            magnitude = torch.from_numpy(data[f"{prefix}.chain.mag"].T[None].copy())
            np.testing.assert_allclose(heard.look(magnitude)[0, 0], data[f"{prefix}.chain.feat_scaled"], atol=SAME)
            np.testing.assert_allclose(heard.stretch(magnitude)[0], data[f"{prefix}.chain.masks_mel"], atol=SAME)
            x = torch.from_numpy(data[f"{prefix}.x_rand"])
            for block in heard.blocks:
                x = block(block.surrounded(x))
            np.testing.assert_allclose(x, data[f"{prefix}.masks_rand"], atol=SAME)


def test_the_engine_gives_the_masks_of_the_oracle(exported: tuple[str, Path, Bundle]) -> None:
    """One hop a call and many: sources as they come out of the oracle are masks times the mixture, which are compared where
    its filters hear anything; the last frames lack what the stream would bring next."""
    prefix, _, bundle = exported
    data = oracle()
    assert list(bundle.class_names) == list(data[f"{prefix}.classes"])
    assert bundle.lookahead_hops == LATE
    assert bundle.masks == ("shares" if prefix == "tut" else "independent")
    magnitude = data[f"{prefix}.chain.mag"].T  # (T, bins)
    wanted = np.abs(data[f"{prefix}.chain.spec_lin"]).transpose(2, 0, 1)  # (T, classes, bins)
    heard = np.pad(magnitude, ((0, -len(magnitude) % 48), (0, 0)))
    reached = data["mel_fb"].sum(axis=0) > 1e-3  # beside 0 Hz, half the rate, and what the oracle's guard against 0 / 0 bends
    for hops in (1, 48):
        masks = through(bundle, hops, heard)[LATE : len(magnitude)]
        rows = len(masks)
        ours, theirs = masks * magnitude[:rows, None], wanted[:rows]
        np.testing.assert_allclose(ours[..., reached], theirs[..., reached], atol=SAME * float(magnitude.max()))
        shares = wanted[:rows] / magnitude[:rows, None]
        np.testing.assert_allclose(masks[..., reached], shares[..., reached], atol=5e-4)


def test_it_renders(exported: tuple[str, Path, Bundle], tmp_path: Path) -> None:
    """A softmax shares out the whole mixture, 0 Hz and half the rate included; the oracle mutes these two."""
    prefix, _, bundle = exported
    sound = oracle()["audio16k"]
    soundfile.write(tmp_path / "in.wav", sound, 16000, subtype="FLOAT")
    arguments = [str(tmp_path / "in.wav"), "--model", str(bundle.folder), "--out", str(tmp_path / "out")]
    assert render_main(arguments) == 0
    stems = {path.stem: soundfile.read(path, dtype="float32")[0] for path in (tmp_path / "out").rglob("*.wav")}
    assert set(stems) >= set(bundle.class_names)
    if prefix == "tut":
        np.testing.assert_allclose(sum(stems[name] for name in bundle.class_names), sound, atol=1e-4)


Change = Callable[[dict[str, Any]], Any]
BAD: dict[str, tuple[Change, str]] = {
    "a trained PCEN": (lambda s: s["config"].update(train_pcen=True), "train_pcen is true"),
    "a weight too many": (lambda s: s["model_state_dict"].update({"mask_model.net.x": torch.zeros(1)}), "has no place for"),
    "a weight that is no number": (
        lambda s: s["model_state_dict"]["mask_model.net.convolutions.0.bias"].fill_(float("nan")),
        "no numbers",
    ),
    "no scaling": (lambda s: s["config"].update(scaling=[torch.tensor(0.0)]), "scaling is 0"),
    "a missing option": (lambda s: s["config"].pop("mask_conv_k_f"), "mask_conv_k_f"),
    "padding that loses frames": (lambda s: s["config"].update(mask_conv_p_t=[0, 0, 0]), "keeps every frame"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_it_cannot_be_is_said_in_one_line(tmp_path: Path, what: str) -> None:
    change, message = BAD[what]
    state = torch.load(written(tmp_path / "good", "tut"), weights_only=False)  # the test's own file
    change(state)
    torch.save(state, tmp_path / "bad")
    with pytest.raises(DataError, match=message) as error:
        import_reference(tmp_path / "bad", tmp_path / "ours.ckpt")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ours.ckpt").exists()


class Harmful:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("harm"),))


def test_nothing_in_the_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model_state_dict": {}, "config": Harmful()}, tmp_path / "bad")
    assert not is_reference(tmp_path / "bad")
    with pytest.raises(DataError, match="is not of the expected form"):
        import_reference(tmp_path / "bad", tmp_path / "ours.ckpt")
    assert not (tmp_path / "harm").exists()

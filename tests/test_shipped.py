"""What is shipped: every model is whole, the default is live, and it takes the demo apart."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sepstream.cli import render_main
from sepstream.contract import load_bundle, read_bundle
from sepstream.pipeline import Pipeline
from sepstream.selection import Selection
from sepstream_training.metrics import si_sdr_improvement

ROOT = Path(__file__).resolve().parents[1]
MODELS = sorted(path.parent for path in (ROOT / "checkpoints").glob("*/bundle.json"))
CLASSES = ("speech", "music", "male", "female", "bass", "drums", "guitar")


@pytest.fixture(scope="module")
def stems() -> dict[str, np.ndarray]:
    """The demo's references, (channels, samples) each."""
    return {name: soundfile.read(ROOT / "demo" / f"{name}.flac", dtype="float32")[0].T for name in CLASSES[2:]}


@pytest.mark.parametrize("folder", MODELS, ids=lambda path: path.name)
def test_a_shipped_model_is_whole_proven_and_scored(folder: Path) -> None:
    bundle = read_bundle(folder)
    assert bundle.name == folder.name
    sound_db = {name: value for name, value in bundle.parity.items() if name.endswith("_snr_db")}
    assert min(sound_db.values()) > 60, sound_db
    assert max(value for name, value in bundle.parity.items() if name not in sound_db) < 1e-3
    scored = {name for name, row in bundle.scores.items() if isinstance(row, dict)}
    assert set(bundle.leaves) <= scored
    card = (folder / "card.md").read_text(encoding="utf8")
    assert bundle.licence["data"] in card and "Fluid (R3)" in card


def test_the_disk_models_know_the_same_classes_and_beat_the_mixture_far() -> None:
    for name, least_db in (("disk-live", 5.0), ("disk-quality", 5.0), ("disk-ultra", 4.3)):
        bundle = read_bundle(ROOT / "checkpoints" / name)
        assert bundle.class_names == CLASSES
        assert bundle.scores["all"]["improvement_db"] > least_db
        for owner in ("LibriSpeech", "VCTK", "Groove MIDI", "MuldjordKit", "Picovoice", "Freedoom", "Fluid (R3)", "T145"):
            assert owner in bundle.licence["data"]


@pytest.mark.parametrize("folder", MODELS, ids=lambda path: path.name)
def test_every_shipped_model_takes_flags_and_gives_answers_alike(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever family it is of: the same rate, channels and length, its classes as buses, and a list for who asks for others."""
    song, bundle = tmp_path / "song.wav", read_bundle(folder)
    sound, rate_hz = soundfile.read(ROOT / "demo" / "mixture.flac", frames=2 * 48000 + 123)
    soundfile.write(song, sound, rate_hz)
    arguments = [str(song), "--out", str(tmp_path / "out"), "--model", folder.name, "--provider", "cpu", "--json"]
    assert render_main([*arguments, "--residual", "--bits", "32f"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert [bus["name"] for bus in row["buses"]] == [*bundle.leaves, "residual"]
    for bus in row["buses"]:
        heard, heard_hz = soundfile.read(bus["path"])
        assert (heard.shape, heard_hz) == (sound.shape, rate_hz)
        assert np.isfinite(heard).all() and np.abs(heard).max() > 0
    assert render_main([*arguments, "--bus", "x=trombone"]) == 2
    refusal = capsys.readouterr().err
    assert refusal.count("\n") == 1 and all(word in refusal for word in ("trombone", *bundle.leaves)), refusal


@pytest.mark.parametrize("folder", MODELS, ids=lambda path: path.name)
def test_a_shipped_model_does_not_tell_where_it_was_made(folder: Path) -> None:
    for graph in folder.glob("*.onnx"):
        assert b"stack_trace" not in graph.read_bytes()


def test_the_default_is_live_at_48_khz_and_10_7_ms() -> None:
    bundle = load_bundle("default")
    assert bundle.folder.name == (ROOT / "checkpoints" / "default").read_text().strip()
    assert bundle.sample_rate_hz == 48000
    assert bundle.latency_samples <= 512


def test_the_default_takes_the_demo_apart_and_loses_nothing(stems: dict[str, np.ndarray]) -> None:
    bundle = load_bundle("default")
    mixture = sum(stems.values())
    pipeline = Pipeline(bundle, Selection.stems(bundle, "leaves"), 2, provider="cpu", hops=bundle.graphs[-1].hops)
    late = pipeline.latency_samples
    heard = pipeline.process(np.pad(mixture, ((0, 0), (0, late))))[:, :, late:]
    np.testing.assert_allclose(heard.sum(axis=0), mixture, atol=1e-5)
    gains_db = [si_sdr_improvement(heard[i], stems[name], mixture) for i, name in enumerate(pipeline.buses)]
    assert min(gains_db) > 2, dict(zip(pipeline.buses, gains_db, strict=True))
    assert np.mean(gains_db) > 5, gains_db


def test_one_hop_at_a_time_sounds_like_the_file(stems: dict[str, np.ndarray]) -> None:
    """Law 7 on real weights: the live graph and the graph for files, five seconds of the demo."""
    bundle = load_bundle("default")
    mixture = sum(stems.values())[:, 10 * 48000 : 15 * 48000]
    heard = []
    for graph in (bundle.graphs[0], bundle.graphs[-1]):
        pipeline = Pipeline(bundle, Selection.stems(bundle, "all"), 2, provider="cpu", hops=graph.hops)
        late = pipeline.latency_samples
        heard.append(pipeline.process(np.pad(mixture, ((0, 0), (0, late))))[:, :, late:])
    np.testing.assert_allclose(heard[0], heard[1], atol=1e-4)

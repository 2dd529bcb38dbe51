"""A small model that is asked for what it gives, for tests: each target is a sum of bins of this frame and the one before.

Each class has a weight of every bin (``weights``); what is asked for with the condition c (classes, classes) is c @ weights. Of
spectra, the target k of frame n is (c @ weights)[k] * (0.6 X[n] + 0.4 X[n - 1]), which has not the phase of the mix; of
magnitudes, its mask is (c @ weights)[k] / 2, on which the past has no bearing but through the state that goes round.
"""

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import toy_bundle
from sepstream.contract import (
    INDEPENDENT,
    MAGNITUDE,
    SPECTRA,
    BandSpec,
    Bundle,
    ClassSpec,
    GraphSpec,
    StftSpec,
    TensorSpec,
    write_bundle,
)

NAMES = ("drums", "bass", "voice")
SMALL = StftSpec(64, 24, 16)
NOW, BEFORE = 0.6, 0.4


def make(folder: Path, **options: Any) -> Path:
    """Write the bundle as ``folder / asked`` and return that path."""
    bundle, files = values(**options)
    return write_bundle(bundle, files, toy_bundle.CARD, folder / "asked").folder


def weights(bins: int) -> np.ndarray:
    """(classes, bins) float32, within 0 and 1."""
    phase = np.linspace(0, 5, bins) + np.arange(len(NAMES))[:, None]
    return (0.5 + 0.5 * np.cos(phase)).astype(np.float32)


def values(
    *, stft: StftSpec = SMALL, spectra: bool = True, channels: int = 1, hops: tuple[int, ...] = (1, 3), bins: int = 20
) -> tuple[Bundle, dict[str, bytes]]:
    """What ``write_bundle`` takes."""
    frame = (channels, bins, 2) if spectra else (bins,)
    specs = tuple(graph_spec(count, frame, spectra) for count in hops)
    bundle = Bundle(
        name="asked",
        kind="step",
        sample_rate_hz=48000,
        stft=stft,
        lookahead_hops=0,
        band=BandSpec(bins, bins - 6, bins),
        classes=tuple(ClassSpec(name, None, "#123456") for name in NAMES),
        disk=None,
        graphs=specs,
        opset=toy_bundle.OPSET,
        card_sha256="",
        training={},
        scores={},
        parity={},
        licence={"weights": "CC0-1.0"},
        folder=Path(),
        masks=INDEPENDENT,
        signal=SPECTRA if spectra else MAGNITUDE,
        conditioned=True,
    )
    return bundle, {spec.file: graph_bytes(spec, bins, spectra) for spec in specs}


def graph_spec(hops: int, frame: tuple[int, ...], spectra: bool) -> GraphSpec:
    count = len(NAMES)
    return GraphSpec(
        file=f"hops{hops}.onnx",
        sha256="",
        hops=hops,
        inputs=(TensorSpec("signal", (hops, *frame)), TensorSpec("condition", (count, count)), TensorSpec("last", (1, *frame))),
        outputs=(TensorSpec("found", (hops, count, *frame)), TensorSpec("last_out", (1, *frame))),
        states=(("last", "last_out"),),
    )


def graph_bytes(spec: GraphSpec, bins: int, spectra: bool) -> bytes:
    count, hops = len(NAMES), spec.hops
    shape = (1, count, 1, bins, 1) if spectra else (1, count, bins)
    constants = {
        "weights": weights(bins) if spectra else weights(bins) / 2,
        "now": np.float32(NOW),
        "before": np.float32(BEFORE),
        "zero": np.float32(0.0),
        "shape": np.array(shape, np.int64),
        "newest": np.array([hops], np.int64),
        "end": np.array([hops + 1], np.int64),
        "start": np.array([0], np.int64),
        "one": np.array([1], np.int64),
    }
    nodes = [
        ("Concat", ["last", "signal"], "line", {"axis": 0}),
        ("Slice", ["line", "start", "newest", "start"], "old", {}),
        ("Slice", ["line", "newest", "end", "start"], "last_out", {}),
        ("Mul", ["signal", "now"], "a", {}),
        ("Mul", ["old", "before"], "b", {}),
        ("Add", ["a", "b"], "both", {}),
        ("Unsqueeze", ["both", "one"], "heard", {}),
        ("MatMul", ["condition", "weights"], "plain", {}),
        ("Reshape", ["plain", "shape"], "asked", {}),
    ]
    if spectra:
        nodes += [("Mul", ["heard", "asked"], "found", {})]
    else:
        nodes += [("Mul", ["heard", "zero"], "silence", {}), ("Add", ["silence", "asked"], "found", {})]
    return toy_bundle.model_bytes(
        [helper.make_node(op, inputs, [output], **settings) for op, inputs, output, settings in nodes],
        spec,
        [_constant(name, value) for name, value in constants.items()],
    )


def _constant(name: str, value: Any) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)

"""A small, valid, honest bundle for tests: ``make`` writes one in milliseconds, ONNX Runtime runs it.

The toy network listens: each bin's embedding turns with frequency and moves with the bin's level and with how far it
stands out of its own running mean (the state), so masks change with the sound and with what came before. Its masks are
the softmax, per level of the class tree, of the manifest's own disk head. Frames are unrolled: one frame per call and
N per call run the same arithmetic on the same shapes, and agree bit for bit.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sepstream.contract import (
    GEOMETRIES,
    INDEPENDENT,
    SHARES,
    BandSpec,
    Bundle,
    ClassSpec,
    DiskSpec,
    GraphSpec,
    StftSpec,
    TensorSpec,
    write_bundle,
)

CLASSES = (
    ClassSpec("speech", None, "#d1495b"),
    ClassSpec("music", None, "#30638e"),
    ClassSpec("male", "speech", "#e07a5f"),
    ClassSpec("female", "speech", "#f2a65a"),
    ClassSpec("bass", "music", "#00798c"),
    ClassSpec("drums", "music", "#5b8e7d"),
    ClassSpec("guitar", "music", "#8cb369"),
)
PARENTS = 2
OPSET = 20
MEMORY = 0.9  # of the running mean, per hop
CARD = "# toy\n\nA test signal made into a model. It separates nothing.\n"


def make(
    folder: Path,
    *,
    name: str = "toy",
    geometry: str | StftSpec = "live",
    hops: tuple[int, ...] = (1, 8),
    lookahead_hops: int = 0,
    bins: int | None = None,
    sample_rate_hz: int = 48000,
    classes_only: bool = False,
) -> Path:
    """Write the toy bundle as ``folder / name`` and return that path; ``bins`` is the network's band.

    ``classes_only``: without a disk, and with masks of which each is a sigmoid on its own.
    """
    bundle, files = values(
        name=name, geometry=geometry, hops=hops, lookahead_hops=lookahead_hops, bins=bins, sample_rate_hz=sample_rate_hz,
        classes_only=classes_only,
    )  # fmt: skip
    return write_bundle(bundle, files, CARD, Path(folder) / name).folder


def values(
    *,
    name: str = "toy",
    geometry: str | StftSpec = "live",
    hops: tuple[int, ...] = (1, 8),
    lookahead_hops: int = 0,
    bins: int | None = None,
    sample_rate_hz: int = 48000,
    classes_only: bool = False,
) -> tuple[Bundle, dict[str, bytes]]:
    """What ``write_bundle`` takes: a manifest whose hashes are still blank, and the graphs by file name."""
    stft = GEOMETRIES[geometry] if isinstance(geometry, str) else geometry
    bins = bins or stft.bins // 3
    specs = tuple(graph_spec(count, lookahead_hops, bins, classes_only) for count in hops)
    bundle = Bundle(
        name=name,
        kind="step",
        sample_rate_hz=sample_rate_hz,
        stft=stft,
        lookahead_hops=lookahead_hops,
        band=BandSpec(bins, bins * 3 // 4, bins),
        classes=CLASSES,
        disk=None if classes_only else disk(),
        graphs=specs,
        opset=OPSET,
        card_sha256="",
        training={"data": "none", "steps": 0},
        scores={"SI-SDR dB": {"speech": 0.0, "music": 0.0}},
        parity={"largest difference": 0.0},
        licence={"weights": "CC0-1.0", "data": "none"},
        folder=Path(),
        masks=INDEPENDENT if classes_only else SHARES,
    )
    return bundle, {spec.file: graph_bytes(spec.hops, lookahead_hops, bins, classes_only) for spec in specs}


def disk() -> DiskSpec:
    """Geodesic half-planes around the circle: speech right, music left, leaves beside their parents."""
    angle = np.pi * np.array([0.0, 1.0, 0.25, -0.25, 0.7, 1.0, 1.3])
    offset = np.array([0.0, 0.0, 0.1, 0.1, 0.1, 0.2, 0.1])
    vectors = np.stack([-np.sinh(offset), np.cosh(offset) * np.cos(angle), np.cosh(offset) * np.sin(angle)], axis=1)
    return DiskSpec(1.0, (2.0,) * len(CLASSES), tuple(tuple(row) for row in vectors.tolist()))


def graph_spec(hops: int, lookahead_hops: int, bins: int, classes_only: bool = False) -> GraphSpec:
    states = [("mean", (1, bins))] + ([("delay", (lookahead_hops, bins))] if lookahead_hops else [])
    return GraphSpec(
        file=f"step{hops}.onnx",
        sha256="",
        hops=hops,
        inputs=(TensorSpec("magnitude", (hops, bins)), *(TensorSpec(f"{n}_in", s) for n, s in states)),
        outputs=(
            TensorSpec("masks", (hops, len(CLASSES), bins)),
            *([] if classes_only else [TensorSpec("embedding", (hops, 2, bins))]),
            *(TensorSpec(f"{n}_out", s) for n, s in states),
        ),
        states=tuple((f"{n}_in", f"{n}_out") for n, _ in states),
    )


@lru_cache
def graph_bytes(hops: int, lookahead_hops: int, bins: int, classes_only: bool = False) -> bytes:
    """The serialised ONNX model of ``graph_spec`` with the same arguments."""
    net, spec = Net(bins), graph_spec(hops, lookahead_hops, bins, classes_only)
    frames, mean, heard = net.split("magnitude", hops), "mean_in", []
    queue = (net.split("delay_in", lookahead_hops) if lookahead_hops else []) + frames
    if lookahead_hops:
        net("Concat", *queue[hops:], to="delay_out", axis=0)
    for newest, frame in zip(frames, queue, strict=False):
        mean = net("Add", net("Mul", mean, "memory"), net("Mul", newest, "forget"))
        heard.append(net.frame(frame, mean, independent=classes_only))
    net("Identity", mean, to="mean_out")
    net("Concat", *(masks for masks, _ in heard), to="masks", axis=0)
    if not classes_only:
        net("Concat", *(embedding for _, embedding in heard), to="embedding", axis=0)
    return model_bytes(net.nodes, spec, net.constants)


def model_bytes(nodes: list[onnx.NodeProto], spec: GraphSpec, constants: list[TensorProto], **changes: Any) -> bytes:
    """A whole ONNX file with the inputs and outputs of ``spec``; ``changes`` go to onnx.helper.make_model."""
    inputs, outputs = (
        [helper.make_tensor_value_info(t.name, TensorProto.FLOAT, t.shape) for t in side] for side in (spec.inputs, spec.outputs)
    )
    graph = helper.make_graph(nodes, "toy", inputs, outputs, constants)
    settings = {"opset_imports": [helper.make_opsetid("", OPSET)], "ir_version": 10, **changes}
    return bytes(helper.make_model(graph, **settings).SerializeToString())


class Net:
    """ONNX nodes under construction; calling it appends one and returns its output's name."""

    def __init__(self, bins: int) -> None:
        turn = 0.1 + np.linspace(0, 4 * np.pi, bins)  # no bin lies between two classes, so that none is a tie
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self.constant("memory", MEMORY)
        self.constant("forget", 1 - MEMORY)
        self.constant("floor", 1e-3)
        self.constant("tiny", 1e-12)
        self.constant("half", 0.5)
        self.constant("one", 1.0)
        self.constant("two", 2.0)
        self.constant("out", np.stack([np.cos(turn), np.sin(turn)]))  # (2, bins)
        self.constant("side", np.stack([-np.sin(turn), np.cos(turn)]))
        self.constant("vectors", np.array(disk().vectors))
        self.constant("scale", np.array(disk().scale)[:, None])
        self.constant("levels", np.array([PARENTS, len(CLASSES) - PARENTS], dtype=np.int64))
        self.constant("first", np.array([0], dtype=np.int64))

    def constant(self, name: str, value: float | NDArray[np.generic]) -> None:
        array = np.asarray(value)
        self.constants.append(numpy_helper.from_array(array if array.dtype == np.int64 else array.astype(np.float32), name))

    def __call__(self, op: str, *inputs: str, to: str = "", **attributes: Any) -> str:
        to = to or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [to], **attributes))
        return to

    def split(self, name: str, count: int, axis: int = 0, sizes: str = "") -> list[str]:
        """Rows of ``name`` one by one, or parts of the given ``sizes``."""
        parts = [f"{name}_{len(self.nodes)}_{i}" for i in range(count)]
        given: dict[str, Any] = {"inputs": [name, sizes]} if sizes else {"inputs": [name], "num_outputs": count}
        self.nodes.append(helper.make_node("Split", outputs=parts, axis=axis, **given))
        return parts

    def frame(self, magnitude: str, mean: str, independent: bool) -> tuple[str, str]:
        """(1, bins) magnitude and running mean -> names of masks (1, classes, bins) and embedding (1, 2, bins)."""
        level = self("Div", magnitude, self("Add", magnitude, "floor"))
        onset = self("Div", magnitude, self("Add", self("Add", magnitude, mean), "floor"))
        u = self("Add", self("Mul", "out", self("Add", onset, "half")), self("Mul", "side", level))
        logits = self("Mul", "scale", self.asinh(self("MatMul", "vectors", self.lift(u))))
        levels = [] if independent else self.split(logits, 2, sizes="levels")
        masks = self("Concat", *(self("Softmax", part, axis=0) for part in levels), axis=0) if levels else self("Sigmoid", logits)
        return self("Unsqueeze", masks, "first"), self("Unsqueeze", u, "first")

    def lift(self, u: str) -> str:
        """(2, bins) u -> (3, bins) X = (cosh 2|u|, sinh 2|u| u/|u|)."""
        radius = self("Sqrt", self("Add", self("ReduceSum", self("Mul", u, u), "first"), "tiny"))
        grow = self("Exp", self("Mul", radius, "two"))
        shrink = self("Div", "one", grow)
        time = self("Mul", self("Add", grow, shrink), "half")
        space = self("Mul", self("Div", u, radius), self("Mul", self("Sub", grow, shrink), "half"))
        return self("Concat", time, space, axis=0)

    def asinh(self, x: str) -> str:
        size, root = self("Abs", x), self("Sqrt", self("Add", self("Mul", x, x), "one"))
        return self("Mul", self("Sign", x), self("Log", self("Add", size, root)))

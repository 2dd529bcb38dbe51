"""A trained network as ONNX bytes: fixed shapes, states in the open, masks and embedding out."""

import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from sepstream.contract import GraphSpec, TensorSpec
from sepstream_training.losses import class_masks
from sepstream_training.models.recurrent import Lstm

OPSET = 20


class StepGraph(nn.Module):
    """What a call of the bundle does: magnitude (hops, bins), state -> masks (hops, classes, bins), embedding, state."""

    def __init__(self, network: Any, levels: list[slice]) -> None:
        super().__init__()
        self.network, self.levels = network, levels

    def forward(self, magnitude: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        logits, embedding, after = self.network.step(magnitude[None], state)
        return class_masks(logits, self.levels)[0], embedding[0], after


def export_graph(network: Any, levels: list[slice], hops: int) -> tuple[bytes, GraphSpec]:
    """The ONNX file of ``hops`` frames per call, and its description without the hash (contract.write_bundle fills it in)."""
    example = (torch.rand(hops, network.bins), network.initial_state())
    graph = StepGraph(network, levels).eval()
    names_in, names_out = ["magnitude", "state"], ["masks", "embedding", "state_out"]
    with torch.no_grad():
        shapes_out = [tuple(value.shape) for value in graph(*example)]
    spec = GraphSpec(
        file=f"hops{hops}.onnx",
        sha256="",
        hops=hops,
        inputs=tuple(TensorSpec(name, tuple(value.shape)) for name, value in zip(names_in, example, strict=True)),
        outputs=tuple(TensorSpec(name, shape) for name, shape in zip(names_out, shapes_out, strict=True)),
        states=(("state", "state_out"),),
    )
    return _onnx_bytes(graph, example, names_in, names_out), spec


def _onnx_bytes(graph: nn.Module, example: tuple[Tensor, ...], names_in: list[str], names_out: list[str]) -> bytes:
    Lstm.exporting = True
    quiet = logging.root.manager.disable
    logging.disable(logging.WARNING)  # torch.onnx reports optional packages that we do not need
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", FutureWarning)  # torch.export's own LeafSpec, out of our hands
            program = torch.onnx.export(
                graph, example, dynamo=True, opset_version=OPSET, external_data=False,
                input_names=names_in, output_names=names_out, verbose=False,
            )  # fmt: skip
    finally:
        Lstm.exporting = False
        logging.disable(quiet)
    assert program is not None
    return bytes(program.model_proto.SerializeToString())

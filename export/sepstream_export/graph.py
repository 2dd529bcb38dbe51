"""A trained network as ONNX bytes: fixed shapes, states in the open, masks out, and the embedding if there is a disk."""

import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from sepstream.contract import GraphSpec, TensorSpec
from sepstream_training.losses import class_masks
from sepstream_training.models import Network, StreamingNetwork
from sepstream_training.models.recurrent import Lstm
from sepstream_training.recipe import WindowSpec

OPSET = 20


class StepGraph(nn.Module):
    """What a call of the bundle does: magnitude (hops, bins), state -> masks (hops, classes, bins), embedding, state.

    Of a network without a disk, the embedding is left out.
    """

    def __init__(self, network: StreamingNetwork, levels: list[slice]) -> None:
        super().__init__()
        self.network, self.levels = network, levels

    def forward(self, magnitude: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        logits, embedding, after = self.network.step(magnitude[None], state)
        return class_masks(logits, self.levels)[0], *_if_any(embedding[0]), after


class WindowGraph(nn.Module):
    """A network that hears both ways, as a step with a look-ahead: magnitude (hops, bins), context (past + future, bins)
    -> masks and embedding of the ``hops`` frames that lie ``future`` frames back, and the context of the next call.
    """

    def __init__(self, network: Network, levels: list[slice], past: int) -> None:
        super().__init__()
        self.network, self.levels, self.past = network, levels, past

    def forward(self, magnitude: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        hops = magnitude.shape[0]
        heard = torch.cat([context, magnitude])
        logits, embedding = self.network(heard[None])
        given = slice(self.past, self.past + hops)
        return class_masks(logits[:, given], self.levels)[0], *_if_any(embedding[0, given]), heard[hops:]


def _if_any(embedding: Tensor) -> tuple[Tensor, ...]:
    """(hops, dim, bins), an output where dim is not 0."""
    return (embedding,) if embedding.shape[1] else ()


def export_window(network: Network, levels: list[slice], window: WindowSpec) -> tuple[bytes, GraphSpec]:
    """Like ``export_graph``, of a network that hears both ways."""
    example = (torch.rand(window.hops, network.bins), torch.zeros(window.context, network.bins))
    return _export(WindowGraph(network, levels, window.past), example, "context", f"window{window.hops}.onnx")


def export_graph(network: StreamingNetwork, levels: list[slice], hops: int) -> tuple[bytes, GraphSpec]:
    """The ONNX file of ``hops`` frames per call, and its description without the hash (contract.write_bundle fills it in)."""
    example = (torch.rand(hops, network.bins), network.initial_state())
    return _export(StepGraph(network, levels), example, "state", f"hops{hops}.onnx")


def _export(graph: nn.Module, example: tuple[Tensor, Tensor], state: str, file: str) -> tuple[bytes, GraphSpec]:
    """``graph`` of (magnitude, state) -> (masks, embedding if any, state), for inputs of the shapes of ``example``."""
    graph = graph.eval()
    with torch.no_grad():
        shapes_out = [tuple(value.shape) for value in graph(*example)]
    names_in, names_out = ["magnitude", state], ["masks", *["embedding"][: len(shapes_out) - 2], f"{state}_out"]
    spec = GraphSpec(
        file=file,
        sha256="",
        hops=example[0].shape[0],
        inputs=tuple(TensorSpec(name, tuple(value.shape)) for name, value in zip(names_in, example, strict=True)),
        outputs=tuple(TensorSpec(name, shape) for name, shape in zip(names_out, shapes_out, strict=True)),
        states=((state, f"{state}_out"),),
    )
    return onnx_bytes(graph, example, names_in, names_out), spec


def onnx_bytes(graph: nn.Module, example: tuple[Any, ...], names_in: list[str], names_out: list[str]) -> bytes:
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

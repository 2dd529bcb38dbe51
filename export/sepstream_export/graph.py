"""A trained network as ONNX bytes: fixed shapes, states in the open, masks out, and the embedding if there is a disk."""

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sepstream.contract import GraphSpec, TensorSpec
from sepstream_training.losses import class_masks
from sepstream_training.models import Network, StreamingNetwork
from sepstream_training.models.recurrent import Lstm
from sepstream_training.recipe import WindowSpec

OPSET = 20
FOUND = ("masks", "embedding")  # outputs that are no states


class StepGraph(nn.Module):
    """What a call of the bundle does: magnitude (hops, bins), states -> masks (hops, classes, bins), embedding, states.

    Of a network without a disk, the embedding is left out.
    """

    def __init__(self, network: StreamingNetwork, levels: list[slice]) -> None:
        super().__init__()
        self.network, self.levels = network, levels
        self.several = isinstance(network.initial_state(), tuple)

    def forward(self, magnitude: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        logits, embedding, after = self.network.step(magnitude[None], states if self.several else states[0])
        return class_masks(logits, self.levels)[0], *_if_any(embedding[0]), *(after if self.several else [after])


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
    graph = WindowGraph(network, levels, window.past)
    return export_module(graph, example, ["magnitude"], FOUND, ["context"], f"window{window.hops}.onnx")


def export_graph(network: StreamingNetwork, levels: list[slice], hops: int) -> tuple[bytes, GraphSpec]:
    """The ONNX file of ``hops`` frames per call, and its description without the hash (contract.write_bundle fills it in)."""
    state = network.initial_state()
    states = state if isinstance(state, tuple) else (state,)
    names = [f"state{i}" for i in range(len(states))] if isinstance(state, tuple) else ["state"]
    example = (torch.rand(hops, network.bins), *states)
    return export_module(StepGraph(network, levels), example, ["magnitude"], FOUND, names, f"hops{hops}.onnx")


def export_module(  # noqa: PLR0917  # in the order of the graph
    graph: nn.Module, example: tuple[Tensor, ...], given: Sequence[str], found: Sequence[str], states: Sequence[str], file: str
) -> tuple[bytes, GraphSpec]:
    """``graph`` of (given, states) -> (found, of which the last may be missing, states), for inputs of the shapes of ``example``;
    the first of them holds the hops."""
    graph = graph.eval()
    with torch.no_grad():
        shapes_out = [tuple(value.shape) for value in graph(*example)]
    found = found[: len(shapes_out) - len(states)]
    names_in, names_out = [*given, *states], [*found, *(f"{state}_out" for state in states)]
    spec = GraphSpec(
        file=file,
        sha256="",
        hops=example[0].shape[0],
        inputs=tuple(TensorSpec(name, tuple(value.shape)) for name, value in zip(names_in, example, strict=True)),
        outputs=tuple(TensorSpec(name, shape) for name, shape in zip(names_out, shapes_out, strict=True)),
        states=tuple((state, f"{state}_out") for state in states),
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
    return _without_notes(program.model_proto)


def _without_notes(model: Any) -> bytes:
    """The exporter notes at every node in whose folders it was made: nobody's business, and no part of the model."""
    for part in (model.graph, *model.functions):
        noted = [part, *part.node, *part.value_info, *getattr(part, "initializer", ()), *getattr(part, "output", ())]
        for each in noted:
            if hasattr(each, "metadata_props"):
                del each.metadata_props[:]
                each.doc_string = ""
    del model.metadata_props[:]
    return bytes(model.SerializeToString())

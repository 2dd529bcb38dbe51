"""Conditioned networks as graphs, and law 7 for them: torch whole = torch step = ONNX Runtime step = Pipeline, with numbers.

They are asked for blends there, not for one class each, so that the condition is proven with the rest: from the manifest's
classes through selection and pipeline to the graph.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from sepstream.contract import MAGNITUDE, SPECTRA, Bundle, GraphSpec
from sepstream.pipeline import Pipeline
from sepstream.selection import Selection, Weight
from sepstream.separator import Separator
from sepstream_training.models import Conditioned, StreamingLaSaft
from sepstream_training.recipe import WindowSpec

from .graph import export_module
from .parity import C128, F32, F64, Parity, apart, snr_db, spectra_of, synthesized, test_signal

BLEND = (0.75, 0.5)  # of a target's own class, and of the next one


class AskedStep(nn.Module):
    """What a call does: signal (hops, ...), condition (classes, classes), states -> masks or spectra (hops, classes, ...),
    states."""

    def __init__(self, network: StreamingLaSaft) -> None:
        super().__init__()
        self.network = network

    def forward(self, signal: Tensor, condition: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        found, after = self.network.step(signal[None], condition[None], states)
        return found[0], *after


class AskedWindow(nn.Module):
    """The same of a network that hears both ways, with a look-ahead: its state is the context (past + future, ...)."""

    def __init__(self, network: Conditioned, past: int) -> None:
        super().__init__()
        self.network, self.past = network, past

    def forward(self, signal: Tensor, condition: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        hops, heard = len(signal), torch.cat([context, signal])
        found = self.network.respond(heard[None], condition[None], self.network.memory())[0]
        return found[self.past : self.past + hops], heard[hops:]


def export_asked(network: Conditioned, window: WindowSpec, many_hops: int) -> list[tuple[bytes, GraphSpec]]:
    """The ONNX files of a network that is asked, and their descriptions: for one hop and for many, or in windows."""
    names = ((SPECTRA, "condition"), (SPECTRA,)) if network.is_complex else ((MAGNITUDE, "condition"), ("masks",))
    asked = network.identity()[0]
    if isinstance(network, StreamingLaSaft):
        states = network.initial_state()
        state_names = [f"state{index}" for index in range(len(states))]
        return [
            export_module(
                AskedStep(network),
                (network.example(hops)[0], asked, *states),
                *_apart_names(names),
                state_names,
                f"hops{hops}.onnx",
            )
            for hops in (1, many_hops)
        ]
    example = (network.example(window.hops)[0], asked, network.example(window.context)[0])
    graph = AskedWindow(network, window.past)
    return [export_module(graph, example, *_apart_names(names), ["context"], f"window{window.hops}.onnx")]


def _apart_names(names: tuple[Sequence[str], Sequence[str]]) -> tuple[list[str], list[str]]:
    """A graph's inputs and outputs are different values, so they have different names."""
    given, found = map(list, names)
    return given, [f"{name}_of_classes" if name in given else name for name in found]


def measure_asked(network: Conditioned, bundle: Bundle) -> Parity:
    """Run one test signal through all forms, asked for blends."""
    signal = test_signal(bundle)
    spectra = spectra_of(signal, bundle)
    heard = _layout(spectra, bundle)
    weights, condition = _blends(bundle)
    whole, step = _forms(network, bundle, heard, torch.from_numpy(condition))
    one, many = (_onnx(bundle, heard, graph.hops, condition) for graph in (bundle.graphs[0], bundle.graphs[-1]))
    unit = max(float(np.abs(whole).max()), 1e-9) if bundle.gives_spectra else 1.0
    selection = replace(Selection.stems(bundle, "all"), conditions=weights)
    pipeline = Pipeline(bundle, selection, 1, provider="cpu", hops=bundle.graphs[0].hops)
    played = pipeline.process(signal[None].astype(np.float32))[:, 0, pipeline.block_samples :]
    wanted = synthesized(_chosen(spectra, whole, bundle), bundle)
    in_one_piece = _in_one_piece(network, bundle, spectra, (heard, condition))
    return Parity(
        torch_step=apart(whole, step) / unit,
        onnx_step=apart(whole, one) / unit,
        onnx_many=apart(whole, many) / unit,
        embedding=None,
        disk_head=None,
        pipeline_snr_db=snr_db(wanted[:, : played.shape[1]], played),
        window_snr_db=snr_db(in_one_piece, wanted) if bundle.kind == "window" else None,
    )


def _blends(bundle: Bundle) -> tuple[tuple[Weight, ...], F32]:
    """What is asked for, as controls and as the matrix that they should make."""
    names, own, other = bundle.class_names, *BLEND
    pairs = list(zip(names, names[1:] + names[:1], strict=True))
    weights = [weight for name, after in pairs for weight in (Weight(name, name, own), Weight(name, after, other))]
    eye = np.eye(len(names), dtype=np.float32)
    return tuple(weights), np.float32(own) * eye + np.float32(other) * np.roll(eye, 1, axis=1)


def _layout(spectra: C128, bundle: Bundle) -> F32:
    """(frames, bins) of a mono signal -> what the graph hears of it."""
    band = spectra[:, : bundle.band.bins] * bundle.stft.magnitude_scale
    if not bundle.gives_spectra:
        return np.abs(band).astype(np.float32)
    planes = np.stack([band.real, band.imag], axis=-1)[:, None]
    return np.repeat(planes, bundle.graph_channels, axis=1).astype(np.float32)


def _forms(network: Conditioned, bundle: Bundle, heard: F32, condition: Tensor) -> tuple[F32, F32]:
    """What the network finds, in torch: in the whole signal (cut into windows, for a bundle of that kind), and call by call."""
    signal, hops = torch.from_numpy(heard), bundle.graphs[0].hops
    with torch.no_grad():
        if isinstance(network, StreamingLaSaft):
            whole = network.respond(signal[None], condition[None], network.memory())[0]
            return whole.numpy(), _calls(AskedStep(network), network.initial_state(), signal, 1, condition)
        context = bundle.graphs[0].states_in[0].shape[0]
        past = context - bundle.lookahead_hops
        padded = torch.cat([network.example(context)[0], signal])
        windows = [padded[start : start + context + hops] for start in range(0, len(signal), hops)]
        found = [network.respond(each[None], condition[None], network.memory())[0, past : past + hops] for each in windows]
        fresh = (network.example(context)[0],)
        return torch.cat(found).numpy(), _calls(AskedWindow(network, past), fresh, signal, hops, condition)


def _calls(
    graph: Callable[..., tuple[Tensor, ...]], states: Sequence[Tensor], signal: Tensor, hops: int, condition: Tensor
) -> F32:
    """``hops`` frames per call, the states handed on."""
    parts = []
    for start in range(0, len(signal), hops):
        found, *states = graph(signal[start : start + hops], condition, *states)
        parts.append(found)
    whole: F32 = torch.cat(parts).numpy()
    return whole


def _onnx(bundle: Bundle, heard: F32, hops: int, condition: F32) -> F32:
    separator = Separator(bundle, hops, "cpu", max(bundle.graph_channels, 1))
    state, parts = separator.initial_state(), []
    for start in range(0, len(heard) - hops + 1, hops):
        found, state = separator.step(heard[start : start + hops], state, condition)
        parts.append(found.masks.copy())
    return np.concatenate(parts)


def _chosen(spectra: C128, found: F32, bundle: Bundle) -> C128:
    """(frames, bins) of the mix, and what was found in it, the look-ahead later -> (frames, classes, bins) in float64."""
    band, late = bundle.band, bundle.lookahead_hops
    mix = np.concatenate([np.zeros_like(spectra[:late]), spectra])[: len(found)]
    follow = slice(band.follow_low, band.follow_high)
    if not bundle.gives_spectra:
        masks = found.astype(np.float64)
        above = masks[:, :, follow].mean(axis=2, keepdims=True) * mix[:, None, band.bins :]
        return np.concatenate([masks * mix[:, None, : band.bins], above], axis=2)
    first = found[:, :, 0].astype(np.float64) / bundle.stft.magnitude_scale
    classes = first[..., 0] + 1j * first[..., 1]
    common = (classes[:, :, follow] * mix[:, None, follow].conj()).real.sum(axis=2)
    energy = np.square(np.abs(mix[:, follow])).sum(axis=1)[:, None]
    share = np.clip(common / np.maximum(energy, 1e-30), 0, 1)
    return np.concatenate([classes, share[:, :, None] * mix[:, None, band.bins :]], axis=2)


def _in_one_piece(network: Conditioned, bundle: Bundle, spectra: C128, asked: tuple[F32, F32]) -> F64:
    """The sound of the network on the whole signal, which windows cut."""
    heard, condition = (torch.from_numpy(each)[None] for each in asked)
    with torch.no_grad():
        whole = network.respond(heard, condition, network.memory())[0].numpy()
    late = np.concatenate([whole[: bundle.lookahead_hops], whole])[: len(whole)]
    return synthesized(_chosen(spectra, late, bundle), bundle)

"""Law 7: torch whole = torch step = ONNX Runtime step = Pipeline, and the manifest's disk head is the network's. With numbers.

Called by package.py with a finished trial bundle, before anything is written where it was asked for.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sepstream import disk
from sepstream.contract import Bundle, DiskSpec
from sepstream.errors import BundleError
from sepstream.pipeline import Pipeline
from sepstream.selection import Selection
from sepstream.separator import Separator
from sepstream_training.losses import class_masks
from sepstream_training.models import Network, StreamingNetwork
from sepstream_training.models.streaming import tie

from .graph import WindowGraph

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
C128 = NDArray[np.complex128]

FRAMES = 480
WINDOWS = 3  # or as many calls as this, where that is longer
MASK_LIMIT = 1e-3  # largest difference of any mask value: -60 dB of the bin, far below what masking itself leaves
AUDIO_LIMIT_DB = 80.0


class Found(NamedTuple):
    """``masks`` (frames, classes, bins) and ``embedding`` (frames, dim, bins; dim 0 without a disk) of one signal."""

    masks: F32
    embedding: F32


@dataclass(frozen=True)
class Parity:
    """Largest differences against torch on the whole signal (cut into windows, for a bundle of that kind): of any mask value,
    of any embedding (relative where it is longer than 1); of masks that the manifest's disk head makes of the graph's
    embedding against the graph's own; and how far the Pipeline's sound lies above its difference from a float64
    overlap-add, in dB. A model without a disk has neither embedding nor head.

    ``window_snr_db`` proves nothing: so far does the sound of the network on the whole signal lie above what cutting it into
    windows changes."""

    torch_step: float
    onnx_step: float
    onnx_many: float
    embedding: float | None
    disk_head: float | None
    pipeline_snr_db: float
    window_snr_db: float | None = None

    def as_dict(self) -> dict[str, float]:
        return {name: float(f"{value:.3g}") for name, value in asdict(self).items() if value is not None}

    @property
    def holds(self) -> bool:
        """False for NaN, too."""
        apart = (self.torch_step, self.onnx_step, self.onnx_many, self.embedding, self.disk_head)
        return all(value <= MASK_LIMIT for value in apart if value is not None) and self.pipeline_snr_db >= AUDIO_LIMIT_DB


def measure(network: Network, levels: Sequence[slice], bundle: Bundle) -> Parity:
    """Run one test signal through all forms. Raises BundleError where they part."""
    signal = _signal(bundle)
    spectra = _spectra(signal, bundle)
    magnitude = (np.abs(spectra[:, : bundle.band.bins]) * bundle.stft.magnitude_scale).astype(np.float32)
    whole, step = _forms(network, list(levels), bundle, magnitude)
    one, many = (_onnx(bundle, magnitude, graph.hops) for graph in (bundle.graphs[0], bundle.graphs[-1]))
    parity = Parity(
        torch_step=_apart(whole.masks, step.masks),
        onnx_step=_apart(whole.masks, one.masks),
        onnx_many=_apart(whole.masks, many.masks),
        embedding=max(_relatively_apart(whole.embedding, each.embedding) for each in (step, one, many)) if bundle.disk else None,
        disk_head=_apart(one.masks, _manifest_masks(one, levels, bundle.disk, network.tied)) if bundle.disk else None,
        pipeline_snr_db=_pipeline_snr_db(signal, spectra, whole.masks, bundle),
        window_snr_db=_window_snr_db(network, list(levels), bundle, spectra, whole.masks),
    )
    if not parity.holds:
        raise BundleError(
            f"bundle '{bundle.name}': parity failed, {parity.as_dict()}; expected differences within {MASK_LIMIT} and sound "
            f"within {AUDIO_LIMIT_DB:g} dB; the export does not compute what was trained: nothing was written, please report it"
        )
    return parity


def _signal(bundle: Bundle) -> F64:
    """(samples,) bursts of gliding harmonics and noise over a wide range of levels, with silence between."""
    rng = np.random.default_rng(7)
    call = bundle.graphs[-1].hops
    samples = max(FRAMES // call, WINDOWS) * call * bundle.stft.hop_samples
    seconds = np.arange(samples) / bundle.sample_rate_hz
    phase = 2 * np.pi * np.cumsum(110 * 2 ** np.sin(2 * np.pi * 0.7 * seconds)) / bundle.sample_rate_hz
    tones = sum(np.sin(k * phase) / k for k in range(1, 20))
    level = (10 ** rng.uniform(-4, -0.5, 16) * (rng.random(16) > 0.2))[np.arange(samples) * 16 // samples]
    return np.asarray(0.1 * level * (tones + rng.standard_normal(samples)))


def _spectra(signal: F64, bundle: Bundle) -> C128:
    """(frames, bins) in float64, the frame of hop n ending with hop n."""
    spec = bundle.stft
    padded = np.concatenate([np.zeros(spec.analysis_samples - spec.hop_samples), signal])
    frames = np.lib.stride_tricks.sliding_window_view(padded, spec.analysis_samples)[:: spec.hop_samples]
    return np.fft.rfft(frames * spec.windows().analysis)


def _forms(network: Network, levels: list[slice], bundle: Bundle, magnitude: F32) -> tuple[Found, Found]:
    """What the network itself finds, in torch: in the whole signal, and step by step."""
    if isinstance(network, StreamingNetwork):
        return _steps(network, levels, magnitude, len(magnitude)), _steps(network, levels, magnitude, 1)
    context, hops = bundle.graphs[0].inputs[1].shape[0], bundle.graphs[0].hops
    past = context - bundle.lookahead_hops
    heard = np.concatenate([np.zeros((context, magnitude.shape[1]), np.float32), magnitude])
    windows = [heard[start : start + context + hops] for start in range(0, len(magnitude), hops)]
    found = [_whole(network, levels, window) for window in windows]
    whole = _joined([Found(*(part[past : past + hops] for part in each)) for each in found])
    return whole, _calls(WindowGraph(network, levels, past), torch.zeros(context, magnitude.shape[1]), magnitude, hops)


def _whole(network: Network, levels: list[slice], magnitude: F32) -> Found:
    with torch.no_grad():
        logits, embedding = network(torch.from_numpy(magnitude[None]))
    return Found(class_masks(logits, levels)[0].numpy(), embedding[0].numpy())


def _steps(network: StreamingNetwork, levels: list[slice], magnitude: F32, hops: int) -> Found:
    """``hops`` frames per step."""
    state, found = network.initial_state(), []
    with torch.no_grad():
        for frames in torch.split(torch.from_numpy(magnitude)[None], hops, dim=1):
            logits, embedding, state = network.step(frames, state)
            found.append(Found(class_masks(logits, levels)[0].numpy(), embedding[0].numpy()))
    return _joined(found)


def _calls(graph: WindowGraph, context: Tensor, magnitude: F32, hops: int) -> Found:
    """``hops`` frames per call, the context handed on."""
    found = []
    with torch.no_grad():
        for start in range(0, len(magnitude), hops):
            masks, *embedding, context = graph(torch.from_numpy(magnitude[start : start + hops]), context)
            nowhere = masks[:, :0]
            found.append(Found(masks.numpy(), *(each.numpy() for each in embedding or [nowhere])))
    return _joined(found)


def _onnx(bundle: Bundle, magnitude: F32, hops: int) -> Found:
    separator = Separator(bundle, hops, "cpu")
    state, found = separator.initial_state(), []
    for start in range(0, len(magnitude) - hops + 1, hops):
        separation, state = separator.step(magnitude[start : start + hops], state)
        found.append(Found(separation.masks.copy(), separation.embedding.copy()))
    return _joined(found)


def _joined(found: Sequence[Found]) -> Found:
    return Found(np.concatenate([f.masks for f in found]), np.concatenate([f.embedding for f in found]))


def _manifest_masks(found: Found, levels: Sequence[slice], head: DiskSpec, tied: Sequence[int]) -> F32:
    """The masks that the engine's own disk geometry makes of an embedding."""
    logits = torch.from_numpy(disk.logits(disk.lift(found.embedding, head.curvature), head))
    return class_masks((tie(logits, tied) if tied else logits)[None], list(levels))[0].numpy()


def _apart(one: F32, other: F32) -> float:
    return float(np.abs(one[: len(other)] - other).max())


def _relatively_apart(one: F32, other: F32) -> float:
    return float((np.abs(one[: len(other)] - other) / np.maximum(1, np.abs(other))).max())


def _pipeline_snr_db(signal: F64, spectra: C128, masks: F32, bundle: Bundle) -> float:
    """The sound of the Pipeline, one hop at a time, against a float64 overlap-add of the torch masks."""
    pipeline = Pipeline(bundle, Selection.stems(bundle, "all"), 1, provider="cpu", hops=bundle.graphs[0].hops)
    heard = pipeline.process(signal[None].astype(np.float32))[:, 0, pipeline.block_samples :]
    return _snr_db(_overlap_add(spectra, masks, bundle)[:, : heard.shape[1]], heard)


def _window_snr_db(network: Network, levels: list[slice], bundle: Bundle, spectra: C128, masks: F32) -> float | None:
    """The sound of the network on the whole signal, against that of ``masks`` found in windows."""
    if bundle.kind != "window":
        return None
    magnitude = (np.abs(spectra[:, : bundle.band.bins]) * bundle.stft.magnitude_scale).astype(np.float32)
    whole = _whole(network, levels, magnitude).masks
    late = np.concatenate([whole[: bundle.lookahead_hops], whole])[: len(masks)]
    return _snr_db(_overlap_add(spectra, late, bundle), _overlap_add(spectra, masks, bundle))


def _snr_db(wanted: F64, heard: NDArray[Any]) -> float:
    return float(10 * np.log10(np.square(wanted).sum() / np.square(heard - wanted).sum()))


def _overlap_add(spectra: C128, masks: F32, bundle: Bundle) -> F64:
    """(frames, bins), (frames, classes, band bins) -> (classes, samples), delayed like Pipeline.step (look-ahead included)."""
    spec, band, late = bundle.stft, bundle.band, bundle.lookahead_hops
    spectra = np.concatenate([np.zeros_like(spectra[:late]), spectra])[: len(masks)]
    above = masks[:, :, band.follow_low : band.follow_high].mean(axis=2, keepdims=True)
    full = np.concatenate([masks, np.broadcast_to(above, (*masks.shape[:2], spec.bins - band.bins))], axis=2)
    tails = np.fft.irfft(full * spectra[:, None])[:, :, -spec.synthesis_samples :] * spec.windows().synthesis
    out = np.zeros((masks.shape[1], (len(masks) + 1) * spec.hop_samples + spec.synthesis_samples))
    for n, tail in enumerate(tails):
        out[:, n * spec.hop_samples : n * spec.hop_samples + spec.synthesis_samples] += tail
    return out

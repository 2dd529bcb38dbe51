"""Law 7: torch whole = torch step = ONNX Runtime step = Pipeline, with numbers."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sepstream.contract import Bundle
from sepstream.errors import BundleError
from sepstream.pipeline import Pipeline
from sepstream.selection import Selection
from sepstream.separator import Separator
from sepstream_training.losses import class_masks

F64 = NDArray[np.float64]

FRAMES = 480
MASK_LIMIT = 1e-3  # largest difference of any mask value: -60 dB of the bin, far below what masking itself leaves
AUDIO_LIMIT_DB = 80.0


@dataclass(frozen=True)
class Parity:
    """Largest differences of any mask value against torch on the whole signal, and of the sound itself in dB below it."""

    torch_step: float
    onnx_step: float
    onnx_many: float
    pipeline_snr_db: float

    def as_dict(self) -> dict[str, float]:
        return {name: float(f"{value:.3g}") for name, value in asdict(self).items()}


def measure(network: Any, levels: list[slice], bundle: Bundle) -> Parity:
    """Run one test signal through all four forms. Raises BundleError where they part."""
    signal = _signal(bundle)
    spectra = _spectra(signal, bundle)
    magnitude = (np.abs(spectra[:, : bundle.band.bins]) * bundle.stft.magnitude_scale).astype(np.float32)
    whole = _torch_masks(network, levels, magnitude)
    parity = Parity(
        torch_step=_apart(whole, _torch_step_masks(network, levels, magnitude)),
        onnx_step=_apart(whole, _onnx_masks(bundle, magnitude, bundle.graphs[0].hops)),
        onnx_many=_apart(whole, _onnx_masks(bundle, magnitude, bundle.graphs[-1].hops)),
        pipeline_snr_db=_pipeline_snr_db(signal, spectra, whole, bundle),
    )
    worst = max(parity.torch_step, parity.onnx_step, parity.onnx_many)
    if worst > MASK_LIMIT or parity.pipeline_snr_db < AUDIO_LIMIT_DB:
        raise BundleError(
            f"bundle '{bundle.name}': parity failed, {parity.as_dict()}; expected masks within {MASK_LIMIT} and sound within "
            f"{AUDIO_LIMIT_DB} dB; the export does not compute what was trained"
        )
    return parity


def _signal(bundle: Bundle) -> F64:
    """(samples,) bursts of gliding harmonics and noise over a wide range of levels, with silence between."""
    rng = np.random.default_rng(7)
    samples = FRAMES * bundle.stft.hop_samples
    seconds = np.arange(samples) / bundle.sample_rate_hz
    phase = 2 * np.pi * np.cumsum(110 * 2 ** np.sin(2 * np.pi * 0.7 * seconds)) / bundle.sample_rate_hz
    tones = sum(np.sin(k * phase) / k for k in range(1, 20))
    level = 10 ** (rng.uniform(-4, -0.5, 16) * (rng.random(16) > 0.2))[np.arange(samples) * 16 // samples]
    return np.asarray(0.1 * level * (tones + rng.standard_normal(samples)))


def _spectra(signal: F64, bundle: Bundle) -> NDArray[np.complex128]:
    """(frames, bins) in float64, the frame of hop n ending with hop n."""
    spec = bundle.stft
    padded = np.concatenate([np.zeros(spec.analysis_samples - spec.hop_samples), signal])
    frames = np.lib.stride_tricks.sliding_window_view(padded, spec.analysis_samples)[:: spec.hop_samples]
    return np.fft.rfft(frames * spec.windows().analysis)


def _torch_masks(network: Any, levels: list[slice], magnitude: Any) -> Any:
    with torch.no_grad():
        logits, _, _ = network.step(torch.from_numpy(magnitude)[None], network.initial_state())
        return class_masks(logits, levels)[0].numpy()


def _torch_step_masks(network: Any, levels: list[slice], magnitude: Any) -> Any:
    state, masks = network.initial_state(), []
    with torch.no_grad():
        for frame in torch.from_numpy(magnitude):
            logits, _, state = network.step(frame[None, None], state)
            masks.append(class_masks(logits, levels)[0, 0].numpy())
    return np.stack(masks)


def _onnx_masks(bundle: Bundle, magnitude: Any, hops: int) -> Any:
    separator = Separator(bundle, hops, "cpu")
    state, masks = separator.initial_state(), []
    for start in range(0, len(magnitude) - hops + 1, hops):
        found, state = separator.step(magnitude[start : start + hops], state)
        masks.append(found.masks.copy())
    return np.concatenate(masks)


def _apart(whole: Any, other: Any) -> float:
    return float(np.abs(whole[: len(other)] - other).max())


def _pipeline_snr_db(signal: F64, spectra: Any, masks: Any, bundle: Bundle) -> float:
    """The sound of the Pipeline, one hop at a time, against a float64 overlap-add of the torch masks."""
    pipeline = Pipeline(bundle, Selection.stems(bundle, "all"), 1, provider="cpu")
    heard = pipeline.process(signal[None].astype(np.float32))[:, 0, bundle.stft.hop_samples :]
    wanted = _overlap_add(spectra, masks, bundle)[:, : heard.shape[1]]
    return float(10 * np.log10(np.square(wanted).sum() / np.square(heard - wanted).sum()))


def _overlap_add(spectra: Any, masks: Any, bundle: Bundle) -> F64:
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

"""What the networks are asked for: class decisions per bin (mask), spectra (spectrogram), and sources as they will be heard.

Every loss is a scalar of logits or masks (B, T, K, F) and the ``Scene`` they should explain, K classes in the
order of the taxonomy; ``total`` weighs them as a recipe says. Facts on the reference losses: hyper-unmix, arXiv 2212.05008.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from sepstream.contract import StftSpec

from .recipe import LossSpec

TINY = 1e-8
SILENT = 1e-4  # -40 dB: a class below this share of the mixture's power is asked for silence
FLOOR = 1e-3  # -30 dB: better than this is good enough


class Scene(NamedTuple):
    """What the losses need of a mixture and its stems; powers are summed over channels, for a mask acts on all alike."""

    magnitude: Tensor  # (B, T, F) of the mixture, root mean square over channels: what the network sees
    mix: Tensor  # (B, T, F) power of the mixture
    stems: Tensor  # (B, T, K, F) power of each class
    cross: Tensor  # (B, T, K, F) real part of conj(mixture) * class
    leaves: Tensor  # (B, C, T, leaves, F) complex spectra
    families: list[list[int]]  # the leaves of each parent; empty where classes are flat

    def until(self, frame: int) -> "Scene":
        """Without the frames from ``frame`` on."""
        magnitude, mix, stems, cross = (each[:, :frame] for each in (self.magnitude, self.mix, self.stems, self.cross))
        return Scene(magnitude, mix, stems, cross, self.leaves[:, :, :frame], self.families)


class Waves:
    """(..., T, F) complex spectra of frames one hop apart -> (..., samples), as the engine will synthesize them.

    Only samples that every frame over them is known of, so that the spectra of a signal give that signal (T - 1 hops of it,
    from sample analysis - synthesis + hop of the first frame on); bins above F are silent.
    """

    def __init__(self, stft: StftSpec) -> None:
        self.stft = stft
        self.window = torch.tensor(stft.windows().synthesis / stft.magnitude_scale)

    def __call__(self, spectra: Tensor) -> Tensor:
        size, tail, hop = self.stft.analysis_samples, self.stft.synthesis_samples, self.stft.hop_samples
        frames = torch.fft.irfft(spectra, size)[..., size - tail :]
        frames = frames * self.window.to(frames)
        late = torch.nn.functional.pad(frames[..., :-1, hop:], (0, 2 * hop - tail))
        whole: Tensor = frames[..., 1:, :hop] + late
        return whole.flatten(-2)


def make_scene(leaves: Tensor, families: list[list[int]]) -> Scene:
    """(B, C, T, leaves, F) complex spectra -> Scene; parents, the sums of their ``families``, come first."""
    mix = leaves.sum(dim=3)
    power = _power(mix).sum(dim=1)
    leaf_cross = (mix.real[:, :, :, None] * leaves.real + mix.imag[:, :, :, None] * leaves.imag).sum(dim=1)
    stems = _power(with_parents(leaves, families, 3)).sum(dim=1)
    cross = with_parents(leaf_cross, families, 2)
    return Scene((power / leaves.shape[1]).sqrt(), power, stems, cross, leaves, families)


def with_parents(leaves: Tensor, families: list[list[int]], dim: int) -> Tensor:
    """All classes along ``dim``: the sum of each family's leaves, then the leaves themselves."""
    sums = [leaves[(slice(None),) * dim + (members,)].sum(dim=dim, keepdim=True) for members in families]
    return torch.cat([*sums, leaves], dim=dim)


def total(logits: Tensor, scene: Scene, levels: list[slice], spec: LossSpec, waves: Waves) -> dict[str, Tensor]:
    """``loss``, the weighted sum of the terms of ``spec``, and the terms themselves; ``sdr`` always, for it compares runs.

    The mask term needs ``levels``; without any, masks are independent, and ``logits`` are these.
    """
    log_masks = class_log_masks(logits, levels) if levels else None
    masks = logits if log_masks is None else log_masks.exp()
    terms = {"sdr": sdr_loss(masks, scene)}
    if spec.mask and log_masks is not None:
        terms["mask"] = mask_loss(log_masks, scene, levels, weighted=spec.magnitude_weights)
    if spec.spectrogram:
        terms["spectrogram"] = spectrogram_loss(masks, scene)
    if spec.needs_waveforms:
        heard, wanted = waveforms(masks, scene, waves)
        if spec.waveform:
            terms["waveform"] = waveform_loss(heard, wanted)
        if spec.si_sdr:
            terms["si_sdr"] = si_sdr_loss(heard, wanted)
    loss = torch.stack([getattr(spec, name) * term for name, term in terms.items()]).sum()
    return {"loss": loss, **terms}


def class_masks(logits: Tensor, levels: list[slice]) -> Tensor:
    """A softmax per level of the class tree: each level's masks sum to one. Without levels, the ``logits`` are the masks."""
    return torch.cat([logits[:, :, level].softmax(dim=2) for level in levels], dim=2) if levels else logits


def class_log_masks(logits: Tensor, levels: list[slice]) -> Tensor:
    """The logarithm of ``class_masks``: one softmax serves both losses."""
    return torch.cat([logits[:, :, level].log_softmax(dim=2) for level in levels], dim=2)


def mask_loss(log_masks: Tensor, scene: Scene, levels: list[slice], weighted: bool = True) -> Tensor:
    """Cross-entropy to the dominant source of each bin; ``weighted`` by the mixture's magnitude (mean 1 per item).

    Mean over items and bins, sum over levels: as many times hyper-unmix's mask loss as there are classes.
    """
    weight = scene.magnitude / scene.magnitude.mean(dim=(1, 2), keepdim=True).clamp_min(TINY)
    weight = weight if weighted else torch.ones_like(weight)
    loss = log_masks.new_zeros(())
    for level in levels:
        target = scene.stems[:, :, level].argmax(dim=2, keepdim=True)
        loss = loss - (weight[:, :, None] * log_masks[:, :, level].gather(2, target)).mean()
    return loss


def spectrogram_loss(masks: Tensor, scene: Scene) -> Tensor:
    """L1 of mask * |X| to the truncated phase-sensitive target min(max(|S| cos(S - X), 0), |X|), mean over all.

    Erdogan, Hershey, Watanabe, Le Roux 2015 (Phase-sensitive and recognition-boosted speech separation). |S| cos / |X| is
    Re(X* S) / |X|^2; over channels it is the projection of all of S on all of X.
    """
    share = (scene.cross / scene.mix.clamp_min(TINY**2)[:, :, None]).clamp(0, 1)
    return (scene.magnitude[:, :, None] * (masks - share).abs()).mean()


def sdr_loss(masks: Tensor, scene: Scene) -> Tensor:
    """Negative signal-to-distortion ratio in dB of mask * mixture against each class, mean over classes.

    By Parseval on the STFT: |mX - S|^2 = m^2 |X|^2 - 2 m Re(X* S) + |S|^2. A silent class asks for silence:
    its output against the mixture.
    """
    error = (masks.square() * scene.mix[:, :, None] - 2 * masks * scene.cross + scene.stems).sum(dim=(1, 3))  # (B, K)
    wanted = scene.stems.sum(dim=(1, 3))
    heard = scene.mix.sum(dim=(1, 2))[:, None]
    reference = torch.where(wanted > SILENT * heard, wanted, heard)
    return (10 * torch.log10(error.clamp_min(0) / reference.clamp_min(TINY) + FLOOR)).mean()


def waveforms(masks: Tensor, scene: Scene, waves: Waves) -> tuple[Tensor, Tensor]:
    """(B, C, K, samples) of each class: what the masks make of the mixture, and what they should."""
    leaves = scene.leaves.transpose(2, 3)  # (B, C, leaves, T, F)
    heard = waves(leaves.sum(dim=2, keepdim=True) * masks.transpose(1, 2)[:, None])
    return heard, with_parents(waves(leaves), scene.families, 2)


def waveform_loss(heard: Tensor, wanted: Tensor) -> Tensor:
    """L1 of (B, C, K, samples), mean over all."""
    return (heard - wanted).abs().mean()


def si_sdr_loss(heard: Tensor, wanted: Tensor) -> Tensor:
    """Negative scale-invariant SDR in dB of (B, C, K, samples), channels as one signal, means removed; mean over classes.

    Le Roux, Wisdom, Erdogan, Hershey 2019 (arXiv 1811.02508), eq. 3-5. A silent class has none: it asks for silence.
    """
    heard, wanted = heard - heard.mean(dim=-1, keepdim=True), wanted - wanted.mean(dim=-1, keepdim=True)
    own, inner = wanted.square().sum(dim=(1, 3)), (heard * wanted).sum(dim=(1, 3))  # (B, K)
    loud = own.amax(dim=1, keepdim=True)  # of the loudest class, about the mixture
    signal = inner.square() / own.clamp_min(TINY)
    error = (heard.square().sum(dim=(1, 3)) - signal).clamp_min(0)
    ratio = error / torch.where(own > SILENT * loud, signal, loud).clamp_min(TINY)
    return (10 * torch.log10(ratio + FLOOR)).mean()


def _power(spectra: Tensor) -> Tensor:
    return spectra.real.square() + spectra.imag.square()

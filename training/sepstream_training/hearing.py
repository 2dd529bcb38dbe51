"""Stems through a network as they will be heard: masks on the spectrum of every hop, overlap-add to sound.

The engine's path in torch, at the training rate: what validation scores and shows is what a listener would get.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .losses import class_masks, with_parents
from .recipe import Recipe


class Heard(NamedTuple):
    """One mixture taken apart: K classes, parents first; T frames, a hop apart; F bins that the network sees."""

    mixture: Tensor  # (C, samples)
    targets: Tensor  # (K, C, samples)
    estimates: Tensor  # (K, C, samples)
    magnitude: Tensor  # (T, F), where a full-scale sine is 0.5
    masks: Tensor  # (T, K, F)
    embedding: Tensor  # (T, dim, F), dim 0 where the network has no disk
    dominant: Tensor  # (T, F) number of the loudest leaf


class Hearing:
    """A recipe's path from stems to sounds; holds windows, no signal."""

    def __init__(self, recipe: Recipe) -> None:
        self.stft, self.recipe = recipe.training_stft, recipe
        windows, self.scale = self.stft.windows(), self.stft.magnitude_scale
        self.analysis = torch.tensor(windows.analysis, dtype=torch.float32)
        self.synthesis = torch.tensor(windows.synthesis, dtype=torch.float32)
        bin_hz = recipe.sample_rate_hz / recipe.stft.analysis_samples
        self.follow = slice(*(min(round(hz / bin_hz), recipe.band_bins) for hz in recipe.follow_hz))

    @torch.no_grad()
    def __call__(self, network: Any, leaves: Tensor) -> Heard:
        """(leaves, C, samples) stems -> what is heard through ``network``."""
        mixture, bins = leaves.sum(dim=0), self.recipe.band_bins
        spectrum = self.spectra(mixture)
        magnitude = spectrum.abs().square().mean(dim=0).sqrt()[:, :bins] * self.scale
        late = self.recipe.lookahead_hops
        logits, embedding = (found[:, late:] for found in network(torch.nn.functional.pad(magnitude, (0, 0, 0, late))[None]))
        masks = class_masks(logits.float(), network.shares(self.recipe.levels))[0]
        heard = self.sound(spectrum * self._full_band(masks).transpose(0, 1)[:, None], mixture.shape[-1])
        power = self.spectra(leaves)[..., :bins].abs().square().sum(dim=1)
        targets = with_parents(leaves, self.recipe.families, 0)
        return Heard(mixture, targets, heard, magnitude, masks, embedding[0].float(), power.argmax(dim=0))

    def spectra(self, signal: Tensor) -> Tensor:
        """(..., samples) -> (..., T, bins), as many frames as it takes to hear the last sample."""
        n, hop, late = self.stft.analysis_samples, self.stft.hop_samples, self.stft.synthesis_samples - self.stft.hop_samples
        hops = -(-(signal.shape[-1] + late) // hop)
        padded = torch.nn.functional.pad(signal, (n - hop, hops * hop - signal.shape[-1]))
        spectra: Tensor = torch.fft.rfft(padded.unfold(-1, n, hop) * self.analysis.to(signal))
        return spectra

    def sound(self, spectra: Tensor, samples: int) -> Tensor:
        """(..., T, bins) -> (..., samples): only the ends of the frames are heard."""
        l, hop = self.stft.synthesis_samples, self.stft.hop_samples
        frames = torch.fft.irfft(spectra, self.stft.analysis_samples)[..., -l:]
        frames = frames * self.synthesis.to(frames)
        lead, count = frames.shape[:-2], frames.shape[-2]
        columns = frames.reshape(-1, count, l).transpose(1, 2)
        whole = torch.nn.functional.fold(columns, (1, (count - 1) * hop + l), (1, l), stride=(1, hop))
        return whole.view(*lead, -1)[..., l - hop : l - hop + samples]

    def _full_band(self, masks: Tensor) -> Tensor:
        """(T, K, F) -> (T, K, bins): the bins above the band follow the mean of its top."""
        above = masks[..., self.follow].mean(dim=-1, keepdim=True)
        return torch.cat([masks, above.expand(*above.shape[:-1], self.stft.bins - masks.shape[-1])], dim=-1)

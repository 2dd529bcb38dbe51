"""Stems through a network as they will be heard: masks on the spectrum of every hop, overlap-add to sound.

The engine's path in torch, at the training rate: what validation scores and shows is what a listener would get.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .losses import class_masks, classes_of
from .models import Conditioned
from .recipe import Recipe


class Heard(NamedTuple):
    """One mixture taken apart: K classes, parents first; T frames, a hop apart; F bins that the network sees."""

    mixture: Tensor  # (C, samples)
    targets: Tensor  # (K, C, samples)
    estimates: Tensor  # (K, C, samples)
    magnitude: Tensor  # (T, F), where a full-scale sine is 0.5
    masks: Tensor  # (T, K, F)
    sources: Tensor  # (T, K, F) magnitudes of the targets
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
        if isinstance(network, Conditioned):
            return self._asked(network, leaves, spectrum, magnitude)
        logits, embedding = (found[:, late:] for found in network(torch.nn.functional.pad(magnitude, (0, 0, 0, late))[None]))
        masks = class_masks(logits.float(), network.shares(self.recipe.levels))[0]
        heard = self.sound(spectrum * self._full_band(masks).transpose(0, 1)[:, None], mixture.shape[-1])
        targets, sources, dominant = self.truth(leaves)
        return Heard(mixture, targets, heard, magnitude, masks, sources, embedding[0].float(), dominant)

    def _asked(self, network: Conditioned, leaves: Tensor, spectrum: Tensor, magnitude: Tensor) -> Heard:
        """The same through a network that is asked for each class; its masks are what they look like, |class| / |mix|."""
        bins, late = magnitude.shape[-1], self.recipe.lookahead_hops
        mix = spectrum[..., :bins] * self.scale
        wishes = network.identity().to(magnitude)
        answer = network.answer(torch.nn.functional.pad(mix, (0, 0, 0, late))[None], wishes)[0, :, late:]  # (C, T, K, bins)
        shares = torch.einsum("ctkf,ctf->ctk", answer[..., self.follow], mix[..., self.follow].conj()).real
        power = mix[..., self.follow].abs().square().sum(dim=-1).clamp_min(1e-30)
        above = (shares / power[..., None]).clamp(0, 1)[..., None] * spectrum[:, :, None, bins:]
        whole = torch.cat([answer / self.scale, above], dim=-1).permute(2, 0, 1, 3)
        heard = self.sound(whole, leaves.shape[-1])
        loud = answer.abs().square().mean(dim=0).sqrt()
        masks = (loud / magnitude[:, None].clamp_min(1e-9)).clamp(0, 1)
        targets, sources, dominant = self.truth(leaves)
        return Heard(leaves.sum(dim=0), targets, heard, magnitude, masks, sources, masks[:, :0], dominant)

    def truth(self, leaves: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(leaves, C, samples) -> targets, sources and dominant, as in ``Heard``."""
        stems = self.spectra(leaves)[..., : self.recipe.band_bins]
        targets, apart = (classes_of(each, self.recipe.families, self.recipe.kept, 0) for each in (leaves, stems))
        sources = apart.abs().square().mean(dim=1).sqrt().transpose(0, 1) * self.scale
        return targets, sources, stems.abs().square().sum(dim=1).argmax(dim=0)

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

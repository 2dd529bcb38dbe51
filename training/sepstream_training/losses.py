"""What the networks are asked for: class decisions per bin (mask), and sources as they will be heard (sdr).

Every loss is a scalar of logits or masks (B, T, K, F) and the ``Scene`` they should explain, K classes in the
order of the taxonomy. Facts on the reference losses: hyper-unmix, arXiv 2212.05008.
"""

from typing import NamedTuple

import torch
from torch import Tensor

TINY = 1e-8
SILENT = 1e-4  # -40 dB: a class below this share of the mixture's power is asked for silence
FLOOR = 1e-3  # -30 dB: better than this is good enough


class Scene(NamedTuple):
    """What the losses need of a mixture and its stems, summed over channels; a mask acts on all channels alike."""

    magnitude: Tensor  # (B, T, F) of the mixture, root mean square over channels: what the network sees
    mix: Tensor  # (B, T, F) power of the mixture
    stems: Tensor  # (B, T, K, F) power of each class
    cross: Tensor  # (B, T, K, F) real part of conj(mixture) * class


def make_scene(leaves: Tensor, families: list[list[int]]) -> Scene:
    """(B, C, T, leaves, F) complex spectra -> Scene; parents, the sums of their ``families``, come first."""
    parents = torch.stack([leaves[:, :, :, members].sum(dim=3) for members in families], dim=3)
    mix = parents.sum(dim=3)
    power = _power(mix).sum(dim=1)
    leaf_cross = (mix.real[:, :, :, None] * leaves.real + mix.imag[:, :, :, None] * leaves.imag).sum(dim=1)
    parent_cross = torch.stack([leaf_cross[:, :, members].sum(dim=2) for members in families], dim=2)
    stems = torch.cat([_power(parents).sum(dim=1), _power(leaves).sum(dim=1)], dim=2)
    return Scene((power / leaves.shape[1]).sqrt(), power, stems, torch.cat([parent_cross, leaf_cross], dim=2))


def class_masks(logits: Tensor, levels: list[slice]) -> Tensor:
    """A softmax per level of the class tree: each level's masks sum to one."""
    return torch.cat([logits[:, :, level].softmax(dim=2) for level in levels], dim=2)


def class_log_masks(logits: Tensor, levels: list[slice]) -> Tensor:
    """The logarithm of ``class_masks``: one softmax serves both losses."""
    return torch.cat([logits[:, :, level].log_softmax(dim=2) for level in levels], dim=2)


def mask_loss(log_masks: Tensor, scene: Scene, levels: list[slice]) -> Tensor:
    """Cross-entropy to the dominant source of each bin, weighted by the mixture's magnitude (mean 1 per item).

    Mean over items and bins, sum over levels: as many times hyper-unmix's mask loss as there are classes.
    """
    weight = scene.magnitude / scene.magnitude.mean(dim=(1, 2), keepdim=True).clamp_min(TINY)
    total = log_masks.new_zeros(())
    for level in levels:
        target = scene.stems[:, :, level].argmax(dim=2, keepdim=True)
        total = total - (weight[:, :, None] * log_masks[:, :, level].gather(2, target)).mean()
    return total


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


def _power(spectra: Tensor) -> Tensor:
    return spectra.real.square() + spectra.imag.square()

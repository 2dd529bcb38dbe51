"""A vector-quantised autoencoder whose codes add up: half of two sounds together has the code of half their codes.

Mancusi, Postolache, Fumero, Santilli, Cosmo, Rodolà 2021 (Unsupervised Source Separation via Bayesian Inference in the Latent
Domain, arXiv 2110.05313), on the network of Jukebox (Dhariwal et al. 2020, arXiv 2005.00341), of whose three independent levels
only the topmost is needed. ``losses`` are theirs; ``sum`` is the one that makes the codes add up.
"""

from collections.abc import Sequence
from itertools import accumulate
from math import ceil, prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

ENOUGH_S = 600.0  # of sound, to know how loud the data is
PEAKS_WEIGHT, PEAKS = 0.02, 2048  # of the largest errors of each item, beside the mean of all
SPECTRA = ((2048, 240, 1200), (1024, 120, 600), (512, 50, 240))  # (FFT, hop, window) in samples
BANDWIDTH_SPECTRUM = (2048, 256, 1536)
USED = 1.0  # a code that a batch needs less often than this, on average, begins anew


class Coded(NamedTuple):
    """``vectors`` (B, dim, T) of the nearest codes, as if they were the encoder's own to a gradient; ``codes`` (B, T); how far
    the encoder's lie from them, ``commit``."""

    vectors: Tensor
    codes: Tensor
    commit: Tensor


class Quantiser(nn.Module):
    """A codebook that follows what it is given by moving averages; ``decay`` of each.

    The first training batch fills it. While it trains, every call moves it, and codes that nothing is near to are put where
    something is. Several processes of a run keep one codebook.
    """

    codebook: Tensor
    sums: Tensor
    counts: Tensor
    ready: Tensor

    def __init__(self, codes: int, dim: int, decay: float = 0.99) -> None:
        super().__init__()
        if codes < 2 or dim < 1 or not 0 <= decay < 1:
            raise ValueError(f"codes {codes}, dim {dim}, decay {decay}; expected codes >= 2, dim >= 1, 0 <= decay < 1")
        self.decay = decay
        self.register_buffer("codebook", torch.zeros(codes, dim))
        self.register_buffer("sums", torch.zeros(codes, dim))
        self.register_buffer("counts", torch.ones(codes))
        self.register_buffer("ready", torch.tensor(False))

    def forward(self, vectors: Tensor) -> Coded:
        """(B, dim, T)."""
        vectors = vectors.to(self.codebook)  # whatever the precision of the encoder
        flat = vectors.detach().transpose(1, 2).reshape(-1, vectors.shape[1])
        if self.training and not self.ready:
            self._fill(flat)
        codes = self.nearest(flat)
        near = self.codebook[codes].view(len(vectors), -1, vectors.shape[1]).transpose(1, 2)
        if self.training:
            self._follow(flat, codes)
        commit = (near - vectors).square().mean()
        return Coded(vectors + (near - vectors).detach(), codes.view(len(vectors), -1), commit)

    def nearest(self, vectors: Tensor) -> Tensor:
        """(..., dim) -> (...): |x - e|^2 without its constant |x|^2."""
        return (self.codebook.square().sum(dim=1) - 2 * vectors @ self.codebook.T).argmin(dim=-1)

    def _fill(self, vectors: Tensor) -> None:
        self.codebook.copy_(self._some(vectors))
        self.sums.copy_(self.codebook)
        self.counts.fill_(1.0)
        self.ready.fill_(True)

    def _follow(self, vectors: Tensor, codes: Tensor) -> None:
        count = torch.bincount(codes, minlength=len(self.codebook)).to(vectors)
        total = torch.zeros_like(self.sums).index_add_(0, codes, vectors)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(count)
            torch.distributed.all_reduce(total)
        self.sums.mul_(self.decay).add_(total, alpha=1 - self.decay)
        self.counts.mul_(self.decay).add_(count, alpha=1 - self.decay)
        used = (self.counts >= USED)[:, None]
        self.codebook.copy_(torch.where(used, self.sums / self.counts.clamp_min(USED)[:, None], self._some(vectors)))

    def _some(self, vectors: Tensor) -> Tensor:
        """As many as there are codes, drawn from ``vectors``; slightly apart, should some be drawn again."""
        codes, dim = self.codebook.shape
        again = -(-codes // len(vectors))
        many = vectors.repeat(again, 1)
        if again > 1:
            many = many + 0.01 / dim**0.5 * torch.randn_like(many)
        chosen = many[torch.randperm(len(many), device=many.device)[:codes]]
        if torch.distributed.is_initialized():
            torch.distributed.broadcast(chosen, 0)
        return chosen


class Autoencoder(nn.Module):
    """(B, samples) -> (B, T) codes, each of ``hop`` samples, and back.

    ``strides`` holds one list for each stage; a stage is, for each of its strides, a convolution and ``depth`` residual blocks
    of ``width`` channels whose dilations grow by ``growth``, and then a convolution to ``dim`` channels. The decoder is its
    mirror. Nothing is normalised, and both look as far ahead as back (``reach``, in codes).
    """

    loudness: Tensor
    heard_s: Tensor

    def __init__(
        self,
        *,
        strides: Sequence[Sequence[int]] = ((2, 2), (2, 2), (2, 2)),
        width: int = 32,
        depth: int = 4,
        growth: int = 3,
        dim: int = 64,
        codes: int = 2048,
        decay: float = 0.99,
    ) -> None:
        super().__init__()
        steps = [step for stage in strides for step in stage]
        if not steps or min(steps) < 2 or any(step % 2 for step in steps) or min(width, depth, growth, dim) < 1:
            raise ValueError(
                f"strides {list(map(list, strides))}, width {width}, depth {depth}, growth {growth}, dim {dim}; "
                "expected even strides and all others > 0"
            )
        self.hop = prod(steps)
        self.encoder = nn.Sequential(*_encoder(strides, width, depth, growth, dim))
        self.decoder = nn.Sequential(*_decoder(strides, width, depth, growth, dim))
        self.reach = ceil(_reach(strides, depth, growth) / self.hop)
        self.quantiser = Quantiser(codes, dim, decay)
        self.register_buffer("loudness", torch.zeros(2))  # mean square, and mean size of a spectrum
        self.register_buffer("heard_s", torch.zeros(()))  # seconds that they are the means of

    def encode(self, sound: Tensor) -> Tensor:
        """(B, T * hop) -> (B, T) codes."""
        return self.quantiser.nearest(self.encoder(sound[:, None]).transpose(1, 2))

    def decode(self, codes: Tensor) -> Tensor:
        """(B, T) codes -> (B, T * hop)."""
        return self.sound(self.quantiser.codebook[codes].transpose(1, 2))

    def sound(self, vectors: Tensor) -> Tensor:
        sound: Tensor = self.decoder(vectors)[:, 0]
        return sound

    def losses(self, first: Tensor, second: Tensor, rate_hz: int) -> dict[str, Tensor]:
        """Of two sources (B, samples), whole codes long: ``recon`` and ``spectra`` of both, ``commit``, and ``sum``."""
        sources = torch.cat([first, second])
        self._listen(sources, rate_hz)
        loud, spectral = self.loudness.clamp_min(1e-12)
        coded = self.quantiser(self.encoder(sources[:, None]))
        heard = self.sound(coded.vectors).to(sources)
        one, other = coded.vectors.chunk(2)
        of_codes = self.quantiser(0.5 * one + 0.5 * other)
        of_sounds = self.quantiser(self.encoder((0.5 * first + 0.5 * second)[:, None]))
        return {
            "recon": recon_loss(heard, sources) / loud,
            "spectra": spectra_loss(heard, sources) / spectral,
            "commit": coded.commit + of_codes.commit,
            "sum": (of_codes.vectors - of_sounds.vectors).square().mean(),
        }

    def _listen(self, sources: Tensor, rate_hz: int) -> None:
        """How loud the data is, from the first ENOUGH_S seconds of training."""
        if not self.training or self.heard_s >= ENOUGH_S:
            return
        new_s = sources.numel() / rate_hz
        now = torch.stack([sources.square().mean(), _sizes(_spectrum(sources, *BANDWIDTH_SPECTRUM)).mean()])
        self.heard_s += new_s
        self.loudness += (now - self.loudness) * (new_s / self.heard_s)


def recon_loss(heard: Tensor, wanted: Tensor) -> Tensor:
    """Mean square error, and a little of the worst samples of each item."""
    error = (heard - wanted).square()
    worst = error.topk(min(PEAKS, error.shape[1]), dim=1).values
    return error.mean() + PEAKS_WEIGHT * worst.mean()


def spectra_loss(heard: Tensor, wanted: Tensor) -> Tensor:
    """Frobenius norm of the difference of magnitudes, mean over three resolutions and over items."""
    apart = [_sizes(_spectrum(heard, *each) - _spectrum(wanted, *each)) for each in SPECTRA]
    return torch.stack(apart).mean()


def _spectrum(sound: Tensor, size: int, hop: int, window: int) -> Tensor:
    hann = torch.hann_window(window, device=sound.device)
    found = torch.stft(sound, size, hop, window, hann, center=True, pad_mode="constant", return_complex=True)
    return (found.real.square() + found.imag.square() + 1e-12).sqrt()  # a gradient where there is silence, too


def _sizes(spectra: Tensor) -> Tensor:
    return (spectra.square().sum(dim=(1, 2)) + 1e-12).sqrt()


# ---- layers -----------------------------------------------------------------------------------------------------------


class _Block(nn.Module):
    """ReLU, dilated convolution of three taps, ReLU, convolution of one; beside what came in."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.wide = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.flat = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.flat(self.wide(x.relu()).relu())
        return y


def _encoder(strides: Sequence[Sequence[int]], width: int, depth: int, growth: int, dim: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels = 1
    for stage in strides:
        for step in stage:
            layers.append(nn.Conv1d(channels, width, 2 * step, step, step // 2))
            layers += [_Block(width, growth**n) for n in range(depth)]
            channels = width
        layers.append(nn.Conv1d(channels, dim, 3, padding=1))
        channels = dim
    return layers


def _decoder(strides: Sequence[Sequence[int]], width: int, depth: int, growth: int, dim: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for stage in reversed(strides):
        layers.append(nn.Conv1d(dim, width, 3, padding=1))
        for place, step in reversed(list(enumerate(stage))):
            layers += [_Block(width, growth**n) for n in reversed(range(depth))]
            layers.append(nn.ConvTranspose1d(width, width if place else dim, 2 * step, step, step // 2))
    return [*layers, nn.Conv1d(dim, 1, 3, padding=1)]


def _reach(strides: Sequence[Sequence[int]], depth: int, growth: int) -> int:
    """Samples on either side that a code depends on, or the sound of a code: both are the same layers."""
    steps = [step for stage in strides for step in stage]
    ends = set(accumulate(len(stage) for stage in strides))
    dilations = sum(growth**n for n in range(depth))
    total, before = 0, 1
    for number, step in enumerate(steps, 1):
        after = before * step
        total += before * (3 * step // 2 - 1) + after * (dilations + (number in ends))
        before = after
    return total + 1

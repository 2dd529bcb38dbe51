"""Per-channel energy normalisation, trainable, with its memory in the open.

Wang, Getreuer, Hughes, Lyon, Saurous 2017 (Trainable frontend for robust and far-field keyword spotting, arXiv 1607.05666),
eq. 1 and 2: (E / (eps + M)^alpha + delta)^r - delta^r, where M is a first-order smoother of E over time.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

BLOCK = 256  # frames that are smoothed by one matrix product
ALPHA, DELTA, ROOT = 0.98, 2.0, 0.5
SPREAD = (0.05, 0.1, 0.05)  # of alpha, delta and r at the start, where several are trained
BOUNDS = ((0.1, 0.995), (1.0, 3.0), (0.1, 0.9))
LOGIT_SPREAD = 0.1


class Pcen(nn.Module):
    """(B, bands, T) energies -> (B, channels, bands, T).

    Each channel has its own alpha, delta and r, one for all bands or (``per_band``) one for each; of one channel with shared
    values they start at .98, 2 and .5, otherwise they are drawn around these. ``smooth`` lists smoothing coefficients
    s in y[t] = (1 - s) y[t-1] + s E[t]; of several, each band weighs the smoothed energies by a softmax it learns.
    ``train_smooth`` makes the coefficients of each channel parameters, ``train_eps`` the floor that all share.
    ``zero_phase`` smooths forwards, then backwards: no onset is late, but the whole signal must be there. With ``trained``
    false, nothing is learned: the layer is the fixed PCEN of these values.
    """

    def __init__(
        self,
        bands: int,
        *,
        channels: int = 1,
        per_band: bool = False,
        smooth: Sequence[float] = (0.04,),
        train_smooth: bool = False,
        zero_phase: bool = False,
        eps: float = 1e-6,
        train_eps: bool = False,
        trained: bool = True,
    ) -> None:
        super().__init__()
        if not smooth or not all(0 < s < 1 for s in smooth) or channels < 1 or not eps > 0:
            raise ValueError(f"pcen: smooth {list(smooth)}, channels {channels}, eps {eps:g}; expected coefficients in 0..1")
        self.zero_phase = zero_phase
        self.log_eps = nn.Parameter(torch.tensor(math.log(eps)), requires_grad=train_eps)
        shape = (channels, bands if per_band else 1, 1)
        several = channels > 1 or per_band
        alpha, delta, root = (
            (value + spread * torch.randn(shape)).clamp(*bounds) if several else torch.full(shape, value)
            for value, spread, bounds in zip((ALPHA, DELTA, ROOT), SPREAD, BOUNDS, strict=True)
        )
        self.alpha, self.log_delta, self.root = (nn.Parameter(v) for v in (alpha.logit(), delta.log(), root.logit()))
        coefficients = torch.tensor(list(map(float, smooth))).logit().expand(channels, -1).clone()
        if train_smooth:
            self.smooth = nn.Parameter(coefficients + (LOGIT_SPREAD * torch.randn(coefficients.shape) if several else 0.0))
        else:
            self.register_buffer("smooth", coefficients)
        if len(smooth) > 1:
            self.shares = nn.Parameter(LOGIT_SPREAD * torch.randn(channels, len(smooth), bands, 1))
        if not trained:
            self.requires_grad_(False)

    def memory(self, bands: int) -> tuple[int, int, int]:
        """The shape of what a signal's memory holds: channels, smoothers, bands."""
        return (*self.smooth.shape, bands)

    def forward(self, energy: Tensor) -> Tensor:
        """The whole signal."""
        smoothed, _ = self._smoothed(energy, self._first(energy))
        if self.zero_phase:
            backwards, _ = self._smoothed(smoothed.flip(-1), smoothed[..., -1])
            smoothed = backwards.flip(-1)
        return self._normalised(energy, smoothed)

    def step(self, energy: Tensor, before: Tensor, heard: Tensor) -> tuple[Tensor, Tensor]:
        """The next frames, from the memory (B, channels, smoothers, bands); ``heard`` (B,) is 0 where there is none yet, for
        then the smoother starts at the first energy. -> what ``forward`` gives, and the memory after them."""
        begun = heard[:, None, None, None]
        smoothed, after = self._smoothed(energy, begun * before + (1 - begun) * self._first(energy))
        return self._normalised(energy, smoothed), after

    def _first(self, energy: Tensor) -> Tensor:
        return energy[:, None, None, :, 0].expand(-1, *self.smooth.shape, -1)

    def _smoothed(self, energy: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """(B, bands, T) or (B, channels, smoothers, bands, T) from y[-1] -> (B, channels, smoothers, bands, T), and y[T-1]."""
        energy = energy[:, None, None] if energy.dim() == 3 else energy
        parts = []
        for block in torch.split(energy, BLOCK, dim=-1):
            powers, kernel = self._kernel(block.shape[-1])
            part = torch.matmul(block, kernel) + before[..., None] * powers
            before = part[..., -1]
            parts.append(part)
        return torch.cat(parts, dim=-1), before

    def _kernel(self, frames: int) -> tuple[Tensor, Tensor]:
        """(channels, smoothers, 1, T) powers of 1 - s, and (channels, smoothers, T, T): what frame u leaves in frame t."""
        log_keep = nn.functional.logsigmoid(-self.smooth)[..., None, None]
        time = torch.arange(frames, device=log_keep.device, dtype=log_keep.dtype)
        ages = time - time[:, None]
        kernel = torch.sigmoid(self.smooth)[..., None, None] * torch.exp(log_keep * ages.clamp_min(0)) * (ages >= 0)
        return torch.exp(log_keep * (time + 1)), kernel

    def _normalised(self, energy: Tensor, smoothed: Tensor) -> Tensor:
        mean = (smoothed * self.shares.softmax(dim=1)).sum(dim=2) if smoothed.shape[2] > 1 else smoothed[:, :, 0]
        alpha, delta, root = torch.sigmoid(self.alpha), torch.exp(self.log_delta), torch.sigmoid(self.root)
        gain = torch.exp(-alpha * (self.log_eps + torch.log(1 + mean * torch.exp(-self.log_eps))))
        return (energy[:, None] * gain + delta) ** root - delta**root

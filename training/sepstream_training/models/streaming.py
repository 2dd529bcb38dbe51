"""What every live network shares: a whole signal is one long step, and magnitudes end up on the disk."""

import torch
from torch import Tensor, nn

from .disk_head import DiskHead

LOG_FLOOR = 1e-5  # of magnitudes, where a full-scale sine is 0.5: the network is deaf below -94 dBFS per bin


class StreamingNetwork(nn.Module):
    """Magnitudes (B, T, bins) -> logits (B, T, classes, bins) and embedding u (B, T, dim, bins).

    A subclass sets ``bins`` and ``dilation`` (hops between the frames of one chain), creates ``norm`` first and
    ``head`` last, and says what its state is (``initial_state``) and what stands in between (``embed``).
    """

    bins: int
    dilation: int
    norm: nn.BatchNorm1d
    head: DiskHead

    def initial_state(self, batch: int = 1, chains: int | None = None) -> list[Tensor]:
        """A fresh state for ``batch`` signals: h and c of each layer, each (chains, rows, units)."""
        raise NotImplementedError

    def embed(self, features: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """(T, B, bins) normalised log magnitudes -> (T * B, dim, bins) tangent vectors, new state."""
        raise NotImplementedError

    def forward(self, magnitude: Tensor, chains: int | None = None) -> tuple[Tensor, Tensor]:
        """The whole signal: a step from a fresh state. ``chains=1`` is for frames that are ``dilation`` hops apart."""
        state = [s.to(magnitude) for s in self.initial_state(magnitude.shape[0], chains)]
        logits, u, _ = self.step(magnitude, state)
        return logits, u

    def step(self, magnitude: Tensor, state: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The next T >= 1 frames -> logits, embedding, new state; the given state is left as it was."""
        batch, frames, bins = magnitude.shape
        rows = torch.log(magnitude + LOG_FLOOR).transpose(0, 1).reshape(-1, bins)
        v, state = self.embed(self.norm(rows).view(frames, batch, bins), state)
        logits, u = self.head(v)
        shape = (frames, batch, -1, bins)
        return logits.view(shape).transpose(0, 1), u.view(shape).transpose(0, 1), state

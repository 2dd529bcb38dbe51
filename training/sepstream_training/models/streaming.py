"""What every network shares: magnitudes in, masks or the disk out; and what every live one does: chains that take turns."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .disk_head import DiskHead

LOG_FLOOR = 1e-5  # of magnitudes, where a full-scale sine is 0.5: the network is deaf below -94 dBFS per bin


class Network(nn.Module, ABC):
    """Magnitudes (B, T, bins) -> logits (B, T, classes, bins) and embedding u (B, T, dim, bins), of a whole signal.

    ``tied`` counts the leaves of each parent: their logits become what makes a leaf's mask its parent's mask times the
    softmax within the parent. Empty, each level of the class tree is decided on its own.

    With a disk, a subclass creates ``norm`` first and ``head`` last. Without one ``head`` is None, and the embedding has no
    dimensions, (B, T, 0, bins). Where masks are ``independent``, each lies within 0 and 1 on its own, and the network returns
    them in the place of the logits.
    """

    bins: int
    dilation: int  # training takes one frame in so many
    floor: float = LOG_FLOOR
    tied: tuple[int, ...] = ()
    independent = False
    norm: nn.BatchNorm1d
    head: DiskHead | None

    @abstractmethod
    def forward(self, magnitude: Tensor, chains: int | None = None) -> tuple[Tensor, Tensor]:
        """The whole signal; ``chains=1`` is for frames that are ``dilation`` hops apart."""

    def shares(self, levels: list[slice]) -> list[slice]:
        """Those of the ``levels`` of a class tree whose masks are the softmax of its logits: all, or none if independent."""
        return [] if self.independent else levels

    def features(self, magnitude: Tensor) -> Tensor:
        """(B, T, bins) -> (T, B, bins) normalised log(magnitude + floor), written so that the ONNX exporter, to which an added
        1e-8 is nothing, keeps the floor."""
        batch, frames, bins = magnitude.shape
        logs = torch.log(magnitude / self.floor + 1) + math.log(self.floor)
        rows = logs.transpose(0, 1).reshape(-1, bins)
        features: Tensor = self.norm(rows).view(frames, batch, bins)
        return features

    def classify(self, v: Tensor, batch: int, frames: int) -> tuple[Tensor, Tensor]:
        """(T * B, dim, bins) tangent vectors -> logits and embedding, batch first; without a head, v are the logits."""
        logits, u = (v, v[:, :0]) if self.head is None else self.head(v)
        logits = tie(logits, self.tied) if self.tied else logits
        shape = (frames, batch, -1, self.bins)
        return logits.view(shape).transpose(0, 1), u.view(shape).transpose(0, 1)


def tie(logits: Tensor, families: Sequence[int]) -> Tensor:
    """(..., parents and leaves, bins) logits -> logits whose softmax, per level, gives each leaf a share of its parent's mask.

    They are logarithms of masks: log softmax of the parents, and for a leaf that of its parent plus its own within the family.
    """
    parents = logits[..., : len(families), :].log_softmax(dim=-2)
    leaves = torch.split(logits[..., len(families) :, :], list(families), dim=-2)
    shares = [parents[..., i : i + 1, :] + members.log_softmax(dim=-2) for i, members in enumerate(leaves)]
    return torch.cat([parents, *shares], dim=-2)


class StreamingNetwork(Network):
    """A network that needs no frame to come: ``step`` takes the next frames and what it remembers of the others.

    ``dilation`` chains with shared weights take turns, frame by frame (Chang et al. 2017, Dilated Recurrent Neural
    Networks). A long analysis window shows every chain what its neighbours saw, so nothing is lost, and training
    runs at the rate of one chain: a network for 5 ms hops learns as cheaply as one for 16 ms hops.

    The state is one tensor (chains, cells, rows, units): a queue, the next frame's chain first; cells are h and c of
    each recurrent layer in turn. Its first axis alone decides how many chains there are: a single chain, fed every
    third frame, is exactly one of three chains fed every frame.

    A subclass says how large its state is, and what stands between ``norm`` and ``head``.
    """

    cells: int  # h and c of every recurrent layer
    rows: int  # of a cell, per signal
    units: int

    @abstractmethod
    def embed(self, features: Tensor, cells: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """(T, B, bins) normalised log magnitudes -> (T * B, dim, bins) tangent vectors, and the cells (1, B * rows, units)."""

    def initial_state(self, batch: int = 1, chains: int | None = None) -> Tensor:
        """A fresh state for ``batch`` signals."""
        return torch.zeros(chains or self.dilation, self.cells, batch * self.rows, self.units)

    def forward(self, magnitude: Tensor, chains: int | None = None) -> tuple[Tensor, Tensor]:
        """The whole signal: a step from a fresh state. ``chains=1`` is for frames that are ``dilation`` hops apart."""
        logits, u, _ = self.step(magnitude, self.initial_state(magnitude.shape[0], chains).to(magnitude))
        return logits, u

    def step(self, magnitude: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The next T >= 1 frames -> logits, embedding, new state; the given state is left as it was."""
        batch, frames, _ = magnitude.shape
        features = self.features(magnitude)
        whole = frames // state.shape[0] * state.shape[0]  # frames in full turns; the rest advances the queue
        parts = []
        for turns, chains in ((features[:whole], state.shape[0]), (features[whole:], frames - whole)):
            if turns.shape[0]:
                v, after = self._take_turns(turns, state[:chains])
                state = torch.cat([state[chains:], after])
                parts.append(v)
        logits, u = self.classify(torch.cat(parts), batch, frames)
        return logits, u, state

    def _take_turns(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run the chains of ``state`` side by side, as if they were signals of one batch; (T, B, bins), T whole turns."""
        frames, batch, bins = features.shape
        chains = state.shape[0]
        side_by_side = features.reshape(frames // chains, chains * batch, bins)
        cells = state.transpose(0, 1).reshape(self.cells, 1, -1, self.units).unbind(0)
        v, after = self.embed(side_by_side, list(cells))
        return v, torch.stack(after).view(self.cells, chains, -1, self.units).transpose(0, 1)

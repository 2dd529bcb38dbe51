"""The reference network: log magnitudes, a stack of LSTMs over all bins, one linear map, a disk head.

Petermann, Wichern, Subramanian, Wang, Le Roux 2023 (Hyperbolic Audio Source Separation, arXiv 2212.05008). As published it
hears a whole file, forwards and backwards; with unidirectional layers it streams. It hears all bins at once, so it is
several times as heavy as ``band_split``.
"""

from typing import Any

from torch import Tensor, nn

from .disk_head import DiskHead
from .recurrent import Lstm
from .streaming import LOG_FLOOR, ChainedNetwork, Network


class _HyperUnmix(Network):
    """``layers`` LSTMs of ``units`` in each direction; ``dropout`` acts between them, in training only.

    The outputs of ``linear`` are ordered (dim, bins). ``floor`` is added to magnitudes before the logarithm; for a
    checkpoint of the reference system, which embeds with one curvature and classifies with another, see DiskHead.
    """

    directions: int

    def __init__(
        self,
        classes: int,
        *,
        bins: int = 342,
        units: int = 400,
        layers: int = 3,
        dilation: int = 1,
        dropout: float = 0.3,
        dim: int = 2,
        curvature: float = 1.0,
        trainable_curvature: bool = False,
        embedding_curvature: float | None = None,
        floor: float = LOG_FLOOR,
    ) -> None:
        super().__init__()
        if min(bins, units, layers, dilation) < 1 or not floor > 0:
            raise ValueError(f"bins {bins}, units {units}, layers {layers}, dilation {dilation}, floor {floor}; expected all > 0")
        self.bins, self.dim, self.dilation, self.units, self.floor = bins, dim, dilation, units, floor
        self.cells, self.rows = 2 * layers, 1
        heard = self.directions * units
        self.norm = nn.BatchNorm1d(bins)
        self.layers = nn.ModuleList(Lstm(heard if layer else bins, units, self.directions) for layer in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(heard, dim * bins)
        self.head = DiskHead(classes, dim, curvature, trainable_curvature, embedding_curvature)

    def embed(self, features: Tensor, cells: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        x, after = features, []
        for index, (layer, h, c) in enumerate(zip(self.layers, cells[::2], cells[1::2], strict=True)):
            x, *new = layer(self.dropout(x) if index else x, h, c)
            after += new
        return self.linear(x).view(-1, self.dim, self.bins), after


class CausalHyperUnmix(_HyperUnmix, ChainedNetwork):
    """Unidirectional: frame after frame."""

    directions = 1


class BidirectionalHyperUnmix(_HyperUnmix):
    """As published: every frame depends on the whole signal. Played in overlapping windows, see recipe.WindowSpec."""

    directions = 2

    def __init__(self, classes: int, **options: Any) -> None:
        super().__init__(classes, **options)
        if self.dilation != 1:
            raise ValueError(f"dilation is {self.dilation}; expected 1: only a network that streams has chains that take turns")

    def forward(self, magnitude: Tensor, chains: int | None = None) -> tuple[Tensor, Tensor]:
        """The whole signal; there is one chain."""
        batch, frames, _ = magnitude.shape
        fresh = magnitude.new_zeros(self.directions, batch, self.units)
        v, _ = self.embed(self.features(magnitude), [fresh] * self.cells)
        return self.classify(v, batch, frames)


def hyper_unmix(classes: int, *, bidirectional: bool = False, **options: Any) -> Network:
    """The network of the recipe's options."""
    return BidirectionalHyperUnmix(classes, **options) if bidirectional else CausalHyperUnmix(classes, **options)

"""The reference network, made causal: log magnitudes, a stack of LSTMs, one linear map, a disk head.

Petermann, Wichern, Subramanian, Wang, Le Roux 2023 (Hyperbolic Audio Source Separation, arXiv 2212.05008), with
unidirectional layers. It hears all bins at once, so it is several times as heavy as ``band_split``.
"""

import torch
from torch import Tensor, nn

from .disk_head import DiskHead
from .recurrent import DilatedLstm
from .streaming import StreamingNetwork


class HyperUnmix(StreamingNetwork):
    """``layers`` LSTMs of ``units`` over all bins. State: h and c of each layer, (dilation, B, units).

    ``dropout`` acts between the layers, in training only. The outputs of ``linear`` are ordered (dim, bins).
    """

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
    ) -> None:
        super().__init__()
        self.bins, self.units, self.dim, self.dilation = bins, units, dim, dilation
        self.norm = nn.BatchNorm1d(bins)
        self.layers = nn.ModuleList(DilatedLstm(units if layer else bins, units) for layer in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(units, dim * bins)
        self.head = DiskHead(classes, dim, curvature, trainable_curvature)

    def initial_state(self, batch: int = 1, chains: int | None = None) -> list[Tensor]:
        return [torch.zeros(chains or self.dilation, batch, self.units) for _ in range(2 * len(self.layers))]

    def embed(self, features: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        x, new_state = features, []
        for index, (layer, h, c) in enumerate(zip(self.layers, state[::2], state[1::2], strict=True)):
            x, *after = layer(self.dropout(x) if index else x, h, c)
            new_state += after
        return self.linear(x).view(-1, self.dim, self.bins), new_state

"""The reference network, made causal: log magnitudes, a stack of LSTMs, one linear map, a disk head.

Petermann, Wichern, Subramanian, Wang, Le Roux 2023 (Hyperbolic Audio Source Separation, arXiv 2212.05008), with
unidirectional layers. It hears all bins at once, so it is several times as heavy as ``band_split``.
"""

from torch import Tensor, nn

from .disk_head import DiskHead
from .recurrent import Lstm
from .streaming import StreamingNetwork


class HyperUnmix(StreamingNetwork):
    """``layers`` LSTMs of ``units`` over all bins.

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
        self.bins, self.dim, self.dilation = bins, dim, dilation
        self.cells, self.rows, self.units = 2 * layers, 1, units
        self.norm = nn.BatchNorm1d(bins)
        self.layers = nn.ModuleList(Lstm(units if layer else bins, units) for layer in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(units, dim * bins)
        self.head = DiskHead(classes, dim, curvature, trainable_curvature)

    def embed(self, features: Tensor, cells: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        x, after = features, []
        for index, (layer, h, c) in enumerate(zip(self.layers, cells[::2], cells[1::2], strict=True)):
            x, *new = layer(self.dropout(x) if index else x, h, c)
            after += new
        return self.linear(x).view(-1, self.dim, self.bins), after

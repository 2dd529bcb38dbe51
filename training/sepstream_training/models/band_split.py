"""The live network: bands of bins, one recurrence shared by all bands, a mixer across bands, a disk head.

After the band-split RNN of Luo & Yu 2022 (arXiv 2209.15174), made causal and light: the recurrence over
frequency is replaced by an MLP across bands (Tolstikhin et al. 2021), which costs one matrix product.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .disk_head import DiskHead
from .recurrent import Lstm
from .streaming import StreamingNetwork


class BandSplit(StreamingNetwork):
    """``bands`` lists (count, bins of each) from low to high; together they are ``bins``.

    ``width`` features describe a band, ``units`` remember.
    """

    def __init__(
        self,
        classes: int,
        *,
        bands: Sequence[Sequence[int]],
        width: int = 64,
        units: int = 64,
        blocks: int = 3,
        dilation: int = 3,
        dim: int = 2,
        curvature: float = 1.0,
        trainable_curvature: bool = False,
    ) -> None:
        super().__init__()
        self.bands = [(count, size) for count, size in bands]
        self.bins = sum(count * size for count, size in self.bands)
        self.count = sum(count for count, _ in self.bands)
        self.dim, self.dilation = dim, dilation
        self.cells, self.rows, self.units = 2 * blocks, self.count, units
        self.norm = nn.BatchNorm1d(self.bins)
        self.encode = nn.ModuleList(BandLinear(count, size, width) for count, size in self.bands)
        self.blocks = nn.ModuleList(Block(self.count, width, units) for _ in range(blocks))
        self.final = nn.LayerNorm(width)
        self.hidden = BandLinear(self.count, width, 2 * width)
        self.decode = nn.ModuleList(BandLinear(count, 2 * width, dim * size) for count, size in self.bands)
        self.head = DiskHead(classes, dim, curvature, trainable_curvature)

    def embed(self, features: Tensor, cells: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        x, after = self._split(features), []
        for block, h, c in zip(self.blocks, cells[::2], cells[1::2], strict=True):
            x, *new = block(x, h, c)
            after += new
        return self._join(x), after

    def _split(self, features: Tensor) -> Tensor:
        """(T, B, bins) -> (T, B, bands, width): every band of bins through weights of its own."""
        frames, batch, bins = features.shape
        groups = torch.split(features.reshape(-1, bins), [count * size for count, size in self.bands], dim=1)
        embedded = [
            encode(group.view(-1, count, size))
            for encode, group, (count, size) in zip(self.encode, groups, self.bands, strict=True)
        ]
        return torch.cat(embedded, dim=1).view(frames, batch, self.count, -1)

    def _join(self, x: Tensor) -> Tensor:
        """(T, B, bands, width) -> (T * B, dim, bins) tangent vectors."""
        rows = x.shape[0] * x.shape[1]
        hidden = nn.functional.gelu(self.hidden(self.final(x).view(rows, self.count, -1)))
        groups = torch.split(hidden, [count for count, _ in self.bands], dim=1)
        decoded = [
            decode(group).view(rows, count, self.dim, size).transpose(1, 2).reshape(rows, self.dim, count * size)
            for decode, group, (count, size) in zip(self.decode, groups, self.bands, strict=True)
        ]
        return torch.cat(decoded, dim=2)


class Block(nn.Module):
    """(T, B, bands, width) -> the same: each band remembers, then the bands talk."""

    def __init__(self, count: int, width: int, units: int) -> None:
        super().__init__()
        self.time_norm = nn.LayerNorm(width)
        self.time = Lstm(width, units)
        self.time_out = nn.Linear(units, width)
        self.band_norm = nn.LayerNorm(width)
        self.band_in = nn.Linear(count, 2 * count)
        self.band_out = nn.Linear(2 * count, count)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        frames, batch, count, width = x.shape
        y, h, c = self.time(self.time_norm(x).view(frames, batch * count, width), h, c)
        x = x + self.time_out(y).view(x.shape)
        mixed = self.band_out(nn.functional.gelu(self.band_in(self.band_norm(x).transpose(2, 3))))
        return x + mixed.transpose(2, 3), h, c


class BandLinear(nn.Module):
    """(rows, bands, inputs) -> (rows, bands, outputs), each band with weights of its own."""

    def __init__(self, bands: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(bands, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(bands, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return (torch.matmul(x.transpose(0, 1), self.weight) + self.bias).transpose(0, 1)

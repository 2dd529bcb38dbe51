"""The live network: bands of bins, one recurrence shared by all bands, a mixer across bands, a disk head.

After the band-split RNN of Luo & Yu 2022 (arXiv 2209.15174), made causal and light: the recurrence over
frequency is replaced by an MLP across bands (Tolstikhin et al. 2021), which costs one matrix product. A second
recurrence may look at the whole spectrum, in few numbers of each band: it has one row where the bands have many,
so that most of the parameters cost little of the hop.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .disk_head import DiskHead
from .recurrent import Lstm
from .streaming import ChainedNetwork


class BandSplit(ChainedNetwork):
    """``bands`` lists (count, bins of each) from low to high; together they are ``bins``.

    ``width`` features describe a band, ``units`` remember; ``whole`` units (a multiple of ``units``, or 0) remember
    for all bands together, in every block.
    """

    def __init__(
        self,
        classes: int,
        *,
        bands: Sequence[Sequence[int]],
        width: int = 64,
        units: int = 64,
        whole: int = 0,
        blocks: int = 3,
        dilation: int = 3,
        dim: int = 2,
        curvature: float = 1.0,
        trainable_curvature: bool = False,
    ) -> None:
        super().__init__()
        if whole % units:
            raise ValueError(f"whole is {whole}; expected a multiple of units, {units}, or 0")
        self.bands = [(count, size) for count, size in bands]
        self.bins = sum(count * size for count, size in self.bands)
        self.count = sum(count for count, _ in self.bands)
        self.dim, self.dilation = dim, dilation
        self.cells, self.rows, self.units = 2 * blocks, self.count + whole // units, units
        self.norm = nn.BatchNorm1d(self.bins)
        self.encode = nn.ModuleList(BandLinear(count, size, width) for count, size in self.bands)
        self.blocks = nn.ModuleList(Block(self.count, width, units, whole) for _ in range(blocks))
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
    """(T, B, bands, width) -> the same: each band remembers, the spectrum remembers, then the bands talk.

    h and c are (1, B * rows, units): the first rows of a signal are its bands', the others are the spectrum's.
    """

    def __init__(self, count: int, width: int, units: int, whole: int) -> None:
        super().__init__()
        self.time_norm = nn.LayerNorm(width)
        self.time = Lstm(width, units)
        self.time_out = nn.Linear(units, width)
        self.whole = Whole(count, width, whole) if whole else None
        self.band_norm = nn.LayerNorm(width)
        self.band_in = nn.Linear(count, 2 * count)
        self.band_out = nn.Linear(2 * count, count)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.whole is None:
            x, h, c = self._each_band(x, h, c)
        else:
            _, batch, count, _ = x.shape
            rows = [state.view(batch, -1, state.shape[2]) for state in (h, c)]
            x, *bands = self._each_band(x, *(row[:, :count].reshape(1, -1, row.shape[2]) for row in rows))
            x, *spectrum = self.whole(x, *(row[:, count:].reshape(1, batch, -1) for row in rows))
            h, c = (
                torch.cat([ours.view(batch, count, -1), theirs.view(batch, -1, ours.shape[2])], dim=1).view(state.shape)
                for ours, theirs, state in zip(bands, spectrum, (h, c), strict=True)
            )
        mixed = self.band_out(nn.functional.gelu(self.band_in(self.band_norm(x).transpose(2, 3))))
        return x + mixed.transpose(2, 3), h, c

    def _each_band(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        frames, batch, count, width = x.shape
        y, h, c = self.time(self.time_norm(x).view(frames, batch * count, width), h, c)
        return x + self.time_out(y).view(x.shape), h, c


class Whole(nn.Module):
    """(T, B, bands, width) -> the same: one memory for the spectrum, h and c (1, B, units)."""

    SHARE = 4  # of a band's features, one in so many goes in and comes out

    def __init__(self, count: int, width: int, units: int) -> None:
        super().__init__()
        few = width // self.SHARE
        self.norm = nn.LayerNorm(width)
        self.few = nn.Linear(width, few)
        self.time = Lstm(count * few, units)
        self.spread = nn.Linear(units, count * few)
        self.out = nn.Linear(few, width)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        frames, batch, count, _ = x.shape
        y, h, c = self.time(self.few(self.norm(x)).view(frames, batch, -1), h, c)
        return x + self.out(nn.functional.gelu(self.spread(y)).view(frames, batch, count, -1)), h, c


class BandLinear(nn.Module):
    """(rows, bands, inputs) -> (rows, bands, outputs), each band with weights of its own."""

    def __init__(self, bands: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(bands, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(bands, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return (torch.matmul(x.transpose(0, 1), self.weight) + self.bias).transpose(0, 1)

"""Blocks of a U-Net over time and frequency: what is near (convolutions), then what is far (across all of frequency, or time).

Choi, Kim, Chung, Lee, Jung 2020 (Investigating U-Nets with various intermediate blocks, ISMIR, arXiv 1912.02591): TFC, TDF, TDC
and the recurrent ones. Choi, Kim, Chung, Jung 2021 (LaSAFT, ICASSP, arXiv 2010.11631): latent source attention; its light
form is of Jeong, Choi, Kim 2021 (LightSAFT, MDX workshop, arXiv 2111.12516). All of them map (B, channels, T, F) to the same T
and F, take the time that they need from a ``Memory``, and know a target by its embedding (B, E).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .causal import Memory
from .recurrent import Gru

Act = Callable[[], nn.Module]


@dataclass(frozen=True)
class BlockSpec:
    """What all blocks of a network share: ``channels`` they give, dense ``layers`` with ``kernel`` (time, frequency), the
    ``bottleneck`` divisor across frequency (0: none) and its ``least`` units, ``latent`` sources with keys of ``key`` numbers,
    an ``embedding`` of that many, recurrence in so many ``directions``."""

    channels: int = 24
    layers: int = 5
    kernel: tuple[int, int] = (3, 3)
    bottleneck: int = 16
    least: int = 16
    bias: bool = False
    latent: int = 6
    key: int = 32
    embedding: int = 32
    directions: int = 2
    act: Act = nn.ReLU

    def units(self, bins: int) -> int:
        """Of a bottleneck over so many bins."""
        return max(bins // self.bottleneck, self.least)


class Dense(nn.Module):
    """(B, inputs, T, F) -> (B, channels, T, F): every layer sees all before it; the last one's output is given (TFC).

    Each layer's output is remembered once, however many layers look back at it. A kernel of one frame is TDC: each frame alone.
    """

    def __init__(self, inputs: int, spec: BlockSpec, kernel: tuple[int, int]) -> None:
        super().__init__()
        self.past = kernel[0] - 1
        widths = range(inputs, inputs + spec.layers * spec.channels, spec.channels)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, spec.channels, kernel, padding=(0, kernel[1] // 2)), nn.BatchNorm2d(spec.channels), spec.act()
            )
            for width in widths
        )

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        heard, y = memory.extend(x, self.past), x
        for index, layer in enumerate(self.layers):
            if index:
                heard = torch.cat([heard, memory.extend(y, self.past)], dim=1)
            y = layer(heard)
        return y


class Across(nn.Sequential):
    """(B, channels, T, inputs) -> (B, channels, T, outputs): one linear map over the last axis, of each frame and channel."""

    def __init__(self, inputs: int, outputs: int, spec: BlockSpec) -> None:
        super().__init__(nn.Linear(inputs, outputs, bias=spec.bias), nn.BatchNorm2d(spec.channels), spec.act())


class Tdf(nn.Module):
    """Time-distributed fully connected: all bins of a frame, through a bottleneck."""

    def __init__(self, bins: int, spec: BlockSpec) -> None:
        super().__init__()
        units = spec.units(bins) if spec.bottleneck else 0
        maps = (Across(bins, units, spec), Across(units, bins, spec)) if units else (Across(bins, bins, spec),)
        self.maps = nn.Sequential(*maps)

    def forward(self, x: Tensor, embedding: Tensor, memory: Memory) -> Tensor:
        y: Tensor = self.maps(x)
        return y


class Recurrent(nn.Module):
    """A GRU over time, of each channel alone with the same weights, then back to all bins."""

    def __init__(self, bins: int, spec: BlockSpec) -> None:
        super().__init__()
        units = spec.units(bins)
        self.time = Gru(bins, units, spec.directions)
        self.back = Across(spec.directions * units, bins, spec)

    def forward(self, x: Tensor, embedding: Tensor, memory: Memory) -> Tensor:
        batch, channels, frames, bins = x.shape
        rows = x.permute(2, 0, 1, 3).reshape(frames, batch * channels, bins)
        y, h = self.time(rows, memory.recall(x.new_zeros(self.time.directions, rows.shape[1], self.time.units)))
        memory.keep(h)
        back: Tensor = self.back(y.view(frames, batch, channels, -1).permute(1, 2, 0, 3))
        return back


class Attention(nn.Module):
    """(B, E) embedding of a target -> (B, latent) shares of the latent sources: softmax(q K / sqrt(d)), q = W e + b."""

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        self.query = nn.Linear(spec.embedding, spec.key)
        self.keys = nn.Parameter(torch.randn(spec.key, spec.latent))

    def forward(self, embedding: Tensor) -> Tensor:
        scores = torch.matmul(self.query(embedding), self.keys) / math.sqrt(self.keys.shape[0])
        return scores.softmax(dim=1)


class LaSaft(nn.Module):
    """Latent source-attentive frequency transformation: a TDF for each latent source, mixed as the target attends to them."""

    def __init__(self, bins: int, spec: BlockSpec) -> None:
        super().__init__()
        self.latent, units = spec.latent, spec.units(bins * spec.latent)
        self.attention = Attention(spec)
        self.values = nn.Sequential(Across(bins, units, spec), Across(units, bins * spec.latent, spec))

    def forward(self, x: Tensor, embedding: Tensor, memory: Memory) -> Tensor:
        values = self.values(x).view(*x.shape, self.latent)
        shares = self.attention(embedding)
        return torch.matmul(values, shares[:, None, None, :, None]).squeeze(4)


class LightSaft(nn.Module):
    """The same with the attention in the bottleneck, which costs little: one map back serves all latent sources."""

    def __init__(self, bins: int, spec: BlockSpec) -> None:
        super().__init__()
        self.latent, units = spec.latent, spec.units(bins)
        self.attention = Attention(spec)
        self.sources = Across(bins, units * spec.latent, spec)
        self.back = Across(units, bins, spec)

    def forward(self, x: Tensor, embedding: Tensor, memory: Memory) -> Tensor:
        batch, channels, frames, _ = x.shape
        sources = self.sources(x).view(batch, channels, frames, self.latent, -1)
        shares = self.attention(embedding)
        y: Tensor = self.back(torch.matmul(shares[:, None, None, None], sources).squeeze(3))
        return y


class Kind(NamedTuple):
    """A block: its convolutions' kernel in time (0: a map of channels alone; None: that of the spec), and what goes across."""

    time: int | None
    across: Callable[[int, BlockSpec], nn.Module] | None

    @property
    def attends(self) -> bool:
        """Depends on the target."""
        return self.across in (LaSaft, LightSaft)


KINDS = {
    "tfc": Kind(None, None),
    "tdc": Kind(1, None),
    "tdf": Kind(0, Tdf),
    "tfc_tdf": Kind(None, Tdf),
    "tdc_tdf": Kind(1, Tdf),
    "tfc_rnn": Kind(None, Recurrent),
    "tdc_rnn": Kind(1, Recurrent),
    "tfc_lasaft": Kind(None, LaSaft),
    "tdc_lasaft": Kind(1, LaSaft),
    "tfc_lightsaft": Kind(None, LightSaft),
    "tdc_lightsaft": Kind(1, LightSaft),
}


class Block(nn.Module):
    """(B, inputs, T, bins) -> (B, channels, T, bins): u = what is near, ``modulate`` it, then u + what is far of u.

    ``modulate`` is the condition's, where the stage has one (conditioning.py).
    """

    def __init__(self, kind: str, inputs: int, bins: int, spec: BlockSpec) -> None:
        super().__init__()
        time, across = KINDS[kind]
        kernel = (spec.kernel[0] if time is None else time, spec.kernel[1])
        self.near = Dense(inputs, spec, kernel) if kernel[0] else Dense(inputs, _one_layer(spec), (1, 1))
        self.far = across(bins, spec) if across else None

    def forward(self, x: Tensor, embedding: Tensor, memory: Memory, modulate: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        u: Tensor = self.near(x, memory)
        u = modulate(u) if modulate else u
        return u + self.far(u, embedding, memory) if self.far else u


def _one_layer(spec: BlockSpec) -> BlockSpec:
    return BlockSpec(channels=spec.channels, layers=1, act=spec.act)

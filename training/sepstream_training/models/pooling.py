"""From the masks of a clip to the probability that each class is in it: what is learned from clip labels goes through here.

Every head takes masks (B, classes, bands, T) in 0..1 and gives (B, classes) in 0..1. After Kong, Xu, Wang, Plumbley 2018
(A joint separation-classification model for sound event detection of weakly labelled data, arXiv 1711.03037); rank
pooling is that of Kolesnikov & Lampert 2016 (Seed, expand and constrain, arXiv 1603.06098, sec. 3.3).

A head is training's own: no bundle holds one.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sepstream.errors import DataError, nearest


class MaxPooling(nn.Module):
    """The loudest bin decides."""

    def forward(self, masks: Tensor) -> Tensor:
        return masks.amax(dim=(2, 3))


class MeanPooling(nn.Module):
    """All bins decide alike."""

    def forward(self, masks: Tensor) -> Tensor:
        return masks.mean(dim=(2, 3))


class RankPooling(nn.Module):
    """Bins in falling order, each counting ``decay`` times as much as the one before: 0 is the maximum, 1 the mean.

    About 1 / (1 - decay) bins decide. ``trained``: a decay for each class is learned, from there on.
    """

    def __init__(self, classes: int, decay: float = 0.999, trained: bool = False) -> None:
        super().__init__()
        if not 0 <= decay <= 1 or (trained and not 0 < decay < 1):
            raise ValueError(f"decay is {decay:g}; expected 0 to 1, and neither of them where it is trained")
        self.decay = decay
        self.raw_decay = nn.Parameter(torch.full((classes, 1), decay).logit()) if trained else None

    def forward(self, masks: Tensor) -> Tensor:
        ranked = masks.flatten(2).sort(dim=2, descending=True).values
        weights = self._weights(ranked)
        pooled: Tensor = (ranked * weights).sum(dim=2) / weights.sum(dim=-1)
        return pooled

    def _weights(self, ranked: Tensor) -> Tensor:
        """(classes or 1, bins) powers of the decay."""
        rank = torch.arange(ranked.shape[2], device=ranked.device, dtype=ranked.dtype)
        if self.raw_decay is None:
            return torch.pow(torch.tensor([[self.decay]], device=ranked.device, dtype=ranked.dtype), rank)
        return torch.exp(nn.functional.logsigmoid(self.raw_decay) * rank)


class AttentionPooling(nn.Module):
    """The mean of the masks, weighted by a softmax over all bins of attention (Ilse, Tomczak, Welling 2018, arXiv 1802.04712):
    a small network looks at each bin of all masks, and asks each class how much it matters."""

    def __init__(self, classes: int, units: int = 16) -> None:
        super().__init__()
        self.look = nn.Sequential(nn.Conv2d(classes, units, 1), nn.Tanh(), nn.Conv2d(units, classes, 1))

    def forward(self, masks: Tensor) -> Tensor:
        attention = self.look(masks).flatten(2).softmax(dim=2)
        pooled: Tensor = (attention * masks.flatten(2)).sum(dim=2)
        return pooled


class ChannelLinear(nn.Module):
    """A linear map to one number for each class, of its own bins alone; ``ranked`` sorts them first. Clips of one length."""

    def __init__(self, classes: int, inputs: int, ranked: bool = False, bias: bool = True) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.ranked = ranked
        self.weight = nn.Parameter(torch.empty(classes, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(classes).uniform_(-bound, bound)) if bias else None

    def forward(self, masks: Tensor) -> Tensor:
        x = masks.flatten(2)
        if x.shape[2] != self.weight.shape[1]:
            raise DataError(f"a clip has {x.shape[2]} bins; expected {self.weight.shape[1]}: this head takes clips of one length")
        x = x.sort(dim=2, descending=True).values if self.ranked else x
        sums = (x * self.weight).sum(dim=2)
        return torch.sigmoid(sums if self.bias is None else sums + self.bias)


class DepthwiseCnn(nn.Module):
    """``blocks`` convolutions that keep the classes apart, then a ChannelLinear."""

    def __init__(
        self, classes: int, bands: int, frames: int, *, blocks: int = 1, kernel: int = 5, stride: int = 3, dropout: float = 0.0
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(blocks):
            layers += [nn.Conv2d(classes, classes, kernel, stride, groups=classes), nn.Dropout(dropout), nn.LeakyReLU(0.01)]
            bands, frames = ((size - kernel) // stride + 1 for size in (bands, frames))
            if min(bands, frames) < 1:
                raise ValueError(f"{blocks} blocks of kernel {kernel}, stride {stride} leave nothing of a clip; expected fewer")
        self.cnn = nn.Sequential(*layers)
        self.linear = ChannelLinear(classes, bands * frames)

    def forward(self, masks: Tensor) -> Tensor:
        pooled: Tensor = self.linear(self.cnn(masks))
        return pooled


class Recurrent(nn.Module):
    """One network over time, the same for all classes, hears each mask; a ChannelLinear takes what it remembers in the end."""

    CELLS: Mapping[str, Callable[..., nn.RNNBase]] = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}

    def __init__(self, classes: int, bands: int, cell: str = "gru", units: int = 40, layers: int = 1) -> None:
        super().__init__()
        if cell not in self.CELLS:
            raise ValueError(f"cell '{cell}' is unknown; {nearest(cell, self.CELLS)}")
        self.cell = self.CELLS[cell](bands, units, layers, batch_first=True)
        self.linear = ChannelLinear(classes, units)

    def forward(self, masks: Tensor) -> Tensor:
        batch, classes, bands, frames = masks.shape
        heard, _ = self.cell(masks.transpose(2, 3).reshape(batch * classes, frames, bands))
        pooled: Tensor = self.linear(heard[:, -1].view(batch, classes, -1))
        return pooled


class Rescaled(nn.Module):
    """Another head's answer y of each class as sigmoid(w y + b), both learned: for pooling that never comes near 0 or 1.

    The reference has no b, so that with w > 0 no probability falls below a half.
    """

    def __init__(self, head: nn.Module, classes: int) -> None:
        super().__init__()
        self.head = head
        self.weight = nn.Parameter(1 + torch.randn(classes) * torch.log(torch.tensor(1 / classes)))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, masks: Tensor) -> Tensor:
        return torch.sigmoid(self.weight * self.head(masks) + self.bias)


def _linear(classes: int, bands: int, frames: int, **options: Any) -> nn.Module:
    return ChannelLinear(classes, bands * frames, **options)


HEADS: dict[str, Callable[..., nn.Module]] = {  # (classes, bands, frames of a clip, options)
    "max": lambda classes, bands, frames: MaxPooling(),
    "mean": lambda classes, bands, frames: MeanPooling(),
    "rank": lambda classes, bands, frames, **options: RankPooling(classes, **options),
    "attention": lambda classes, bands, frames, **options: AttentionPooling(classes, **options),
    "linear": _linear,
    "cnn": DepthwiseCnn,
    "recurrent": lambda classes, bands, frames, **options: Recurrent(classes, bands, **options),
}


def build_head(
    kind: str, classes: int, bands: int, frames: int, options: Mapping[str, Any], *, rescaled: bool = False
) -> nn.Module:
    """The head ``kind`` for clips of ``frames``. Raises DataError for an unknown kind or option."""
    if kind not in HEADS:
        raise DataError(f"tags.head '{kind}' is unknown; {nearest(kind, HEADS)}")
    try:
        head = HEADS[kind](classes, bands, frames, **options)
    except (TypeError, ValueError, RuntimeError) as error:  # an option that is unknown, or of no use
        raise DataError(f"tags.options of '{kind}': {' '.join(str(error).split())}") from None
    return Rescaled(head, classes) if rescaled else head

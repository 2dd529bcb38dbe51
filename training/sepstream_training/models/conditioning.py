"""A condition and what it does to feature maps: from the wish for classes to the numbers that modulate each stage.

A condition is a row of weights, one per class: one-hot asks for a class, multi-hot for several, anything between blends them.
FiLM is of Perez et al. 2018 (arXiv 1709.07871); for source separation, and with the convolutional control network, of Meseguer-
Brocal & Peeters 2019 (Conditioned-U-Net, ISMIR, arXiv 1907.01277). PoCM and GPoCM are of Choi et al. 2021 (arXiv 2010.11631).
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

Modulate = Callable[[Tensor], Tensor]

DROPOUT = 0.5


class Modulation(nn.Module):
    """(B, classes) conditions -> their embedding (B, E), and one ``Modulate`` for each conditioned stage.

    ``by``: film_simple, film, pocm or gpocm. ``vector``: "embedding", the weighted sum of trained rows (an embedding whose index
    may be a blend), or "one_hot", the weights as they are. ``control``: "dense" or "conv", the network in between.
    """

    def __init__(
        self, classes: int, stages: int, channels: int, *, by: str, vector: str, control: str, embedding: int, layers: int
    ) -> None:
        super().__init__()
        known = {"by": (by, BY), "vector": (vector, ("embedding", "one_hot")), "control": (control, ("dense", "conv"))}
        for name, (value, values) in known.items():
            if value not in values:
                raise ValueError(f"{name} is {value!r}; expected one of {', '.join(values)}")
        self.by, self.channels, self.stages = by, channels, stages
        self.rows = nn.Linear(classes, embedding, bias=False) if vector == "embedding" else None
        self.size = embedding if self.rows else classes  # of an embedding
        self.scales, self.shifts = COUNTS[by](channels)
        if stages:
            self.of_rows = control == "dense"
            self.control: DenseControl | ConvControl = (
                DenseControl(self.size, layers) if self.of_rows else ConvControl(classes, by == "film_simple")
            )
            self.scale = self._head(stages * self.scales)
            self.shift = self._head(stages * self.shifts)

    def embed(self, condition: Tensor) -> Tensor:
        """(B, classes) -> (B, size)."""
        rows: Tensor = self.rows(condition) if self.rows else condition
        return rows

    def forward(self, condition: Tensor, embedding: Tensor) -> list[Modulate]:
        if not self.stages:
            return []
        x = self.control(embedding if self.of_rows else condition)
        scales, shifts = (head(x).view(len(x), self.stages, -1).unbind(1) for head in (self.scale, self.shift))
        return [BY[self.by](*numbers) for numbers in zip(scales, shifts, strict=True)]

    def _head(self, numbers: int) -> nn.Module:
        linear = nn.Linear(self.control.outputs, numbers)
        return nn.Sequential(linear, nn.BatchNorm1d(numbers, affine=False)) if self.by == "gpocm" else linear


class DenseControl(nn.Module):
    """(B, size) -> (B, outputs): widths double from layer to layer."""

    def __init__(self, size: int, layers: int) -> None:
        super().__init__()
        widths = [size * 2**index for index in range(layers)]
        parts = [_layer(nn.Linear(a, b), b, index > 0) for index, (a, b) in enumerate(pairwise(widths))]
        self.layers, self.outputs = nn.Sequential(*parts), widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


class ConvControl(nn.Module):
    """(B, classes) -> (B, outputs): convolutions as long as the condition, the last of which leaves one value of each filter."""

    def __init__(self, classes: int, simple: bool) -> None:
        super().__init__()
        widths = (1, *((16, 32, 64) if simple else (32, 64, 256)))
        pairs = enumerate(pairwise(widths))
        self.layers = nn.ModuleList(_layer(nn.Conv1d(a, b, classes), b, index > 0) for index, (a, b) in pairs)
        self.outputs, self.around = widths[-1], ((classes - 1) // 2, classes // 2)

    def forward(self, condition: Tensor) -> Tensor:
        x = condition[:, None]
        for index, layer in enumerate(self.layers):
            x = layer(x if index == len(self.layers) - 1 else nn.functional.pad(x, self.around))
        return x.squeeze(2)


def _layer(linear: nn.Module, width: int, regularised: bool) -> nn.Module:
    return nn.Sequential(linear, nn.ReLU(), *([nn.Dropout(DROPOUT), nn.BatchNorm1d(width)] if regularised else []))


def film(scale: Tensor, shift: Tensor) -> Modulate:
    """x_c becomes scale_c x_c + shift_c; one scale and shift for all channels where there is but one."""
    return lambda x: scale[:, :, None, None] * x + shift[:, :, None, None]


def pocm(scale: Tensor, shift: Tensor) -> Modulate:
    """Point-wise convolutional modulation: x becomes sum_c scale_{c, d} x_c + shift_d for each channel d."""
    channels = shift.shape[1]
    weights = scale.view(-1, channels, channels).transpose(1, 2)
    return lambda x: (torch.matmul(weights, x.flatten(2)) + shift[:, :, None]).view(x.shape)


def gpocm(scale: Tensor, shift: Tensor) -> Modulate:
    """Gated PoCM: sigmoid(PoCM(x)) x."""
    gate = pocm(scale, shift)
    return lambda x: torch.sigmoid(gate(x)) * x


BY: dict[str, Callable[[Tensor, Tensor], Modulate]] = {"film_simple": film, "film": film, "pocm": pocm, "gpocm": gpocm}
COUNTS: dict[str, Callable[[int], tuple[int, int]]] = {  # scales and shifts of a stage
    "film_simple": lambda channels: (1, 1),
    "film": lambda channels: (channels, channels),
    "pocm": lambda channels: (channels**2, channels),
    "gpocm": lambda channels: (channels**2, channels),
}

"""The conditioned U-Net: planes of spectra in, and for each condition the planes of what it asks for out.

Choi et al. 2021 (LaSAFT, arXiv 2010.11631), Jeong et al. 2021 (LightSAFT, arXiv 2111.12516). One width at all depths; frequency
halves at each level, time only where it is asked to. What no condition touches (the encoder, unless its blocks attend or are
conditioned) runs once for all targets: then the features are repeated, and targets are rows of the batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .blocks import KINDS, Block, BlockSpec
from .causal import Memory
from .conditioning import Modulate, Modulation

LAST = {"identity": nn.Identity, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}
CONDITIONED = ("encoder", "decoder", "full")


class UNet(nn.Module):
    """``levels`` down and up; ``bins`` - 1 must halve as often. ``halved`` are the levels, from 0, that halve time, too.

    ``encoder`` and ``decoder`` name blocks (blocks.KINDS), ``middle`` is the encoder's. ``stages`` says which are conditioned.
    """

    def __init__(
        self,
        planes: int,
        bins: int,
        *,
        levels: int,
        encoder: str,
        decoder: str,
        middle: str,
        stages: str,
        halved: Sequence[int],
        spec: BlockSpec,
        last: str,
    ) -> None:
        super().__init__()
        if (bins - 1) % 2**levels or bins <= 2**levels:
            raise ValueError(f"bins is {bins}; expected a multiple of {2**levels} and one, for {levels} levels halve it")
        self.halved, self.stages, width = tuple(halved), stages, spec.channels
        sizes = [(bins - 1) >> level for level in range(levels + 1)]
        times = [2 if level in self.halved else 1 for level in range(levels)]
        self.first = _normed(nn.Conv2d(planes, width, (1, 2)), spec.act())
        self.encoder = nn.ModuleList(Block(encoder, width, size, spec) for size in sizes[:-1])
        self.down = nn.ModuleList(_normed(nn.Conv2d(width, width, (time, 2), (time, 2))) for time in times)
        self.middle = Block(middle, width, sizes[-1], spec)
        self.up = nn.ModuleList(_normed(nn.ConvTranspose2d(width, width, (time, 2), (time, 2))) for time in reversed(times))
        self.decoder = nn.ModuleList(Block(decoder, 2 * width, size, spec) for size in reversed(sizes[:-1]))
        self.last = nn.Sequential(nn.Conv2d(width, planes, (1, 2), padding=(0, 1)), LAST[last]())
        self.shared = stages == "decoder" and not KINDS[encoder].attends and not KINDS[middle].attends

    @property
    def conditioned(self) -> int:
        """How many stages are."""
        count = len(self.decoder)
        return {"encoder": count, "decoder": count, "full": 2 * count + 1}[self.stages]

    def forward(self, x: Tensor, embedding: Tensor, modulate: Sequence[Modulate], memory: Memory) -> Tensor:
        """(B, planes, T, bins), (B * targets, E) -> (B * targets, planes, T, bins); ``modulate`` has one for each conditioned
        stage, from the first to the last."""
        frames, count = x.shape[2], len(self.decoder)
        x = nn.functional.pad(x, (0, 0, 0, -frames % 2 ** len(self.halved)))
        targets = len(embedding) // len(x)
        early: Sequence[Modulate | None] = modulate[:count] if self.stages != "decoder" else [None] * count
        middle = modulate[count] if self.stages == "full" else None
        late: Sequence[Modulate | None] = modulate[-count:] if self.stages != "encoder" else [None] * count
        x = self.first(x if self.shared else x.repeat_interleave(targets, dim=0))
        skips = []
        for block, down, how in zip(self.encoder, self.down, early, strict=True):
            x = block(x, embedding, memory, how)
            skips.append(x)
            x = down(x)
        x = self.middle(x, embedding, memory, middle)
        if self.shared:
            x, *skips = (each.repeat_interleave(targets, dim=0) for each in (x, *skips))
        for block, up, skip, how in zip(self.decoder, self.up, reversed(skips), late, strict=True):
            x = block(torch.cat([up(x), skip], dim=1), embedding, memory, how)
        y: Tensor = self.last(x)[:, :, :frames]
        return y


class Asked(nn.Module):
    """A U-Net and its control: (B, planes, T, bins) of a mixture, (B, targets, classes) -> (B, targets, planes, T, bins).

    ``estimate``: "mapping" gives what the network says; "masking" multiplies each plane of the mixture with it;
    "complex_masking" takes its planes as complex factors (the real parts are the first half of the planes).
    """

    def __init__(self, unet: UNet, modulation: Modulation, estimate: str) -> None:
        super().__init__()
        self.unet, self.modulation, self.estimate = unet, modulation, estimate

    def forward(self, x: Tensor, condition: Tensor, memory: Memory) -> Tensor:
        rows = condition.flatten(0, 1)
        embedding = self.modulation.embed(rows)
        y: Tensor = self.unet(x, embedding, self.modulation(rows, embedding), memory)
        y = y.view(*condition.shape[:2], *y.shape[1:])
        if self.estimate == "mapping":
            return y
        if self.estimate == "masking":
            return y * x[:, None]
        real, imaginary = y.chunk(2, dim=2)
        x_real, x_imaginary = x[:, None].chunk(2, dim=2)
        return torch.cat([real * x_real - imaginary * x_imaginary, real * x_imaginary + imaginary * x_real], dim=2)


def _normed(conv: nn.Conv2d | nn.ConvTranspose2d, *act: nn.Module) -> nn.Module:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), *act)


def start(network: nn.Module, last: str) -> None:
    """Weights as published: Xavier's normal distribution, or He's behind a ReLU."""
    with torch.no_grad():
        for weights in network.parameters():
            if weights.dim() > 1:
                nn.init.kaiming_normal_(weights) if last == "relu" else nn.init.xavier_normal_(weights)

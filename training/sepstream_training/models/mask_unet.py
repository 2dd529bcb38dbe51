"""The U-Net that estimates masks, the family of Auralflow: plain, with a recurrent bottleneck, variational, self-normalising.

Jansson et al. 2017 (Singing voice separation with deep U-Net convolutional networks) in the form of Auralflow (2022): three
convolutions at each of some levels, widths that double while time and frequency halve, and one mask for each class. As published
it hears a whole excerpt, both ways. With causal convolutions and frequency alone halved it streams. The recipes unet_*.yaml
are the named variants.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .causal import Memory, State, Surroundings, TimeConv2d, initial_state, recur
from .recurrent import Lstm
from .streaming import LOG_FLOOR, Network, StreamingNetwork

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "hardtanh": lambda: nn.Hardtanh(0.0, 1.0),
    "tanh": nn.Tanh,
    "prelu": nn.PReLU,
    "selu": nn.SELU,
    "elu": nn.ELU,
}
SOFTMAX = "softmax"  # over classes: they share each bin
INPUTS = ("linear", "log")
WIDEST_LOG_SIGMA = 8.0


class Style(NamedTuple):
    """What the layers of a network have in common."""

    leak: float  # slope of LeakyReLU below zero; 0 is SELU
    dropout: float
    convolutions: int  # of a block
    self_normalizing: bool  # no batch normalisation, SELU, alpha dropout
    time_stride: int  # of a level: 1 where the network streams

    def activation(self) -> nn.Module:
        return nn.LeakyReLU(self.leak) if self.leak else nn.SELU()

    def norm(self, width: int) -> nn.Module:
        return nn.Identity() if self.self_normalizing else nn.BatchNorm2d(width)

    def drop(self) -> nn.Module:
        return nn.AlphaDropout(self.dropout) if self.self_normalizing else nn.Dropout2d(self.dropout)


class _MaskUNet(Network):
    """Magnitudes (B, T, bins) -> masks (B, T, classes, bins), each within 0 and 1 (logits, of the activation softmax).

    ``widths`` are the channels of each level and, last, of the bottleneck; every level halves the frequencies. ``convolutions``
    of 3 x 3 make a block. ``dropout`` acts after each block of the decoder. ``leak`` 0 is SELU, else LeakyReLU's slope.
    ``self_normalizing``: no batch normalisation, alpha dropout (Klambauer et al. 2017, arXiv 1706.02515).

    ``input`` "linear" multiplies magnitudes with ``gain``, "log" takes their normalised logarithm. ``normalize_input``: each bin
    has mean and variance of its own taken out of it; logarithms always have. ``normalize_output``: each bin has a centre and a
    scale of its own before the ``activation``.

    ``recurrent`` LSTM layers of ``units`` over time take the place of the bottleneck's convolutions (0: none), with
    ``recurrent_dropout`` between them. ``variational`` puts a normal distribution before them, of ``latent`` dimensions (0: as
    many as there are features): drawn in training, its mean otherwise; ``own_terms["kl"]`` is its divergence from the standard
    one. Kingma, Welling 2014 (arXiv 1312.6114), eq. 10.
    """

    streams: bool
    dilation = 1
    head = None

    def __init__(
        self,
        classes: int,
        *,
        bins: int = 513,
        widths: Sequence[int] = (16, 32, 64, 128, 256, 512),
        convolutions: int = 3,
        dropout: float = 0.4,
        leak: float = 0.0,
        self_normalizing: bool = False,
        input: str = "linear",
        gain: float = 256.0,
        normalize_input: bool = False,
        normalize_output: bool = False,
        activation: str = "sigmoid",
        recurrent: int = 0,
        units: int = 512,
        recurrent_dropout: float = 0.3,
        variational: bool = False,
        latent: int = 0,
    ) -> None:
        super().__init__()
        self._check(classes, bins, widths, activation, input)
        if self_normalizing and leak:
            raise ValueError(f"leak is {leak}; expected 0 of a self-normalizing network, whose activation is SELU")
        if variational and not recurrent:
            raise ValueError("variational is true; expected recurrent layers to feed, so recurrent 1 or more")
        if min(convolutions, units) < 1 or min(recurrent, latent, leak) < 0 or not gain > 0:
            raise ValueError("convolutions, units and gain must be above 0, recurrent, latent and leak 0 or more")
        self.bins, self.floor, self.gain, self.is_log = bins, LOG_FLOOR, gain, input == "log"
        self.independent = activation != SOFTMAX
        style = Style(leak, dropout, convolutions, self_normalizing, 1 if self.streams else 2)
        self.stride = style.time_stride ** (len(widths) - 1)  # frames come in multiples of it
        sizes = [bins >> level for level in range(len(widths))]
        self.norm = nn.BatchNorm1d(bins) if normalize_input or self.is_log else None  # type: ignore[assignment]
        self.down = nn.ModuleList(Triple(i, o, style) for i, o in zip([1, *widths[:-2]], widths[:-1], strict=True))
        self.pool = nn.MaxPool2d((style.time_stride, 2))
        if recurrent:
            self.middle: nn.Module = Recurrent(
                widths[-2], widths[-1], sizes[-1], units=units, layers=recurrent, ways=1 if self.streams else 2,
                dropout=recurrent_dropout, latent=latent if variational else None,
            )  # fmt: skip
        else:
            self.middle = Triple(widths[-2], widths[-1], style)
        self.up = nn.ModuleList(
            Up(i, o, size, style) for i, o, size in zip(widths[:0:-1], widths[-2::-1], sizes[-2::-1], strict=True)
        )
        self.out = nn.Sequential(nn.Conv2d(widths[0], classes, 1), style.norm(classes))
        self.shape = CenterScale(bins) if normalize_output else nn.Identity()
        self.activation = ACTIVATIONS[activation]() if self.independent else nn.Identity()
        _start(self, leak)

    def _check(self, classes: int, bins: int, widths: Sequence[int], activation: str, input: str) -> None:
        for name, value, known in (("activation", activation, [*ACTIVATIONS, SOFTMAX]), ("input", input, INPUTS)):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; expected one of {', '.join(known)}")
        if activation == SOFTMAX and classes == 1:
            raise ValueError("activation is softmax; expected another for a single class, of which it makes one everywhere")
        if len(widths) < 2 or min(widths) < 1 or bins >> (len(widths) - 1) < 1:
            raise ValueError(f"widths {list(widths)} of {bins} bins; expected two or more, and a bin that is left at the bottom")

    @abstractmethod
    def memory(self, state: State | None = None) -> Memory:
        """For a signal that begins, or that goes on where ``state`` was left."""

    def forward(self, magnitude: Tensor, chains: int | None = None) -> tuple[Tensor, Tensor]:
        """The whole signal; there is one chain."""
        masks = self.estimate(magnitude, self.memory())
        return masks, masks[:, :, :0]

    def estimate(self, magnitude: Tensor, memory: Memory) -> Tensor:
        """(B, T, bins) -> (B, T, classes, bins)."""
        frames = magnitude.shape[1]
        x = nn.functional.pad(self.heard(magnitude)[:, None], (0, 0, 0, -frames % self.stride))
        skips = []
        for block in self.down:
            x = block(x, memory)
            skips.append(x)
            x = self.pool(x)
        x = self.middle(x, memory)
        if isinstance(self.middle, Recurrent) and self.middle.divergence is not None:
            self.own_terms, self.middle.divergence = {"kl": self.middle.divergence}, None
        for up, skip in zip(self.up, reversed(skips), strict=True):
            x = up(x, skip, memory)
        y = self.shape(self.out(x)[:, :, :frames]).transpose(1, 2)
        masks: Tensor = self.activation(y).clamp(0.0, 1.0) if self.independent else y
        return masks

    def heard(self, magnitude: Tensor) -> Tensor:
        """(B, T, bins) -> the same, as the convolutions like it."""
        if self.is_log:
            return self.features(magnitude).transpose(0, 1)
        loud = self.gain * magnitude
        heard: Tensor = loud if self.norm is None else self.norm(loud.flatten(0, 1)).view(loud.shape)
        return heard


class MaskUNet(_MaskUNet):
    """Hears the whole signal, both ways; for files, in windows."""

    streams = False

    def memory(self, state: State | None = None) -> Memory:
        return Surroundings()


class CausalMaskUNet(_MaskUNet, StreamingNetwork):
    """Frame after frame; the state is what its convolutions and recurrences remember, one tensor each."""

    streams = True

    def memory(self, state: State | None = None) -> Memory:
        return Memory(state)

    def initial_state(self, batch: int = 1) -> State:
        silence = torch.zeros(batch, 1, self.bins).to(next(self.parameters()))
        return initial_state(self, lambda memory: self.estimate(silence, memory))

    def step(self, magnitude: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """The next T >= 1 frames -> masks, no embedding, new state; the given state is left as it was."""
        memory = self.memory(state)
        masks = self.estimate(magnitude, memory)
        return masks, masks[:, :, :0], memory.after


def mask_unet(classes: int, *, streaming: bool = False, **options: Any) -> Network:
    """The network of the recipe's options."""
    return CausalMaskUNet(classes, **options) if streaming else MaskUNet(classes, **options)


class Triple(nn.Module):
    """(B, inputs, T, F) -> (B, outputs, T, F): convolution, activation, normalisation, some times over."""

    def __init__(self, inputs: int, outputs: int, style: Style) -> None:
        super().__init__()
        widths = [inputs] + [outputs] * (style.convolutions - 1)
        self.convolutions = nn.ModuleList(TimeConv2d(i, outputs, (3, 3), bias=style.self_normalizing) for i in widths)
        self.norms = nn.ModuleList(style.norm(outputs) for _ in widths)
        self.activation = style.activation()

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = norm(self.activation(convolution(x, memory)))
        return x


class Up(nn.Module):
    """(B, inputs, T, F) and the skip (B, outputs, T * stride, size) -> the shape of the skip."""

    def __init__(self, inputs: int, outputs: int, size: int, style: Style) -> None:
        super().__init__()
        time = (5, 2, 2, 1) if style.time_stride == 2 else (1, 1, 0, 0)  # a frame that streams gives one, of itself alone
        pitch = (5, 2, 1, 0) if size % 2 else (5, 2, 2, 1)
        kernel, stride, padding, further = zip(time, pitch, strict=True)
        self.rise = nn.ConvTranspose2d(inputs, outputs, kernel, stride, padding, further)
        self.norm = style.norm(outputs)
        self.block = Triple(2 * outputs, outputs, style)
        self.drop = style.drop()

    def forward(self, x: Tensor, skip: Tensor, memory: Memory) -> Tensor:
        y: Tensor = self.drop(self.block(torch.cat([self.norm(self.rise(x)), skip], dim=1), memory))
        return y


class Recurrent(nn.Module):
    """(B, inputs, T, size) -> (B, outputs, T, size): a frame is one step of ``layers`` LSTMs, in each of ``ways`` directions.

    ``latent`` dimensions of a normal distribution come first (0: as many as features); None: none do.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        *,
        units: int,
        layers: int,
        ways: int,
        dropout: float,
        latent: int | None,
    ) -> None:
        super().__init__()
        features, heard = inputs * size, ways * units
        hidden = features if latent is None else latent or features
        self.size = size
        self.distribution = None if latent is None else nn.Linear(features, 2 * hidden)  # mean and log of deviation
        self.layers = nn.ModuleList(Lstm(heard if layer else hidden, units, ways) for layer in range(layers))
        self.drop = nn.Dropout(dropout)
        self.spread = nn.Sequential(nn.Linear(heard, units), nn.SELU(), nn.Linear(units, outputs * size), nn.SELU())

    divergence: Tensor | None = None

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        batch, _, frames, _ = x.shape
        y = x.permute(2, 0, 1, 3).flatten(2)  # (T, B, features)
        if self.distribution is not None:
            y = self._drawn(*self.distribution(y).chunk(2, dim=2))
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, Lstm)
            y = recur(layer, self.drop(y) if index else y, memory)
        out: Tensor = self.spread(y).view(frames, batch, -1, self.size).permute(1, 2, 0, 3)
        return out

    def _drawn(self, mean: Tensor, log_sigma: Tensor) -> Tensor:
        """A sample in training, the mean otherwise; in training the divergence is noted."""
        if not self.training:
            return mean
        log_sigma = log_sigma.clamp(-WIDEST_LOG_SIGMA, WIDEST_LOG_SIGMA)
        sigma = log_sigma.exp()
        self.divergence = (mean.square() + sigma.square() - 2 * log_sigma - 1).mean() / 2
        return mean + sigma * torch.randn_like(sigma)


class CenterScale(nn.Module):
    """(..., bins): each bin moved and stretched by numbers of its own."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.center = nn.Parameter(torch.empty(bins).uniform_(0.0, 0.1))
        self.scale = nn.Parameter(torch.empty(bins).uniform_(1.0, 1.1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.center) * self.scale


def _start(network: nn.Module, leak: float) -> None:
    """LeCun's normal distribution before SELU, as self-normalisation asks for; He's before a leaky ReLU."""
    for module in network.modules():
        if isinstance(module, TimeConv2d):
            fan = module.weight[0].numel()
            gain = math.sqrt(2 / (1 + leak**2)) if leak else 1.0
            nn.init.normal_(module.weight, std=gain / math.sqrt(fan))

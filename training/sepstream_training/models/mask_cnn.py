"""A small CNN that looks at mel bands and gives a mask for each class: what weak labels train (see ``pooling``).

After the VGG-like networks of Kong, Xu, Wang, Plumbley 2018 (arXiv 1711.03037): blocks of convolution, normalisation, dropout,
activation and pooling; the last has a channel for each class. Magnitudes come in and masks of bins go out, so that mel bands
are the network's own affair: a bin's mask is the mean of those of the bands around it.

    stretch      hears some frames of past and future in every block, with silence around the whole signal
    step         the same, ``lookahead`` frames later, from what it remembers of the frames before
"""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from .mel import band_shares, mel_filters
from .pcen import Pcen
from .streaming import Network, StreamingNetwork

ACTIVATIONS: Mapping[str, tuple[type[nn.Module], tuple[Any, ...], str]] = {  # module, arguments, its name in nn.init
    "leaky": (nn.LeakyReLU, (0.01,), "leaky_relu"),
    "relu": (nn.ReLU, (), "relu"),
    "sigmoid": (nn.Sigmoid, (), "sigmoid"),
    "softmax": (nn.Softmax, (1,), "linear"),
}
FEATURES = ("spectrogram", "mel", "log1p", "log", "pcen")
PADDINGS = {"zero": "constant", "reflection": "reflect"}
POOLINGS = {"none": None, "max": nn.functional.max_pool2d, "mean": nn.functional.avg_pool2d}
ENERGIES = ("free", "at_most", "exactly")
TINY = 1e-12

PerBlock = int | float | str | Sequence[Any] | None


class MelFeatures(nn.Module):
    """(B, T, bins) magnitudes -> (B, channels, bands, T): ``spectrogram`` itself, ``mel`` bands, ln(1 + mel) * 10 / ln 10
    (``log1p``), ln(mel + floor) (``log``), or ``pcen`` of mel bands with the options of that name.

    ``normalised`` to mean 0 and variance 1, over all bands and frames of the data: statistics that are gathered in training."""

    def __init__(  # noqa: PLR0917 - called with keywords
        self, bins: int, bin_hz: float, bands: int, low_hz: float, high_hz: float, kind: str, floor: float,
        pcen: Mapping[str, Any], normalised: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        if kind not in FEATURES or not floor > 0:
            raise ValueError(f"feature '{kind}', floor {floor:g}; expected one of {', '.join(FEATURES)}, and a floor above 0")
        self.kind, self.floor = kind, floor
        self.bands = bins if kind == "spectrogram" else bands
        if kind != "spectrogram":
            filters = mel_filters(bins, bin_hz, bands, low_hz, high_hz)
            self.filters: Tensor
            self.register_buffer("filters", torch.tensor(filters, dtype=torch.float32), persistent=False)
        self.pcen = Pcen(self.bands, **pcen) if kind == "pcen" else None
        self.channels = self.pcen.smooth.shape[0] if self.pcen else 1
        self.norm = nn.BatchNorm2d(self.channels, eps=TINY, affine=False) if normalised else nn.Identity()

    @property
    def memory(self) -> list[tuple[int, ...]]:
        """Shapes of what is remembered of a signal."""
        return [self.pcen.memory(self.bands)] if self.pcen else []

    @property
    def streams(self) -> bool:
        return self.pcen is None or not self.pcen.zero_phase

    def forward(self, magnitude: Tensor) -> Tensor:
        x = self._energy(magnitude)
        return self._normal(self.pcen(x) if self.pcen else x[:, None])

    def step(self, magnitude: Tensor, before: Sequence[Tensor], heard: Tensor) -> tuple[Tensor, list[Tensor]]:
        """``heard`` (B,) is 0 where nothing was heard before."""
        x = self._energy(magnitude)
        if self.pcen is None:
            return self._normal(x[:, None]), []
        x, after = self.pcen.step(x, before[0], heard)
        return self._normal(x), [after]

    def _energy(self, magnitude: Tensor) -> Tensor:
        x = magnitude.transpose(1, 2)
        x = x if self.kind == "spectrogram" else torch.matmul(self.filters, x)
        if self.kind == "log1p":
            return _log1p(x) * (10 / math.log(10))
        if self.kind == "log":
            return torch.log(x / self.floor + 1) + math.log(self.floor)  # so that the ONNX exporter keeps the floor
        return x

    def _normal(self, features: Tensor) -> Tensor:
        normal: Tensor = self.norm(features)
        return normal


class Block(nn.Module):
    """(B, inputs, bands, T + kernel - 1) -> (B, outputs, bands', T'): its frames have past and future around them already."""

    def __init__(self, inputs: int, spec: Mapping[str, Any], batch_norm: bool) -> None:
        super().__init__()
        self.spec = spec
        kernel = (spec["kernel_bands"], spec["kernel_frames"])
        module, arguments, gain_of = ACTIVATIONS[spec["activation"]]
        self.frames, self.future = kernel[1] - 1, spec["future"]
        self.conv = nn.Conv2d(
            inputs + spec["coordinates"],
            spec["channels"],
            kernel,
            (spec["stride_bands"], spec["stride_frames"]),
            groups=spec["groups"],
        )
        nn.init.kaiming_normal_(self.conv.weight, a=0.01 if gain_of == "leaky_relu" else 0.0, nonlinearity=gain_of)  # type: ignore[arg-type]
        self.norm = nn.BatchNorm2d(spec["channels"]) if batch_norm else nn.Identity()
        dropout = nn.Dropout2d if spec["dropout_of"] == "channels" else nn.Dropout
        self.dropout = dropout(spec["dropout"])
        self.activation = module(*arguments)
        self.pool = POOLINGS[spec["pooling"]]

    def forward(self, x: Tensor) -> Tensor:
        x = self._padded(x, self.spec["pad_bands"], self.spec["padding"])
        if self.spec["coordinates"]:
            place = torch.arange(x.shape[2], device=x.device, dtype=x.dtype) / x.shape[2]
            x = torch.cat([x, place[:, None].expand(x.shape[0], 1, -1, x.shape[3])], dim=1)
        y = self.activation(self.dropout(self.norm(self.conv(x))))
        if self.pool is None:
            return torch.as_tensor(y)
        kernel, stride = (tuple(self.spec[f"pool_{what}"]) for what in ("kernel", "stride"))
        return torch.as_tensor(self.pool(self._padded(y, self.spec["pool_pad_bands"], self.spec["pool_padding"]), kernel, stride))

    @staticmethod
    def _padded(x: Tensor, bands: int, how: str) -> Tensor:
        return nn.functional.pad(x, (0, 0, bands, bands), PADDINGS[how]) if bands else x

    def surrounded(self, x: Tensor) -> Tensor:
        """A whole signal, with its padding before and after."""
        return nn.functional.pad(x, (self.frames - self.future, self.future, 0, 0), PADDINGS[self.spec["padding"]])


class MaskCnn(Network):
    """``channels`` of the blocks before the last; every other value of a block may be one for all or a list.

    ``kernel_*``, ``stride_*``, ``pad_bands`` and ``future`` (of the frames of a kernel, how many are yet to come) describe a
    convolution; by default kernels are centred. Padding is ``zero`` or ``reflection``; ``pool_kernel`` and ``pool_stride`` are
    (bands, frames). ``coordinates`` tells a block how high a band is (Liu et al. 2018, CoordConv). Strides and pooling make
    masks smaller; they are interpolated. ``masks`` are a ``softmax`` over the classes, so that the sources add up to the mixture,
    or a ``sigmoid`` of each, whose energy is ``free``, or ``at_most`` or ``exactly`` shared out to those that claim a bin.
    """

    def __init__(
        self,
        classes: int,
        *,
        bins: int = 513,
        bin_hz: float = 15.625,
        bands: int = 64,
        low_hz: float = 0.0,
        high_hz: float = 8000.0,
        feature: str = "log",
        floor: float = 1e-8,
        pcen: Mapping[str, Any] | None = None,
        normalised: bool = True,
        channels: Sequence[int] = (64, 64),
        kernel_bands: PerBlock = 5,
        kernel_frames: PerBlock = 5,
        stride_bands: PerBlock = 1,
        stride_frames: PerBlock = 1,
        pad_bands: PerBlock = None,
        future: PerBlock = None,
        padding: PerBlock = "zero",
        groups: PerBlock = 1,
        activation: PerBlock = "leaky",
        dropout: PerBlock = 0.1,
        dropout_of: str = "bins",
        batch_norm: bool = True,
        coordinates: bool = False,
        pooling: PerBlock = "none",
        pool_kernel: Sequence[int] = (2, 2),
        pool_stride: Sequence[int] = (2, 2),
        pool_pad_bands: PerBlock = 0,
        pool_padding: PerBlock = "reflection",
        masks: str = "softmax",
        energy: str = "free",
    ) -> None:
        super().__init__()
        if masks not in ("softmax", "sigmoid") or energy not in ENERGIES:
            raise ValueError(f"masks '{masks}', energy '{energy}'; expected softmax or sigmoid, and {', '.join(ENERGIES)}")
        self.bins, self.dilation, self.head, self.energy = bins, 1, None, energy
        self.independent = masks == "sigmoid"
        self.look = MelFeatures(bins, bin_hz, bands, low_hz, high_hz, feature, floor, pcen or {}, normalised)
        self.bands = self.look.bands
        each: dict[str, PerBlock] = {
            "kernel_bands": kernel_bands, "kernel_frames": kernel_frames, "stride_bands": stride_bands, "future": future,
            "stride_frames": stride_frames, "pad_bands": pad_bands, "padding": padding, "groups": groups, "pooling": pooling,
            "activation": activation, "dropout": dropout, "pool_pad_bands": pool_pad_bands, "pool_padding": pool_padding,
        }  # fmt: skip
        same = {
            "coordinates": int(coordinates), "dropout_of": dropout_of, "pool_kernel": pool_kernel, "pool_stride": pool_stride,
        }  # fmt: skip
        outputs = [*channels, classes]
        specs = [_spec(each, same, i, outputs) for i in range(len(outputs))]
        specs[-1] |= {"dropout": 0.0, "activation": masks}
        inputs = [self.look.channels, *channels]
        self.lookahead = sum(spec["future"] for spec in specs)  # frames that are heard before one is decided on
        self.blocks = nn.ModuleList(Block(count, spec, batch_norm) for count, spec in zip(inputs, specs, strict=True))
        if feature != "spectrogram":
            shares = band_shares(mel_filters(bins, bin_hz, bands, low_hz, high_hz))
            self.band_shares: Tensor
            self.register_buffer("band_shares", torch.tensor(shares, dtype=torch.float32), persistent=False)

    @property
    def specs(self) -> list[Mapping[str, Any]]:
        return [block.spec for block in self._blocks]

    @property
    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    @property
    def streams(self) -> bool:
        """Whether ``StreamingMaskCnn`` can do the same."""
        return self.look.streams and all(
            spec["stride_frames"] == 1
            and (spec["padding"] == "zero" or spec["kernel_frames"] == 1)
            and (spec["pooling"] == "none" or spec["pool_kernel"][1] == spec["pool_stride"][1] == 1)
            for spec in self.specs
        )

    def stretch(self, magnitude: Tensor) -> Tensor:
        """(B, T, bins) of a whole signal -> (B, classes, bands, T) masks of bands: what clip labels train."""
        x = self.look(magnitude)
        for block in self._blocks:
            x = block(block.surrounded(x))
        return self._in_full(x, magnitude.shape[1])

    def forward(self, magnitude: Tensor, chains: int | None = None) -> tuple[Tensor, Tensor]:
        """The whole signal."""
        return self.of_bins(self.stretch(magnitude))

    def of_bins(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        """(B, classes, bands, T) masks of bands -> what a network returns, of bins: masks, or the logarithms of shares."""
        masks = _shared(masks, self.energy) if self.independent else masks
        masks = masks.permute(0, 3, 1, 2)
        masks = torch.matmul(masks, self.band_shares) if self.look.kind != "spectrogram" else masks
        return (masks if self.independent else torch.log(masks.clamp_min(TINY))), masks[:, :, :0]

    def _in_full(self, masks: Tensor, frames: int) -> Tensor:
        full = (self.bands, frames)
        if masks.shape[2:] == full:
            return masks
        return nn.functional.interpolate(masks, size=full, mode="bilinear", align_corners=False)


class StreamingMaskCnn(MaskCnn, StreamingNetwork):
    """Frame after frame: what ``stretch`` gives of a frame comes ``lookahead`` frames later.

    The state of a signal is one row of numbers: which of the last frames there were, the features' memory, and of each
    block its last inputs. It begins as zeros, which is what surrounds a signal; what a block makes of frames that never
    were is put back to zero, so that the first frames, too, are those of ``stretch``.
    """

    lookahead: int

    def forward(self, magnitude: Tensor, chains: int | None = None) -> tuple[Tensor, Tensor]:
        """The whole signal: a step from a fresh state."""
        logits, u, _ = self.step(magnitude, self.initial_state(magnitude.shape[0]).to(magnitude))
        return logits, u

    def initial_state(self, batch: int = 1) -> Tensor:
        return torch.zeros(batch, sum(math.prod(shape) for shape in self._shapes()))

    def step(self, magnitude: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The next T >= 1 frames -> masks, an empty embedding, new state; the given state is left as it was."""
        there, *before = self._unpacked(state)
        x, after = self.look.step(magnitude, before[: len(self.look.memory)], there[:, -1])
        line = torch.cat([there, there.new_ones(there.shape[0], magnitude.shape[1])], dim=1)
        late = accumulate(block.future for block in self._blocks)
        for block, last, lag in zip(self._blocks, before[len(self.look.memory) :], late, strict=True):
            heard = torch.cat([last, x], dim=3)
            after.append(heard[..., heard.shape[3] - block.frames :])
            x = block(heard)
            if lag:
                x = x * line[:, None, None, there.shape[1] - lag : line.shape[1] - lag]
        logits, u = self.of_bins(self._in_full(x, magnitude.shape[1]))
        left = [line[:, line.shape[1] - there.shape[1] :], *after]
        return logits, u, torch.cat([each.flatten(1) for each in left], dim=1)

    def _shapes(self) -> list[tuple[int, ...]]:
        """Of the parts of a signal's state."""
        shapes, bands = [(max(1, self.lookahead),), *self.look.memory], self.bands
        inputs = [self.look.channels, *(spec["channels"] for spec in self.specs)]
        for spec, count in zip(self.specs, inputs, strict=False):
            shapes.append((count, bands, spec["kernel_frames"] - 1))
            bands = _bands_after(spec, bands)
        return shapes

    def _unpacked(self, state: Tensor) -> list[Tensor]:
        shapes = self._shapes()
        parts = torch.split(state, [math.prod(shape) for shape in shapes], dim=1)
        return [part.reshape(state.shape[0], *shape) for part, shape in zip(parts, shapes, strict=True)]


def mask_cnn(classes: int, *, streaming: bool = True, **options: Any) -> Network:
    """The network of the recipe's options; ``streaming: false`` packs it in windows, whatever it hears."""
    if not streaming:
        return MaskCnn(classes, **options)
    network = StreamingMaskCnn(classes, **options)
    if not network.streams:
        raise ValueError("strides or pooling of frames, reflection and zero_phase do not stream; expected streaming: false")
    return network


def _spec(each: Mapping[str, PerBlock], same: Mapping[str, Any], index: int, outputs: Sequence[int]) -> dict[str, Any]:
    """All values of block ``index``."""
    spec = {name: _pick(name, value, index, len(outputs)) for name, value in each.items()} | dict(same)
    spec["channels"] = outputs[index]
    spec["pad_bands"] = (spec["kernel_bands"] - 1) // 2 if spec["pad_bands"] is None else spec["pad_bands"]
    spec["future"] = (spec["kernel_frames"] - 1) // 2 if spec["future"] is None else spec["future"]
    for name, known in (
        ("padding", PADDINGS), ("pool_padding", PADDINGS), ("pooling", POOLINGS), ("activation", ACTIVATIONS),
        ("dropout_of", ("bins", "channels")),
    ):  # fmt: skip
        if spec[name] not in known:
            raise ValueError(f"{name} is {spec[name]!r}; expected one of {', '.join(known)}")
    if not 0 <= spec["future"] < spec["kernel_frames"]:
        raise ValueError(f"future is {spec['future']}; expected 0 to {spec['kernel_frames'] - 1}, within the kernel's frames")
    return spec


def _pick(name: str, value: PerBlock, index: int, blocks: int) -> Any:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return value
    if len(value) != blocks:
        raise ValueError(f"{name} has {len(value)} values; expected one, or {blocks}, one for each block")
    return value[index]


def _bands_after(spec: Mapping[str, Any], bands: int) -> int:
    bands = (bands + 2 * spec["pad_bands"] - spec["kernel_bands"]) // spec["stride_bands"] + 1
    if spec["pooling"] != "none":
        bands = (bands + 2 * spec["pool_pad_bands"] - spec["pool_kernel"][0]) // spec["pool_stride"][0] + 1
    return int(bands)


def _log1p(x: Tensor) -> Tensor:
    """ln(1 + x) of x >= 0 without the loss of small ones: ONNX has only the logarithm (Goldberg 1991, theorem 4)."""
    more = 1 + x
    rounded = more - 1
    return torch.where(rounded > 0, x * torch.log(more) / rounded.clamp_min(1e-9), x)


def _shared(masks: Tensor, energy: str) -> Tensor:
    """Masks (B, classes, bands, T) each on its own -> with a sum that is left free, at most one, or exactly one."""
    if energy == "free":
        return masks
    claimed = masks.sum(dim=1, keepdim=True)
    return masks / (claimed.clamp_min(1.0) if energy == "at_most" else claimed.clamp_min(TINY))

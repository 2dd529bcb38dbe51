"""Conditioned separation, the family of LaSAFT-Net: one network that is asked for a class, or for a blend of several.

Choi, Kim, Chung, Jung 2021 (LaSAFT, arXiv 2010.11631) and its light and advanced forms (Jeong, Choi, Kim 2021, arXiv 2111.12516).
As published it hears a whole excerpt, forwards and backwards; with causal convolutions and time that is nowhere halved it
streams. It looks at magnitudes, and then gives masks, or at complex spectra as channels, and then gives spectra. The recipes
lasaft_*.yaml are the named variants.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import KINDS, BlockSpec
from .causal import Memory, State, Surroundings, initial_state
from .conditioning import Modulation
from .streaming import Network
from .unet import CONDITIONED, LAST, Asked, UNet, start

FAINT = 3e-5  # of magnitudes, -84 dBFS: what a bin that is fainter would be divided by
ACTS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU}
ESTIMATES = ("mapping", "masking", "complex_masking")


class Conditioned(Network):
    """A signal and conditions (B, targets, classes) -> what is asked for.

    ``spectrum`` "complex": signal (B, T, channels, bins, 2), real and imaginary parts last -> (B, T, targets, channels, bins, 2).
    Other channels than its own it hears so many at a time. "magnitude": signal (B, T, bins) -> masks (B, T, targets, bins),
    within 0 and 1. Signals are multiplied with ``gain`` on the way in, and what comes out divided: spectra of music are then
    around one. ``dim`` of the embedding is 0: there is no disk.
    """

    dilation = 1
    independent = True
    head = None
    streams: bool

    def __init__(
        self,
        classes: int,
        *,
        bins: int = 1025,
        spectrum: str = "complex",
        channels: int = 1,
        estimate: str = "mapping",
        last: str = "identity",
        gain: float = 256.0,
        levels: int = 3,
        halved: Sequence[int] | None = None,
        encoder: str = "tfc_lasaft",
        middle: str = "",
        decoder: str = "tfc_lasaft",
        stages: str = "decoder",
        by: str = "gpocm",
        vector: str = "embedding",
        control: str = "dense",
        control_layers: int = 4,
        width: int = 24,
        layers: int = 5,
        kernel: Sequence[int] = (3, 3),
        bottleneck: int = 16,
        least: int = 16,
        bias: bool = False,
        latent: int = 6,
        key: int = 32,
        embedding: int = 32,
        act: str = "relu",
    ) -> None:
        super().__init__()
        middle = middle or encoder
        _one_of("spectrum", spectrum, ("complex", "magnitude"))
        _one_of("estimate", estimate, ESTIMATES if spectrum == "complex" else ESTIMATES[:2])
        _one_of("last", last, LAST)
        _one_of("act", act, ACTS)
        _one_of("stages", stages, CONDITIONED)
        for name, kind in (("encoder", encoder), ("middle", middle), ("decoder", decoder)):
            _one_of(name, kind, KINDS)
        halved = range(0 if self.streams or "tdc" in (encoder[:3], decoder[:3]) else levels) if halved is None else halved
        if min(width, layers, levels, latent, key, embedding, channels, control_layers) < 1 or not gain > 0:
            raise ValueError("width, layers, levels, latent, key, embedding, channels, control_layers and gain must be above 0")
        if not set(halved) <= set(range(levels)) or (self.streams and halved):
            raise ValueError(f"halved is {list(halved)}; expected levels below {levels}, and none of a network that streams")
        self.bins, self.classes, self.channels, self.gain = bins, classes, channels, gain
        self.is_complex, self.is_mapping = spectrum == "complex", estimate == "mapping"
        kernel_size = (int(kernel[0]), int(kernel[1]))
        size = embedding if vector == "embedding" else classes
        spec = BlockSpec(
            width, layers, kernel_size, bottleneck, least, bias, latent, key, size, 1 if self.streams else 2, ACTS[act]
        )
        self.planes = 2 * channels if self.is_complex else 1
        unet = UNet(
            self.planes, bins, levels=levels, encoder=encoder, decoder=decoder, middle=middle, stages=stages, halved=halved,
            spec=spec, last=last,
        )  # fmt: skip
        modulation = Modulation(
            classes, unet.conditioned, width, by=by, vector=vector, control=control, embedding=embedding, layers=control_layers
        )
        self.asked = Asked(unet, modulation, estimate if self.is_complex else "mapping")
        start(self, last)

    # ---- in the bundle's layout

    def respond(self, signal: Tensor, condition: Tensor, memory: Memory) -> Tensor:
        """What is asked of (B, T, ...) ``signal``, in the layouts above."""
        if not self.is_complex:
            y: Tensor = self.asked(self.gain * signal[:, None], condition, memory)[:, :, 0]
            masks = y / (self.gain * signal[:, None]).clamp_min(self.gain * FAINT) if self.is_mapping else y
            return masks.clamp(0.0, 1.0).transpose(1, 2)
        batch, frames, channels, bins, _ = signal.shape
        planes = self.gain * signal.permute(0, 4, 2, 1, 3).reshape(batch, 2 * channels, frames, bins)
        y = self.asked(planes, condition, memory) / self.gain
        return y.view(batch, condition.shape[1], 2, channels, frames, bins).permute(0, 4, 1, 3, 5, 2)

    def identity(self, batch: int = 1) -> Tensor:
        """(B, classes, classes): each class is asked for, alone."""
        return torch.eye(self.classes).expand(batch, -1, -1)

    @abstractmethod
    def memory(self, state: State | None = None) -> Memory:
        """For a signal that begins, or that goes on where ``state`` was left."""

    def example(self, frames: int = 1) -> Tensor:
        """A signal of silence, (1, frames, ...)."""
        shape = (1, frames, self.channels, self.bins, 2) if self.is_complex else (1, frames, self.bins)
        return torch.zeros(shape)

    # ---- in that of training

    def answer(self, spectra: Tensor, condition: Tensor) -> Tensor:
        """(B, C, T, bins) complex spectra of mixtures, (B, targets, classes) -> (B, C, T, targets, bins) spectra; masks are not
        held within 0 and 1, where they would learn nothing."""
        if not self.is_complex:
            magnitude = spectra.abs().square().mean(dim=1).sqrt()
            y = self.asked(self.gain * magnitude[:, None], condition, self.memory())[:, :, 0]
            masks = y / (self.gain * magnitude[:, None]).clamp_min(self.gain * FAINT) if self.is_mapping else y
            answer: Tensor = spectra[:, :, :, None] * masks.transpose(1, 2)[:, None]
            return answer
        batch, channels = spectra.shape[:2]
        spare = -channels % self.channels
        padded = torch.cat([spectra, *[spectra[:, -1:]] * spare], dim=1)
        lanes = padded.reshape(-1, self.channels, *spectra.shape[2:])
        signal = torch.view_as_real(lanes.transpose(1, 2).contiguous())
        y = self.respond(signal, condition.repeat_interleave(len(lanes) // batch, dim=0), self.memory())
        heard = torch.view_as_complex(y.contiguous()).permute(0, 3, 1, 2, 4)  # (lanes, own channels, T, targets, bins)
        return heard.reshape(batch, -1, *heard.shape[2:])[:, :channels]

    def forward(self, magnitude: Tensor, chains: int | None = None) -> tuple[Tensor, Tensor]:
        """The masks of all classes in magnitudes (B, T, bins), and an embedding of no dimensions."""
        masks = self.respond(magnitude, self.identity(len(magnitude)).to(magnitude), self.memory())
        return masks, masks[:, :, :0]


class LaSaft(Conditioned):
    """Hears the whole signal, both ways; for files, in windows."""

    streams = False

    def memory(self, state: State | None = None) -> Memory:
        return Surroundings()


class StreamingLaSaft(Conditioned):
    """Frame after frame; the state is what its convolutions and recurrences remember, one tensor each."""

    streams = True

    def memory(self, state: State | None = None) -> Memory:
        return Memory(state)

    def initial_state(self) -> State:
        """Of one signal that is asked for every class."""
        return initial_state(self, lambda memory: self.respond(self.example(), self.identity(), memory))

    def step(self, signal: Tensor, condition: Tensor, state: State) -> tuple[Tensor, State]:
        """The next frames -> what is asked for, and the state after them."""
        memory = self.memory(state)
        return self.respond(signal, condition, memory), memory.after


def lasaft(classes: int, *, streaming: bool = False, **options: Any) -> Conditioned:
    """The network of the recipe's options."""
    return StreamingLaSaft(classes, **options) if streaming else LaSaft(classes, **options)


def _one_of(name: str, value: str, known: Any) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(known)}")

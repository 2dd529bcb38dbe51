"""Layers over time that stream: what they remember of the frames before is a value, handed in and handed out.

A network hands one ``Memory`` through its layers; each takes its part in turn and leaves what the next block will need. So a
whole signal is one block from a fresh memory, any other blocks give the same, and no layer names or counts its states. The same
layers hear both ways when the memory is a ``Surroundings``: what was the past is then padding on both sides.

    memory = Memory(state)                  # of the block before; Memory() for a fresh signal
    y = network(x, memory)
    state = memory.after                    # for the next block; the given one is untouched
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .recurrent import Lstm

State = tuple[Tensor, ...]


class Memory:
    """What layers remember, dealt out in the order in which they ask. ``before`` None: nothing was heard yet, which is zeros."""

    def __init__(self, before: Sequence[Tensor] | None = None) -> None:
        self._before = iter(before) if before is not None else None
        self._after: list[Tensor] = []

    @property
    def after(self) -> State:
        """What has been left for the next block so far."""
        return tuple(self._after)

    def recall(self, fresh: Tensor) -> Tensor:
        """The next state in turn, or ``fresh`` where nothing was heard; ``keep`` what becomes of it."""
        return fresh if self._before is None else next(self._before)

    def keep(self, state: Tensor) -> None:
        self._after.append(state)

    def extend(self, x: Tensor, frames: int, axis: int = 2) -> Tensor:
        """``x`` with the ``frames`` before it, which the block before has left; its own last frames are left for the next."""
        if frames == 0:
            return x
        shape = list(x.shape)
        shape[axis] = frames
        x = torch.cat([self.recall(x.new_zeros(shape)), x], dim=axis)
        self.keep(x.narrow(axis, x.shape[axis] - frames, frames))
        return x


class Surroundings(Memory):
    """For a signal that is there as a whole: silence is shared out to both of its sides, its end gets an odd frame."""

    def extend(self, x: Tensor, frames: int, axis: int = 2) -> Tensor:
        padding = [0] * (2 * (x.ndim - axis))
        padding[-2:] = frames // 2, frames - frames // 2
        return nn.functional.pad(x, padding)


def initial_state(network: nn.Module, run: Callable[[Memory], Any]) -> State:
    """The state of a signal that begins: zeros, in the shapes that ``run``, one block through ``network``, leaves behind."""
    was_training, memory = network.training, Memory()
    network.eval()  # statistics and dropout must not hear of it
    with torch.no_grad():
        run(memory)
    network.train(was_training)
    return tuple(torch.zeros_like(state) for state in memory.after)


class TimeConv2d(nn.Conv2d):
    """(B, C, T, F) -> (B, O, T, F / stride rounded up): ``kernel`` (time, frequency), ``dilation`` in time.

    T stays: the past comes from the memory. An odd frequency kernel is centred; ``stride`` is of frequency.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int], *, stride: int = 1, dilation: int = 1, bias: bool = True
    ) -> None:
        super().__init__(
            inputs, outputs, kernel, stride=(1, stride), padding=(0, kernel[1] // 2), dilation=(dilation, 1), bias=bias
        )
        self.past = (kernel[0] - 1) * dilation

    def forward(self, x: Tensor, memory: Memory) -> Tensor:  # type: ignore[override]  # time is more than a tensor's axis
        return super().forward(memory.extend(x, self.past))


class TimeConv1d(nn.Conv1d):
    """(B, C, T) -> (B, O, T): ``kernel`` and ``dilation`` in time, the past from the memory."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, dilation: int = 1, groups: int = 1, bias: bool = True) -> None:
        super().__init__(inputs, outputs, kernel, dilation=dilation, groups=groups, bias=bias)
        self.past = (kernel - 1) * dilation

    def forward(self, x: Tensor, memory: Memory) -> Tensor:  # type: ignore[override]  # see above
        return super().forward(memory.extend(x, self.past))


def recur(layer: Lstm, x: Tensor, memory: Memory) -> Tensor:
    """(T, rows, inputs) through a recurrent layer, which goes on where the memory says it was."""
    zeros = x.new_zeros(layer.directions, x.shape[1], layer.units)
    heard: tuple[Tensor, Tensor, Tensor] = layer(x, memory.recall(zeros), memory.recall(zeros))
    memory.keep(heard[1])
    memory.keep(heard[2])
    return heard[0]

"""Layers with a memory: the laws of streams, and what they compute against plain loops in float64."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sepstream_training.models.causal import Memory, Surroundings, TimeConv1d, TimeConv2d, initial_state, recur
from sepstream_training.models.recurrent import Lstm
from streaming_contract import Stage, verify

FRAMES = 40


class Stack(nn.Module):
    """Convolutions of two kinds and a recurrent layer, (B, 2, T, 6) -> (B, 3, T, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = TimeConv2d(2, 4, (3, 3), dilation=2)
        self.norm = nn.BatchNorm2d(4)
        self.narrow = TimeConv2d(4, 3, (2, 3), stride=2)
        self.line = TimeConv1d(9, 9, 4, groups=3)
        self.cell = Lstm(9, 9)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        y = self.narrow(torch.relu(self.norm(self.wide(x, memory))), memory)
        batch, channels, frames, bins = y.shape
        y = self.line(y.transpose(2, 3).reshape(batch, -1, frames), memory)
        y = recur(self.cell, y.permute(2, 0, 1), memory)
        return y.view(frames, batch, channels, bins).permute(1, 2, 0, 3)


@pytest.fixture
def stack():
    torch.manual_seed(1)
    return Stack().eval()


def test_a_stack_of_layers_obeys_the_streaming_contract(stack):
    signal = np.random.default_rng(1).standard_normal((2, 2, FRAMES, 6)).astype(np.float32)

    def step(block, state):
        memory = Memory(state)
        with torch.no_grad():
            out = stack(torch.from_numpy(np.ascontiguousarray(block)), memory)
        return out.numpy(), memory.after

    fresh = lambda: initial_state(stack, lambda memory: stack(torch.zeros(2, 2, 1, 6), memory))  # noqa: E731
    verify(Stage(fresh, step, axis=2, tolerance=1e-6, empty=False), signal)


def test_a_fresh_memory_is_the_initial_state(stack):
    x = torch.randn(1, 2, FRAMES, 6)
    state = initial_state(stack, lambda memory: stack(x[:, :, :1], memory))
    assert torch.equal(stack(x, Memory()), stack(x, Memory(state)))


def test_finding_the_shapes_leaves_the_network_as_it_was(stack):
    stack.train()
    before = {name: value.clone() for name, value in stack.state_dict().items()}
    initial_state(stack, lambda memory: stack(torch.ones(1, 2, 1, 6), memory))
    assert stack.training
    assert all(torch.equal(value, before[name]) for name, value in stack.state_dict().items())


@pytest.mark.parametrize(("kernel", "dilation", "stride"), [((3, 3), 1, 1), ((2, 5), 3, 2), ((1, 3), 1, 2), ((4, 1), 2, 1)])
def test_a_convolution_sums_its_own_past(kernel, dilation, stride):
    layer = TimeConv2d(2, 3, kernel, dilation=dilation, stride=stride)
    x = np.random.default_rng(2).standard_normal((2, 9, 8))
    weight, bias = (p.detach().double().numpy() for p in (layer.weight, layer.bias))
    wanted = np.zeros((3, 9, -(-8 // stride)))
    for o, t, f in np.ndindex(wanted.shape):
        wanted[o, t, f] = bias[o]
        for i, a, b in np.ndindex(2, *kernel):
            when, where = t - (kernel[0] - 1 - a) * dilation, stride * f + b - kernel[1] // 2
            if when >= 0 and 0 <= where < 8:
                wanted[o, t, f] += weight[o, i, a, b] * x[i, when, where]
    got = layer.double()(torch.from_numpy(x)[None], Memory())[0]
    np.testing.assert_allclose(got.detach().numpy(), wanted, atol=1e-12)


def test_with_surroundings_the_same_layer_hears_both_ways():
    layer = TimeConv2d(1, 1, (3, 1), bias=False)
    torch.nn.init.ones_(layer.weight)
    x = torch.arange(5.0).view(1, 1, 5, 1)
    assert layer(x, Surroundings()).flatten().tolist() == [1, 3, 6, 9, 7]
    assert layer(x, Memory()).flatten().tolist() == [0, 1, 3, 6, 9]
    assert Surroundings().extend(x, 3).flatten().tolist() == [0, 0, 1, 2, 3, 4, 0, 0]

"""Recurrent layers with their state in the open, and an export form that ONNX keeps as one node."""

from typing import Any

import torch
from torch import Tensor, nn


class Lstm(nn.Module):
    """An LSTM layer: (T, rows, inputs), h and c (directions, rows, units) -> (T, rows, directions * units), h, c.

    ``exporting`` swaps the arithmetic for an ONNX LSTM node: torch.export would otherwise bake the length of
    the example into the graph. The symbolic node cannot run eagerly; parity is proven against this form.
    """

    exporting = False

    def __init__(self, inputs: int, units: int, directions: int = 1) -> None:
        super().__init__()
        self.units, self.directions = units, directions
        self.cell = nn.LSTM(inputs, units, bidirectional=directions == 2)
        with torch.no_grad():  # remember by default: forget-gate bias 1 (Jozefowicz et al. 2015)
            for suffix in self._suffixes():
                self.cell.get_parameter(f"bias_hh_{suffix}")[units : 2 * units].fill_(1.0)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.exporting:
            return self._onnx_node(x, h, c)
        y, (h, c) = self.cell(x, (h, c))
        return y, h, c

    def _suffixes(self) -> tuple[str, ...]:
        return ("l0", "l0_reverse")[: self.directions]

    def _onnx_node(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        def iofc(name: str) -> Tensor:
            """(directions, 4 * units, ...): torch stacks i f g o, ONNX wants i o f c."""
            gates = [self.cell.get_parameter(f"{name}_{suffix}").chunk(4) for suffix in self._suffixes()]
            return torch.stack([torch.cat([i, o, f, g]) for i, f, g, o in gates])

        length, rows, _ = x.shape
        bias = torch.cat([iofc("bias_ih"), iofc("bias_hh")], dim=1)
        inputs: Any = (x, iofc("weight_ih"), iofc("weight_hh"), bias, None, h, c)
        y, h, c = torch.onnx.ops.symbolic_multi_out(
            "LSTM",
            inputs,
            dict(hidden_size=self.units, direction="bidirectional" if self.directions == 2 else "forward"),
            dtypes=(torch.float32,) * 3,
            shapes=((length, self.directions, rows, self.units), *(2 * ((self.directions, rows, self.units),))),
            version=14,
        )
        return y.transpose(1, 2).reshape(length, rows, -1), h, c


class Gru(nn.Module):
    """A GRU layer: (T, rows, inputs), h (directions, rows, units) -> (T, rows, directions * units), h. Exported like ``Lstm``."""

    def __init__(self, inputs: int, units: int, directions: int = 1) -> None:
        super().__init__()
        self.units, self.directions = units, directions
        self.cell = nn.GRU(inputs, units, bidirectional=directions == 2)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        if Lstm.exporting:
            return self._onnx_node(x, h)
        y, h = self.cell(x, h)
        return y, h

    def _onnx_node(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        def zrh(name: str) -> Tensor:
            """(directions, 3 * units, ...): torch stacks r z n, ONNX wants z r h."""
            suffixes = ("l0", "l0_reverse")[: self.directions]
            gates = [self.cell.get_parameter(f"{name}_{suffix}").chunk(3) for suffix in suffixes]
            return torch.stack([torch.cat([z, r, n]) for r, z, n in gates])

        length, rows, _ = x.shape
        bias = torch.cat([zrh("bias_ih"), zrh("bias_hh")], dim=1)
        inputs: Any = (x, zrh("weight_ih"), zrh("weight_hh"), bias, None, h)
        y, h = torch.onnx.ops.symbolic_multi_out(
            "GRU",
            inputs,
            dict(
                hidden_size=self.units,
                direction="bidirectional" if self.directions == 2 else "forward",
                linear_before_reset=1,  # torch resets what the matrix has made of h, not h
            ),
            dtypes=(torch.float32,) * 2,
            shapes=((length, self.directions, rows, self.units), (self.directions, rows, self.units)),
            version=14,
        )
        return y.transpose(1, 2).reshape(length, rows, -1), h

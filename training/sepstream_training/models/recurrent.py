"""One recurrent layer with its state in the open, and an export form that ONNX keeps as one node."""

from typing import Any

import torch
from torch import Tensor, nn


class Lstm(nn.Module):
    """A unidirectional LSTM layer: (T, rows, inputs), h and c (1, rows, units) -> (T, rows, units), h, c.

    ``exporting`` swaps the arithmetic for an ONNX LSTM node: torch.export would otherwise bake the length of
    the example into the graph. The symbolic node cannot run eagerly; parity is proven against this form.
    """

    exporting = False

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.units = units
        self.cell = nn.LSTM(inputs, units)
        with torch.no_grad():  # remember by default: forget-gate bias 1 (Jozefowicz et al. 2015)
            self.cell.get_parameter("bias_hh_l0")[units : 2 * units].fill_(1.0)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.exporting:
            return self._onnx_node(x, h, c)
        y, (h, c) = self.cell(x, (h, c))
        return y, h, c

    def _onnx_node(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        def iofc(gates: Tensor) -> Tensor:  # torch stacks i f g o, ONNX wants i o f c
            i, f, g, o = gates.chunk(4)
            return torch.cat([i, o, f, g])[None]

        cell: Any = self.cell  # its weights are made by name, which a type checker cannot see
        length, rows, _ = x.shape
        bias = torch.cat([iofc(cell.bias_ih_l0), iofc(cell.bias_hh_l0)], dim=1)
        y, h, c = torch.onnx.ops.symbolic_multi_out(
            "LSTM",
            (x, iofc(cell.weight_ih_l0), iofc(cell.weight_hh_l0), bias, None, h, c),
            dict(hidden_size=self.units),
            dtypes=(torch.float32,) * 3,
            shapes=((length, 1, rows, self.units), (1, rows, self.units), (1, rows, self.units)),
            version=14,
        )
        return y[:, 0], h, c

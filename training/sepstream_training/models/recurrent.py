"""One recurrent layer with its state in the open, and an export form that ONNX keeps as one node."""

from typing import Any

import torch
from torch import Tensor, nn


class DilatedLstm(nn.Module):
    """A causal LSTM that looks d frames back: (T, rows, inputs) -> (T, rows, units).

    d chains with shared weights take turns (Chang et al. 2017, Dilated Recurrent Neural Networks).
    A long analysis window shows every chain what its neighbours saw, so nothing is lost, and training runs at
    the rate of one chain: a network for 5 ms hops learns as cheaply as one for 16 ms hops.

    State h and c, each (d, rows, units): a queue, the next frame's chain first. The state alone decides d:
    a single chain, fed every third frame, is exactly one of three chains fed every frame.

    ``exporting`` swaps the arithmetic for ONNX LSTM nodes: torch.export would otherwise bake the length of
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
        whole = x.shape[0] // h.shape[0] * h.shape[0]  # frames in full turns; the rest advances the queue
        parts = []
        for frames, chains in ((x[:whole], h.shape[0]), (x[whole:], x.shape[0] - whole)):
            if frames.shape[0]:
                y, h_new, c_new = self._turns(frames, chains, h[:chains], c[:chains])
                h, c = torch.cat([h[chains:], h_new]), torch.cat([c[chains:], c_new])
                parts.append(y)
        return torch.cat(parts), h, c

    def _turns(self, x: Tensor, chains: int, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run ``chains`` chains side by side as rows of one batch; x holds a whole number of turns."""
        length, rows, inputs = x.shape
        run = self._onnx_node if self.exporting else self._torch_cell
        side = (1, chains * rows, self.units)
        y, h, c = run(x.reshape(length // chains, chains * rows, inputs), h.reshape(side), c.reshape(side))
        queue = (chains, rows, self.units)
        return y.reshape(length, rows, self.units), h.reshape(queue), c.reshape(queue)

    def _torch_cell(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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

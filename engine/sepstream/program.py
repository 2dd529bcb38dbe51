"""A compiled selection: the Code of all buses as plain arrays, and the Program that runs it on a bundle.

selection.py writes a Code out of expressions; kernels.py has the instructions and runs them. A Code is a value that
travels between processes as bytes, so that the audio process never sees a text. A Program belongs to one thread at a
time: it holds its kernel's room to work in.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .contract import Bundle
from .disk import MAX_RADIUS
from .errors import ControlError

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

NUMBERS = 7  # of each instruction
MAX_ROWS = 1 << 20  # of each array
_HEADER = struct.Struct("<4s4I")  # magic, instructions, forms, their columns, points of outlines
_MAGIC = b"sep1"
_TAKES = np.array([0] * kernels.NOT + [1, 1] + [2] * 4 + [1, 0])  # masks that an instruction finds on the stack,
_GIVES = np.array([1] * kernels.BUS + [0, 0])  # and those that it leaves there instead


@dataclass(frozen=True, eq=False)
class Code:
    """Instructions in the order they run, operands before operators.

    ``steps`` (n, 3): operation, a, b. ``numbers`` (n, 7). ``forms`` (rows, 2 + dim + 1), ``outlines`` (points, 2).
    Raises ControlError for what would lead the kernel out of its arrays.
    """

    steps: I32
    numbers: F64
    forms: F64
    outlines: F64

    def __post_init__(self) -> None:
        for fault in self._faults():
            raise ControlError(f"compiled program: {fault}; expected the bytes that Code.pack gave, send the scene again")

    @cached_property
    def buses(self) -> int:
        return int((self.steps[:, 0] >= kernels.BUS).sum())

    @cached_property
    def lifts(self) -> bool:
        """Whether anything is measured on the disk."""
        op = self.steps[:, 0]
        return bool(((op >= kernels.BAND) & (op < kernels.NOT)).any())

    @cached_property
    def depth(self) -> int:
        """Of the stack of masks."""
        return int(self._heights().max(initial=0))

    def pack(self) -> bytes:
        """The same as bytes, for ``unpack`` on this machine."""
        header = _HEADER.pack(_MAGIC, len(self.steps), *self.forms.shape, len(self.outlines))
        return b"".join([header, *(array.tobytes() for array in (self.numbers, self.forms, self.outlines, self.steps))])

    @classmethod
    def unpack(cls, data: bytes) -> "Code":
        """Raises ControlError for bytes that ``pack`` did not give."""
        head = data[: _HEADER.size].ljust(_HEADER.size, b"\0")
        magic, steps, rows, width, points = _HEADER.unpack(head)
        if magic != _MAGIC or max(steps, rows, width, points) > MAX_ROWS:
            raise ControlError(f"compiled program: it begins with {head.hex()}; expected the bytes that Code.pack gave")
        shapes = (steps, NUMBERS), (rows, width), (points, 2)
        starts = np.cumsum([_HEADER.size, *(8 * height * wide for height, wide in shapes)]).tolist()
        if len(data) != starts[-1] + 12 * steps:
            raise ControlError(f"compiled program of {len(data)} bytes; its head promises {starts[-1] + 12 * steps}")
        parts = [np.frombuffer(data, np.float64, a * b, at).reshape(a, b) for at, (a, b) in zip(starts, shapes, strict=False)]
        numbers, forms, outlines = (part.copy() for part in parts)  # aligned, and writable: kernels know no other kind
        return cls(np.frombuffer(data, np.int32, 3 * steps, starts[-1]).reshape(steps, 3).copy(), numbers, forms, outlines)

    def _heights(self) -> I64:
        """Of the stack after each instruction."""
        op = self.steps[:, 0]
        return np.cumsum(_GIVES[op] - _TAKES[op], dtype=np.int64)

    def _faults(self) -> Iterator[str]:
        """What is wrong, in the order in which the checks lean on each other."""
        op, a, b = self.steps.T.astype(np.int64)
        if not ((op >= 0) & (op <= kernels.RESIDUAL)).all():
            yield "unknown operations"
        heights = self._heights()
        if (np.concatenate([[0], heights[:-1]]) < _TAKES[op]).any() or heights[-1:].any():
            yield "a stack that does not add up"
        if not np.array_equal(a[op >= kernels.BUS], np.arange(self.buses)):
            yield "buses out of order"
        if np.isnan(self.numbers).any() or not (np.isfinite(self.forms).all() and np.isfinite(self.outlines).all()):
            yield "numbers that are none"
        if not np.isin(self.forms[:, :1], (kernels.POINT, kernels.LINE, kernels.FLAT)).all():
            yield "unknown forms"
        cell, lasso = op == kernels.CELL, op == kernels.LASSO
        rooms = (op == kernels.BAND, len(self.forms)), (cell, len(self.forms)), (lasso, len(self.outlines))
        for which, room in rooms:
            end = np.where(op == kernels.BAND, a + 1, b)[which]
            if not ((a[which] >= 0) & (a[which] < end) & (end <= room)).all():
                yield "rows that are not there"
        own = self.numbers[cell, 0]
        if not ((own >= 0) & (own < (b - a)[cell])).all():
            yield "a cell beyond its level"


class Program:
    """A Code made ready to run on a bundle: one mask for each of the ``buses``, in their order.

    ``gains`` (buses,) is where the faders stand; without it all are at unity. Raises ControlError for a code that is
    not for this bundle or for another number of buses.
    """

    def __init__(self, bundle: Bundle, buses: tuple[str, ...], code: Code, gains: F32 | None = None) -> None:
        self.bundle, self.buses, self.code = bundle, buses, code
        self._gains = np.ones(len(buses), np.float32) if gains is None else gains
        width, bins = bundle.embedding_dim + 1, bundle.band.bins
        self._check(width)
        self._limit = MAX_RADIUS if bundle.disk and bundle.disk.curvature else 0.0
        self._lifted = np.zeros((width if code.lifts else 0, bins))
        self._distances = np.zeros((len(code.forms), bins))
        self._stack = np.zeros((code.depth, bins), np.float32)

    def _check(self, width: int) -> None:
        op, a, _ = self.code.steps.T
        named, drawn = a[op == kernels.CLASS], (op == kernels.ELLIPSE) | (op == kernels.LASSO)
        known = ((named >= 0) & (named < len(self.bundle.classes))).all()
        measured = self.code.lifts and not self.bundle.disk
        if not known or measured or self.code.forms.shape[1] != 2 + width or (drawn.any() and width != 3):
            raise ControlError(f"compiled program: it is for another model than '{self.bundle.name}'; send the scene again")
        if self.code.buses != len(self.buses):
            raise ControlError(f"compiled program: {self.code.buses} buses; expected {len(self.buses)}; send the scene again")

    def initial_state(self) -> F32:
        """(buses, bins): the last masks; NaN where there are none yet, so that the first are taken as they come."""
        return np.full((len(self.buses), self.bundle.band.bins), np.nan, np.float32)

    def masks(self, masks: F32, embedding: F32, out: F32, state: F32) -> F32:
        """(hops, classes, bins), (hops, dim, bins) -> fills ``out`` (hops, buses, bins); returns the new state.

        The masks are those before the faders. The residual is 1 - the sum of the others after smoothing, so that all
        buses together are the mix at any moment.
        """
        hops, bins, code = len(out), self.bundle.band.bins, self.code
        assert masks.shape == (hops, len(self.bundle.classes), bins), masks.shape
        assert embedding.shape == (hops, self.bundle.embedding_dim, bins), embedding.shape
        assert out.shape == (hops, len(self.buses), bins) and out.shape[1:] == state.shape, (out.shape, state.shape)
        kernels.run_program(
            code.steps, code.numbers, code.forms, code.outlines, self._limit,
            masks, embedding, state, self._lifted, self._distances, self._stack, out,
        )  # fmt: skip
        return out[-1].copy() if hops else state

    def gains(self) -> F32:
        """(buses,) linear: where each fader stands."""
        return self._gains

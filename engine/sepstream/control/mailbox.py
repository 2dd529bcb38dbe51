"""The mailbox: one message of the control process to the worker, the newest wins.

Two places take turns: the writer fills the one that is not being read and then raises the count. A writer that dies
half-way leaves the older message standing. The gains of the dry sound go straight to the audio callback, so that a mute
holds even while the model is late.
"""

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..board import MAIL, MAIL_BYTES, MAIL_SIZE, MAX_BUSES, Board
from ..errors import ControlError

F32 = NDArray[np.float32]
_HEAD = struct.Struct("<5I")  # bytes of the program, buses, outputs, sources, inputs


class Order(NamedTuple):
    """What the worker shall play."""

    program: bytes  # the selection, compiled and packed (selection.Code)
    slots: tuple[int, ...]  # of the buses, on the recorder's rings and the meters
    matrix: F32  # (outputs, buses + 1, inputs): the gain of each input of each bus, the dry sound last, at each output


def post(board: Board, order: Order, dry: F32) -> None:
    """Leave ``order`` for the worker, and the gains ``dry`` (outputs, inputs) for the callback. Raises ControlError."""
    matrix = np.ascontiguousarray(order.matrix, np.float32)
    slots = np.asarray(order.slots, np.int32)
    data = _HEAD.pack(len(order.program), len(slots), *matrix.shape) + order.program + slots.tobytes() + matrix.tobytes()
    if len(data) > MAIL_BYTES or len(slots) > MAX_BUSES:
        raise ControlError(f"a scene of {len(slots)} buses and {len(data)} bytes; expected {MAX_BUSES} and {MAIL_BYTES} at most")
    count = int(board.words[MAIL]) + 1
    board.mail(count & 1)[: len(data)] = np.frombuffer(data, np.uint8)
    board.words[MAIL_SIZE + (count & 1)] = len(data)
    board.area("dry_target", *dry.shape)[:] = dry
    kernels.barrier()  # the message before its count
    board.words[MAIL] = count


def take(board: Board, seen: int) -> tuple[int, Order | None]:
    """The newest message if it is not number ``seen``; the number that has been seen now. Never waits."""
    for _ in range(3):
        count = int(board.words[MAIL])
        if count in (seen, 0):
            return seen, None
        kernels.barrier()
        data = board.mail(count & 1)[: int(board.words[MAIL_SIZE + (count & 1)])].tobytes()
        kernels.barrier()
        if int(board.words[MAIL]) - count < 1:  # nobody wrote meanwhile, least of all twice
            try:
                return count, _read(data)
            except (struct.error, ValueError):  # no message of ours: whoever it is from, the sound goes on as it was
                return seen, None
    return seen, None  # a torrent; the next hop looks again


def _read(data: bytes) -> Order:
    """Raises struct.error or ValueError for what is shorter than it says."""
    program_bytes, buses, *shape = _HEAD.unpack_from(data)
    at = _HEAD.size + program_bytes
    slots = np.frombuffer(data, np.int32, buses, at)
    matrix = np.frombuffer(data, np.float32, int(np.prod(shape)), at + slots.nbytes).reshape(shape).copy()
    return Order(data[_HEAD.size : at], tuple(slots.tolist()), matrix)

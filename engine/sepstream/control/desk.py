"""The desk: from the scene that people play to the numbers that the audio process follows.

It owns the scene and what belongs to it for as long as the session lasts: which slot of the recorder a bus has. Only
what changed is compiled anew.
"""

from dataclasses import replace
from functools import lru_cache

from .. import board as b
from ..board import Board
from ..contract import Bundle
from ..selection import Bus, Selection, Strip, compile
from .mailbox import Order, post
from .scene import Scene, dry, matrix


class Desk:
    """Compiles scenes for ``bundle`` and posts them on ``board``. Raises ExpressionError for a scene the model cannot play;
    the one before goes on."""

    def __init__(self, bundle: Bundle, board: Board) -> None:
        self.bundle, self.board = bundle, board
        self.scene: Scene | None = None
        self.slots: dict[str, int] = {}  # a bus keeps its own for the session: slot 0 is the input
        self._shape = -1
        self._compiled = lru_cache(maxsize=16)(self._compile)

    def play(self, scene: Scene) -> None:
        """From the next hop on."""
        self._post(scene)
        self.scene = scene

    def check(self, scene: Scene) -> None:
        """Raises ExpressionError for a scene that the model cannot play."""
        self._compiled(_bare(scene.selection))

    def refresh(self) -> None:
        """Post the scene again if the device has other channels by now."""
        if self.scene is not None and self._shape != self.board.words[b.SHAPE]:
            self._post(self.scene)

    def _post(self, scene: Scene) -> None:
        inputs, outputs = int(self.board.words[b.INPUTS]), int(self.board.words[b.OUTPUTS])
        program = self._compiled(_bare(scene.selection))
        if inputs and outputs:  # else no device yet; refresh will see it
            order = Order(program, self._places(scene.selection.names), matrix(scene, inputs, outputs))
            post(self.board, order, dry(scene, inputs, outputs))
            self._shape = int(self.board.words[b.SHAPE])

    def _compile(self, selection: Selection) -> bytes:
        return compile(selection, self.bundle).code.pack()

    def _places(self, names: tuple[str, ...]) -> tuple[int, ...]:
        """A slot for each bus. When a session has known more names than there are slots, the oldest unheard give theirs up."""
        for name in names:
            if name not in self.slots:
                free = next((slot for slot in range(1, b.MAX_BUSES + 1) if slot not in self.slots.values()), None)
                if free is None:
                    old = next(known for known in self.slots if known not in names)
                    free = self.slots.pop(old)
                self.slots[name] = free
        return tuple(self.slots[name] for name in names)


def _bare(selection: Selection) -> Selection:
    """What the program depends on: a moved fader compiles nothing."""
    buses = tuple(Bus(bus.name, bus.expression, smooth_ms=bus.smooth_ms) for bus in selection.buses)
    return replace(selection, buses=buses, residual=None if selection.residual is None else Strip())

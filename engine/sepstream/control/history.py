"""Undo and redo: the scenes that were, as one frozen value. Pure: the time comes in."""

import math
from dataclasses import dataclass, replace

from ..errors import ControlError
from .scene import Scene

KEEP = 200  # scenes
PAUSE_S = 1.0  # a hand that rests so long begins a new step


@dataclass(frozen=True)
class History:
    """``past`` ends with the newest scene to go back to, ``future`` with the next one to go on to."""

    past: tuple[Scene, ...] = ()
    future: tuple[Scene, ...] = ()
    what: str = ""  # moved last
    until: float = -math.inf  # and is the same step until then

    def noted(self, scene: Scene, what: str, now: float) -> "History":
        """``scene`` is about to be changed by ``what``; as long as one hand moves one thing, that is one step."""
        if what == self.what and now < self.until and self.past:
            return replace(self, future=(), until=now + PAUSE_S)
        return History((*self.past, scene)[-KEEP:], (), what, now + PAUSE_S)

    def back(self, scene: Scene) -> tuple[Scene, "History"]:
        """The scene before ``scene``. Raises ControlError."""
        if not self.past:
            raise ControlError("undo: there is nothing before this")
        return self.past[-1], History(self.past[:-1], (*self.future, scene))

    def forth(self, scene: Scene) -> tuple[Scene, "History"]:
        """What was taken back. Raises ControlError."""
        if not self.future:
            raise ControlError("redo: nothing was taken back")
        return self.future[-1], History((*self.past, scene), self.future[:-1])

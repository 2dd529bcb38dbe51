"""A control process for the tests of pages: the real host on a thread, a real board behind it, and no audio process.

``Stage.paint`` puts hops and meters on the board as a worker would.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import toy_bundle
from sepstream import board as b
from sepstream.control.host import Host
from sepstream.control.player import Playing
from sepstream.disk import prototypes
from sepstream.session import Config, Session

END_S = 60.0


class Stage:
    """A host as the control process runs it."""

    def __init__(self, session: Session) -> None:
        self.session, self.host = session, Host(session)
        assert self.host.pages is not None
        self.url = self.host.pages.url
        self._thread = threading.Thread(target=self.host.run)
        self._thread.start()

    @property
    def playing(self) -> Playing:
        return self.host.playing

    @property
    def port(self) -> int:
        """Of its OSC."""
        assert self.host.server is not None
        return int(self.host.server.address[1])

    def paint(self, number: int) -> None:
        """One hop: a chord of partials about the places of the classes, and levels that move."""
        board, bundle = self.session.board, self.host.bundle
        words, bins = board.words, bundle.band.bins
        rng, k = np.random.default_rng(number), np.arange(bins)
        places = prototypes(bundle.disk)
        which = (k // 3) % len(places)
        inside = np.clip(places[which].T * 0.8 + rng.normal(0, 0.07, (2, bins)), -0.65, 0.65)
        norm = np.maximum(np.hypot(*inside), 1e-9)
        slot = int(words[b.VIEWED]) % b.VIEWS
        view = board.views(bins)[slot]
        view[0] = 0.3 * np.exp(-k / 60) * (0.2 + np.abs(np.sin(k * 0.8 + number / 20))) * (1.2 + np.sin(number / 9))
        view[1:3] = inside * (np.arctanh(norm) / norm)
        slots = list(self.host.desk.slots.values())[: b.VIEW_BUSES]
        for place in range(len(slots)):
            view[3 + place] = which == place
        board.view_heads()[slot, : 2 + len(slots)] = number, len(slots), *slots
        words[b.VIEWED] += 1
        words[b.BUSES] = len(slots)
        board.area("bus_levels", b.MAX_BUSES, 2)[:, 0] = 0.3 + 0.25 * np.sin(number / 7 + np.arange(b.MAX_BUSES))
        board.area("output_levels", 2, 2)[:, 0] = 0.5 + 0.3 * np.sin(number / 5)

    def close(self) -> None:
        self.session.board.words[b.STOP] = 1
        self._thread.join(END_S)
        assert not self._thread.is_alive()


@contextmanager
def stage(
    folder: Path, *, token: str = "", surface: str = "127.0.0.1:0", model: Any = None, midi: str = "none"
) -> Iterator[Stage]:
    """Presets go to SEPSTREAM_PRESETS, which a test has to set."""
    model = model or toy_bundle.make(folder, hops=(1,))
    session = Session.make(Config(model=str(model), midi=(midi,), osc="127.0.0.1:0", surface=surface, surface_token=token))
    session.board.words[b.INPUTS] = session.board.words[b.OUTPUTS] = 2
    made = Stage(session)
    try:
        yield made
    finally:
        made.close()
        session.remove()

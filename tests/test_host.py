"""The control process's loop, turned by hand: a real socket in front, a real board behind, time as the test likes it."""

import socket
from collections.abc import Iterator

import numpy as np
import pytest

import toy_bundle
from sepstream import board as b
from sepstream.control import mailbox
from sepstream.control.host import ENOUGH_LISTINGS, Host
from sepstream.control.osc import Argument, Message, decode, encode
from sepstream.session import Config, Session


class Surface:
    """A host, a client on the loopback, and the clock between them."""

    def __init__(self, host: Host) -> None:
        assert host.server is not None
        self.host, self.server, self.now = host, host.server, 100.0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)

    def send(self, address: str, *args: Argument, times: int = 1) -> list[Message]:
        """What is answered within a turn or two."""
        for _ in range(times):
            self.socket.sendto(encode(address, *args), self.server.address)
        return self.turn()

    def turn(self, seconds: float = 0.01) -> list[Message]:
        for _ in range(2):
            self.now += seconds
            self.host.turn(self.now)
        heard: list[Message] = []
        while True:
            try:
                heard += [timed.message for timed in decode(self.socket.recv(65536), 0.0)]
            except BlockingIOError:
                return heard

    @property
    def order(self) -> mailbox.Order:
        """What the worker would find."""
        _, order = mailbox.take(self.host.board, -1)
        assert order is not None
        return order


@pytest.fixture
def session(tmp_path) -> Iterator[Session]:
    model = toy_bundle.make(tmp_path, hops=(1,))
    session = Session.make(Config(model=str(model), midi=("none",), osc="127.0.0.1:0"))
    session.board.words[b.INPUTS] = session.board.words[b.OUTPUTS] = 2
    yield session
    session.remove()


@pytest.fixture
def surface(session: Session) -> Iterator[Surface]:
    surface = Surface(Host(session))
    surface.turn()
    yield surface
    surface.socket.close()
    surface.server.close()


def test_a_session_begins_with_a_bus_for_each_leaf_at_unity(surface: Surface) -> None:
    order = surface.order
    assert len(order.slots) == 5 and order.matrix.shape == (2, 6, 2)
    np.testing.assert_array_equal(order.matrix[:, :5], np.broadcast_to(np.eye(2)[:, None], (2, 5, 2)))
    assert not order.matrix[:, 5].any()  # nothing dry


def test_a_change_is_posted_and_the_rest_is_not_touched(surface: Surface) -> None:
    before = surface.order.matrix
    assert surface.send("/bus/drums/mute", 1) == []
    after = surface.order.matrix
    assert not after[:, 3].any()
    np.testing.assert_array_equal(np.delete(after, 3, 1), np.delete(before, 3, 1))


@pytest.mark.parametrize(
    ("address", "args", "words"),
    [
        ("/bus/drums/select", ("flute",), "flute"),
        ("/bus/drumz/gain_db", (-6.0,), "drums"),
        ("/preset/load", ("karaoke-nobody-has",), "karaoke"),
        ("/record", (1,), "--record"),
        ("/region/none/x", (0.1,), "none"),
    ],
)
def test_what_cannot_be_is_answered_in_one_line_and_changes_nothing(
    surface: Surface, address: str, args: tuple[Argument, ...], words: str
) -> None:
    before = surface.host.playing
    (answer,) = surface.send(address, *args)
    assert answer.address == "/error" and words in str(answer.args[0]) and "\n" not in str(answer.args[0])
    assert surface.host.playing is before


def test_a_flood_of_small_questions_with_large_answers_is_not_answered_for_long(surface: Surface) -> None:
    once = len(surface.send("/controls"))
    assert once > 50
    assert len(surface.send("/controls", times=3 * ENOUGH_LISTINGS)) < ENOUGH_LISTINGS * once
    assert surface.send("/controls") == []
    surface.turn(1.0)
    assert len(surface.send("/controls")) == once


def test_a_host_that_takes_over_finds_the_scene_the_slots_and_the_preset(surface: Surface, session: Session) -> None:
    surface.send("/preset/load", "karaoke")
    surface.send("/bus/1/gain_db", -7.0)
    surface.turn(1.0)
    heir = Host(session)
    assert heir.playing.scene == surface.host.playing.scene and heir.desk.slots == surface.host.desk.slots
    assert heir.server is not None
    heir.server.close()


def test_a_host_that_takes_over_knows_where_panic_and_the_morph_lead(surface: Surface, session: Session) -> None:
    surface.send("/preset/load", "karaoke")
    for address, value in (("/preset/b", "voice"), ("/morph", 0.25), ("/morph/seconds", 9.0), ("/learn", "master/gain_db")):
        assert surface.send(address, value) == []
    surface.turn(1.0)
    heir = Host(session)
    for name in ("scene", "home", "a", "b", "start", "morph", "seconds", "learning", "preset"):
        assert getattr(heir.playing, name) == getattr(surface.host.playing, name), name
    assert heir.server is not None
    heir.server.close()


def test_everybody_learns_which_preset_plays_and_which_there_are(surface: Surface) -> None:
    surface.send("/subscribe", 60.0)
    other = Surface(surface.host)
    other.now = surface.now
    other.send("/preset/load", "karaoke")
    surface.now = other.now
    assert Message("/preset/load", ("karaoke",)) in surface.turn(0.1)
    assert surface.send("/preset/load")[0] == Message("/preset/load", ("karaoke",))
    names = {message.args[0] for message in surface.send("/presets") if message.address == "/preset"}
    assert {"karaoke", "voice", "stems"} <= names
    other.socket.close()


def test_a_device_with_other_channels_gets_a_matrix_of_its_own(surface: Surface, session: Session) -> None:
    session.board.words[b.OUTPUTS] = 6
    session.board.words[b.SHAPE] += 1
    surface.turn()
    assert surface.order.matrix.shape == (6, 6, 2)

"""OSC over real sockets, with liblo's oscsend and oscdump on the other side, and floods. Everything on the loopback."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

import jack_server
from sepstream.control import osc_protocol as protocol
from sepstream.control.osc import Client, Message, bundle, decode, encode
from sepstream.control.osc_clients import MAX_ANSWERS, Patience, Schedule, Subscribers
from sepstream.control.osc_server import Datagram, Server, read_endpoint
from sepstream.control.scene import Scene, get, names, put, put_region
from sepstream.control.table import Change, Value
from sepstream.disk import Disc
from sepstream.errors import ControlError, DeviceError
from sepstream.expression import parse
from sepstream.selection import Bus, Selection, Strip

HOST = "127.0.0.1"
UNIX = 1_800_000_000.0  # when the player's own clock says 0


class Player:
    """The least that can be played: a scene behind a socket, and a clock that only the test moves."""

    def __init__(self, server: Server) -> None:
        buses = (Bus("vox", parse("mix")), Bus("drums", parse("mix")))
        self.server, self.now = server, 0.0
        self.scene = Scene(Selection(buses, Strip(), (("dark", Disc(0.0, 0.0, 1.0)),)))
        self.schedule, self.subscribers, self.patience = Schedule(), Subscribers(), Patience()

    @property
    def buses(self) -> tuple[str, ...]:
        return self.scene.selection.names

    @property
    def regions(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.scene.selection.regions)

    def turn(self, limit: int = 256) -> int:
        """What a host does once in its loop; how many datagrams it dealt with."""
        received = self.server.receive(limit)
        for sender, data in received:
            self.hear(sender, data)
        ready, self.schedule = self.schedule.due(self.now)
        for _, sender, message in ready:
            try:
                self.play(sender, message)
            except ControlError as error:
                self.refuse(sender, error)
        news, self.subscribers = self.subscribers.due(self.now)
        for client, by_place, changes in news:
            messages = [*(protocol.value_message(*change) for change in changes), Message("/running", (1,))]
            self.server.send(client, protocol.news(messages, self.buses, by_place, self.regions))
        return len(received)

    def hear(self, sender: Client, data: bytes) -> None:
        if not self.patience.listens(sender, self.now):
            return
        try:
            self.schedule = self.schedule.add(sender, decode(data, UNIX + self.now), self.now)
        except ControlError as error:
            self.refuse(sender, error)

    def refuse(self, sender: Client, error: ControlError) -> None:
        answer, self.patience = self.patience.error(sender, self.now)
        self.answer(sender, *[protocol.error_message(error)] * answer)

    def play(self, sender: Client, message: Message) -> None:
        match protocol.request(message):
            case Change() as change:
                self.change(sender, put(self.scene, change, clamp=True))
            case protocol.SetRegion(name, region):
                self.change(sender, put_region(self.scene, name, region))
            case protocol.Ask(name):
                self.answer(sender, protocol.value_message(name, get(self.scene, name)))
            case protocol.AskRegion(name):
                self.answer(sender, protocol.region_message(name, dict(self.scene.selection.regions)[name]))
            case protocol.AskAll():
                self.answer(sender, *protocol.listing(values(self.scene)))
            case protocol.Subscribe() as wish:
                present = values(self.scene) | protocol.labels(self.buses, self.regions)
                self.subscribers = self.subscribers.add(sender, wish, self.now, present)
            case protocol.Unsubscribe(port):
                self.subscribers = self.subscribers.remove(sender, port)
            case protocol.Ping():
                self.answer(sender, Message("/pong"))

    def change(self, sender: Client, scene: Scene) -> None:
        before, self.scene = values(self.scene), scene
        changes = {name: value for name, value in values(scene).items() if before.get(name) != value}
        self.subscribers = self.subscribers.changed(changes, self.now, sender)

    def answer(self, client: Client, *messages: Message) -> None:
        self.server.send(client, protocol.news(messages, (), by_place=False))


def values(scene: Scene) -> dict[str, Value]:
    return {name: get(scene, name) for name in names(scene)}


@pytest.fixture
def player() -> Iterator[Player]:
    with Server(HOST, 0) as server:
        yield Player(server)


def friend() -> closing[socket.socket]:
    """A socket of somebody else, who does not wait for ever."""
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    other.bind((HOST, 0))
    other.settimeout(jack_server.PATIENCE)
    return closing(other)


def heard(other: socket.socket) -> list[Message]:
    return [item.message for item in decode(other.recv(65536), UNIX)]


def oscsend(player: Player, *words: str) -> None:
    """By the real program; the player has dealt with it on return."""
    jack_server.require("oscsend")
    subprocess.run(["oscsend", HOST, str(player.server.address[1]), *words], check=True, timeout=jack_server.PATIENCE)
    jack_server.wait_until(player.turn, f"oscsend {words}")


# The socket


def test_a_server_says_which_free_port_it_got_and_frees_it_again():
    with Server(HOST, 0) as first:
        assert first.address[0] == HOST and first.address[1] > 0
        with pytest.raises(DeviceError, match=rf"OSC at 127\.0\.0\.1:{first.address[1]}: .* in use; choose another port"):
            Server(*first.address)
    Server(*first.address).close()


@pytest.mark.parametrize("host", ["192.0.2.1", "a..b"])
def test_an_address_that_this_machine_does_not_have_is_said_in_one_line(host):
    with pytest.raises(DeviceError, match=f"OSC at {host}:9000: .*; ") as caught:
        Server(host, 9000)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("127.0.0.1:9000", (HOST, 9000)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("9001", (HOST, 9001)),
        (":9001", (HOST, 9001)),
        ("[::1]:9000", ("::1", 9000)),
        ("none", None),
    ],
)
def test_an_endpoint_is_host_and_port_or_none(text, endpoint):
    assert read_endpoint(text) == endpoint


@pytest.mark.parametrize("text", ["", "localhost", "127.0.0.1:", "x:99999", "x:-1", "x:1e3", "x:9²", "x:" + "9" * 5000])
def test_an_endpoint_without_a_port_is_refused(text):
    with pytest.raises(DeviceError, match=r"OSC address .*; expected HOST:PORT such as 127\.0\.0\.1:9000, or none"):
        read_endpoint(text)


def test_a_server_gives_what_came_in_order_and_with_its_sender(player):
    with friend() as ann, friend() as bob:
        sent = [(ann, b"1"), (bob, b""), (ann, b"2"), (bob, b"3")]
        for other, data in sent:
            other.sendto(data, player.server.address)
        assert player.server.receive() == [Datagram(other.getsockname(), data) for other, data in sent]
        assert player.server.receive() == []


def test_a_client_that_vanished_is_no_error(player):
    with friend() as gone:
        address = gone.getsockname()
    player.server.send(address, [b"one", b"two"])
    assert player.turn() == 0 and player.server.failed == 0
    player.server.send((HOST, 70000), [b"no such port"])
    player.server.send(address, [bytes(70000)])
    assert player.server.failed == 2


# Floods


def test_in_a_flood_each_call_does_bounded_work_and_the_last_value_of_every_address_wins(player):
    sent = 0
    with friend() as ann:
        for burst in range(100):
            for index in range(200):
                ann.sendto(encode(f"/bus/{1 + index % 2}/gain_db", (burst * 200 + index) / 1000 - 20), player.server.address)
                sent += 1
            assert player.turn(limit=32) <= 32
    assert sent == 20_000
    assert get(player.scene, "bus/vox/gain_db") == -0.002 and get(player.scene, "bus/drums/gain_db") == -0.001
    assert player.server.dropped == sent - 100 * 2


def test_a_flood_of_different_addresses_leaves_the_newest(player):
    with friend() as ann:
        for index in range(150):
            ann.sendto(encode(f"/{index}"), player.server.address)
        kept = [decode(data, UNIX)[0].message.address for _, data in player.server.receive(limit=100)]
    assert kept == [f"/{index}" for index in range(50, 150)]


def test_few_datagrams_are_given_when_they_are_large(player):
    with friend() as ann:
        for index in range(4):  # more do not fit every system's buffer
            ann.sendto(bytes([index]) * 60000, player.server.address)
        kept = player.server.receive()
    assert [data[0] for _, data in kept] == [1, 2, 3] and player.server.dropped == 1


def test_few_datagrams_are_kept_all_so_that_two_presets_can_be_saved_at_once(player):
    with friend() as ann:
        for name in "abab":
            ann.sendto(encode("/preset/save", name), player.server.address)
        assert [decode(data, UNIX)[0].message.args for _, data in player.server.receive()] == [("a",), ("b",), ("a",), ("b",)]


FLOOD = """
import socket, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
data = bytes.fromhex(sys.argv[2])
for _ in range(20_000):
    sender.sendto(data, ("127.0.0.1", int(sys.argv[1])))
print("done", flush=True)
"""


@pytest.mark.parametrize(
    "data",
    [encode("/bus/vox/gain_db", -60.0), encode("/bus/*/mute", 1), b"", b"\xff" * 100],
    ids=["values", "patterns", "nothing", "noise"],
)
def test_a_flood_from_another_process_does_not_keep_others_out(player, data):
    flood = [sys.executable, "-c", FLOOD, str(player.server.address[1]), data.hex()]
    with friend() as ann, jack_server.Child(flood) as child:
        ann.settimeout(0.001)

        def answered() -> bool:  # a datagram may be lost where the system's buffer is full, so a player sends again
            ann.sendto(encode("/ping"), player.server.address)
            assert player.turn() <= 256
            try:
                return heard(ann) == [Message("/pong")]
            except TimeoutError:
                return False

        jack_server.wait_until(answered, "a pong during the flood")
        child.expect("done")
        jack_server.wait_until(lambda: player.turn() == 0, "the end of the flood")
        ann.sendto(encode("/bus/vox/gain_db", -3.0), player.server.address)
        jack_server.wait_until(player.turn, "the last value")
    assert get(player.scene, "bus/vox/gain_db") == -3.0
    assert player.server.failed == 0


def test_a_flood_of_errors_is_answered_ten_times_in_a_second(player):
    with friend() as ann:
        for _ in range(150):
            ann.sendto(encode("/nonsense", 1), player.server.address)
        player.turn()
        ann.sendto(encode("/ping"), player.server.address)
        player.turn()
        found = [heard(ann)[0] for _ in range(MAX_ANSWERS + 1)]
    assert [item.address for item in found] == ["/error"] * MAX_ANSWERS + ["/pong"]
    assert str(found[0].args[0]).startswith("unknown control 'nonsense'; ")


@pytest.mark.parametrize(
    "data", [b"", b"/" * 65507, bytes(65507), bundle([])], ids=["nothing", "slashes", "zeros", "empty bundle"]
)
def test_the_smallest_and_the_largest_datagram_change_nothing(player, data):
    before = player.scene
    with friend() as ann:
        ann.sendto(data, player.server.address)
        ann.sendto(encode("/ping"), player.server.address)
        player.turn()
        answers = [item.address for item in heard(ann)]
        answers += [item.address for item in heard(ann)] if answers == ["/error"] else []
    assert answers[-1] == "/pong" and player.scene == before


# Playing, with liblo's programs


def test_oscsend_sets_controls_of_every_kind(player):
    oscsend(player, "/bus/vox/gain_db", "f", "-6.5")
    oscsend(player, "/bus/2/gain_db", "i", "-12")
    oscsend(player, "/bus/vox/mute", "T")
    oscsend(player, "/bus/residual/solo", "i", "1")
    oscsend(player, "/bus/vox/outputs", "ii", "3", "4")
    oscsend(player, "/bus/vox/select", "s", "speech & !drums")
    oscsend(player, "/region/dark/disc", "fff", "0.5", "0.25", "2")
    oscsend(player, "/region/new/half", "d", "45")
    strips = dict(zip(player.scene.selection.names, player.scene.selection.strips, strict=True))
    assert strips["vox"] == Bus("vox", parse("speech & !drums"), gain_db=-6.5, mute=True, outputs=(3, 4))
    assert strips["drums"].gain_db == -12 and strips["residual"].solo
    assert [str(region) for _, region in player.scene.selection.regions] == ["disc(0.5, 0.25, r=2)", "half(45, 0)"]


def test_a_bundle_waits_for_its_time_tag(player):
    with friend() as ann:
        later = bundle([encode("/bus/vox/mute", 1), encode("/bus/drums/mute", 1)], UNIX + 1.5)
        ann.sendto(bundle([encode("/bypass", 1), later]), player.server.address)
        player.turn()
        first = [get(player.scene, name) for name in ("bypass", "bus/vox/mute", "bus/drums/mute")]
        player.now = 1.4999
        player.turn()
        second = get(player.scene, "bus/vox/mute")
        player.now = 1.5001
        player.turn()
    assert first == [True, False, False] and second is False
    assert get(player.scene, "bus/vox/mute") and get(player.scene, "bus/drums/mute")


def test_a_question_is_answered_to_who_asked(player):
    oscsend(player, "/bus/drums/gain_db", "f", "-6")
    with friend() as ann:
        for path in ("/bus/drums/gain_db", "/bus/2/gain_db", "/region/dark", "/bus/flute/gain_db"):
            ann.sendto(encode(path), player.server.address)
        player.turn()
        answers = [heard(ann)[0] for _ in range(4)]
        assert answers[:3] == [
            Message("/bus/drums/gain_db", (-6.0,)),
            Message("/bus/2/gain_db", (-6.0,)),
            Message("/region/dark/disc", (0.0, 0.0, 1.0)),
        ]
        assert answers[3].address == "/error" and "unknown bus 'flute'" in str(answers[3].args[0])


def test_all_controls_are_listed_with_their_values(player):
    with friend() as ann:
        ann.sendto(encode("/controls"), player.server.address)
        player.turn()
        found: dict[str, tuple[object, ...]] = {}
        while len(found) < len(names(player.scene)):
            found |= {str(item.args[0]): item.args[1:] for item in heard(ann)}
    assert list(found) == list(names(player.scene))
    assert found["bus/vox/outputs"] == (1, 2) and found["bypass"] == (0,) and found["bus/vox/select"] == ("mix",)


@pytest.fixture
def oscdump(player) -> Iterator[tuple[jack_server.Child, int]]:
    """The real program, listening; and its port."""
    jack_server.require("oscdump")
    with friend() as free:
        port = free.getsockname()[1]
    with jack_server.Child(["oscdump", "-L", str(port)]) as dump, friend() as ann:

        def listens() -> bool:
            ann.sendto(encode("/ready"), (HOST, port))
            try:
                return "/ready" in dump.line(0.05)
            except TimeoutError:
                return False

        jack_server.wait_until(listens, "oscdump")
        yield dump, port


def test_oscdump_gets_what_stands_and_every_change_until_it_unsubscribes(player, oscdump):
    dump, port = oscdump
    oscsend(player, "/subscribe", "ii", "10", str(port))
    dump.expect("/bus/vox/gain_db f 0.000000")
    dump.expect('/name/bus/2 s "drums"')
    dump.expect("/running i 1")
    player.now = 0.1
    oscsend(player, "/bus/2/gain_db", "f", "-7")
    dump.expect("/bus/drums/gain_db f -7.000000")
    oscsend(player, "/unsubscribe", "i", str(port))
    player.now = 0.2
    player.turn()
    player.server.send((HOST, port), [encode("/end")])
    before = len(dump.lines)
    dump.expect("/end")
    assert [line for line in dump.lines[before:-1] if "/running" not in line] == []  # what was under way, and no more


def test_oscdump_gets_places_when_it_asks_for_them(player, oscdump):
    dump, port = oscdump
    oscsend(player, "/subscribe", "iis", "10", str(port), "places")
    dump.expect("/bus/1/gain_db f 0.000000")
    dump.expect("/region/1/r f 1.000000")
    dump.expect('/name/bus/3 s "residual"')

"""MIDI with real components: a JACK server, other processes that send and listen, controllers that come and go."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import jack_server
from jack_server import Child, Server, wait_until
from sepstream.control import midi_ports
from sepstream.control.midi import DecoderState, decode
from sepstream.control.midi_bindings import VIRTUAL, Binding, Bindings
from sepstream.control.midi_ports import CLIENT_IN, NONE, PORT_IN, PORT_OUT, Ports, list_ports
from sepstream.control.midi_surface import Surface, feedback, hear

BOX = """
import sys, time, rtmidi
out = rtmidi.MidiOut(rtmidi.API_UNIX_JACK, name=sys.argv[1])
out.open_virtual_port("out")
into = rtmidi.MidiIn(rtmidi.API_UNIX_JACK, name=sys.argv[1] + "-in")
into.ignore_types(sysex=False)
into.open_virtual_port("in")
print("ready", flush=True)
try:
    for line in sys.stdin:
        match line.split():
            case ["say", *messages]:
                for message in messages:
                    out.send_message(bytes.fromhex(message))
            case ["flood", count]:
                for k in range(int(count)):
                    out.send_message([0xB0, k % 120, k % 128])
            case ["hear"]:
                while (got := into.get_message()) is None:
                    time.sleep(0.001)
                print("heard", bytes(got[0]).hex(), flush=True)
        print("done", flush=True)
finally:
    for port in (out, into):
        port.close_port()
        port.delete()
"""


@pytest.fixture
def jack() -> Iterator[Server]:
    with jack_server.server() as server:
        yield server


def box(jack: Server, name: str) -> Child:
    """A controller: a process with an output and an input."""
    child = jack.child("-c", BOX, name)
    child.expect("ready")
    return child


def say(child: Child, *lines: str) -> None:
    for line in lines:
        child.say(line)
        child.expect("done")


GREETING = b"\xbf\x77\x77"


def greet(ports: Ports, *children: Child) -> None:
    """JACK connects from its next cycle on: what is sent in this one is lost. Greetings are, until they are heard."""
    for child in children:

        def heard(child: Child = child) -> bool:
            say(child, f"say {GREETING.hex()}")
            return any(message == GREETING for _, message in ports.poll())

        wait_until(heard, "a greeting")


def poll(ports: Ports, count: int) -> list[tuple[str, bytes]]:
    """``count`` messages, as they come, greetings left out."""
    heard: list[tuple[str, bytes]] = []

    def enough() -> bool:
        heard.extend(entry for entry in ports.poll() if entry[1] != GREETING)
        return len(heard) >= count

    wait_until(enough, f"{count} MIDI messages")
    return heard


def rescan(ports: Ports, text: str) -> str:
    """Until it says so."""
    lines: list[str] = []

    def said() -> bool:
        lines.extend(ports.rescan())
        return any(text in line for line in lines)

    wait_until(said, f"'{text}', after {lines}")
    return "\n".join(lines)


def test_another_process_is_heard_in_order_and_hears_us(jack: Server) -> None:
    with box(jack, "keys") as keys, Ports(["keys"]) as ports:
        rescan(ports, "'keys:out' is here")
        greet(ports, keys)
        say(keys, "say " + " ".join(f"b0{n:02x}{n:02x}" for n in range(100)))
        assert poll(ports, 100) == [("keys:out", bytes([0xB0, n, n])) for n in range(100)]
        ports.send("keys", b"\x90\x3c\x7f")
        keys.say("hear")
        assert keys.expect("heard") == "heard 903c7f"


def test_our_own_ports_are_there_for_connections_by_hand(jack: Server) -> None:
    with box(jack, "keys") as keys, Ports([VIRTUAL]) as ports:
        assert ports.rescan() == ()
        jack.connect("keys:out", PORT_IN)
        jack.connect(PORT_OUT, "keys-in:in")
        greet(ports, keys)
        say(keys, "say b00740")
        assert poll(ports, 1) == [(VIRTUAL, b"\xb0\x07\x40")]
        ports.send("no such controller", b"\xb0\x07\x41")
        keys.say("hear")
        assert keys.expect("heard") == "heard b00741"


def test_a_pad_mutes_and_its_light_goes_on(jack: Server) -> None:
    """All of it: bytes in, a change, bytes out."""
    pad = Binding(kind="note", number=60, control="bus/drums/mute", mode="toggle", port="keys", lit=5)
    bindings, unit = Bindings((pad,)), 0.0
    with box(jack, "keys") as keys, Ports(["keys"]) as ports:
        rescan(ports, "is here")
        greet(ports, keys)
        say(keys, "say 903c40")
        ((port, data),) = poll(ports, 1)
        found, _ = decode(data, DecoderState())
        changes, surface = hear(port, found[0], bindings, lambda _: unit, Surface(), now=0.0)
        assert changes == (("bus/drums/mute", True),)
        unit = 1.0
        for name, message in feedback(bindings, lambda _: unit, surface, 0.0)[0]:
            ports.send(name, message)
        keys.say("hear")
        assert keys.expect("heard") == "heard 903c05"


def test_several_controllers_come_and_go_while_others_play(jack: Server) -> None:
    with Ports(["left", "right"]) as ports, box(jack, "left") as left:
        assert "no MIDI port has 'right' in its name, waiting for it; there are: left:out" in rescan(ports, "'left:out' is here")
        with box(jack, "right") as right:
            rescan(ports, "'right:out' is here")
            greet(ports, left, right)
            say(left, "say b00101")
            say(right, "say b00202")
            assert sorted(poll(ports, 2)) == [("left:out", b"\xb0\x01\x01"), ("right:out", b"\xb0\x02\x02")]
        rescan(ports, "'right:out' is gone")
        ports.send("right", b"\xb0\x00\x00")
        assert ports.rescan() == ()
        say(left, "say b00303")
        assert poll(ports, 1) == [("left:out", b"\xb0\x03\x03")]
        with box(jack, "right") as right:
            rescan(ports, "'right:out' is here")
            greet(ports, right)
            say(right, "say b00404")
            assert poll(ports, 1) == [("right:out", b"\xb0\x04\x04")]


def test_by_default_hardware_is_opened_and_other_programs_are_not(jack: Server) -> None:
    with box(jack, "a2j") as hardware, box(jack, "sequencer"), Ports() as ports:
        assert ports.rescan() == ("MIDI port 'a2j:out' is here",)
        assert {"a2j:out", "sequencer:out"} == set(ports.names.inputs) and len(ports.names.outputs) == 2
        greet(ports, hardware)
        say(hardware, "say b00101")
        assert poll(ports, 1) == [("a2j:out", b"\xb0\x01\x01")]


def test_a_flood_is_taken_in_bounded_portions_and_nothing_is_lost(jack: Server) -> None:
    with box(jack, "keys") as keys, box(jack, "pads") as pads, Ports(["keys", "pads"]) as ports:
        rescan(ports, "'pads:out' is here")
        greet(ports, keys, pads)
        say(keys, "flood 1500")  # what rtmidi lets wait for JACK
        portions = [ports.poll(100)]
        say(pads, "say b00101")

        def all_came() -> bool:
            portions.append(ports.poll(100))
            return sum(entry[1] != GREETING for portion in portions for entry in portion) == 1501

        wait_until(all_came, "1501 messages")
        assert max(map(len, portions)) <= 100
        assert [m[1] for p in portions for m in p if m[0] == "keys:out" and m[1] != GREETING] == [
            bytes([0xB0, k % 120, k % 128]) for k in range(1500)
        ]


def test_clock_active_sensing_and_system_exclusive_never_reach_us(jack: Server) -> None:
    with box(jack, "keys") as keys, Ports(["keys"]) as ports:
        rescan(ports, "is here")
        greet(ports, keys)
        say(keys, f"say f8 fe f0{'11' * 500}f7 b00740 fe f8")
        assert poll(ports, 1) == [("keys:out", b"\xb0\x07\x40")]


def test_the_jack_server_may_stop_and_return(jack: Server) -> None:
    with Ports(["keys"]) as ports:
        with box(jack, "keys"):
            rescan(ports, "is here")
            jack.kill()
            rescan(ports, "the JACK server is gone")
            ports.send(None, b"\xb0\x01\x01")
            assert ports.poll() == []
        jack.start()
        with box(jack, "keys") as keys:
            rescan(ports, "'keys:out' is here")
            greet(ports, keys)
            say(keys, "say b00740")
            assert poll(ports, 1) == [("keys:out", b"\xb0\x07\x40")]


def test_a_jack_server_restarted_between_two_scans_is_noticed(jack: Server) -> None:
    with Ports([VIRTUAL]) as ports:
        ports.rescan()
        jack.stop()
        jack.start()
        rescan(ports, "the JACK server is gone")
        assert {PORT_IN, PORT_OUT} <= jack.ports()


def test_closing_leaves_nothing_in_the_graph(jack: Server) -> None:
    with box(jack, "keys"):
        before = jack.ports()
        with Ports(["keys"]) as ports:
            rescan(ports, "is here")
            assert any(port.startswith(CLIENT_IN) for port in jack.ports() - before)
        assert jack.ports() == before
        assert ports.poll() == []
        assert list_ports() == (("keys:out",), ("keys-in:in",))


def test_without_any_sequencer_one_line_and_no_midi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JACK_DEFAULT_SERVER", f"absent{os.getpid()}")
    if Path("/dev/snd/seq").exists() or sys.platform != "linux":
        pytest.skip("this machine has a MIDI sequencer")
    with Ports() as ports:
        (line,) = ports.rescan()
        assert line.startswith("no MIDI: neither a sequencer")
        assert ports.rescan() == () and ports.poll() == [] and ports.names == ((), ())
        ports.send(None, b"\xb0\x01\x01")


def test_without_the_library_one_line_and_no_midi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(midi_ports, "rtmidi", None)
    monkeypatch.setattr(midi_ports, "REASON", "libasound.so.2: cannot open shared object file")
    with Ports(["nano"]) as ports:
        assert ports.rescan() == (
            "no MIDI: rtmidi cannot be loaded (libasound.so.2: cannot open shared object file);"
            " install python-rtmidi, and on Debian libasound2",
        )
        assert ports.rescan() == () and ports.poll() == []


def test_none_opens_nothing(jack: Server) -> None:
    before = jack.ports()
    with Ports([NONE]) as ports:
        assert ports.rescan() == () and ports.poll() == [] and jack.ports() == before


def test_a_missing_server_is_named_with_its_package_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install jackd2"), jack_server.server():
        pass
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install jackd2"), jack_server.server():
        pass

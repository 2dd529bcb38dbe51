"""MIDI ports: the one door to rtmidi. The control process polls them; nothing here blocks, and nothing is called back
(rtmidi would call Python on JACK's real-time thread).

Every MIDI system that is there is used: the platform's own (ALSA, CoreMIDI, Windows), and JACK when its server answers.
Controllers may come and go, and so may the JACK server. Beside the controllers' ports there is a pair of our own that
other programs connect to by hand, where the system can have such ports. Outputs are opened only towards controllers
that we hear, so that the messages for LEDs never play a synthesizer.
"""

import os
import re
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from .midi import MAX_BYTES
from .midi_bindings import VIRTUAL

REASON = ""  # why it is not there
try:
    import rtmidi
except ImportError as error:  # on Linux its wheel needs the system's ALSA library
    rtmidi, REASON = None, str(error)

NONE = "none"  # as a pattern: no MIDI at all
CLIENT_IN, CLIENT_OUT = "sepstream-midi-in", "sepstream-midi-out"  # JACK has no client that does both through rtmidi
PORT_IN, PORT_OUT = f"{CLIENT_IN}:midi_in", f"{CLIENT_OUT}:midi_out"  # our own pair, as JACK shows it
OURS = "sepstream"
QUEUE = 16384  # messages that wait between two polls
POLL_LIMIT = 1024  # messages a poll hands over
BRIDGES = ("system:midi_", "a2j:", "Midi-Bridge:", "alsa_midi:")  # JACK's names of hardware
LOOPS = ("Midi Through",)  # gives back what is sent there


class Names(NamedTuple):
    """Of all ports but ours."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Ports:
    """Open ports. ``patterns``: parts of their names; none is every controller, "none" nothing, "virtual" only our own pair."""

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        self._silent = NONE in patterns
        self._patterns = tuple(pattern.lower() for pattern in patterns if pattern != VIRTUAL)
        self._all = not patterns
        self._systems: dict[int, _System] = {}  # by rtmidi's number of the API
        self._inputs: list[tuple[str, Any]] = []
        self._told: set[str] = set()

    def __enter__(self) -> "Ports":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self.close()

    @property
    def names(self) -> Names:
        """What there was at the last rescan."""
        systems = self._systems.values()
        return Names(tuple(n for s in systems for n in s.input.names), tuple(n for s in systems for n in s.output.names))

    def rescan(self) -> tuple[str, ...]:
        """Opens what has come, closes what is gone; call it first, and then a few times a second. -> lines for the user.

        After any line the controllers may show nothing of what they were told before.
        """
        if self._silent:
            return ()
        lines = self._follow_systems()
        for api, system in self._systems.items():
            lines += self._follow_ports(api, system)
        self._inputs = [entry for system in self._systems.values() for entry in system.input.open.items()]
        return (*lines, *self._hints())

    def poll(self, limit: int = POLL_LIMIT) -> list[tuple[str, bytes]]:
        """(port, message) of what has come since; about ``limit`` at most, the rest waits for the next call."""
        heard: list[tuple[str, bytes]] = []
        for name, port in self._inputs:
            for _ in range(max(1, limit // len(self._inputs))):
                got = port.get_message()
                if got is None:
                    break
                if len(got[0]) <= MAX_BYTES:
                    heard.append((name, bytes(got[0])))
        return heard

    def send(self, port: str | None, message: bytes) -> None:
        """To every open output with ``port`` in its name (None: to all), and to those who connected to our own."""
        for system in self._systems.values():
            for name, output in system.output.open.items():
                if name == VIRTUAL or port is None or port.lower() in name.lower() or device(port) == device(name):
                    with suppress(rtmidi.RtMidiError):  # it has just gone; the next rescan sees that
                        output.send_message(message)

    def close(self) -> None:
        """A client that is not closed stops a synchronous JACK server for good."""
        for system in self._systems.values():
            system.close()
        self._systems, self._inputs = {}, []

    def _follow_systems(self) -> tuple[str, ...]:
        """A JACK server that is gone is given up before anything new is opened: else libjack tears its clients down
        under rtmidi, which crashes when it closes them."""
        lines: tuple[str, ...] = ()
        answering = _answering() if rtmidi is not None else {}
        for api, system in list(self._systems.items()):
            if answering.get(api) != system.identity:
                self._systems.pop(api).close()
                lines += ("the JACK server is gone, and MIDI through it",)
        for api, identity in answering.items():
            if api not in self._systems:
                with suppress(rtmidi.RtMidiError):  # it went in this very moment, or is not allowed; asked again next time
                    self._systems[api] = _System(api, identity)
        return lines

    def _follow_ports(self, api: int, system: "_System") -> tuple[str, ...]:
        system.scan()
        inputs = [name for name in system.input.names if self._is_wanted(api, name)]
        heard = {device(name) for name in inputs}
        outputs = [name for name in system.output.names if device(name) in heard or self._is_named(name)]
        lines = system.input.follow(inputs)
        system.output.follow(outputs)
        return lines

    def _is_wanted(self, api: int, name: str) -> bool:
        hardware = name.startswith(BRIDGES)
        if api == rtmidi.API_UNIX_JACK and hardware and len(self._systems) > 1:
            return False  # the platform's own system has the same controller
        if self._all:
            return not name.startswith(LOOPS) and (api != rtmidi.API_UNIX_JACK or hardware)
        return self._is_named(name)

    def _is_named(self, name: str) -> bool:
        return any(pattern in name.lower() for pattern in self._patterns)

    def _hints(self) -> tuple[str, ...]:
        """What the user may have got wrong, each said once."""
        hints: dict[str, str] = {}
        if rtmidi is None:
            hints[""] = f"no MIDI: rtmidi cannot be loaded ({REASON}); install python-rtmidi, and on Debian libasound2"
        elif not self._systems:
            hints[""] = "no MIDI: neither a sequencer (/dev/snd/seq) nor a JACK server is there; load snd-seq or start jackd"
        names = self.names.inputs
        for pattern in self._patterns if self._systems else ():
            if not any(pattern in name.lower() for name in names):
                hints[pattern] = (
                    f"no MIDI port has '{pattern}' in its name, waiting for it; there are: {', '.join(names) or 'none'}"
                )
        new = tuple(text for key, text in hints.items() if key not in self._told)
        self._told |= hints.keys()
        return new


def list_ports() -> Names:
    """Of all ports in the system."""
    with Ports((VIRTUAL,)) as ports:
        ports.rescan()
        return ports.names


def device(name: str) -> str:
    """The controller's own name, a part of that of its input, without what changes from plug to plug and to its output.

    "nanoKONTROL2:nanoKONTROL2 nanoKONTROL2 _ CTRL 20:0" -> "nanoKONTROL2".
    """
    if found := re.fullmatch(r"MIDI(?:IN|OUT)\d* \((.*)\)", name):  # a second port, on Windows
        name = found[1]
    if name.startswith("system:midi_"):  # JACK's numbers; an output is called like its input
        return name.replace("_playback_", "_capture_")
    name = re.sub(r"^(?:a2j|Midi-Bridge|alsa_midi):", "", name)
    name = re.split(r" \[|:| \((?:in|out|capture|playback)\)", name)[0]
    return re.sub(r"(?: (?:#?\d+|CTRL|SLIDER/KNOB|MIDI \d+))+$", "", name) or name


class _System:
    """A MIDI system that answers. Raises RtMidiError when it does not."""

    def __init__(self, api: int, identity: object) -> None:
        self.identity = identity
        self.input = _Side(rtmidi.MidiIn, api, CLIENT_IN, PORT_IN)
        try:
            self.output = _Side(rtmidi.MidiOut, api, CLIENT_OUT, PORT_OUT)
        except rtmidi.RtMidiError:
            self.input.close()
            raise

    def scan(self) -> None:
        self.input.scan()
        self.output.scan()

    def close(self) -> None:
        self.input.close()
        self.output.close()


class _Side:
    """The inputs or the outputs of a system: our own, which also lists the others, and those that are open."""

    def __init__(self, kind: Any, api: int, client: str, port: str) -> None:
        self._kind, self._api, self._client = kind, api, client
        self._own = self._make()
        self.names: dict[str, int] = {}  # all ports but ours, and where they stand in the system's list
        self.open: dict[str, Any] = {}
        with suppress(rtmidi.UnsupportedOperationError):  # Windows has no such ports
            self._own.open_virtual_port(port.partition(":")[2])
            self.open[VIRTUAL] = self._own
        self._refused: set[str] = set()

    def scan(self) -> None:
        self.names = numbered(self._own.get_ports())

    def follow(self, wanted: Iterable[str]) -> tuple[str, ...]:
        """Opens and closes until just the ``wanted`` are open. -> what happened."""
        wanted, lines = list(wanted), []
        gone = {_model(name) for name in self.open if name not in (VIRTUAL, *wanted)}
        for name in [name for name in self.open if _model(name) in gone]:  # twins too: who knows which of them is gone
            _shut(self.open.pop(name))
            lines.append(f"MIDI port '{name}' is gone")
        for name in wanted:
            if name not in self.open:
                lines += self._try(name)
        return tuple(lines)

    def close(self) -> None:
        for port in {id(port): port for port in (*self.open.values(), self._own)}.values():
            _shut(port)
        self.open = {}

    def _try(self, name: str) -> tuple[str, ...]:
        port = None
        try:
            port = self._make()
            port.open_port(self.names[name], re.sub(r"[^A-Za-z0-9 _-]", " ", device(name))[:40])
        except rtmidi.RtMidiError as error:  # another program has it, or it has just gone
            if port is not None:
                _shut(port)
            known, self._refused = name in self._refused, self._refused | {name}
            return () if known else (f"MIDI port '{name}' cannot be opened: {error}; close what else uses it",)
        self.open[name] = port
        self._refused.discard(name)
        return (f"MIDI port '{name}' is here",)

    def _make(self) -> Any:
        if self._kind is rtmidi.MidiIn:
            port = rtmidi.MidiIn(self._api, self._client, QUEUE)
            port.ignore_types(sysex=True, timing=True, active_sense=True)
            return port
        return self._kind(self._api, self._client)


def numbered(ports: Sequence[str]) -> dict[str, int]:
    """The system's list -> names, ours left out, with the place of each; the second of a name is NAME #2."""
    found: dict[str, int] = {}
    for place, name in enumerate(ports):
        if not name.startswith(OURS):
            twins = sum(_model(other) == name for other in found)
            found[f"{name} #{twins + 1}" if twins else name] = place
    return found


def _model(name: str) -> str:
    return re.sub(r" #\d+$", "", name)


def _shut(port: Any) -> None:
    """Now, not when the garbage collector comes by."""
    port.close_port()
    port.delete()


def _answering() -> Mapping[int, object]:
    """rtmidi's number of each MIDI system that is there -> what changes when it was started anew."""
    found: dict[int, object] = {}
    for api in rtmidi.get_compiled_api():
        if api == rtmidi.API_UNIX_JACK:
            identity = _jack_identity()
            if identity is not None:
                found[api] = identity
        elif api not in (rtmidi.API_RTMIDI_DUMMY, rtmidi.API_LINUX_ALSA) or Path("/dev/snd/seq").exists():
            found[api] = True  # asked for only where it is: ALSA's library complains on the terminal
    return found


def _jack_identity() -> object:
    """Of the server that libjack would connect to; None when nobody answers. libjack itself complains on the terminal."""
    name, folder = os.environ.get("JACK_DEFAULT_SERVER", "default"), "/tmp" if sys.platform == "darwin" else "/dev/shm"
    for path in (Path(folder, f"jack_{name}_{os.getuid()}_0"), Path(folder, f"jack_{name}_0")):
        with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            status = path.stat()
            probe.settimeout(0.1)
            probe.connect(str(path))
            return status.st_ino, status.st_mtime_ns
    return None

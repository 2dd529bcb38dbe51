"""Sound cards: what there is, and one full-duplex stream that runs the compiled callback. The only door to PortAudio.

PortAudio reads the machine's devices once, when this file is imported; ``look_again`` makes it read them anew.
"""

import ctypes
import ctypes.util
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import board as b
from . import callback
from .board import Board
from .errors import DeviceError, nearest
from .wanted import Wanted

CLIENT = ctypes.create_string_buffer(b"sepstream")  # PortAudio keeps the pointer: our name among JACK's clients
USUAL_INPUTS, USUAL_OUTPUTS = 2, 8  # where nobody said which: stereo in, and room for presets that use more outputs
SHORT = {"JACK Audio Connection Kit": "JACK"}  # host APIs by the names that people know


def _name_ourselves() -> None:
    """JACK shows this name; other systems take no notice."""
    with suppress(OSError, AttributeError, TypeError):  # no PortAudio of the system's, or one without JACK
        ctypes.CDLL(ctypes.util.find_library("portaudio") or "").PaJack_SetClientName(CLIENT)


@contextmanager
def _quiet() -> Iterator[None]:
    """ALSA and JACK write what they do not find straight to stderr; it is no news to a user."""
    kept, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)


_name_ourselves()
MISSING = ""  # why PortAudio is not there
try:
    with _quiet():
        import sounddevice as sd
except OSError as error:
    sd, MISSING = None, str(error)


@dataclass(frozen=True)
class Device:
    """What PortAudio says of a device; rates in Hz."""

    index: int
    name: str
    host: str  # JACK, ALSA, Core Audio, WASAPI, ASIO, ...
    inputs: int
    outputs: int
    rate_hz: int

    @property
    def label(self) -> str:
        return f"{self.host}: {self.name}"


def devices() -> list[Device]:
    """All devices, as PortAudio found them. Raises DeviceError where there is no PortAudio."""
    if MISSING:
        raise DeviceError(f"PortAudio: {MISSING}; install it (Debian: apt-get install libportaudio2)")
    hosts = sd.query_hostapis()
    return [
        Device(
            int(entry["index"]),
            str(entry["name"]),
            _host(hosts[entry["hostapi"]]["name"]),
            int(entry["max_input_channels"]),
            int(entry["max_output_channels"]),
            round(entry["default_samplerate"]),
        )
        for entry in sd.query_devices()
    ]


def _host(name: str) -> str:
    return SHORT.get(name, name)


def look_again() -> None:
    """Devices that came and went since; no stream may be open."""
    if not MISSING:
        with _quiet():
            sd._terminate()
            sd._initialize()


def find(wanted: Wanted, kind: str) -> Device:
    """The device for ``kind`` "input" or "output". A JACK server that runs is preferred to any other default: who starts
    one wants it used. Raises DeviceError."""
    able = [device for device in devices() if (device.inputs if kind == "input" else device.outputs)]
    if not able:
        raise DeviceError(f"no {kind} device; plug one in or start the sound server, then see sep-live --list")
    if wanted.pattern is None:
        return _default(able, kind)
    pattern = wanted.pattern.lower()
    for test in (str.__eq__, str.startswith, str.__contains__):
        for device in able:
            if test(device.name.lower(), pattern) or test(device.label.lower(), pattern):
                return device
    raise DeviceError(f"unknown {kind} device '{wanted.pattern}'; {nearest(wanted.pattern, [device.name for device in able])}")


def _default(able: list[Device], kind: str) -> Device:
    hosts = sorted(sd.query_hostapis(), key=lambda host: "JACK" not in host["name"])
    preferred = [host[f"default_{kind}_device"] for host in hosts if "JACK" in host["name"]]
    preferred.append(sd.default.device[0 if kind == "input" else 1])
    by_index = {device.index: device for device in able}
    return next((by_index[index] for index in preferred if index in by_index), able[0])


@dataclass(frozen=True)
class Route:
    """A stream's devices, channels (from 0) and rate."""

    input: Device
    output: Device
    input_channels: tuple[int, ...]
    output_channels: tuple[int, ...]
    rate_hz: int


def route(wanted_input: Wanted, wanted_output: Wanted, model_hz: int) -> Route:
    """The devices, at the model's rate if they can do it and at their own otherwise. Raises DeviceError."""
    source, sink = find(wanted_input, "input"), find(wanted_output, "output")
    inputs = _channels(wanted_input, source.inputs, source.label, USUAL_INPUTS)
    outputs = _channels(wanted_output, sink.outputs, sink.label, USUAL_OUTPUTS)
    for rate in dict.fromkeys((model_hz, sink.rate_hz, source.rate_hz)):
        try:
            sd.check_input_settings(source.index, max(inputs) + 1, "float32", samplerate=rate)
            sd.check_output_settings(sink.index, max(outputs) + 1, "float32", samplerate=rate)
            return Route(source, sink, inputs, outputs, rate)
        except sd.PortAudioError:
            continue
    raise DeviceError(
        f"'{source.label}' and '{sink.label}' share no sample rate; expected {model_hz} Hz, or {source.rate_hz} Hz at both"
    )


def _channels(wanted: Wanted, available: int, label: str, usual: int) -> tuple[int, ...]:
    channels = wanted.channels or tuple(range(1, min(usual, available) + 1))
    if max(channels) > available:
        raise DeviceError(f"channel {max(channels)} of '{label}'; expected 1 to {available}")
    return tuple(channel - 1 for channel in channels)


def announce(board: Board, route: Route) -> None:
    """The stream's shape, for the callback and everyone else; before it starts."""
    words = board.words
    words[b.RATE_HZ] = route.rate_hz
    for channels, count, width, places in (
        (route.input_channels, b.INPUTS, b.INPUT_WIDTH, b.INPUT_MAP),
        (route.output_channels, b.OUTPUTS, b.OUTPUT_WIDTH, b.OUTPUT_MAP),
    ):
        words[count], words[width] = len(channels), max(channels) + 1
        words[places : places + len(channels)] = channels
    words[b.SHAPE] += 1


class Stream:
    """A full-duplex PortAudio stream over ``board``. ``block_samples`` 0 takes the device's own period: over JACK any other
    number costs a whole block of delay. Raises DeviceError."""

    def __init__(self, board: Board, route: Route, block_samples: int = 0) -> None:
        shared: dict[str, Any] = {
            "device": (route.input.index, route.output.index),
            "channels": (max(route.input_channels) + 1, max(route.output_channels) + 1),
            "dtype": "float32",
            "samplerate": route.rate_hz,
            "blocksize": block_samples,
            "latency": "low",
        }
        try:
            with _quiet():
                self._stream = self._compiled(board, shared) if callback.address() else _interpreted(board, shared)
                self._stream.start()
        except sd.PortAudioError as error:
            raise DeviceError(f"'{route.input.label}' -> '{route.output.label}': {_said(error)}; see sep-live --list") from None

    @staticmethod
    def _compiled(board: Board, shared: dict[str, Any]) -> Any:
        """PortAudio calls machine code; the interpreter is not asked."""
        function = sd._ffi.cast("PaStreamCallback*", callback.address())
        place = sd._ffi.cast("void*", board.words.ctypes.data)
        return sd._StreamBase(kind="duplex", callback=function, userdata=place, wrap_callback=None, **shared)

    @property
    def active(self) -> bool:
        return bool(self._stream.active)

    @property
    def latency_s(self) -> float:
        """What PortAudio says of the device's way in and out, in seconds; not measured."""
        return float(sum(self._stream.latency))

    def close(self) -> None:
        """Hangs for ever when the sound server died: only for a stream that still plays."""
        with _quiet():
            self._stream.close()


def _interpreted(board: Board, shared: dict[str, Any]) -> Any:
    """The same callback from Python, where Numba compiles none."""

    def play(given: Any, played: Any, frames: int, when: Any, status: Any) -> None:
        sound, heard, moment = np.frombuffer(given, np.float32), np.frombuffer(played, np.float32), int(1e9 * when.currentTime)
        callback.play_block(board.words, board.floats, sound, heard, frames, int(bool(status)), moment)

    return sd.RawStream(callback=play, **shared)


def _said(error: Exception) -> str:
    return " ".join(str(error.args[0] if error.args else error).split())

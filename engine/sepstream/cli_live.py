"""sep-live: flags -> a frozen config -> the processes, watched until it is over."""
# ruff: noqa: PLC0415

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .cli import FAILED, INTERRUPTED, USAGE, Parser, fail, interruptible, undisturbed
from .errors import DeviceError, SepstreamError

if TYPE_CHECKING:
    from .contract import Bundle
    from .record import Recorder
    from .session import Config, Session, View

LOOK_S = 0.05


def live_main(argv: Sequence[str] | None = None) -> int:
    """``sep-live``: 0 played until told to stop, 1 something broke, 2 nothing could start."""
    flags = _parse(argv)
    command = _list if flags.list else _measure if flags.measure_latency else _live
    try:
        with interruptible():
            return command(flags)
    except KeyboardInterrupt:
        return 0 if command is _live else INTERRUPTED  # that is how a performance ends
    except SepstreamError as error:
        return fail("sep-live", str(error), USAGE)
    except BrokenPipeError:
        return FAILED  # whoever read along has gone
    except OSError as error:
        return fail("sep-live", str(error), FAILED)
    except Exception as error:
        from .batch import defect

        return fail("sep-live", defect(error), FAILED)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags, where they go together."""
    parser = _parser()
    flags = parser.parse_args(argv)
    if flags.list and flags.measure_latency:
        parser.error("--list and --measure-latency are two commands; give one of them")
    if flags.measure_latency:
        playing = {"preset": flags.preset, "set": flags.settings, "record": flags.record, "duration": flags.duration}
        for name, given in (playing | {"midi": flags.midi, "surface": flags.surface}).items():
            if given:
                parser.error(f"--{name} has no meaning with --measure-latency, which plays a signal of its own; leave it out")
    if flags.midi and "none" in flags.midi[1:] + flags.midi[:-1]:
        parser.error("--midi none goes with no other port; leave one of them out")
    return flags


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="sep-live",
        description="Separate what an audio device hears while it is played; buses go to its outputs. Ctrl-C ends it.",
        epilog="Devices are found by a part of their name: --input scarlett:3,4 --output 'JACK: system:1-6'. "
        "Controls and their ranges: presets/CONTROLS.md.",
    )
    add = parser.add_argument
    add("--list", action="store_true", help="devices and MIDI ports, then end")
    add("--input", metavar="DEV[:CH,...]", help="device and channels to listen to (default: the system's, 1,2)")
    add("--output", metavar="DEV[:CH,...]", help="device and channels to play on (default: the system's, 1-8)")
    add("--model", default="default", metavar="NAME|DIR", help="model bundle (default: default)")
    add("--latency", choices=("ultra", "live", "quality"), help="geometry the model must have; names the choice if it has not")
    add("--preset", metavar="FILE|NAME", help="buses, faders, regions and bindings (default: one bus for each leaf class)")
    add(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="CONTROL=VALUE",
        help="such as bus/drums/gain_db=-6; repeatable",
    )
    add(
        "--blocksize",
        type=_block,
        default=0,
        metavar="N|auto",
        help="frames per callback (default: auto, the device's own)",
    )
    add("--queue", type=_samples, metavar="N", help="slack for a late model, in samples of the model (default: one hop)")
    add("--provider", choices=("auto", "cpu", "cuda"), default="auto", help="where the model runs (default: auto)")
    add("--midi", action="append", metavar="PORT|none", help="MIDI ports by a part of their name (default: all); repeatable")
    add("--osc", default="127.0.0.1:9000", metavar="HOST:PORT|none", help="where to listen for OSC (default: 127.0.0.1:9000)")
    add(
        "--surface",
        nargs="?",
        const="127.0.0.1:8765",
        default="",
        metavar="HOST:PORT",
        help="a page to play it from, in a browser (default: 127.0.0.1:8765; 0.0.0.0:8765 lets the network in, by a token)",
    )
    add(
        "--record",
        type=_folder,
        metavar="DIR",
        help="record the input and every bus from the start; 'record' switches it while playing",
    )
    add(
        "--duration",
        type=_seconds,
        metavar="S",
        help="end after S seconds of sound; the time that a device is missing does not count",
    )
    add("--measure-latency", action="store_true", help="play and record a signal through a cable from output to input, then end")
    add("--json", action="store_true", help="one JSON object a second instead of the screen; with --list, one in all")
    return parser


def _block(text: str) -> int:
    if text == "auto":
        return 0
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= 8192:
        raise argparse.ArgumentTypeError(f"'{text}' is neither auto nor a number of frames from 1 to 8192")
    return int(text)


def _samples(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text[:9]) > 48000:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of samples from 0 to 48000")
    return int(text)


def _folder(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError(f"'{text}' is no folder")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds above 0")
    return seconds


def _list(flags: argparse.Namespace) -> int:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from .control.midi_ports import list_ports
    from .device import devices

    found, ports = devices(), list_ports()
    if flags.json:
        midi_ports = {"inputs": ports.inputs, "outputs": ports.outputs}
        print(json.dumps({"devices": [asdict(device) for device in found], "midi": midi_ports}))
        return 0
    table = Table("device", "inputs", "outputs", "rate", box=box.SIMPLE_HEAD)
    for device in found:
        table.add_row(device.label, str(device.inputs), str(device.outputs), f"{device.rate_hz} Hz")
    midi = Table("MIDI port", "", box=box.SIMPLE_HEAD)
    for way, names in (("in", ports.inputs), ("out", ports.outputs)):
        for name in names:
            midi.add_row(name, way)
    console = Console()
    console.print(table if table.row_count else "no audio device; plug one in or start the sound server")
    console.print(midi if midi.row_count else "no MIDI port")
    return 0


def _measure(flags: argparse.Namespace) -> int:
    """In this very process: nobody else plays meanwhile."""
    from .contract import load_bundle
    from .latency import measure, mixed
    from .live import LiveSession

    bundle = load_bundle(flags.model)
    bundle.check_live()
    live = LiveSession(
        bundle,
        mixed(),
        input=flags.input,
        output=flags.output,
        block_samples=flags.blocksize,
        queue_samples=flags.queue,
        provider=flags.provider,
    )
    with live:
        found = measure(live)
    names = {"algorithmic": found.algorithmic, "queue": found.queue, "device": found.device, "total": found.total}
    if flags.json:
        print(json.dumps({**names, "engine": found.engine, "declared": found.declared, "rate_hz": found.rate_hz}))
    else:
        for name, samples in names.items():
            print(f"{name:12} {samples:6} samples  {1000 * samples / found.rate_hz:6.2f} ms")
        print(f"the engine takes {found.engine} samples, and says {found.declared}")
    return 0 if found.engine == found.declared else FAILED


def _live(flags: argparse.Namespace) -> int:
    from .contract import load_bundle
    from .control.host import opening
    from .record import check_folder
    from .selection import compile
    from .session import Session

    config = _config(flags)
    bundle = load_bundle(config.model)
    bundle.check_live()
    _check_geometry(bundle, flags.latency)
    compile(opening(config).scene.selection, bundle)  # what cannot be played is said before anything starts
    if config.record is not None:
        check_folder(Path(config.record))
    session = Session.make(config, record_channels=_record_channels(config))
    try:
        _invite(config, flags.json)
        return _watch(session, flags)
    finally:
        session.remove()


def _invite(config: "Config", quiet: bool) -> None:
    """Where the page is: as text, and for the camera of a tablet if one can get there."""
    from .surface.address import is_loopback, qr, reachable, read_endpoint, url

    endpoint = read_endpoint(config.surface)
    if endpoint is None or quiet:
        return
    host, port = endpoint
    address = url(reachable(host), port, config.surface_token)
    print(f"surface: {address}" if is_loopback(host) else f"{qr(address)}\nsurface: {address}", flush=True)


def _config(flags: argparse.Namespace) -> "Config":
    from .session import Config
    from .surface.address import is_loopback, make_token, read_endpoint

    surface = read_endpoint(flags.surface)
    token = make_token() if surface and not is_loopback(surface[0]) else ""
    return Config(
        model=flags.model,
        preset=flags.preset,
        input=flags.input,
        output=flags.output,
        block_samples=flags.blocksize,
        queue_samples=flags.queue,
        provider=flags.provider,
        midi=tuple(flags.midi or ()),
        osc=flags.osc,
        record=flags.record,
        surface=flags.surface,
        surface_token=token,
        settings=tuple(flags.settings),
    )


def _check_geometry(bundle: "Bundle", wanted: str | None) -> None:
    """A latency is trained, not chosen: the flag makes sure of it."""
    from .contract import GEOMETRIES

    if wanted is not None and bundle.stft != GEOMETRIES[wanted]:
        have = next((name for name, spec in GEOMETRIES.items() if spec == bundle.stft), "another")
        raise DeviceError(f"--latency {wanted}: model '{bundle.name}' is of {have} geometry; choose a model trained for {wanted}")


def _record_channels(config: "Config") -> int:
    from .wanted import read_wanted

    return 0 if config.record is None else len(read_wanted(config.input).channels) or 2


def _watch(session: "Session", flags: argparse.Namespace) -> int:
    """Until Ctrl-C, the end of --duration, or a start that fails."""
    from . import telemetry
    from .screen import Look, Screen
    from .watchdog import Watchdog

    watchdog, recorder = Watchdog(session), _recorder(session)

    def look() -> Look:
        status = recorder.status if recorder else ""
        return Look(telemetry.read(session.board), session.view(), session.config.model, session.device, status)

    screen, events = Screen(look, flags.json), session.events()

    def tell() -> None:
        for event in events:
            if not event.text:
                break
            screen.tell(event)

    try:
        screen.start()
        watchdog.start()
        if recorder:
            recorder.start()
        while not flags.duration or telemetry.read(session.board).seconds < flags.duration:
            time.sleep(LOOK_S)
            watchdog.look()
            tell()
        return 0
    finally:
        with undisturbed():
            watchdog.end()
            if recorder:
                recorder.close()
            tell()
            screen.close()


def _recorder(session: "Session") -> "Recorder | None":
    from . import board as b
    from .record import Recorder

    if session.config.record is None:
        return None
    return Recorder(
        session.board,
        Path(session.config.record),
        names=lambda: _heard(session.view()),
        say=lambda text: session.say("recorder", text),
        wanted=lambda: bool(session.board.words[b.RECORD_WANTED]),
    )


def _heard(view: "View") -> dict[str, int] | None:
    """The buses of the present scene, and their slots; None before the control process has shown one."""
    if view == type(view)():
        return None
    return {bus: view.slots[bus] for bus in view.buses if bus in view.slots}

"""What a page is told of a live session: the model, the table of controls, and the state as one flat dictionary. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import chain
from typing import Any

from ..contract import Bundle, DiskSpec
from ..control import player
from ..control.midi_bindings import Bindings
from ..control.player import Playing
from ..control.presets import shape
from ..control.scene import OUTPUTS, STRIP
from ..control.table import FADER, TABLE, Control
from ..disk import LIMITS, prototypes
from ..disk import REGIONS as SHAPES
from ..selection import Bus, Strip
from ..telemetry import Telemetry
from .protocol import LEVEL_FLOOR_DB, LEVEL_STEP_DB

VERSION = 1  # of what pages and servers say to each other


def hello(bundle: Bundle, mode: str) -> dict[str, Any]:
    """Everything that stays as it is while a page is open. ``mode`` is "live" or "file"."""
    return {
        "hello": {
            "version": VERSION,
            "mode": mode,
            "model": model(bundle),
            "table": [row(control) for control in TABLE],
            "fader": FADER,
            "shapes": {name: [*kind.parameters(), "soft"] for name, kind in SHAPES.items()},
            "limits": LIMITS,
            "level": {"floor_db": LEVEL_FLOOR_DB, "step_db": LEVEL_STEP_DB},
        }
    }


def model(bundle: Bundle) -> dict[str, Any]:
    """The classes and the disk's head, from which a page draws boundaries and cells; frequencies of the bins."""
    return {
        "name": bundle.name,
        "sample_rate_hz": bundle.sample_rate_hz,
        "hop_samples": bundle.stft.hop_samples,
        "bins": bundle.band.bins,
        "bin_hz": bundle.sample_rate_hz / bundle.stft.analysis_samples,
        "classes": [asdict(each) | {"leaf": each.name in bundle.leaves} for each in bundle.classes],
        "disk": _drawn(bundle.disk) if bundle.disk and bundle.disk.curvature and bundle.disk.dim == 2 else None,
    }


def _drawn(disk: DiskSpec) -> dict[str, Any]:
    return {"scale": disk.scale, "vectors": disk.vectors, "places": prototypes(disk).tolist()}


def row(control: Control) -> dict[str, Any]:
    """A control of the table, as a page draws it."""
    return {
        "name": control.name,
        "help": control.help,
        "kind": control.kind,
        "unit": control.unit,
        "low": control.low,
        "high": control.high,
        "ends": control.ends,
        "default": control.default,
        "curve": control.curve,
    }


def state(playing: Playing, listed: tuple[str, ...], osc: str = "") -> dict[str, Any]:
    """The values of all controls by their names; under other names what a page has to know beside them."""
    selection = playing.scene.selection
    return {
        **{control: getattr(playing.scene, field) for control, field in OUTPUTS.items()},
        **{name: player.get(playing, name) for name in player.OWN},
        **player.told(playing),
        **dict(chain.from_iterable(map(_strip, selection.names, selection.strips))),
        "buses": selection.names,
        "regions": {name: {region.call: shape(region)} for name, region in selection.regions},
        "presets": listed,
        "ends": {"a": playing.a is not None, "b": playing.b is not None},
        "steps": {"undo": len(playing.history.past), "redo": len(playing.history.future)},
        "gliding": playing.glide is not None,
        "bindings": bindings(playing.bindings),
        "osc": osc,
    }


def _strip(bus: str, strip: Strip) -> Iterator[tuple[str, Any]]:
    for field in STRIP:
        yield f"bus/{bus}/{field}", getattr(strip, field)
    if isinstance(strip, Bus):
        yield f"bus/{bus}/smooth_ms", strip.smooth_ms
        yield f"bus/{bus}/select", str(strip.expression)


def bindings(bound: Bindings) -> dict[str, str]:
    """What plays each control: "cc 7 of nanoKONTROL2"."""
    found: dict[str, str] = {}
    for binding in bound:
        port = f" of {binding.port}" if binding.port else ""
        channel = f" on {binding.channel}" if binding.channel else ""
        found[binding.control] = f"{binding.kind} {binding.number}{channel}{port}"
    return found


def engine(now: Telemetry) -> Mapping[str, Any]:
    """Numbers of the engine; times in ms."""
    names = "running load late_blocks fades skipped_hops faults xruns restarts algorithmic_ms queue_ms device_ms provider"
    return {"engine": {name: getattr(now, name) for name in (*names.split(), "sample_rate_hz", "seconds")}}

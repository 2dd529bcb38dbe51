"""A ready session for Open Stage Control, written from the table of controls; and both layouts to their files.

    python -m sepstream.control.osc_layout      writes presets/osc/open-stage-control.json and presets/osc/touchosc.tosc

Load the session, and start the program with --send 127.0.0.1:9000 (where sep-live listens) and --osc-port 9001. It
subscribes by place, so that the same strips play any preset. What a widget does not say is filled in with the defaults
of its type. The form is that of version 1.27, taken from its source; the tests have no copy of the program.
"""

import json
import sys
from pathlib import Path
from typing import Any

from ..disk import Annulus, Certain, Disc, Ellipse, HalfPlane
from ..paths import data_dir
from .osc_clients import EXPIRY_S
from .osc_protocol import PLACES, RATE_HZ, region_message
from .osc_touchosc import touch_osc
from .table import TABLE, Control, Value, find

BUSES = 8  # strips
REGIONS = 2
OUTPUTS = 2  # meters
RENEW_MS = round(1000 * EXPIRY_S / 3)
METER_DB = (-60.0, 0.0)
KNOBS, SWITCHES = ("pan", "wet"), ("mute", "solo", "invert")  # of a strip, beside its fader
SHAPES = (Disc(0.0, 0.0, 1.0), Ellipse(0.0, 0.0, 0.5, 0.25), HalfPlane(0.0), Annulus(0.0, 0.0, 0.5, 1.0), Certain(0.5, 1.0))
STATE = ("running", "provider", "load", "late", "xruns", "latency", "error")  # told as text

Widget = dict[str, Any]


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open-stage-control.json").write_text(json.dumps(open_stage_control(), indent=1) + "\n", encoding="utf8")
    (folder / "touchosc.tosc").write_bytes(touch_osc())


def open_stage_control() -> Widget:
    """The session. Containers send nothing (``bypass``): the engine knows no control of their name."""
    tabs = [
        _tab("mixer", [*(_bus(place) for place in range(1, BUSES + 1)), _master()]),
        _tab("disk", [_region(place) for place in range(1, REGIONS + 1)]),
        _tab("session", [_presets(), _session(), _state()]),
    ]
    subscribe = f"send('/subscribe', {RATE_HZ:g}, '{PLACES}')"
    root = {
        "type": "root", "id": "root", "bypass": True,
        "comments": "Start with --send 127.0.0.1:9000 --osc-port 9001",
        "onCreate": f"{subscribe}\nsetInterval('subscribe', () => {{ {subscribe} }}, {RENEW_MS})",
        "tabs": tabs,
    }  # fmt: skip
    return {"createdWith": "Open Stage Control", "version": "1.27.0", "type": "session", "content": root}


def _tab(name: str, widgets: list[Widget]) -> Widget:
    return {"type": "tab", "id": name, "label": name, "layout": "horizontal", "bypass": True, "widgets": widgets}


def _panel(name: str, widgets: list[Widget], layout: str = "vertical") -> Widget:
    return {"type": "panel", "id": name, "layout": layout, "expand": True, "bypass": True, "widgets": widgets}


def _bus(place: int) -> Widget:
    name = f"bus/{place}"
    fader = [_widget(f"{name}/gain_db", "fader") | {"expand": True}, *_meter(f"meter/{name}")]
    return _panel(f"strip_{place}", [
        _text(f"name/{name}", str(place)),
        _panel(f"fader_{place}", fader, "horizontal"),
        *(_widget(f"{name}/{key}", "knob") for key in KNOBS),
        *(_widget(f"{name}/{key}") for key in SWITCHES),
    ])  # fmt: skip


def _master() -> Widget:
    meters = [widget for place in range(1, OUTPUTS + 1) for widget in _meter(f"meter/out/{place}")]
    return _panel("master", [
        _caption("master"),
        _panel("fader_master", [_widget("master/gain_db", "fader") | {"expand": True}, *meters], "horizontal"),
        _widget("late/gain_db", "knob"),
        *(_widget(name) for name in ("bypass", "panic", "record")),
    ])  # fmt: skip


def _region(place: int) -> Widget:
    """A pad for its centre, knobs for its numbers, buttons for its shapes. The pad sends x and y apart, as the table has them."""
    name, pad = f"region/{place}", f"region_{place}_pad"
    x, y = find(f"{name}/x"), find(f"{name}/y")
    numbers = [row.name.format(region=place) for row in TABLE if row.name.startswith("region/")]
    return _panel(f"region_{place}", [
        _text(f"name/{name}", f"region {place}"),
        {
            "type": "xy", "id": pad, "expand": True, "bypass": True, "rangeX": _range(x), "rangeY": _range(y),
            "onValue": f"send('/{name}/x', value[0])\nsend('/{name}/y', value[1])",
        },
        _variable(f"{name}/x", f"set('{pad}', [value, get('{pad}')[1]], {{send: false, script: false}})"),
        _variable(f"{name}/y", f"set('{pad}', [get('{pad}')[0], value], {{send: false, script: false}})"),
        _panel(f"shapes_{place}", [_shape(place, shape) for shape in SHAPES], "horizontal") | {"expand": False},
        _panel(f"numbers_{place}", [_widget(number, "knob") for number in numbers[2:]], "grid") | {"gridTemplate": 5},
    ])  # fmt: skip


def _shape(place: int, shape: Any) -> Widget:
    address, args = region_message(str(place), shape)
    return {"type": "button", "id": _id(address[1:]), "label": shape.call, "mode": "tap", "on": list(args), "address": address}


def _presets() -> Widget:
    """A button for each preset that is shipped."""
    names = sorted(path.stem for path in data_dir("presets").glob("*.toml"))
    return _panel("presets", [
        {"type": "button", "id": f"load_{name}", "label": name, "mode": "tap", "on": name, "address": "/preset/load"}
        for name in names
    ])  # fmt: skip


def _session() -> Widget:
    rows = [row.name for row in TABLE if row.kind == "action" or row.name.startswith("morph")]
    return _panel("actions", [widget for name in rows for widget in (_caption(name), _widget(name, "fader"))])


def _state() -> Widget:
    return _panel("state", [widget for name in STATE for widget in (_caption(name), _text(name, "-"))])


def _widget(name: str, number: str = "fader") -> Widget:
    """The widget of a control: a fader or knob, a button, or a field to type in."""
    row, common = find(name), {"id": _id(name), "address": f"/{name}"}
    key = name.rpartition("/")[2]
    if row.kind == "switch":
        return {"type": "button", "label": key, "mode": "tap" if name == "panic" else "toggle", **common}
    if row.kind == "number":
        look = {"horizontal": name.startswith("morph"), "pips": True, "doubleTap": True} if number == "fader" else {"html": key}
        return {"type": number, "range": _range(row), "default": row.default, "decimals": 3, **look, **common}
    return {"type": "input", "typeTags": "s", **common}


def _range(row: Control) -> dict[str, Any]:
    """The curve of a control as straight lines between points of the fader's way, in percent."""
    ways = (0.0, 100.0) if row.curve == "linear" else (0.0, 6.25, 25.0, 50.0, 75.0, 100.0)
    keys = {0.0: "min", 100.0: "max"}
    return {keys.get(way, f"{way:g}%"): _rounded(row.from_unit(way / 100)) for way in ways}


def _rounded(value: Value) -> float:
    assert isinstance(value, int | float)
    return round(value, 3)


def _meter(name: str) -> list[Widget]:
    """A bar for the peak. The message has the RMS too, and a fader takes one number: a variable stands between."""
    bar, (low, high) = f"{_id(name)}_bar", METER_DB
    look = {"design": "compact", "interaction": False, "bypass": True, "width": 16}
    return [
        {"type": "fader", "id": bar, "range": {"min": low, "max": high}, "default": low, **look},
        _variable(name, f"set('{bar}', value[0])"),
    ]


def _variable(name: str, script: str) -> Widget:
    return {"type": "variable", "id": f"{_id(name)}_in", "address": f"/{name}", "bypass": True, "onValue": script}


def _text(name: str, default: str) -> Widget:
    return {"type": "text", "id": _id(name), "address": f"/{name}", "default": default, "bypass": True}


def _caption(text: str) -> Widget:
    return {"type": "text", "id": f"caption_{_id(text)}", "default": text, "bypass": True}


def _id(name: str) -> str:
    return name.replace("/", "_")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else data_dir("presets") / "osc")

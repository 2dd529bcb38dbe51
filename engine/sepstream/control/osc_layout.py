"""Ready layouts for two touch surfaces, Open Stage Control and TouchOSC, written from the table of controls.

    python -m sepstream.control.osc_layout      writes presets/osc/open-stage-control.json and presets/osc/touchosc.tosc

Open Stage Control: load the session, and start it with --send 127.0.0.1:9000 (where sep-live listens) and --osc-port 9001.
TouchOSC: open the document; its OSC connection is UDP, sends to port 9000 of the machine that plays (sep-live --osc
0.0.0.0:9000 there) and receives on port 9001.

Both subscribe by place, so that the same strips play any preset. A .tosc document is XML, compressed with zlib; the form of
both was taken from what their makers publish, and no copy of either program is at hand where the tests run.
"""

import json
import sys
import uuid
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from ..disk import Annulus, Certain, Disc, Ellipse, HalfPlane
from ..paths import data_dir
from .osc_clients import EXPIRY_S
from .osc_protocol import PLACES, RATE_HZ, region_message
from .table import TABLE, Control, find

BUSES = 8  # strips
REGIONS = 2
OUTPUTS = 2  # meters
RECEIVE_PORT = 9001  # of TouchOSC
RENEW_MS = round(1000 * EXPIRY_S / 3)
METER_DB = (-60.0, 0.0)
KNOBS, SWITCHES = ("pan", "wet"), ("mute", "solo", "invert")  # of a strip, beside its fader
SHAPES = (Disc(0.0, 0.0, 1.0), Ellipse(0.0, 0.0, 0.5, 0.25), HalfPlane(0.0), Annulus(0.0, 0.0, 0.5, 1.0), Certain(0.5, 1.0))
STATE = ("provider", "load", "late", "xruns", "latency", "error")  # told as text

Widget = dict[str, Any]


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open-stage-control.json").write_text(json.dumps(open_stage_control(), indent=1) + "\n", encoding="utf8")
    (folder / "touchosc.tosc").write_bytes(zlib.compress(touch_osc(), 9))


# Open Stage Control: what a widget does not say is filled in with the defaults of its type.


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
        _text("running", "master"),
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
    ways = (0, 100) if row.curve == "linear" else (0, 6.25, 25, 50, 75, 100)
    keys = {0: "min", 100: "max"}
    return {keys.get(way, f"{way:g}%"): round(float(str(row.from_unit(way / 100))), 3) for way in ways}


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


# TouchOSC


class Frame(NamedTuple):
    x: int
    y: int
    w: int
    h: int


SCREEN = Frame(0, 0, 1024, 768)
TAPER_DB = (-60.0, 12.0)  # its faders are straight; a mute is at hand
RED, GREEN, BLUE, GREY = (0.8, 0.2, 0.2, 1.0), (0.2, 0.7, 0.3, 1.0), (0.2, 0.5, 0.9, 1.0), (0.3, 0.3, 0.3, 1.0)
COLOURS = {"mute": RED, "solo": GREEN, "invert": BLUE, "bypass": BLUE, "record": RED}
SCRIPT = f"""\
local last = -{RENEW_MS}
function update()
  local now = getMillis()
  if now - last >= {RENEW_MS} then
    last = now
    sendOSC({{ '/subscribe', {{ {{ tag = 'i', value = {RATE_HZ:g} }}, {{ tag = 'i', value = {RECEIVE_PORT} }}, \
{{ tag = 's', value = '{PLACES}' }} }} }})
  end
end
"""


def touch_osc() -> bytes:
    """The document as XML."""
    root = ElementTree.Element("lexml", version="3")
    strips = [node for place in range(1, BUSES + 1) for node in _strip(f"bus/{place}", 80 * (place - 1))]
    document = _node("GROUP", "sepstream", SCREEN, color=(0.0, 0.0, 0.0, 1.0), script=SCRIPT)
    children = ElementTree.SubElement(document, "children")
    children.extend([*strips, *_outputs(80 * BUSES), *_pad("region/1", Frame(80 * BUSES, 384, 384, 384))])
    root.append(document)
    return ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True)


def _strip(name: str, x: int) -> list[ElementTree.Element]:
    return [
        _label(f"name/{name}", name.rpartition("/")[2], Frame(x, 0, 76, 36)),
        _fader(f"{name}/pan", Frame(x, 40, 76, 44), orientation=1),
        _fader(f"{name}/wet", Frame(x, 88, 76, 44), orientation=1),
        _fader(f"{name}/gain_db", Frame(x, 136, 76, 440), TAPER_DB),
        *(_button(f"{name}/{key}", Frame(x, 580 + 64 * row, 76, 60)) for row, key in enumerate(SWITCHES)),
    ]


def _outputs(x: int) -> list[ElementTree.Element]:
    return [
        _fader("master/gain_db", Frame(x, 0, 92, 380), TAPER_DB),
        _fader("morph", Frame(x + 96, 0, 92, 380)),
        *(_button(name, Frame(x + 192, 64 * row, 92, 60)) for row, name in enumerate(("bypass", "record", "panic"))),
        _fader("region/1/r", Frame(x + 288, 0, 44, 380)),
        _fader("region/1/soft", Frame(x + 336, 0, 44, 380)),
    ]


def _pad(name: str, frame: Frame) -> list[ElementTree.Element]:
    messages = [_osc(f"{name}/{axis}", axis, find(f"{name}/{axis}").ends) for axis in "xy"]
    return [_node("XY", name, frame, {"x": 0.5, "y": 0.5}, messages, color=GREEN, gridX=True, gridY=True, cursor=True)]


def _fader(name: str, frame: Frame, ends: tuple[float, float] | None = None, **look: Any) -> ElementTree.Element:
    row = find(name)
    low, high = ends or row.ends
    rest = (float(str(row.default)) - low) / (high - low)
    return _node("FADER", name, frame, {"x": rest}, [_osc(name, "x", (low, high))], color=GREY, bar=True, cursor=True, **look)


def _button(name: str, frame: Frame) -> ElementTree.Element:
    momentary = name == "panic"
    look = {"color": COLOURS.get(name.rpartition("/")[2], GREY), "buttonType": 0 if momentary else 2, "press": True}
    return _node("BUTTON", name, frame, {"x": 0.0}, [_osc(name, "x", (0.0, 1.0))], release=not momentary, **look)


def _label(name: str, text: str, frame: Frame) -> ElementTree.Element:
    return _node("LABEL", name, frame, {"text": text}, [_osc(name, "text")], color=GREY, interactive=False, textSize=14)


def _node(
    kind: str,
    name: str,
    frame: Frame,
    values: dict[str, float | str] | None = None,
    messages: Iterable[ElementTree.Element] = (),
    **properties: Any,
) -> ElementTree.Element:
    """A control; what its properties do not say is as TouchOSC has it by default. The same name always has the same ID."""
    node = ElementTree.Element("node", ID=str(uuid.uuid5(uuid.NAMESPACE_URL, f"sepstream/{kind}/{name}")), type=kind)
    listed = ElementTree.SubElement(node, "properties")
    for key, value in ({"name": name, "frame": frame} | properties).items():
        listed.append(_property(key, value))
    listed = ElementTree.SubElement(node, "values")
    for key, value in ((values or {}) | {"touch": "false"}).items():
        fields = {"key": key, "locked": "0", "lockedDefaultCurrent": "0", "default": _shown(value), "defaultPull": "0"}
        listed.append(_element("value", fields))
    ElementTree.SubElement(node, "messages").extend(messages)
    return node


def _property(key: str, value: Any) -> ElementTree.Element:
    found = _element("property", {"key": key})
    match value:
        case bool() | int():
            found.set("type", "b" if isinstance(value, bool) else "i")
            found.append(_element("value", text=str(int(value))))
        case str():
            found.set("type", "s")
            found.append(_element("value", text=value))
        case Frame():
            found.set("type", "r")
            found.append(_element("value", {name: str(item) for name, item in value._asdict().items()}))
        case tuple():
            found.set("type", "c")
            found.append(_element("value", {name: _shown(item) for name, item in zip("rgba", value, strict=True)}))
    return found


def _osc(name: str, variable: str, ends: tuple[float, float] | None = None) -> ElementTree.Element:
    """The message that sends and receives a value of a control, from ``ends[0]`` to ``ends[1]``; a text is only received."""
    kind, (low, high) = ("STRING", (0.0, 1.0)) if ends is None else ("FLOAT", ends)
    flags = {"enabled": 1, "send": int(ends is not None), "receive": 1, "feedback": 0, "connections": "11111"}
    message = _element("osc", {key: str(value) for key, value in flags.items()})
    trigger = _element("trigger", {"var": variable, "condition": "ANY"})
    ElementTree.SubElement(message, "triggers").append(trigger)
    path = {"type": "CONSTANT", "conversion": "STRING", "value": f"/{name}", "scaleMin": "0", "scaleMax": "1"}
    ElementTree.SubElement(message, "path").append(_element("partial", path))
    argument = {"type": "VALUE", "conversion": kind, "value": variable, "scaleMin": _shown(low), "scaleMax": _shown(high)}
    ElementTree.SubElement(message, "arguments").append(_element("partial", argument))
    return message


def _element(tag: str, fields: dict[str, str] | None = None, text: str | None = None) -> ElementTree.Element:
    element = ElementTree.Element(tag)
    element.text = text
    for key, value in (fields or {}).items():
        ElementTree.SubElement(element, key).text = value
    return element


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else data_dir("presets") / "osc")

"""A ready document for TouchOSC, written from the table of controls; osc_layout.py puts it into its file.

Its OSC connection 1 is UDP, sends to port 9000 of the machine that plays (sep-live --osc 0.0.0.0:9000 there) and receives
on port 9001. A .tosc file is XML, compressed with zlib; what a control does not say is as it is by default. The form was
taken from its manual and from what others have published about the file; the tests have no copy of the program.
"""

import uuid
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from .osc_clients import EXPIRY_S
from .osc_protocol import PLACES, RATE_HZ
from .table import find


class Frame(NamedTuple):
    x: int
    y: int
    w: int
    h: int


SCREEN = Frame(0, 0, 1024, 768)
BUSES = 8  # strips
RECEIVE_PORT = 9001
RENEW_MS = round(1000 * EXPIRY_S / 3)
TAPER_DB = (-60.0, 12.0)  # its faders are straight; a mute is at hand
SWITCHES = ("mute", "solo", "invert")
RED, GREEN, BLUE, GREY = (0.8, 0.2, 0.2, 1.0), (0.2, 0.7, 0.3, 1.0), (0.2, 0.5, 0.9, 1.0), (0.3, 0.3, 0.3, 1.0)
BLACK, CLEAR = (0.0, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0, 0.0)
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
    """The file."""
    root = Element("lexml", version="3")
    strips = [node for place in range(1, BUSES + 1) for node in _strip(f"bus/{place}", 80 * (place - 1))]
    document = _node("GROUP", "sepstream", SCREEN, color=BLACK, script=SCRIPT)
    children = ElementTree.SubElement(document, "children")
    children.extend([*strips, *_outputs(80 * BUSES), *_pad("region/1", Frame(80 * BUSES, 384, 384, 384))])
    root.append(document)
    return zlib.compress(bytes(ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True)), 9)


def _strip(name: str, x: int) -> list[Element]:
    return [
        _label(f"name/{name}", name.rpartition("/")[2], Frame(x, 0, 76, 36)),
        _fader(f"{name}/pan", Frame(x, 40, 76, 44), orientation=1),
        _fader(f"{name}/wet", Frame(x, 88, 76, 44), orientation=1),
        _fader(f"{name}/gain_db", Frame(x, 136, 76, 440), TAPER_DB),
        *(node for row, key in enumerate(SWITCHES) for node in _button(f"{name}/{key}", Frame(x, 580 + 64 * row, 76, 60))),
    ]


def _outputs(x: int) -> list[Element]:
    buttons = ("bypass", "record", "panic")
    return [
        _fader("master/gain_db", Frame(x, 0, 92, 380), TAPER_DB),
        _fader("morph", Frame(x + 96, 0, 92, 380)),
        *(node for row, name in enumerate(buttons) for node in _button(name, Frame(x + 192, 64 * row, 92, 60))),
        _fader("region/1/r", Frame(x + 288, 0, 44, 380)),
        _fader("region/1/soft", Frame(x + 336, 0, 44, 380)),
    ]


def _pad(name: str, frame: Frame) -> list[Element]:
    messages = [_osc(f"{name}/{axis}", axis, find(f"{name}/{axis}").ends) for axis in "xy"]
    return [_node("XY", name, frame, {"x": 0.5, "y": 0.5}, messages, color=GREEN, gridX=True, gridY=True, cursor=True)]


def _fader(name: str, frame: Frame, ends: tuple[float, float] | None = None, **look: Any) -> Element:
    row = find(name)
    low, high = ends or row.ends
    assert isinstance(row.default, int | float)
    rest = (row.default - low) / (high - low)
    return _node("FADER", name, frame, {"x": rest}, [_osc(name, "x", (low, high))], color=GREY, bar=True, cursor=True, **look)


def _button(name: str, frame: Frame) -> list[Element]:
    """With its caption on top, which lets fingers through."""
    key, momentary = name.rpartition("/")[2], name == "panic"
    look = {"color": COLOURS.get(key, GREY), "buttonType": 0 if momentary else 2, "press": True, "release": not momentary}
    caption = _node("TEXT", name, frame, {"text": key}, interactive=False, background=False, color=CLEAR, outline=False)
    return [_node("BUTTON", name, frame, {"x": 0.0}, [_osc(name, "x", (0.0, 1.0))], **look), caption]


def _label(name: str, text: str, frame: Frame) -> Element:
    return _node("LABEL", name, frame, {"text": text}, [_osc(name, "text")], color=GREY, interactive=False, textSize=14)


def _node(
    kind: str,
    name: str,
    frame: Frame,
    values: dict[str, float | str] | None = None,
    messages: Iterable[Element] = (),
    **properties: Any,
) -> Element:
    """A control; what its properties do not say is as TouchOSC has it by default. The same name always has the same ID."""
    node = Element("node", ID=str(uuid.uuid5(uuid.NAMESPACE_URL, f"sepstream/{kind}/{name}")), type=kind)
    listed = ElementTree.SubElement(node, "properties")
    for key, value in ({"name": name, "frame": frame} | properties).items():
        listed.append(_property(key, value))
    listed = ElementTree.SubElement(node, "values")
    for key, value in ((values or {}) | {"touch": "false"}).items():
        fields = {"key": key, "locked": "0", "lockedDefaultCurrent": "0", "default": _shown(value), "defaultPull": "0"}
        listed.append(_element("value", fields))
    ElementTree.SubElement(node, "messages").extend(messages)
    return node


def _property(key: str, value: Any) -> Element:
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


def _osc(name: str, variable: str, ends: tuple[float, float] | None = None) -> Element:
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


def _element(tag: str, fields: dict[str, str] | None = None, text: str | None = None) -> Element:
    element = Element(tag)
    element.text = text
    for key, value in (fields or {}).items():
        ElementTree.SubElement(element, key).text = value
    return element


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"

"""The layouts in presets/osc are those that the table gives now, and speak only of what there is."""

import json
import re
import zlib
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest

from sepstream.control import osc_layout, osc_protocol
from sepstream.control.osc import Message, decode
from sepstream.control.osc_protocol import SetRegion, Subscribe, request
from sepstream.control.osc_touchosc import touch_osc
from sepstream.control.scene import Scene, names
from sepstream.disk import Annulus, Certain, Disc, Ellipse, HalfPlane
from sepstream.expression import parse
from sepstream.paths import data_dir
from sepstream.selection import Bus, Selection
from sepstream.telemetry import Level, Telemetry

FOLDER = data_dir("presets") / "osc"
AGAIN = "run python -m sepstream.control.osc_layout"
SESSION = osc_layout.open_stage_control()["content"]
DOCUMENT = ElementTree.fromstring(zlib.decompress(touch_osc()))


def widgets(parent: dict[str, Any] = SESSION) -> Iterator[dict[str, Any]]:
    for child in [*parent.get("tabs", []), *parent.get("widgets", [])]:
        yield child
        yield from widgets(child)


def told() -> set[str]:
    """Addresses of all that a subscriber by place may hear from a scene with as many buses and regions as the layouts have."""
    shapes = (Disc(0, 0, 1), Ellipse(0, 0, 1, 1), HalfPlane(0), Annulus(0, 0, 0, 1), Certain(0, 1))
    addresses = {"/error"}
    for shape in shapes:
        buses = tuple(Bus(f"bus{place}", parse("mix")) for place in range(osc_layout.BUSES))
        regions = tuple(f"region{place}" for place in range(osc_layout.REGIONS))
        scene = Scene(Selection(buses, regions=tuple((name, shape) for name in regions)))
        listed, level = scene.selection.names, (Level(0.0, 0.0),)
        state = Telemetry(True, 0.0, level, level * 2, level * 8, 0.0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, 0.0, "cpu", 48000)
        controls = [Message(f"/{name}") for name in (*names(scene), *osc_protocol.labels(listed, regions))]
        messages = [*controls, *osc_protocol.telemetry_messages(state, listed)]
        sent = osc_protocol.news(messages, listed, True, regions)
        addresses |= {item.message.address for data in sent for item in decode(data, 0.0)}
    return addresses


# The files


def test_the_session_of_open_stage_control_is_up_to_date():
    kept = json.loads((FOLDER / "open-stage-control.json").read_text(encoding="utf8"))
    assert kept == osc_layout.open_stage_control(), AGAIN


def test_the_document_of_touchosc_is_up_to_date():
    kept = zlib.decompress((FOLDER / "touchosc.tosc").read_bytes())
    assert kept == zlib.decompress(touch_osc()), AGAIN


def test_both_files_are_written(tmp_path):
    osc_layout.main(tmp_path / "osc")
    assert sorted(path.name for path in (tmp_path / "osc").iterdir()) == ["open-stage-control.json", "touchosc.tosc"]


# Open Stage Control


def test_every_widget_has_its_own_id():
    ids = [widget["id"] for widget in widgets()]
    assert len(set(ids)) == len(ids)


def test_every_value_that_a_widget_sends_is_taken_as_it_is():
    for widget in widgets():
        if widget.get("bypass"):
            continue
        match widget["type"]:
            case "fader" | "knob":
                sent = [widget["default"], *widget["range"].values()]
            case "button":
                sent = [widget.get("on", 1), 0] if widget["mode"] == "toggle" else [widget.get("on", 1)]
            case "input":
                sent = ["text"]
            case kind:
                raise AssertionError(kind)
        for value in sent:
            found = request(Message(widget["address"], tuple(value) if isinstance(value, list) else (value,)))
            if isinstance(found, SetRegion):
                assert found.region.call == widget["label"]
            else:
                assert found.value == value


def test_scripts_send_to_controls_only_and_subscribe_by_place():
    scripts = [SESSION["onCreate"], *(widget["onValue"] for widget in widgets() if "send(" in widget.get("onValue", ""))]
    sent = [line for script in scripts for line in re.findall(r"send\('([^']+)', ([^)]*)\)", script)]
    assert {address for address, _ in sent} == {"/subscribe", *(f"/region/{n}/{axis}" for n in (1, 2) for axis in "xy")}
    assert all(request(Message(address, (0.5,))) for address, _ in sent)
    assert SESSION["onCreate"].count("send('/subscribe', 20, 'places')") == 2
    assert request(Message("/subscribe", (20.0, "places"))) == Subscribe(20.0, None, True)


def test_every_widget_that_only_listens_hears_something():
    listening = {widget["address"] for widget in widgets() if widget.get("bypass") and "address" in widget}
    assert listening and listening <= told()


def test_scripts_speak_of_widgets_that_are_there():
    ids = {widget["id"] for widget in widgets()}
    named = {name for widget in widgets() for name in re.findall(r"[sg]et\('([^']+)'", widget.get("onValue", ""))}
    assert named and named <= ids


# TouchOSC


def text(element: ElementTree.Element, path: str) -> str:
    return element.findtext(path) or ""


@pytest.mark.parametrize("message", list(DOCUMENT.iter("osc")), ids=lambda message: text(message, "path/partial/value"))
def test_a_message_sends_what_a_control_takes_or_hears_what_is_told(message):
    address, argument = text(message, "path/partial/value"), message.find("arguments/partial")
    assert argument is not None and text(argument, "value") == text(message, "triggers/trigger/var")
    if text(message, "send") == "1":
        for end in (float(text(argument, "scaleMin")), float(text(argument, "scaleMax"))):
            assert request(Message(address, (end,))).value == end
    if address not in ("/record", "/panic", "/morph"):  # of the session, not of the scene
        assert address in told()


def test_every_control_of_the_document_has_its_own_id_and_lies_on_the_screen():
    nodes = list(DOCUMENT.iter("node"))
    frames = [[float(part.text or "") for part in frame] for frame in DOCUMENT.findall(".//property[@type='r']/value")]
    assert len({node.get("ID") for node in nodes}) == len(nodes) == len(frames)
    assert all(x >= 0 and x + w <= 1024 and y >= 0 and y + h <= 768 and w > 0 and h > 0 for x, y, w, h in frames)


def test_the_document_subscribes_by_place_and_to_its_own_port():
    script = text(DOCUMENT, "node/properties/property[@type='s']/[key='script']/value")
    values = re.findall(r"value = '?(\w+)'?", script)
    assert "'/subscribe'" in script and values == ["20", "9001", "places"]
    assert request(Message("/subscribe", (20, 9001, "places"))) == Subscribe(20.0, 9001, True)

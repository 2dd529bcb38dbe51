"""OSC without a socket: bytes, requests, regions, schedules and subscriptions, against python-osc as a second opinion."""

import math
import struct
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pythonosc.osc_bundle import OscBundle
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import OscMessageBuilder

from sepstream.control import osc, osc_protocol
from sepstream.control.osc import Message, Timed, bundle, decode, encode, frames
from sepstream.control.osc_clients import (
    EXPIRY_S,
    MAX_ANSWERS,
    MAX_CHANGES,
    MAX_ERRORS,
    MAX_SUBSCRIBERS,
    MAX_WAITING,
    REST_S,
    News,
    Patience,
    Schedule,
    Subscribers,
)
from sepstream.control.osc_protocol import (
    Ask,
    AskAll,
    AskRegion,
    Ping,
    SetRegion,
    Subscribe,
    Unsubscribe,
    region_message,
    request,
    value_message,
)
from sepstream.control.table import TABLE, Change
from sepstream.disk import RIM, Annulus, Certain, Disc, Ellipse, HalfPlane, Lasso
from sepstream.errors import ControlError
from sepstream.telemetry import Level, Telemetry

NOW = 1_800_000_000.0
float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
integer = st.integers(-(1 << 63), (1 << 63) - 1)
text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
address = st.text(st.sampled_from("abz019_-/ä"), max_size=20).map(lambda tail: "/" + tail)
arguments = st.lists(st.one_of(float32, integer, text, st.booleans(), st.binary(max_size=20)), max_size=8)
message = st.builds(lambda path, args: Message(path, tuple(args)), address, arguments)
PACKETS = [
    encode("/bus/vox/gain_db", -6.0),
    encode("/all", 1, 1 << 40, 0.5, 1e300, "text", b"blob", True, False),
    bundle([encode("/a", 1.5), bundle([encode("/b", "x")], NOW + 1)], NOW),
]


def only(data: bytes, now: float = NOW) -> Message:
    [(wait_s, found)] = decode(data, now)
    assert wait_s == 0
    return found


def same(sent: Message, found: Message) -> bool:
    """Equal, floats as float32; 1 is not True."""
    pairs = zip(sent.args, found.args, strict=True)
    return sent.address == found.address and all(
        type(one) is type(other) and (np.float32(one) == np.float32(other) if isinstance(one, float) else one == other)
        for one, other in pairs
    )


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good datagram, with bytes changed, cut out or put in."""
    data = bytearray(draw(st.sampled_from(PACKETS)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 5))] = draw(st.binary(max_size=5))
    return bytes(data)


# The bytes


@given(st.one_of(st.binary(max_size=200), damaged(), st.binary(max_size=60).map(lambda tail: osc.BUNDLE + tail)))
@example(b"")
@example(osc.BUNDLE + struct.pack(">Qi", 1, -4) + b"/a\0\0")  # python-osc's parser never returns from this one
def test_any_bytes_are_messages_or_one_line_about_what_is_wrong(data):
    try:
        found = decode(data, NOW)
    except ControlError as error:
        assert str(error) and "\n" not in str(error) and len(str(error)) < 400
    else:
        assert all(isinstance(item, Timed) and item.wait_s >= 0 and item.message.address.startswith("/") for item in found)


@pytest.mark.parametrize("byte", [b"\0", b"/", b"*", b"#", b"\xff", b"a"])
def test_a_datagram_of_64_kib_of_the_same_byte_is_refused(byte):
    with pytest.raises(ControlError):
        decode(byte * (1 << 16), NOW)


def test_a_message_of_the_largest_datagram_is_read():
    note = "x" * (osc.MAX_DATAGRAM // 4 * 4 - 4 - 4 - 4)
    assert only(encode("/n", note)) == Message("/n", (note,))


@given(message)
def test_what_is_encoded_is_decoded(sent):
    assert same(sent, only(encode(sent.address, *sent.args)))


@given(st.decimals(-1000, 1000, places=3).map(float))
def test_a_number_of_few_digits_stays_itself(value):
    assert only(encode("/x", value)).args == (value,)


@given(message)
def test_python_osc_reads_what_is_encoded(sent):
    theirs = OscMessage(encode(sent.address, *sent.args))
    assert same(sent, Message(theirs.address, tuple(theirs.params)))


@given(message.filter(lambda sent: b"" not in sent.args))  # python-osc sends no empty blob
def test_what_python_osc_encodes_is_decoded(sent):
    builder = OscMessageBuilder(sent.address)
    for value in sent.args:
        builder.add_arg(value)
    assert same(sent, only(builder.build().dgram))


def test_numpy_numbers_are_numbers():
    sent = (np.float32(0.5), np.float64(0.25), np.int64(7), np.bool_(True))
    assert only(encode("/x", *sent)).args == (0.5, 0.25, 7, True)


def test_a_float_beyond_float32_is_sent_as_double():
    assert only(encode("/x", 1e300)).args == (1e300,)


@pytest.mark.parametrize("value", [None, [1], 1j, 1 << 63, "a\0b"])
def test_what_osc_cannot_carry_is_refused(value):
    with pytest.raises(ControlError, match="cannot be sent as OSC"):
        encode("/x", value)


def test_a_message_without_type_tags_has_no_arguments():
    assert only(b"/a\0\0") == Message("/a")


@pytest.mark.parametrize(("tag", "data", "value"), [("S", b"abc\0", "abc"), ("I", b"", True), ("d", struct.pack(">d", 0.1), 0.1)])
def test_types_that_surfaces_send_beyond_the_standard_are_understood(tag, data, value):
    assert only(b"/a\0\0," + tag.encode() + b"\0\0" + data).args == (value,)


@pytest.mark.parametrize("tag", ["r", "m", "t", "N", "[", "c", "é"])
def test_an_argument_of_another_type_is_refused_and_not_dropped(tag):
    tags = f",f{tag}".encode()
    with pytest.raises(ControlError, match="expected one of i, f, s"):
        decode(b"/a\0\0" + tags + bytes(4 - len(tags) % 4) + bytes(16), NOW)


@pytest.mark.parametrize("pattern", ["/bus/*/mute", "/bus/?", "/bus/[ab]", "/{a,b}", "/a b", "/#", "/" + "*" * 200 + "X"])
def test_a_pattern_is_refused(pattern):
    with pytest.raises(ControlError, match="is a pattern; expected the name of one control"):
        decode(encode(pattern, 1), NOW)


def test_an_address_of_stars_as_long_as_a_datagram_is_refused():
    with pytest.raises(ControlError, match="OSC address"):
        decode(encode("/stem/" + "*" * 60000 + "X", 1), NOW)


def test_text_that_is_not_utf8_is_refused():
    with pytest.raises(ControlError, match="is not UTF-8"):
        decode(b"/a\0\0,s\0\0\xff\xff\0\0", NOW)


# Bundles


@given(st.lists(message, max_size=5), st.floats(-1e6, 1e6, allow_nan=False))
def test_a_bundle_is_due_at_its_time_tag_and_at_once_in_the_past(sent, ahead_s):
    found = decode(bundle([encode(item.address, *item.args) for item in sent], NOW + ahead_s), NOW)
    assert all(same(item, other.message) for item, other in zip(sent, found, strict=True))
    assert all(math.isclose(item.wait_s, max(ahead_s, 0.0), abs_tol=1e-6) for item in found)


@pytest.mark.parametrize("tag", [0, 1])
def test_an_immediate_bundle_is_due_at_once(tag):
    assert decode(osc.BUNDLE + struct.pack(">Qi", tag, 4) + b"/a\0\0", NOW) == (Timed(0.0, Message("/a")),)


def test_time_tags_go_on_after_they_start_again_in_2036():
    turn = (1 << 32) - osc.NTP_EPOCH_S
    for now in (turn - 5.0, turn - 0.5, turn + 5.0):
        [(wait_s, _)] = decode(bundle([encode("/a")], now + 1.0), now)
        assert math.isclose(wait_s, 1.0, abs_tol=1e-6)


def test_an_inner_bundle_is_not_due_before_the_outer():
    inner = bundle([encode("/b")], NOW + 1), bundle([encode("/c")], NOW + 9)
    found = decode(bundle([encode("/a"), *inner], NOW + 5), NOW)
    assert [(round(wait_s, 3), item.address) for wait_s, item in found] == [(5, "/a"), (5, "/b"), (9, "/c")]


def nested(depth: int) -> bytes:
    data = encode("/a")
    for _ in range(depth):
        data = bundle([data])
    return data


def test_bundles_nest_so_deep_and_no_deeper():
    assert only(nested(osc.MAX_DEPTH)) == Message("/a")
    for depth in (osc.MAX_DEPTH + 1, 3000):
        with pytest.raises(ControlError, match="deep"):
            decode(nested(depth), NOW)


def test_a_bundle_holds_so_many_messages_and_no_more():
    assert len(decode(bundle([b"/a\0\0"] * osc.MAX_MESSAGES), NOW)) == osc.MAX_MESSAGES
    with pytest.raises(ControlError, match="more than 1024 messages"):
        decode(bundle([b"/a\0\0"] * (osc.MAX_MESSAGES + 1)), NOW)


def test_a_bundle_that_is_damaged_anywhere_gives_no_message():
    with pytest.raises(ControlError):
        decode(bundle([encode("/a", 1), encode("/b", "text")[:-4]]), NOW)


@given(st.lists(message.map(lambda item: encode(item.address, *item.args)), max_size=60))
def test_frames_hold_every_message_in_order_and_fit_the_network(packets):
    datagrams = list(frames(packets))
    assert [item.message for data in datagrams for item in decode(data, NOW)] == [only(packet) for packet in packets]
    assert all(len(data) <= osc.FRAME_BYTES for data in datagrams)
    assert all(OscBundle(data).num_contents > 1 for data in datagrams if data.startswith(osc.BUNDLE))


# Requests


def ask(path: str, *args: osc.Argument) -> osc_protocol.Request | None:
    """What the message asks for, after its way through the network."""
    return request(only(encode(path, *args)))


@given(message)
def test_any_message_is_a_request_or_one_line_about_what_is_wrong(sent):
    try:
        request(sent)
    except ControlError as error:
        assert str(error) and "\n" not in str(error)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_every_control_of_the_table_is_set_and_asked_for_under_its_own_name(row):
    name = row.name.format(bus="vox", region="1", target="drums", **{"class": "bass"})
    assert ask(f"/{name}", *value_message(name, row.default).args) == Change(name, row.default)
    assert ask(f"/{name}") == Ask(name)


@pytest.mark.parametrize(
    ("path", "args", "value"),
    [
        ("/bus/vox/gain_db", [-6], -6.0),
        ("/bus/vox/gain_db", [99.0], 24.0),
        ("/master/gain_db", [-math.inf], -90.0),
        ("/bus/vox/pan", [-7], -1.0),
        ("/bus/vox/mute", [1.0], True),
        ("/bus/vox/mute", [0], False),
        ("/bus/1/mute", [True], True),
        ("/bus/vox/outputs", [3, 4], (3, 4)),
        ("/bus/vox/outputs", [3.0, 4.0], (3, 4)),
        ("/bus/vox/outputs", ["3, 4"], (3, 4)),
        ("/bus/vox/outputs", [2], (2,)),
        ("/bus/vox/select", ["speech & !drums"], "speech & !drums"),
        ("/region/1/x", [-9.0], -2.0),
        ("/preset/load", ["karaoke"], "karaoke"),
        ("/panic", [1], True),
    ],
)
def test_values_as_surfaces_send_them_are_taken_and_numbers_brought_into_range(path, args, value):
    found = ask(path, *args)
    assert found == Change(path[1:], value) and type(found.value) is type(value)


@pytest.mark.parametrize(
    ("path", "args", "line"),
    [
        ("/bus/vox/gain_db", [math.nan], "bus/vox/gain_db nan; expected a number from -120 to 24 dB"),
        ("/bus/vox/gain_db", ["loud"], "bus/vox/gain_db 'loud'; expected a number from -120 to 24 dB"),
        ("/bus/vox/gain_db", [True], "bus/vox/gain_db True; expected a number"),
        ("/bus/vox/gain_db", [1, 2], "bus/vox/gain_db (1, 2); expected a number"),
        ("/bus/vox/gain_db", [b"blob"], "bus/vox/gain_db b'blob'; expected a number"),
        ("/bus/vox/mute", [math.nan], "bus/vox/mute nan; expected true or false"),
        ("/bus/vox/select", [1], "bus/vox/select 1; expected a text"),
        ("/bus/vox/outputs", [1, 99], "bus/vox/outputs (1, 99); expected 1 to 8 different channels"),
        ("/bus/vox/gain", [1], "did you mean 'bus/vox/gain_db'?"),
        ("/region/1/disc", [0, 0, math.nan], "/region/1/disc: nan; expected a number"),
        ("/region/1/disc", [0, 0, "1"], "/region/1/disc: '1'; expected a number"),
        ("/region/1/disc", [0, 0], "/region/1/disc: 2 values; expected x y r [soft]"),
        ("/region/1/disc", [], "/region/1/disc: 0 values; expected x y r [soft]"),
        ("/region/1/ellipse", [0] * 7, "/region/1/ellipse: 7 values; expected x y a b [angle] [soft]"),
        ("/region/1/lasso", [0, 0, 1, 1], "/region/1/lasso: lasso: 2 points; expected 3 to 256"),
        ("/region/1", [0, 0, 1], "/region/1: 3 values; expected none, or a shape such as /region/1/disc x y r"),
        ("/region/1/blob", [0, 0, 1], "unknown shape 'blob'; known: disc, ellipse, half"),
        ("/subscribe", ["fast"], "/subscribe: 'fast'; expected a number"),
        ("/subscribe", [math.nan], "/subscribe: nan; expected a number"),
        ("/subscribe", [20, 70000], "/subscribe: port 70000; expected one, from 1 to 65535"),
        ("/subscribe", [20, 9000.5], "/subscribe: port 9000.5; expected one, from 1 to 65535"),
        ("/subscribe", [1, 2, 3], "/subscribe: 3 numbers; expected [rate_hz] [port], and maybe the word places"),
        ("/unsubscribe", [1, 2], "/unsubscribe: port 1, 2; expected one, from 1 to 65535"),
        ("/", [], "unknown control ''"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(path, args, line):
    with pytest.raises(ControlError) as caught:
        ask(path, *args)
    assert line in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "args", "found"),
    [
        ("/ping", [], Ping()),
        ("/controls", [], AskAll()),
        ("/region/1", [], AskRegion("1")),
        ("/subscribe", [], Subscribe(20.0, None, False)),
        ("/subscribe", [200, 9001], Subscribe(60.0, 9001, False)),
        ("/subscribe", [0.0, 9001.0, "places"], Subscribe(1.0, 9001, True)),
        ("/subscribe", ["places"], Subscribe(20.0, None, True)),
        ("/unsubscribe", [], Unsubscribe(None)),
        ("/unsubscribe", [9001], Unsubscribe(9001)),
        ("/error", ["from another engine"], None),
        ("/pong", [], None),
    ],
)
def test_what_is_not_a_control_has_its_own_address(path, args, found):
    assert ask(path, *args) == found


# Regions

small = st.floats(-0.6875, 0.6875, width=32)  # so that any centre is inside
size = st.floats(0.5, 4.0, width=32)
soft = st.just(0.0) | st.floats(0.125, 1.0, width=32)
REGIONS = st.one_of(
    st.builds(Disc, small, small, size, soft=soft),
    st.builds(Ellipse, small, small, size, size, st.floats(-360, 360, width=32), soft=soft),
    st.builds(HalfPlane, st.floats(-360, 360, width=32), small, soft=soft),
    st.builds(Annulus, small, small, st.floats(0.0, 0.5, width=32), size, soft=soft),
    st.builds(Certain, st.floats(0.0, 0.5, width=32), st.floats(0.5, 1.0, width=32), soft=soft),
    st.builds(Lasso, st.lists(st.tuples(small, small), min_size=3, max_size=9).map(tuple), soft=soft),
)  # fmt: skip


@given(REGIONS)
def test_a_region_that_is_sent_is_the_region_that_is_set(region):
    path, args = region_message("dark-side_1", region)
    asked = ask(path, *args)
    found = asked.region
    for field in fields(region):
        assert np.allclose(getattr(found, field.name), getattr(region, field.name), rtol=1e-7, atol=1e-38), field.name
    assert asked.name == "dark-side_1" and type(found) is type(region)


@pytest.mark.parametrize(
    ("shape", "args", "region"),
    [
        ("disc", [0.5, 0.25, 1.5], Disc(0.5, 0.25, 1.5)),
        ("disc", [0.5, 0.25, 1.5, 0.5], Disc(0.5, 0.25, 1.5, soft=0.5)),
        ("disc", [0, 0, 99], Disc(0.0, 0.0, 16.0)),
        ("ellipse", [0.5, 0, 1, 0.5], Ellipse(0.5, 0.0, 1.0, 0.5)),
        ("ellipse", [0.5, 0, 1, 0, 30, 0.5], Ellipse(0.5, 0.0, 1.0, 1e-4, 30.0, soft=0.5)),
        ("half", [90], HalfPlane(90.0)),
        ("half", [-999, 0.5, 0.25], HalfPlane(-360.0, 0.5, soft=0.25)),
        ("annulus", [0, 0.5, 0.25, 1], Annulus(0.0, 0.5, 0.25, 1.0)),
        ("annulus", [0, 0.5, 3, 1], Annulus(0.0, 0.5, 1.0, 1.0)),
        ("certain", [0.5, 1], Certain(0.5, 1.0)),
        ("certain", [0.5, 0.25, 0.125], Certain(0.25, 0.25, soft=0.125)),
        ("lasso", [0, 0, 0.5, 0, 0.5, 0.5], Lasso(((0.0, 0.0), (0.5, 0.0), (0.5, 0.5)))),
        ("lasso", [0, 0, 9, 0, 0.5, 0.5, 0.25], Lasso(((0.0, 0.0), (2.0, 0.0), (0.5, 0.5)), soft=0.25)),
    ],
)
def test_every_shape_is_set_as_a_whole_and_brought_into_range(shape, args, region):
    assert ask(f"/region/1/{shape}", *args) == SetRegion("1", region)


@given(st.floats(width=32, allow_nan=False), st.floats(width=32, allow_nan=False))
def test_the_corner_of_a_square_pad_is_a_point_on_the_rim_in_its_direction(x, y):
    disc = ask("/region/1/disc", x, y, 1.0).region
    assert math.hypot(disc.x, disc.y) <= RIM
    x, y = (min(max(value, -2.0), 2.0) for value in (x, y))
    assert math.isclose(disc.x * y, disc.y * x, rel_tol=1e-6, abs_tol=1e-40)


# Answers


@pytest.mark.parametrize("value", [-6.5, True, "speech", (3, 4)])
def test_a_value_is_told_as_it_is_set(value):
    name = {float: "bus/vox/gain_db", bool: "bus/vox/solo", str: "bus/vox/select", tuple: "bus/vox/outputs"}[type(value)]
    told = value_message(name, value)
    assert request(told) == Change(name, value)
    assert osc_protocol.listing({name: value}) == (Message("/control", (name, *told.args)),)


TELEMETRY = Telemetry(
    running=True, seconds=1.0, inputs=(Level(1.0, 0.5),), outputs=(Level(0.0, 0.0),) * 2, buses=(Level(0.1, 0.01),) * 2,
    load=0.25, late_blocks=1, fades=1, skipped_hops=2, faults=3, xruns=4, restarts=5,
    algorithmic_ms=10.5, queue_ms=5.5, device_ms=2.5, provider="cpu", sample_rate_hz=48000,
)  # fmt: skip


def test_telemetry_is_told_in_decibels_by_the_names_of_the_buses():
    told = dict(osc_protocol.telemetry_messages(TELEMETRY, ("vox", "residual")))
    assert told["/meter/in/1"] == pytest.approx((0.0, -6.0206), abs=1e-3)
    assert told["/meter/bus/vox"] == told["/meter/bus/residual"] == pytest.approx((-20.0, -40.0))
    assert told["/meter/out/2"] == (-120.0, -120.0)
    assert told["/latency"] == (10.5, 5.5, 2.5) and told["/load"] == (0.25,) and told["/provider"] == ("cpu",)
    counts = {"/late": 1, "/skipped": 2, "/faults": 3, "/xruns": 4, "/restarts": 5, "/running": 1}
    assert {path: told[path] for path in counts} == {path: (count,) for path, count in counts.items()}


def test_buses_and_regions_go_by_place_for_those_who_asked_so():
    buses, regions = ("2", "vox", "residual"), ("dark",)
    values = {"bus/vox/gain_db": -6.0, "bus/2/mute": True, "master/gain_db": 0.0, "bus/gone/solo": True, "region/dark/x": 0.5}
    told = [
        *(value_message(*item) for item in (values | osc_protocol.labels(buses, regions)).items()),
        *osc_protocol.telemetry_messages(TELEMETRY, buses)[1:3],
    ]
    named, placed = (
        [item.message for data in osc_protocol.news(told, buses, by_place, regions) for item in decode(data, NOW)]
        for by_place in (False, True)
    )
    assert [item.address for item in named] == [item.address for item in told]
    assert [item.address for item in placed] == [
        "/bus/2/gain_db", "/bus/1/mute", "/master/gain_db", "/bus/gone/solo", "/region/1/x",
        "/name/bus/1", "/name/bus/2", "/name/bus/3", "/name/region/1", "/meter/bus/1", "/meter/bus/2",
    ]  # fmt: skip
    assert [item.args for item in placed[5:9]] == [("2",), ("vox",), ("residual",), ("dark",)]


# Schedule

ANN, BOB = ("127.0.0.1", 5001), ("127.0.0.1", 5002)


@given(st.lists(st.tuples(st.floats(0, 60), st.sampled_from([ANN, BOB])), max_size=40))
def test_a_schedule_gives_everything_once_at_its_time_and_equal_times_in_order(items):
    schedule = Schedule()
    for index, (wait_s, sender) in enumerate(items):
        schedule = schedule.add(sender, [Timed(wait_s, Message(f"/{index}"))], now=100.0)
    given_out = []
    for now in np.linspace(100.0, 161.0, 62):
        ready, schedule = schedule.due(now)
        assert all(now - 1.0 <= waiting.due <= now for waiting in ready)
        given_out += [(waiting.due, int(waiting.message.address[1:]), waiting.sender) for waiting in ready]
    expected = sorted((100.0 + wait_s, index, sender) for index, (wait_s, sender) in enumerate(items))
    assert given_out == expected and not schedule.waiting


def test_a_schedule_takes_all_of_a_bundle_or_nothing():
    full = Schedule().add(ANN, [Timed(1.0, Message("/a"))] * MAX_WAITING, now=0.0)
    with pytest.raises(ControlError, match="1025 messages wait for their time"):
        full.add(BOB, [Timed(2.0, Message("/b"))], now=0.0)
    now, later = full.add(BOB, [Timed(0.0, Message("/now"))], now=0.0).due(0.0)  # what is for at once is not kept out
    assert [item.message.address for item in now] == ["/now"] and later == full
    with pytest.raises(ControlError, match="/c: time tag 61 s ahead; expected 60 s at most"):
        Schedule().add(BOB, [Timed(1.0, Message("/b")), Timed(61.0, Message("/c"))], now=0.0)
    assert full.due(0.999)[0] == () and len(full.due(1.0)[0]) == MAX_WAITING


# Subscriptions


def subscribed(*senders: osc.Client, rate_hz: float = 10.0, now: float = 0.0, **wish: Any) -> Subscribers:
    subscribers = Subscribers()
    for sender in senders:
        subscribers = subscribers.add(sender, Subscribe(rate_hz, **wish), now, {})
    return subscribers


def told(subscribers: Subscribers, now: float) -> tuple[dict[osc.Client, dict[str, Any]], Subscribers]:
    news, subscribers = subscribers.due(now)
    return {item.client: dict(item.changes) for item in news}, subscribers


def test_a_new_subscriber_is_told_everything_and_then_what_changes():
    subscribers = Subscribers().add(ANN, Subscribe(), 0.0, {"bypass": False, "master/gain_db": -3.0})
    first, subscribers = told(subscribers, 0.0)
    subscribers = subscribers.changed({"bypass": True}, 0.01).changed({"bypass": False}, 0.02).changed({"bypass": True}, 0.03)
    assert first == {ANN: {"bypass": False, "master/gain_db": -3.0}}
    assert told(subscribers, 0.04)[0] == {}  # its rate is 20 Hz
    second, subscribers = told(subscribers, 0.05)
    assert second == {ANN: {"bypass": True}} and told(subscribers, 0.1)[0] == {ANN: {}}


@given(st.lists(st.floats(0.0, 1.0), min_size=50, max_size=200).map(sorted), st.sampled_from([1.0, 5.0, 60.0]))
def test_nobody_is_told_more_often_than_at_the_rate_that_was_asked_for(times, rate_hz):
    subscribers, count = subscribed(ANN, rate_hz=rate_hz), 0
    for now in times:
        found, subscribers = told(subscribers, now)
        count += len(found)
    assert count <= rate_hz * times[-1] + 1 + 1e-6


def test_many_changes_are_spread_and_none_is_lost():
    values = {f"bus/{index}/gain_db": float(index) for index in range(3 * MAX_CHANGES + 1)}
    subscribers, found = subscribed(ANN).changed(values, 0.0), []
    for turn in range(4):
        news, subscribers = told(subscribers, turn * 0.1)
        found += [len(news[ANN])]
        values = {name: value for name, value in values.items() if news[ANN].get(name) != value}
    assert found == [MAX_CHANGES] * 3 + [1] and not values


def test_who_moves_a_control_hears_of_it_when_the_hand_rests_and_others_at_once():
    subscribers = subscribed(ANN, BOB).changed({"bypass": True}, 0.0, sender=ANN)
    first, subscribers = told(subscribers, 0.0)
    assert first == {ANN: {}, BOB: {"bypass": True}}
    subscribers = subscribers.changed({"bypass": False}, 0.2, sender=BOB)  # Ann's hand is on it still
    assert told(subscribers, 0.25)[0] == {ANN: {}, BOB: {}}
    assert told(subscribers, 0.5)[0] == {ANN: {"bypass": False}, BOB: {"bypass": False}}


def test_a_hand_that_sends_from_one_port_and_hears_on_another_is_one_hand():
    subscribers = subscribed(ANN, port=9001).changed({"bypass": True}, 0.0, sender=ANN)
    assert told(subscribers, 0.0)[0] == {("127.0.0.1", 9001): {}}
    assert told(subscribers, REST_S)[0] == {("127.0.0.1", 9001): {"bypass": True}}


def test_a_subscription_ends_when_it_is_not_renewed():
    subscribers = subscribed(ANN, BOB).add(ANN, Subscribe(10.0), 30.0, {"bypass": True})
    assert told(subscribers, EXPIRY_S - 0.001)[0] == {ANN: {}, BOB: {}}
    found, subscribers = told(subscribers, EXPIRY_S)
    assert found == {ANN: {}} and len(subscribers) == 1
    assert told(subscribers, 30.0 + EXPIRY_S)[0] == {}


def test_who_unsubscribes_is_told_nothing_more():
    assert len(subscribed(ANN, BOB).remove(ANN, None)) == 1
    assert len(subscribed(ANN, port=9001).remove(ANN, None)) == 1
    assert len(subscribed(ANN, port=9001).remove(BOB, 9001)) == 0  # the same host
    assert len(subscribed(ANN).remove(BOB, None)) == 1


def test_there_are_so_many_subscribers_and_no_more_until_one_leaves_or_expires():
    crowd = [("127.0.0.1", port) for port in range(6000, 6000 + MAX_SUBSCRIBERS)]
    full = subscribed(*crowd)
    with pytest.raises(ControlError, match="16 subscribers already; expected one of them to send /unsubscribe"):
        full.add(ANN, Subscribe(), 59.0, {})
    assert len(full.add(crowd[3], Subscribe(), 59.0, {})) == MAX_SUBSCRIBERS  # a renewal
    assert len(full.remove(crowd[3], None).add(ANN, Subscribe(), 59.0, {})) == MAX_SUBSCRIBERS
    assert len(full.add(ANN, Subscribe(), EXPIRY_S, {})) == 1


def test_who_asks_for_places_instead_of_names_is_told_everything_again():
    subscribers = subscribed(ANN).add(ANN, Subscribe(10.0, by_place=True), 0.0, {"bypass": True})
    news, _ = subscribers.due(0.0)
    assert news == (News(ANN, True, (Change("bypass", True),)),)


# Errors


def test_the_first_errors_of_a_second_are_answered_and_a_flood_of_them_is_not_even_read():
    patience, answered = Patience(), 0
    for _ in range(MAX_ERRORS):
        assert patience.listens(ANN, 0.5)
        answer, patience = patience.error(ANN, 0.5)
        answered += answer
    assert answered == MAX_ANSWERS and not patience.listens(ANN, 1.49) and patience.listens(BOB, 1.0)
    assert patience.listens(ANN, 1.5) and patience.error(ANN, 1.5)[0]


def test_errors_of_ever_new_senders_do_not_fill_the_memory():
    patience = Patience()
    for port in range(1, 3000):
        _, patience = patience.error(("127.0.0.1", port), 0.0)
    assert len(patience.counts) <= 256 and ("127.0.0.1", 2999) in patience.counts

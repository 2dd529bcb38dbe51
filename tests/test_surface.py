"""The surface's protocol and server: a host in a thread of its own, played by raw WebSockets; and what no page may do."""

import json
import math
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus

import page_stage
import toy_bundle
from page_client import Page
from page_stage import Stage
from sepstream import board as b
from sepstream import contract, disk
from sepstream.control import player
from sepstream.control.presets import Preset
from sepstream.control.scene import Scene
from sepstream.errors import ControlError, DeviceError
from sepstream.selection import Bus, Selection, Strip
from sepstream.surface import page, protocol
from sepstream.surface.address import is_loopback, make_token, qr, reachable, read_endpoint, url
from sepstream.surface.protocol import Edit, Token, Watch
from sepstream.surface.server import Server
from sepstream.surface.watch import Viewer

# Texts and bytes


@pytest.mark.parametrize(
    "text, said",
    [
        ('{"token": "abc"}', Token("abc")),
        ('{"do": [["bus/1/gain_db", -6]], "id": 3}', Edit((("bus/1/gain_db", -6),), 3)),
        ('{"do": [["bus/1/outputs", [1, 2]]]}', Edit((("bus/1/outputs", (1, 2)),))),
        ('{"watch": {"meters": true, "points": true, "bus": "vox"}}', Watch(True, True, "vox")),
        ('{"watch": {}}', Watch()),
    ],
)
def test_a_message_says_one_thing(text: str, said: Any) -> None:
    assert protocol.read(text) == said


@pytest.mark.parametrize(
    "text, why",
    [
        ("", "no JSON"),
        ("[" * 60000, "no JSON"),
        ("7", "expected an object"),
        ("{}", "expected exactly one of"),
        ('{"do": [["a", 1]], "watch": {}}', "expected exactly one of"),
        ('{"don": []}', "message 'don'"),
        ('{"do": 7}', "expected 1 to 64 pairs"),
        ('{"do": []}', "expected 1 to 64 pairs"),
        ('{"do": [["a"]]}', "expected a pair"),
        ('{"do": [[1, 2]]}', "expected a pair"),
        ('{"do": [["a", null]]}', "expected a value"),
        ('{"do": [["a", 1]], "id": -1}', "expected a whole number"),
        ('{"do": [["a", 1]], "id": true}', "expected a whole number"),
        ('{"do": [["bus/1/gain_db", NaN]]}', "NaN is no number"),
        ('{"do": [["bus/1/gain_db", -Infinity]]}', "is no number"),
        ('{"do": [["bus/1/gain_db", 1e999]]}', "beyond all numbers"),
        (f'{{"do": [["bus/1/gain_db", {"9" * 300}]]}}', "no greater than"),
        (f'{{"do": [["bus/1/gain_db", {"9" * 9000}]]}}', "no JSON"),
        ('{"watch": []}', "expected an object"),
        ('{"watch": {"meter": true}}', "did you mean 'meters'"),
        ('{"watch": {"bus": 1}}', "expected the name of a bus"),
        ('{"token": 1}', "expected the text after #"),
        ('{"a": "' + "x" * 70000 + '"}', "expected 65536 at most"),
        (b"\x01", "expected JSON as text"),
    ],
)
def test_any_other_message_is_refused_in_one_line(text: str, why: str) -> None:
    with pytest.raises(ControlError) as refused:
        protocol.read(text)
    assert why in str(refused.value) and "\n" not in str(refused.value) and len(str(refused.value)) < 400


plain = st.none() | st.booleans() | st.floats() | st.text()
anything = st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(st.text() | anything.map(json.dumps))
def test_whatever_comes_is_read_or_refused(text: str) -> None:
    protocol.id_of(text)
    try:
        assert isinstance(protocol.read(text), Token | Edit | Watch)
    except ControlError as error:
        assert "\n" not in str(error)


values = st.dictionaries(st.text(max_size=3), st.integers() | st.lists(st.integers(), max_size=3))


@given(values, values)
def test_a_difference_turns_the_old_into_the_new(old: dict[str, Any], new: dict[str, Any]) -> None:
    news = protocol.difference(old, new)
    assert (news is None) == (old == new)
    if news:
        assert {key: value for key, value in old.items() if key not in news["gone"]} | news["state"] == new


def test_columns_read_back_within_half_a_step() -> None:
    rng = np.random.default_rng(2)
    points, level = rng.uniform(-0.99, 0.99, (3, 2, 7)), rng.uniform(-99, 20, (3, 7))
    mask = rng.uniform(0, 1, (3, 7))
    data = protocol.columns(2**32 + 5, points, level, mask)
    kind, masked, hops, bins, _, first = struct.unpack_from("<BBHHHI", data)
    assert (kind, masked, hops, bins, first) == (protocol.COLUMNS, 1, 3, 7, 5)
    rows = np.frombuffer(data, np.uint8, offset=12).reshape(3, 42)
    np.testing.assert_allclose(np.ascontiguousarray(rows[:, :28]).view("<i2") / 32767, points.reshape(3, -1), atol=0.51 / 32767)
    np.testing.assert_allclose(rows[:, 28:35] * 0.5 - 100.0, level, atol=0.26)
    np.testing.assert_allclose(rows[:, 35:] / 255, mask, atol=0.51 / 255)


def test_a_state_has_every_control_that_the_player_has() -> None:
    """But for the numbers of regions, which it tells as wholes."""
    regions = (("1", disk.Disc(0.1, 0.2, 0.5)), ("2", disk.Lasso(((0, 0), (0.5, 0), (0, 0.5)), soft=0.1)))
    buses = (Bus("vox", protocol_expression("speech & region(1)"), gain_db=-6.0), Bus("b", protocol_expression("mix")))
    playing = player.begin(Preset(Scene(Selection(buses, Strip(), regions))))
    state = page.state(playing, ("a",))
    for name in player.names(playing):
        if not name.startswith("region/"):
            assert state[name] == player.get(playing, name)
    assert state["regions"]["1"] == {"disc": {"x": 0.1, "y": 0.2, "r": 0.5}}
    assert json.loads(protocol.write({"state": state}))["state"]["regions"]["2"]["lasso"]["soft"] == 0.1


def protocol_expression(text: str) -> Any:
    from sepstream.expression import parse  # noqa: PLC0415

    return parse(text)


@pytest.mark.parametrize(
    "text, endpoint", [("", None), ("8765", ("127.0.0.1", 8765)), ("[::1]:80", ("::1", 80)), ("0.0.0.0:1", ("0.0.0.0", 1))]
)
def test_an_address_is_read(text: str, endpoint: Any) -> None:
    assert read_endpoint(text) == endpoint


def test_what_is_no_address_is_refused() -> None:
    for text in ("host:", "127.0.0.1:99999", "a b", "1:2:x"):
        with pytest.raises(DeviceError, match="expected HOST:PORT"):
            read_endpoint(text)
    with pytest.raises(DeviceError, match="no-such-host"):
        Server("no-such-host.invalid", 1)


def test_only_this_machine_is_loopback() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "127.9.9.9")] == [True] * 4
    assert not any(is_loopback(host) for host in ("0.0.0.0", "192.168.1.2", "::", "example.org"))
    assert reachable("10.1.2.3") == "10.1.2.3" and reachable("0.0.0.0") != ""
    assert len({len(line) for line in qr("http://10.1.2.3:8765/#token").splitlines()}) == 1
    assert url("::1", 80, "t") == "http://[::1]:80/#t"


# A host, and pages that play it


@pytest.fixture
def stage(tmp_path: Any, monkeypatch: Any) -> Iterator[Stage]:
    monkeypatch.setenv("SEPSTREAM_PRESETS", str(tmp_path / "presets"))
    with page_stage.stage(tmp_path) as stage:
        yield stage


@pytest.fixture
def locked(tmp_path: Any, monkeypatch: Any) -> Iterator[Stage]:
    monkeypatch.setenv("SEPSTREAM_PRESETS", str(tmp_path / "presets"))
    with page_stage.stage(tmp_path, token=make_token()) as stage:
        yield stage


def page_of(stage: Stage) -> Page:
    return Page(stage.url, stage.session.config.surface_token).begin()


def first_bus(page: Page) -> str:
    return str(page.state["buses"][0])


def test_a_page_learns_all_and_two_stay_in_step(stage: Stage) -> None:
    with page_of(stage) as one, page_of(stage) as two:
        assert one.hello["mode"] == "live" and len(one.hello["table"]) > 30
        assert [each["name"] for each in one.hello["model"]["classes"]] == [c.name for c in stage.host.bundle.classes]
        bus = first_bus(one)
        assert one.do((f"bus/{bus}/gain_db", -6.5), ("bus/1/mute", True)) == ""
        for page_ in (one, two):
            page_.until(f"bus/{bus}/gain_db", -6.5)
            page_.until(f"bus/{bus}/mute", True)
        assert one.state == two.state
        with page_of(stage) as late:
            assert late.state == one.state


def test_a_region_is_drawn_tied_to_a_bus_and_taken_away(stage: Stage) -> None:
    with page_of(stage) as page_:
        shape = {"disc": {"x": 0.5, "y": 0.2, "r": 0.75, "soft": 0.25}}
        assert page_.do(("region/new", shape), ("add/bus", "drawn=region(new)")) == ""
        page_.until("regions", {"new": shape})
        assert page_.state["bus/drawn/select"] == "region(new)"
        assert dict(stage.playing.scene.selection.regions)["new"] == disk.Disc(0.5, 0.2, 0.75, soft=0.25)
        assert "takes nothing else" in page_.do(("remove/region", "new"))
        assert page_.do(("bus/drawn/select", "mix - region(new)"), ("remove/region", "new")) == ""
        page_.until("bus/drawn/select", "mix")
        assert page_.state["regions"] == {}
        assert page_.do(("undo", True)) == ""
        page_.until("bus/drawn/select", "region(new)")


def test_a_message_is_done_as_a_whole_or_not_at_all_and_undone_as_one(stage: Stage) -> None:
    with page_of(stage) as page_:
        before, bus = stage.playing.scene, first_bus(page_)
        assert "unknown bus 'nobody'" in page_.do((f"bus/{bus}/gain_db", -3), ("bus/nobody/mute", True))
        assert stage.playing.scene == before and page_.state["steps"] == {"undo": 0, "redo": 0}
        assert page_.do((f"bus/{bus}/gain_db", -3), (f"bus/{bus}/pan", 0.5), ("master/gain_db", -1)) == ""
        page_.until("steps", {"undo": 1, "redo": 0})
        after = stage.playing.scene
        assert page_.do(("undo", True)) == "" and stage.playing.scene == before
        assert page_.do(("redo", True)) == "" and stage.playing.scene == after
        assert "nothing was taken back" in page_.do(("redo", True))


def test_presets_and_the_ends_of_a_morph(stage: Stage) -> None:
    with page_of(stage) as page_:
        bus = first_bus(page_)
        assert page_.do(("preset/a", ""), ("preset/b", ""), ("morph", 1.0)) == ""
        page_.until("ends", {"a": True, "b": True})
        assert page_.do((f"bus/{bus}/gain_db", -20.0)) == ""  # at B, so B is changed
        assert page_.do(("morph", 0.0)) == ""
        page_.until(f"bus/{bus}/gain_db", 0.0)
        assert page_.do(("morph", 1.0)) == ""
        page_.until(f"bus/{bus}/gain_db", -20.0)
        assert page_.do(("preset/save", "mine")) == ""
        page_.until("preset/load", "mine")
        assert "mine" in page_.state["presets"]


def test_buses_come_and_go_and_change_their_names(stage: Stage) -> None:
    with page_of(stage) as page_:
        names = list(page_.state["buses"])
        assert page_.do(("add/bus", "all=mix"), ("add/bus", "residual"), ("rename/bus", f"{names[0]}=new")) == ""
        page_.until("buses", ["new", *names[1:], "all", "residual"])
        assert page_.do(*(("remove/bus", name) for name in ("residual", "new", *names[1:]))) == ""
        page_.until("buses", ["all"])
        assert f"bus/{names[1]}/gain_db" not in page_.state
        assert "one bus at least" in page_.do(("remove/bus", "all"))
        assert "kept for what the others leave" in page_.do(("rename/bus", "all=residual"))


@pytest.mark.parametrize(
    "steps, why",
    [
        ([("bus/1/gain_db", "loud")], "expected a number"),
        ([("bus/1/gain_db", {})], "expected a number"),
        ([("bus/1/gain_db", [1])], "expected a number"),
        ([("bus/1/mute", 7)], ""),  # clamped, like every number
        ([("bus/1/mute", "yes")], "expected true or false"),
        ([("bus/1/outputs", [0])], "expected 1 to"),
        ([("bus/1/outputs", {"a": 1})], "expected 1 to"),
        ([("bus/1/select", "nobody")], "unknown class 'nobody'"),
        ([("bus/1/select", "(" * 5000)], "expected"),
        ([("bus/1/gian_db", 1)], "did you mean 'bus/1/gain_db'"),
        ([("no such control", 1)], "unknown control"),
        ([("", 1)], "unknown control"),
        ([("region/r", 1)], "expected one shape"),
        ([("region/r", {"disk": {}})], "did you mean 'disc'"),
        ([("region/r", {"disc": {"x": 0, "y": 0}})], "disc"),
        ([("region/r", {"disc": {"x": 9, "y": 0, "r": 1}})], "disc: x 9"),
        ([("region/r", {"lasso": {"points": [[0, 0]] * 1000}})], "lasso: 1000 points"),
        ([("region/r", {"lasso": {"points": [[0, "a"], [1, 1], [0, 1]]}})], "lasso"),
        ([("region/../x", {"disc": {"x": 0, "y": 0, "r": 1}})], "unknown"),
        ([("region/a b", {"disc": {"x": 0, "y": 0, "r": 1}})], "region name 'a b'"),
        ([("preset/load", "../../etc/passwd")], "unknown preset"),
        ([("preset/save", "../x")], "expected 1 to 64 letters"),
        ([("record", True)], "no folder to record to"),
    ],
)
def test_what_cannot_be_is_answered_and_nothing_is_disturbed(stage: Stage, steps: Any, why: str) -> None:
    with page_of(stage) as page_:
        before = stage.playing
        error = page_.do(*steps)
        assert why in error and "\n" not in error and bool(error) == bool(why)
        assert stage.playing == before or not why


def test_nonsense_is_answered_and_a_megabyte_is_refused_unread(stage: Stage) -> None:
    with page_of(stage) as page_:
        for nonsense in ("", "{", b"\x00\x01", '{"do": [["bus/1/gain_db", NaN]]}'):
            page_.say(nonsense)
            assert page_.answer()
        page_.say('{"do": "' + "x" * (1 << 20) + '"}')
        assert "expected 65536 at most" in page_.answer()
        with pytest.raises(ConnectionClosed) as cut:  # while it is still being sent, or after
            page_.say(" " * (1 << 22))
            page_.answer()
        assert cut.value.rcvd is None or cut.value.rcvd.code == 1009  # a reset may be faster than the reason for it
    with page_of(stage) as again:
        assert again.do(("master/gain_db", -1.0)) == ""


def test_a_flood_is_read_slowly_and_others_are_heard_at_once(stage: Stage) -> None:
    with page_of(stage) as flooding, page_of(stage) as calm:
        over = threading.Event()

        def flood() -> None:
            text = json.dumps({"do": [["bus/1/pan", 0.1]] * 64})
            with suppress(OSError, ConnectionClosed):
                while not over.is_set():
                    flooding.say(text)

        thread = threading.Thread(target=flood, daemon=True)
        thread.start()
        for turn in range(20):
            assert calm.do(("master/gain_db", -float(turn))) == ""
        over.set()
        assert stage.playing.scene.master_gain_db == -19.0
        flooding.socket.socket.shutdown(socket.SHUT_RDWR)
        thread.join(30.0)
        assert not thread.is_alive()


def test_a_foreign_page_stays_out(stage: Stage) -> None:
    with pytest.raises(InvalidStatus) as refused:
        Page(stage.url, origin="http://evil.example")
    assert refused.value.response.status_code == 403
    with Page(stage.url, origin=stage.url.rstrip("/")) as page_:
        page_.begin()
    request = urllib.request.Request(stage.url, headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request)


def test_without_the_token_nobody_gets_in_or_hears_anything(locked: Stage) -> None:
    for token in ("wrong", locked.session.config.surface_token + "x"):
        with Page(locked.url, token) as page_, pytest.raises(ConnectionClosed) as refused:
            page_.begin()
        assert refused.value.rcvd is not None and refused.value.rcvd.code == 4401
        assert not page_.state and not page_.hello
    with Page(locked.url) as page_, pytest.raises(ConnectionClosed):
        page_.do(("master/gain_db", -30))
    assert locked.playing.scene.master_gain_db == 0.0
    with page_of(locked) as page_:
        assert page_.do(("master/gain_db", -2)) == ""


def test_the_page_is_whole_and_asks_nobody_else(stage: Stage) -> None:
    with urllib.request.urlopen(stage.url) as answer:
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        text = answer.read().decode()
    assert "<title>sepstream" in text and "http" not in text.replace("http-equiv", "")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(stage.url + "nothing.js")


def test_a_page_hears_of_the_engine_and_of_what_was_said(stage: Stage) -> None:
    with page_of(stage) as page_:
        while not page_.engine:
            page_.hear()
        assert page_.engine["provider"] == "none" and page_.engine["load"] == 0.0
        stage.session.say("test", "a line")
        while ["test", "a line"] not in page_.log:
            page_.hear()
    with page_of(stage) as late:
        while not late.log:
            late.hear()
        assert ["test", "a line"] in late.log


def test_pages_see_hops_and_meters_only_while_they_look(stage: Stage) -> None:
    board, words, bundle = stage.session.board, stage.session.board.words, stage.host.bundle
    bins = bundle.band.bins
    rng = np.random.default_rng(1)
    with page_of(stage) as page_:
        page_.say({"watch": {"meters": True, "points": True, "bus": first_bus(page_)}})
        until(lambda: words[b.VIEW_EVERY] > 0)
        u = rng.normal(0, 1, (2, bins)).astype(np.float32)
        view = board.views(bins)[0]
        view[0], view[1:3], view[3] = 0.5, u, 0.25
        board.view_heads()[0, :3] = 0, 1, stage.host.desk.slots[first_bus(page_)]
        words[b.VIEWED] = 1
        frame = of_kind(page_, protocol.COLUMNS)
        assert frame[1] == 1 and struct.unpack_from("<HH", frame, 2) == (1, bins)
        row = np.frombuffer(frame, np.uint8, offset=12)
        np.testing.assert_allclose(row[: 4 * bins].view("<i2") / 32767, disk.point(u).reshape(-1), atol=2e-5)
        assert set(row[4 * bins : 5 * bins]) == {200} and set(row[5 * bins :]) == {64}
        words[b.BUSES] = 1
        board.area("bus_levels", 1, 2)[0, 0] = 0.25
        while struct.unpack_from("<f", of_kind(page_, protocol.METERS), 4 + 4 * 2)[0] != 0.25:
            pass
    until(lambda: words[b.VIEW_EVERY] == 0)


def of_kind(page_: Page, kind: int) -> bytes:
    while True:
        page_.frames.clear()
        while not page_.frames:
            page_.hear()
        if page_.frames[0][0] == kind:
            return page_.frames[0]


def until(condition: Any) -> None:
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_hops_that_were_overwritten_are_left_out(tmp_path: Any) -> None:
    bundle = contract.load_bundle(toy_bundle.make(tmp_path, hops=(1,)))
    from sepstream.board import Board  # noqa: PLC0415

    board = Board(tmp_path / "board", create=True)
    viewer = Viewer(board, bundle, dict)
    board.words[b.VIEWED] = 1000
    (frames,) = viewer.look([Watch(points=True)])
    assert struct.unpack_from("<H", frames[0], 2)[0] == 32 and struct.unpack_from("<I", frames[0], 8)[0] == 968
    assert viewer.look([Watch(points=True)]) == [[]] and math.isfinite(bundle.sample_rate_hz)

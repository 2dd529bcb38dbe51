"""MIDI without ports: any bytes are harmless, faders never jump, what a controller shows is true, bindings say what is wrong."""

import tomllib
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepstream.control.midi import KINDS, LIMITS, MAX_BYTES, DecoderState, Message, decode, encode, from_unit, to_unit
from sepstream.control.midi_bindings import (
    MAX_BINDINGS,
    VIRTUAL,
    Binding,
    Bindings,
    learn,
    load_bindings,
    read_bindings,
    ready_for,
    write_bindings,
)
from sepstream.control.midi_ports import device, numbered
from sepstream.control.midi_surface import HANDS_OFF_S, Surface, feedback, forget, hear, refit
from sepstream.control.table import TABLE, Change, Value, find
from sepstream.errors import ControlError
from sepstream.paths import data_dir

STEP = 1 / 127  # of 7 bits
FADER, PAN, MUTE = "bus/1/gain_db", "bus/1/pan", "bus/1/mute"
positions = st.floats(0, 1)
shorts = st.integers(0, 127)
whole = st.one_of(  # one channel message
    st.builds(lambda s, a, b: bytes([s, a, b]), st.sampled_from([*range(0x80, 0xC0), *range(0xE0, 0xF0)]), shorts, shorts),
    st.builds(lambda s, a: bytes([s, a]), st.integers(0xC0, 0xDF), shorts),
)
controllers = st.builds(lambda n, v: bytes([0xB0, n, v]), st.sampled_from([6, 38, 96, 97, 98, 99, 100, 101]), shorts)


def messages(*packets: bytes, wide: tuple[int, ...] = ()) -> list[Message]:
    """All that a port's packets say."""
    found: list[Message] = []
    state = DecoderState(frozenset(wide))
    for packet in packets:
        heard, state = decode(packet, state)
        found += heard
    return found


def cc(number: int, raw: int, channel: int = 1) -> Message:
    return messages(bytes([0xB0 | channel - 1, number, raw]))[-1]


def note(number: int, velocity: int, channel: int = 1) -> Message:
    return messages(bytes([0x90 | channel - 1, number, velocity]))[-1]


class Desk:
    """Controls with values, one surface, and a clock: what the host does with this code."""

    def __init__(self, *bindings: Binding, **values: Value) -> None:
        self.bindings, self.surface, self.now = Bindings(bindings), Surface(), 0.0
        self.values: dict[str, Value] = {FADER: 0.0, PAN: 0.0, MUTE: False, "bus/2/mute": False, "panic": False} | values

    def unit(self, name: str) -> float:
        if name not in self.values:
            raise ControlError(f"no control '{name}'")
        return find(name).to_unit(self.values[name])

    def put(self, name: str, unit: float) -> None:
        """From elsewhere: OSC, a preset, another hand."""
        self.values[name] = find(name).from_unit(unit)

    def hear(self, *heard: Message, port: str = "box") -> list[Change]:
        changes: list[Change] = []
        for message in heard:
            new, self.surface = hear(port, message, self.bindings, self.unit, self.surface, now=self.now)
            self.values.update(new)
            changes += new
        return changes

    def show(self) -> list[tuple[str | None, bytes]]:
        sent, self.surface = feedback(self.bindings, self.unit, self.surface, self.now)
        return list(sent)


def fader(**options: Any) -> Binding:
    return Binding(kind="cc", number=7, **({"control": FADER} | options))


# ---- bytes


@given(st.lists(st.binary(max_size=40), max_size=20), st.frozensets(st.integers(0, 31)))
def test_any_bytes_give_messages_or_nothing(packets: list[bytes], wide: frozenset[int]) -> None:
    for message in messages(*packets, wide=tuple(wide)):
        low, high = LIMITS[message.kind]
        assert low <= message.number <= high and 1 <= message.channel <= 16
        assert 0 <= message.value <= 1 and 0 <= message.raw <= message.top
        assert message.kind != "cc14" or message.number in wide


@given(st.lists(whole | controllers, max_size=60), st.frozensets(st.integers(0, 31)))
def test_packets_may_be_cut_between_any_messages(packets: list[bytes], wide: frozenset[int]) -> None:
    assert messages(b"".join(packets), wide=tuple(wide)) == messages(*packets, wide=tuple(wide))


@given(st.lists(whole, max_size=10), st.data())
def test_clock_and_active_sensing_may_stand_anywhere(packets: list[bytes], data: st.DataObject) -> None:
    stream = bytearray(b"".join(packets))
    for at in sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)), reverse=True):
        stream.insert(at, data.draw(st.integers(0xF8, 0xFF)))
    assert messages(bytes(stream)) == messages(*packets)


@given(whole, st.binary(max_size=50).map(lambda b: bytes(byte & 127 for byte in b)))
def test_system_exclusive_is_nobodys_control(packet: bytes, body: bytes) -> None:
    assert messages(b"\xf0" + body + b"\xf7" + packet) == messages(packet)
    assert messages(b"\xf0" + body + b"\xf7" + body) == []


def test_a_packet_of_any_length_costs_no_more_than_the_longest() -> None:
    assert messages(b"\xf0" + bytes(10 * MAX_BYTES) + b"\xb0\x07\x40") == []
    assert len(messages(b"\xb0" + bytes(10 * MAX_BYTES))) == (MAX_BYTES - 1) // 2


@given(st.lists(st.tuples(shorts, shorts), min_size=1, max_size=10))
def test_a_status_holds_for_messages_without_one(pairs: list[tuple[int, int]]) -> None:
    body = bytes(byte for pair in pairs for byte in pair)
    assert messages(b"\xb2" + body) == messages(*(bytes([0xB2, *pair]) for pair in pairs))


@given(st.integers(0, 127) | st.integers(0, 16383), st.sampled_from([127, 16383]))
def test_scaling_has_an_inverse_and_keeps_ends_centre_and_order(raw: int, top: int) -> None:
    raw = min(raw, top)
    assert from_unit(to_unit(raw, top), top) == raw
    assert raw == 0 or to_unit(raw, top) > to_unit(raw - 1, top)
    assert [to_unit(r, top) for r in (0, (top + 1) // 2, top)] == [0.0, 0.5, 1.0]


@given(st.sampled_from(["cc", "cc14", "nrpn", "note", "bend"]), st.integers(1, 16), st.integers(0, 31), positions)
def test_what_is_sent_to_a_controller_decodes_to_the_value(kind: Any, channel: int, number: int, value: float) -> None:
    number = 0 if kind == "bend" else number
    found = [m for m in messages(*encode(kind, channel, number, value), wide=(number,)) if m.kind == kind]
    assert (found[-1].channel, found[-1].number) == (channel, number)
    assert abs(found[-1].value - value) <= 0.51 * (STEP if kind in ("cc", "note") else 1 / 16383)


def test_notes_programs_pressure_and_bend() -> None:
    assert messages(b"\x90\x3c\x40")[0][:4] == ("note", 1, 60, 0.5)
    assert messages(b"\x90\x3c\x00") == messages(b"\x80\x3c\x40"), "velocity 0 is a note off"
    assert messages(b"\xc9\x00")[0][:4] == ("program", 10, 1, 1.0), "programs count from 1"
    assert messages(b"\xd0\x7f")[0][:4] == ("pressure", 1, 0, 1.0)
    assert [m.value for m in messages(b"\xe0\x00\x00", b"\xe0\x00\x40", b"\xe0\x7f\x7f")] == [0.0, 0.5, 1.0]
    assert messages(b"\xa0\x3c\x40") == [], "polyphonic pressure is not used"


def test_14_bits_only_where_they_are_declared() -> None:
    pair = b"\xb0\x07\x40", b"\xb0\x27\x00"
    assert {m.kind for m in messages(*pair)} == {"cc"}
    assert [m.raw for m in messages(*pair, wide=(7,)) if m.kind == "cc14"] == [64, 8192]
    assert [m.kind for m in messages(b"\xb0\x27\x00", wide=(7,))] == ["cc"], "a lower half alone says nothing"


@given(st.integers(0, 16383), st.integers(0, 16383))
def test_the_upper_half_alone_is_never_further_off_than_a_lower_half_can_be(before: int, after: int) -> None:
    packets = [bytes([0xB0, n, v]) for raw in (before, after) for n, v in ((7, raw >> 7), (39, raw & 127))]
    coarse, fine = [m for m in messages(*packets, wide=(7,)) if m.kind == "cc14"][-2:]
    assert fine.raw == after and abs(coarse.value - fine.value) < 1.01 / 128


def nrpn(*pairs: tuple[int, int]) -> list[Message]:
    return [m for m in messages(*(bytes([0xB0, *pair]) for pair in pairs)) if m.kind == "nrpn"]


def test_nrpn_values_of_one_and_of_two_halves() -> None:
    select = (99, 2), (98, 44)  # 300
    assert [(m.number, m.raw, m.top) for m in nrpn(*select, (6, 127))] == [(300, 127, 127)]
    assert [(m.number, m.raw) for m in nrpn(*select, (6, 64), (38, 1))] == [(300, 64), (300, 8193)]
    assert nrpn(*select, (38, 1)) == [] == nrpn((99, 2), (6, 1)) == nrpn((99, 127), (98, 127), (6, 1))
    assert nrpn(*select, (101, 0), (100, 0), (6, 1)) == [], "a registered parameter is none of ours"
    assert [m.number for m in nrpn(*select, (6, 1), (98, 45), (6, 1))] == [300, 301]


def test_nrpn_data_belongs_to_its_parameter() -> None:
    select, data = ((99, 2), (98, 44)), ((6, 64), (38, 1))
    assert nrpn(*select, *data, *select, (6, 64))[-1].raw == 8193, "selected again, it is as it was"
    assert nrpn(*select, *data, (6, 65))[-1].raw == 65 << 7, "a new upper half starts at 0"
    for other in ((99, 3), (98, 45)):
        assert nrpn(*select, *data, other, (6, 64))[-1][4:6] == (64, 127)


def test_nrpn_increments_say_a_direction() -> None:
    assert [(m.number, m.step) for m in nrpn((99, 0), (98, 5), (96, 0), (97, 0), (96, 127))] == [(5, 1), (5, -1), (5, 1)]
    assert nrpn((96, 0)) == [], "of no parameter"


@given(controllers)
def test_knobs_on_the_numbers_of_nrpn_work_as_well(packet: bytes) -> None:
    selected = [b"\xb0\x63\x01", b"\xb0\x62\x01"]
    assert messages(*selected, packet)[-1] == messages(packet)[-1] == Message("cc", 1, *messages(packet)[-1][2:])


# ---- hands


moves = st.lists(st.tuples(st.sampled_from(["hand", "else"]), positions), max_size=40)


@given(moves, st.booleans(), positions)
def test_a_fader_never_jumps_and_then_leads(actions: list[tuple[str, float]], upside_down: bool, start: float) -> None:
    desk = Desk(fader(low=float(upside_down), high=float(not upside_down)))
    desk.put(FADER, start)
    at, led = None, False
    for who, place in actions:
        before = desk.unit(FADER)
        if who == "else":
            desk.put(FADER, place)
            led = led and abs(desk.unit(FADER) - before) < 1e-6
            continue
        message = cc(7, from_unit(place, 127))
        stands = 1 - message.value if upside_down else message.value
        desk.hear(message)
        now = desk.unit(FADER)
        assert abs(now - before) <= max(0 if at is None else abs(stands - at), STEP) + 1e-6, "jumped"
        if led:
            assert now == pytest.approx(stands, abs=1e-9), "what it holds follows it"
        at, led = stands, abs(now - stands) < 1e-9


@given(positions, st.sampled_from([1, 2, 5, 17, 127]))
def test_a_fader_moved_from_end_to_end_has_taken_over(start: float, stride: int) -> None:
    desk = Desk(fader())
    desk.put(FADER, start)
    desk.hear(*(cc(7, raw) for raw in (*range(0, 127, stride), 127)))
    assert desk.unit(FADER) == 1.0
    desk.hear(cc(7, 3))
    assert desk.unit(FADER) == pytest.approx(to_unit(3, 127)), "and a fast hand is followed"


def test_a_fader_need_only_come_within_a_step() -> None:
    desk = Desk(fader())
    desk.put(FADER, 0.5 + 0.9 * STEP)
    desk.hear(cc(7, 10), cc(7, 60))
    assert desk.unit(FADER) > 0.5
    desk.hear(cc(7, 64))
    assert desk.unit(FADER) == pytest.approx(0.5)


@pytest.mark.parametrize("name", [row.name for row in TABLE if row.kind == "number"])
def test_what_a_fader_holds_it_keeps_on_every_curve(name: str) -> None:
    name = name.replace("{bus}", "1").replace("{region}", "eye").replace("{target}", "drums").replace("{class}", "bass")
    desk = Desk(fader(control=name), **{name: find(name).default})
    desk.hear(cc(7, 0), cc(7, 127))
    for raw in range(1, 127):
        desk.hear(cc(7, raw))
        assert desk.unit(name) == pytest.approx(to_unit(raw, 127))
        desk.hear(cc(7, 127 * (raw % 2)))
        assert desk.unit(name) == raw % 2


def test_a_value_beyond_the_faders_reach_is_met_at_its_end() -> None:
    desk = Desk(fader(low=0.25, high=0.75))
    desk.put(FADER, 0.9)
    assert desk.hear(cc(7, 100)) == []
    assert desk.hear(cc(7, 127)) and desk.unit(FADER) == 0.75


def test_two_faders_on_one_control_take_it_from_each_other_without_a_jump() -> None:
    desk = Desk(fader())
    desk.put(FADER, 0.5)
    desk.hear(cc(7, 64), port="left")
    desk.hear(cc(7, 127), port="right")
    assert desk.unit(FADER) == 0.5, "the right one stands elsewhere"
    desk.hear(cc(7, 90), port="left")
    taken = desk.unit(FADER)
    desk.hear(cc(7, 100), port="right")
    assert desk.unit(FADER) == taken > 0.5
    desk.hear(cc(7, 80), port="right")
    assert desk.unit(FADER) < taken, "it crossed"


def test_without_pickup_and_on_switches_the_position_counts_at_once() -> None:
    desk = Desk(fader(pickup=False), Binding(kind="cc", number=8, control=MUTE))
    assert [change.name for change in desk.hear(cc(7, 3), cc(8, 127))] == [FADER, MUTE]
    assert desk.values[MUTE] is True
    assert desk.hear(cc(8, 0)) == [Change(MUTE, False)]


def test_a_knob_at_its_centre_is_at_the_centre() -> None:
    desk = Desk(fader(control=PAN))
    assert desk.hear(cc(7, 64)) == [Change(PAN, 0.0)]


def test_a_toggle_follows_what_the_control_is_by_now() -> None:
    desk = Desk(Binding(kind="note", number=60, control=MUTE, mode="toggle"))
    assert desk.hear(note(60, 1), note(60, 0)) == [Change(MUTE, True)]
    desk.put(MUTE, 0.0)  # somewhere else
    assert desk.hear(note(60, 127), note(60, 0), note(60, 64)) == [Change(MUTE, True), Change(MUTE, False)]


@pytest.mark.parametrize(
    ("raws", "flips"),
    [([127, 0, 127, 0], 2), ([127, 127, 127], 3), ([*range(128), *range(126, -1, -1)], 1), ([63], 0)],
    ids=["button", "pedal that only goes down", "fader", "not far enough"],
)
def test_presses_of_controllers(raws: list[int], flips: int) -> None:
    desk = Desk(fader(control=MUTE, mode="toggle"))
    assert len(desk.hear(*(cc(7, raw) for raw in raws))) == flips


def test_each_note_is_a_press_whatever_its_velocity() -> None:
    desk = Desk(Binding(kind="note", number=60, control=MUTE, mode="toggle"))
    assert len(desk.hear(note(60, 10), note(60, 20), note(60, 20))) == 3


def test_a_toggle_of_a_number_goes_between_its_ends() -> None:
    desk = Desk(fader(mode="toggle", low=0.25, high=0.75))
    values = [change.value for change in desk.hear(*(cc(7, raw) for raw in (127, 0) * 3))]
    assert values == [-30.0, 0.0, -30.0]


def test_momentary_holds_and_lets_go_once_each() -> None:
    desk = Desk(Binding(kind="note", number=60, control=MUTE, mode="momentary"))
    assert desk.hear(note(60, 0)) == [], "never pressed"
    assert desk.hear(note(60, 9), note(60, 99), note(60, 0), note(60, 0)) == [Change(MUTE, True), Change(MUTE, False)]


def test_a_press_sets_its_value_as_the_control_takes_it() -> None:
    desk = Desk(Binding(kind="program", number=3, control="preset/load", mode="set", value="voice"), fader(mode="set", value=-6))
    assert desk.hear(messages(b"\xc0\x02")[0], messages(b"\xc0\x02")[0]) == [Change("preset/load", "voice")] * 2
    assert desk.hear(cc(7, 127), cc(7, 0)) == [Change(FADER, -6.0)]


@pytest.mark.parametrize(("encoder", "up", "down"), [("complement", 3, 125), ("offset", 67, 61), ("sign", 3, 67)])
def test_endless_encoders_count_in_three_ways(encoder: Any, up: int, down: int) -> None:
    desk = Desk(fader(mode="relative", encoder=encoder, step=0.01))
    desk.put(FADER, 0.5)
    desk.hear(cc(7, up))
    assert desk.unit(FADER) == pytest.approx(0.53)
    desk.hear(cc(7, down), cc(7, down))
    assert desk.unit(FADER) == pytest.approx(0.47)
    assert desk.hear(cc(7, 64 if encoder == "offset" else 0)) == []


def test_an_encoder_may_be_upside_down() -> None:
    desk = Desk(fader(mode="relative", low=1.0, high=0.0, step=0.01))
    desk.put(FADER, 0.5)
    desk.hear(cc(7, 3))
    assert desk.unit(FADER) == pytest.approx(0.47)


@given(st.lists(shorts, max_size=30), positions, st.tuples(positions, positions))
def test_an_encoder_goes_step_by_step_within_its_reach(raws: list[int], start: float, ends: tuple[float, float]) -> None:
    desk = Desk(fader(mode="relative", low=ends[0], high=ends[1], step=1 / 128))
    desk.put(FADER, start)
    low, high = min(*ends, start), max(*ends, start)
    for raw in raws:
        before = desk.unit(FADER)
        desk.hear(cc(7, raw))
        assert abs(desk.unit(FADER) - before) <= 64 / 128 + 1e-9
        assert low - 1e-9 <= desk.unit(FADER) <= high + 1e-9


def test_an_encoder_turns_a_switch_on_and_off() -> None:
    desk = Desk(fader(control=MUTE, mode="relative"))
    assert desk.hear(cc(7, 1), cc(7, 127)) == [Change(MUTE, True), Change(MUTE, False)]


def test_nrpn_steps_move_from_where_the_control_is() -> None:
    desk = Desk(Binding(kind="nrpn", number=5, control=FADER))
    desk.put(FADER, 0.5)
    desk.hear(*nrpn((99, 0), (98, 5), (96, 0), (96, 0), (97, 0)))
    assert desk.unit(FADER) == pytest.approx(0.5 + 1 / 128)


def test_port_and_channel_choose_and_hand_made_connections_are_meant() -> None:
    desk = Desk(fader(control=MUTE, mode="toggle", port="Nano", channel=3))
    assert not desk.hear(cc(7, 127, channel=3), port="MIDI Mix 24:0")
    assert not desk.hear(cc(7, 127, channel=4), port="nanoKONTROL2 20:0")
    assert desk.hear(cc(7, 127, channel=3), port="nanoKONTROL2 20:0")
    assert desk.hear(cc(7, 127, channel=3), port=VIRTUAL)


def test_a_bus_that_the_preset_lacks_is_no_error() -> None:
    desk = Desk(fader(control="bus/9/gain_db"), fader(control=MUTE, mode="toggle"))
    assert desk.hear(cc(7, 127)) == [Change(MUTE, True)]


any_message = st.one_of(
    st.builds(cc, st.sampled_from([6, 7]), shorts), st.builds(note, st.just(60), shorts),
    st.lists(controllers, max_size=6).map(lambda packets: (messages(*packets) or [cc(7, 0)])[-1]),
)  # fmt: skip


@given(st.lists(any_message, max_size=30), st.data())
def test_any_message_with_any_binding_gives_values_that_the_control_accepts(heard: list[Message], data: st.DataObject) -> None:
    desk = Desk(*data.draw(st.lists(bindings, max_size=6)))
    desk.values |= {b.control: find(b.control).default for b in desk.bindings}
    for change in desk.hear(*heard):
        assert find(change.name).accept(change.value) == change.value


# ---- what controllers show


def panel(sent: list[tuple[str | None, bytes]], shown: dict[tuple[str, int], float]) -> None:
    """A controller takes what it was sent."""
    for message in messages(*(data for _, data in sent), wide=(7,)):
        shown[message.kind, message.number] = message.value


@given(
    st.lists(st.tuples(st.sampled_from(["hand", "else", "wait"]), positions), max_size=30),
    st.sampled_from(["cc", "cc14", "bend"]),
)
def test_a_motor_fader_ends_where_the_value_is_and_never_fights_the_hand(actions: list[tuple[str, float]], kind: Any) -> None:
    desk, number = Desk(), 0 if kind == "bend" else 7
    desk.bindings = Bindings((Binding(kind=kind, number=number, control=FADER, pickup=False),))
    shown: dict[tuple[str, int], float] = {}
    for who, place in actions:
        moved = who == "hand"
        if moved:
            heard = [m for m in messages(*encode(kind, 1, number, place), wide=(7,)) if m.kind == kind]
            desk.hear(*heard)
            shown[kind, number] = heard[-1].value
        elif who == "else":
            desk.put(FADER, place)
        else:
            desk.now += HANDS_OFF_S * place
        sent = desk.show()
        assert not (moved and sent), "an echo"
        panel(sent, shown)
    desk.now += HANDS_OFF_S
    panel(desk.show(), shown)
    assert shown[kind, number] == pytest.approx(desk.unit(FADER), abs=0.51 * (STEP if kind == "cc" else 1 / 16383) + 1e-6)
    assert desk.show() == [], "nothing is said twice"


def test_lights_show_the_state_in_their_colour_and_answer_a_press_at_once() -> None:
    pad = Binding(kind="note", number=60, channel=9, port="pads", control=MUTE, mode="toggle", lit=60)
    desk = Desk(pad)
    assert desk.show() == [("pads", b"\x98\x3c\x00")]
    desk.hear(note(60, 127, channel=9), port=VIRTUAL)
    assert desk.show() == [("pads", b"\x98\x3c\x3c")]
    desk.hear(note(60, 0, channel=9), port=VIRTUAL)
    assert desk.show() == [("pads", b"\x98\x3c\x3c")], "a button that put out its own light is told again"
    assert desk.show() == []


def test_a_light_of_a_value_is_on_while_it_holds() -> None:
    desk = Desk(fader(mode="set", value=-6.0), Binding(kind="note", number=1, control="preset/load", mode="set", value="voice"))
    assert desk.show() == [(None, b"\xb0\x07\x00")], "what is only done shows nothing"
    desk.hear(cc(7, 127))
    assert desk.show() == [(None, b"\xb0\x07\x7f")]
    desk.put(FADER, 0.1)
    assert desk.show() == [(None, b"\xb0\x07\x00")]


def test_a_bus_that_is_not_there_is_dark_and_lights_when_it_comes() -> None:
    desk = Desk(Binding(kind="note", number=1, control="bus/9/mute", mode="toggle"))
    assert desk.show() == [(None, b"\x90\x01\x00")]
    desk.values["bus/9/mute"] = True
    assert desk.show() == [(None, b"\x90\x01\x7f")]


def test_a_controller_that_was_plugged_in_is_told_everything_and_without_feedback_nothing() -> None:
    desk = Desk(fader(), Binding(kind="note", number=1, control=MUTE, mode="toggle", feedback=False))
    first = desk.show()
    assert len(first) == 1 and desk.show() == []
    desk.surface = forget(desk.surface)
    assert desk.show() == first


def test_an_endless_encoders_ring_follows_when_the_hand_has_left() -> None:
    desk = Desk(fader(mode="relative"))
    desk.put(FADER, 0.0)
    desk.show()
    desk.hear(cc(7, 63))
    assert desk.show() == []
    desk.now += HANDS_OFF_S
    assert desk.show() == [(None, bytes([0xB0, 7, from_unit(desk.unit(FADER), 127)]))]


def test_other_bindings_leave_the_hands_that_stay() -> None:
    stays, goes = fader(), fader(control=PAN)
    desk = Desk(stays, goes)
    desk.put(FADER, to_unit(50, 127))
    desk.hear(cc(7, 50))
    desk.show()
    desk.surface = refit(desk.surface, Bindings((stays,)))
    assert {binding for binding, _ in desk.surface.hands} == {stays} == set(desk.surface.shown)
    desk.bindings = Bindings((stays,))
    desk.hear(cc(7, 120))
    assert desk.unit(FADER) == pytest.approx(to_unit(120, 127)), "still held"


# ---- learn


@pytest.mark.parametrize(
    ("packets", "control", "kind", "number", "mode"),
    [
        ([b"\xb2\x07\x10"], FADER, "cc", 7, "absolute"),
        ([b"\xb2\x07\x7f"], MUTE, "cc", 7, "toggle"),
        ([b"\x82\x3c\x00", b"\x92\x3c\x10"], MUTE, "note", 60, "toggle"),
        ([b"\xb2\x63\x01", b"\xb2\x62\x02", b"\xb2\x06\x10"], FADER, "nrpn", 130, "absolute"),
        ([b"\xb2\x63\x01", b"\xb2\x62\x02", b"\xb2\x60\x00"], FADER, "nrpn", 130, "relative"),
        ([b"\xe2\x00\x10"], PAN, "bend", 0, "absolute"),
        ([b"\xd2\x10"], PAN, "pressure", 0, "absolute"),
        ([b"\xc2\x10"], MUTE, "program", 17, "toggle"),
    ],
)
def test_the_next_thing_that_moves_is_learnt(packets: list[bytes], control: str, kind: str, number: int, mode: str) -> None:
    learnt = [found for message in messages(*packets) if (found := learn("box", message, control))]
    expected = {"kind": kind, "number": number, "mode": mode, "channel": 3, "port": "box", "control": control}
    assert {name: getattr(learnt[0], name) for name in expected} == expected
    assert read_bindings(write_bindings(Bindings((learnt[0],)))) == Bindings((learnt[0],))


def test_letting_go_is_not_learnt() -> None:
    assert learn(None, note(60, 0), MUTE) is None


def test_one_knob_and_one_control_after_learning() -> None:
    other = Binding(kind="cc", number=9, control=PAN)
    old = Bindings((fader(channel=1), Binding(kind="cc", number=8, control=MUTE), other))
    new = learn(None, cc(7, 1), MUTE)
    assert new and old.learned(new).all == (other, new)


def test_what_has_no_position_cannot_be_learnt() -> None:
    with pytest.raises(ControlError, match="has no position; expected value"):
        learn(None, cc(7, 1), "preset/load")


# ---- bindings


CONTROLS = [FADER, PAN, MUTE, "master/gain_db", "morph", "bypass", "region/eye/x"]


@st.composite
def any_binding(draw: st.DrawFn) -> Binding:
    kind = draw(st.sampled_from(KINDS))
    modes = {"cc": ["relative"], "nrpn": ["relative"]}.get(kind, []) + (["absolute"] if kind != "program" else [])
    setting = draw(st.booleans())
    control = draw(st.sampled_from([*CONTROLS, "preset/load", "bus/1/outputs"] if setting else CONTROLS))
    values: dict[str, Value] = {"text": "a b", "action": 'vo"ice', "channels": (1, 4), "number": 0.5, "switch": True}
    return Binding(
        kind=kind,
        number=draw(st.integers(*LIMITS[kind])),
        control=control,
        channel=draw(st.none() | st.integers(1, 16)),
        port=draw(st.none() | st.text(min_size=1, max_size=20)),
        mode="set" if setting else draw(st.sampled_from([*modes, "toggle", "momentary"])),
        value=values[find(control).kind] if setting else None,
        low=draw(positions),
        high=draw(positions),
        encoder=draw(st.sampled_from(["complement", "offset", "sign"])),
        step=draw(positions),
        pickup=draw(st.booleans()),
        feedback=draw(st.booleans()),
        lit=draw(st.integers(1, 127)),
    )


bindings = any_binding()


@given(st.lists(bindings, max_size=8))
def test_bindings_come_back_as_they_were_written(all: list[Binding]) -> None:
    assert read_bindings(write_bindings(Bindings(tuple(all)))) == Bindings(tuple(all))


def test_each_option_can_be_written() -> None:
    plain, other = fader(), replace(fader(), channel=2, port="x", low=0.1, high=0.2, encoder="sign", step=0.1, pickup=False)
    other = replace(other, feedback=False, lit=3, mode="momentary")
    written = write_bindings(Bindings((plain, other)))["bind"]
    assert isinstance(written, list) and written[0] == {"cc": 7, "control": FADER}
    assert {"kind", "number", "value", *written[1]} - {"cc"} == {f.name for f in fields(Binding)}


def test_what_holds_for_all_and_programs() -> None:
    text = """
        [midi]
        port = "nano"
        channel = 2
        programs = ["karaoke", "voice"]
        [[midi.bind]]
        note = 60
        channel = 3
        control = "bus/1/mute"
        [[midi.bind]]
        cc = 1
        control = "panic"
        value = true
    """
    found = read_bindings(tomllib.loads(text)["midi"])
    assert [(b.kind, b.number, b.channel, b.port, b.mode, b.value) for b in found] == [
        ("note", 60, 3, "nano", "toggle", None),
        ("cc", 1, 2, "nano", "set", True),
        ("program", 1, 2, "nano", "set", "karaoke"),
        ("program", 2, 2, "nano", "set", "voice"),
    ]


def bind(**row: object) -> dict[str, object]:
    return {"bind": [{"cc": 7, "control": FADER}, {"control": FADER} | row]}


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"bnid": []}, "midi: unknown key 'bnid'; did you mean 'bind'?"),
        (bind(cc=1, contorl=1), "midi: binding 2: unknown key 'contorl'; did you mean 'control'?"),
        (bind(cc=1, control="bus/1/gain"), "unknown control 'bus/1/gain'; did you mean 'bus/1/gain_db'?"),
        (bind(cc=1, mode="togle"), "mode 'togle'; did you mean 'toggle'?"),
        (bind(cc=1, mode="relative", encoder="ofset"), "encoder 'ofset'; did you mean 'offset'?"),
        (bind(), "no source; expected one of cc, cc14"),
        (bind(cc=1, note=1), "cc and note; expected one of"),
        (bind(cc=128), "cc 128; expected a whole number from 0 to 127"),
        (bind(cc=True), "cc True; expected a whole number"),
        (bind(cc14=32), "cc14 32; expected a whole number from 0 to 31"),
        (bind(program=0), "program 0; expected a whole number from 1 to 128"),
        (bind(bend=1), "bend 1; expected true"),
        (bind(cc=1, channel=0), "channel 0; expected a whole number from 1 to 16"),
        (bind(cc=1, port=""), "port ''; expected a part of a port's name"),
        (bind(cc=1, low=float("nan")), "low nan; expected a number from 0 to 1"),
        (bind(cc=1, pickup=1), "pickup 1; expected true or false"),
        (bind(cc=1, lit=0), "lit 0; expected a whole number from 1 to 127"),
        (bind(cc=1, control=3), "control 3; expected a name such as"),
        (bind(cc=1, control="preset/load"), "'preset/load' has no position; expected value ="),
        (bind(cc=1, value=99), "bus/1/gain_db 99; expected a number from"),
        (bind(cc=1, mode="set"), "value is missing; expected the value to set"),
        (bind(cc=1, mode="toggle", value=1), "a value with mode 'toggle'; expected mode = \"set\""),
        (bind(note=1, mode="relative"), "mode 'relative' of a note; expected a cc or nrpn"),
        (bind(program=1, mode="absolute"), "mode 'absolute' of a program; expected toggle or set"),
        ({"bind": [3]}, "midi: binding 1: 3; expected a table such as"),
        ({"bind": {}}, "midi: bind {}; expected a list"),
        ({"bind": [{"cc": 1}] * (MAX_BINDINGS + 1)}, "expected a list of 1024 at most"),
        ({"bind": [{"cc": 1}]}, "control is missing"),
        ({"programs": ["karaoke", 3]}, "midi: program 2: preset/load 3; expected a text"),
        ({"programs": ["x"] * 129}, "midi: program 129: program 129; expected a whole number from 1 to 128"),
    ],
)
def test_an_error_says_which_binding_and_what_was_expected(table: dict[str, object], says: str) -> None:
    with pytest.raises(ControlError) as caught:
        read_bindings(table)
    assert says in str(caught.value) and "\n" not in str(caught.value)


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([FADER, "set", "toggle"])
trees = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2))
keys = st.sampled_from([*KINDS, *(f.name for f in fields(Binding)), "bnd"])
nearly = {"mode": trees, "value": trees, "port": trees}
rows = st.dictionaries(keys, trees, max_size=5) | st.fixed_dictionaries(
    {"cc": shorts, "control": st.just(FADER)}, optional=nearly
)


@given(st.fixed_dictionaries({}, optional={"bind": st.lists(rows, max_size=3) | trees, "programs": trees, "channel": trees}))
def test_any_table_gives_bindings_or_one_line(table: dict[str, Any]) -> None:
    try:
        read = read_bindings(table)
    except ControlError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000
    else:
        assert read_bindings(write_bindings(read)) == read


READY = sorted(path.stem for path in (data_dir("presets") / "midi").glob("*.toml"))


@pytest.mark.parametrize("name", READY)
def test_ready_bindings_load_and_name_presets_that_are_shipped(name: str) -> None:
    ready = load_bindings(name)
    assert {FADER, "bus/1/mute", "bus/1/solo", "bus/1/pan", "master/gain_db", "bypass"} <= {b.control for b in ready}
    sources = [b.source for b in ready]
    assert len(sources) == len(set(sources)), "one knob, one control"
    for binding in ready:
        assert binding.control != "preset/load" or (data_dir("presets") / f"{binding.value}.toml").is_file()


def test_all_the_controllers_we_promise_are_there() -> None:
    assert {"nanokontrol2", "midimix", "launchcontrol-xl", "keyboard"} <= set(READY)


@pytest.mark.parametrize(
    ("port", "name"),
    [
        ("nanoKONTROL2:nanoKONTROL2 nanoKONTROL2 _ CTRL 20:0", "nanokontrol2"),
        ("MIDI Mix:MIDI Mix MIDI 1 24:0", "midimix"),
        ("Launch Control XL 0", "launchcontrol-xl"),
    ],
)
def test_a_known_controller_gets_its_bindings_by_its_ports_name(port: str, name: str) -> None:
    assert ready_for(port) == load_bindings(name)
    assert ready_for("Some Synth 28:0") == Bindings()


def test_files_of_bindings_that_cannot_be_read(tmp_path: Any) -> None:
    def says(name: str) -> str:
        with pytest.raises(ControlError) as caught:
            load_bindings(name)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    file = tmp_path / "mine.toml"
    assert "did you mean 'midimix'?" in says("midimx")
    assert "cannot be read: No such file" in says(str(file))
    write: Callable[[bytes], int] = file.write_bytes
    for data, expected in [
        (b"[midi", "not TOML"),
        (b"\xff", "not TOML"),
        (b"x = 1", "expected a table [midi]"),
        (b"#" * (1 << 21), "expected a table [midi], and"),
        (b"[midi]\nbind = [{cc = 1}]", "mine.toml': midi: binding 1: control is missing"),
    ]:
        write(data)
        assert expected in says(str(file))
    write(b'[midi]\nbind = [{cc = 1, control = "bypass"}]')
    assert load_bindings(str(file)).plus(load_bindings(str(file))) == load_bindings(str(file))


# ---- names of ports


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nanoKONTROL2:nanoKONTROL2 nanoKONTROL2 _ CTRL 20:0", "nanoKONTROL2"),  # ALSA
        ("MIDI Mix:MIDI Mix MIDI 1 24:0", "MIDI Mix"),
        ("nanoKONTROL2 SLIDER/KNOB", "nanoKONTROL2"),  # CoreMIDI, input
        ("nanoKONTROL2 CTRL", "nanoKONTROL2"),  # CoreMIDI, output
        ("nanoKONTROL2 1", "nanoKONTROL2"),  # Windows
        ("MIDIIN2 (Launch Control XL)", "Launch Control XL"),
        ("MIDIOUT2 (Launch Control XL)", "Launch Control XL"),
        ("a2j:nanoKONTROL2 [20] (capture): nanoKONTROL2 MIDI 1", "nanoKONTROL2"),  # JACK
        ("a2j:nanoKONTROL2 [20] (playback): nanoKONTROL2 MIDI 1", "nanoKONTROL2"),
        ("Midi-Bridge:nanoKONTROL2:(capture_0) nanoKONTROL2 nanoKONTROL2 _ CTRL", "nanoKONTROL2"),
        ("system:midi_capture_2", "system:midi_capture_2"),
        ("system:midi_playback_2", "system:midi_capture_2"),
        ("MIDI Mix #2", "MIDI Mix"),
        ("7", "7"),
    ],
)
def test_the_device_in_a_ports_name(name: str, expected: str) -> None:
    assert device(name) == expected
    assert "OUT" in name or "playback" in name or fader(port=device(name)).hears(name, 1), "what was learnt is heard again"


def test_twins_are_told_apart_and_ours_are_left_out() -> None:
    listed = ["box", "sepstream-midi-out:midi_out", "box", "other", "box"]
    assert numbered(listed) == {"box": 0, "box #2": 2, "other": 3, "box #3": 4}

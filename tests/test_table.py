"""The table of controls: values go in and out of faders without loss, strangers are refused by name, the page is current."""

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepstream.control.reference import page
from sepstream.control.table import TABLE, Change, Control, find, parse_set
from sepstream.errors import ControlError
from sepstream.paths import data_dir
from sepstream.selection import Strip

NUMBERS = [row for row in TABLE if row.kind == "number"]
FADERS = [row for row in TABLE if row.kind in ("number", "switch")]
units = st.floats(0, 1)


def by_name(row: Control) -> str:
    return row.name


def concrete(row: Control) -> str:
    return row.name.replace("{bus}", "drums").replace("{region}", "1").replace("{target}", "drums").replace("{class}", "bass")


def refusal(what: Any, *arguments: Any) -> str:
    with pytest.raises(ControlError) as refused:
        what(*arguments)
    message = str(refused.value)
    assert message and "\n" not in message and len(message) < 700
    return message


# Faders.


@pytest.mark.parametrize("row", NUMBERS, ids=by_name)
@given(unit=units)
def test_a_fader_comes_back_to_where_it_was(row: Control, unit: float) -> None:
    assert row.to_unit(row.from_unit(unit)) == pytest.approx(unit, abs=1e-12)


@pytest.mark.parametrize("row", NUMBERS, ids=by_name)
@given(unit=units)
def test_every_value_of_a_fader_is_accepted_as_it_is(row: Control, unit: float) -> None:
    value = row.from_unit(unit)
    assert row.accept(value) == value
    assert row.from_unit(row.to_unit(value)) == pytest.approx(value, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("row", NUMBERS, ids=by_name)
@given(one=units, two=units)
def test_a_fader_that_goes_up_never_goes_down(row: Control, one: float, two: float) -> None:
    low, high = (row.from_unit(unit) for unit in sorted((one, two)))
    assert low <= high
    assert row.to_unit(low) <= row.to_unit(high)


@pytest.mark.parametrize("row", NUMBERS, ids=by_name)
def test_the_ends_of_a_fader_are_exact_and_what_lies_beyond_stands_there(row: Control) -> None:
    assert (row.from_unit(0.0), row.from_unit(1.0)) == row.ends
    assert (row.from_unit(-1.0), row.from_unit(2.0)) == row.ends
    assert (row.to_unit(row.low), row.to_unit(row.high)) == (0.0, 1.0)
    assert row.low <= row.ends[0] < row.ends[1] <= row.high


def test_a_level_fader_is_a_mixing_desks() -> None:
    gain = find("bus/drums/gain_db")
    assert [gain.from_unit(u) for u in (0.0, 0.25, 0.5, 0.75, 1.0)] == [-90.0, -30.0, -10.0, 0.0, 12.0]
    assert Strip(gain_db=gain.from_unit(0.0)).fader == 0.0  # type: ignore[arg-type]


def test_knobs_stand_in_the_middle_where_one_expects_it() -> None:
    for name in ("bus/a/pan", "region/1/x", "region/1/angle", "region/1/offset"):
        assert find(name).from_unit(0.5) == 0.0


def test_a_switch_is_on_from_the_middle() -> None:
    mute = find("bus/drums/mute")
    assert [mute.from_unit(u) for u in (0.0, 0.49, 0.5, 1.0)] == [False, False, True, True]
    assert (mute.to_unit(False), mute.to_unit(True)) == (0.0, 1.0)


@pytest.mark.parametrize("row", [row for row in TABLE if row not in FADERS], ids=by_name)
def test_what_is_no_number_has_no_fader(row: Control) -> None:
    assert f"{row.name} is a" in refusal(row.to_unit, row.default)
    assert f"{row.name} is a" in refusal(row.from_unit, 0.5)


@pytest.mark.parametrize("row", NUMBERS, ids=by_name)
@given(a=units, b=units, shares=st.lists(units, min_size=2, max_size=5).map(sorted))
def test_a_blend_goes_one_way_and_stays_between_its_ends(row: Control, a: float, b: float, shares: list[float]) -> None:
    start, end = row.from_unit(a), row.from_unit(b)
    path = [row.blend(start, end, share) for share in shares]
    assert all(type(value) is float for value in path)
    low, high = sorted((float(start), float(end)))  # type: ignore[arg-type]
    slack = 1e-9 * (1 + abs(low) + abs(high))
    assert all(low - slack <= value <= high + slack for value in path)  # type: ignore[operator]
    steps = [after - before for before, after in pairwise(path)]  # type: ignore[operator]
    assert all(step >= -slack for step in steps) if start <= end else all(step <= slack for step in steps)  # type: ignore[operator]


# What is accepted.


@pytest.mark.parametrize("row", TABLE, ids=by_name)
def test_the_default_of_a_control_is_accepted(row: Control) -> None:
    assert row.accept(row.default) == row.default


def test_the_defaults_of_a_strip_are_those_of_the_table() -> None:
    rows = {row.name.rpartition("/")[2]: row for row in TABLE if row.name.startswith("bus/")}
    assert {name: rows[name].default for name in vars(Strip())} == vars(Strip())


@pytest.mark.parametrize("row", TABLE, ids=by_name)
@given(value=st.one_of(st.none(), st.text(), st.floats(), st.integers(), st.booleans(), st.binary(), st.lists(st.integers())))
def test_any_value_is_taken_or_refused_in_one_line(row: Control, value: object) -> None:
    for clamp in (False, True):
        try:
            taken = row.accept(value, clamp=clamp, name="x")
        except ControlError as error:
            assert str(error).startswith("x ") and "; expected " in str(error) and "\n" not in str(error)
        else:
            assert row.accept(taken) == taken
            assert row.kind != "number" or row.low <= taken <= row.high  # type: ignore[operator]


@pytest.mark.parametrize("row", NUMBERS, ids=by_name)
def test_a_number_out_of_range_is_refused_or_goes_to_the_end(row: Control) -> None:
    for value, end in ((row.high + 1, row.high), (math.inf, row.high), (10**400, row.high), (-math.inf, row.low)):
        assert "expected a number from" in refusal(row.accept, value)
        assert row.accept(value, clamp=True) == end
    for value in (math.nan, True, "1", None):
        assert "expected a number from" in refusal(row.accept, value)


def test_switches_and_channels_take_what_surfaces_send() -> None:
    mute, outputs = find("bus/a/mute"), find("bus/a/outputs")
    assert [mute.accept(value) for value in (1, 1.0, True, 0, 0.0, False)] == [True] * 3 + [False] * 3
    assert mute.accept(127, clamp=True) is True
    assert [outputs.accept(value) for value in (3, 3.0, "3", (3,), [3.0])] == [(3,)] * 5
    assert outputs.accept(" 5, 6") == outputs.accept((5.0, 6)) == (5, 6)
    for bad in ((), "", "1,1", "1;2", 0, 65, 1.5, True, "-1", tuple(range(1, 10)), "٣"):
        assert "expected 1 to 8 different channels from 1 to 64, such as 1,2" in refusal(outputs.accept, bad)


# Names.


@pytest.mark.parametrize("row", TABLE, ids=by_name)
def test_every_control_is_found_by_its_name(row: Control) -> None:
    assert find(concrete(row)) is row


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "bus/drums/gain",
            "unknown control 'bus/drums/gain'; did you mean 'bus/drums/gain_db'? known: bus/drums/gain_db, bus/dr",
        ),
        ("region/1/radius", "unknown control 'region/1/radius'; "),
        ("master/gain", "unknown control 'master/gain'; did you mean 'master/gain_db'? known: master/gain_db, bypass, "),
        ("bypas", "unknown control 'bypas'; did you mean 'bypass'?"),
        ("/bypass", "unknown control '/bypass'; did you mean 'bypass'?"),
        ("bus/{bus}/mute", "unknown control 'bus/{bus}/mute'; "),
        ("bus/a/b/mute", "unknown control 'bus/a/b/mute'; "),
        ("bus//mute", "unknown control 'bus//mute'; "),
        ("bus", "unknown control 'bus'; "),
        ("", "unknown control ''; known: master/gain_db"),
        ("x" * 10_000, "unknown control 'xxx"),
    ],
)
def test_an_unknown_control_names_the_nearest_one(name: str, message: str) -> None:
    assert refusal(find, name).startswith(message)


@given(st.text(alphabet="abus/region{}1_\n", max_size=30))
def test_any_name_is_known_or_refused_in_one_line(name: str) -> None:
    try:
        assert find(name) in TABLE
    except ControlError as error:
        assert "\n" not in str(error)


# Settings.


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("bus/drums/gain_db=-6", Change("bus/drums/gain_db", -6.0)),
        (" bypass = on ", Change("bypass", True)),
        ("bus/2/mute=0", Change("bus/2/mute", False)),
        ("bus/a/outputs=5,6", Change("bus/a/outputs", (5, 6))),
        ("bus/a/select=disc(0, 0, r=1)", Change("bus/a/select", "disc(0, 0, r=1)")),
        ("preset/load=karaoke", Change("preset/load", "karaoke")),
        ("learn=", Change("learn", "")),
    ],
)
def test_a_setting_reads_from_one_text(text: str, change: Change) -> None:
    assert parse_set(text) == change


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bypass", "setting 'bypass' has no '='; expected control=value, such as bus/drums/gain_db=-6"),
        ("bus/drums/gain=1", "unknown control 'bus/drums/gain'; did you mean 'bus/drums/gain_db'?"),
        ("bus/drums/gain_db=loud", "bus/drums/gain_db 'loud'; expected a number from -120 to 24 dB"),
        ("bus/drums/gain_db=99", "bus/drums/gain_db 99.0; expected a number from -120 to 24 dB"),
        ("bus/drums/gain_db=nan", "bus/drums/gain_db nan; expected a number"),
        ("bypass=maybe", "bypass 'maybe'; expected true or false, or 1 or 0"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(text: str, message: str) -> None:
    assert refusal(parse_set, text).startswith(message)


# The page.


def test_the_reference_page_is_current() -> None:
    shipped = (data_dir("presets") / "CONTROLS.md").read_text(encoding="utf8")
    assert shipped == page(), "write it anew: python -m sepstream.control.reference > presets/CONTROLS.md"


def test_the_page_shows_every_control_once() -> None:
    assert [line.split("`")[1] for line in page().splitlines() if line.startswith("| `")] == [row.name for row in TABLE]

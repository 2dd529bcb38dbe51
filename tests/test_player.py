"""What is being played: setting is heard back, a hand beats a glide, presets come and go, and what is refused changes nothing."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenes import scenes
from sepstream.control import player
from sepstream.control.midi_bindings import Bindings, read_bindings
from sepstream.control.player import Playing, get, put, tick
from sepstream.control.presets import Preset
from sepstream.control.scene import Scene, morph
from sepstream.control.table import TABLE, Change, Value, find
from sepstream.disk import Annulus, Certain, Disc, Ellipse, HalfPlane, Region
from sepstream.errors import ControlError, SepstreamError
from sepstream.expression import Mix
from sepstream.selection import Bus, Selection, Strip, Weight

MIDI: dict[str, Any] = {"bind": [{"cc": 7, "control": "bus/1/gain_db"}]}
A = Scene(Selection((Bus("vox", Mix(), gain_db=-6.0), Bus("band", Mix())), Strip(), (("r", Disc(0.1, 0.2, 0.5)),)))
B = Scene(Selection((Bus("vox", Mix(), gain_db=-30.0), Bus("low", Mix())), None, (("r", Annulus(0, 0, 0.1, 0.9)),)), -3.0)
ASKED = (Weight("drums", "bass", 0.5),)
SHAPES: tuple[tuple[str, Region], ...] = (
    ("d", Disc(0, 0, 1)),
    ("n", Annulus(0, 0, 0.5, 1)),
    ("c", Certain(0, 1)),
    ("h", HalfPlane(0, 0)),
    ("e", Ellipse(0, 0, 0.5, 0.5, 0)),
)
LARGE = [Scene(Selection(tuple(Bus(f"{side}{n}", Mix()) for n in range(40)))) for side in "ab"]
SHELF = {"a": Preset(A, MIDI), "b": Preset(B), "large": Preset(LARGE[0]), "wide": Preset(LARGE[1])}
SHELF["ill"] = Preset(A, {"bind": [{"cc": 700, "control": "bypass"}]})


def load(name: str) -> Preset:
    """Presets that need no files."""
    if name not in SHELF:
        raise ControlError(f"unknown preset '{name}'")
    return SHELF[name]


def moved(playing: Playing, *changes: tuple[str, Value], now: float = 0.0) -> Playing:
    for change in changes:
        playing = put(playing, Change(*change), now, load)
    return playing


def started(scene: Scene = A) -> Playing:
    return player.begin(Preset(scene, MIDI), "start")


def values(playing: Playing) -> dict[str, Value]:
    return {name: get(playing, name) for name in player.names(playing)}


playings = scenes.map(started)
shares = st.floats(0, 1)
few = settings(max_examples=15)  # scenes are large


# The whole table.


@few
@given(playings)
def test_all_that_has_a_name_has_a_value_that_its_control_takes(playing: Playing) -> None:
    for name, value in values(playing).items():
        assert find(name).accept(value, name=name) == value
        assert player.canonical(playing, name) == name


@few
@given(playings, st.data())
def test_what_is_set_is_heard_back_and_no_other_control_moves(playing: Playing, data: st.DataObject) -> None:
    faders = [name for name in player.names(playing) if find(name).kind in ("number", "switch")]
    name = data.draw(st.sampled_from([name for name in faders if name not in ("morph", "panic")]))
    wanted = find(name).from_unit(data.draw(shares))
    after = values(moved(playing, (name, wanted)))
    assert after.pop(name) == wanted or name.startswith("region/")  # a centre stays on the disk, a band has two ends
    assert after == {other: value for other, value in values(playing).items() if other != name}


@few
@given(playings)
def test_to_set_a_scenes_values_as_they_are_changes_nothing(playing: Playing) -> None:
    own = [(name, value) for name, value in values(playing).items() if name != "morph" and not name.startswith("region/")]
    assert moved(playing, *own) == playing


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_every_row_of_the_table_can_be_asked_for_or_set(row: Any) -> None:
    """Nothing is in the table that neither the scene nor the player knows, but for what the host does itself."""
    playing = moved(started(replace(A, selection=replace(A.selection, regions=SHAPES, conditions=ASKED))), ("preset/b", "b"))
    kind = row.name.partition("/")[0]
    names = [name for name in player.names(playing) if name.startswith(f"{kind}/") and name.endswith(row.name.rpartition("}")[2])]
    for name in names if "{" in row.name else [row.name]:
        texts = {"learn": "bypass", "add/bus": "new=mix", "rename/bus": "vox=new", "remove/bus": "vox", "remove/region": "1"}
        value: Value = texts.get(name, "a") if row.kind == "action" else row.default
        if name == "preset/save":
            with pytest.raises(ControlError, match="no part of a scene"):
                moved(playing, (name, value))
        else:
            moved(playing, (name, value))
    assert names or "{" not in row.name


@pytest.mark.parametrize("low, high", [(-1e9, 1e9), (float("-inf"), float("inf"))])
def test_numbers_beyond_their_range_go_as_far_as_they_can(low: float, high: float) -> None:
    playing = started()
    for name in ("bus/vox/gain_db", "bus/vox/pan", "master/gain_db", "morph/seconds"):
        assert get(moved(playing, (name, low)), name) == find(name).low
        assert get(moved(playing, (name, high)), name) == find(name).high


def test_a_place_is_as_good_as_a_name() -> None:
    assert moved(started(), ("bus/2/mute", True)) == moved(started(), ("bus/band/mute", True))
    assert get(started(), "bus/1/gain_db") == -6.0
    assert player.canonical(started(), "bus/3/pan") == "bus/residual/pan"


@few
@given(playings)
def test_a_fader_is_where_its_value_is(playing: Playing) -> None:
    for name in player.names(playing):
        if find(name).kind in ("number", "switch"):
            assert player.get_unit(playing, name) == find(name).to_unit(get(playing, name))
        else:
            with pytest.raises(ControlError):
                player.get_unit(playing, name)


# What is refused.


@pytest.mark.parametrize(
    "change",
    [
        ("bus/vox/gain_db", "loud"),
        ("bus/vox/gain_db", float("nan")),
        ("bus/nobody/mute", True),
        ("bus/vox/select", "vox +"),
        ("bus/vox/outputs", "0"),
        ("region/r/angle", 3.0),
        ("volume", 1.0),
        ("morph", "half"),
        ("morph", 0.5),
        ("morph/seconds", float("nan")),
        ("record", "yes please"),
        ("panic", "now"),
        ("preset/load", "nowhere"),
        ("preset/load", "ill"),
        ("preset/load", 3.0),
        ("preset/a", "nowhere"),
        ("preset/b", "nowhere"),
        ("preset/morph", "nowhere"),
        ("preset/save", "mine"),
        ("learn", "bus/vox/gain"),
        ("learn", "bus/nobody/gain_db"),
        ("learn", "region/r/angle"),
        ("learn", "preset/load"),
        ("learn", "bus/vox/select"),
        ("learn", "bus/vox/outputs"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_one_line(change: tuple[str, Value]) -> None:
    with pytest.raises(SepstreamError) as refused:
        moved(started(), change)
    assert str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["preset/morph", "preset/save", "volume", "bus/9/mute"])
def test_what_has_no_value_cannot_be_asked_for(name: str) -> None:
    with pytest.raises(ControlError):
        get(started(), name)


names_of_all_kinds = st.sampled_from([*player.names(started()), "preset/a", "preset/b", "preset/morph"])
anything = st.one_of(st.floats(), st.booleans(), st.sampled_from(["a", "b", "large", "ill", "", "bypass", "1,2", "drums"]))


@given(st.lists(st.tuples(names_of_all_kinds, anything, st.floats(0, 9)), max_size=12))
def test_whatever_is_sent_the_value_before_is_untouched_and_the_one_after_is_whole(turns: list[tuple[str, Value, float]]) -> None:
    playing, now = started(), 0.0
    for name, value, later in turns:
        now += later
        before, copy = playing, replace(playing)
        try:
            playing = tick(put(playing, Change(name, value), now, load), now)
        except SepstreamError as error:
            assert "\n" not in str(error)
        assert before == copy
        assert set(values(playing)) == set(player.names(playing))


# Glides.


@few
@given(scenes, scenes, shares, st.floats(0.1, 600), st.floats(0, 1e6))
def test_a_glide_is_the_morph_of_its_moment_and_arrives_exactly(
    a: Scene, b: Scene, share: float, seconds: float, began: float
) -> None:
    playing = put(replace(started(a), seconds=seconds), Change("preset/morph", "b"), began, lambda _: Preset(b))
    assert playing.scene == a and playing.glide is not None
    between = began + share * seconds
    assert tick(playing, between).scene == morph(a, b, (between - began) / seconds)
    arrived = tick(playing, began + 1.001 * seconds)
    assert arrived.scene == b == arrived.home and arrived.glide is None and arrived.preset == "b"
    assert tick(arrived, began + 9 * seconds) is arrived


def test_a_glide_of_no_time_has_arrived_at_once() -> None:
    playing = moved(started(), ("morph/seconds", 0.0), ("preset/morph", "b"))
    assert playing.scene == B and playing.glide is None


def test_a_glide_that_is_looked_at_late_or_often_goes_the_same_way() -> None:
    playing = moved(started(), ("morph/seconds", 10.0), ("preset/morph", "b"), now=100.0)
    often = playing
    for tenth in range(1, 60):
        often = tick(often, 100.0 + tenth / 10)
    assert often.scene == tick(playing, 105.9).scene


@pytest.mark.parametrize("hand", [("bus/vox/mute", True), ("master/gain_db", -1.0)], ids=str)
def test_a_hand_on_a_control_ends_a_glide_where_it_is(hand: tuple[str, Value]) -> None:
    gliding = tick(moved(started(), ("preset/morph", "b")), 2.0)
    caught = moved(gliding, hand, now=2.0)
    assert values(caught) == values(gliding) | dict([hand])
    assert tick(caught, 1e9) == caught


@pytest.mark.parametrize("change, end", [(("preset/load", "a"), A), (("panic", True), B), (("preset/morph", "a"), A)], ids=str)
def test_another_way_ends_a_glide_too(change: tuple[str, Value], end: Scene) -> None:
    gliding = tick(moved(started(), ("preset/morph", "b")), 2.0)
    assert tick(moved(gliding, change, now=2.0), 1e9).scene == end


@pytest.mark.parametrize("change", [("record", True), ("learn", "bypass"), ("morph/seconds", 60.0), ("preset/a", "a")], ids=str)
def test_what_is_no_hand_on_the_scene_lets_a_glide_go_on(change: tuple[str, Value]) -> None:
    gliding = moved(started(), ("preset/morph", "b"))
    assert tick(moved(gliding, change, now=1.0), 5.0).scene == B


def test_a_region_that_is_drawn_ends_a_glide_too() -> None:
    drawn = player.put_region(tick(moved(started(), ("preset/morph", "b")), 1.0), "r", Disc(0, 0, 2), 1.0)
    assert drawn.glide is None and get(drawn, "region/r/r") == 2.0


def test_a_glide_of_more_buses_than_there_may_be_is_refused_before_it_begins() -> None:
    """Not while it is on its way, when nobody is there to be told."""
    playing = moved(started(), ("preset/load", "large"))
    with pytest.raises(ControlError, match="80 buses"):
        moved(playing, ("preset/morph", "wide"))
    assert moved(playing, ("morph/seconds", 0.0), ("preset/morph", "wide")).scene == LARGE[1]  # that way they never meet


# The morph fader.


@few
@given(scenes, scenes, st.lists(shares, min_size=1, max_size=4))
def test_the_morph_fader_goes_from_what_played_to_b_and_back(a: Scene, b: Scene, way: list[float]) -> None:
    playing = put(started(a), Change("preset/b", "b"), 0.0, lambda _: Preset(b))
    assert playing.scene == a
    for share in way:
        playing = moved(playing, ("morph", share))
        assert playing.scene == morph(a, b, share) and get(playing, "morph") == share
    assert moved(playing, ("morph", 1.0)).scene == b
    assert moved(playing, ("morph", 0.0)).scene == a


def test_a_hand_amid_a_morph_is_not_taken_back_by_its_next_step() -> None:
    amid = moved(started(A), ("preset/b", "b"), ("morph", 0.5), ("master/gain_db", -7.0))
    for share in (0.25, 0.0, 1.0):
        assert get(moved(amid, ("morph", share)), "master/gain_db") == -7.0


@pytest.mark.parametrize("way", [("preset/load", "large"), ("panic", True)], ids=str)
def test_a_morph_begins_where_one_is_and_not_where_one_was(way: tuple[str, Value]) -> None:
    elsewhere = moved(started(A), ("preset/b", "b"), ("morph", 0.5), way)
    assert get(elsewhere, "morph") == 0.0
    assert moved(elsewhere, ("morph", 0.0)).scene == elsewhere.scene


def test_the_ends_of_a_morph_are_presets_or_what_plays() -> None:
    playing = moved(started(A), ("preset/b", ""), ("preset/load", "b"), ("preset/a", ""), ("morph", 1.0))
    assert playing.scene == A
    assert moved(playing, ("morph", 0.0)).scene == B
    assert moved(playing, ("preset/a", "large"), ("morph", 0.0)).scene == LARGE[0]


# Presets.


def test_a_preset_with_bindings_brings_them_and_one_without_leaves_them_be() -> None:
    bare = player.begin(SHELF["b"])
    assert bare.bindings == Bindings()
    bound = moved(bare, ("preset/load", "a"))
    assert bound.bindings == read_bindings(MIDI) and len(bound.bindings.all) == 1
    assert moved(bound, ("preset/load", "b")).bindings == bound.bindings


def test_a_preset_is_the_scene_and_where_panic_leads() -> None:
    playing = moved(started(), ("preset/load", "b"), ("bus/vox/mute", True), ("record", True), ("learn", "bypass"))
    assert (playing.preset, playing.home) == ("b", B) and playing.scene != B
    calm = moved(playing, ("panic", True))
    assert calm.scene == B and calm.recording and calm.learning == "bypass"
    assert moved(playing, ("panic", False)) == playing and get(calm, "panic") is False


def test_panic_on_the_way_to_a_preset_is_there() -> None:
    gliding = tick(moved(started(), ("preset/morph", "b")), 1.0)
    assert tick(moved(gliding, ("panic", True), now=1.0), 1.1).scene == B


def test_a_session_that_begins_with_bindings_that_cannot_be_does_not_begin() -> None:
    with pytest.raises(ControlError):
        player.begin(SHELF["ill"])


# Learn.


def test_learn_waits_for_one_control_until_it_is_told_to_stop() -> None:
    learning = moved(started(), ("learn", "bus/2/mute"))
    assert learning.learning == "bus/2/mute" and learning.scene == A
    assert moved(learning, ("learn", "morph")).learning == "morph"
    assert moved(learning, ("learn", "")).learning == ""


@few
@given(playings)
def test_all_that_has_a_fader_can_be_learnt_and_nothing_else(playing: Playing) -> None:
    for name in player.names(playing):
        if find(name).kind in ("number", "switch"):
            assert moved(playing, ("learn", name)).learning == name
        else:
            with pytest.raises(ControlError):
                moved(playing, ("learn", name))

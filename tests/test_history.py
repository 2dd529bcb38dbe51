"""Undo: against a plain list of scenes; and regions that are taken out of expressions, against what the rest still says."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepstream.control import history, player
from sepstream.control.history import History
from sepstream.control.player import Playing
from sepstream.control.presets import Preset
from sepstream.control.scene import Scene
from sepstream.control.table import Change
from sepstream.disk import Disc
from sepstream.errors import ControlError
from sepstream.expression import parse, without_region
from sepstream.selection import Bus, Selection


def scene(gain_db: float = 0.0) -> Scene:
    return Scene(Selection((Bus("vox", parse("mix"), gain_db=gain_db), Bus("b", parse("mix"))), regions=(("1", Disc(0, 0, 1)),)))


def put(playing: Playing, name: str, value: float | bool | str, now: float) -> Playing:
    return player.put(playing, Change(name, value), now, lambda _: Preset(scene(-30.0)))


@given(st.lists(st.sampled_from(["change", "undo", "redo"]), max_size=40))
def test_undo_and_redo_walk_along_a_list(steps: list[str]) -> None:
    playing, past, future = player.begin(Preset(scene())), [], []
    for turn, step in enumerate(steps):
        now, before = 10.0 * turn, playing.scene
        if step == "change":
            playing, past, future = put(playing, "bus/vox/gain_db", -float(turn) - 1, now), [*past, before], []
        elif step == "undo" and past:
            playing, future = put(playing, "undo", True, now), [*future, before]
            assert playing.scene == past.pop()
        elif step == "redo" and future:
            playing, past = put(playing, "redo", True, now), [*past, before]
            assert playing.scene == future.pop()
        elif step != "change":
            with pytest.raises(ControlError, match=step):
                put(playing, step, True, now)


def test_a_hand_that_stays_on_a_control_makes_one_step() -> None:
    playing = player.begin(Preset(scene()))
    for turn in range(50):
        playing = put(playing, "bus/vox/gain_db", -float(turn), 0.1 * turn)
    assert len(playing.history.past) == 1 and put(playing, "undo", True, 9.0).scene == scene()
    playing = put(playing, "bus/b/gain_db", -1.0, 5.0)
    assert len(playing.history.past) == 2
    assert len(put(playing, "bus/2/gain_db", -2.0, 5.1).history.past) == 2  # the same, by its place
    assert len(put(playing, "bus/b/gain_db", -2.0, 5.0 + 2 * history.PAUSE_S).history.past) == 3


def test_what_changes_nothing_is_no_step_and_a_morph_is_one() -> None:
    playing = put(player.begin(Preset(scene())), "bus/vox/gain_db", 0.0, 0.0)
    assert not playing.history.past
    gliding = put(put(playing, "morph/seconds", 2.0, 1.0), "preset/morph", "x", 1.0)
    for now in (1.5, 2.0, 3.5):
        gliding = player.tick(gliding, now)
    assert gliding.scene == scene(-30.0) and len(gliding.history.past) == 1
    assert put(gliding, "undo", True, 9.0).scene == playing.scene


def test_old_steps_are_forgotten() -> None:
    past = History()
    for turn in range(history.KEEP + 50):
        past = past.noted(scene(-float(turn) / 10), str(turn), float(turn))
    assert len(past.past) == history.KEEP and past.past[0] == scene(-5.0)


@pytest.mark.parametrize(
    "text, rest",
    [
        ("region(1)", None),
        ("speech", "speech"),
        ("speech | region(1)", "speech"),
        ("region(1) & speech", "speech"),
        ("speech - region(1)", "speech"),
        ("region(1) - speech", None),
        ("!region(1) + speech", "speech"),
        ("0.5*(region(1) | region(2))", "0.5*region(2)"),
        ("-6dB*region(1)", None),
        ("(speech | region(2)) - region(1) & music", "speech | region(2) - music"),
    ],
)
def test_a_region_is_taken_out_of_what_it_is_combined_with(text: str, rest: str | None) -> None:
    found = without_region(parse(text), "1")
    assert found == (parse(rest) if rest else None)


def test_a_region_that_goes_leaves_no_bus_without_meaning() -> None:
    playing = player.begin(Preset(scene()))
    playing = put(put(playing, "bus/vox/select", "mix - region(1)", 0.0), "remove/region", "1", 1.0)
    assert playing.scene == replace(scene(), selection=replace(scene().selection, regions=()))

"""The desk: buses keep their slots, only what changed is compiled, and what the model cannot play leaves all as it was."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import toy_bundle
from sepstream import board as b
from sepstream.board import Board
from sepstream.contract import Bundle, StftSpec, read_bundle
from sepstream.control import desk as desks
from sepstream.control.desk import Desk
from sepstream.control.mailbox import Order, take
from sepstream.control.scene import Scene, dry, matrix, names, put, put_region
from sepstream.control.table import Change, find
from sepstream.disk import Disc
from sepstream.errors import ExpressionError
from sepstream.expression import Mix, Named
from sepstream.program import Code
from sepstream.selection import Bus, Selection, Strip, compile, read_bus


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(toy_bundle.make(tmp_path_factory.mktemp("toy"), geometry=StftSpec(64, 24, 16), hops=(1,)))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Board:
    return Board(tmp_path_factory.mktemp("desk") / "board", create=True)


@pytest.fixture
def board(page: Board) -> Board:
    return open_device(page, 2, 2)


@pytest.fixture
def desk(bundle: Bundle, board: Board) -> Desk:
    return Desk(bundle, board)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Selection]:
    """All that was compiled from now on."""
    seen: list[Selection] = []

    def noted(what: Selection, bundle: Bundle) -> object:
        seen.append(what)
        return compile(what, bundle)

    monkeypatch.setattr(desks, "compile", noted)
    return seen


def open_device(board: Board, inputs: int, outputs: int) -> Board:
    board.words[b.INPUTS], board.words[b.OUTPUTS] = inputs, outputs
    board.words[b.SHAPE] += 1
    return board


def scene_of(*names: str, residual: bool = False) -> Scene:
    return Scene(Selection(tuple(Bus(name, Mix()) for name in names), Strip() if residual else None))


def letter(board: Board) -> Order:
    """What a worker finds that has just been started."""
    order = take(board, 0)[1]
    assert order is not None
    return order


RICH = Scene(
    Selection(
        (read_bus("near=region(r)"), read_bus("voice=speech"), read_bus("low=bass-region(r)")),
        Strip(),
        (("r", Disc(0.1, 0.2, 0.5)),),
    )
)


# What is posted.


@pytest.mark.parametrize("inputs, outputs", [(2, 2), (1, 6), (5, 1)])
def test_what_is_posted_is_the_scene_for_this_device(bundle: Bundle, board: Board, inputs: int, outputs: int) -> None:
    open_device(board, inputs, outputs)
    desk = Desk(bundle, board)
    desk.play(RICH)
    order = letter(board)
    assert desk.scene == RICH
    assert order.program == compile(RICH.selection, bundle).code.pack() and Code.unpack(order.program).buses == 4
    np.testing.assert_array_equal(order.matrix, matrix(RICH, inputs, outputs))
    np.testing.assert_array_equal(board.area("dry_target", outputs, inputs), dry(RICH, inputs, outputs))


def test_without_a_device_the_scene_waits_until_there_is_one(bundle: Bundle, board: Board) -> None:
    open_device(board, 0, 0)
    desk, before = Desk(bundle, board), int(board.words[b.MAIL])
    desk.play(RICH)
    desk.refresh()
    assert board.words[b.MAIL] == before
    open_device(board, 1, 3)
    desk.refresh()
    np.testing.assert_array_equal(letter(board).matrix, matrix(RICH, 1, 3))


def test_a_device_of_another_shape_is_told_the_scene_again_and_once(desk: Desk, board: Board) -> None:
    desk.refresh()  # nothing is played yet
    desk.play(RICH)
    slots = letter(board).slots
    for inputs, outputs in ((2, 6), (1, 6), (2, 2)):
        open_device(board, inputs, outputs)
        before = int(board.words[b.MAIL])
        desk.refresh()
        desk.refresh()
        assert board.words[b.MAIL] == before + 1
        assert letter(board).slots == slots
        np.testing.assert_array_equal(letter(board).matrix, matrix(RICH, inputs, outputs))


def test_the_same_device_opened_anew_is_told_again(desk: Desk, board: Board) -> None:
    """The process that opened it may be another one."""
    desk.play(RICH)
    before = int(board.words[b.MAIL])
    open_device(board, 2, 2)
    desk.refresh()
    assert board.words[b.MAIL] == before + 1


# What is refused.


@pytest.mark.parametrize(
    ("name", "message"), [("drumz", "did you mean 'drums'?"), ("elsewhere", "unknown class 'elsewhere'")], ids=str
)
def test_a_scene_that_the_model_cannot_play_leaves_the_one_before(desk: Desk, board: Board, name: str, message: str) -> None:
    desk.play(RICH)
    before, slots = int(board.words[b.MAIL]), dict(desk.slots)
    other = Scene(Selection((Bus("fresh", Named(name)),)))
    for wrong in (desk.check, desk.play):
        with pytest.raises(ExpressionError) as refused:
            wrong(other)
        assert message in str(refused.value) and "\n" not in str(refused.value)
    desk.refresh()
    assert desk.scene == RICH and desk.slots == slots and board.words[b.MAIL] == before
    open_device(board, 2, 4)
    desk.refresh()
    np.testing.assert_array_equal(letter(board).matrix, matrix(RICH, 2, 4))


def test_a_scene_that_is_refused_is_refused_without_a_device_too(bundle: Bundle, board: Board) -> None:
    open_device(board, 0, 0)
    desk = Desk(bundle, board)
    with pytest.raises(ExpressionError):
        desk.play(Scene(Selection((Bus("a", Named("nobody")),))))
    assert desk.scene is None


def test_to_check_a_scene_plays_nothing(desk: Desk, board: Board) -> None:
    before = int(board.words[b.MAIL])
    desk.check(RICH)
    assert desk.scene is None and board.words[b.MAIL] == before and not desk.slots


def test_the_largest_scene_plays_on_the_largest_device(desk: Desk, board: Board) -> None:
    scene = scene_of(*(f"b{n}" for n in range(63)), residual=True)
    desk.play(scene)
    open_device(board, b.MAX_CHANNELS, b.MAX_CHANNELS)
    desk.refresh()
    assert letter(board).matrix.shape == (b.MAX_CHANNELS, 65, b.MAX_CHANNELS)


# What is compiled.


def test_a_moved_fader_compiles_nothing(desk: Desk, board: Board, compiled: list[Selection]) -> None:
    desk.play(RICH)
    program, slots = letter(board)[:2]
    assert len(compiled) == 1
    faders = [name for name in names(RICH) if name.rpartition("/")[2] not in ("select", "smooth_ms", "outputs")]
    scene = RICH
    for name in (name for name in faders if not name.startswith("region/")):
        scene = put(scene, Change(name, find(name).from_unit(0.9)))
        desk.play(scene)
        assert letter(board)[:2] == (program, slots)
        np.testing.assert_array_equal(letter(board).matrix, matrix(scene, 2, 2))
    assert len(compiled) == 1


@pytest.mark.parametrize("name, value", [("bus/voice/select", "drums"), ("bus/low/smooth_ms", 80.0), ("region/r/x", -0.4)])
def test_what_a_mask_depends_on_is_compiled_anew(desk: Desk, board: Board, name: str, value: float | str) -> None:
    desk.play(RICH)
    program, slots = letter(board)[:2]
    desk.play(put(RICH, Change(name, value)))
    assert letter(board).program != program and letter(board).slots == slots
    desk.play(put_region(RICH, "r", Disc(0.1, 0.2, 0.5)))
    assert letter(board).program == program


def test_from_one_scene_to_another_and_back_compiles_nothing_new(desk: Desk, compiled: list[Selection]) -> None:
    other = put(RICH, Change("bus/voice/select", "drums"))
    for scene in (RICH, other, RICH, other, replace(RICH, bypass=True)):
        desk.play(scene)
    assert len(compiled) == 2


# Slots.

scenes = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=40, unique=True), min_size=1, max_size=8)


@given(scenes)
def test_every_bus_of_a_scene_has_a_slot_of_its_own_and_keeps_it_while_it_plays(
    bundle: Bundle, page: Board, scenes: list[list[int]]
) -> None:
    desk = Desk(bundle, open_device(page, 1, 1))
    before: dict[str, int] = {}
    for scene in scenes:
        buses = [f"b{n}" for n in scene]
        now = dict(zip(buses, desk._places(tuple(buses)), strict=True))
        assert len(set(now.values())) == len(now) and set(now.values()) <= set(range(1, b.SLOTS))
        assert all(before[name] == slot for name, slot in now.items() if name in before)
        before = now


@given(scenes)
def test_a_bus_that_comes_back_finds_its_slot_as_long_as_the_slots_suffice(
    bundle: Bundle, page: Board, scenes: list[list[int]]
) -> None:
    assume(len({n for scene in scenes for n in scene}) <= b.MAX_BUSES)
    desk = Desk(bundle, open_device(page, 1, 1))
    known: dict[str, int] = {}
    for scene in scenes:
        names = tuple(f"b{n}" for n in scene)
        for name, slot in zip(names, desk._places(names), strict=True):
            assert known.setdefault(name, slot) == slot
    assert len(set(known.values())) == len(known)


def test_when_all_slots_are_known_the_oldest_that_is_not_heard_gives_its_own(desk: Desk, board: Board) -> None:
    for n in range(b.MAX_BUSES):
        desk.play(scene_of("keeper", f"b{n}") if n else scene_of("keeper"))
    full = dict(desk.slots)
    assert len(full) == b.MAX_BUSES
    desk.play(scene_of("keeper", "new"))
    assert letter(board).slots == (full["keeper"], full["b1"])
    desk.play(scene_of("b2", "newer"))
    assert letter(board).slots == (full["b2"], full["keeper"])


def test_the_largest_scene_has_room_after_any_other(desk: Desk, board: Board) -> None:
    for side in ("old", "new", "old"):
        desk.play(scene_of(*(f"{side}{n}" for n in range(63)), residual=True))
        assert len(set(letter(board).slots)) == 64 and set(letter(board).slots) < set(range(1, b.SLOTS))


def test_a_fresh_control_process_that_is_told_the_slots_goes_on_with_them(bundle: Bundle, board: Board) -> None:
    first = Desk(bundle, board)
    first.play(scene_of("gone"))
    first.play(RICH)
    slots = letter(board).slots
    second = Desk(bundle, board)
    second.slots |= first.slots
    second.play(RICH)
    assert letter(board).slots == slots

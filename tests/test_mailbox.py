"""The mailbox: what is taken is a whole order and the newest one, whenever it was posted and whoever died at it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepstream import board as b
from sepstream import kernels
from sepstream.board import Board
from sepstream.control.mailbox import Order, post, take
from sepstream.errors import ControlError

DRY = np.eye(2, dtype=np.float32)
SILENT = np.zeros((2, 2, 2), np.float32)
WRITER = """
import sys
from pathlib import Path
import numpy as np
from sepstream.board import Board
from sepstream.control.mailbox import Order, post
board, whole = Board(Path(sys.argv[1])), np.ones((8, 9, 8), np.float32)
print("ready", flush=True)
sys.stdin.read(1)
for n in range(1, 601):
    post(board, Order(bytes([n % 256]) * (1 + n * 37 % 9000), (n,) * (1 + n % 60), n * whole), n * whole[:, 0])
"""


class Watched(Board):
    """A board on which something happens whenever the reader is about to fetch a message."""

    happens: Callable[[], None] = staticmethod(lambda: None)

    def mail(self, slot: int) -> np.ndarray:
        self.happens()
        return super().mail(slot)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    return Board(tmp_path_factory.mktemp("mailbox") / "board", create=True)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    return Watched(tmp_path_factory.mktemp("watched") / "board", create=True)


def numbered(n: int) -> Order:
    """An order that can be told from its neighbours, and of another length."""
    return Order(bytes([n % 256]) * (1 + n % 7), tuple(range(n % 5)), np.full((1 + n % 3, 2, 2), n, np.float32))


def same(found: Order | None, posted: Order) -> bool:
    return found is not None and found[:2] == posted[:2] and np.array_equal(found.matrix, posted.matrix)


def seen(board: Board) -> int:
    """The number of the newest message, as a worker that has read everything knows it."""
    return int(board.words[b.MAIL])


class Died(Exception):
    """The writer, before it could announce what it wrote."""


def dying_post(board: Board, order: Order) -> None:
    def die() -> None:
        raise Died

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Died):
        patch.setattr(kernels, "barrier", die)
        post(board, order, DRY)


# There and back.

shapes = st.tuples(st.integers(1, 8), st.integers(1, 12), st.integers(1, 8))
orders = st.builds(
    lambda program, slots, shape, seed: Order(program, tuple(slots), np.random.default_rng(seed).normal(size=shape).astype("f4")),
    st.binary(max_size=300),
    st.lists(st.integers(0, b.SLOTS - 1), max_size=b.MAX_BUSES),
    shapes,
    st.integers(0, 99),
)


@given(orders)
def test_what_is_posted_is_taken_once(board: Board, order: Order) -> None:
    before = seen(board)
    post(board, order, DRY)
    now, found = take(board, before)
    assert same(found, order) and now != before
    assert take(board, now) == (now, None)


@given(orders)
def test_what_was_taken_stays_as_it_was(board: Board, order: Order) -> None:
    post(board, order, DRY)
    _, found = take(board, -1)
    for n in range(4):
        post(board, numbered(n), DRY)
    assert same(found, order)
    assert found is not None and found.matrix.flags.writeable and found.matrix.flags.aligned  # kernels know no other kind


def test_a_board_that_nobody_wrote_to_has_no_message(tmp_path: Path) -> None:
    assert take(Board(tmp_path / "board", create=True), 0) == (0, None)


@given(st.integers(1, 9))
def test_the_newest_wins_and_a_reader_that_starts_anew_finds_it(board: Board, posts: int) -> None:
    before = seen(board)
    for n in range(posts):
        post(board, numbered(n), DRY)
    for start in (0, before):
        assert same(take(board, start)[1], numbered(posts - 1))


@given(st.lists(st.sampled_from(["post", "take", "die"]), max_size=20))
def test_whatever_the_turns_the_reader_has_the_last_whole_message(board: Board, turns: list[str]) -> None:
    post(board, numbered(0), DRY)
    known, last = take(board, 0)
    for n, turn in enumerate([*turns, "take"], start=1):
        if turn == "post":
            post(board, numbered(n), DRY)
        elif turn == "die":
            dying_post(board, numbered(n))
        else:
            known, found = take(board, known)
            last = found or last
    posted = [n for n, turn in enumerate(turns, start=1) if turn == "post"]
    assert same(last, numbered(posted[-1] if posted else 0))


def test_the_dry_gains_are_the_callbacks_at_once(board: Board) -> None:
    dry = np.arange(6, dtype=np.float32).reshape(3, 2)
    post(board, Order(b"", (), np.zeros((3, 1, 2), np.float32)), dry)
    np.testing.assert_array_equal(board.area("dry_target", 3, 2), dry)


# Half-way.


def test_a_writer_that_dies_half_way_leaves_the_older_message(board: Board) -> None:
    post(board, numbered(1), DRY)
    for n in range(2, 6):
        dying_post(board, numbered(n))
        assert same(take(board, 0)[1], numbered(1))
    post(board, numbered(6), DRY)  # and a fresh writer goes on
    assert same(take(board, 0)[1], numbered(6))


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=12))
def test_whoever_writes_while_it_reads_the_reader_sees_no_part(watched: Watched, events: list[tuple[int, bool]]) -> None:
    """At each moment of the reader: some whole messages, and perhaps one that a writer has not finished."""
    post(watched, numbered(seen(watched) + 1), DRY)
    moments, before = iter(events), seen(watched) - 1

    def meanwhile() -> None:
        posts, half = next(moments, (0, False))
        with pytest.MonkeyPatch.context() as patch:  # the writer's own steps are no moments
            patch.setattr(kernels, "barrier", lambda: None)
            patch.setattr(watched, "happens", lambda: None)
            for _ in range(posts):
                post(watched, numbered(seen(watched) + 1), DRY)
            if half:
                dying_post(watched, numbered(seen(watched) + 1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "barrier", meanwhile)
        patch.setattr(watched, "happens", meanwhile)
        known, found = take(watched, before)
    assert same(found, numbered(known)) if found else known == before
    known, last = take(watched, known)
    assert same(last or found, numbered(known)) and known == seen(watched)


def test_a_torrent_from_another_process_gives_whole_messages_only(tmp_path: Path) -> None:
    board = Board(tmp_path / "board", create=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", WRITER, str(tmp_path / "board")]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdin and writer.stdout and writer.stdout.readline()
        taken = []
        writer.stdin.write(b"!")
        writer.stdin.flush()
        for n, order in _all_messages(board, writer):
            assert order.program == bytes([n % 256]) * (1 + n * 37 % 9000)
            assert order.slots == (n,) * (1 + n % 60)
            assert (order.matrix == n).all()
            taken.append(n)
    assert taken == sorted(set(taken)) and taken[-1] == 600


def _all_messages(board: Board, writer: "subprocess.Popen[bytes]") -> Iterator[tuple[int, Order]]:
    known, over = 0, False
    while not over:
        over = writer.poll() is not None  # asked before the last look
        known, order = take(board, known)
        if order is not None:
            yield known, order


# Too large.


@pytest.mark.parametrize(
    "order",
    [
        Order(bytes(b.MAIL_BYTES), (), SILENT),
        Order(b"", tuple(range(b.MAX_BUSES + 1)), SILENT),
        Order(b"", (1,), np.zeros((64, 256, 64), np.float32)),
    ],
    ids=["program", "buses", "matrix"],
)
def test_what_is_too_large_is_refused_and_the_older_message_stands(board: Board, order: Order) -> None:
    post(board, numbered(1), DRY)
    before = seen(board)
    with pytest.raises(ControlError, match=r"^a scene of \d+ buses and \d+ bytes; expected 65 and \d+ at most$"):
        post(board, order, 5 * DRY)
    assert seen(board) == before and same(take(board, 0)[1], numbered(1))
    np.testing.assert_array_equal(board.area("dry_target", 2, 2), DRY)


def test_the_largest_that_fits_arrives(board: Board) -> None:
    room = b.MAIL_BYTES - 20 - 4 * 3 - SILENT.nbytes
    order = Order(os.urandom(room), (1, 2, 3), SILENT)
    post(board, order, DRY)
    assert same(take(board, 0)[1], order)
    with pytest.raises(ControlError):
        post(board, order._replace(program=bytes(room + 1)), DRY)

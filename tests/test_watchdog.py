"""The watchdog: who ends is started anew, who gives no sign is killed, who cannot begin ends the session; nobody is left.

Most tests have a clock of their own and processes that are none; at the end there are some real ones.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sepstream import board as b
from sepstream import session as sessions
from sepstream import watchdog as watchdogs
from sepstream.errors import DeviceError
from sepstream.session import Config, Session
from sepstream.watchdog import (
    AGAIN_S,
    AUDIO_SILENT_S,
    CONTROL_SILENT_S,
    END_S,
    HASTE_S,
    MODEL_SILENT_S,
    OPENING_S,
    TRIES,
    Sign,
    Ward,
    Watchdog,
)

USAGE = 2
TURN_S = 0.1  # between two looks of the parent


@dataclass
class Process:
    """A process that does what a test says."""

    module: str
    began: float
    ended: int | None = None
    killed: bool = False
    waited: list[float] = field(default_factory=list)
    ends_when_asked: bool = True
    pid: int = 4711

    def poll(self) -> int | None:
        return self.ended

    def wait(self, timeout: float | None = None) -> int:
        self.waited.append(-1.0 if timeout is None else timeout)
        if self.ended is None and timeout and self.ends_when_asked:
            self.ended = 0
        if self.ended is None:
            raise subprocess.TimeoutExpired(self.module, timeout or 0)
        return self.ended

    def kill(self) -> None:
        self.killed, self.ended = True, -9


class Stage:
    """A session, a clock that goes when it is told to, and every process that was started."""

    def __init__(self, session: Session) -> None:
        self.session, self.words, self.now = session, session.board.words, 1000.0
        self.started: list[Process] = []
        self._events = session.events()

    def popen(self, command: list[str], **_: Any) -> Process:
        module, name, folder, parent = command[-4:]
        assert (name, folder, parent) == (self._name(module), str(self.session.folder), str(os.getpid()))
        self.started.append(Process(module, self.now))
        return self.started[-1]

    def _name(self, module: str) -> str:
        return {"sepstream.live": "audio", "sepstream.control.host": "control"}[module]

    def of(self, module: str) -> list[Process]:
        return [process for process in self.started if process.module == module]

    @property
    def audio(self) -> Process:
        return self.of("sepstream.live")[-1]

    @property
    def control(self) -> Process:
        return self.of("sepstream.control.host")[-1]

    @property
    def said(self) -> list[str]:
        """Since the last time."""
        return [event.text for event in takewhile(lambda event: event.text, self._events)]

    def look(self, who: Any, seconds: float, signs: Callable[[], None] = lambda: None) -> None:
        """For so long, many times a second, while these signs of life are given."""
        until = self.now + seconds
        while self.now < until:
            self.now += TURN_S
            signs()
            who.look()

    def beat(self) -> None:
        self.words[b.BEAT] += 1

    def sound(self) -> None:
        self.words[b.CALLBACKS] += 1

    def all_well(self) -> None:
        for word in (b.BEAT, b.CALLBACKS, b.HOPS):
            self.words[word] += 1


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(sessions, "SHARED_MEMORY", tmp_path)
    stage = Stage(Session.make(Config()))
    with monkeypatch.context() as patch:
        patch.setattr(watchdogs.time, "monotonic", lambda: stage.now)
        patch.setattr(watchdogs.subprocess, "Popen", stage.popen)
        yield stage
    stage.session.remove()


@pytest.fixture
def dog(stage: Stage) -> Watchdog:
    dog = Watchdog(stage.session)
    dog.start()
    return dog


def play(stage: Stage, dog: Watchdog, seconds: float = 1.0) -> None:
    """A session that has begun well."""
    stage.look(dog, 1.0, stage.all_well)
    stage.words[b.STATE] = b.PLAYING
    stage.look(dog, seconds, stage.all_well)
    assert len(stage.started) == 2 and not stage.said


# Life.


def test_as_long_as_all_is_well_nobody_is_disturbed(stage: Stage, dog: Watchdog) -> None:
    play(stage, dog, 300.0)
    assert not stage.audio.waited and not stage.control.waited


def test_the_control_process_is_there_before_the_sound(stage: Stage, dog: Watchdog) -> None:
    assert [process.module for process in stage.started] == ["sepstream.control.host", "sepstream.live"]
    assert stage.words[b.STATE] == b.OPENING


@pytest.mark.parametrize("which, code", [("audio", 1), ("audio", -11), ("audio", 0), ("control", 1), ("control", -9)])
def test_a_process_that_ends_is_started_anew_and_told_once(stage: Stage, dog: Watchdog, which: str, code: int) -> None:
    play(stage, dog, 10.0)
    getattr(stage, which).ended = code
    other = stage.control if which == "audio" else stage.audio
    stage.look(dog, TURN_S, stage.all_well)
    assert stage.said == [f"the {which} process ended ({code}) and was started anew"]
    assert len(stage.started) == 3 and getattr(stage, which).ended is None and not other.waited
    stage.look(dog, 60.0, stage.all_well)
    assert len(stage.started) == 3 and not stage.said
    assert stage.words[b.RESTARTS] == (which == "audio")


def test_a_process_that_gives_no_sign_is_killed_and_started_anew(stage: Stage, dog: Watchdog) -> None:
    cases = {
        "control": (CONTROL_SILENT_S, [b.CALLBACKS, b.HOPS], "answer"),
        "audio": (AUDIO_SILENT_S, [b.BEAT, b.HOPS], "sound"),
    }
    play(stage, dog)
    for which, (patience, alive, sign) in cases.items():

        def signs(words: list[int] = alive) -> None:
            for word in words:
                stage.words[word] += 1

        old = getattr(stage, which)
        stage.words[b.STATE] = b.PLAYING
        stage.look(dog, 20.0, stage.all_well)
        stage.look(dog, patience - TURN_S, signs)
        assert not old.killed
        stage.look(dog, 3 * TURN_S, signs)
        assert old.killed and getattr(stage, which) is not old
        assert stage.said == [f"the {which} process gave no {sign} any more and was started anew"]


def test_a_model_that_stands_still_while_the_sound_goes_on_is_noticed(stage: Stage, dog: Watchdog) -> None:
    play(stage, dog)

    def dry() -> None:
        stage.beat()
        stage.sound()

    old = stage.audio
    stage.look(dog, MODEL_SILENT_S - TURN_S, dry)
    assert not old.killed
    stage.look(dog, 3 * TURN_S, dry)
    assert old.killed and stage.said == ["the audio process gave no result of the model any more and was started anew"]


def test_a_device_that_is_gone_for_an_hour_is_waited_for(stage: Stage, dog: Watchdog) -> None:
    """The audio process looks for it again and again, and says so by its state."""
    play(stage, dog)
    states = [b.MISSING, b.OPENING]

    def looking() -> None:
        stage.beat()
        stage.words[b.STATE] = states[int(stage.now) % 2]

    stage.look(dog, 3600.0, looking)
    stage.words[b.STATE] = b.PLAYING
    stage.look(dog, 60.0, stage.all_well)
    assert len(stage.started) == 2 and not stage.said


def test_the_first_sign_of_all_may_take_its_time(stage: Stage, dog: Watchdog) -> None:
    stage.look(dog, OPENING_S - 1.0)
    assert len(stage.started) == 2
    stage.look(dog, 2.0)
    assert len(stage.started) == 4 and all(process.killed for process in stage.started[:2])


@pytest.mark.parametrize("which, others", [("audio", [b.BEAT]), ("control", [b.CALLBACKS, b.HOPS])])
def test_a_fresh_process_has_time_to_begin_though_its_forerunner_had(
    stage: Stage, dog: Watchdog, which: str, others: list[int]
) -> None:
    def signs() -> None:
        for word in others:
            stage.words[word] += 1

    play(stage, dog, 20.0)
    getattr(stage, which).ended = 1
    stage.look(dog, OPENING_S - 2.0, signs)
    assert len(stage.started) == 3 and getattr(stage, which).ended is None


def test_a_parent_that_slept_blames_nobody_who_went_on(stage: Stage, dog: Watchdog) -> None:
    play(stage, dog)
    stage.now += 1000.0  # Ctrl-Z
    stage.look(dog, 10.0, stage.all_well)
    assert len(stage.started) == 2


def test_a_process_that_dies_young_is_given_time(stage: Stage, dog: Watchdog) -> None:
    """However often it dies: a try a second, no more."""

    def dying() -> None:
        stage.beat()
        stage.audio.ended = 1

    play(stage, dog)
    stage.look(dog, 30.0, dying)
    starts = [process.began for process in stage.of("sepstream.live")]
    assert min(after - before for before, after in pairwise(starts)) >= AGAIN_S - 1e-6
    assert len(starts) >= 30 / (AGAIN_S + 2 * TURN_S)
    assert stage.words[b.RESTARTS] == len(starts) - 1
    assert len(stage.of("sepstream.control.host")) == 1


def test_a_process_that_lived_long_is_back_at_once(stage: Stage, dog: Watchdog) -> None:
    play(stage, dog, 2 * HASTE_S)
    stage.audio.ended = -9
    stage.look(dog, TURN_S, stage.all_well)
    assert stage.audio.began == stage.now


LIVES = st.lists(st.tuples(st.floats(0.1, 8.0), st.sampled_from([1, 0, -9, None])), min_size=1, max_size=6)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LIVES)
def test_whatever_happens_there_is_one_process_and_it_comes_back(stage: Stage, lives: list[tuple[float, int | None]]) -> None:
    """None: it hangs."""
    stage.started.clear()
    sign = Sign("answer", lambda board: int(board.words[b.BEAT]), lambda _: CONTROL_SILENT_S)
    ward = Ward(stage.session, "control", "sepstream.control.host", (sign,))
    ward.start()
    for seconds, code in lives:
        stage.look(ward, seconds, stage.beat)
        old = stage.control
        old.ended = code
        stage.look(ward, CONTROL_SILENT_S + AGAIN_S + 2 * TURN_S, lambda: stage.beat() if stage.control is not old else None)  # noqa: B023
        assert stage.control is not old and old.ended is not None
        assert [process for process in stage.started if process.ended is None] == [stage.control]
    assert ward.restarts == len(lives) == len(stage.said)


# What cannot begin.


def test_what_refuses_at_first_ends_the_session_with_its_line(stage: Stage, dog: Watchdog) -> None:
    stage.look(dog, 2.0)
    stage.session.refuse("live", "no input device; plug one in")
    stage.audio.ended = USAGE
    with pytest.raises(DeviceError, match=r"^no input device; plug one in$"):
        stage.look(dog, TURN_S)
    assert len(stage.started) == 2 and not stage.said


@pytest.mark.parametrize("which, sign", [("audio", b.BEAT), ("control", b.CALLBACKS)])
def test_what_never_begins_ends_the_session(stage: Stage, dog: Watchdog, which: str, sign: int) -> None:
    def dying() -> None:
        stage.words[sign] += 1
        getattr(stage, which).ended = 1

    with pytest.raises(DeviceError, match=f"the {which} process ended {TRIES} times before it began"):
        stage.look(dog, 30.0, dying)
    assert len(stage.started) == 1 + TRIES


def test_what_refuses_later_is_told_once_and_tried_again(stage: Stage, dog: Watchdog) -> None:
    play(stage, dog, 20.0)

    def refusing() -> None:
        stage.beat()
        if stage.audio.ended is None:
            stage.session.refuse("live", "the bundle is gone")
            stage.audio.ended = USAGE

    stage.look(dog, 10.0, refusing)
    assert stage.said == ["the bundle is gone"]
    assert 5 < len(stage.of("sepstream.live")) < 15
    stage.look(dog, 10.0, stage.all_well)
    assert not stage.said and stage.audio.ended is None


# The end.


def test_at_the_end_nobody_is_left(stage: Stage, dog: Watchdog) -> None:
    play(stage, dog)
    stage.control.ends_when_asked = False
    old = stage.audio, stage.control
    dog.end()
    assert stage.words[b.STOP] == 1
    assert not stage.audio.killed and stage.audio.ended == 0
    assert stage.control.killed and stage.control.waited[0] == END_S
    dog.end()  # gladly twice
    assert (stage.audio, stage.control) == old and dog.audio.pid == dog.control.pid == 0


def test_a_watchdog_that_never_began_ends_too(stage: Stage) -> None:
    Watchdog(stage.session).end()
    assert stage.started == []


# Real processes.

CHILD = """
import os, sys, time
from pathlib import Path
from sepstream import board as b
from sepstream.errors import DeviceError

def main(session):
    words = session.board.words
    name = "life%d" % len(list(session.folder.glob("life*")))
    (session.folder / name).write_text(str(os.getpid()))
    if session.config.model == "refuses":
        raise DeviceError("device 'x' is not there; plug it in")
    words[b.BEAT] += 1
    while not session.over and not (name == "life0" and (session.folder / "hang").exists()):
        words[b.BEAT] += 1
        time.sleep(0.005)
    while not session.over or name == "life0":
        time.sleep(0.005)
"""


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Ward]]:
    """A ward with a child that is one."""
    (tmp_path / "a_child.py").write_text(CHILD)
    monkeypatch.setattr(sessions, "SHARED_MEMORY", tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    wards = []

    def begin(model: str) -> Ward:
        sign = Sign("answer", lambda board: int(board.words[b.BEAT]), lambda _: 0.5)
        wards.append(Ward(Session.make(Config(model=model)), "control", "a_child", (sign,)))
        wards[0].start()
        return wards[0]

    yield begin
    for ward in wards:
        ward.session.board.words[b.STOP] = 1
        ward.end()
        ward.session.remove()


def until(ward: Ward, done: Callable[[], bool]) -> None:
    """Look until then; a process that never gets there is a failure."""
    given_up = time.monotonic() + 60.0
    while not done():
        assert time.monotonic() < given_up
        ward.look()
        time.sleep(0.005)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_real_process_that_hangs_is_replaced_and_the_next_one_ends_by_itself(real: Callable[[str], Ward]) -> None:
    ward = real("plays")
    folder, first = ward.session.folder, ward.pid
    until(ward, lambda: ward.begun)
    (folder / "hang").touch()
    until(ward, lambda: ward.restarts == 1)
    assert gone(first) and (folder / "life0").read_text() == str(first)
    second = ward.pid
    until(ward, (folder / "life1").exists)
    until(ward, lambda: ward.session.board.words[b.BEAT] > 3)
    ward.session.board.words[b.STOP] = 1
    ward.end()
    assert gone(second)


@pytest.mark.skipif(os.name != "posix", reason="process groups are POSIX")
def test_a_real_process_that_refuses_ends_the_session_and_is_in_a_group_of_its_own(real: Callable[[str], Ward]) -> None:
    ward = real("refuses")
    assert os.getpgid(ward.pid) == ward.pid != os.getpgid(0)
    with pytest.raises(DeviceError, match=r"^device 'x' is not there; plug it in$"):
        until(ward, lambda: False)

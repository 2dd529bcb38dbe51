"""A session's folder: made whole, read by several processes at once, gone at the end."""

import json
import os
import subprocess
import sys
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sepstream import board as b
from sepstream import session as sessions
from sepstream.errors import DeviceError
from sepstream.session import Config, Event, Session, View

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
SPEAKER = """
import sys
from pathlib import Path
from sepstream.session import Session
session = Session(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read(1)
for n in range(200):
    session.say(sys.argv[2], f"{n} " + sys.argv[2] * (n % 300))
"""
ORPHAN = """
import os, subprocess, sys
child = '''
import sys, time
from pathlib import Path
from sepstream.session import Session
session = Session(Path(sys.argv[1]))
print(session.orphaned, session.over, flush=True)
sys.stdin.read()
while not session.orphaned:
    time.sleep(0.001)
print(session.orphaned, session.over, flush=True)
'''
with subprocess.Popen([sys.executable, "-c", child, sys.argv[1]], stdin=subprocess.PIPE) as process:
    sys.stdin.read(1)
    os._exit(0)
"""


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where sessions are made, for this test alone."""
    place = tmp_path / "shm"
    place.mkdir()
    monkeypatch.setattr(sessions, "SHARED_MEMORY", place)
    return place


@pytest.fixture
def session(memory: Path) -> Session:
    return Session.make(Config())


def news(events: Any) -> list[Event]:
    """What was said since the last look."""
    return list(takewhile(lambda event: event.text, events))


# The folder.


def test_a_session_is_a_folder_that_others_find_and_nobody_else_may_read(memory: Path) -> None:
    config = Config(preset="karaoke", midi=("nano", "mix"))
    made = Session.make(config, record_channels=2)
    assert made.folder.parent == memory and (made.folder.stat().st_mode & 0o077) == 0
    found = Session(made.folder)
    assert found.config == config
    made.board.words[b.FRAMES] = 42
    assert found.board.words[b.FRAMES] == 42
    assert found.board.record_ring(2) is not None and found.board.record_ring(3) is None


def test_what_is_removed_is_gone_and_what_is_mapped_lives_on(session: Session) -> None:
    other = Session(session.folder)
    session.remove()
    assert not session.folder.exists()
    other.remove()  # gladly twice
    other.board.words[b.STOP] = 1
    assert session.over
    with pytest.raises(DeviceError, match=r"^session '.*' is gone: .*; start sep-live anew$"):
        Session(session.folder)


def test_sessions_side_by_side_have_folders_of_their_own(memory: Path) -> None:
    first, second = Session.make(Config()), Session.make(Config())
    first.remove()
    assert list(memory.iterdir()) == [second.folder]


@pytest.mark.parametrize("fault", [DeviceError("no room"), KeyboardInterrupt()], ids=repr)
def test_a_session_that_cannot_be_made_leaves_nothing_behind(
    memory: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(sessions, "Board", fail)
    with pytest.raises(type(fault)):
        Session.make(Config())
    assert not list(memory.iterdir())


def test_a_system_without_shared_memory_uses_its_place_for_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SHARED_MEMORY", tmp_path / "missing")
    monkeypatch.setattr(sessions.tempfile, "tempdir", str(tmp_path))
    session = Session.make(Config())
    assert session.folder.parent == tmp_path
    session.remove()
    assert not list(tmp_path.iterdir())


# The config.

texts = st.text(max_size=20)
maybe = st.one_of(st.none(), texts)
several = st.lists(texts, max_size=3).map(tuple)
configs = st.builds(
    Config, texts, maybe, maybe, maybe, st.integers(0, 8192), st.one_of(st.none(), st.integers(0, 9999)), texts, several, texts,
    maybe, several,
)  # fmt: skip


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(configs)
def test_what_was_asked_for_is_what_every_process_reads(memory: Path, config: Config) -> None:
    made = Session.make(config)
    assert Session(made.folder).config == made.config == config
    made.remove()


# Events.


def test_events_are_told_in_order_and_each_once(session: Session) -> None:
    events, later = session.events(), Session(session.folder)
    assert news(events) == []
    session.say("audio", "one")
    later.say("control", "two")
    assert news(events) == [Event("audio", "one"), Event("control", "two")]
    assert news(events) == []
    session.say("audio", "three")
    assert news(events) == [Event("audio", "three")]
    assert len(news(later.events())) == 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=[]), min_size=1, max_size=200))
def test_an_event_says_whatever_it_was_told(session: Session, text: str) -> None:
    events = session.events()
    news(events)
    session.say("audio", text)
    assert news(events) == [Event("audio", text)]


def test_events_stay_whole_when_several_processes_speak_at_once(session: Session) -> None:
    names = ["audio", "control", "recorder"]
    commands = [[sys.executable, "-c", SPEAKER, str(session.folder), name] for name in names]
    speakers = [subprocess.Popen(c, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for c in commands]
    for speaker in speakers:
        assert speaker.stdout and speaker.stdout.readline()
    for speaker in speakers:
        assert speaker.stdin
        speaker.stdin.write(b"!")
        speaker.stdin.flush()
    events, told = session.events(), []
    over = False
    while not over:
        over = all(speaker.poll() is not None for speaker in speakers)  # asked before the last look
        told += news(events)
    for speaker in speakers:
        speaker.communicate()
    for name in names:
        assert [event.text for event in told if event.source == name] == [f"{n} " + name * (n % 300) for n in range(200)]
    assert len(told) == 600


def test_a_line_that_is_not_complete_waits_for_its_end(session: Session) -> None:
    events = session.events()
    with (session.folder / "events").open("ab", buffering=0) as file:
        file.write(b'["audio", "ha')
        assert news(events) == []
        file.write(b'lf"]\n')
    assert news(events) == [Event("audio", "half")]


def test_a_process_that_died_while_it_spoke_takes_no_other_line_with_it(session: Session) -> None:
    events = session.events()
    session.say("audio", "before")
    with (session.folder / "events").open("ab") as file:
        file.write(b'["audio", "I was about to s')
    session.say("watchdog", "the audio process ended")
    session.say("control", "after")
    assert news(events) == [Event("audio", "before"), Event("watchdog", "the audio process ended"), Event("control", "after")]


# What is replaced.

VIEW = View("voice", ("a", "residual"), (0.0, -90.0), (True, False), (False, False), -3.0, True, {"a": 1, "residual": 2})


def test_a_view_is_what_was_last_shown(session: Session) -> None:
    other = Session(session.folder)
    assert other.view() == View()
    session.show(VIEW)
    assert same(other.view(), VIEW)
    session.show(replaced := VIEW._replace(buses=(), gains_db=(), slots={}))
    assert same(other.view(), replaced)


def same(shown: View, view: View) -> bool:
    """As JSON tells it."""
    return json.dumps(shown) == json.dumps(view)


def test_what_a_reader_holds_open_is_the_old_view_whole(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the very last step, the rename, the old one stands under the name."""
    session.show(VIEW)
    seen: list[View] = []
    rename = Path.replace

    def looked(part: Path, target: Path) -> Path:
        seen.append(session.view())
        return rename(part, target)

    monkeypatch.setattr(Path, "replace", looked)
    session.show(VIEW._replace(preset="next"))
    assert [view.preset for view in seen] == ["voice"] and session.view().preset == "next"
    assert not list(session.folder.glob("*.part"))


def test_two_who_write_at_once_have_parts_of_their_own(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.replace

    def overtaken(part: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "replace", rename)
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: 1)  # another process, meanwhile
            session.refuse("control", "a much longer reason than the other one has")
        return rename(part, target)

    monkeypatch.setattr(Path, "replace", overtaken)
    session.refuse("live", "no device")
    assert session.refusal() == Event("live", "no device")


def test_the_newest_refusal_is_told_and_none_is_silence(session: Session) -> None:
    assert session.refusal() == Event("", "") and session.device == ""
    session.refuse("live", "one")
    Session(session.folder).refuse("live", "two")
    assert session.refusal() == Event("live", "two")
    session.device = "JACK: a -> b"
    assert Session(session.folder).device == "JACK: a -> b"


# The end.


def test_a_session_is_over_when_the_parent_says_so(session: Session) -> None:
    child = Session(session.folder)
    assert not child.over and not child.orphaned
    session.board.words[b.STOP] = 1
    assert child.over and not child.orphaned


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a dead parent keeps its number")
def test_a_process_whose_parent_died_knows(session: Session) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(session.folder)], env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdin and parent.stdout
        assert parent.stdout.readline() == b"False False\n"
        parent.stdin.write(b"!")
        parent.stdin.close()
        assert parent.stdout.read() == b"True True\n"  # until the orphan has closed it, too

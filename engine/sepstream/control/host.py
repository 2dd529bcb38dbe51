"""The control process: MIDI, OSC, pages and presets in, numbers for the audio process out. One loop, one thread.

    ports and sockets -> requests -> Playing (a value) -> the desk -> the mailbox
                      <- feedback, answers, meters

The web server has a thread of its own beside it (surface/server.py); the loop takes what pages said when it comes by.

It may die at any moment: the sound goes on as it was, the parent starts another, and that one finds the scene in the
session's folder. Nothing from outside can stop the loop; what cannot be done is answered, or told once.
"""

import re
import select
import sys
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .. import board as b
from .. import telemetry
from ..contract import load_bundle
from ..errors import ControlError, SepstreamError
from ..selection import Selection, compile, read_region
from ..session import Session, View
from ..surface import page
from ..surface.address import read_endpoint as read_page_endpoint
from ..surface.protocol import Edit, answer, difference
from . import midi, midi_surface, osc, osc_protocol, player, presets
from .desk import Desk
from .midi_bindings import learn, ready_for, write_bindings
from .midi_ports import Ports, device
from .midi_surface import Surface
from .osc_clients import Patience, Schedule, Subscribers
from .osc_protocol import Ask, AskAll, AskPresets, AskRegion, Ping, SetRegion, Subscribe, Unsubscribe
from .osc_server import Server, read_endpoint
from .player import Playing
from .presets import Preset
from .scene import Scene, unrouted
from .table import Change, Value, parse_set

if TYPE_CHECKING:
    from ..surface.server import Server as PageServer

TURN_S = 0.0015  # between two polls of MIDI
POST_S = 0.004  # between two scenes for the audio process
SHOW_S = 0.05  # between two views for the screen
FEEDBACK_S = 1 / 30
RESCAN_S = 1.0
KEEP_S = 0.2  # the scene on disk may be this old
PAGES_S = 1 / 60  # between two news for pages
ENGINE_S = 0.25  # and between two of the engine
LOG = 64  # lines for a page that comes later
SWITCH_S = 0.0005  # how long the web server's thread may keep the interpreter
ENOUGH_ERRORS = 5  # lines a second for the user
ENOUGH_LISTINGS = 20  # a second: a small question with a large answer is what one floods somebody else with
SCENES, NUMBERS = ("scene", "home", "a", "b", "start"), ("morph", "seconds", "learning")  # of Playing, kept for a next process
DOUBTFUL = re.compile(r".*/select|condition/.*|add/bus|remove/region")  # controls whose values, or names, a model may not know


def opening(config: Any) -> Playing:
    """What a session begins with: the preset, or a bus for each leaf, with the settings of the command line. Raises
    SepstreamError."""
    bundle = load_bundle(config.model)
    if config.preset is None:
        playing = player.begin(Preset(Scene(Selection.stems(bundle))))
    else:
        playing = player.begin(presets.load(config.preset), config.preset)
        with presets.about(f"preset '{config.preset}': "):
            compile(playing.scene.selection, bundle)
    for text in config.settings:
        change = parse_set(text)
        _check_recording(change, config)
        playing = player.put(playing, Change(player.canonical(playing, change.name), change.value), 0.0, _named)
    return replace(playing, home=playing.scene, recording=playing.recording or config.record is not None)


def _check_recording(change: Change, config: Any) -> None:
    """Raises ControlError where there is no folder to record to."""
    if change.name == "record" and change.value and config.record is None:
        raise ControlError("record: there is no folder to record to; start sep-live with --record DIR")


class Host:
    """The loop's state and its steps. Raises SepstreamError when it cannot begin."""

    def __init__(self, session: Session) -> None:
        self.session, self.board = session, session.board
        self.bundle = load_bundle(session.config.model)
        self.playing = self._resume() or opening(session.config)
        self.desk = Desk(self.bundle, self.board)
        self.desk.slots |= session.view().slots
        self.last = ""
        self._posted: Scene | None = None
        self._kept: dict[str, Any] = {}  # what the next control process would find
        self._shown: View | None = None
        self._moved: dict[str, Value] = {}  # controls that changed since the subscribers were told
        self._times: dict[str, float] = {}
        self._errors = self._listings = 0
        self._shape = -1
        endpoint = read_endpoint(session.config.osc)
        self.server = Server(*endpoint) if endpoint else None
        self.subscribers, self.schedule, self.patience = Subscribers(), Schedule(), Patience()
        self.ports, self.surface = Ports(session.config.midi), Surface()
        self._decoders: dict[str, midi.DecoderState] = {}
        self.pages = self._open_pages()
        self._told: dict[str, Any] = {}  # to pages
        self._listed: tuple[str, ...] = ()
        self._events, self._log = session.events(), deque[tuple[str, str]](maxlen=LOG)
        self._bindings = self.playing.bindings

    def run(self) -> None:
        """Until the session is over."""
        try:
            while not self.session.over:
                self._sleep()
                self.turn(time.monotonic())
        finally:
            self.close()

    def close(self) -> None:
        """Ports and sockets."""
        self.ports.close()
        if self.server:
            self.server.close()
        if self.pages:
            self.pages.close()
            self._viewer.close()

    def turn(self, now: float) -> None:
        """Hear everybody, move on, tell everybody."""
        self.board.words[b.BEAT] += 1
        if self._due("rescan", RESCAN_S, now):
            self._rescan()
            self._errors = self._listings = 0
        before = self.playing
        self._hear_osc(now)
        self._hear_midi(now)
        self._hear_pages(now)
        self.playing = player.tick(self.playing, now)
        if self.playing.scene is not before.scene:
            self._note_differences(before, now)
        self._post(now)
        self._tell(now)

    def _sleep(self) -> None:
        if self.server:
            select.select([self.server], [], [], TURN_S)
        else:
            time.sleep(TURN_S)

    def _due(self, what: str, every_s: float, now: float) -> bool:
        if now - self._times.get(what, -1e9) < every_s:
            return False
        self._times[what] = now
        return True

    # OSC.

    def _hear_osc(self, now: float) -> None:
        if self.server is None:
            return
        for sender, data in self.server.receive():
            if self.patience.listens(sender, now):
                try:
                    self.schedule = self.schedule.add(sender, osc.decode(data, time.time()), now)
                except ControlError as error:
                    self._refuse(sender, error, now)
        waiting, self.schedule = self.schedule.due(now)
        for _, sender, message in waiting:
            try:
                self._obey(sender, message, now)
            except SepstreamError as error:
                self._refuse(sender, error, now)

    def _obey(self, sender: osc.Client, message: osc.Message, now: float) -> None:
        match osc_protocol.request(message):
            case Change() as change:
                self._change(change, now, f"/{change.name}", sender)
            case SetRegion(name, region):
                before = self.playing
                self._accept(player.put_region(before, self._region_name(name), region, now), check=True)
                self._note_differences(before, now, sender)
                self.last = f"/region/{name}"
            case Ask(name):
                self._answer(sender, osc_protocol.value_message(name, player.get(self.playing, name)))
            case AskRegion(name):
                name = self._region_name(name)
                self._answer(sender, osc_protocol.region_message(name, self._region(name)))
            case AskPresets():
                self._answer(sender, *(osc.Message("/preset", (preset.name,)) for preset in presets.listing()))
            case AskAll() if self._listings < ENOUGH_LISTINGS:
                self._listings += 1
                self._answer(sender, *osc_protocol.listing(self._values()))
            case Subscribe() as wish:
                present = self._labels() | self._values() | player.told(self.playing)
                self.subscribers = self.subscribers.add(sender, wish, now, present)
            case Unsubscribe(port):
                self.subscribers = self.subscribers.remove(sender, port)
            case Ping():
                self._answer(sender, osc.Message("/pong", ()))

    def _region(self, name: str) -> Any:
        if name not in self._regions:
            raise ControlError(f"/region/{name}: the scene has no such region; it has {', '.join(self._regions) or 'none'}")
        return dict(self.playing.scene.selection.regions)[name]

    def _region_name(self, name: str) -> str:
        """A region that is there may go by its place, 1 for the first."""
        place = int(name) if name.isdecimal() and name.isascii() and len(name) < 4 else 0
        return self._regions[place - 1] if name not in self._regions and 1 <= place <= len(self._regions) else name

    def _labels(self) -> dict[str, Value]:
        return osc_protocol.labels(self._buses, self._regions)

    def _answer(self, client: osc.Client, *messages: osc.Message) -> None:
        if self.server:
            self.server.send(client, osc_protocol.news(messages, self._buses, False, self._regions))

    def _refuse(self, sender: osc.Client, error: Exception, now: float) -> None:
        answer, self.patience = self.patience.error(sender, now)
        if answer:
            self._answer(sender, osc_protocol.error_message(error))

    # MIDI.

    def _rescan(self) -> None:
        lines = self.ports.rescan()
        for line in lines:
            self.session.say("midi", line)
        if lines:
            self.surface = midi_surface.forget(self.surface)
        self._listed = tuple(preset.name for preset in presets.listing())
        self._bind()

    def _bind(self) -> None:
        """The preset's bindings, and ready ones for controllers that it does not mention."""
        bindings = self.playing.bindings
        named = {binding.port.lower() for binding in bindings if binding.port}
        for port in dict.fromkeys(map(device, self.ports.names.inputs)):
            if not any(name in port.lower() for name in named):
                bindings = bindings.plus(ready_for(port))
        if bindings != self._bindings:
            self._bindings, self.surface = bindings, midi_surface.refit(self.surface, bindings)
            self._decoders.clear()

    def _hear_midi(self, now: float) -> None:
        for port, data in self.ports.poll():
            state = self._decoders.get(port) or midi.DecoderState(wide=self._bindings.wide)
            messages, self._decoders[port] = midi.decode(data, state)
            for message in messages:
                if self.playing.learning:
                    self._learn(port, message)
                else:
                    self._play(port, message, now)

    def _play(self, port: str, message: midi.Message, now: float) -> None:
        changes, self.surface = midi_surface.hear(port, message, self._bindings, self._unit, self.surface, now=now)
        for change in changes:
            try:
                self._change(change, now, f"{device(port)} {message.kind} {message.number}")
            except SepstreamError as error:
                self._complain("midi", error)

    def _learn(self, port: str, message: midi.Message) -> None:
        try:
            found = learn(device(port), message, self.playing.learning)
        except SepstreamError as error:
            self._complain("midi", error)
            found = None
        if found is not None:
            text = f"{message.kind} {message.number} of {device(port)} plays {found.control} now; save the preset to keep it"
            self.session.say("midi", text)
            before = self.playing
            self.playing = replace(before, bindings=before.bindings.learned(found), learning="")
            self._bind()
            self._note_told(before, time.monotonic(), None)

    def _unit(self, name: str) -> float:
        return player.get_unit(self.playing, name)

    # Pages.

    def _open_pages(self) -> "PageServer | None":
        endpoint = read_page_endpoint(self.session.config.surface)
        if endpoint is None:
            return None
        from ..surface.server import Server as PageServer  # noqa: PLC0415 - a web server is for those who want one
        from ..surface.watch import Viewer  # noqa: PLC0415

        self._viewer = Viewer(self.board, self.bundle, lambda: self.desk.slots)
        pages = PageServer(*endpoint, token=self.session.config.surface_token, look=self._viewer.look)
        pages.start()
        return pages

    def _hear_pages(self, now: float) -> None:
        for number, edit in self.pages.receive() if self.pages else ():
            if edit is None:
                self._welcome(number)
                continue
            error = None
            try:
                self._edit(edit, now)
            except SepstreamError as reason:
                error = reason
            if self.pages and (error or edit.id is not None):
                self.pages.send(number, answer(edit.id, error))

    def _welcome(self, number: int) -> None:
        """A page that has just come in."""
        if self.pages:
            self._spread()  # to the others, what it is told at once
            log = [list(line) for line in self._log]
            self.pages.send(number, page.hello(self.bundle, "live"), {"state": self._told, "gone": []}, {"log": log})

    def _edit(self, edit: Edit, now: float) -> None:
        """All of it or, where SepstreamError is raised, nothing; one step of undo."""
        before = self.playing
        try:
            for name, value in edit.steps:
                self._step(name, value, now)
        except SepstreamError:
            self.playing = before
            self._bind()
            raise
        self.playing = player.as_one(before, self.playing, " ".join(name for name, _ in edit.steps), now)

    def _step(self, name: str, value: Any, now: float) -> None:
        kind, _, of = name.partition("/")
        if kind == "region" and of and "/" not in of:
            region = read_region(of, value)
            self._accept(player.put_region(self.playing, self._region_name(of), region, now), check=True)
            self.last = f"/{name}"
        else:
            self._change(Change(name, value), now, f"/{name}")

    def _page_state(self) -> dict[str, Any]:
        return page.state(self.playing, self._listed, f"{self.server.address[0]}:{self.server.address[1]}" if self.server else "")

    def _tell_pages(self, now: float) -> None:
        for event in self._events:
            if not event.text:
                break
            self._log.append((event.source, event.text))
            if self.pages:
                self.pages.tell({"log": [list(event)]})
        if self.pages and len(self.pages):
            self._spread()
            if self._due("engine", ENGINE_S, now):
                self.pages.tell(page.engine(telemetry.read(self.board)))

    def _spread(self) -> None:
        """What is not as it was."""
        new = self._page_state()
        if self.pages and (news := difference(self._told, new)):
            self._told = new
            self.pages.tell(news)

    # What all do.

    def _change(self, change: Change, now: float, source: str, sender: osc.Client | None = None) -> None:
        """One control. Raises SepstreamError; then nothing has changed."""
        before = self.playing
        if change.name == "preset/save":
            self._save(str(change.value))
            self._note_told(before, now, sender)
            self.last = f"{source} {change.value}"
            return
        _check_recording(change, self.session.config)
        name = player.canonical(self.playing, change.name)
        playing = player.put(before, Change(name, change.value), now, _named)
        for scene in (playing.home, playing.a, playing.b):  # where presets lead
            if scene is not None:
                self.desk.check(scene)
        self._accept(playing, check=bool(DOUBTFUL.fullmatch(name)))
        self.last = f"{source} {_shown(change.value)}"
        if playing.bindings is not before.bindings:
            self._bind()
        self._note_told(before, now, sender)
        if playing.scene is before.scene or name in player.names(playing):
            value = {name: player.get(playing, name)} if name in player.names(playing) else {}
            self.subscribers = self.subscribers.changed(value, now, sender)

    def _accept(self, playing: Playing, check: bool) -> None:
        if check:
            self.desk.check(playing.scene)
        self.playing = playing

    def _save(self, name: str) -> None:
        path = presets.save(name, self.playing.scene, write_bindings(self.playing.bindings))
        self.playing = replace(self.playing, preset=name, home=self.playing.scene)
        self._listed = tuple(preset.name for preset in presets.listing())
        self.session.say("control", f"saved as '{path}'")

    def _complain(self, source: str, error: Exception) -> None:
        """To the user, but not for ever."""
        self._errors += 1
        if self._errors <= ENOUGH_ERRORS:
            self.session.say(source, str(error))

    @property
    def _buses(self) -> tuple[str, ...]:
        return self.playing.scene.selection.names

    @property
    def _regions(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.playing.scene.selection.regions)

    def _values(self, playing: Playing | None = None) -> dict[str, Value]:
        playing = playing or self.playing
        return {name: player.get(playing, name) for name in player.names(playing)}

    def _note_differences(self, before: Playing, now: float, sender: osc.Client | None = None) -> None:
        """For subscribers: everything that is not as it was."""
        if len(self.subscribers):
            old, new = self._values(before), self._values()
            if before.scene.selection != self.playing.scene.selection:
                new |= self._labels()
            self.subscribers = self.subscribers.changed({k: v for k, v in new.items() if old.get(k) != v}, now, sender)

    def _note_told(self, before: Playing, now: float, sender: osc.Client | None) -> None:
        """For subscribers: which preset plays, what is being learnt."""
        old, new = player.told(before), player.told(self.playing)
        self.subscribers = self.subscribers.changed({k: v for k, v in new.items() if old[k] != v}, now, sender)

    # The way out.

    def _post(self, now: float) -> None:
        """The newest scene to the audio process, not more often than that is of use."""
        words = self.board.words
        words[b.RECORD_WANTED] = int(self.playing.recording)
        try:
            if self.playing.scene is not self._posted and self._due("post", POST_S, now):
                self._posted = self.playing.scene
                self.desk.play(self.playing.scene)
            self.desk.refresh()
        except SepstreamError as error:
            self._complain("control", error)
        if self._shape != words[b.SHAPE] and words[b.OUTPUTS]:
            self._shape = int(words[b.SHAPE])
            for line in unrouted(self.playing.scene, int(words[b.OUTPUTS])):
                self.session.say("control", line)

    def _tell(self, now: float) -> None:
        if self._due("feedback", FEEDBACK_S, now):
            messages, self.surface = midi_surface.feedback(self._bindings, self._unit_or_zero, self.surface, now)
            for port, data in messages:
                self.ports.send(port, data)
        self._publish(now)
        if self.pages and self._due("pages", PAGES_S, now):
            self._tell_pages(now)
        if self._due("show", SHOW_S, now):
            self._show()
        if self._due("keep", KEEP_S, now):
            self._keep()

    def _unit_or_zero(self, name: str) -> float:
        """A fader without a bus goes down, its LED dark."""
        try:
            return self._unit(name)
        except ControlError:
            return 0.0

    def _publish(self, now: float) -> None:
        """Changes and meters to those who subscribed."""
        if self.server is None or not len(self.subscribers):
            return
        news, self.subscribers = self.subscribers.due(now)
        if not news:
            return
        meters = osc_protocol.telemetry_messages(telemetry.read(self.board), self._buses)
        for client, by_place, changes in news:
            values = tuple(osc_protocol.value_message(change.name, change.value) for change in changes)
            self.server.send(client, osc_protocol.news((*values, *meters), self._buses, by_place, self._regions))

    def _show(self) -> None:
        scene = self.playing.scene
        strips = (*scene.selection.buses, *([scene.selection.residual] if scene.selection.residual else []))
        view = View(
            preset=self.playing.preset,
            buses=self._buses,
            gains_db=tuple(strip.gain_db for strip in strips),
            mutes=tuple(strip.mute for strip in strips),
            solos=tuple(strip.solo for strip in strips),
            master_gain_db=scene.master_gain_db,
            bypass=scene.bypass,
            slots=dict(self.desk.slots),
            last=self.last,
            learning=self.playing.learning,
            osc=":".join(map(str, self.server.address)) if self.server else "",
            midi=tuple(map(device, self.ports.names.inputs)),
            surface=self.pages.url if self.pages else "",
        )
        if view != self._shown:
            self.session.show(view)
            self._shown = view

    def _keep(self) -> None:
        """For the next control process."""
        playing = self.playing
        bindings = write_bindings(playing.bindings)
        for name in SCENES:
            scene = getattr(playing, name)
            if scene is not None and (scene, bindings) != self._kept.get(name):
                presets.write_whole(self.session.scene_of(name), presets.dump(scene, bindings))
                self._kept[name] = (scene, bindings)
        rest = {"scenes": [name for name in SCENES if getattr(playing, name) is not None]}
        rest |= {name: getattr(playing, name) for name in NUMBERS}
        if rest != self._kept.get("rest"):
            self.session.keep("playing.json", rest)
            self._kept["rest"] = rest

    def _resume(self) -> Playing | None:
        """What another control process left behind. A morph that took its time ends where it was."""
        rest = self.session.note("playing.json", None)
        if rest is None:
            return None
        playing = player.begin(presets.load(self.session.scene_path), self.session.view().preset)
        scenes: dict[str, Any] = {name: presets.load(self.session.scene_of(name)).scene for name in rest.pop("scenes")}
        return replace(playing, recording=bool(self.board.words[b.RECORD_WANTED]), **scenes, **rest)


def _named(name: str) -> Preset:
    """A preset that may be asked for from outside: by its name, never by a path."""
    return presets.load(presets.named(name))


def _shown(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main(session: Session) -> None:
    """The control process of sep-live. Raises SepstreamError when it cannot begin."""
    sys.setswitchinterval(SWITCH_S)
    Host(session).run()

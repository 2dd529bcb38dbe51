"""What is being played, as one frozen value, and what a change of a control makes of it. Pure: time and files come in.

Around the scene stand the things that are no part of it: the preset it came from, the two ends of a morph and where it
is between them, the bindings, what waits for a controller to be moved, whether the recorder runs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ..disk import Region
from ..errors import ControlError, SepstreamError
from . import scene as scenes
from .history import History
from .midi_bindings import Bindings, read_bindings
from .presets import Preset, about
from .scene import Scene
from .table import Change, Value, find

Load = Callable[[str], Preset]


@dataclass(frozen=True)
class Glide:
    """A morph that takes its time."""

    start: Scene
    end: Scene
    began: float
    seconds: float

    def at(self, now: float) -> tuple[Scene, bool]:
        """The scene now, and whether it has arrived."""
        share = 1.0 if self.seconds <= 0 else min((now - self.began) / self.seconds, 1.0)
        return scenes.morph(self.start, self.end, share), share >= 1.0


@dataclass(frozen=True)
class Playing:
    """Everything that a performer has set."""

    scene: Scene
    home: Scene  # as the preset had it
    preset: str = ""
    bindings: Bindings = field(default_factory=Bindings)
    a: Scene | None = None  # the ends of the morph; None: what plays when it begins
    b: Scene | None = None
    start: Scene | None = None  # where the present morph began, if there is no A
    morph: float = 0.0
    seconds: float = 5.0
    glide: Glide | None = None
    learning: str = ""  # the control that waits for a controller
    recording: bool = False
    history: History = field(default_factory=History)


def begin(preset: Preset, name: str = "") -> Playing:
    """A session's first moment. Raises ControlError for bindings that cannot be read."""
    return Playing(preset.scene, preset.scene, name, _bindings(preset, name))


def names(playing: Playing) -> tuple[str, ...]:
    """Of all controls that have a value."""
    return (*scenes.names(playing.scene), *OWN)


def told(playing: Playing) -> dict[str, Value]:
    """What some actions did last. No part of ``names``: to set it once more would do it once more."""
    return {"preset/load": playing.preset, "learn": playing.learning}


def get(playing: Playing, name: str) -> Value:
    """Raises ControlError for a control that is not there, or is an action that does not tell."""
    if name in told(playing):
        return told(playing)[name]
    return OWN[name](playing) if name in OWN else scenes.get(playing.scene, name)


def canonical(playing: Playing, name: str) -> str:
    """With places turned into names."""
    return name if name in OWN else scenes.canonical(playing.scene, name)


def get_unit(playing: Playing, name: str) -> float:
    """0..1 along the control's own curve."""
    return find(name).to_unit(get(playing, name))


def put(playing: Playing, change: Change, now: float, load: Load) -> Playing:
    """What ``change`` makes of it; numbers beyond their range go as far as they can. Raises SepstreamError."""
    return _noted(playing, _put(playing, change, now, load), canonical(playing, change.name), now)


def put_region(playing: Playing, name: str, region: Region, now: float) -> Playing:
    """A region as a whole. Raises SepstreamError."""
    after = _edited(playing, lambda scene: scenes.put_region(scene, name, region))
    return _noted(playing, after, f"region/{name}", now)


def as_one(before: Playing, after: Playing, what: str, now: float) -> Playing:
    """``after``, as one step of undo away from ``before``, however many changes led there."""
    if len(after.history.past) <= len(before.history.past):  # nothing, or undo itself
        return after
    return replace(after, history=before.history.noted(before.scene, what, now))


def _noted(before: Playing, after: Playing, what: str, now: float) -> Playing:
    """Another scene can be taken back, and so can one that is on its way."""
    leaves = after.scene != before.scene or (after.glide is not None and after.glide is not before.glide)
    if not leaves or after.history is not before.history:
        return after
    return replace(after, history=before.history.noted(before.scene, what, now))


def _put(playing: Playing, change: Change, now: float, load: Load) -> Playing:
    action = _ACTIONS.get(change.name)
    if action is None:
        return _edited(playing, lambda scene: scenes.put(scene, change, clamp=True))
    value = find(change.name).accept(change.value, clamp=True, name=change.name)
    return action(playing, value, now, load)


def _edited(playing: Playing, edit: Callable[[Scene], Scene]) -> Playing:
    """A hand on a control ends a glide, for the hand is right; amid a morph it moves the ends of it, too, or the next step
    of the morph would take back what it did."""

    def end(scene: Scene | None, moved: bool) -> Scene | None:
        if scene is None or not moved:
            return scene
        try:
            return edit(scene)
        except SepstreamError:  # no such bus at this end
            return scene

    a, start = (end(scene, playing.morph < 1.0) for scene in (playing.a, playing.start))
    return replace(playing, scene=edit(playing.scene), glide=None, a=a, start=start, b=end(playing.b, playing.morph > 0.0))


def tick(playing: Playing, now: float) -> Playing:
    """One step of a morph that takes its time."""
    if playing.glide is None:
        return playing
    scene, arrived = playing.glide.at(now)
    return replace(playing, scene=scene, glide=None if arrived else playing.glide)


def _load(playing: Playing, name: Value, _now: float, load: Load) -> Playing:
    preset = load(str(name))
    bindings = _bindings(preset, str(name)) if preset.midi else playing.bindings  # a preset without any leaves them be
    return replace(_at_rest(playing, preset.scene), home=preset.scene, preset=str(name), bindings=bindings)


def _at_rest(playing: Playing, scene: Scene) -> Playing:
    """``scene``, and no morph on the way: the next begins here."""
    return replace(playing, scene=scene, glide=None, morph=0.0, start=None)


def _bindings(preset: Preset, name: str) -> Bindings:
    with about(f"preset '{name}': " if name else ""):
        return read_bindings(preset.midi)


def _end(side: str) -> Callable[[Playing, Value, float, Load], Playing]:
    def act(playing: Playing, name: Value, _now: float, load: Load) -> Playing:
        scene = load(str(name)).scene if name else playing.scene
        if side == "a":
            return replace(playing, a=scene)
        return replace(playing, b=scene)

    return act


def _morph(playing: Playing, value: Value, _now: float, _load: Load) -> Playing:
    if playing.b is None:
        raise ControlError("morph: there is no B; set preset/b first")
    start, share = playing.start or playing.scene, float(value)  # type: ignore[arg-type]
    scene = scenes.morph(playing.a or start, playing.b, share)
    return replace(playing, start=start, morph=share, scene=scene, glide=None)


def _glide(playing: Playing, name: Value, now: float, load: Load) -> Playing:
    end = load(str(name)).scene
    if playing.seconds > 0:
        scenes.morph(playing.scene, end, 0.5)  # raises now, not on the way, when nobody is there to be told
    glide = Glide(playing.scene, end, now, playing.seconds)
    return tick(replace(_at_rest(playing, playing.scene), home=end, preset=str(name), glide=glide), now)


def _learn(playing: Playing, name: Value, _now: float, _load: Load) -> Playing:
    if name:
        get_unit(playing, str(name))  # raises for what takes no position
    return replace(playing, learning=str(name))


def _panic(playing: Playing, value: Value, _now: float, _load: Load) -> Playing:
    return _at_rest(playing, playing.home) if value else playing


def _step(way: Callable[[History, Scene], tuple[Scene, History]]) -> Callable[[Playing, Value, float, Load], Playing]:
    def act(playing: Playing, value: Value, _now: float, _load: Load) -> Playing:
        if not value:
            return playing
        scene, history = way(playing.history, playing.scene)
        return replace(_at_rest(playing, scene), history=history)

    return act


def _edit(edit: Callable[[Scene, str], Scene]) -> Callable[[Playing, Value, float, Load], Playing]:
    """What only makes sense for the scene that plays, and not for the ends of a morph."""

    def act(playing: Playing, value: Value, _now: float, _load: Load) -> Playing:
        return replace(playing, scene=edit(playing.scene, str(value)), glide=None)

    return act


OWN: Mapping[str, Callable[[Playing], Value]] = {  # controls that are no part of a scene, and have a value
    "morph": lambda playing: playing.morph,
    "morph/seconds": lambda playing: playing.seconds,
    "record": lambda playing: playing.recording,
    "undo": lambda _: False,
    "redo": lambda _: False,
    "panic": lambda _: False,
}
_ACTIONS: dict[str, Callable[[Playing, Value, float, Load], Playing]] = {
    "preset/load": _load,
    "preset/a": _end("a"),
    "preset/b": _end("b"),
    "preset/morph": _glide,
    "morph": _morph,
    "morph/seconds": lambda playing, value, _now, _load: replace(playing, seconds=float(value)),  # type: ignore[arg-type]
    "learn": _learn,
    "record": lambda playing, value, _now, _load: replace(playing, recording=bool(value)),
    "add/bus": _edit(scenes.add_bus),
    "rename/bus": _edit(scenes.rename_bus),
    "remove/bus": _edit(scenes.remove_bus),
    "remove/region": _edit(scenes.remove_region),
    "undo": _step(History.back),
    "redo": _step(History.forth),
    "panic": _panic,
}

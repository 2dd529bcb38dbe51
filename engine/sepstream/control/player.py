"""What is being played, as one frozen value, and what a change of a control makes of it. Pure: time and files come in.

Around the scene stand the things that are no part of it: the preset it came from, the two ends of a morph and where it
is between them, the bindings, what waits for a controller to be moved, whether the recorder runs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ..disk import Region
from ..errors import ControlError
from . import scene as scenes
from .midi_bindings import Bindings, read_bindings
from .presets import Preset
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
    morph: float = 0.0
    seconds: float = 5.0
    glide: Glide | None = None
    learning: str = ""  # the control that waits for a controller
    recording: bool = False


def begin(preset: Preset, name: str = "") -> Playing:
    """A session's first moment. Raises ControlError for bindings that cannot be read."""
    return Playing(preset.scene, preset.scene, name, read_bindings(preset.midi))


def names(playing: Playing) -> tuple[str, ...]:
    """Of all controls that have a value."""
    return (*scenes.names(playing.scene), *_OWN)


def get(playing: Playing, name: str) -> Value:
    """Raises ControlError for a control that is not there, or is an action."""
    return _OWN[name](playing) if name in _OWN else scenes.get(playing.scene, name)


def canonical(playing: Playing, name: str) -> str:
    """With places turned into names."""
    return name if name in _OWN else scenes.canonical(playing.scene, name)


def get_unit(playing: Playing, name: str) -> float:
    """0..1 along the control's own curve."""
    return find(name).to_unit(get(playing, name))


def put(playing: Playing, change: Change, now: float, load: Load) -> Playing:
    """What ``change`` makes of it; numbers beyond their range go as far as they can. Raises SepstreamError."""
    action = _ACTIONS.get(change.name)
    if action is None:  # a hand on a control ends a glide: the hand is right
        return replace(playing, scene=scenes.put(playing.scene, change, clamp=True), glide=None)
    value = find(change.name).accept(change.value, clamp=True, name=change.name)
    return action(playing, value, now, load)


def put_region(playing: Playing, name: str, region: Region) -> Playing:
    return replace(playing, scene=scenes.put_region(playing.scene, name, region), glide=None)


def tick(playing: Playing, now: float) -> Playing:
    """One step of a morph that takes its time."""
    if playing.glide is None:
        return playing
    scene, arrived = playing.glide.at(now)
    return replace(playing, scene=scene, glide=None if arrived else playing.glide)


def _load(playing: Playing, name: Value, _now: float, load: Load) -> Playing:
    preset = load(str(name))
    bindings = read_bindings(preset.midi) if preset.midi else playing.bindings  # a preset without any leaves them be
    return replace(playing, scene=preset.scene, home=preset.scene, preset=str(name), bindings=bindings, glide=None)


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
    a = playing.a or playing.scene
    return replace(playing, a=a, morph=float(value), scene=scenes.morph(a, playing.b, float(value)), glide=None)  # type: ignore[arg-type]


def _glide(playing: Playing, name: Value, now: float, load: Load) -> Playing:
    end = load(str(name)).scene
    if playing.seconds > 0:
        scenes.morph(playing.scene, end, 0.5)  # raises now, not on the way, when nobody is there to be told
    glide = Glide(playing.scene, end, now, playing.seconds)
    return tick(replace(playing, home=end, preset=str(name), glide=glide), now)


def _learn(playing: Playing, name: Value, _now: float, _load: Load) -> Playing:
    if name:
        get_unit(playing, str(name))  # raises for what takes no position
    return replace(playing, learning=str(name))


def _panic(playing: Playing, value: Value, _now: float, _load: Load) -> Playing:
    return replace(playing, scene=playing.home, glide=None) if value else playing


_OWN: dict[str, Callable[[Playing], Value]] = {
    "morph": lambda playing: playing.morph,
    "morph/seconds": lambda playing: playing.seconds,
    "record": lambda playing: playing.recording,
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
    "panic": _panic,
}

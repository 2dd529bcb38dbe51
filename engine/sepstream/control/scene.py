"""The scene: everything that controls have set, as one frozen value, and what follows from it for the outputs.

Pure functions: read and change a scene by the names of the table, mix two scenes, and work out the gains that the audio
process plays. A scene that a model cannot play (a class it does not have) is found out by selection.compile, not here.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..disk import RIM, Annulus, Certain, Disc, Lasso, Region
from ..errors import ControlError, ExpressionError, nearest
from ..expression import parse, quoted, without_region
from ..selection import RESIDUAL, Bus, Selection, Strip, Weight, read_bus
from .table import CONDITION, TABLE, Change, Control, Value, find

F32 = NDArray[np.float32]
S = TypeVar("S", bound=Strip)
T = TypeVar("T")

OUTPUTS = {"master/gain_db": "master_gain_db", "bypass": "bypass", "late/gain_db": "late_gain_db"}
ROWS = {row.name: row for row in TABLE}
STRIP = {field.name: ROWS[f"bus/{{bus}}/{field.name}"] for field in fields(Strip)}
SMOOTH = ROWS["bus/{bus}/smooth_ms"]


@dataclass(frozen=True)
class Scene:
    """The buses with their regions, and what acts on all of them. Raises ControlError for a value out of range."""

    selection: Selection
    master_gain_db: float = 0.0
    bypass: bool = False
    late_gain_db: float = 0.0

    def __post_init__(self) -> None:
        for name, field in OUTPUTS.items():
            ROWS[name].accept(getattr(self, field))


# By name.


def names(scene: Scene) -> tuple[str, ...]:
    """Of all controls that the scene has a value for."""
    buses = [f"bus/{name}/{key}" for name, strip in _strips(scene) for key in _strip_keys(strip)]
    regions = [f"region/{name}/{key}" for name, region in scene.selection.regions for key in _region_keys(region)]
    conditions = [f"condition/{target}/{name}" for target, name, _ in scene.selection.conditions]
    return (*OUTPUTS, *buses, *regions, *conditions)


def canonical(scene: Scene, name: str) -> str:
    """The name with places (bus/1/mute) turned into names (bus/drums/mute). Raises ControlError if the scene has no such bus
    or region, or the bus or region no such control."""
    find(name)
    kind, _, rest = name.partition("/")
    if kind not in ("bus", "region") or not rest:
        return name
    of, _, key = rest.partition("/")
    known: Mapping[str, Any] = dict(_strips(scene) if kind == "bus" else scene.selection.regions)
    of = _place(kind, of, tuple(known))
    keys = _strip_keys(known[of]) if kind == "bus" else _region_keys(known[of])
    if key not in keys:
        what = f"bus '{of}'" if kind == "bus" else f"region '{of}', {_article(known[of])},"
        raise ControlError(f"{what} has no '{key}'; {nearest(key, keys)}")
    return f"{kind}/{of}/{key}"


def get(scene: Scene, name: str) -> Value:
    """Raises ControlError for a name that ``canonical`` does not take, or that is no part of a scene (preset/load)."""
    kind, of, key = _split(scene, name)
    if kind == "bus":
        strip = dict(_strips(scene))[of]
        value: Value = str(strip.expression) if key == "select" and isinstance(strip, Bus) else getattr(strip, key)
    elif kind == "region":
        value = getattr(dict(scene.selection.regions)[of], key)
    elif kind == "condition":
        value = _weights(scene.selection).get((of, key), _plain(of, key))
    else:
        value = getattr(scene, key)
    return value


def put(scene: Scene, change: Change, *, clamp: bool = False) -> Scene:
    """The scene with one control changed, and nothing else.

    With ``clamp`` a number that is out of range, or at odds with its neighbours (a centre off the disk, an inner radius
    beyond the outer one), goes as far as it can. Raises ControlError.
    """
    kind, of, key = _split(scene, change.name)
    value: Any = find(change.name).accept(change.value, clamp=clamp, name=change.name)
    with _about(change.name):
        if kind == "bus":
            return _change_strip(scene, of, key, value)
        if kind == "region":
            region = dict(scene.selection.regions)[of]
            low, high = _room(region, key) if clamp else (-math.inf, math.inf)
            return put_region(scene, of, replace(region, **{key: min(max(value, low), high)}))
        if kind == "condition":
            weights = _weights(scene.selection) | {(of, key): value}
            return replace(scene, selection=replace(scene.selection, conditions=_conditions(weights)))
        return replace(scene, **{key: value})


def put_region(scene: Scene, name: str, region: Region) -> Scene:
    """The scene with a named region replaced, or added as the last one. Raises ControlError."""
    regions = dict(scene.selection.regions) | {name: region}
    with _about(f"region {quoted(name)}"):
        return replace(scene, selection=replace(scene.selection, regions=tuple(regions.items())))


def add_bus(scene: Scene, text: str) -> Scene:
    """One more bus, as the last: NAME=EXPRESSION, or residual. Raises ControlError."""
    selection = scene.selection
    with _about("add/bus"):
        if text.strip() == RESIDUAL:
            if selection.residual is not None:
                raise ControlError("add/bus residual: the scene has it already")
            return replace(scene, selection=replace(selection, residual=Strip()))
        return replace(scene, selection=replace(selection, buses=(*selection.buses, read_bus(text))))


def rename_bus(scene: Scene, text: str) -> Scene:
    """OLD=NEW. Raises ControlError."""
    old, equals, new = (part.strip() for part in text.partition("="))
    if not equals:
        raise ControlError(f"rename/bus {quoted(text)} has no '='; expected OLD=NEW")
    old = _place("bus", old, scene.selection.names)
    if old == RESIDUAL:
        raise ControlError("rename/bus: the residual keeps its name")
    with _about("rename/bus"):
        buses = tuple(replace(bus, name=new) if bus.name == old else bus for bus in scene.selection.buses)
        return replace(scene, selection=replace(scene.selection, buses=buses))


def remove_bus(scene: Scene, name: str) -> Scene:
    """Raises ControlError, also for the last one."""
    name, selection = _place("bus", name, scene.selection.names), scene.selection
    if name == RESIDUAL:
        return replace(scene, selection=replace(selection, residual=None))
    buses = tuple(bus for bus in selection.buses if bus.name != name)
    if not buses:
        raise ControlError(f"remove/bus {name}: a scene has one bus at least; add another one first")
    return replace(scene, selection=replace(selection, buses=buses))


def remove_region(scene: Scene, name: str) -> Scene:
    """The buses that took it go on with what else they take. Raises ControlError for a bus that takes nothing else."""
    selection = scene.selection
    name = _place("region", name, tuple(dict(selection.regions)))
    buses = []
    for bus in selection.buses:
        rest = without_region(bus.expression, name)
        if rest is None:
            raise ControlError(f"remove/region {name}: bus '{bus.name}' takes nothing else; remove the bus, or give it something")
        buses.append(replace(bus, expression=rest) if rest != bus.expression else bus)
    regions = tuple((known, region) for known, region in selection.regions if known != name)
    return replace(scene, selection=replace(selection, buses=tuple(buses), regions=regions))


def _split(scene: Scene, name: str) -> tuple[str, str, str]:
    """("bus", "drums", "mute"), ("region", "1", "x"), ("condition", "drums", "bass"), or ("", "", the field of the scene)."""
    name = canonical(scene, name)
    if name in OUTPUTS:
        return "", "", OUTPUTS[name]
    kind, _, rest = name.partition("/")
    of, _, key = rest.partition("/")
    if kind not in ("bus", "region", "condition"):
        raise ControlError(f"control '{name}' is no part of a scene; it can be sent, but not set in a preset or asked for")
    return kind, of, key


def _weights(selection: Selection) -> dict[tuple[str, str], float]:
    return {(target, name): value for target, name, value in selection.conditions}


def _conditions(weights: Mapping[tuple[str, str], float]) -> tuple[Weight, ...]:
    """In the order of their names, which keeps those of a target together."""
    return tuple(Weight(*names, value) for names, value in sorted(weights.items()))


def _plain(target: str, name: str) -> float:
    """Where nothing is said: each target is its own class."""
    return float(target == name)


def _place(kind: str, of: str, known: tuple[str, ...]) -> str:
    """A name as it is, or the name that is in this place."""
    if of in known:
        return of
    if of.isdecimal() and 1 <= int(of) <= len(known):
        return known[int(of) - 1]
    if not known:
        raise ControlError(f"unknown {kind} {quoted(of)}; the scene has none")
    raise ControlError(f"unknown {kind} {quoted(of)}; {nearest(of, known)}, or a place from 1 to {len(known)}")


def _strips(scene: Scene) -> Iterator[tuple[str, Strip]]:
    return zip(scene.selection.names, scene.selection.strips, strict=True)


def _strip_keys(strip: Strip) -> tuple[str, ...]:
    return (*STRIP, "smooth_ms", "select") if isinstance(strip, Bus) else tuple(STRIP)


def _region_keys(region: Region) -> tuple[str, ...]:
    """The numbers of its shape."""
    return tuple(key for key in (*region.parameters(), "soft") if f"region/{{region}}/{key}" in ROWS)


def _article(region: Region) -> str:
    return f"{'an' if region.call[0] in 'ae' else 'a'} {region.call}"


def _change_strip(scene: Scene, of: str, key: str, value: Any) -> Scene:
    selection = scene.selection
    if of == RESIDUAL:
        assert selection.residual is not None
        return replace(scene, selection=replace(selection, residual=replace(selection.residual, **{key: value})))
    new: dict[str, Any] = {"expression": parse(value)} if key == "select" else {key: value}
    buses = tuple(replace(bus, **new) if bus.name == of else bus for bus in selection.buses)
    return replace(scene, selection=replace(selection, buses=buses))


def _room(region: Region, key: str) -> tuple[float, float]:
    """How far a number of the region may go as long as the others stay."""
    match region, key:
        case ((Disc() | Annulus()), ("x" | "y")):
            reach = _chord(region.y if key == "x" else region.x)
            return -reach, reach
        case Annulus(), "inner":
            return 0.0, region.outer
        case Annulus(), "outer":
            return region.inner, math.inf
        case Certain(), "low":
            return 0.0, region.high
        case Certain(), "high":
            return region.low, 1.0
    return -math.inf, math.inf


def _chord(offset: float) -> float:
    """Half of the chord of the disk at this distance from the middle, a hair less."""
    return math.sqrt(max(RIM * RIM - offset * offset, 0.0)) * (1 - 1e-12)


@contextmanager
def _about(what: str) -> Iterator[None]:
    """An ExpressionError inside becomes a ControlError about ``what``."""
    try:
        yield
    except ExpressionError as error:
        raise ControlError(f"{what}: {error}") from None


# What plays.


def matrix(scene: Scene, inputs: int, outputs: int) -> F32:
    """(outputs, buses + 1, inputs): the gain of each channel of each bus at each output; the last is the dry input.

    A bus goes to its outputs as ``_routes`` says, in the strength of fader, balance, wet and master; what wet leaves comes
    from the dry input. A solo anywhere silences the buses without one, mute beats solo. Bypass takes it all away for the
    dry input at unity.
    """
    selection = scene.selection
    gains = np.zeros((outputs, len(selection.names) + 1, inputs))
    if scene.bypass:
        gains[:, -1] = _straight(selection.strips, inputs, outputs)
        return gains.astype(np.float32)
    for index, (strip, fader) in enumerate(zip(selection.strips, selection.gains().tolist(), strict=True)):
        strength = -fader if strip.invert else fader
        routes = strength * _balance(strip, outputs)[:, None] * _routes(strip, inputs, outputs)
        gains[:, index] += strip.wet * routes
        gains[:, -1] += (1.0 - strip.wet) * routes
    gains *= _master(scene)
    return gains.astype(np.float32)


def dry(scene: Scene, inputs: int, outputs: int) -> F32:
    """(outputs, inputs): the gains of the input where the model is late and the input plays instead of all buses.

    An output is as loud as the loudest bus that feeds it would be: silent when all are muted, unity when all are at
    unity. Bypass is unity.
    """
    strips = scene.selection.strips
    straight = _straight(strips, inputs, outputs)
    if scene.bypass:
        return straight.astype(np.float32)
    faders = scene.selection.gains().tolist()
    loudest = np.max([fader * _balance(s, outputs) * _fed(s, outputs) for s, fader in zip(strips, faders, strict=True)], axis=0)
    straight *= _master(scene) * _linear(ROWS["late/gain_db"], scene.late_gain_db) * loudest[:, None]
    return straight.astype(np.float32)


def unrouted(scene: Scene, outputs: int) -> tuple[str, ...]:
    """A line for each bus that wants channels which a device with so many outputs does not have."""
    return tuple(
        f"bus '{name}': output {', '.join(map(str, missing))}; the device has {outputs} output{'s' * (outputs != 1)}"
        for name, strip in _strips(scene)
        if (missing := [channel for channel in strip.outputs if channel > outputs])
    )


def _present(strip: Strip, outputs: int) -> list[int]:
    """Its outputs that the device has, from 0."""
    return [channel - 1 for channel in strip.outputs if channel <= outputs]


def _routes(strip: Strip, inputs: int, outputs: int) -> NDArray[np.float64]:
    """(outputs, inputs) at unity: the channels of the bus go to its outputs in turn, and round again if there are more
    outputs than channels; where there are fewer, an output gets the mean of its channels."""
    routes, present = np.zeros((outputs, inputs)), _present(strip, outputs)
    lanes = min(len(present), inputs)
    for place, output in enumerate(present):
        mine = range(place % lanes, inputs, lanes)
        routes[output, mine] = 1.0 / len(mine)
    return routes


def _balance(strip: Strip, outputs: int) -> NDArray[np.float64]:
    """(outputs,): linear balance between the odd and the even ones of the bus's outputs, unity in the centre. One output
    alone has none."""
    balance, present = np.ones(outputs), _present(strip, outputs)
    if len(present) > 1:
        balance[present[::2]] = min(1.0, 1.0 - strip.pan)
        balance[present[1::2]] = min(1.0, 1.0 + strip.pan)
    return balance


def _fed(strip: Strip, outputs: int) -> NDArray[np.float64]:
    """(outputs,): 1 where the bus goes."""
    fed = np.zeros(outputs)
    fed[_present(strip, outputs)] = 1.0
    return fed


def _straight(strips: Iterable[Strip], inputs: int, outputs: int) -> NDArray[np.float64]:
    """(outputs, inputs): the input at unity wherever a bus goes, once; the first bus that goes there says how."""
    straight, free = np.zeros((outputs, inputs)), np.ones(outputs)
    for strip in strips:
        straight += free[:, None] * _routes(strip, inputs, outputs)
        free *= 1.0 - _fed(strip, outputs)
    return straight


def _master(scene: Scene) -> float:
    return _linear(ROWS["master/gain_db"], scene.master_gain_db)


def _linear(control: Control, gain_db: float) -> float:
    """0 at the lower end of the fader."""
    return 0.0 if gain_db <= control.low else float(10.0 ** (gain_db / 20.0))


# Between two scenes.


def morph(a: Scene, b: Scene, share: float) -> Scene:
    """``share`` of the way from ``a`` (0) to ``b`` (1), both ends exactly.

    Numbers go as their faders go; switches, texts and channels change half-way. A bus or a region of the same name in both
    moves from one to the other; a bus of one scene only comes from off or goes to off, behind those of ``a``. Raises
    ControlError if there are too many of them together.
    """
    if share <= 0.0 or share >= 1.0:
        return b if share >= 1.0 else a
    one, two = a.selection, b.selection
    buses = _merge({bus.name: bus for bus in one.buses}, {bus.name: bus for bus in two.buses}, share, _blend_bus, _fade)
    residual = _merge(_residual(one), _residual(two), share, _blend_strip, _fade)
    regions = _merge(dict(one.regions), dict(two.regions), share, _blend_region, lambda region, _: region)
    with _about("morph"):
        conditions = _blend_conditions(_weights(one), _weights(two), share)
        selection = Selection(tuple(buses.values()), residual.get(RESIDUAL), tuple(regions.items()), conditions)
    ends: dict[str, Any] = {
        field: ROWS[name].blend(getattr(a, field), getattr(b, field), share) for name, field in OUTPUTS.items()
    }
    return Scene(selection, **ends)


def _blend_conditions(a: dict[tuple[str, str], float], b: dict[tuple[str, str], float], share: float) -> tuple[Weight, ...]:
    """What only one of them says, the other has as it is by itself."""
    row, either = ROWS[CONDITION], dict.fromkeys([*a, *b])
    blended: dict[tuple[str, str], Any] = {
        names: row.blend(a.get(names, _plain(*names)), b.get(names, _plain(*names)), share) for names in either
    }
    return _conditions(blended)


def _merge(
    a: Mapping[str, T], b: Mapping[str, T], share: float, both: Callable[[T, T, float], T], alone: Callable[[T, float], T]
) -> dict[str, T]:
    """All names of ``a``, then the others of ``b``; ``alone`` is told how much is there of what only one has."""
    merged = {name: both(item, b[name], share) if name in b else alone(item, 1.0 - share) for name, item in a.items()}
    return merged | {name: alone(item, share) for name, item in b.items() if name not in a}


def _residual(selection: Selection) -> dict[str, Strip]:
    return {RESIDUAL: selection.residual} if selection.residual else {}


def _blend_strip(a: S, b: S, share: float) -> S:
    changes: dict[str, Any] = {key: row.blend(getattr(a, key), getattr(b, key), share) for key, row in STRIP.items()}
    return replace(b if share >= 0.5 else a, **changes)


def _blend_bus(a: Bus, b: Bus, share: float) -> Bus:
    smooth_ms: Any = SMOOTH.blend(a.smooth_ms, b.smooth_ms, share)
    return replace(_blend_strip(a, b, share), smooth_ms=smooth_ms)


def _fade(strip: S, share: float) -> S:
    fader = STRIP["gain_db"]
    gain_db: Any = fader.blend(fader.ends[0], strip.gain_db, share)
    return replace(strip, gain_db=gain_db)


def _blend_region(a: Region, b: Region, share: float) -> Region:
    """Of the same shape: in between; of different ones: half-way from the one to the other."""
    nearer = b if share >= 0.5 else a
    if type(a) is not type(b):
        return nearer
    rows = {key: ROWS[f"region/{{region}}/{key}"] for key in _region_keys(a)}
    values: dict[str, Any] = {key: row.blend(getattr(a, key), getattr(b, key), share) for key, row in rows.items()}
    if isinstance(a, Lasso) and isinstance(b, Lasso) and len(a.points) == len(b.points):
        values["points"] = tuple(_between(p, q, share) for p, q in zip(a.points, b.points, strict=True))
    return replace(nearer, **_tidy(values, isinstance(a, Disc | Annulus)))


def _tidy(values: dict[str, Any], on_disk: bool) -> dict[str, Any]:
    """What lies between two regions is one, but for rounding: a centre on the disk, an inner radius within the outer one."""
    for inner, outer in (("inner", "outer"), ("low", "high")):
        if inner in values:
            values[inner] = min(values[inner], values[outer])
    if on_disk and (norm := math.hypot(values["x"], values["y"])) > RIM:
        values |= {key: values[key] * (RIM / norm) * (1 - 1e-12) for key in "xy"}
    return values


def _between(p: tuple[float, float], q: tuple[float, float], share: float) -> tuple[float, float]:
    return p[0] + (q[0] - p[0]) * share, p[1] + (q[1] - p[1]) * share

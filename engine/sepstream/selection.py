"""Buses: which classes and regions each one takes, with fader, mute and solo; named regions; presets; the compiler.

What a bus takes is said in the language of expression.py. A preset is a TOML file:

    residual = true            # one more bus: the mix without all that the others take; or a table, as of a bus
    [buses.voice]              # in the order of the outputs
    select = "speech & region(1)"  # required; the others are not: smooth_ms, gain_db, mute, solo, pan, wet, invert, outputs
    gain_db = 3.0
    [regions.1]                # for region(1), by the name and the parameters of its shape
    disc = {x = 0.5, y = 0.2, r = 0.8, soft = 0.1}
    [conditions.drums]         # what a conditioned model is asked for as its target drums, 0 to 1 of each class;
    drums = 0.7                # classes that are not named here: 1 of its own, nothing of the others
    bass = 0.3

and may hold the tables [live] and [midi], which control/presets.py reads. Values are frozen; any thread may make and
compile them.
"""

import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .contract import Bundle, DiskSpec
from .disk import REGIONS, Annulus, Band, Cell, Certain, Disc, Ellipse, HalfPlane, Lasso, Region, Side
from .errors import ExpressionError, nearest
from .expression import (
    GAIN_DB,
    REGION_NAME,
    Area,
    Expression,
    Gain,
    Mix,
    Named,
    Not,
    Pair,
    Ref,
    db_to_gain,
    located,
    make_region,
    parse,
    quoted,
)
from .paths import data_dir, user_presets
from .program import NUMBERS, Code, Program

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

RESIDUAL = "residual"  # the bus of everything that the others leave
BUS_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
MAX_BUSES = 64
MAX_REGIONS = 64
MAX_OUTPUTS = 8  # of one bus
MAX_OUTPUT = 64
MAX_PRESET_BYTES = 1 << 20
OFF_DB = -90.0  # a fader that stands here, or lower, is off
OPERATORS = {"&": kernels.BOTH, "|": kernels.EITHER, "-": kernels.WITHOUT, "+": kernels.SUM}
LIMITS = {"gain_db": GAIN_DB, "pan": (-1.0, 1.0), "wet": (0.0, 1.0), "smooth_ms": (0.0, 2000.0)}
WEIGHTS = (0.0, 1.0)  # of a class in a condition
LIVE_TABLES = ("live", "midi")  # of a preset; files have no use for them


@dataclass(frozen=True, kw_only=True)
class Strip:
    """What a mixing desk does to one bus. Files take fader, mute and solo; the rest says how it reaches the outputs.

    ``wet`` is the share of the bus, the rest is the input, delayed alike. ``outputs`` count from 1.
    """

    gain_db: float = 0.0
    mute: bool = False
    solo: bool = False
    pan: float = 0.0
    wet: float = 1.0
    invert: bool = False
    outputs: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        with located(f"bus '{self._label()}'"):
            self._check()

    def _label(self) -> str:
        return RESIDUAL

    def _check(self) -> None:
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name, low)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise ExpressionError(f"{name} {quoted(value)}; expected a number from {low:g} to {high:g}")
        for name in ("mute", "solo", "invert"):
            if not isinstance(getattr(self, name), bool):
                raise ExpressionError(f"{name} {quoted(getattr(self, name))}; expected true or false")
        check_outputs(self.outputs)

    @property
    def fader(self) -> float:
        """Linear; 0 where it is off. Mute and solo are not in it."""
        return db_to_gain(self.gain_db) if self.gain_db > OFF_DB else 0.0


@dataclass(frozen=True)
class Bus(Strip):
    """One output: what it takes, its strip, and the time constant with which its mask follows the model's."""

    name: str
    expression: Expression
    smooth_ms: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        _check_name("bus", self.name, BUS_NAME)
        if self.name.lower() == RESIDUAL:
            raise ExpressionError(
                f"bus name '{self.name}' is kept for what the others leave; expected another name, or residual = true"
            )
        super().__post_init__()

    def _label(self) -> str:
        return self.name


def check_outputs(outputs: Any) -> None:
    """Raises ExpressionError for anything but 1 to MAX_OUTPUTS different channels from 1 to MAX_OUTPUT."""
    numbers = isinstance(outputs, tuple) and all(type(channel) is int and 1 <= channel <= MAX_OUTPUT for channel in outputs)
    if not numbers or not 1 <= len(set(outputs)) == len(outputs) <= MAX_OUTPUTS:
        shown = list(outputs) if isinstance(outputs, tuple) else outputs
        wanted = f"1 to {MAX_OUTPUTS} different channels from 1 to {MAX_OUTPUT}, such as [1, 2]"
        raise ExpressionError(f"outputs {quoted(shown)}; expected {wanted}")


class Weight(NamedTuple):
    """How much of a class a conditioned model is asked for as its ``target``; by default 1 of the target's own class, 0 of
    others. So the classes that expressions name are what they were asked to be, and blend in every bus that takes them."""

    target: str
    name: str
    value: float


@dataclass(frozen=True)
class Selection:
    """The buses in order; ``residual`` is the strip of one more, the mix without all that the others take; the regions
    that expressions know as region(NAME); what a conditioned model is asked for, where it is not each class alone."""

    buses: tuple[Bus, ...]
    residual: Strip | None = None
    regions: tuple[tuple[str, Region], ...] = ()
    conditions: tuple[Weight, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= MAX_BUSES:
            raise ExpressionError(f"{len(self.names)} buses; expected 1 to {MAX_BUSES}")
        if len(self.regions) > MAX_REGIONS:
            raise ExpressionError(f"{len(self.regions)} regions; expected {MAX_REGIONS} at most")
        for name, _ in self.regions:
            _check_name("region", name, REGION_NAME)
        for weight in self.conditions:
            _check_weight(weight)
        _check_apart("conditions", [f"{weight.target}/{weight.name}" for weight in self.conditions])
        _check_apart("buses", [bus.name for bus in self.buses])
        _check_apart("regions", [name for name, _ in self.regions])

    @property
    def names(self) -> tuple[str, ...]:
        """Of the buses, the residual's last."""
        return tuple(bus.name for bus in self.buses) + (RESIDUAL,) * (self.residual is not None)

    @property
    def strips(self) -> tuple[Strip, ...]:
        """Of all buses, in the order of ``names``."""
        return self.buses + ((self.residual,) if self.residual else ())

    def gains(self) -> F32:
        """(buses,) linear: where each fader stands. A solo anywhere silences the buses without one; mute beats solo."""
        any_solo = any(strip.solo for strip in self.strips)
        return np.array([0.0 if s.mute or (any_solo and not s.solo) else s.fader for s in self.strips], np.float32)

    @classmethod
    def stems(cls, bundle: Bundle, which: str = "leaves", residual: bool = False) -> "Selection":
        """One bus for each class: "leaves", "parents", "all", or NAME,NAME,..."""
        groups = {"leaves": bundle.leaves, "parents": bundle.parents, "all": bundle.class_names}
        names = groups.get(which) or tuple(name.strip() for name in which.split(","))
        for name in names:
            if name not in bundle.class_names:
                raise ExpressionError(f"unknown class {quoted(name)}; {nearest(name, [*groups, *bundle.class_names])}")
        return cls(tuple(Bus(name, Named(name)) for name in names), Strip() if residual else None)


def _check_name(what: str, name: Any, pattern: re.Pattern[str]) -> None:
    if not (isinstance(name, str) and pattern.fullmatch(name)):
        raise ExpressionError(f"{what} name {quoted(name)}; expected 1 to 64 letters, digits, _ and -")


def _check_weight(weight: Weight) -> None:
    low, high = WEIGHTS
    for name in weight[:2]:
        _check_name("class", name, BUS_NAME)
    value = weight.value
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ExpressionError(
            f"condition {weight.target}/{weight.name} {quoted(value)}; expected a number from {low:g} to {high:g}"
        )


def _check_apart(what: str, names: Iterable[str]) -> None:
    """Buses become file names, and some file systems do not tell a from A."""
    taken: set[str] = set()
    for name in names:
        if name.lower() in taken:
            raise ExpressionError(f"two {what} named '{name}'; expected names that differ in more than case")
        taken.add(name.lower())


def read_bus(text: str) -> Bus:
    """``NAME=EXPRESSION`` -> Bus. Raises ExpressionError; columns count from the expression's first character."""
    name, equals, expression = text.partition("=")
    if not equals:
        raise ExpressionError(f"bus {quoted(text)} has no '='; expected NAME=EXPRESSION, such as vox=speech")
    return _bus(name.strip(), {"select": expression.strip()})


def load_preset(preset: str | Path) -> Selection:
    """A shipped preset or the user's own by name, or a TOML file by path. Raises ExpressionError."""
    path = preset_path(preset)
    with located(f"preset '{path.stem}'"):
        return read_selection(read_toml(path))


def preset_paths() -> dict[str, Path]:
    """The shipped presets and the user's own by name; the user's win."""
    found = [path for folder in (data_dir("presets"), user_presets()) for path in sorted(folder.glob("*.toml"))]
    return {path.stem: path for path in found}


def preset_path(preset: str | Path) -> Path:
    """A name, or anything that looks like a path -> where it lies. Raises ExpressionError for a name that nobody knows."""
    path = Path(preset)
    if isinstance(preset, Path) or path.suffix == ".toml" or len(path.parts) > 1:
        return path
    known = preset_paths()
    if preset not in known:
        raise ExpressionError(f"preset {quoted(preset)} is neither shipped nor a .toml file; {nearest(preset, known)}")
    return known[preset]


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a file of at most MAX_PRESET_BYTES. Raises ExpressionError."""
    try:
        with path.open("rb") as file:
            return parse_toml(file.read(MAX_PRESET_BYTES + 1))
    except OSError as error:
        raise ExpressionError(f"'{path}' cannot be read: {error.strerror}; check the path and its permissions") from None


def parse_toml(data: bytes) -> dict[str, Any]:
    """The tables of a text of at most MAX_PRESET_BYTES. Raises ExpressionError."""
    if len(data) > MAX_PRESET_BYTES:
        raise ExpressionError(f"longer than {MAX_PRESET_BYTES} bytes")
    try:
        return tomllib.loads(data.decode("utf8"))
    except (ValueError, RecursionError) as error:  # tomllib's own errors, and numbers of thousands of digits
        raise ExpressionError(f"it is not TOML: {' '.join(str(error).split())[:200]}") from None


def compile(selection: Selection, bundle: Bundle) -> Program:
    """All buses as one program. Raises ExpressionError for a class or a kind of region that the model does not have."""
    writer, hop_ms = _Writer(bundle, dict(selection.regions)), 1000.0 * bundle.stft.hop_samples / bundle.sample_rate_hz
    for index, bus in enumerate(selection.buses):
        with located(f"bus '{bus.name}'"):
            writer.expression(bus.expression)
            writer.check_smooth(bus)
        writer.put(kernels.BUS, index, numbers=(math.exp(-hop_ms / bus.smooth_ms) if bus.smooth_ms else 0.0,))
    if selection.residual:
        writer.put(kernels.RESIDUAL, len(selection.buses))
    return Program(bundle, selection.names, writer.code(_conditions(selection, bundle)), selection.gains())


def _conditions(selection: Selection, bundle: Bundle) -> F64:
    """(classes, classes): a row for each target; (0, 0) where the model is not asked for anything."""
    names = bundle.class_names
    if selection.conditions and not bundle.conditioned:
        target, name, _ = selection.conditions[0]
        raise ExpressionError(
            f"condition {target}/{name}: model '{bundle.name}' is not asked for classes, it finds all of them; leave conditions "
            "out, or use a conditioned model"
        )
    matrix = np.eye(len(names) if bundle.conditioned else 0)
    for weight in selection.conditions:
        for name in weight[:2]:
            if name not in names:
                raise ExpressionError(
                    f"condition {weight.target}/{weight.name}: unknown class {quoted(name)}; {nearest(name, names)}"
                )
        matrix[names.index(weight.target), names.index(weight.name)] = weight.value
    return matrix


class _Writer:
    """The program while it is written, operands before operators."""

    def __init__(self, bundle: Bundle, regions: Mapping[str, Region]) -> None:
        self.bundle, self.disk, self.names, self.regions = bundle, bundle.disk, bundle.class_names, regions
        self.width = bundle.embedding_dim + 1
        self.steps: list[tuple[int, int, int]] = []
        self.numbers: list[tuple[float, ...]] = []
        self.forms: list[tuple[float, ...]] = []
        self.outlines: list[tuple[float, float]] = []
        self.drawn: dict[tuple[tuple[float, float], ...], int] = {}  # where the points of a lasso begin

    def put(self, op: int, a: int = 0, b: int = 0, numbers: tuple[float, ...] = ()) -> None:
        self.steps.append((op, a, b))
        self.numbers.append(numbers + (0.0,) * (NUMBERS - len(numbers)))

    def code(self, conditions: F64) -> Code:
        return Code(
            steps=np.array(self.steps, np.int32),
            numbers=np.array(self.numbers, np.float64),
            forms=np.array(self.forms, np.float64).reshape(-1, 2 + self.width),
            outlines=np.array(self.outlines, np.float64).reshape(-1, 2),
            conditions=conditions,
        )

    def expression(self, expression: Expression) -> None:
        match expression:
            case Mix():
                self.put(kernels.MIX)
            case Named(name, column):
                self.put(kernels.CLASS, self._class(name, column))
            case Area(region, column):
                self._region(region, column)
            case Ref(name, column):
                if name not in self.regions:
                    raise ExpressionError(f"column {column}: unknown region '{name}'; {nearest(name, self.regions)}")
                self._region(self.regions[name], column)
            case Not(of):
                self.expression(of)
                self.put(kernels.NOT)
            case Gain(of=of):
                self.expression(of)
                self.put(kernels.GAIN, numbers=(expression.factor,))
            case Pair("-", Mix(), right):  # what it says, for masks as well, and spectra have no other
                self.expression(Not(right))
            case Pair(operator, left, right):
                self._check_masks(operator)
                self.expression(left)
                self.expression(right)
                self.put(OPERATORS[operator])

    def _check_masks(self, operator: str) -> None:
        """Spectra can be added, not multiplied."""
        if self.bundle.gives_spectra and operator != "+":
            raise ExpressionError(
                f"'{operator}' needs masks, model '{self.bundle.name}' gives spectra; expected sums and gains of "
                f"{', '.join(self.names)} and mix, 'mix - ...' or '~...', or a model of masks"
            )

    def check_smooth(self, bus: Bus) -> None:
        if self.bundle.gives_spectra and bus.smooth_ms:
            raise ExpressionError(
                f"smooth_ms {bus.smooth_ms:g} smooths masks, model '{self.bundle.name}' gives spectra; "
                "expected 0, or a model of masks"
            )

    def _class(self, name: str, column: int) -> int:
        if name not in self.names:
            raise ExpressionError(f"column {column}: unknown class '{name}'; {nearest(name, ['mix', *self.names])}")
        return self.names.index(name)

    def _disk_for(self, region: Region, column: int) -> DiskSpec:
        """The model's disk, if ``region`` can be measured on it."""
        disk = self.disk
        if disk is None:
            raise ExpressionError(
                f"column {column}: {region.call} needs a disk, model '{self.bundle.name}' has classes only; "
                f"expected {', '.join(self.names)} or mix, or a model with a disk"
            )
        if region.needs_disk and (disk.curvature == 0 or disk.dim != 2):
            space = "Euclidean" if disk.curvature == 0 else f"of {disk.dim} dimensions"
            raise ExpressionError(
                f"column {column}: {region.call} needs a disk, the model's space is {space}; expected cell(NAME) or side(NAME)"
            )
        return disk

    def _region(self, region: Region, column: int) -> None:
        disk = self._disk_for(region, column)
        match region:
            case Disc() | HalfPlane() | Annulus() | Certain():
                self._band(region.band(), region.soft)
            case Cell(name=name):
                self._cell(self._class(name, column), region.soft, disk)
            case Side(name=name):
                row = self._row(_class_form(disk, self._class(name, column), 1.0))
                self.put(kernels.BAND, row, numbers=(0.0, math.inf, region.soft))
            case Ellipse(x=x, y=y, a=a, b=b):
                turn = math.radians(region.angle)
                self.put(kernels.ELLIPSE, numbers=(x, y, math.cos(turn), math.sin(turn), a, b, region.soft))
            case Lasso(points=points):
                if points not in self.drawn:
                    self.drawn[points] = len(self.outlines)
                    self.outlines += points
                self.put(kernels.LASSO, self.drawn[points], self.drawn[points] + len(points), (region.soft,))

    def _band(self, band: Band, soft: float) -> None:
        kind = kernels.POINT if band.around == "point" else kernels.LINE
        self.put(kernels.BAND, self._row((kind, 1.0, *band.vector)), numbers=(band.low, band.high, soft))

    def _cell(self, own: int, soft: float, disk: DiskSpec) -> None:
        """The level's logits, in units of twice its mean steepness (disk.Cell), lie in rows side by side."""
        level = [self.names.index(name) for name in self._level(self.names[own])]
        unit = 2 * sum(disk.scale[index] for index in level) / len(level)
        rows = [_class_form(disk, index, disk.scale[index] / unit) for index in level]
        starts = [at for at in range(len(self.forms)) if self.forms[at : at + len(rows)] == rows] or [len(self.forms)]
        if starts[0] == len(self.forms):
            self.forms += rows
        self.put(kernels.CELL, starts[0], starts[0] + len(rows), (level.index(own), soft))

    def _level(self, name: str) -> tuple[str, ...]:
        """The classes that share the bins with ``name``: all leaves, or all parents."""
        level = self.bundle.leaves if name in self.bundle.leaves else self.bundle.parents
        if name not in level:
            raise ExpressionError(f"cell({name}): the class is in the middle of the tree; {nearest(name, level)}")
        return level

    def _row(self, form: tuple[float, ...]) -> int:
        """Where ``form`` is measured: once, however many regions use it."""
        if form not in self.forms:
            self.forms.append(form)
        return self.forms.index(form)


def _class_form(disk: DiskSpec, index: int, factor: float) -> tuple[float, ...]:
    return (kernels.LINE if disk.curvature else kernels.FLAT, factor, *disk.vectors[index])


def read_selection(table: Mapping[str, Any]) -> Selection:
    """The buses and regions of a preset's tables. Raises ExpressionError, unknown keys included."""
    _check_keys(table, (RESIDUAL, "buses", "regions", "conditions", *LIVE_TABLES), "key")
    buses, regions, conditions = _tables(table, "buses"), _tables(table, "regions"), _tables(table, "conditions")
    return Selection(
        tuple(_bus(name, entry) for name, entry in buses.items()),
        _residual(table.get(RESIDUAL, False)),
        tuple((name, read_region(name, entry)) for name, entry in regions.items()),
        tuple(Weight(target, name, value) for target, row in conditions.items() for name, value in _weights(target, row).items()),
    )


def _weights(target: str, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ExpressionError(f"conditions.{target} {quoted(row)}; expected a table of classes and numbers, such as bass = 0.3")
    return row


def _tables(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = table.get(key, {})
    if not isinstance(found, dict):
        raise ExpressionError(f"{key} {quoted(found)}; expected tables [{key}.NAME]")
    return found


def _residual(entry: Any) -> Strip | None:
    if isinstance(entry, bool):
        return Strip() if entry else None
    if not isinstance(entry, dict):
        raise ExpressionError(f"{RESIDUAL} {quoted(entry)}; expected true, false or a table [{RESIDUAL}]")
    with located(RESIDUAL):
        return Strip(**_settings(Strip, entry))


def _bus(name: str, entry: Any) -> Bus:
    """A bus from a table of ``select`` and, if wanted, the fields that a Bus has beside its name and expression."""
    if not isinstance(entry, dict):
        raise ExpressionError(f"bus {quoted(name)}: {quoted(entry)}; expected a table [buses.NAME] with select")
    with located(f"bus {quoted(name)}"):
        _check_keys(entry, ["select", *_names(Bus)], "key")
        settings = _settings(Bus, {key: value for key, value in entry.items() if key != "select"})
        select = entry.get("select")
        if not isinstance(select, str):
            raise ExpressionError(f'select {quoted(select)}; expected an expression in quotes, such as "speech"')
        expression = parse(select)
    return Bus(name, expression, **settings)


def _settings(kind: type[Strip], entry: Mapping[str, Any]) -> dict[str, Any]:
    """TOML's values as those of a strip; its lists are our tuples."""
    _check_keys(entry, _names(kind), "key")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}


def _names(kind: type[Strip]) -> list[str]:
    return [field.name for field in fields(kind) if field.kw_only]


def read_region(name: str, entry: Any) -> Region:
    """A region from a table of one shape with its parameters."""
    with located(f"region {quoted(name)}"):
        if not isinstance(entry, dict) or len(entry) != 1:
            raise ExpressionError(f"{quoted(entry)}; expected one shape, such as disc = {{x = 0.5, y = 0.2, r = 0.8}}")
        ((shape, values),) = entry.items()
        _check_keys([shape], REGIONS, "shape")
        kind = REGIONS[shape]
        if not isinstance(values, dict):
            raise ExpressionError(f"{shape} {quoted(values)}; expected a table of {', '.join(kind.parameters())} and maybe soft")
        with located(shape):
            _check_keys(values, [*kind.parameters(), "soft"], "key")
        named = {key: value for key, value in values.items() if key != "points"}
        return make_region(kind, _points(values.get("points")), named)


def _points(value: Any) -> list[Any]:
    """A list of pairs as a lasso takes them; of what is something else the lasso complains."""
    return [tuple(pair) if isinstance(pair, list) else pair for pair in value] if isinstance(value, list) else []


def _check_keys(keys: Iterable[str], known: Iterable[str], what: str) -> None:
    for key in keys:
        if key not in known:
            raise ExpressionError(f"unknown {what} {quoted(key)}; {nearest(key, known)}")

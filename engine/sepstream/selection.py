"""Buses: which classes and regions each one takes, with fader, mute and solo; presets; the compiled program.

What a bus takes is said in the language of expression.py. A preset is a TOML file:

    residual = true            # one more bus: the mix without all that the others take
    [buses.voice]              # in the order of the outputs
    select = "speech"          # required; the others are not: gain_db, mute, solo, smooth_ms
    gain_db = 3.0

Values are frozen; any thread may make and compile them. A Program belongs to one thread at a time: it holds its
kernel's room to work in.
"""

import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .contract import Bundle
from .disk import MAX_RADIUS, Annulus, Band, Cell, Certain, Disc, Ellipse, HalfPlane, Lasso, Region, Side
from .errors import ExpressionError, nearest
from .expression import GAIN_DB, Area, Expression, Gain, Mix, Named, Not, Pair, db_to_gain, located, parse, quoted
from .paths import data_dir

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]

RESIDUAL = "residual"  # the bus of everything that the others leave
BUS_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
MAX_BUSES = 64
MAX_PRESET_BYTES = 1 << 20
OPERATORS = {"&": kernels.BOTH, "|": kernels.EITHER, "-": kernels.WITHOUT, "+": kernels.SUM}
LIMITS = {"gain_db": GAIN_DB, "smooth_ms": (0.0, 2000.0)}


@dataclass(frozen=True)
class Bus:
    """One output: what it takes, its fader, and the time constant with which its mask follows the model's."""

    name: str
    expression: Expression
    gain_db: float = 0.0
    mute: bool = False
    solo: bool = False
    smooth_ms: float = 0.0

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and BUS_NAME.fullmatch(self.name)):
            raise ExpressionError(f"bus name {quoted(self.name)}; expected 1 to 64 letters, digits, _ and -")
        if self.name.lower() == RESIDUAL:
            raise ExpressionError(
                f"bus name '{self.name}' is kept for what the others leave; expected another name, or residual = true"
            )
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise ExpressionError(f"bus '{self.name}': {name} {quoted(value)}; expected a number from {low:g} to {high:g}")
        for name in ("mute", "solo"):
            if not isinstance(getattr(self, name), bool):
                raise ExpressionError(f"bus '{self.name}': {name} {quoted(getattr(self, name))}; expected true or false")


@dataclass(frozen=True)
class Selection:
    """The buses in order; ``residual`` appends one more, the mix without all that the others take."""

    buses: tuple[Bus, ...]
    residual: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.residual, bool):
            raise ExpressionError(f"residual {quoted(self.residual)}; expected true or false")
        if not 1 <= len(self.names) <= MAX_BUSES:
            raise ExpressionError(f"{len(self.names)} buses; expected 1 to {MAX_BUSES}")
        taken: set[str] = set()
        for bus in self.buses:  # they become file names, and some file systems do not tell a from A
            if bus.name.lower() in taken:
                raise ExpressionError(f"two buses named '{bus.name}'; expected names that differ in more than case")
            taken.add(bus.name.lower())

    @property
    def names(self) -> tuple[str, ...]:
        """Of the buses, the residual's last."""
        return tuple(bus.name for bus in self.buses) + (RESIDUAL,) * self.residual

    @classmethod
    def stems(cls, bundle: Bundle, which: str = "leaves", residual: bool = False) -> "Selection":
        """One bus for each class: "leaves", "parents", "all", or NAME,NAME,..."""
        groups = {"leaves": bundle.leaves, "parents": bundle.parents, "all": bundle.class_names}
        names = groups.get(which) or tuple(name.strip() for name in which.split(","))
        for name in names:
            if name not in bundle.class_names:
                raise ExpressionError(f"unknown class {quoted(name)}; {nearest(name, [*groups, *bundle.class_names])}")
        return cls(tuple(Bus(name, Named(name)) for name in names), residual)


def read_bus(text: str) -> Bus:
    """``NAME=EXPRESSION`` -> Bus. Raises ExpressionError; columns count from the expression's first character."""
    name, equals, expression = text.partition("=")
    if not equals:
        raise ExpressionError(f"bus {quoted(text)} has no '='; expected NAME=EXPRESSION, such as vox=speech")
    return _bus(name.strip(), {"select": expression.strip()})


def load_preset(preset: str | Path) -> Selection:
    """A shipped preset by name, or a TOML file by path. Raises ExpressionError."""
    path = _preset_path(preset)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PRESET_BYTES + 1)
        table = tomllib.loads(data.decode("utf8"))
    except OSError as error:
        raise ExpressionError(f"preset '{path}' cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ExpressionError(f"preset '{path}' is not TOML: {' '.join(str(error).split())}") from None
    with located(f"preset '{path.stem}'"):
        if len(data) > MAX_PRESET_BYTES:
            raise ExpressionError(f"longer than {MAX_PRESET_BYTES} bytes")
        return _selection(table)


@dataclass(frozen=True, eq=False)
class Program:
    """A compiled selection; the arrays are those of ``kernels.run_program``."""

    selection: Selection
    bundle: Bundle
    code: I32
    numbers: F64
    forms: F64
    outlines: F64
    lifted: F64
    distances: F64
    stack: F32

    @property
    def buses(self) -> tuple[str, ...]:
        """Names in the order of the outputs."""
        return self.selection.names

    def initial_state(self) -> F32:
        """(buses, bins): the last masks; NaN where there are none yet, so that the first are taken as they come."""
        return np.full((len(self.buses), self.bundle.band.bins), np.nan, np.float32)

    def masks(self, masks: F32, embedding: F32, out: F32, state: F32) -> F32:
        """(hops, classes, bins), (hops, dim, bins) -> fills ``out`` (hops, buses, bins); returns the new state.

        The masks are those before the faders. The residual is 1 - the sum of the others after smoothing, so that all
        buses together are the mix at any moment.
        """
        hops, bins, disk = len(out), self.bundle.band.bins, self.bundle.disk
        assert masks.shape == (hops, len(self.bundle.classes), bins), masks.shape
        assert embedding.shape == (hops, len(disk.vectors[0]) - 1, bins), embedding.shape
        assert out.shape == (hops, len(self.buses), bins) and out.shape[1:] == state.shape, (out.shape, state.shape)
        kernels.run_program(
            self.code, self.numbers, self.forms, self.outlines, MAX_RADIUS if disk.curvature else 0.0,
            masks, embedding, state, self.lifted, self.distances, self.stack, out,
        )  # fmt: skip
        return out[-1].copy() if hops else state

    def gains(self) -> F32:
        """(buses,) linear: where each fader stands. A solo anywhere silences the buses without one; mute beats solo."""
        buses, any_solo = self.selection.buses, any(bus.solo for bus in self.selection.buses)
        faders = [0.0 if bus.mute or (any_solo and not bus.solo) else db_to_gain(bus.gain_db) for bus in buses]
        return np.array(faders + [float(not any_solo)] * self.selection.residual, np.float32)


def compile(selection: Selection, bundle: Bundle) -> Program:
    """All buses as one program. Raises ExpressionError for a class or a kind of region that the model does not have."""
    writer, hop_ms = _Writer(bundle), 1000.0 * bundle.stft.hop_samples / bundle.sample_rate_hz
    for index, bus in enumerate(selection.buses):
        with located(f"bus '{bus.name}'"):
            writer.expression(bus.expression)
        writer.put(kernels.BUS, index, numbers=(math.exp(-hop_ms / bus.smooth_ms) if bus.smooth_ms else 0.0,))
    if selection.residual:
        writer.put(kernels.RESIDUAL, len(selection.buses))
    return writer.program(selection)


class _Writer:
    """The program while it is written, operands before operators."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.disk, self.names = bundle, bundle.disk, bundle.class_names
        self.width = len(bundle.disk.vectors[0])
        self.code: list[tuple[int, int, int]] = []
        self.numbers: list[tuple[float, ...]] = []
        self.forms: list[tuple[float, ...]] = []
        self.outlines: list[tuple[float, float]] = []
        self.height = self.peak = 0  # of the stack of masks

    def put(self, op: int, a: int = 0, b: int = 0, numbers: tuple[float, ...] = ()) -> None:
        self.code.append((op, a, b))
        self.numbers.append(numbers + (0.0,) * (7 - len(numbers)))
        self.height += 1 if op < kernels.NOT else -1 if kernels.BOTH <= op <= kernels.BUS else 0
        self.peak = max(self.peak, self.height)

    def program(self, selection: Selection) -> Program:
        bins = self.bundle.band.bins
        lifts = any(kernels.BAND <= op < kernels.NOT for op, _, _ in self.code)
        return Program(
            selection,
            self.bundle,
            code=np.array(self.code, np.int32),
            numbers=np.array(self.numbers, np.float64),
            forms=np.array(self.forms, np.float64).reshape(-1, 2 + self.width),
            outlines=np.array(self.outlines, np.float64).reshape(-1, 2),
            lifted=np.zeros((self.width if lifts else 0, bins)),
            distances=np.zeros((len(self.forms), bins)),
            stack=np.zeros((self.peak, bins), np.float32),
        )

    def expression(self, expression: Expression) -> None:
        match expression:
            case Mix():
                self.put(kernels.MIX)
            case Named(name, column):
                self.put(kernels.CLASS, self._class(name, column))
            case Area(region, column):
                self._check_disk(region, column)
                self._region(region, column)
            case Not(of):
                self.expression(of)
                self.put(kernels.NOT)
            case Gain(of=of):
                self.expression(of)
                self.put(kernels.GAIN, numbers=(expression.factor,))
            case Pair(operator, left, right):
                self.expression(left)
                self.expression(right)
                self.put(OPERATORS[operator])

    def _class(self, name: str, column: int) -> int:
        if name not in self.names:
            raise ExpressionError(f"column {column}: unknown class '{name}'; {nearest(name, ['mix', *self.names])}")
        return self.names.index(name)

    def _check_disk(self, region: Region, column: int) -> None:
        if region.needs_disk and (self.disk.curvature == 0 or self.width != 3):
            space = "Euclidean" if self.disk.curvature == 0 else f"of {self.width - 1} dimensions"
            raise ExpressionError(
                f"column {column}: {region.call} needs a disk, the model's space is {space}; expected cell(NAME) or side(NAME)"
            )

    def _region(self, region: Region, column: int) -> None:
        match region:
            case Disc() | HalfPlane() | Annulus() | Certain():
                self._band(region.band(), region.soft)
            case Cell(name=name):
                self._cell(self._class(name, column), region.soft)
            case Side(name=name):
                row = self._row(self._class_form(self._class(name, column), 1.0))
                self.put(kernels.BAND, row, numbers=(0.0, math.inf, region.soft))
            case Ellipse(x=x, y=y, a=a, b=b):
                turn = math.radians(region.angle)
                self.put(kernels.ELLIPSE, numbers=(x, y, math.cos(turn), math.sin(turn), a, b, region.soft))
            case Lasso(points=points):
                self.put(kernels.LASSO, len(self.outlines), len(self.outlines) + len(points), (region.soft,))
                self.outlines += points

    def _band(self, band: Band, soft: float) -> None:
        kind = kernels.POINT if band.around == "point" else kernels.LINE
        self.put(kernels.BAND, self._row((kind, 1.0, *band.vector)), numbers=(band.low, band.high, soft))

    def _cell(self, own: int, soft: float) -> None:
        """The level's logits, in units of twice its mean steepness (disk.Cell), lie in rows side by side."""
        level = [self.names.index(name) for name in self._level(self.names[own])]
        scale = self.disk.scale
        unit = 2 * sum(scale[index] for index in level) / len(level)
        rows = [self._class_form(index, scale[index] / unit) for index in level]
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

    def _class_form(self, index: int, factor: float) -> tuple[float, ...]:
        return (kernels.LINE if self.disk.curvature else kernels.FLAT, factor, *self.disk.vectors[index])

    def _row(self, form: tuple[float, ...]) -> int:
        """Where ``form`` is measured: once, however many regions use it."""
        if form not in self.forms:
            self.forms.append(form)
        return self.forms.index(form)


def _preset_path(preset: str | Path) -> Path:
    path = Path(preset)
    if isinstance(preset, Path) or path.suffix == ".toml" or len(path.parts) > 1:
        return path
    shipped = {found.stem: found for found in sorted(data_dir("presets").glob("*.toml"))}
    if preset not in shipped:
        raise ExpressionError(f"preset {quoted(preset)} is neither shipped nor a .toml file; {nearest(preset, shipped)}")
    return shipped[preset]


def _selection(table: Mapping[str, Any]) -> Selection:
    _check_keys(table, ("residual", "buses"), "key")
    buses = table.get("buses", {})
    if not isinstance(buses, dict):
        raise ExpressionError(f"buses {quoted(buses)}; expected tables [buses.NAME]")
    return Selection(tuple(_bus(name, entry) for name, entry in buses.items()), table.get("residual", False))


def _bus(name: str, entry: Any) -> Bus:
    """A bus from a table of ``select`` and, if wanted, the fields that a Bus has beside its name and expression."""
    if not isinstance(entry, dict):
        raise ExpressionError(f"bus {quoted(name)}: {quoted(entry)}; expected a table [buses.NAME] with select")
    settings = {key: value for key, value in entry.items() if key != "select"}
    with located(f"bus {quoted(name)}"):
        _check_keys(settings, [field.name for field in fields(Bus)][2:], "key")
        select = entry.get("select")
        if not isinstance(select, str):
            raise ExpressionError(f'select {quoted(select)}; expected an expression in quotes, such as "speech"')
        expression = parse(select)
    return Bus(name, expression, **settings)


def _check_keys(keys: Iterable[str], known: Iterable[str], what: str) -> None:
    for key in keys:
        if key not in known:
            raise ExpressionError(f"unknown {what} {quoted(key)}; {nearest(key, known)}")

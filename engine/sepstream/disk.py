"""The Poincaré disk: lifted coordinates, distances, class geodesics, and the regions a bus can take.

The network gives each bin a tangent vector u; its point on the unit disk is tanh(|u|) u/|u|. Lifted to the
hyperboloid, X = (cosh 2|u|, sinh 2|u| u/|u|), everything is linear: with C the lift of c, cosh d(x, c) = <X, (C0, -C1, -C2)>,
and the signed distance to a class geodesic w is asinh(<X, w>) (Ratcliffe, Foundations of Hyperbolic Manifolds, 3.2;
Shimizu, Mukuta, Harada 2021, sec. 3.1). All distances are at curvature -1, where d(0, x) = 2 artanh |x|: a trained
curvature c is in u already (u = sqrt(c) v). Curvature 0 is Euclid: X = (1, u), asinh falls away, and there is no disk.

Pure functions on float32 arrays (..., dim, bins); no state, no thread. The regions are values: kernels.py tests the
bins, and the control surface draws from the same numbers.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .contract import DiskSpec
from .errors import ExpressionError

F32 = NDArray[np.float32]

RIM = 0.999  # of the disk: the trained head ends here, so that float32 is enough
MAX_RADIUS = math.atanh(RIM)  # of u
MAX_DISTANCE = 16.0  # a little more than from rim to rim
INSIDE = 1.0  # of a class: so far, in hyperbolic distance, lies its prototype beyond its geodesic
MAX_POINTS = 256  # of a lasso
LIMITS = {  # of every number in a region
    **dict.fromkeys(("x", "y"), (-2.0, 2.0)),
    **dict.fromkeys(("a", "b"), (1e-4, 4.0)),
    **dict.fromkeys(("r", "inner", "outer", "soft"), (0.0, MAX_DISTANCE)),
    **dict.fromkeys(("low", "high"), (0.0, 1.0)),
    "offset": (-MAX_DISTANCE, MAX_DISTANCE),
    "angle": (-360.0, 360.0),
}
CLASS_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def lift(u: F32, curvature: float) -> F32:
    """(..., dim, bins) embedding -> (..., dim + 1, bins) hyperboloid, time part first; u is clipped at MAX_RADIUS."""
    if curvature == 0:
        return np.concatenate([np.ones_like(u[..., :1, :]), u], axis=-2)
    radius, direction = _polar(u)
    return np.concatenate([np.cosh(2 * radius), np.sinh(2 * radius) * direction], axis=-2)


def point(u: F32) -> F32:
    """(..., dim, bins) embedding -> points of the unit disk, of the same shape."""
    radius, direction = _polar(u)
    return np.tanh(radius) * direction


def certainty(u: F32) -> F32:
    """(..., dim, bins) embedding -> (..., bins) in 0..RIM: how far out a bin lies, and so how sure the network is of it."""
    radius, _ = _polar(u)
    return np.tanh(radius[..., 0, :])


def line_distance(lifted: F32, vectors: ArrayLike, curvature: float) -> F32:
    """(..., dim + 1, bins) -> (..., lines, bins) signed distances to the geodesics ``vectors`` (lines, dim + 1)."""
    inner: F32 = np.matmul(np.asarray(vectors, np.float32), lifted)
    return inner if curvature == 0 else np.arcsinh(inner)


def logits(lifted: F32, disk: DiskSpec) -> F32:
    """(..., dim + 1, bins) -> (..., classes, bins), as the network's own head has them."""
    scale = np.asarray(disk.scale, np.float32)[:, None]
    return scale * line_distance(lifted, disk.vectors, disk.curvature)


def prototypes(disk: DiskSpec) -> NDArray[np.float64]:
    """(classes, dim): a typical place of each class, on the unit disk: straight out from the centre across the class's own
    geodesic, and INSIDE beyond it. Without curvature, in the plane of u."""
    vectors = np.asarray(disk.vectors)
    size = np.linalg.norm(vectors[:, 1:], axis=1)
    inside = -vectors[:, 0] / size + INSIDE if disk.curvature == 0 else np.tanh((np.arctanh(-vectors[:, 0] / size) + INSIDE) / 2)
    return np.asarray((inside / size)[:, None] * vectors[:, 1:])


def distance(x: F32, y: F32) -> F32:
    """Geodesic distance (..., bins) between disk points (..., dim, bins), by the chord.

    sinh^2(d/2) = |x - y|^2 / ((1 - |x|^2)(1 - |y|^2)): near the rim the lifted form would subtract numbers of 10^6
    in float32, this one subtracts the coordinates themselves.
    """
    chord = np.sum(np.square(x - y), axis=-2)
    found: F32 = 2 * np.arcsinh(np.sqrt(chord / (_depth(x) * _depth(y))))
    return found


class Geodesic(NamedTuple):
    """A class boundary as drawn in the unit disk: an arc of a circle at right angles to the rim, between two rim points.

    A boundary through the centre is a straight line: ``radius`` is inf, and (x, y) is its unit normal.
    """

    x: float
    y: float
    radius: float
    ends: tuple[tuple[float, float], tuple[float, float]]


def geodesic(vector: Sequence[float]) -> Geodesic:
    """The zero of <X, (w0, w1, w2)>; with X = (1 + |x|^2, 2x)/(1 - |x|^2) it is w0 (1 + |x|^2) + 2 <w, x> = 0."""
    time, *normal = vector
    size, angle = math.hypot(*normal), math.atan2(normal[1], normal[0])
    half = math.acos(-time / size)  # on the rim, |x| = 1
    first, second = ((math.cos(angle + side * half), math.sin(angle + side * half)) for side in (-1, 1))
    if abs(time) < 1e-6 * size:  # a radius of a million disks is a line on any screen
        return Geodesic(normal[0] / size, normal[1] / size, math.inf, (first, second))
    return Geodesic(-normal[0] / time, -normal[1] / time, math.sqrt((size / time) ** 2 - 1), (first, second))


class Band(NamedTuple):
    """The bins whose distance from a point, or signed distance from a geodesic, lies in [low, high].

    ``vector`` is the linear form: the distance is acosh (point) or asinh (line) of <X, vector>.
    """

    vector: tuple[float, ...]
    around: Literal["point", "line"]
    low: float
    high: float


def shortest(value: float) -> str:
    """The shortest text that reads back as this very number."""
    return repr(float(value)).removesuffix(".0")


@dataclass(frozen=True, kw_only=True)
class Region:
    """A part of the disk. ``soft`` is the width of its edge in hyperbolic distance; the mask is 0.5 on the boundary.

    Raises ExpressionError for a value that is out of range or not a finite number.
    """

    call: ClassVar[str]  # its name in a bus expression
    needs_disk: ClassVar[bool] = True  # two dimensions, and curvature
    soft: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name in LIMITS:
                _within(self, field.name, getattr(self, field.name), *LIMITS[field.name])
        self._check()

    def __str__(self) -> str:
        soft = f", soft={shortest(self.soft)}" if self.soft else ""
        return f"{self.call}({self._arguments()}{soft})"

    @classmethod
    def parameters(cls) -> tuple[str, ...]:
        """Names in the order of the call, without soft."""
        return tuple(field.name for field in fields(cls) if field.name != "soft")

    @classmethod
    def required(cls) -> tuple[str, ...]:
        return tuple(field.name for field in fields(cls) if field.default is MISSING)

    def _check(self) -> None: ...

    def _arguments(self) -> str:
        return ", ".join(shortest(getattr(self, name)) for name in self.parameters())


@dataclass(frozen=True)
class Disc(Region):
    """Everything within the geodesic radius ``r`` of the disk point (x, y)."""

    call = "disc"
    x: float
    y: float
    r: float

    def _check(self) -> None:
        _inside(self, self.x, self.y)

    def _arguments(self) -> str:
        return f"{shortest(self.x)}, {shortest(self.y)}, r={shortest(self.r)}"

    def band(self) -> Band:
        return Band(_around(self.x, self.y), "point", -math.inf, self.r)


@dataclass(frozen=True)
class HalfPlane(Region):
    """The side of a geodesic that ``angle`` (degrees) points to; it lies ``offset`` from the centre, in that direction."""

    call = "half"
    angle: float
    offset: float = 0.0

    def band(self) -> Band:
        angle, steep = math.radians(self.angle), math.cosh(self.offset)
        vector = (-math.sinh(self.offset), steep * math.cos(angle), steep * math.sin(angle))
        return Band(vector, "line", 0.0, math.inf)


@dataclass(frozen=True)
class Annulus(Region):
    """Everything whose geodesic distance from the disk point (x, y) lies in [inner, outer]; inner 0 leaves no hole."""

    call = "annulus"
    x: float
    y: float
    inner: float
    outer: float

    def _check(self) -> None:
        _inside(self, self.x, self.y)
        _within(self, "inner", self.inner, 0, self.outer)

    def _arguments(self) -> str:
        return f"{shortest(self.x)}, {shortest(self.y)}, {shortest(self.inner)}..{shortest(self.outer)}"

    def band(self) -> Band:
        return Band(_around(self.x, self.y), "point", self.inner or -math.inf, self.outer)


@dataclass(frozen=True)
class Certain(Region):
    """A band of certainty, which is the norm of the disk point; bins clipped at RIM count as certain, 1."""

    call = "certain"
    low: float
    high: float

    def _check(self) -> None:
        _within(self, "low", self.low, 0, self.high)

    def _arguments(self) -> str:
        return f"{shortest(self.low)}..{shortest(self.high)}"

    def band(self) -> Band:
        sure = RIM - 1e-6  # clipped bins are beyond it, however they are rounded
        low = 2 * math.atanh(min(self.low, sure)) if self.low else -math.inf
        high = 2 * math.atanh(self.high) if self.high < sure else math.inf
        return Band((1.0, 0.0, 0.0), "point", low, high)


@dataclass(frozen=True)
class Ellipse(Region):
    """An ellipse as drawn: centre (x, y), half axes a, b in disk coordinates, a turned by ``angle`` degrees."""

    call = "ellipse"
    x: float
    y: float
    a: float
    b: float
    angle: float = 0.0

    def _arguments(self) -> str:
        numbers = ", ".join(shortest(getattr(self, name)) for name in "xyab")
        return f"{numbers}, angle={shortest(self.angle)}" if self.angle else numbers


@dataclass(frozen=True)
class Lasso(Region):
    """A closed outline as drawn: points in disk coordinates; what an odd number of turns encloses is inside."""

    call = "lasso"
    points: tuple[tuple[float, float], ...]

    def _check(self) -> None:
        if not 3 <= len(self.points) <= MAX_POINTS:
            raise ExpressionError(f"lasso: {len(self.points)} points; expected 3 to {MAX_POINTS}, such as 0 0, 0.5 0, 0.5 0.5")
        for pair in self.points:
            if not (isinstance(pair, tuple) and len(pair) == 2):
                raise ExpressionError(f"lasso: {pair!r}; expected points such as 0 0, 0.5 0, 0.5 0.5")
            for value in pair:
                _within(self, "a coordinate", value, *LIMITS["x"])

    def _arguments(self) -> str:
        return ", ".join(f"{shortest(x)} {shortest(y)}" for x, y in self.points)


@dataclass(frozen=True)
class _OfClass(Region):
    """A region that the model draws itself, around the class ``name``; it is there in Euclid and in any dimension, too."""

    needs_disk = False
    name: str

    def _check(self) -> None:
        _named(self, self.name)

    def _arguments(self) -> str:
        return self.name


@dataclass(frozen=True)
class Cell(_OfClass):
    """The bins where class ``name`` has the greatest logit of its level of the class tree; the cells of a level tile it.

    Between cells, distance is the difference of two logits over twice the level's mean steepness: exact between two
    opposite classes of equal steepness, otherwise the edge is somewhat wider or narrower than ``soft``.
    """

    call = "cell"


@dataclass(frozen=True)
class Side(_OfClass):
    """The bins on the positive side of class ``name``'s own geodesic: one against the rest."""

    call = "side"


REGIONS: dict[str, type[Region]] = {
    region.call: region for region in (Disc, HalfPlane, Annulus, Certain, Ellipse, Lasso, Cell, Side)
}


def _polar(u: F32) -> tuple[F32, F32]:
    """Clipped radius (..., 1, bins) and direction (..., dim, bins); the direction of zero is zero."""
    radius = np.sqrt(np.sum(np.square(u), axis=-2, keepdims=True))
    return np.minimum(radius, np.float32(MAX_RADIUS)), u / np.maximum(radius, np.float32(1e-12))


def _depth(x: F32) -> F32:
    """1 - |x|^2, (..., dim, bins) -> (..., bins), without the cancellation."""
    norm: F32 = np.sqrt(np.sum(np.square(x), axis=-2))
    return (1 - norm) * (1 + norm)


def _around(x: float, y: float) -> tuple[float, float, float]:
    """The form whose acosh is the distance from the disk point (x, y): its lift with the space part turned round."""
    square = x * x + y * y
    return (1 + square) / (1 - square), -2 * x / (1 - square), -2 * y / (1 - square)


def _within(region: Region, name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        shown = shortest(value) if isinstance(value, float) else repr(value)
        raise ExpressionError(f"{region.call}: {name} {shown}; expected a number from {shortest(low)} to {shortest(high)}")


def _inside(region: Region, x: float, y: float) -> None:
    if math.hypot(x, y) > RIM:
        raise ExpressionError(f"{region.call}: centre {shortest(x)}, {shortest(y)} has a norm beyond {RIM}, where the disk ends")


def _named(region: Region, name: Any) -> None:
    if not (isinstance(name, str) and CLASS_NAME.fullmatch(name)):
        raise ExpressionError(f"{region.call}: {name!r}; expected the name of a class, such as {region.call}(speech)")

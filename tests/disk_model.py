"""The disk and the language of buses once more, for tests: float64, by Möbius addition, sharing no formula with the engine.

Points are (n, 2) or (n, dim) on the unit disk (curvature -1). Ganea, Becigneul, Hofmann 2018 (Hyperbolic Neural
Networks), eqs. 4, 6, 12 and 25.
"""

import itertools
import math
from typing import Any

import numpy as np

from sepstream import disk
from sepstream.contract import Bundle, DiskSpec
from sepstream.expression import Area, Expression, Gain, Mix, Named, Not, Pair

RADIUS = math.atanh(0.999)


def to_disk(u: Any, limit: float = RADIUS) -> np.ndarray:
    """(n, dim) tangent vectors -> points, by the exponential map at zero, clipped."""
    u = np.asarray(u, np.float64)
    size = np.linalg.norm(u, axis=-1, keepdims=True)
    return np.tanh(np.minimum(size, limit)) * u / np.maximum(size, 1e-300)


def add(x: Any, y: Any) -> np.ndarray:
    """Möbius addition."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    xy, xx, yy = ((a * b).sum(-1, keepdims=True) for a, b in ((x, y), (x, x), (y, y)))
    return ((1 + 2 * xy + yy) * x + (1 - xx) * y) / (1 + 2 * xy + xx * yy)


def distance(x: Any, y: Any) -> np.ndarray:
    return 2 * np.arctanh(np.minimum(np.linalg.norm(add(-np.asarray(x), y), axis=-1), 1 - 1e-16))


def line_distance(x: Any, p: Any, a: Any) -> np.ndarray:
    """Signed distance of points x to the geodesic hyperplane through p with normal a."""
    z = add(-np.asarray(p), x)
    zz = (z * z).sum(-1)
    return np.arcsinh(2 * (z * a).sum(-1) / ((1 - zz) * np.linalg.norm(a)))


def foot(offset: float, normal: Any) -> np.ndarray:
    """The point at signed distance ``offset`` from the centre, in the direction of the unit ``normal``."""
    return math.tanh(offset / 2) * np.asarray(normal, np.float64)


def hyperplanes(p: Any, a: Any, c: float) -> DiskSpec:
    """The head of points p and normals a, (classes, dim) at curvature c, in the bundle's form (hyper_unmix 1.4)."""
    p, a = np.asarray(p, np.float64), np.asarray(a, np.float64)
    size, pa = np.linalg.norm(a, axis=1), (p * a).sum(1)
    if c == 0:
        return spec(0.0, 4 * size, np.column_stack([-pa / size, a / size[:, None]]))
    beta = 1 - c * (p * p).sum(1)
    space = (beta[:, None] * a + 2 * c * pa[:, None] * p) / (beta * size)[:, None]
    return spec(c, 2 * size / math.sqrt(c), np.column_stack([-2 * math.sqrt(c) * pa / (beta * size), space]))


def spec(curvature: float, scale: Any, vectors: Any) -> DiskSpec:
    return DiskSpec(curvature, tuple(map(float, scale)), tuple(tuple(map(float, row)) for row in vectors))


def class_distances(u: np.ndarray, head: DiskSpec) -> np.ndarray:
    """(n, dim) embedding -> (classes, n): each vector is (-sinh offset, cosh offset * normal), or (-offset, normal)."""
    rows = []
    for time, *space in head.vectors:
        normal = np.array(space) / np.linalg.norm(space)
        if head.curvature == 0:
            rows.append(u @ np.array(space) + time)
        else:
            rows.append(line_distance(to_disk(u), foot(math.asinh(-time), normal), normal))
    return np.array(rows)


def smooth_step(inside: np.ndarray, soft: float) -> np.ndarray:
    if soft == 0:
        return (inside >= 0).astype(float)
    t = np.clip(inside / soft + 0.5, 0, 1)
    return 3 * t**2 - 2 * t**3


def evaluate(expression: Expression, masks: np.ndarray, u: np.ndarray, bundle: Bundle) -> np.ndarray:
    """(classes, bins) masks and (bins, dim) embedding -> the expression's mask (bins,)."""

    def value(node: Expression) -> np.ndarray:
        return evaluate(node, masks, u, bundle)

    match expression:
        case Mix():
            return np.ones(masks.shape[1])
        case Named(name):
            return masks[bundle.class_names.index(name)]
        case Area(region):
            return region_mask(region, u, bundle)
        case Not(of):
            return 1 - value(of)
        case Gain(amount, decibel, of):
            return (10 ** (amount / 20) if decibel else amount) * value(of)
        case Pair(operator, left, right):
            a, b = value(left), value(right)
            return {"&": a * b, "|": a + b - a * b, "-": a * (1 - b), "+": a + b}[operator]
    raise AssertionError(expression)


def region_mask(region: disk.Region, u: np.ndarray, bundle: Bundle) -> np.ndarray:
    if isinstance(region, disk.Cell):
        return cell_mask(region, u, bundle)
    return smooth_step(inside(region, u, bundle), region.soft)


def inside(region: disk.Region, u: np.ndarray, bundle: Bundle) -> np.ndarray:  # noqa: PLR0911
    """Signed distance (bins,) of (bins, dim) embeddings to the region's boundary, positive inside."""
    x = to_disk(u)
    match region:
        case disk.Disc(cx, cy, r):
            return r - distance(x, [cx, cy])
        case disk.HalfPlane(angle, offset):
            normal = [math.cos(math.radians(angle)), math.sin(math.radians(angle))]
            return line_distance(x, foot(offset, normal), normal)
        case disk.Annulus(cx, cy, inner, outer):
            d = distance(x, [cx, cy])
            return np.minimum(d - inner if inner else np.inf, outer - d)
        case disk.Certain(low, high):
            d = 2 * np.arctanh(np.linalg.norm(x, axis=1))
            inner = d - 2 * math.atanh(min(low, 0.999 - 1e-6)) if low else np.inf
            return np.minimum(inner, 2 * math.atanh(high) - d if high < 0.999 - 1e-6 else np.inf)
        case disk.Ellipse():
            return inside_ellipse(region, x)
        case disk.Lasso(points):
            return inside_lasso(np.array(points), x)
        case disk.Side(name):
            return class_distances(u, bundle.disk)[bundle.class_names.index(name)]
    raise AssertionError(region)


def inside_ellipse(ellipse: disk.Ellipse, x: np.ndarray) -> np.ndarray:
    """First order at the edge, for q = |M (x - centre)|: (1 - q)/|grad q| on the screen, times the disk's 2/(1 - |x|^2)."""
    turn = math.radians(ellipse.angle)
    m = np.diag([1 / ellipse.a, 1 / ellipse.b]) @ [[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]]
    z = (x - [ellipse.x, ellipse.y]) @ m.T
    q = np.linalg.norm(z, axis=1)
    return (1 - q) / np.linalg.norm((z / q[:, None]) @ m, axis=1) * 2 / (1 - (x * x).sum(1))


def inside_lasso(corners: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Crossings of a ray upwards, and the hyperbolic distance to each side's nearest point on the screen."""
    crossings, near = np.zeros(len(x), int), np.full(len(x), np.inf)
    for start, end in itertools.pairwise([*corners, corners[0]]):
        side = end - start
        if side[0]:
            along = (x[:, 0] - start[0]) / side[0]
            between = (x[:, 0] >= min(start[0], end[0])) & (x[:, 0] < max(start[0], end[0]))
            crossings += between & (start[1] + along * side[1] > x[:, 1])
        foot = start + np.clip((x - start) @ side / max(side @ side, 1e-300), 0, 1)[:, None] * side
        room = 1 - (foot * foot).sum(1)
        chord = ((x - foot) ** 2).sum(1) / (np.maximum(room, 1e-300) * (1 - (x * x).sum(1)))
        near = np.minimum(near, np.where(room > 0, 2 * np.arcsinh(np.sqrt(chord)), np.inf))
    return np.where(crossings % 2, near, -near)


def cell_mask(cell: disk.Cell, u: np.ndarray, bundle: Bundle) -> np.ndarray:
    """Each class by its lead over the best other one, as a smooth step; shares of the sum."""
    level = bundle.leaves if cell.name in bundle.leaves else bundle.parents
    rows = [bundle.class_names.index(name) for name in level]
    scale = np.array(bundle.disk.scale)[rows]
    logits = scale[:, None] * class_distances(u, bundle.disk)[rows]
    own = level.index(cell.name)
    if cell.soft == 0:
        return (logits.argmax(0) == own).astype(float)
    lead = np.array([logits[k] - np.delete(logits, k, axis=0).max(0) for k in range(len(rows))])
    shares = smooth_step(lead / (2 * scale.mean()), cell.soft)
    return shares[own] / shares.sum(0)

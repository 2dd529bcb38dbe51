"""Pictures as arrays of pixels: spectrograms, and the disk with its points and class geodesics. NumPy and Pillow only.

No plotting library: TensorBoard takes arrays, Pillow comes with it, and what is drawn here (a colour ramp, a cloud of
points, the zero set of a linear form) is shorter than the settings that would keep axes and fonts out of a plot.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

COLOURS = ("#e8a33d", "#3d8be8", "#4fb3bf", "#e86a92", "#7e57c2", "#d9534f", "#5cb85c", "#8d6e63", "#26a69a", "#c0ca33")
GROUND, INK = "#111318", "#e8e8e8"
FLOOR_DB, CEILING_DB = -90.0, -10.0  # of a spectrogram, re full scale
OPACITY = 0.7  # of a wave over another
GAP = 14  # pixels above a panel, for its title
SIDE = 480  # pixels of the disk's picture
DOT = 2  # pixels of a point, each way
REACH = 1.08  # what it shows, in units of the rim


def colour(index: int) -> str:
    """The colour of class ``index``, #rrggbb."""
    return COLOURS[index % len(COLOURS)]


def rgb(code: str) -> F32:
    """#rrggbb -> (3,) in 0..255."""
    return np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)], np.float32)


def spectrogram(magnitude: F32, code: str, rows: int = 171) -> U8:
    """(T, bins), where 0.5 is full scale -> (rows at most, T, 3): low frequencies below, by ``code`` from dark to white."""
    fold = max(1, -(-magnitude.shape[1] // rows))
    bins = magnitude.shape[1] // fold * fold
    peaks = magnitude[:, :bins].reshape(len(magnitude), -1, fold).max(axis=2)
    level = (20 * np.log10(2 * peaks + 1e-9) - FLOOR_DB) / (CEILING_DB - FLOOR_DB)
    stops = np.stack([rgb(GROUND), rgb(code), np.full(3, 255, np.float32)])
    channels = [np.interp(level.clip(0, 1), (0.0, 0.7, 1.0), stop) for stop in stops.T]
    return np.stack(channels, axis=-1).astype(np.uint8).transpose(1, 0, 2)[::-1]


def waveform(sounds: Sequence[tuple[F32, str]], rows: int = 60, columns: int = 400) -> U8:
    """(samples,) each with a colour, one over the other -> (rows, columns, 3): from the lowest to the highest sample of each
    column, full scale from top to bottom."""
    picture = np.broadcast_to(rgb(GROUND), (rows, columns, 3)).copy()
    height = (1 - (2 * np.arange(rows) + 1) / rows)[:, None]  # of each row's middle
    for samples, code in sounds:
        parts = np.array_split(samples, columns)
        low, high = (np.array([take(part) if part.size else 0.0 for part in parts]) for take in (np.min, np.max))
        inside = (height >= low - 1 / rows) & (height <= high + 1 / rows)
        picture[inside] += OPACITY * (rgb(code) - picture[inside])
    return picture.astype(np.uint8)


def stack(panels: Sequence[tuple[str, U8]]) -> U8:
    """Titled pictures of one width, one below the other."""
    width = panels[0][1].shape[1]
    sheet = Image.new("RGB", (width, sum(GAP + len(picture) for _, picture in panels)), GROUND)
    pen, top = ImageDraw.Draw(sheet), 0
    for title, picture in panels:
        pen.text((2, top + 1), title, fill=INK)
        sheet.paste(Image.fromarray(np.ascontiguousarray(picture)), (0, top + GAP))
        top += GAP + len(picture)
    return np.asarray(sheet)


def disk(
    embedding: F32, labels: NDArray[np.int64], weights: F32, *, vectors: F32, curvature: float, names: Sequence[str], first: int
) -> U8:
    """(n, 2) embedding u, the class of each point, its weight -> (SIDE, SIDE, 3).

    Where many weighty points of a class meet, its colour is strong. ``vectors`` (classes, 3) are the geodesics, zeros
    of <X, w>; ``labels`` count from class ``first`` of ``names``. Curvature 0 is the plane, scaled to what is there.
    """
    points, reach = _places(embedding, curvature)
    picture = np.broadcast_to(rgb(GROUND), (SIDE, SIDE, 3)).copy()
    for label in np.unique(labels):
        cloud = _cloud(points[labels == label] / reach, weights[labels == label])
        picture += cloud[..., None] * (rgb(colour(first + int(label))) - picture)
    pixel = 2 * reach / SIDE
    x = (np.arange(SIDE, dtype=np.float32) + 0.5) * pixel - reach
    y = -x[:, None]
    square = x * x + y * y
    inside = square < 1 if curvature else np.ones_like(square, bool)
    for index, (time, *normal) in enumerate(vectors):
        form, slope = _line(time, normal, x, y) if curvature else _straight(time, normal, x, y)
        picture[(np.abs(form) < (0.8 if index < first else 0.5) * pixel * slope) & inside] = rgb(colour(index))
    if curvature:
        picture[np.abs(np.sqrt(square) - 1) < 0.7 * pixel] = rgb(INK)
    return _legend(picture.astype(np.uint8), names)


def _line(time: float, normal: Sequence[float], x: F32, y: F32) -> tuple[F32, F32]:
    """<X, w> (1 - |p|^2) at the disk's points p, w0 (1 + |p|^2) + 2 <w, p> (engine: disk.geodesic), and its slope."""
    a, b = normal
    return time * (1 + x * x + y * y) + 2 * (a * x + b * y), 2 * np.hypot(time * x + a, time * y + b)


def _straight(time: float, normal: Sequence[float], x: F32, y: F32) -> tuple[F32, F32]:
    """<X, w> at the points of the plane, and its slope."""
    a, b = normal
    return time + a * x + b * y, np.asarray(math.hypot(a, b), np.float32)


def _places(embedding: F32, curvature: float) -> tuple[F32, float]:
    """Where the points are drawn, and how far the picture reaches from the middle."""
    radius = np.linalg.norm(embedding, axis=1, keepdims=True)
    if curvature == 0:
        return embedding, float(np.quantile(radius, 0.99)) or 1.0
    limited = np.minimum(radius, math.atanh(0.999))
    return np.tanh(limited) * embedding / np.maximum(radius, 1e-12), REACH


def _cloud(places: F32, weights: F32) -> F32:
    """(n, 2) in -1..1 -> (SIDE, SIDE) opacity 0..0.9: a root of the weight in each dot, so that light bins are seen."""
    dots = SIDE // DOT
    columns, rows = ((1 + places * [1, -1]) * (dots / 2)).astype(int).clip(0, dots - 1).T
    heavy = np.bincount(rows * dots + columns, weights, dots * dots).reshape(dots, dots)
    top = np.quantile(heavy[heavy > 0], 0.98) if (heavy > 0).any() else 1.0
    strength = 0.9 * (heavy / top).clip(0, 1) ** 0.35
    return np.kron(strength, np.ones((DOT, DOT))).astype(np.float32)


def _legend(picture: U8, names: Sequence[str]) -> U8:
    sheet = Image.fromarray(picture)
    pen = ImageDraw.Draw(sheet)
    for index, name in enumerate(names):
        pen.text((4, 4 + 12 * index), name, fill=colour(index))
    return np.asarray(sheet)

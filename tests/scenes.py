"""Scenes for tests: hypothesis draws buses, strips, named regions and what acts on all of them."""

import math

from hypothesis import strategies as st

from sepstream.control.scene import Scene
from sepstream.disk import RIM, Annulus, Cell, Certain, Disc, Ellipse, HalfPlane, Lasso, Region
from sepstream.expression import Gain, Mix, Named, Not, Ref
from sepstream.selection import Bus, Selection, Strip


def number(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high).map(lambda value: value + 0.0)  # no negative zero, which is another text


def ordered(low: float, high: float) -> st.SearchStrategy[list[float]]:
    return st.tuples(number(low, high), number(low, high)).map(sorted)


def on_disk() -> st.SearchStrategy[tuple[float, float]]:
    """Centres, often at the very rim."""
    points = st.tuples(st.one_of(number(0, RIM), st.just(RIM)), number(-math.pi, math.pi))
    return points.map(lambda p: (p[0] * math.cos(p[1]) * (1 - 1e-15), p[0] * math.sin(p[1]) * (1 - 1e-15)))


strips = {
    "gain_db": st.one_of(number(-120, 24), st.sampled_from([0.0, -90.0, 12.0])),
    "mute": st.booleans(),
    "solo": st.booleans(),
    "pan": number(-1, 1),
    "wet": number(0, 1),
    "invert": st.booleans(),
    "outputs": st.lists(st.integers(1, 6), min_size=1, max_size=4, unique=True).map(tuple),
}
soft = number(0, 4)
regions: st.SearchStrategy[Region] = st.one_of(
    st.builds(lambda p, r, soft: Disc(*p, r, soft=soft), on_disk(), number(0, 16), soft),
    st.builds(lambda p, band, soft: Annulus(*p, *band, soft=soft), on_disk(), ordered(0, 16), soft),
    st.builds(lambda band, soft: Certain(*band, soft=soft), ordered(0, 1), soft),
    st.builds(HalfPlane, number(-360, 360), number(-16, 16), soft=soft),
    st.builds(Ellipse, number(-2, 2), number(-2, 2), number(1e-4, 4), number(1e-4, 4), number(-360, 360), soft=soft),
    st.builds(Lasso, st.lists(st.tuples(number(-2, 2), number(-2, 2)), min_size=3, max_size=5).map(tuple), soft=soft),
    st.builds(Cell, st.sampled_from(["speech", "drums"]), soft=soft),
)
expressions = st.sampled_from([Mix(), Named("drums"), Not(Named("speech")), Ref("1"), Gain(-6.0, True, Named("bass"))])
BUSES = ("vox", "drums", "2", "x-y", "band")
buses = st.lists(st.sampled_from(BUSES), min_size=1, max_size=4, unique=True).flatmap(
    lambda names: st.tuples(*(st.builds(Bus, st.just(n), expressions, smooth_ms=number(0, 2000), **strips) for n in names))
)
named_regions = st.dictionaries(st.sampled_from(["1", "rim", "a-b"]), regions, max_size=3).map(lambda d: tuple(d.items()))
selections = st.builds(Selection, buses, st.one_of(st.none(), st.builds(Strip, **strips)), named_regions)
scenes = st.builds(Scene, selections, number(-90, 12), st.booleans(), number(-90, 12))

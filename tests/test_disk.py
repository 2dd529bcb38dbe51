"""The disk in float32: against Möbius addition in float64, the reference's own arrays, and the laws of isometries."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import disk_model as model
from sepstream import disk
from sepstream.contract import DiskSpec
from sepstream.disk import Annulus, Cell, Certain, Disc, Ellipse, HalfPlane, Lasso, Side
from sepstream.errors import ExpressionError

ORACLE = Path(__file__).parents[2] / "shared" / "oracles" / "hyper_oracle.npz"
RIM_BOUND = 3e-4  # float32 at 0.999 of the disk: half an ulp of a coordinate, 3e-8, is 6e-5 of distance
CALM = settings(deadline=None)  # on a busy machine, too
coordinate = st.floats(-0.5, 0.5, width=32)  # so that a moved point stays within 0.98
points = st.tuples(coordinate, coordinate)


def bins_last(rows: np.ndarray) -> np.ndarray:
    """(n, dim) float64 -> (dim, n) float32, the engine's layout."""
    return np.ascontiguousarray(rows.T, np.float32)


def embedding(count: int = 200, dim: int = 2, seed: int = 1) -> np.ndarray:
    """(dim, count) float32 of all radii from none to far beyond the clip."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(dim, count))
    u = direction / np.linalg.norm(direction, axis=0) * rng.uniform(0, 6, count)
    u[:, 0] = 0
    return u.astype(np.float32)


@pytest.fixture(scope="module")
def oracle():
    if not ORACLE.is_file():
        pytest.skip("the reference implementation's arrays are not part of the repository")
    return np.load(ORACLE)


@pytest.mark.parametrize("curvature", [0.0, 1.0])
def test_a_prototype_lies_one_unit_inside_its_class_and_nowhere_nearer_to_the_centre(curvature: float) -> None:
    offset, angle = np.array([-0.7, 0.0, 1.2]), np.array([0.3, 2.0, 4.0])
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    time, space = (offset, np.ones(3)) if curvature == 0 else (np.sinh(offset), np.cosh(offset))
    vectors = np.concatenate([-time[:, None], space[:, None] * direction], axis=1)
    spec = DiskSpec(curvature, (1.0,) * 3, tuple(tuple(row) for row in vectors.tolist()))
    places = disk.prototypes(spec)
    length = (places * direction).sum(axis=1)  # signed, along the normal
    np.testing.assert_allclose(places, length[:, None] * direction, atol=1e-12)
    u = places if curvature == 0 else np.arctanh(np.abs(length))[:, None] * np.sign(length)[:, None] * direction
    distances = disk.line_distance(disk.lift(u.T.astype(np.float32), curvature), spec.vectors, curvature)
    np.testing.assert_allclose(np.diag(distances), disk.INSIDE, atol=1e-5)


@pytest.mark.parametrize("dim", [2, 8])
@pytest.mark.parametrize("curvature", [1.0, 0.5, 0.0])
def test_logits_are_those_of_mobius_addition(curvature, dim):
    rng = np.random.default_rng(dim)
    u = embedding(dim=dim)
    p, a = model.to_disk(rng.normal(size=(7, dim)) * 0.3), rng.normal(size=(7, dim))
    scale = np.sqrt(curvature or 1)
    head = model.hyperplanes(p / scale, a, curvature)
    if curvature:
        x = model.to_disk(u.T)  # in units of the ball's radius, as p is
        expected = [
            2 * np.linalg.norm(normal) / scale * model.line_distance(x, point, normal) for point, normal in zip(p, a, strict=True)
        ]
    else:
        expected = [4 * (u.T.astype(np.float64) - point) @ normal for point, normal in zip(p, a, strict=True)]
    found = disk.logits(disk.lift(u, curvature), head)
    assert found.dtype == np.float32 and found.shape == (7, 200)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-5)


def test_the_lift_lies_on_the_hyperboloid_and_over_its_point():
    u = embedding()
    lifted = disk.lift(u, 1.0)
    x = model.to_disk(u.T)
    norm2 = (x * x).sum(1)
    np.testing.assert_allclose(lifted, np.vstack([1 + norm2, 2 * x.T]) / (1 - norm2), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(disk.point(u), x.T, atol=2e-7)
    np.testing.assert_allclose(disk.certainty(u), np.sqrt(norm2), atol=2e-7)


def test_leading_axes_are_lanes():
    u = embedding(24).reshape(2, 3, 8).transpose(1, 0, 2)  # (hops, dim, bins)
    for hop in range(3):
        np.testing.assert_array_equal(disk.lift(u, 1.0)[hop], disk.lift(u[hop], 1.0))
        np.testing.assert_array_equal(disk.point(u)[hop], disk.point(u[hop]))


@pytest.mark.parametrize("curvature", [1.0, 0.5, 0.0])
def test_the_trained_head_agrees(curvature):
    torch = pytest.importorskip("torch")
    from sepstream_training.models import disk_head  # noqa: PLC0415

    torch.manual_seed(0)
    head = disk_head.DiskHead(5, curvature=curvature)
    v = torch.from_numpy(embedding())
    with torch.no_grad():
        head.offset.normal_()
        logits, u = head(v)
        lifted, vectors, scale = head.lift(u).numpy(), head.vectors().numpy(), head.scale().numpy()
    found = disk.lift(u.numpy(), curvature)
    assert disk.MAX_RADIUS == disk_head.MAX_RADIUS
    np.testing.assert_allclose(found, lifted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(disk.logits(found, model.spec(curvature, scale, vectors)), logits.numpy(), atol=1e-4)


@settings(CALM)
@given(points, points, points)
def test_distance_is_a_metric_that_translations_and_turns_keep(a, b, move):
    x, y = np.array([a]), np.array([b])
    near = disk.distance(bins_last(x), bins_last(y))
    np.testing.assert_allclose(near, model.distance(x, y), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(near, disk.distance(bins_last(y), bins_last(x)))
    moved = disk.distance(bins_last(model.add(move, x)), bins_last(model.add(move, y)))
    np.testing.assert_allclose(moved, near, rtol=1e-3, atol=RIM_BOUND)
    turned = disk.distance(bins_last(x)[::-1], bins_last(y)[::-1])  # a reflection is exact
    np.testing.assert_allclose(turned, near, rtol=1e-6)


@settings(CALM)
@given(points, points, st.floats(0, 360), st.floats(-2, 2))
def test_a_line_moves_with_its_points(p, a, angle, offset):
    """The signed distance to a geodesic does not change when both are turned by an angle."""
    x = np.array([p, a])
    vector = HalfPlane(0.0, offset).band().vector
    turned = HalfPlane(angle, offset).band().vector
    turn = np.exp(1j * math.radians(angle)) * (x[:, 0] + 1j * x[:, 1])
    before = disk.line_distance(lift_points(x), [vector], 1.0)
    after = disk.line_distance(lift_points(np.column_stack([turn.real, turn.imag])), [turned], 1.0)
    np.testing.assert_allclose(after, before, atol=1e-4)


def lift_points(x: np.ndarray) -> np.ndarray:
    size = np.linalg.norm(x, axis=1, keepdims=True)
    return disk.lift(bins_last(np.arctanh(size) * x / np.maximum(size, 1e-30)), 1.0)


def test_float32_is_accurate_at_the_rim():
    """Pairs of points within 0.001 of the rim, near and far from each other."""
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 2000)
    other = angle + 10.0 ** rng.uniform(-5, 0, 2000)
    x, y = (bins_last(0.999 * np.column_stack([np.cos(t), np.sin(t)])) for t in (angle, other))
    x64, y64 = x.T.astype(np.float64), y.T.astype(np.float64)  # the same points, not the same angles
    np.testing.assert_allclose(disk.distance(x, y), model.distance(x64, y64), atol=RIM_BOUND)


@pytest.mark.parametrize(
    "vector",
    [(0.0, 1.0, 0.0), (-math.sinh(0.7), math.cosh(0.7) * 0.6, math.cosh(0.7) * 0.8), (math.sinh(2), 0.0, -math.cosh(2))],
)
def test_a_class_geodesic_is_drawn_where_its_distance_is_zero(vector):
    x, y, radius, ends = disk.geodesic(vector)
    for end in ends:
        assert math.hypot(*end) == pytest.approx(1)
    if math.isinf(radius):
        middle = np.zeros(2)
        assert [end[0] * x + end[1] * y for end in ends] == pytest.approx([0, 0])
    else:
        assert x * x + y * y == pytest.approx(1 + radius**2)  # at right angles to the rim
        assert [math.hypot(end[0] - x, end[1] - y) for end in ends] == pytest.approx([radius, radius])
        middle = np.array([x, y]) * (1 - radius / math.hypot(x, y))
    np.testing.assert_allclose(disk.line_distance(lift_points(middle[None]), [vector], 1.0), 0, atol=1e-5)


@pytest.mark.parametrize("region", [Disc(0.9, 0.3, 0.5), Annulus(-0.998, 0.0, 0.01, 3.0), Certain(0.4, 0.99)])
def test_a_form_around_a_point_measures_the_distance_from_it(region):
    u = embedding().astype(np.float64)
    radius = np.minimum(np.linalg.norm(u, axis=0), disk.MAX_RADIUS)
    lifted = np.vstack([np.cosh(2 * radius), np.sinh(2 * radius) * u / np.maximum(np.linalg.norm(u, axis=0), 1e-30)])
    centre = [getattr(region, name, 0.0) for name in ("x", "y")]
    found = np.arccosh(np.maximum(region.band().vector @ lifted, 1))
    np.testing.assert_allclose(found, model.distance(model.to_disk(u.T), centre), atol=1e-6)


@pytest.mark.parametrize("curvature", ["1", "0.5"])
@pytest.mark.parametrize("dim", [2, 8])
def test_the_reference_implementation_agrees(oracle, dim, curvature):
    """Its own c differs from the nominal one in the seventh digit, being stored in float32 as a softplus."""
    get = {key.split(f"c{curvature}_")[1]: oracle[key] for key in oracle.files if key.startswith(f"d{dim}_c{curvature}_")}
    c = float(curvature)
    u, u2 = (bins_last(np.sqrt(c) * oracle[f"d{dim}_{name}"]) for name in ("u", "u2"))
    x, y = disk.point(u), disk.point(u2)
    np.testing.assert_allclose(x, np.sqrt(c) * get["topoincare"].T, atol=1e-6)
    np.testing.assert_allclose(disk.certainty(u), np.sqrt(c) * get["certainty_norm"], atol=1e-6)
    np.testing.assert_allclose(disk.distance(x, np.zeros_like(x)), np.sqrt(c) * get["dist0"], atol=RIM_BOUND)
    np.testing.assert_allclose(disk.distance(x, y), np.sqrt(c) * get["dist_xy"], atol=RIM_BOUND)
    head = model.hyperplanes(get["p_k"], oracle[f"d{dim}_a"], c)
    np.testing.assert_allclose(disk.logits(disk.lift(u, c), head), get["mlr_logits_f64"].T, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("curvature", [1.0, 0.5])
def test_the_reference_draws_its_geodesics_on_ours(oracle, curvature):
    name = f"d2_c{curvature:g}_"
    head = model.hyperplanes(oracle[name + "p_k"], oracle["d2_a"], curvature)
    for vector, curve in zip(head.vectors, np.sqrt(curvature) * oracle[name + "geodesics"], strict=True):
        x, y, radius, _ = disk.geodesic(vector)
        np.testing.assert_allclose(np.hypot(curve[:, 0] - x, curve[:, 1] - y), radius, rtol=1e-4)


def test_the_reference_agrees_in_euclid(oracle):
    head = model.hyperplanes(oracle["d2_euclid_p_k"], oracle["d2_a"], 0.0)
    found = disk.logits(disk.lift(bins_last(oracle["d2_u2"]), 0.0), head)
    np.testing.assert_allclose(found, oracle["d2_euclid_logits_u2"].T, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("region", "text"),
    [
        (Disc(0.5, 0.2, 0.8), "disc(0.5, 0.2, r=0.8)"),
        (HalfPlane(30, 0.1, soft=0.25), "half(30, 0.1, soft=0.25)"),
        (Annulus(0, 0, 0.2, 0.6), "annulus(0, 0, 0.2..0.6)"),
        (Certain(0.4, 1), "certain(0.4..1)"),
        (Ellipse(0, -0.5, 0.2, 0.1, 30), "ellipse(0, -0.5, 0.2, 0.1, angle=30)"),
        (Lasso(((0, 0), (0.5, 0), (0.5, 0.5))), "lasso(0 0, 0.5 0, 0.5 0.5)"),
        (Cell("drums"), "cell(drums)"),
        (Side("drums", soft=0.1), "side(drums, soft=0.1)"),
    ],
)
def test_a_region_says_itself(region, text):
    assert str(region) == text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Disc(0.9, 0.9, 1), "disc: centre 0.9, 0.9 has a norm beyond 0.999, where the disk ends"),
        (lambda: Disc(0, 0, math.nan), "disc: r nan; expected a number from 0 to 16"),
        (lambda: Disc(0, 0, True), "disc: r True; expected a number from 0 to 16"),
        (lambda: Disc(0, 0, 1, soft=-0.1), "disc: soft -0.1; expected a number from 0 to 16"),
        (lambda: HalfPlane(0, math.inf), "half: offset inf; expected a number from -16 to 16"),
        (lambda: Annulus(0, 0, 0.6, 0.2), "annulus: inner 0.6; expected a number from 0 to 0.2"),
        (lambda: Certain(0.4, 1.5), "certain: high 1.5; expected a number from 0 to 1"),
        (lambda: Ellipse(0, 0, 0, 1), "ellipse: a 0; expected a number from 0.0001 to 4"),
        (lambda: Lasso(((0, 0), (1, 1))), "lasso: 2 points; expected 3 to 256, such as 0 0, 0.5 0, 0.5 0.5"),
        (lambda: Lasso((0.0, 1.0, 2.0)), "lasso: 0.0; expected points such as 0 0, 0.5 0, 0.5 0.5"),
        (lambda: Lasso(((0, 0), (3, 0), (0, 1))), "lasso: a coordinate 3; expected a number from -2 to 2"),
        (lambda: Cell("a b"), "cell: 'a b'; expected the name of a class, such as cell(speech)"),
        (lambda: Side(0.5), "side: 0.5; expected the name of a class, such as side(speech)"),
    ],
)
def test_a_region_refuses_what_it_cannot_be(make, message):
    with pytest.raises(ExpressionError) as refused:
        make()
    assert str(refused.value) == message

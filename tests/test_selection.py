"""Buses: the language says what it means, hostile texts are refused in one line, and the kernel does what the text says.

The kernel is compared with disk_model.py, which evaluates the tree in float64 and by Möbius addition.
"""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import disk_model as model
import toy_bundle
from sepstream import kernels
from sepstream.contract import DiskSpec
from sepstream.disk import Annulus, Cell, Certain, Disc, Ellipse, HalfPlane, Lasso, Region, Side
from sepstream.errors import ControlError, ExpressionError
from sepstream.expression import (
    MAX_DEPTH,
    MAX_PARTS,
    MAX_REACH,
    MAX_TEXT,
    Area,
    Expression,
    Gain,
    Mix,
    Named,
    Not,
    Pair,
    Ref,
    parse,
    reach,
)
from sepstream.paths import data_dir
from sepstream.program import Code, Program
from sepstream.selection import Bus, Selection, Strip, compile, load_preset, read_bus

CALM = settings(deadline=None)  # the first example may have to wait for the compiler
THOROUGH = settings(CALM, max_examples=300)
BINS = 37
BUNDLE = toy_bundle.values(bins=BINS)[0]


def random_head(seed: int, dim: int, curvature: float) -> DiskSpec:
    """Classes of different steepness, direction and offset."""
    rng = np.random.default_rng(seed)
    return model.hyperplanes(model.to_disk(rng.normal(scale=0.2, size=(7, dim))), rng.normal(size=(7, dim)), curvature)


UNEVEN = replace(BUNDLE, disk=random_head(5, 2, 1.0))
EUCLID = replace(BUNDLE, disk=random_head(6, 2, 0.0))
WIDE = replace(BUNDLE, disk=random_head(7, 8, 1.0))
LEAVES, PARENTS = BUNDLE.leaves, BUNDLE.parents
HOP_MS = 1000 * BUNDLE.stft.hop_samples / BUNDLE.sample_rate_hz
PRESETS = sorted(data_dir("presets").glob("*.toml"))


def number(low: float, high: float) -> st.SearchStrategy[float]:
    """Of three decimals, so that no example lies on a boundary by less than rounding."""
    return st.integers(math.ceil(low * 1000), math.floor(high * 1000)).map(lambda n: n / 1000)


def between(low: float, high: float) -> st.SearchStrategy[list[float]]:
    return st.tuples(number(low, high), number(low, high)).map(sorted)


soft = st.sampled_from([0.0, 0.05, 0.4, 2.0])
inside = number(-0.7, 0.7)
anywhere = number(-1.5, 1.5)
class_names = st.sampled_from(BUNDLE.class_names)
regions = st.one_of(
    st.builds(Disc, inside, inside, number(0, 5), soft=soft),
    st.builds(HalfPlane, number(-360, 360), number(-4, 4), soft=soft),
    st.builds(lambda x, y, band, soft: Annulus(x, y, *band, soft=soft), inside, inside, between(0, 5), soft),
    st.builds(lambda band, soft: Certain(*band, soft=soft), between(0, 1), soft),
    st.builds(Ellipse, anywhere, anywhere, number(0.01, 2), number(0.01, 2), number(-360, 360), soft=soft),
    st.builds(Lasso, st.lists(st.tuples(anywhere, anywhere), min_size=3, max_size=8).map(tuple), soft=soft),
    st.builds(Cell, class_names, soft=soft),
    st.builds(Side, class_names, soft=soft),
)
gains = st.one_of(st.tuples(number(0, 2), st.just(False)), st.tuples(number(-60, 6), st.just(True)))


def trees(*more: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    return st.recursive(
        st.one_of(st.just(Mix()), class_names.map(Named), regions.map(Area), *more),
        lambda inner: st.one_of(
            inner.map(Not),
            st.builds(lambda gain, of: Gain(*gain, of), gains, inner),
            st.builds(Pair, st.sampled_from(["&", "|", "-", "+"]), inner, inner),
        ),
        max_leaves=8,
    ).filter(lambda expression: max(map(abs, reach(expression))) <= MAX_REACH)


expressions = trees()


def frames(hops: int = 3, seed: int = 0, bundle=BUNDLE) -> tuple[np.ndarray, np.ndarray]:
    """(hops, classes, bins) masks that add up to one per level, and (hops, dim, bins) embedding out to the clip."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(hops, 7, BINS)) * 3
    power = np.exp(logits)
    masks = np.concatenate([part / part.sum(1, keepdims=True) for part in (power[:, :2], power[:, 2:])], axis=1)
    dim = len(bundle.disk.vectors[0]) - 1
    embedding = rng.normal(size=(hops, dim, BINS)) * rng.choice([0.2, 1.0, 4.0], size=(hops, 1, BINS))
    return masks.astype(np.float32), embedding.astype(np.float32)


def run(selection: Selection, masks: np.ndarray, embedding: np.ndarray, bundle=BUNDLE, state=None) -> np.ndarray:
    """(hops, buses, bins)."""
    program = compile(selection, bundle)
    out = np.full((len(masks), len(program.buses), BINS), np.nan, np.float32)
    program.masks(masks, embedding, out, program.initial_state() if state is None else state)
    return out


def choose(*texts: str, residual: bool = False, **settings) -> Selection:
    buses = tuple(Bus(f"b{index}", parse(text), **settings) for index, text in enumerate(texts))
    return Selection(buses, Strip() if residual else None)


def named(*names: str) -> Selection:
    return Selection((Bus("a", Mix()),), regions=tuple((name, Disc(0, 0, 1)) for name in names))


def refusal(what, *arguments) -> str:
    with pytest.raises(ExpressionError) as refused:
        what(*arguments)
    message = str(refused.value)
    assert message and "\n" not in message and len(message) < 500
    return message


# The language.


@settings(CALM)
@given(trees(st.sampled_from("1 a-b 2x 1e5 x_ -".split()).map(Ref)))
def test_every_tree_reads_back_from_its_text(expression):
    assert parse(str(expression)) == expression


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("speech", Named("speech")),
        ("drums+0.5*bass", Pair("+", Named("drums"), Gain(0.5, False, Named("bass")))),
        ("!speech", Not(Named("speech"))),
        (" mix - male ", Pair("-", Mix(), Named("male"))),
        ("-6dB*bass", Gain(-6.0, True, Named("bass"))),
        ("a + -6 dB * b", Pair("+", Named("a"), Gain(-6.0, True, Named("b")))),
        ("a-b-c", Pair("-", Pair("-", Named("a"), Named("b")), Named("c"))),
        ("a-b+c", Pair("+", Pair("-", Named("a"), Named("b")), Named("c"))),
        ("a|b&c-d", Pair("-", Pair("|", Named("a"), Pair("&", Named("b"), Named("c"))), Named("d"))),
        ("!a&b", Pair("&", Not(Named("a")), Named("b"))),
        ("!0.5*!(a|b)", Not(Gain(0.5, False, Not(Pair("|", Named("a"), Named("b")))))),
        (
            "disc(0.5,0.2,r=0.8)&certain(0.4..1)",
            Pair("&", Area(Disc(0.5, 0.2, 0.8)), Area(Certain(0.4, 1))),
        ),
        ("disc(r=1, y=0, x=-.5, soft=1e-1)", Area(Disc(-0.5, 0, 1, soft=0.1))),
        ("half(30, 0.1)", Area(HalfPlane(30, 0.1))),
        ("half(-30)", Area(HalfPlane(-30, 0))),
        ("annulus(0,0,0.2..0.6)", Area(Annulus(0, 0, 0.2, 0.6))),
        ("annulus(0,0,1..2)", Area(Annulus(0, 0, 1, 2))),
        ("ellipse(0,0,.5,.2,angle=30)", Area(Ellipse(0, 0, 0.5, 0.2, 30))),
        ("lasso(0 0, 0.5 0, 0.5 -0.5, soft=0.1)", Area(Lasso(((0, 0), (0.5, 0), (0.5, -0.5)), soft=0.1))),
        ("cell(drums)", Area(Cell("drums"))),
        ("side(name=drums)", Area(Side("drums"))),
        ("region(1)-region( drum-room )", Pair("-", Ref("1"), Ref("drum-room"))),
        ("!region(1e5) & regional", Pair("&", Not(Ref("1e5")), Named("regional"))),
    ],
)
def test_an_expression_means(text, tree):
    assert parse(text) == tree


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "column 1: the text ends; expected a class, a region, mix, '!', '(' or a gain such as 0.5* or -6dB*"),
        ("speech music", "column 8: unexpected 'music'; expected an operator & | - + or the end"),
        ("speech &", "column 9: the text ends; expected a class, a region, mix, '!', '(' or a gain such as 0.5* or -6dB*"),
        ("(speech", "column 8: the text ends; expected ')' or an operator & | - +"),
        ("speech)", "column 7: unexpected ')'; expected an operator & | - + or the end"),
        ("0.5 drums", "column 5: unexpected 'drums'; expected '*' or 'dB*' after a gain"),
        ("drums + -6dB bass", "column 14: unexpected 'bass'; expected '*' after a gain"),
        ("drums*0.5", "column 6: unexpected '*'; expected an operator & | - + or the end"),
        ("bass + -0.5*drums", "column 8: gain -0.5; expected 0 to 16"),
        ("60dB*drums", "column 1: gain 60 dB; expected -120 to 24 dB"),
        ("1e999*drums", "column 1: unexpected '1e999'; expected a finite number"),
        ("16*16*drums", "the mask may reach 256; expected 64 at most: lower the gains"),
        ("disk(0,0,1)", "column 1: unknown region 'disk'; did you mean 'disc'? known: disc, half, annulus, certain, ellipse, "),
        ("disc(0,0,radius=1)", "column 10: disc: unknown 'radius'; known: x, y, r, soft"),
        ("disc(0,0,1,r=1)", "column 1: disc: 'r' is given twice; expected x, y, r and maybe soft="),
        ("disc(0,0,r=1,r=1)", "column 14: disc: 'r' is given twice"),
        ("disc(0,0)", "column 1: disc: 'r' is missing; expected x, y, r and maybe soft="),
        ("disc(0,0,1,1)", "column 1: disc: 4 values; expected x, y, r and maybe soft="),
        ("disc(2,0,1)", "column 1: disc: centre 2, 0 has a norm beyond 0.999, where the disk ends"),
        ("disc(0 0,1)", "column 1: disc: 'r' is missing; expected x, y, r and maybe soft="),
        ("disc(0 0,1,1)", "column 1: disc: x (0.0, 0.0); expected a number from -2 to 2"),
        ("disc()", "column 6: unexpected ')'; expected a number"),
        ("speech & cell(0.5)", "column 10: cell: 0.5; expected the name of a class, such as cell(speech)"),
        ("mix & region()", "column 7: region: expected one NAME, 1 to 64 letters, digits, _ and -"),
        ("region(a b)", "column 1: region: expected one NAME"),
        ("certain(0.4..)", "column 14: unexpected ')'; expected a number"),
        ("speech; rm", "column 7: unexpected ';'; expected an operator & | - + or the end"),
        ("\u0663*drums", "column 1: unexpected '\u0663'; expected a class, a region, mix, '!', '(' or a gain"),
    ],
)
def test_an_error_says_where_what_and_what_instead(text, message):
    assert refusal(parse, text).startswith(message)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 10_000,
        "!" * 10_000 + "a",
        "(" * (MAX_DEPTH + 1) + "a" + ")" * (MAX_DEPTH + 1),
        "+".join("a" * (MAX_PARTS + 1)),
        "0*" * 5000 + "a",
        "a" * (MAX_TEXT + 1),
        "9" * 5000 + "*a",
        "lasso(" + ",".join(["0 0"] * 257) + ")",
        "soft(" * 3000,
        "__import__('os').system('true')",
        "a\0b",
        "a\nb",
        "\ud800",
        "disc(nan,0,1)",
        "disc(inf,0,1)",
        "lasso(points=3)",
        "disc(soft=disc)",
    ],
)
def test_a_hostile_text_is_refused_in_one_line(text):
    refusal(parse, text)


def test_the_largest_expressions_work():
    deep = "(" * MAX_DEPTH + "speech" + ")" * MAX_DEPTH
    for text in (deep, "!" * (MAX_PARTS - 1) + "speech", " | ".join(["speech"] * MAX_PARTS), " & ".join(["mix"] * MAX_PARTS)):
        assert parse(str(parse(text))) == parse(text)
        run(choose(text), *frames(1))


words = st.sampled_from(
    [*"!&|+-*(),=", "..", "dB", "0.5", "-1", "1e9", "speech", "mix", "soft", "r", "lasso(", "disc(", "region(", "cell(", " "]
)


@settings(THOROUGH)
@given(st.one_of(st.text(max_size=40), st.lists(words, max_size=20).map("".join)))
def test_any_text_is_a_tree_or_an_expression_error(text):
    try:
        expression = parse(text)
    except ExpressionError as error:
        assert "\n" not in str(error)
    else:
        assert parse(str(expression)) == expression


# Buses and selections.


def test_stems_are_one_bus_for_each_class():
    assert compile(Selection.stems(BUNDLE), BUNDLE).buses == LEAVES
    assert compile(Selection.stems(BUNDLE, "parents", residual=True), BUNDLE).buses == (*PARENTS, "residual")
    assert compile(Selection.stems(BUNDLE, "all"), BUNDLE).buses == BUNDLE.class_names
    assert compile(Selection.stems(BUNDLE, "drums, speech"), BUNDLE).buses == ("drums", "speech")
    masks, embedding = frames()
    np.testing.assert_array_equal(run(Selection.stems(BUNDLE, "all"), masks, embedding), masks)


def test_a_bus_reads_from_one_text():
    assert read_bus("vox=speech") == Bus("vox", Named("speech"))
    assert read_bus("rim = disc(0.5,0.2,r=0.8)").expression == Area(Disc(0.5, 0.2, 0.8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: read_bus("speech"), "bus 'speech' has no '='; expected NAME=EXPRESSION, such as vox=speech"),
        (lambda: read_bus("vox=spe ech"), "bus 'vox': column 5: unexpected 'ech'"),
        (lambda: read_bus("=speech"), "bus name ''; expected 1 to 64 letters, digits, _ and -"),
        (lambda: read_bus("../vox=speech"), "bus name '../vox'; expected 1 to 64 letters, digits, _ and -"),
        (lambda: Bus("a" * 65, Mix()), "bus name 'aaaaa"),
        (lambda: Bus("Residual", Mix()), "bus name 'Residual' is kept for what the others leave"),
        (lambda: Bus("a", Mix(), gain_db=math.nan), "bus 'a': gain_db nan; expected a number from -120 to 24"),
        (lambda: Bus("a", Mix(), smooth_ms=-1), "bus 'a': smooth_ms -1; expected a number from 0 to 2000"),
        (lambda: Bus("a", Mix(), mute=1), "bus 'a': mute 1; expected true or false"),
        (lambda: Selection(()), "0 buses; expected 1 to 64"),
        (
            lambda: Selection((Bus("a", Mix()), Bus("A", Mix()))),
            "two buses named 'A'; expected names that differ in more than case",
        ),
        (
            lambda: Selection.stems(BUNDLE, "drum"),
            "unknown class 'drum'; did you mean 'drums'? known: leaves, parents, all, speech",
        ),
        (
            lambda: compile(choose("mix&spech"), BUNDLE),
            "bus 'b0': column 5: unknown class 'spech'; did you mean 'speech'? known: mix",
        ),
        (lambda: Bus("a", Mix(), pan=1.01), "bus 'a': pan 1.01; expected a number from -1 to 1"),
        (
            lambda: Bus("a", Mix(), outputs=()),
            "bus 'a': outputs []; expected 1 to 8 different channels from 1 to 64, such as [1, 2]",
        ),
        (lambda: Bus("a", Mix(), outputs=(1, 1)), "bus 'a': outputs [1, 1]; expected 1 to 8 different channels"),
        (lambda: Bus("a", Mix(), outputs=(True,)), "bus 'a': outputs [True]; expected 1 to 8 different channels"),
        (lambda: Bus("a", Mix(), outputs=([1],)), "bus 'a': outputs [[1]]; expected 1 to 8 different channels"),
        (lambda: Strip(gain_db=99), "bus 'residual': gain_db 99; expected a number from -120 to 24"),
        (lambda: named("a/b"), "region name 'a/b'; expected 1 to 64 letters, digits, _ and -"),
        (lambda: named("a", "A"), "two regions named 'A'; expected names that differ in more than case"),
        (lambda: named(*map(str, range(65))), "65 regions; expected 64 at most"),
        (
            lambda: compile(Selection(choose("mix & region(ab)").buses, regions=(("abc", Disc(0, 0, 1)),)), BUNDLE),
            "bus 'b0': column 7: unknown region 'ab'; did you mean 'abc'? known: abc",
        ),
        (
            lambda: compile(Selection(choose("region(a)").buses, regions=(("a", Disc(0, 0, 1)),)), EUCLID),
            "bus 'b0': column 1: disc needs a disk, the model's space is Euclidean; ",
        ),
        (lambda: compile(choose("cell(drum)"), BUNDLE), "bus 'b0': column 1: unknown class 'drum'; did you mean 'drums'?"),
        (
            lambda: compile(choose("!disc(0,0,1)"), EUCLID),
            "bus 'b0': column 2: disc needs a disk, the model's space is Euclidean; ",
        ),
        (
            lambda: compile(choose("certain(0..1)"), WIDE),
            "bus 'b0': column 1: certain needs a disk, the model's space is of 8 dim",
        ),
    ],
)
def test_a_bus_that_cannot_be_is_refused(make, message):
    assert refusal(make).startswith(message)


def test_faders_mute_and_solo_become_gains():
    def gains(*buses: Bus, residual: bool = True) -> list[float]:
        return compile(Selection(buses, Strip() if residual else None), BUNDLE).gains().tolist()

    loud, plain = Bus("a", Named("bass"), gain_db=20), Bus("b", Named("drums"))
    assert gains(loud, plain) == [10.0, 1.0, 1.0]
    assert gains(loud, replace(plain, mute=True), residual=False) == [10.0, 0.0]
    assert gains(replace(loud, solo=True), plain) == [10.0, 0.0, 0.0]
    assert gains(replace(loud, solo=True, mute=True), plain) == [0.0, 0.0, 0.0]
    assert gains(replace(loud, gain_db=-90), plain) == [0.0, 1.0, 1.0]  # a fader that is all the way down is off


def test_the_residual_has_a_fader_of_its_own():
    def gains(residual: Strip) -> list[float]:
        return compile(Selection((Bus("a", Named("bass")),), residual), BUNDLE).gains().tolist()

    assert gains(Strip(gain_db=20)) == [1.0, 10.0]
    assert gains(Strip(solo=True)) == [0.0, 1.0]
    assert gains(Strip(mute=True)) == [1.0, 0.0]


def by_name(expression: Expression, regions: dict[str, Region]) -> Expression:
    """The same tree with its regions under names, which ``regions`` gets to know."""
    match expression:
        case Area(region):
            regions[str(len(regions))] = region
            return Ref(str(len(regions) - 1))
        case Not(of):
            return Not(by_name(of, regions))
        case Gain(amount, decibel, of):
            return Gain(amount, decibel, by_name(of, regions))
        case Pair(operator, left, right):
            return Pair(operator, by_name(left, regions), by_name(right, regions))
    return expression


@settings(CALM)
@given(expressions)
def test_a_named_region_is_the_region(expression):
    regions: dict[str, Region] = {}
    indirect = Selection((Bus("a", by_name(expression, regions)),), regions=tuple(regions.items()))
    masks, embedding = frames(1)
    np.testing.assert_array_equal(run(indirect, masks, embedding), run(Selection((Bus("a", expression),)), masks, embedding))


# The kernel.


@settings(THOROUGH)
@given(expressions, st.integers(0, 1000), st.sampled_from([BUNDLE, UNEVEN]))
def test_the_kernel_does_what_the_expression_says(expression, seed, bundle):
    masks, embedding = frames(2, seed)
    found = run(Selection((Bus("a", expression),)), masks, embedding, bundle)
    expected = [model.evaluate(expression, m.astype(float), u.T, bundle) for m, u in zip(masks, embedding, strict=True)]
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-5 * MAX_REACH if "*" in str(expression) else 2e-5)


@pytest.mark.parametrize("bundle", [EUCLID, WIDE], ids=["Euclid", "8 dimensions"])
@pytest.mark.parametrize("text", ["side(drums)", "side(drums, soft=0.5)", "cell(drums)", "cell(speech, soft=0.5)"])
def test_sides_and_cells_work_in_every_space(bundle, text):
    masks, embedding = frames(2, bundle=bundle)
    found = run(choose(text), masks, embedding, bundle)
    expected = [model.region_mask(parse(text).region, u.T.astype(float), bundle) for u in embedding]
    assert 0 < found.mean() < 1
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-5)


def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kernel as the plain function that it is compiled from."""
    for name, function in list(vars(kernels).items()):
        if hasattr(function, "py_func"):
            monkeypatch.setattr(kernels, name, function.py_func)


def test_the_compiled_kernel_and_its_plain_twin_agree(monkeypatch):
    texts = (
        "mix - speech & male | !drums + -6dB*bass",
        "disc(0.5,0.2,r=0.8,soft=0.3) & certain(0.2..0.9) | half(30,0.1,soft=1)",
        "annulus(-0.2,0.1,0.5..2,soft=0.2)",
        "ellipse(0.2,0.1,0.5,0.3,angle=20,soft=0.5)",
        "lasso(0 0, 0.9 0, 0.8 0.8, -0.3 0.6, soft=0.3)",
        "cell(drums) + cell(music,soft=0.3) + side(bass,soft=0.2)",
    )
    selection, (masks, embedding) = choose(*texts, residual=True, smooth_ms=5.0), frames(2)
    compiled = run(selection, masks, embedding)
    interpreted(monkeypatch)
    np.testing.assert_allclose(run(selection, masks, embedding), compiled, atol=2e-6)


@pytest.mark.parametrize("offset", [0.0, 1e-6, 1e-3])
def test_a_mask_is_one_half_on_the_boundary_even_at_the_rim(offset):
    """The distance from a point at the rim, as small as float32 can tell: the linear form is taken in float64."""
    u = np.full((2, BINS), 3.7 / math.sqrt(2), np.float32)
    u[0] += np.float32(offset)
    x, centre = model.to_disk(u.T)[0], model.to_disk(np.full((1, 2), np.float32(3.7 / math.sqrt(2))))[0]
    radius = float(model.distance(x[None], centre[None])[0])
    masks, _ = frames(1)
    disc = Area(Disc(*map(float, centre), r=radius, soft=0.1))
    assert run(Selection((Bus("a", disc),)), masks, u[None])[0, 0, 0] == pytest.approx(0.5, abs=1e-3)


@settings(CALM)
@given(regions.filter(lambda region: region.soft > 0 and not isinstance(region, Cell)), st.integers(0, 100))
def test_a_soft_edge_leaves_the_boundary_where_it_is(region, seed):
    masks, embedding = frames(1, seed)
    hard, soft = (run(Selection((Bus("a", Area(one)),)), masks, embedding) for one in (replace(region, soft=0.0), region))
    np.testing.assert_array_equal(soft >= 0.5, hard == 1)
    assert soft.min() >= 0 and soft.max() <= 1


TURN = np.linspace(0, 2 * np.pi, 20_000)
OVAL = np.column_stack([0.3 + 0.6 * np.cos(TURN), 0.2 + 0.3 * np.sin(TURN)])
CORNERS = [(0.1, 0.0), (0.9, 0.1), (0.5, 0.8), (-0.6, 0.6), (0.1, 0.0)]
SIDES = np.concatenate([np.linspace(start, end, 5000) for start, end in itertools.pairwise(CORNERS)])


@pytest.mark.parametrize(("region", "outline"), [(Ellipse(0.3, 0.2, 0.6, 0.3), OVAL), (Lasso(tuple(CORNERS[:4])), SIDES)])
def test_the_edge_of_a_drawn_shape_is_as_wide_as_it_says(region, outline):
    """Against the distance to the nearest of many points of the outline; the kernel's is of first order."""
    u = np.random.default_rng(0).uniform(-1.3, 1.3, (200, 2, BINS)).astype(np.float32)
    found = run(Selection((Bus("a", Area(replace(region, soft=0.2))),)), np.zeros((200, 7, BINS), np.float32), u)
    found = found[:, 0].ravel()
    edge = (found > 0.01) & (found < 0.99)
    nearest = [model.distance(x, outline).min() for x in model.to_disk(u.transpose(0, 2, 1).reshape(-1, 2)[edge])]
    expected = model.smooth_step(np.where(found[edge] > 0.5, nearest, np.negative(nearest)), 0.2)
    assert edge.sum() > 200
    np.testing.assert_allclose(found[edge], expected, atol=0.06)


# Compiled programs travel as bytes.


@settings(CALM)
@given(st.lists(expressions, min_size=1, max_size=3), st.booleans())
def test_a_program_that_has_travelled_does_the_same(chosen, residual):
    selection = Selection(tuple(Bus(f"b{i}", e, smooth_ms=i) for i, e in enumerate(chosen)), Strip() if residual else None)
    code = Code.unpack(compile(selection, BUNDLE).code.pack())
    assert Code.unpack(code.pack()).pack() == code.pack()
    program, (masks, embedding) = Program(BUNDLE, selection.names, code), frames(2)
    out = np.empty((2, len(selection.names), BINS), np.float32)
    program.masks(masks, embedding, out, program.initial_state())
    np.testing.assert_array_equal(out, run(selection, masks, embedding))
    assert program.gains().tolist() == [1.0] * len(selection.names)


TRAVELLER = compile(
    choose("lasso(0 0, 1 0, 1 1) & cell(drums) | !speech", "0.5*disc(0,0,r=1)", residual=True), BUNDLE
).code.pack()


@settings(THOROUGH)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.builds(
            lambda at, new: TRAVELLER[:at] + new + TRAVELLER[at + len(new) :],
            st.integers(0, len(TRAVELLER)),
            st.binary(max_size=9),
        ),
        st.builds(lambda end: TRAVELLER[:end], st.integers(0, len(TRAVELLER) - 1)),
        st.builds(
            lambda at, word: (
                TRAVELLER[: -4 * at] + word.to_bytes(4, "little", signed=True) + TRAVELLER[len(TRAVELLER) - 4 * at + 4 :]
            ),
            st.integers(1, 33),
            st.integers(-3, 15),
        ),
    )
)
def test_any_bytes_are_a_safe_program_or_one_line(data):
    """What is not refused runs within its arrays, whatever it computes."""
    try:
        code = Code.unpack(data)
        program = Program(BUNDLE, tuple(map(str, range(code.buses))), code)
    except ControlError as error:
        assert "\n" not in str(error) and len(str(error)) < 300
        return
    masks, embedding = frames(1)
    with mock.patch.object(kernels, "run_program", kernels.run_program.py_func), np.errstate(all="ignore"):
        program.masks(masks, embedding, np.empty((1, code.buses, BINS), np.float32), program.initial_state())


def test_a_program_for_another_model_or_other_buses_is_refused():
    code = compile(choose("disc(0,0,1) | guitar"), BUNDLE).code
    for bundle, names in ((WIDE, ("a",)), (replace(BUNDLE, classes=BUNDLE.classes[:1]), ("a",)), (BUNDLE, ("a", "b"))):
        with pytest.raises(ControlError, match=r"^compiled program: .*; send the scene again$"):
            Program(bundle, names, code)


def test_a_model_with_classes_only_refuses_regions_in_one_line_and_takes_the_rest():
    bare = replace(BUNDLE, disk=None, name="bare")
    wanted = r"^bus 'b0': column 10: disc needs a disk, model 'bare' has classes only; expected speech, music, .* or mix"
    for text in ("speech & disc(0,0,1)", "speech & region(a)"):
        with pytest.raises(ExpressionError, match=wanted.replace("disc", "disc|certain")) as refused:
            compile(replace(choose(text), regions=(("a", Certain(0.5, 1.0)),)), bare)
        assert "\n" not in str(refused.value)
    masks, _ = frames()
    found = run(choose("speech | 0.5*drums", "mix - male", residual=True), masks, masks[:, :0], bare)
    np.testing.assert_array_equal(found, run(choose("speech | 0.5*drums", "mix - male", residual=True), *frames()))
    with pytest.raises(ControlError, match="another model than 'bare'"):
        Program(bare, ("a",), compile(choose("disc(0,0,1)"), BUNDLE).code)


# The laws.


@settings(CALM)
@given(st.lists(regions, min_size=1, max_size=4), st.integers(0, 100))
@example([Cell("speech", soft=0.4)], 0)
def test_any_partition_of_the_disk_adds_up_to_one(parts, seed):
    """Each region without those before it, and the complement of all."""
    shares = ["(" + " - ".join(map(str, [part, *parts[:index]])) + ")" for index, part in enumerate(parts)]
    rest = f"!({' | '.join(map(str, parts))})"
    found = run(choose(*shares, rest), *frames(2, seed))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("bundle", [BUNDLE, UNEVEN, EUCLID, WIDE], ids=["toy", "uneven", "Euclid", "8 dimensions"])
@pytest.mark.parametrize("edge", ["", ", soft=0.1", ", soft=3"])
@pytest.mark.parametrize("level", [LEAVES, PARENTS], ids=["leaves", "parents"])
def test_classes_and_cells_of_a_level_add_up_to_one(level, edge, bundle):
    masks, embedding = frames(bundle=bundle)
    embedding[:, :, 0] = 0  # equal logits: one cell takes the bin
    for texts in (level, [f"cell({name}{edge})" for name in level]):
        np.testing.assert_allclose(run(choose(*texts), masks, embedding, bundle).sum(axis=1), 1, atol=1e-6)


@settings(CALM)
@given(st.lists(expressions, min_size=1, max_size=4), st.sampled_from([0.0, 3.0, 50.0]))
def test_the_residual_is_what_all_others_leave(chosen, smooth_ms):
    buses = tuple(Bus(f"b{index}", expression, smooth_ms=smooth_ms * index) for index, expression in enumerate(chosen))
    found = run(Selection(buses, Strip()), *frames(4))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5 * MAX_REACH)
    np.testing.assert_array_equal(found[:, :-1], run(Selection(buses), *frames(4)))


def test_smoothing_follows_with_its_time_constant():
    masks = np.zeros((9, 7, BINS), np.float32)
    masks[1:] = 1.0
    found = run(choose("speech", smooth_ms=20.0), masks, frames(9)[1])[:, 0, 0]
    np.testing.assert_allclose(found, 1 - np.exp(-np.arange(9) * HOP_MS / 20.0), atol=1e-6)  # starts at the first mask


@pytest.mark.parametrize("groups", [[1] * 7, [7], [3, 0, 4], [0, 5, 2]])
def test_state_is_a_value_and_any_grouping_of_hops_gives_the_same_masks(groups):
    program = compile(choose("speech", "disc(0,0,1,soft=1)", residual=True, smooth_ms=30.0), BUNDLE)
    masks, embedding = frames(7)
    whole = np.empty((7, 3, BINS), np.float32)
    program.masks(masks, embedding, whole, program.initial_state())
    state, at, parts = program.initial_state(), 0, []
    for count in groups:
        out = np.empty((count, 3, BINS), np.float32)
        given_state = state.copy()
        state = program.masks(masks[at : at + count], embedding[at : at + count], out, before := state)
        np.testing.assert_array_equal(before, given_state)
        again = np.empty_like(out)
        np.testing.assert_array_equal(program.masks(masks[at : at + count], embedding[at : at + count], again, before), state)
        np.testing.assert_array_equal(again, out)
        out_copy, at = out.copy(), at + count
        out.fill(np.nan)  # the state does not live in the caller's buffer
        parts.append(out_copy)
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_bad_hop_is_forgotten_by_the_next():
    masks, embedding = frames(3)
    masks[1] = np.nan
    found = run(choose("speech", smooth_ms=100.0), masks, embedding)
    np.testing.assert_array_equal(found[2, 0], masks[2, 0])


def test_bins_do_not_mix():
    selection = choose("speech", "lasso(0 0, 0.9 0, 0.8 0.8, soft=0.3)", "cell(drums, soft=0.3)", smooth_ms=10.0, residual=True)
    masks, embedding = frames()
    clean = run(selection, masks, embedding)
    masks[..., 5], embedding[..., 5] = np.nan, np.nan
    poisoned = run(selection, masks, embedding)
    np.testing.assert_array_equal(np.delete(poisoned, 5, axis=2), np.delete(clean, 5, axis=2))


def test_arrays_of_the_wrong_shape_never_reach_the_kernel():
    program, (masks, embedding) = compile(choose("speech"), BUNDLE), frames(2)
    out, state = np.empty((2, 1, BINS), np.float32), program.initial_state()
    for arguments in ((masks[:, :6], embedding, out), (masks, embedding[:, :1], out), (masks, embedding, out[:1])):
        with pytest.raises(AssertionError):
            program.masks(*arguments, state)


# Presets.


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_shipped_preset_loads_and_runs(path):
    selection = load_preset(path.stem)
    assert selection == load_preset(path) == load_preset(str(path))
    found = run(selection, *frames())
    assert np.isfinite(found).all() and (np.abs(found).max(axis=(0, 2)) > 0).all()


def test_a_preset_says_all_that_a_selection_holds(tmp_path: Path):
    text = """
        [residual]
        gain_db = -3.0
        outputs = [3]
        [buses.a]
        select = "region(1) - region(rim)"
        outputs = [5, 6]
        pan = -0.5
        wet = 0.25
        invert = true
        [regions]
        1.disc = {x = 0, y = 0.5, r = 1, soft = 0.1}
        rim.lasso = {points = [[0, 0], [1, 0], [1, 1]]}
        [live]
        anything = 1
        [midi]
        anything = 2
    """
    (tmp_path / "p.toml").write_text(text, encoding="utf8")
    assert load_preset(tmp_path / "p.toml") == Selection(
        (Bus("a", Pair("-", Ref("1"), Ref("rim")), outputs=(5, 6), pan=-0.5, wet=0.25, invert=True),),
        Strip(gain_db=-3, outputs=(3,)),
        (("1", Disc(0, 0.5, 1, soft=0.1)), ("rim", Lasso(((0, 0), (1, 0), (1, 1))))),
    )


def test_presets_of_the_users_own_go_by_name_and_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SEPSTREAM_PRESETS", str(tmp_path / "none"))
    shipped = load_preset("karaoke")
    monkeypatch.setenv("SEPSTREAM_PRESETS", str(tmp_path))
    for name in ("karaoke", "mine"):
        (tmp_path / f"{name}.toml").write_text("[buses.a]\nselect = 'mix'", encoding="utf8")
    assert load_preset("karaoke") == load_preset("mine") == Selection((Bus("a", Mix()),)) != shipped


def test_presets_are_shipped():
    assert {"stems", "voice", "disk", "karaoke"} <= {path.stem for path in PRESETS}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("residual = 1\n[buses.a]\nselect='mix'", "preset 'p': residual 1; expected true, false or a table [residual]"),
        (
            "residuals = true",
            "preset 'p': unknown key 'residuals'; did you mean 'residual'? known: residual, buses, regions, live",
        ),
        ("residual = {gain = 3}", "preset 'p': residual: unknown key 'gain'; did you mean 'gain_db'? known: gain_db, mute"),
        ("residual = {gain_db = 99}", "preset 'p': residual: bus 'residual': gain_db 99; expected"),
        ("residual = {smooth_ms = 9}", "preset 'p': residual: unknown key 'smooth_ms'; "),
        ("regions = 3", "preset 'p': regions 3; expected tables [regions.NAME]"),
        ("regions.a = 3", "preset 'p': region 'a': 3; expected one shape, such as disc = {x = 0.5, y = 0.2, r = 0.8}"),
        ("regions.a.disk = {x=0}", "preset 'p': region 'a': unknown shape 'disk'; did you mean 'disc'? known: disc, half"),
        ("regions.a.disc = 3", "preset 'p': region 'a': disc 3; expected a table of x, y, r and maybe soft"),
        ("regions.a.disc = {radius=1}", "preset 'p': region 'a': disc: unknown key 'radius'; known: x, y, r, soft"),
        ("regions.a.disc = {x=0, y=0}", "preset 'p': region 'a': disc: 'r' is missing; expected x, y, r and maybe soft="),
        ("regions.a.disc = {x='0', y=0, r=1}", "preset 'p': region 'a': disc: x '0'; expected a number from -2 to 2"),
        ("regions.a.lasso.points = [[0, 0], [1, 1]]", "preset 'p': region 'a': lasso: 2 points; expected 3 to 256"),
        ("regions.a.lasso.points = [0, 0, [1, 1]]", "preset 'p': region 'a': lasso: 0; expected points such as"),
        ("regions.a.lasso.points = 7", "preset 'p': region 'a': lasso: 0 points; expected 3 to 256"),
        ("regions.'a/b'.disc = {x=0, y=0, r=1}\nbuses.a.select = 'mix'", "preset 'p': region name 'a/b'; expected"),
        ("x = " + "9" * 5000, "preset 'p': it is not TOML: "),
        ("buses = 3", "preset 'p': buses 3; expected tables [buses.NAME]"),
        ("buses.a = 3", "preset 'p': bus 'a': 3; expected a table [buses.NAME] with select"),
        ("", "preset 'p': 0 buses; expected 1 to 64"),
        ("[buses.a]", "preset 'p': bus 'a': select None; expected an expression in quotes"),
        ("[buses.a]\nselect=3", "preset 'p': bus 'a': select 3; expected an expression in quotes"),
        ("[buses.a]\nselect='mix'\ngain=3", "preset 'p': bus 'a': unknown key 'gain'; did you mean 'gain_db'? known: select, "),
        ("[buses.a]\nselct='mix'", "preset 'p': bus 'a': unknown key 'selct'; did you mean 'select'? known: select, gain_db"),
        ("[buses.a]\nselect='mix'\ngain_db='3'", "preset 'p': bus 'a': gain_db '3'; expected a number from -120 to 24"),
        ("[buses.a]\nselect='mix'\noutputs=[1, 99]", "preset 'p': bus 'a': outputs [1, 99]; expected 1 to 8 different"),
        ("[buses.a]\nselect='mix'\noutputs='12'", "preset 'p': bus 'a': outputs '12'; expected 1 to 8 different"),
        ("[buses.a]\nselect='mix +'", "preset 'p': bus 'a': column 6: the text ends; expected a class"),
        ("[buses.'a/b']\nselect='mix'", "preset 'p': bus name 'a/b'; expected 1 to 64 letters"),
        ("[buses", "preset 'p': it is not TOML: "),
        ("x = " + "[" * 5000, "preset 'p': it is not TOML: "),
        ("#" * (1 << 20) + "#", "preset 'p': longer than 1048576 bytes"),
    ],
)
def test_a_preset_that_cannot_be_is_refused(tmp_path: Path, text, message):
    path = tmp_path / "p.toml"
    path.write_text(text, encoding="utf8")
    assert refusal(load_preset, path).startswith(message)


def test_a_preset_that_is_not_there_is_refused(tmp_path: Path):
    assert refusal(load_preset, "stem").startswith("preset 'stem' is neither shipped nor a .toml file; did you mean 'stems'?")
    assert "cannot be read: No such file" in refusal(load_preset, tmp_path / "p.toml")
    (tmp_path / "p.toml").write_bytes(b"\xff\xfe")
    assert "it is not TOML" in refusal(load_preset, tmp_path / "p.toml")
    assert "cannot be read: Is a directory" in refusal(load_preset, tmp_path)

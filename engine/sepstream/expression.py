"""What a bus takes, as a small language: its tree of values, and the parser.

    NAME            a class of the model, leaf or parent                     speech
    mix             everything
    REGION          a part of the Poincaré disk (below)                      certain(0.4..1)
    !a              everything else: 1 - a                                   !speech
    0.5*a  -6dB*a   a, quieter or louder                                     -6dB*bass
    a & b           both: the product a b                                    speech & certain(0.4..1)
    a | b           either: a + b - a b                                      male | cell(female)
    a - b           a without b: a (1 - b)                                   music - drums
    a + b           the sum, which may exceed 1                              drums + 0.5*bass

From tight to loose: ! and gains, then &, then |, then + and - from left to right; parentheses as usual. Between two
operands - always means "without": a + -6dB*b adds a quieter b.

    disc(x, y, r=0.8)               within the geodesic distance r of the disk point (x, y)
    half(angle, offset)             beyond a geodesic, on the side that angle (degrees) points to
    annulus(x, y, 0.2..0.6)         between two geodesic distances from the disk point (x, y)
    certain(0.4..1)                 by the norm on the disk: 0 unsure, 1 sure
    ellipse(x, y, a, b, angle=30)   as drawn on the disk
    lasso(0 0, 0.5 0, 0.5 0.5)      a closed outline, as drawn on the disk
    cell(NAME)                      where the class is the likeliest of its level: all parents, or all leaves
    side(NAME)                      the class's own side of its boundary
    region(NAME)                    a region that the selection names, to be moved while it plays: [regions.NAME] in a preset

Distances are hyperbolic, at curvature -1. ``soft=0.1`` in any region makes its edge that wide; without it the edge is
hard. Any value may be given by name: annulus(x=0, y=0, inner=0.2, outer=0.6). disk.py has the details.

Texts come from anywhere (files, OSC, the browser): nothing is evaluated; length, depth, parts and numbers are bounded.
"""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, NoReturn, cast

from .disk import REGIONS, Lasso, Region, shortest
from .errors import ExpressionError, nearest

MAX_TEXT = 16384  # characters: a lasso is long
MAX_PARTS = 128
MAX_DEPTH = 32  # of parentheses
MAX_GAIN = 16.0  # of one gain, +24 dB
MAX_REACH = 64.0  # of a whole expression, +36 dB
REGION_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
GAIN_DB = (-120.0, 24.0)

Operator = Literal["&", "|", "-", "+"]
LEVELS: tuple[tuple[Operator, ...], ...] = (("+", "-"), ("|",), ("&",))  # from loose to tight
PREFIX, ATOM = len(LEVELS), len(LEVELS) + 1


@dataclass(frozen=True)
class Expression:
    """A node of the tree; ``str`` gives a text that parses to an equal tree."""

    @property
    def tightness(self) -> int:
        return ATOM

    def within(self, tightness: int) -> str:
        """The text as an operand of what binds this tight."""
        return str(self) if self.tightness >= tightness else f"({self})"


@dataclass(frozen=True)
class Mix(Expression):
    """Everything: 1 in every bin."""

    def __str__(self) -> str:
        return "mix"


@dataclass(frozen=True)
class Named(Expression):
    """The mask of a class. ``column`` is where its name stands in the text, for errors."""

    name: str
    column: int = field(default=1, compare=False)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Area(Expression):
    """The mask of a region of the disk."""

    region: Region
    column: int = field(default=1, compare=False)

    def __str__(self) -> str:
        return str(self.region)


@dataclass(frozen=True)
class Ref(Expression):
    """The mask of the region that the selection has under this name (Selection.regions)."""

    name: str
    column: int = field(default=1, compare=False)

    def __str__(self) -> str:
        return f"region({self.name})"


@dataclass(frozen=True)
class Not(Expression):
    of: Expression

    @property
    def tightness(self) -> int:
        return PREFIX

    def __str__(self) -> str:
        return f"!{self.of.within(PREFIX)}"


@dataclass(frozen=True)
class Gain(Expression):
    """``of``, ``amount`` times as loud (0 to MAX_GAIN), or by ``amount`` dB. Raises ExpressionError beyond that."""

    amount: float
    decibel: bool
    of: Expression

    def __post_init__(self) -> None:
        low, high = GAIN_DB if self.decibel else (0.0, MAX_GAIN)
        if not low <= self.amount <= high:
            unit = " dB" if self.decibel else ""
            raise ExpressionError(f"gain {self.amount:g}{unit}; expected {low:g} to {high:g}{unit}")

    @property
    def factor(self) -> float:
        return db_to_gain(self.amount) if self.decibel else self.amount

    @property
    def tightness(self) -> int:
        return PREFIX

    def __str__(self) -> str:
        return f"{shortest(self.amount)}{'dB' if self.decibel else ''}*{self.of.within(PREFIX)}"


@dataclass(frozen=True)
class Pair(Expression):
    operator: Operator
    left: Expression
    right: Expression

    @property
    def tightness(self) -> int:
        return next(level for level, operators in enumerate(LEVELS) if self.operator in operators)

    def __str__(self) -> str:
        return f"{self.left.within(self.tightness)} {self.operator} {self.right.within(self.tightness + 1)}"


def without_region(expression: Expression, name: str) -> Expression | None:
    """The expression with region(NAME) taken out of what it is combined with; None where nothing else is left."""
    match expression:
        case Ref(found) if found == name:
            return None
        case Not(of):
            rest = without_region(of, name)
            return rest and Not(rest)
        case Gain(of=of):
            rest = without_region(of, name)
            return rest and Gain(expression.amount, expression.decibel, rest)
        case Pair(operator, left, right):
            one, two = without_region(left, name), without_region(right, name)
            if one is None or two is None:
                return one if operator == "-" else one or two
            return Pair(operator, one, two)
    return expression


def db_to_gain(db: float) -> float:
    return float(10.0 ** (db / 20.0))


def parse(text: str) -> Expression:
    """The tree that ``text`` says. Raises ExpressionError: one line, with the column counted from 1."""
    if len(text) > MAX_TEXT:
        raise ExpressionError(f"{len(text)} characters; expected {MAX_TEXT} at most")
    result = _Parser(text).whole()
    peak = max(map(abs, reach(result)))
    if peak > MAX_REACH:
        raise ExpressionError(f"the mask may reach {peak:g}; expected {MAX_REACH:g} at most: lower the gains")
    return result


class Reach(NamedTuple):
    """The least and the greatest value of a mask."""

    low: float
    high: float


def reach(expression: Expression) -> Reach:
    """Interval arithmetic over masks of 0..1; a cautious bound, because a name that occurs twice counts as two."""
    found = Reach(0.0, 1.0)
    match expression:
        case Not(of):
            found = _complement(reach(of))
        case Gain(of=of):
            found = Reach(*(expression.factor * bound for bound in reach(of)))
        case Pair("&", left, right):
            found = _product(reach(left), reach(right))
        case Pair("-", left, right):
            found = _product(reach(left), _complement(reach(right)))
        case Pair("|", left, right):
            found = _complement(_product(_complement(reach(left)), _complement(reach(right))))
        case Pair("+", left, right):
            found = Reach(*map(sum, zip(reach(left), reach(right), strict=True)))
    return found


def _complement(a: Reach) -> Reach:
    return Reach(1.0 - a.high, 1.0 - a.low)


def _product(a: Reach, b: Reach) -> Reach:
    products = [x * y for x in a for y in b]
    return Reach(min(products), max(products))


@contextmanager
def located(where: str) -> Iterator[None]:
    """Puts ``where`` before the message of an ExpressionError raised inside."""
    try:
        yield
    except ExpressionError as error:
        raise ExpressionError(f"{where}: {error}") from None


def quoted(value: Any) -> str:
    """A value as an error shows it: on one line, and not for ever."""
    try:
        shown = repr(value)
    except RecursionError:
        shown = f"a {type(value).__name__} without end"
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


class _Token(NamedTuple):
    kind: str  # region, number, name, sign, end; region(NAME) is one token: its name may look like a number
    text: str
    column: int


_TOKEN = re.compile(
    rf"(?P<region>region\s*\(\s*{REGION_NAME.pattern}\s*\))"
    r"|(?P<number>(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<sign>\.\.|[!&|+\-*(),=])|(?P<space>\s+)|(?P<other>.)",
    re.ASCII | re.DOTALL,
)
_OPERAND = "a class, a region, mix, '!', '(' or a gain such as 0.5* or -6dB*"
_OPERATOR = "an operator & | - +"


def _tokens(text: str) -> Iterator[_Token]:
    for found in _TOKEN.finditer(text):
        if found.lastgroup != "space":
            yield _Token(str(found.lastgroup), found[0], found.start() + 1)
    yield _Token("end", "", len(text) + 1)


class _Parser:
    """Recursive descent, one method per rule of the grammar, one token ahead."""

    def __init__(self, text: str) -> None:
        self._rest = _tokens(text)
        self._token = next(self._rest)
        self._parts = self._depth = 0

    def whole(self) -> Expression:
        result = self._pairs(0)
        if self._token.kind != "end":
            self._fail(f"{_OPERATOR} or the end")
        return result

    def _pairs(self, level: int) -> Expression:
        """Operands joined by the operators of ``level``, each made of tighter ones."""
        if level == len(LEVELS):
            return self._prefixed()
        left = self._pairs(level + 1)
        while self._token.text in LEVELS[level]:
            operator = cast(Operator, self._next().text)
            left = Pair(operator, left, self._pairs(level + 1))
        return left

    def _prefixed(self) -> Expression:
        self._parts += 1
        if self._parts > MAX_PARTS:
            self._fail(f"{MAX_PARTS} parts at most")
        if self._accept("!"):
            return Not(self._prefixed())
        if self._at_number():
            return self._gain()
        return self._atom()

    def _gain(self) -> Expression:
        column, amount = self._token.column, self._number()
        decibel = self._accept("dB")
        self._expect("*", "'*' after a gain" if decibel else "'*' or 'dB*' after a gain")
        of = self._prefixed()
        with located(f"column {column}"):
            return Gain(amount, decibel, of)

    def _atom(self) -> Expression:
        if self._token.kind == "region":
            word = self._next()
            return Ref(word.text.partition("(")[2].rstrip(")").strip(), word.column)
        if self._token.text == "(":
            return self._parenthesis()
        if self._token.kind != "name":
            self._fail(_OPERAND)
        word = self._next()
        if self._token.text == "(":
            return Area(self._region(word), word.column)
        return Mix() if word.text == "mix" else Named(word.text, word.column)

    def _parenthesis(self) -> Expression:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._fail(f"{MAX_DEPTH} parentheses inside each other at most")
        self._next()
        inner = self._pairs(0)
        self._expect(")", f"')' or {_OPERATOR}")
        self._depth -= 1
        return inner

    def _region(self, word: _Token) -> Region:
        if word.text == "region":
            raise ExpressionError(f"column {word.column}: region: expected one NAME, 1 to 64 letters, digits, _ and -")
        if word.text not in REGIONS:
            raise ExpressionError(f"column {word.column}: unknown region '{word.text}'; {nearest(word.text, REGIONS)}")
        kind = REGIONS[word.text]
        values: list[Any] = []
        named: dict[str, Any] = {}
        self._next()
        self._argument(kind, values, named)
        while not self._accept(")"):
            self._expect(",", "',' or ')'")
            self._argument(kind, values, named)
        with located(f"column {word.column}"):
            return make_region(kind, values, named)

    def _argument(self, kind: type[Region], values: list[Any], named: dict[str, Any]) -> None:
        """A class, NAME=VALUE, or numbers."""
        if self._token.kind != "name":
            values += self._numbers()
            return
        word = self._next()
        if not self._accept("="):
            values.append(word.text)
            return
        if word.text in named:
            raise ExpressionError(f"column {word.column}: {kind.call}: '{word.text}' is given twice")
        known = [*kind.parameters(), "soft"]
        if word.text not in known:
            raise ExpressionError(f"column {word.column}: {kind.call}: unknown '{word.text}'; {nearest(word.text, known)}")
        named[word.text] = self._next().text if self._token.kind == "name" else self._number()

    def _numbers(self) -> list[Any]:
        """A number; two that make a point; or a range LOW..HIGH, which is two values."""
        first = self._number()
        if self._accept(".."):
            return [first, self._number()]
        return [(first, self._number())] if self._at_number() else [first]

    def _at_number(self) -> bool:
        return self._token.kind == "number" or self._token.text == "-"

    def _number(self) -> float:
        sign = -1.0 if self._accept("-") else 1.0
        if self._token.kind != "number":
            self._fail("a number")
        value = float(self._token.text)
        if not math.isfinite(value):
            self._fail("a finite number")
        self._next()
        return sign * value

    def _next(self) -> _Token:
        token, self._token = self._token, next(self._rest, self._token)
        return token

    def _accept(self, text: str) -> bool:
        found = self._token.text == text
        if found:
            self._next()
        return found

    def _expect(self, text: str, expected: str) -> None:
        if not self._accept(text):
            self._fail(expected)

    def _fail(self, expected: str) -> NoReturn:
        found = "the text ends" if self._token.kind == "end" else f"unexpected {quoted(self._token.text)}"
        raise ExpressionError(f"column {self._token.column}: {found}; expected {expected}")


def make_region(kind: type[Region], values: list[Any], named: Mapping[str, Any]) -> Region:
    """Values in the order of the call and by name -> the region; a lasso's values are its points. Raises ExpressionError."""
    parameters, takes = kind.parameters(), f"expected {', '.join(kind.parameters())} and maybe soft="
    if kind is Lasso:
        values = [tuple(values)]
    if len(values) > len(parameters):
        raise ExpressionError(f"{kind.call}: {len(values)} values; {takes}")
    given = dict(zip(parameters, values, strict=False))
    for name in given.keys() & named.keys():
        raise ExpressionError(f"{kind.call}: '{name}' is given twice; {takes}")
    for name in kind.required():
        if name not in given and name not in named:
            raise ExpressionError(f"{kind.call}: '{name}' is missing; {takes}")
    return kind(**given, **named)

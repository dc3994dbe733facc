"""What sections are made of: text, tables, rows of marks on a shared axis, and small line charts.

A block says what is shown and where, in per cent of its axis; a macro of its name in `templates/blocks.html` draws it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

LEVELS = 5
DIGITS = 2
TICKS = 5
COLOURS = 7
SHAPES = ("dot", "square", "triangle", "cross")
LANE, FIRST_LANE = 14, 17  # pixels
RIVALS = ("diamond", "box", "peak", "saltire", "valley")
OUTLINES = {
    "dot": "h0",
    "square": "h0",
    "triangle": "m0-.5l.48.82h-.96z",
    "cross": "m-.42-.42l.84.84m0-.84l-.84.84",
}
MARGIN = 2.0  # of a scatter, in per cent of its width
SHORTEST = 36.0  # in per cent of its width
TALLEST = 0.58  # of its width, margins apart


@dataclass(frozen=True)
class Block:
    """Something that is drawn."""

    @property
    def draws(self) -> str:
        """The macro that draws it."""
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        lead: What one sees here, in a sentence or two.
    """

    anchor: str
    title: str
    lead: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        more: What follows it, smaller: an error, a word.
        level: Colour, from -5 (worse) over 0 (none) to 5 (better).
        strong: Whether it stands out.
        code: Whether it is a digest or a name of a program.
    """

    text: str
    more: str = ""
    level: int = 0
    strong: bool = False
    code: bool = False


NONE = Cell("\N{EN DASH}")
"""The cell of what is not there."""


@dataclass(frozen=True)
class DataTable(Block):
    """A table; the last `numbers` columns are set to the right.

    `heat`: cells are a map, coloured by their level. `fits`: it is never wider than the page, its names are broken.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numbers: int = 0
    heat: bool = False
    caption: str = ""
    note: str = ""
    fits: bool = False


@dataclass(frozen=True)
class Notes(Block):
    """A list of sentences."""

    items: Sequence[str]


@dataclass(frozen=True)
class Fold(Block):
    """Blocks that are shown when asked for, and always in print."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class ShownAnswer:
    """An answer, word for word.

    Attributes:
        kind: A class of the style sheet.
        text: The answer, with its line breaks.
        cut: Whether it went on.
        agrees: Whether it is just what the data answer.
    """

    kind: str
    name: str
    text: str
    cut: bool = False
    agrees: bool = False


@dataclass(frozen=True)
class Question:
    """A question, word for word, with its answers; `source` is whose it is."""

    source: str
    text: str
    replies: Sequence[ShownAnswer]


@dataclass(frozen=True)
class Exchanges(Block):
    """Questions, each with its answers side by side."""

    questions: Sequence[Question]


@dataclass(frozen=True)
class Mark:
    """A point on an axis, in a lane of its strip; `kind` is a class of the style sheet."""

    kind: str
    at: float
    title: str = ""
    lane: int = 0

    @property
    def down(self) -> int:
        """How far down its strip it lies, in pixels."""
        return FIRST_LANE + LANE * self.lane


@dataclass(frozen=True)
class Segment:
    """A line from one point of an axis to another, in a lane of its strip."""

    kind: str
    start: float
    end: float
    title: str = ""
    lane: int = 0

    @property
    def low(self) -> float:
        """Its left end."""
        return min(self.start, self.end)

    @property
    def width(self) -> float:
        """Its length."""
        return round(abs(self.end - self.start), DIGITS)

    @property
    def down(self) -> int:
        """How far down its strip it lies, in pixels."""
        return FIRST_LANE + LANE * self.lane


@dataclass(frozen=True)
class Strip:
    """One row of marks: its name, its marks, its value in words. `trend` is a class of the style sheet."""

    name: str
    marks: Sequence[Mark] = ()
    spans: Sequence[Segment] = ()
    value: str = ""
    more: str = ""
    trend: str = ""

    @property
    def height(self) -> int:
        """Its height in pixels: of all its lanes."""
        return 2 * FIRST_LANE + LANE * max((m.lane for m in self.marks), default=0)


@dataclass(frozen=True)
class Strips(Block):
    """Rows of marks on one axis."""

    rows: Sequence[Strip]
    axis: Axis
    legend: Sequence[tuple[str, str]] = ()
    caption: str = ""
    note: str = ""
    reference: float | None = None

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Place and label of each tick."""
        return [(self.axis.at(v), f"{v:g}") for v in self.axis.ticks()]


@dataclass(frozen=True)
class Series:
    """A line of a chart: `x,y` pairs in a box of 100 × 100; `dots` marks each point."""

    kind: str
    points: Sequence[tuple[float, float]]
    dots: bool = False
    title: str = ""

    @property
    def path(self) -> str:
        """The points as SVG has them."""
        return " ".join(f"{x:g},{y:g}" for x, y in self.points)


@dataclass(frozen=True)
class Panel:
    """A small chart with its title, its value in words, and the ends of its axes.

    Attributes:
        value: Its value in words.
        series: Its lines, the last on top.
        top, bottom, left, right: The ends of its axes.
        reference: Height and words of a dashed line across.
        bands: Areas under the lines, each as the outline of it.
        here: Place of a dashed line from top to bottom.
    """

    title: str
    value: str
    series: Sequence[Series]
    top: str
    bottom: str
    left: str
    right: str
    reference: tuple[float, str] | None = None
    bands: Sequence[Series] = ()
    here: float | None = None


@dataclass(frozen=True)
class Lines(Block):
    """Small charts side by side; `wide`: one over the whole width."""

    panels: Sequence[Panel]
    legend: Sequence[tuple[str, str]] = ()
    wide: bool = False
    note: str = ""


@dataclass(frozen=True)
class Cloud:
    """Points of one name in a picture of 100 in width, `x` to the right and `y` down."""

    name: str
    points: Sequence[tuple[float, float]]
    number: int

    @property
    def kind(self) -> str:
        """Its colour and shape, as classes of the style sheet; no two of the first 28 numbers share both."""
        return f"hue{self.number % COLOURS} {self.shape}"

    @property
    def shape(self) -> str:
        """Its shape, which tells it from others without colour."""
        return SHAPES[self.number % len(SHAPES)]

    @property
    def path(self) -> str:
        """All its points as one path."""
        return "".join(_drawn(self.shape, x, y) for x, y in self.points)

    @property
    def sample(self) -> str:
        """One point in the middle, for a legend."""
        return _drawn(self.shape, 0.0, 0.0)


@dataclass(frozen=True)
class Scatter(Block):
    """Clouds of points on axes without meaning, `height` per cent as high as wide."""

    clouds: Sequence[Cloud]
    height: float
    label: str
    note: str = ""

    @classmethod
    def of(cls, named: Mapping[str, Sequence[tuple[float, float]]], label: str, note: str = "") -> Scatter:
        """Points by name: the longer side of all of them lies across, and a unit is as long down."""
        xs, ys = zip(*(p for points in named.values() for p in points), strict=True)
        ends = [(min(xs), max(xs)), (min(ys), max(ys))]
        # Axes of a map mean nothing, so it may be turned to fit; distances do, so both have one unit.
        across, down = sorted((0, 1), key=lambda axis: ends[axis][0] - ends[axis][1])
        (left, right), (top, bottom) = ends[across], ends[down]
        unit = (100 - 2 * MARGIN) / max(right - left, (bottom - top) / TALLEST, 1e-9)
        height = max(2 * MARGIN + unit * (bottom - top), SHORTEST)

        def place(point: tuple[float, float]) -> tuple[float, float]:
            x, y = point[across] - (left + right) / 2, point[down] - (top + bottom) / 2
            return round(50 + unit * x, 2), round(height / 2 + unit * y, 2)

        clouds = [
            Cloud(name, [place(p) for p in points], i) for i, (name, points) in enumerate(named.items())
        ]
        return cls(clouds, round(height, 2), label, note)


def _drawn(shape: str, x: float, y: float) -> str:
    """A point as a part of a path: a line without length has round or square ends, as the style sheet says."""
    return f"M{x:g} {y:g}" + OUTLINES[shape]


@dataclass(frozen=True)
class Axis:
    """A linear axis from `low` to `high`."""

    low: float
    high: float

    @classmethod
    def over(cls, values: Iterable[float], *, pad: float = 0.04) -> Axis:
        """The axis that holds all finite values."""
        finite = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
        low, high = min(finite), max(finite)
        spread = (high - low) or abs(high) or 1.0
        return cls(low - pad * spread, high + pad * spread)

    def at(self, value: float) -> float:
        """The place of a value in per cent; what lies outside is at the end."""
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return round(100 * min(max(share, 0.0), 1.0), DIGITS)

    def down(self, value: float) -> float:
        """The place of a value in per cent from the top, as SVG counts."""
        return round(100 - self.at(value), DIGITS)

    def ticks(self) -> list[float]:
        """At most `TICKS` round values on the axis."""
        # Steps of 1, 2, 2.5 or 5 times a power of ten, as P. S. Heckbert, Nice Numbers for Graph Labels, Graphics Gems,
        # 1990, who has no 2.5.
        raw = (self.high - self.low) / (TICKS - 1)
        power = 10 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
        step = next((m * power for m in (1, 2, 2.5, 5) if m * power >= raw), 10 * power)
        first = math.ceil(self.low / step - 1e-9)
        # + 0.0: a negative zero would be written as -0.
        return [round(i * step, 10) + 0.0 for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def rival(number: int) -> str:
    """How one of several models is marked: a shape and a colour, which no two of the first 30 share."""
    return f"rival {RIVALS[number % len(RIVALS)]} hue{1 + number % (COLOURS - 1)}"


def level(value: float, most: float) -> int:
    """The colour of a value whose size is at most `most`; none for what is next to nothing or no number."""
    if not math.isfinite(value) or most <= 0:
        return 0
    return round(max(-1.0, min(1.0, value / most)) * LEVELS)

"""Accuracy over depth and over predicted time, as one SVG picture.

Two panels share the vertical axis. A mark is a point that can be had, filled and joined to its
neighbours where it is on the Pareto front of accuracy and depth, with its activation error beside
it; the dashed line is what the model itself reaches. Equal points give equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape

from fhecompile.ir.accuracy import Accuracy, MeasuredSamples
from fhecompile.report.accuracy import describe_samples, measure_name
from fhecompile.report.tuning import TunePoint, pareto_front

WIDTH, HEIGHT = 960, 420
TOP, BOTTOM = 60, 350
PANELS = ((80, 470), (540, 930))  # left and right edges
MOST_TICKS = 6
LABEL_WIDTH = 50
END = {False: "start", True: "end"}
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #222; }
.title { font-size: 15px; font-weight: bold; }
.tick, .note { fill: #666; }
.grid { stroke: #e4e4e4; }
.model { stroke: #666; stroke-dasharray: 6 4; }
.front { stroke: #1668a8; fill: none; }
circle { fill: #fff; stroke: #8a8a8a; }
circle.best { fill: #1668a8; stroke: #1668a8; }
"""


@dataclass(frozen=True)
class Axis:
    """Maps numbers from `low` to `high` to places from `start` to `end`; `ticks` are round."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    @staticmethod
    def over(values: Sequence[float], start: float, end: float, least_step: float = 0.0) -> Axis:
        """The axis that holds all values between two ticks at least `least_step` apart."""
        low, high = min(values), max(values)
        step = round_step((high - low) / MOST_TICKS or abs(high) / MOST_TICKS or 1.0)
        step = max(step, least_step)
        first, last = math.floor(low / step), math.ceil(high / step)
        last = max(last, first + 1)
        ticks = tuple(k * step for k in range(first, last + 1))
        return Axis(ticks[0], ticks[-1], start, end, ticks)

    def place(self, value: float) -> float:
        """Where a number is."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


@dataclass(frozen=True)
class _Mark:
    """One or more points at one place; `text` is what a pointer over it shows."""

    depth: float
    seconds: float
    height: float
    is_best: bool
    label: str
    text: str


def draw_accuracy(
    model: str, points: Sequence[TunePoint], tested: MeasuredSamples, test: str, threads: int
) -> str:
    """The picture; the arguments are those of `fhecompile.report.accuracy.accuracy_table`."""
    name = measure_name(tested)
    marks = _marks(points, name)
    left_out = sum(bool(p.reason) for p in points)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}">',
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        _text(PANELS[0][0], 24, model, "title"),
        _text(PANELS[0][0], 42, describe_samples(tested, test), "note"),
    ]
    if marks:
        own = _height(tested.exact, name)
        heights = [mark.height for mark in marks]
        vertical = Axis.over([own, *heights], BOTTOM, TOP, 1e-3)
        unit = "" if name == "change" else " %"
        ends = f"{threads} thread{'s' * (threads != 1)}"
        quantities: tuple[tuple[str, float, Callable[[_Mark], float]], ...] = (
            ("multiplicative depth", 1.0, lambda mark: mark.depth),
            (f"predicted seconds on {ends}", 0.0, lambda mark: mark.seconds),
        )
        for (start, end), (title, step, value) in zip(PANELS, quantities, strict=True):
            across = Axis.over([value(mark) for mark in marks], start, end, step)
            parts += _frame(across, vertical, title, f"{name}{unit}", unit)
            level = vertical.place(own)
            parts.append(_line(start, level, end, level, "model"))
            parts += _curve(marks, across, vertical, value)
    if left_out:
        text = f"{left_out} of {len(points)} cannot be had; the table says why"
        parts.append(_text(PANELS[0][0], HEIGHT - 8, text, "note"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def round_step(step: float) -> float:
    """The least of 1, 2 and 5 times a power of ten that is no smaller."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(k * power for k in (1.0, 2.0, 5.0, 10.0) if k * power >= step * (1 - 1e-9))


def _height(accuracy: Accuracy, name: str) -> float:
    """What is drawn upwards: percent, or the change of outputs."""
    return accuracy.loss if name == "change" else 100 * (1.0 - accuracy.loss)


def _marks(points: Sequence[TunePoint], name: str) -> list[_Mark]:
    marks = []
    for p, best in zip(points, pareto_front(points), strict=True):
        if p.reason or p.cost is None or p.depth is None or p.accuracy is None:
            continue
        height = _height(p.accuracy, name)
        if math.isfinite(height):
            error = "exact" if p.activation_error is None else f"{p.activation_error:g}"
            text = (
                f"activation error {error}, {p.precision_bits:g} bits, {p.max_keys} keys: "
                f"{name} {height:.4g}, depth {p.depth}, {p.cost.seconds:.2f} s"
            )
            marks.append(_Mark(p.depth, p.cost.seconds, height, best, error, text))
    return marks


def _merged(marks: Sequence[_Mark], value: Callable[[_Mark], float]) -> list[_Mark]:
    """One mark for all that a panel has at one place; those of the front are last, on top."""
    places: dict[tuple[float, float], _Mark] = {}
    for mark in marks:
        place = (value(mark), mark.height)
        if found := places.get(place):
            mark = replace(
                mark,
                is_best=found.is_best or mark.is_best,
                label=f"{found.label}, {mark.label}",
                text=f"{found.text}\n{mark.text}",
            )
        places[place] = mark
    return sorted(places.values(), key=lambda mark: mark.is_best)


def _frame(across: Axis, vertical: Axis, title: str, height: str, unit: str) -> list[str]:
    """Grid, ticks and names of the axes of a panel."""
    parts = []
    for tick in vertical.ticks:
        y = vertical.place(tick)
        parts.append(_line(across.start, y, across.end, y, "grid"))
        parts.append(_text(across.start - 8, y + 4, f"{tick:g}{unit}", "tick", "end"))
    for tick in across.ticks:
        x = across.place(tick)
        parts.append(_line(x, TOP, x, BOTTOM, "grid"))
        parts.append(_text(x, BOTTOM + 18, f"{tick:g}", "tick", "middle"))
    parts.append(_text((across.start + across.end) / 2, BOTTOM + 38, title, "", "middle"))
    return parts


def _curve(
    marks: Sequence[_Mark], across: Axis, vertical: Axis, value: Callable[[_Mark], float]
) -> list[str]:
    """The points of a panel; those of the front are joined."""
    marks = _merged(marks, value)
    places = [(across.place(value(mark)), vertical.place(mark.height)) for mark in marks]
    front = sorted(place for place, mark in zip(places, marks, strict=True) if mark.is_best)
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in front)
    parts = [f'<polyline class="front" points="{line}"/>'] if len(front) > 1 else []
    for (x, y), mark in zip(places, marks, strict=True):
        kind = ' class="best"' if mark.is_best else ""
        parts.append(
            f'<circle{kind} cx="{x:.1f}" cy="{y:.1f}" r="4">'
            f"<title>{escape(mark.text)}</title></circle>"
        )
        last = x > across.end - LABEL_WIDTH  # beside it there is no room on the right
        parts.append(_text(x - 7 if last else x + 7, y - 6, mark.label, "note", END[last]))
    return parts


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )

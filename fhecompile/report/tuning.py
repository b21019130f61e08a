r"""Points of a tuning run, and which of them are worth having.

A point is dominated when in another no figure is larger, and one of them smaller; of equal points
the first is kept. The others are the Pareto front. The figures are error, seconds, peak memory and
rotation keys, or, where accuracy was measured (`fhecompile.report.accuracy`), the loss of accuracy
and the depth; of equal points the one with the least seconds is kept then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group

from fhecompile.ir.accuracy import Accuracy
from fhecompile.ir.fitted_functions import FittedFunction
from fhecompile.report.tables import show_bytes, titled_table

HEADS = (
    "precision bits",
    "max keys",
    "error",
    "primes",
    "digits",
    "ring",
    "keys",
    "key bytes",
    "peak",
    "seconds",
)


@dataclass(frozen=True)
class TuneCost:
    """Numbers of a plan: `error` is the `largest_error` of `PredictionInfo`, `output_range` its own
    one, others as `PlanSummary`; all but the keys and parameters are predicted."""

    error: float
    output_range: float
    levels: int
    digits: int
    ring_dimension: int
    rotation_keys: int
    key_bytes: int
    peak_bytes: int
    seconds: float

    @property
    def objectives(self) -> tuple[float, ...]:
        """What is to be small."""
        return (self.error, self.seconds, self.peak_bytes, self.rotation_keys)


@dataclass(frozen=True)
class TunePoint:
    """What was asked for, what it costs, and why it is not met (empty when it is).

    `activation_error` is None where it is what the precision has it. `depth` is the multiplicative
    one, None where functions could not be fitted. `accuracy` is None where it was not measured;
    `functions` are those that polynomials were fitted for.
    """

    precision_bits: float
    max_keys: int
    cost: TuneCost | None = None
    reason: str = ""
    activation_error: float | None = None
    depth: int | None = None
    accuracy: Accuracy | None = None
    functions: tuple[FittedFunction, ...] = ()

    @property
    def objectives(self) -> tuple[float, ...] | None:
        """What is to be small; None when the point is not met."""
        if self.cost is None or self.reason:
            return None
        if self.accuracy is None or self.depth is None:
            return self.cost.objectives
        return (self.accuracy.loss, self.depth)

    @property
    def priority(self) -> float:
        """Which of two points with equal objectives is kept: the one with less of this."""
        return self.cost.seconds if self.cost and self.accuracy else 0.0


def pareto_front(points: Sequence[TunePoint]) -> list[bool]:
    """Per point whether it is met and not dominated."""
    front = []
    for k, p in enumerate(points):
        own = p.objectives
        front.append(
            own is not None
            and not any(
                _no_larger(other, own) and (other != own or (q.priority, j) < (p.priority, k))
                for j, q in enumerate(points)
                if (other := q.objectives) is not None
            )
        )
    return front


def _no_larger(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True))


def tune_rows(points: Sequence[TunePoint]) -> list[tuple[str, ...]]:
    """The table's cells."""
    rows: list[tuple[str, ...]] = []
    for p, best in zip(points, pareto_front(points), strict=True):
        c = p.cost
        numbers = ("",) * 8
        if c is not None:
            numbers = (
                f"{c.error:.1e}",
                str(c.levels),
                str(c.digits),
                f"2^{c.ring_dimension.bit_length() - 1}",
                str(c.rotation_keys),
                show_bytes(c.key_bytes),
                show_bytes(c.peak_bytes),
                f"{c.seconds:.2f}",
            )
        note = p.reason or ("" if best else "dominated")
        rows.append((f"{p.precision_bits:g}", str(p.max_keys), *numbers, "*" if best else "", note))
    return rows


def tune_table(
    model: str, points: Sequence[TunePoint], threads: int, measured: bool = False
) -> Group:
    """One line per point; `measured` says whether seconds are from costs of this machine."""
    ranges = [p.cost.output_range for p in points if p.cost]
    outputs = f", outputs up to {ranges[0]:.3g}" if ranges else ""
    costs = ", this machine's costs" if measured else ""
    title = f"{model}, {threads} thread{'s' * (threads != 1)}{costs}{outputs} (* Pareto front)"
    return titled_table(title, (), HEADS, ("", "note"), tune_rows(points))


def describe_points(points: Sequence[TunePoint]) -> list[dict[str, Any]]:
    """The points as plain values for JSON."""
    front = pareto_front(points)
    described = [{**asdict(p), "pareto": best} for p, best in zip(points, front, strict=True)]
    for point in described:
        if point["accuracy"] and not math.isfinite(point["accuracy"]["change"]):
            point["accuracy"]["change"] = None  # JSON has no infinity
    return described

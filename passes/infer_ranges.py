"""Ranges of all values over the calibration data.

The tensor graph is evaluated in float64 on the calibration samples. The largest magnitude of each
value bounds scale times value against the modulus, weighs the error model, and goes into the plan,
where client and simulator report inputs that leave it. A few samples are enough for that. Where
polynomials are to stand for functions all samples are evaluated: such a polynomial is good on the
measured range and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fhecompile.errors import FheCompileError
from fhecompile.functions.table import FUNCTIONS
from fhecompile.ir.evaluate import walk
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.tensor import Function, Node


@dataclass(frozen=True, eq=False)
class Calibration:
    """Calibration inputs by name, shape (samples, *input shape); `synthetic` when made up."""

    inputs: Mapping[str, NDArray[np.float64]]
    synthetic: bool = False


@dataclass(frozen=True, eq=False)
class Ranges:
    """Per value the largest magnitude and the mean square over the calibration data."""

    largest: Mapping[str, float]
    mean_square: Mapping[str, float]
    low: Mapping[str, float] = field(default_factory=dict)
    high: Mapping[str, float] = field(default_factory=dict)
    current: bool = True

    def stale(self) -> Ranges:
        """The same ranges marked as measured before the graph changed."""
        return replace(self, current=False)


@dataclass(frozen=True)
class InferRanges(Pass):
    """See the module docstring. `samples` caps how many calibration samples are evaluated."""

    samples: int = 16

    needs: ClassVar[tuple[type, ...]] = (Calibration,)
    gives: ClassVar[tuple[type, ...]] = (Ranges,)

    def run(self, program: Program) -> PassResult:
        calibration = program.facts[Calibration]
        total = len(next(iter(calibration.inputs.values()), ()))
        if not any(isinstance(node, Function) for node in program.graph):
            total = min(total, self.samples)
        starts = range(0, max(total, 1), self.samples)
        largest: dict[str, float] = {}
        mean_square: dict[str, float] = {}
        low: dict[str, float] = {}
        high: dict[str, float] = {}
        for start in starts:
            part = slice(start, start + self.samples)
            inputs = {name: x[part] for name, x in calibration.inputs.items()}
            share = len(next(iter(inputs.values()), ())) / max(total, 1)
            with np.errstate(all="ignore"):
                for node, value in walk(program.graph, inputs):
                    name, square = node.name, float(np.mean(value**2))
                    if isinstance(node, Function):
                        operand = node.inputs[0]
                        _check_domain(node, low[operand], high[operand], calibration)
                    if not np.isfinite(square):
                        raise _explosion(node, calibration)
                    least, most = float(value.min()), float(value.max())
                    low[name] = min(low.get(name, least), least)
                    high[name] = max(high.get(name, most), most)
                    largest[name] = max(-low[name], high[name])
                    mean_square[name] = mean_square.get(name, 0.0) + share * square
        ranges = Ranges(largest, mean_square, low, high)
        result = program.having(ranges)
        return PassResult(result, True, (f"{len(largest)} values measured",))


def _check_domain(node: Function, low: float, high: float, calibration: Calibration) -> None:
    f = FUNCTIONS[node.function]
    if f.domain_of(low, high):
        return
    hint = "take out samples that are empty or unlike those the network was trained on"
    if calibration.synthetic:
        hint = "give real calibration data with --calibrate data.npz"
    raise FheCompileError(
        "function-range",
        f"{f.name} is applied to values from {low:.4g} to {high:.4g} on the calibration data, but "
        f"needs all of them {' or all '.join(map(str, f.domains))}",
        node=node.source or node.name,
        hint=hint,
    )


def _explosion(node: Node, calibration: Calibration) -> FheCompileError:
    return FheCompileError(
        "values-explode",
        "the network's values overflow on the calibration data",
        node=node.source or node.name,
        hint="give calibration data like the data the network was trained on"
        if not calibration.synthetic
        else "give real calibration data with --calibrate data.npz; polynomial "
        "networks explode on noise",
    )

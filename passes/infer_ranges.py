"""Ranges of all values over the calibration data.

The tensor graph is evaluated in float64 on the calibration samples. The largest magnitude of each
value bounds scale times value against the modulus, weighs the error model, and goes into the plan,
where client and simulator report values that leave it; the largest output is what errors are
relative to. So all samples are evaluated, `BATCH` at a time, where that takes `MOST_PRODUCTS`
multiplications or less, which is about ten seconds. Of more samples so many are taken at equal
distances. Where polynomials are to stand for functions all are evaluated at any cost: such a
polynomial is good on the measured range and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fhecompile.errors import FheCompileError
from fhecompile.functions.table import function_named
from fhecompile.ir.evaluate import walk
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.tensor import Affine, Function, Node, Output, TensorGraph

BATCH = 16
MOST_PRODUCTS = 1 << 35


@dataclass(frozen=True, eq=False)
class Calibration:
    """Calibration inputs by name, shape (samples, *input shape); `synthetic` when made up."""

    inputs: Mapping[str, NDArray[np.float64]]
    synthetic: bool = False


@dataclass(frozen=True, eq=False)
class Ranges:
    """Per value the largest magnitude and the mean square over the calibration data.

    `output` is the largest magnitude of any output, `widest` the number of the sample that has it.
    """

    largest: Mapping[str, float]
    mean_square: Mapping[str, float]
    low: Mapping[str, float] = field(default_factory=dict)
    high: Mapping[str, float] = field(default_factory=dict)
    output: float = 0.0
    widest: int = 0
    current: bool = True

    def stale(self) -> Ranges:
        """The same ranges marked as measured before the graph changed."""
        return replace(self, current=False)


@dataclass(frozen=True)
class InferRanges(Pass):
    """See the module docstring. `samples` are evaluated at most; 0: as many as is affordable."""

    samples: int = 0

    needs: ClassVar[tuple[type, ...]] = (Calibration,)
    gives: ClassVar[tuple[type, ...]] = (Ranges,)

    def run(self, program: Program) -> PassResult:
        calibration = program.facts[Calibration]
        total = len(next(iter(calibration.inputs.values()), ()))
        chosen = spread_samples(total, self._most(program.graph) or total)
        largest: dict[str, float] = {}
        mean_square: dict[str, float] = {}
        low: dict[str, float] = {}
        high: dict[str, float] = {}
        output, widest = 0.0, 0
        for start in range(0, max(len(chosen), 1), BATCH):
            part = chosen[start : start + BATCH]
            inputs = {name: x[part] for name, x in calibration.inputs.items()}
            share = len(part) / max(len(chosen), 1)
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
                    if isinstance(node, Output) and largest[name] > output:
                        output = largest[name]
                        sizes = np.abs(value).reshape(len(part), -1).max(axis=1)
                        widest = int(part[int(np.argmax(sizes))])
        ranges = Ranges(largest, mean_square, low, high, output, widest)
        remark = f"{len(largest)} values measured"
        if len(chosen) < total:
            remark += f" on {len(chosen)} of {total} samples"
        return PassResult(program.having(ranges), True, (remark,))

    def _most(self, graph: TensorGraph) -> int:
        """How many samples may be evaluated; 0: all."""
        if any(isinstance(node, Function) for node in graph):
            return 0
        if self.samples:
            return self.samples
        maps = [m for node in graph if isinstance(node, Affine) for m in node.maps]
        products = sum(node.size for node in graph) + sum(t.size for m in maps for t in m.terms)
        return max(BATCH, MOST_PRODUCTS // max(1, products))


def spread_samples(total: int, most: int) -> NDArray[np.intp]:
    """Numbers of `most` of `total` samples, or of all of them, at equal distances, in order."""
    count = min(total, most)
    return np.arange(count) * total // max(1, count)


def _check_domain(node: Function, low: float, high: float, calibration: Calibration) -> None:
    f = function_named(node.function)
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

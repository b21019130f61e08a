"""Ranges of all values over the calibration data.

The tensor graph is evaluated in float64 on the calibration samples. The largest magnitude of each
value bounds scale times value against the modulus, weighs the error model, and goes into the plan,
where client and simulator report inputs that leave it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fhecompile.errors import FheCompileError
from fhecompile.ir.evaluate import walk
from fhecompile.ir.program import Pass, PassResult, Program


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
        inputs = {name: x[: self.samples] for name, x in calibration.inputs.items()}
        largest: dict[str, float] = {}
        mean_square: dict[str, float] = {}
        low: dict[str, float] = {}
        high: dict[str, float] = {}
        with np.errstate(all="ignore"):
            for node, value in walk(program.graph, inputs):
                largest[node.name] = float(np.abs(value).max(initial=0.0))
                mean_square[node.name] = float(np.mean(value**2))
                low[node.name], high[node.name] = float(value.min()), float(value.max())
                if not np.isfinite(mean_square[node.name]):
                    raise FheCompileError(
                        "values-explode",
                        "the network's values overflow on the calibration data",
                        node=node.source or node.name,
                        hint="give calibration data like the data the network was trained on"
                        if not calibration.synthetic
                        else "give real calibration data with --calibrate data.npz; polynomial "
                        "networks explode on noise",
                    )
        ranges = Ranges(largest, mean_square, low, high)
        result = program.having(ranges)
        return PassResult(result, True, (f"{len(largest)} values measured",))

r"""Predicts how precise every value is: its noise, and what fitted functions change about it.

Both are root mean squares in the value's unit: the noise of the scales that were chosen, on the
sample with the largest output and one more (`fhecompile.ir.layer_noise`), and the difference
between the fitted network and the exact one on up to 16 calibration samples, where the value has
an exact counterpart (`fhecompile.ir.fitted_errors`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from fhecompile.ckks.parameters import Parameters
from fhecompile.ir.fitted_errors import FittedErrors
from fhecompile.ir.layer_noise import predict_layer_noise
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.scales import ScalePlan
from passes.assign_layouts import Layouts
from passes.infer_ranges import Calibration, Ranges
from passes.select_parameters import noise_samples


@dataclass(frozen=True, eq=False)
class LayerErrors:
    """Rms errors by node's name: of noise, and of fitted functions (None: nothing to compare)."""

    noise: Mapping[str, float]
    fitted: Mapping[str, float | None]


@dataclass(frozen=True)
class PredictPrecision(Pass):
    """See the module docstring."""

    needs: ClassVar[tuple[type, ...]] = (Ranges, Calibration, Parameters, ScalePlan, Layouts)
    gives: ClassVar[tuple[type, ...]] = (LayerErrors,)

    def run(self, program: Program) -> PassResult:
        facts, graph = program.facts, program.graph
        noise = predict_layer_noise(
            graph,
            noise_samples(program),
            facts[ScalePlan],
            facts[Parameters],
            facts[Layouts].packing,
        )
        known = facts[FittedErrors] if FittedErrors in facts else FittedErrors()
        low, high = facts[Ranges].low, facts[Ranges].high
        fitted = {
            name: None if share is None else share * (high[name] - low[name])
            for name, share in known.by_layer(graph).items()
        }
        largest = facts[Ranges].largest
        bits = {
            name: math.log2(largest[name] / error)
            for name, rms in noise.items()
            if largest[name] and (error := math.hypot(rms, fitted[name] or 0.0))
        }
        least = min(bits, key=lambda name: bits[name], default="")
        remark = f"{least} is the least precise, {bits[least]:.1f} bits" if least else "no errors"
        return PassResult(program.having(LayerErrors(noise, fitted)), True, (remark,))

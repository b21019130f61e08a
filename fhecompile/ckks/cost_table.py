"""The time of the steps that operations are made of; how they add up is in `fhecompile.ckks.cost`.

The built-in table is what the compiler chooses layouts, splits and digits by, so that a model gives
the same plan on every machine. Predictions may take a table measured where the plan is to run
(`python -m runtime.calibrate`). Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

# Thread-milliseconds per prime at N = 2^16, both cores of a 2-core x86-64 machine at work.
MILLISECONDS: Mapping[str, float] = MappingProxyType(
    {
        "raise": 2.0,
        "key": 0.65,
        "lower": 2.6,
        "encode": 2.4,
        "multiply": 0.65,
        "tensor": 0.4,
        "rescale": 3.0,
        "add": 0.2,
        "add_qp": 0.2,
        "copy": 0.1,
    }
)


@dataclass(frozen=True)
class CostTable:
    """Costs of all steps.

    Args:
        milliseconds: thread-milliseconds per prime at N = 2^16, by step.
        measured: on the machine that the prediction is for.

    Raises:
        ValueError: not the steps of `MILLISECONDS`, or a time below zero or not finite.
    """

    milliseconds: Mapping[str, float]
    measured: bool = False

    def __post_init__(self) -> None:
        if self.milliseconds.keys() != MILLISECONDS.keys():
            raise ValueError("a cost table names other steps")
        if not all(math.isfinite(t) and t >= 0 for t in self.milliseconds.values()):
            raise ValueError("a cost table holds times that are none")


BUILT_IN = CostTable(MILLISECONDS)

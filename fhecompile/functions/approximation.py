"""What stands for a function on an interval, built of sums and products."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Approximation(ABC):
    """An approximation on [centre - radius, centre + radius], of u = (x - centre) / radius.

    `fhecompile.ir.approximations` writes it as nodes of a tensor graph.

    Args:
        centre, radius: of the interval.
        error: the largest error found on it by evaluating exactly this approximation.
        unit: what errors are divided by; None: by the function's magnitude.
    """

    centre: float
    radius: float
    error: float
    unit: float | None

    @property
    @abstractmethod
    def degrees(self) -> tuple[int, ...]:
        """Of the polynomials that are evaluated one after the other."""

    @abstractmethod
    def on_unit(self, u: FloatArray) -> FloatArray:
        """Its values at u."""

    def __call__(self, x: FloatArray) -> FloatArray:
        """Its values at x."""
        return self.on_unit((np.asarray(x, np.float64) - self.centre) / self.radius)

    def largest_error(self, found: FloatArray, exact: FloatArray) -> float:
        """Of its values where the function's are `exact`, as `error`."""
        unit = np.abs(exact) if self.unit is None else self.unit
        return float(np.max(np.abs(found - exact) / unit, initial=0.0))

"""The sign of values that keep away from zero, by a composite sign."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fhecompile.functions.approximation import Approximation
from fhecompile.functions.sign import CompositeSign, composite_sign

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StepSign(Approximation):
    """s(u), u = x / radius; `error` is that outside of the gap of s.

    Zero itself is exact, what is between it and the gap is anything between.
    """

    sign: CompositeSign

    @property
    def degrees(self) -> tuple[int, ...]:
        """Of the polynomials of the sign."""
        return tuple(len(p) - 1 for p in self.sign.polynomials)

    def on_unit(self, u: FloatArray) -> FloatArray:
        """Its values at u."""
        return self.sign(u)


def fit_step(low: float, high: float, gap: float, degrees: tuple[int, ...]) -> StepSign:
    """The sign on [low, high] but for the numbers between -gap and gap.

    Args:
        low, high: low < 0 < high.
        gap: above 0, below -low or high.
        degrees: of the odd polynomials.
    """
    radius = max(-low, high)
    sign = composite_sign(degrees, gap / radius)
    return StepSign(0.0, radius, sign.error, 1.0, sign)

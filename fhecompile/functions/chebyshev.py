r"""Sums of Chebyshev polynomials: T_0 = 1, T_1 = x, T_k+1 = 2 x T_k - T_k-1.

On [-1, 1] no T_k exceeds 1, so that coefficients are about as large as the sum; those of powers of
x grow like (1 + sqrt 2)^k and cancel. Sums are evaluated by Clenshaw's recurrence,

    b_k = c_k + 2 x b_k+1 - b_k+2,    sum_k c_k T_k(x) = c_0 + x b_1 - b_2.

T_m goes out of a sum of degree below 2 m by T_m+j = 2 T_j T_m - T_m-j:

    sum_k c_k T_k = Q T_m + R,  Q = c_m + sum_j 2 c_m+j T_j,  R = sum_k<m (c_k - c_2m-k) T_k.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def chebyshev_sum(coefficients: FloatArray, x: FloatArray) -> FloatArray:
    """sum_k coefficients[k] T_k(x) in the shape of x, to which coefficients[k] broadcasts."""
    twice, following = 2.0 * x, np.zeros(x.shape)
    value = np.array(np.broadcast_to(coefficients[-1], x.shape))
    if len(coefficients) == 1:
        return value
    for c in coefficients[-2:0:-1]:
        value, following = c + twice * value - following, value
    return np.asarray(coefficients[0] + x * value - following)


def divide_by_chebyshev(
    coefficients: Sequence[FloatArray], m: int
) -> tuple[list[FloatArray], list[FloatArray]]:
    """Q and R of the module docstring, for a sum of degree m to 2 m - 1."""
    high = coefficients[m:]
    quotient = [high[0], *(2.0 * c for c in high[1:])]
    rest = list(coefficients[:m])
    for j, c in enumerate(high[1:], 1):
        rest[m - j] = rest[m - j] - c
    return quotient, rest

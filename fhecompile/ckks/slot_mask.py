r"""Clearing every second slot with three small integers, without a level.

Slot j is the value at zeta^(5^j), zeta = exp(i pi / N), where the monomial X^(N/4) takes the value
(-1)^j (1 + i) / sqrt 2. So X^(N/4) - X^(3N/4) is sqrt 2 (-1)^j, and the integer polynomial

    m = a + b (X^(N/4) - X^(3N/4))   is  a + b sqrt 2  in even slots,  a - b sqrt 2  in odd ones.

With a / b a convergent of the continued fraction of sqrt 2 the odd slots are nearly cleared: what
is left of them is `leak` = |a - b sqrt 2| / (a + b sqrt 2), about 2^(-2.5 order). The product is
exact, adds no rounding, and only costs log2(a + b sqrt 2) bits of scale.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

MAX_ORDER = 20


def convergent(order: int) -> tuple[int, int]:
    """(a, b), the convergent of sqrt 2 of a given order: (1, 1), (3, 2), (7, 5), ..."""
    a, b = 1, 1
    for _ in range(order):
        a, b = a + 2 * b, a + b
    return a, b


def mask_factor(order: int) -> float:
    """What even slots are multiplied by: a + b sqrt 2."""
    a, b = convergent(order)
    return a + b * math.sqrt(2.0)


def mask_leak(order: int) -> float:
    """What is left of odd slots relative to even ones, with its sign."""
    # (a - b sqrt 2) (a + b sqrt 2) = a^2 - 2 b^2 = +1 or -1, without the cancellation
    a, b = convergent(order)
    return (a * a - 2 * b * b) / mask_factor(order) ** 2


def order_for(leak: float) -> int:
    """The smallest order that leaves at most `leak`."""
    return next((k for k in range(1, MAX_ORDER) if abs(mask_leak(k)) <= leak), MAX_ORDER)


def mask_vector(order: int, slots: int) -> NDArray[np.float64]:
    """The values of the mask in all slots, at scale 1."""
    factor = mask_factor(order)
    vector: NDArray[np.float64] = np.full(slots, factor)
    vector[1::2] = mask_leak(order) * factor
    return vector

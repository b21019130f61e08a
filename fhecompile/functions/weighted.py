r"""Polynomials that are nearest where values are frequent.

With u in [-1, 1] as for `fhecompile.functions.minimax`, density d of the values, and u = -cos t,

    minimise  integral over t of  (d(u) + FLOOR) (p(u) - f(u))^2 / unit^2,

unit |f| for relative errors: a sum over evenly spread t. The largest error is about twice that of
the best polynomial, at a kink, but the mean square falls by a factor that grows with the degree (4
instead of 2 per doubling for relu), and so do outputs that many elements are summed up in. FLOOR
makes the error where no values are no larger than at the kink.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from fhecompile.functions.minimax import FittedPolynomial, Function, polynomial_on_unit

FloatArray = NDArray[np.float64]

FLOOR = 0.01
POINTS_PER_DEGREE = 16


def fit_weighted(
    f: Function,
    low: float,
    high: float,
    degree: int,
    unit: float | None,
    density: Callable[[FloatArray], FloatArray],
    even: bool = False,
) -> FittedPolynomial:
    """The polynomial of at most `degree` on [low, high] with least weighted squares.

    Args:
        f: finite on the interval; not zero there when errors are relative.
        low, high: the interval, low < high.
        degree: at least 1.
        unit: what |p - f| is divided by, above zero; None: |f|.
        density: of the values x, at least zero, 1 on average.
        even: whether to do without odd powers of u but u itself.
    """
    centre, radius = (low + high) / 2, (high - low) / 2
    count = POINTS_PER_DEGREE * (degree + 16)
    u = -np.cos((np.arange(count) + 0.5) * np.pi / count)
    x = centre + radius * u
    y = f(x)
    weights = np.sqrt(density(x) + FLOOR) / (np.abs(y) if unit is None else unit)
    powers = [k for k in range(degree + 1) if k <= 1 or k % 2 == 0 or not even]
    table = chebyshev.chebvander(u, degree)[:, powers] * weights[:, None]
    c = np.zeros(degree + 1)
    c[powers], *_ = np.linalg.lstsq(table, y * weights, rcond=None)
    return polynomial_on_unit(f, low, high, c, unit)

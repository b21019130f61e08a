"""Composite signs: each polynomial is the nearest one, and the gap balances both errors."""

from __future__ import annotations

import numpy as np
import pytest

from fhecompile.functions.chebyshev import chebyshev_sum
from fhecompile.functions.sign import balanced_sign, composite_sign

U = np.union1d(np.linspace(0.0, 1.0, 20001), np.geomspace(1e-6, 1.0, 5001))


@pytest.mark.parametrize("gap", [0.5, 0.01, 1e-5])
def test_a_line(gap: float) -> None:
    """2 u / (1 + g) is as far below 1 at g as it is above at 1."""
    sign = composite_sign((1,), gap)
    assert sign.polynomials[0] == pytest.approx([0.0, 2.0 / (1.0 + gap)], rel=1e-9)
    assert sign.error == pytest.approx((1.0 - gap) / (1.0 + gap), rel=1e-9)


@pytest.mark.parametrize("degree", [3, 7, 15, 31])
@pytest.mark.parametrize("gap", [0.2, 0.02, 1e-4])
def test_errors_alternate(degree: int, gap: float) -> None:
    """As often as makes an odd polynomial the nearest one (Chebyshev)."""
    sign = composite_sign((degree,), gap)
    u = np.union1d(U, np.geomspace(gap, 1.0, 20001))
    e = sign(u[u >= gap]) - 1.0
    assert np.abs(e).max() == pytest.approx(sign.error, rel=1e-5)
    large = np.sign(e[np.abs(e) >= 0.98 * sign.error])
    assert 1 + np.count_nonzero(np.diff(large)) == (degree + 1) // 2 + 1
    assert not np.any(sign.polynomials[0][::2])


def test_each_polynomial_takes_the_values_of_the_one_before() -> None:
    sign = composite_sign((7, 7, 15), 0.01)
    u, low = np.concatenate([-U[::-1], U]), 0.01
    for number, p in enumerate(sign.polynomials):
        alone = composite_sign((len(p) - 1,), low)
        scale = 1.0 if number == 2 else 1.0 + alone.error
        assert p == pytest.approx(alone.polynomials[0] / scale, abs=1e-9)
        u = chebyshev_sum(p, u)
        low = (1.0 - alone.error) / (1.0 + alone.error)
        if number < 2:
            assert np.abs(u).max() <= 1.0 + 1e-6
    assert sign.error == pytest.approx(alone.error, rel=1e-6)


def test_what_is_precise_enough_gets_no_more_polynomials() -> None:
    sign = composite_sign((15, 15, 15), 0.5)
    assert len(sign.polynomials) == 2
    assert sign.error < 2.0**-40


@pytest.mark.parametrize(
    ("degrees", "bits"),
    [((7, 7, 15), 9.33), ((7, 15, 15), 10.33), ((15, 15, 15), 11.34), ((15, 15, 31), 12.36)],
)
def test_magnitudes(degrees: tuple[int, ...], bits: float) -> None:
    sign = balanced_sign(degrees)
    e = U * np.abs(1.0 - sign(U))
    assert -np.log2(e.max()) == pytest.approx(bits, abs=0.02)
    inside, outside = e[sign.gap >= U].max(), e[sign.gap < U].max()
    assert inside == pytest.approx(outside, rel=0.01)
    assert balanced_sign(degrees) is sign

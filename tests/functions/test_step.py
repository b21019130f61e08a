"""The sign outside of a gap."""

from __future__ import annotations

import numpy as np
import pytest

from fhecompile.functions.step import fit_step


@pytest.mark.parametrize("degrees", [(3,), (7,), (7, 15)])
@pytest.mark.parametrize(("low", "high"), [(-2.0, 5.0), (-3.0, 0.5)])
def test_errors(low: float, high: float, degrees: tuple[int, ...]) -> None:
    found = fit_step(low, high, 0.25, degrees)
    assert (found.centre, found.radius, found.degrees) == (0.0, max(-low, high), degrees)
    x = np.linspace(low, high, 40001)
    outside = x[np.abs(x) >= 0.25]
    error = np.abs(found(outside) - np.sign(outside)).max()
    assert error <= found.error * (1 + 1e-5)
    assert np.abs(found(np.array([0.0]))[0]) == 0.0
    both = np.concatenate([-x[x > 0.25], outside])
    assert np.abs(found(both[np.abs(both) <= found.radius])).max() <= 1 + found.error * (1 + 1e-5)

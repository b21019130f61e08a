"""Functions of lines with kinks, by composite signs."""

from __future__ import annotations

import numpy as np
import pytest

from fhecompile.functions.composite import Lines, fit_composite, lines_of
from fhecompile.functions.table import FUNCTIONS


@pytest.mark.parametrize(
    ("name", "low", "high", "lines"),
    [
        ("relu", -1.0, 2.0, Lines(0.0, 0.0, ((0.0, 1.0),))),
        ("abs", -1.0, 2.0, Lines(0.0, -1.0, ((0.0, 2.0),))),
        ("clip", -3.0, 2.0, Lines(-1.0, 0.0, ((-1.0, 1.0), (1.0, -1.0)))),
        ("clip", -0.5, 2.0, Lines(1.0, 1.0, ((1.0, -1.0),))),
        ("clip", -0.5, 0.5, None),
        ("relu", 0.0, 2.0, None),
        ("hard_swish", -4.0, 4.0, None),  # of parabolas
        ("thresholded_relu", -1.0, 2.0, None),  # jumps
        ("elu", -1.0, 1.0, None),
        ("tanh", -1.0, 1.0, None),
    ],
)
def test_lines(name: str, low: float, high: float, lines: Lines | None) -> None:
    assert lines_of(FUNCTIONS[name], low, high) == lines


def test_other_functions_have_no_composite() -> None:
    with pytest.raises(ValueError, match=r"^tanh has no kinks between lines from -1 to 1$"):
        fit_composite(FUNCTIONS["tanh"], -1.0, 1.0, (7,), 1.0)


@pytest.mark.parametrize("name", ["relu", "abs", "clip"])
@pytest.mark.parametrize(("low", "high"), [(-3.0, 3.0), (-1.25, 9.0)])
def test_errors(name: str, low: float, high: float) -> None:
    f = FUNCTIONS[name]
    lines = lines_of(f, low, high)
    assert lines is not None
    found = fit_composite(f, low, high, (7, 7, 15), 2.0)
    x = np.linspace(low, high, 40001)
    error = np.abs(found(x) - f(x)).max() / 2.0
    assert error <= found.error * 1.001
    assert found.error <= error * 1.001
    jumps = sum(abs(jump) for _, jump in lines.kinks)
    assert found.error <= jumps * found.radius / 2 * 2.0**-9.32 / 2.0
    assert found.degrees == (7, 7, 15)

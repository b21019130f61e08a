"""What fitting says: facts for reports, warnings, and values outside of the range."""

from __future__ import annotations

import numpy as np
import pytest

from fhecompile.ir.fitted_functions import FittedFunctions
from fhecompile.ir.program import PassResult
from passes.fit_functions import WANTED_SAMPLES, ApproximationError, FitFunctions
from passes.infer_ranges import Calibration, InferRanges, Ranges
from tests.graphs import Builder
from tests.passes.test_fit_functions import applied, between, fit
from tests.support import run_pass


def test_facts_of_every_function() -> None:
    b = Builder()
    b.input("x", 1, 2)
    b.function("first", "x", "relu")
    b.function("second", b.scaled("t", "first", 2.0), "tanh")
    result = fit(b.output("second"), -1.0, 1.0, precision_bits=7.0)
    fitted = result.program.facts[FittedFunctions]
    first, second = fitted.functions
    assert (first.node, first.function, first.low, first.high) == ("first", "relu", -1.2, 1.2)
    assert (second.node, second.function) == ("second", "tanh")
    changed = result.program.facts[ApproximationError]
    for f, remark in zip(fitted.functions, result.remarks, strict=False):
        degrees = ", ".join(map(str, f.degrees))
        assert f" by degree {degrees}, depth {f.depth}, " in remark
        assert remark.endswith(f" {f.error:.2g}")
        assert 0.0 < f.change <= 0.75 * 2.0**-7 * changed.output_range
    assert fitted.warnings == ()


def test_remark_of_a_composite() -> None:
    assert fit(applied("abs"), -2.5, 2.0, precision_bits=13.0).remarks[0] == (
        "f: abs on -5.9 to 5.9 by degree 15, 15, 15, 15, depth 17, error over largest value 4.3e-05"
    )


def test_without_functions_there_are_none() -> None:
    b = Builder()
    b.input("x", 1, 2)
    result = fit(b.output(b.poly("p", "x", 0.0, 1.0)), 0.0, 1.0)
    assert result.program.facts[FittedFunctions] == FittedFunctions(())


def fitted_to(x: np.ndarray, p: FitFunctions, synthetic: bool = False) -> PassResult:
    before, calibration = applied("tanh"), Calibration({"x": x}, synthetic)
    ranges = run_pass(InferRanges(), before, calibration).program.facts[Ranges]
    return run_pass(p, before, ranges, calibration, precision_bits=4.0)


def test_few_samples_are_a_warning() -> None:
    x = between(-1.0, 1.0)
    for count in (20, WANTED_SAMPLES - 1):
        result = fitted_to(x[:count], FitFunctions())
        (text,) = result.program.facts[FittedFunctions].warnings
        assert text == result.remarks[-1]
        assert text == (
            f"{count} calibration samples tell little about ranges: a value of the next one is "
            f"outside of what was seen with a probability of {200 / (count + 1):.0f} %; 39 or more "
            "are wanted, as polynomials are wrong outside"
        )
    enough = fitted_to(x[:WANTED_SAMPLES], FitFunctions())
    assert enough.program.facts[FittedFunctions].warnings == ()
    made_up = fitted_to(x[:20], FitFunctions(), synthetic=True)
    assert made_up.program.facts[FittedFunctions].warnings == ()


def test_the_next_sample_is_outside_as_often_as_the_warning_says() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(20000, 21))
    outside = (x[:, -1] > x[:, :-1].max(axis=1)) | (x[:, -1] < x[:, :-1].min(axis=1))
    assert outside.mean() == pytest.approx(2 / 21, abs=0.006)


def test_quantiles() -> None:
    """One value in a thousand is far out; without it the range is a tenth as wide."""
    random = np.random.default_rng(0)
    x = random.uniform(-1.0, 1.0, (1000, 1, 2))
    x[7, 0, 1] = 6.0
    whole = fitted_to(x, FitFunctions()).program.facts[FittedFunctions].functions[0]
    assert whole.high > 13.0
    # tanh is flat, so that what is cut off does little harm before the polynomial leaves it
    x[7, 0, 1] = 1.08
    result = fitted_to(x, FitFunctions(quantile=0.98, margin=0.0))
    (cut,) = result.program.facts[FittedFunctions].functions
    assert cut.high < 3.1
    (remark,) = [r for r in result.remarks if "outside" in r]
    start, end = "f: up to ", " of 2000 values of the calibration data are outside of that range"
    assert remark.startswith(start) and remark.endswith(end)
    values = 2.0 * x + 1.0
    truly = np.count_nonzero((values < cut.low) | (values > cut.high))
    assert truly <= int(remark.removeprefix(start).removesuffix(end)) <= 40

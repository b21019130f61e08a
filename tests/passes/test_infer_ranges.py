"""Ranges are those of the calibration samples; values that overflow are the user's business."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhecompile.errors import FheCompileError
from fhecompile.ir.tensor import TensorGraph
from passes import infer_ranges
from passes.infer_ranges import Calibration, InferRanges, Ranges, spread_samples
from tests.graphs import Builder
from tests.support import run_pass

SAMPLES = np.array([[[1.0, -2.0]], [[0.5, 3.0]], [[10.0, 0.0]]])


def squares() -> TensorGraph:
    b = Builder()
    b.input("x", 1, 2)
    b.affine("sum", {"x": np.ones((1, 2))}, bias=1.0)
    b.poly("square", "sum", 0.0, 0.0, 1.0)
    return b.output("square")


def test_values() -> None:
    result = run_pass(InferRanges(), squares(), Calibration({"x": SAMPLES}))
    ranges = result.program.facts[Ranges]
    assert result.remarks == ("4 values measured",)
    assert ranges.current
    assert ranges.largest == {"x": 10.0, "sum": 11.0, "square": 121.0, "out.square": 121.0}
    assert ranges.low == {"x": -2.0, "sum": 0.0, "square": 0.0, "out.square": 0.0}
    assert ranges.high == {"x": 10.0, "sum": 11.0, "square": 121.0, "out.square": 121.0}
    assert ranges.mean_square["sum"] == pytest.approx((0.0 + 4.5**2 + 11.0**2) / 3)


def test_samples_cap_what_is_evaluated() -> None:
    result = run_pass(InferRanges(samples=2), squares(), Calibration({"x": SAMPLES}))
    assert result.program.facts[Ranges].largest["sum"] == 4.5
    assert result.remarks == ("4 values measured on 2 of 3 samples",)


@pytest.mark.parametrize("place", [0, 15, 16, 39])
def test_every_sample_counts(place: int) -> None:
    samples = np.zeros((40, 1, 2))
    samples[place] = 3.0
    result = run_pass(InferRanges(), squares(), Calibration({"x": samples}))
    ranges = result.program.facts[Ranges]
    assert (ranges.output, ranges.widest) == (49.0, place)
    assert (ranges.low["sum"], ranges.high["sum"]) == (1.0, 7.0)
    assert ranges.mean_square["x"] == pytest.approx(9.0 / 40)


def test_what_takes_too_long_is_measured_on_samples_at_equal_distances(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The graph takes 2 multiplications and 5 elements per sample."""
    x = np.arange(50.0)[:, None, None] * np.ones((1, 2))
    for most, count in ((7 * 50, 50), (7 * 50 - 1, 49), (7 * 25, 25), (1, 16)):
        monkeypatch.setattr(infer_ranges, "MOST_PRODUCTS", most)
        result = run_pass(InferRanges(), squares(), Calibration({"x": x}))
        expected = np.arange(count) * 50 // count
        ranges = result.program.facts[Ranges]
        assert (ranges.low["x"], ranges.high["x"]) == (0.0, expected[-1])
        assert ranges.mean_square["x"] == pytest.approx(np.mean(expected**2))
        assert ranges.widest == expected[-1]


@given(st.integers(1, 500), st.integers(1, 500))
def test_spread_samples(total: int, most: int) -> None:
    chosen = spread_samples(total, most)
    assert len(chosen) == min(total, most) and chosen[0] == 0 and chosen[-1] < total
    gaps = np.diff([*chosen, total])
    assert gaps.min() >= 1 and gaps.max() - gaps.min() <= 1


def test_functions_are_measured_on_every_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    b = Builder()
    b.input("x", 1, 2)
    b.function("soft", "x", "sigmoid")
    graph = b.output("soft")
    monkeypatch.setattr(infer_ranges, "BATCH", 2)
    found = run_pass(InferRanges(samples=1), graph, Calibration({"x": SAMPLES})).program
    monkeypatch.undo()
    whole = run_pass(InferRanges(), graph, Calibration({"x": SAMPLES})).program
    for name in ("largest", "mean_square", "low", "high"):
        expected = getattr(whole.facts[Ranges], name)
        assert getattr(found.facts[Ranges], name) == pytest.approx(expected, rel=1e-12)
    assert found.facts[Ranges].high["x"] == 10.0


@pytest.mark.parametrize(
    ("function", "needed"),
    [("inverse_sqrt", "above 0"), ("sqrt", "at least 0"), ("reciprocal", "above 0 or all below 0")],
)
@pytest.mark.parametrize(
    ("synthetic", "hint"),
    [
        (False, "take out samples that are empty or unlike those the network was trained on"),
        (True, "give real calibration data with --calibrate data.npz"),
    ],
)
def test_values_outside_a_domain(function: str, needed: str, synthetic: bool, hint: str) -> None:
    b = Builder()
    b.input("x", 1, 2)
    graph = b.output(b.function("f", "x", function))
    with pytest.raises(FheCompileError) as caught:
        run_pass(InferRanges(), graph, Calibration({"x": SAMPLES}, synthetic))
    assert caught.value.render() == (
        f"f: {function} is applied to values from -2 to 10 on the calibration data, but needs all "
        f"of them {needed} [function-range]\n  hint: {hint}"
    )


def exploding() -> TensorGraph:
    b = Builder()
    b.input("x", 1, 2)
    value = b.scaled("scaled", "x", 1e30)
    for k in range(6):
        value = b.poly(f"square{k}", value, 0.0, 0.0, 1.0)
    return b.output(value)


@pytest.mark.parametrize(
    ("synthetic", "hint"),
    [
        (False, "give calibration data like the data the network was trained on"),
        (
            True,
            "give real calibration data with --calibrate data.npz; "
            "polynomial networks explode on noise",
        ),
    ],
)
def test_values_that_explode(synthetic: bool, hint: str) -> None:
    with pytest.raises(FheCompileError) as caught:
        run_pass(InferRanges(), exploding(), Calibration({"x": SAMPLES}, synthetic))
    assert caught.value.render() == (
        "square2: the network's values overflow on the calibration data [values-explode]\n"
        f"  hint: {hint}"
    )

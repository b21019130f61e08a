"""The table of activation errors, its front, the samples it names, and its picture."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhecompile.ir.accuracy import Accuracy, MeasuredSamples
from fhecompile.report.accuracy import (
    accuracy_heads,
    accuracy_rows,
    describe_samples,
    describe_tested,
)
from fhecompile.report.accuracy_plot import Axis, draw_accuracy, round_step
from fhecompile.report.tuning import TuneCost, TunePoint, describe_points, pareto_front

SVG = "{http://www.w3.org/2000/svg}"
EXACT = Accuracy(0.98, 1.0, 0.0, 0)


def point(
    share: float, depth: int, seconds: float = 1.0, error: float = 0.1, reason: str = ""
) -> TunePoint:
    cost = TuneCost(1e-3, 2.0, 3, 2, 1 << 14, 9, 9 << 20, 1 << 30, seconds)
    accuracy = Accuracy(share, share + 0.01, 0.25, 0)
    return TunePoint(8.0, 64, cost, reason, error, depth, accuracy)


def measured(calibrated: int = 0, count: int = 50, exact: Accuracy = EXACT) -> MeasuredSamples:
    return MeasuredSamples(count, calibrated, exact.accuracy is not None, exact)


POINTS = [
    point(0.90, 3, error=0.4),
    point(0.95, 5, error=0.2),
    point(0.95, 5, seconds=0.9, error=0.1),  # the same in less time
    point(0.93, 5, seconds=0.1, error=0.05),  # less accurate
    point(0.95, 6, error=0.025),  # deeper
    point(0.99, 9, error=0.0125, reason="takes more than --max-memory"),
    TunePoint(8.0, 64, None, "too deep", 0.00625),
]


def test_the_front_is_of_accuracy_and_depth() -> None:
    assert pareto_front(POINTS) == [True, False, True, False, False, False, False]


def test_rows() -> None:
    first, *_, memory, deep = accuracy_rows(POINTS)
    assert accuracy_heads(POINTS) == (
        *("activation error", "accuracy", "agreement", "change", "depth"),
        *("primes", "ring", "keys", "peak", "seconds"),
    )
    kept = ("90.0 %", "91.0 %", "0.25", "3")
    assert first == ("0.4", *kept, "3", "2^14", "9", "1.0 GiB", "1.00", "*", "")
    assert memory[0] == "0.0125" and memory[-2:] == ("", "takes more than --max-memory")
    assert deep == ("0.00625", *("",) * 9, "", "too deep")


def test_what_points_differ_in_is_a_column() -> None:
    a, b = point(0.9, 3), TunePoint(12.0, 32, None, "too deep")
    assert accuracy_heads([a, b])[:4] == (
        *("activation error", "precision bits", "max keys", "accuracy"),
    )
    assert [row[:4] for row in accuracy_rows([a, b])] == [
        ("0.1", "8", "64", "90.0 %"),
        ("-", "12", "32", ""),
    ]
    assert accuracy_rows([]) == []


def test_overflows_are_noted() -> None:
    found = TunePoint(8.0, 64, None, "too deep", 0.1, 2, Accuracy(None, 0.5, math.inf, 2))
    (row,) = accuracy_rows([found])
    assert accuracy_heads([found])[1:4] == ("agreement", "change", "depth")
    assert row[1:4] == ("50.0 %", "overflow", "2")
    assert row[-1] == "too deep; overflows on 2 samples"
    described = describe_points([found])[0]["accuracy"]
    assert described == {"accuracy": None, "agreement": 0.5, "change": None, "overflows": 2}


@pytest.mark.parametrize(
    ("samples", "test", "text"),
    [
        (
            measured(50),
            "",
            "accuracy on 50 samples of the calibration data, which the polynomials are fitted for; "
            "the model: 98.0 %, standard error 2.0 %",
        ),
        (
            measured(),
            "t.npz",
            "accuracy on 50 samples of t.npz, none of them a calibration sample; the model: 98.0 "
            "%, standard error 2.0 %",
        ),
        (
            measured(7, exact=Accuracy(None, 1.0, 0.0, 0)),
            "t.npz",
            "agreement on 50 samples of t.npz, 7 of them calibration samples too",
        ),
        (
            measured(0, 1, Accuracy(None, None, 0.0, 0)),
            "t.npz",
            "change on 1 sample of t.npz, none of them a calibration sample",
        ),
    ],
)
def test_samples_are_named(samples: MeasuredSamples, test: str, text: str) -> None:
    assert describe_samples(samples, test) == text


def test_samples_as_plain_values() -> None:
    assert describe_tested(measured(7), "t.npz") == {
        "data": "t.npz",
        "samples": 50,
        "calibration_samples": 7,
        "labels": True,
        "model_accuracy": 0.98,
        "standard_error": pytest.approx((0.98 * 0.02 / 50) ** 0.5),
    }


# -- the picture -----------------------------------------------------------------------------------


def test_picture() -> None:
    drawn = draw_accuracy("a<b>.onnx", POINTS, measured(), "t.npz", 2)
    root = ElementTree.fromstring(drawn)
    circles = list(root.iter(f"{SVG}circle"))
    best = [c for c in circles if c.get("class") == "best"]
    texts = [t.text for t in root.iter(f"{SVG}text")]
    # Two panels; in each two of five points are at one place.
    assert len(circles) == 4 + 4 and len(best) == 2 * 2
    assert texts.count("0.2, 0.1") == texts.count("0.2, 0.025") == 1
    assert texts[0] == "a<b>.onnx" and texts[1] == describe_samples(measured(), "t.npz")
    assert {"multiplicative depth", "predicted seconds on 2 threads"} < set(texts)
    assert texts[-1] == "2 of 7 cannot be had; the table says why"
    assert len(list(root.iter(f"{SVG}polyline"))) == 2
    for circle in circles:
        x, y = float(circle.get("cx", "")), float(circle.get("cy", ""))
        assert 80 <= x <= 930 and 60 <= y <= 350
    # Higher is more accurate: of the left panel's front the deeper point is further up and right.
    (x1, y1), (x2, y2) = ((float(c.get("cx", "")), float(c.get("cy", ""))) for c in best[:2])
    assert (x2 - x1) * (y1 - y2) > 0
    assert drawn == draw_accuracy("a<b>.onnx", POINTS, measured(), "t.npz", 2)


def test_points_at_one_place_are_one_mark() -> None:
    same = [point(0.95, 5, error=e) for e in (0.4, 0.2)]
    drawn = draw_accuracy("m", same, measured(), "", 1)
    assert drawn.count("<circle") == 2 and drawn.count(">0.4, 0.2</text>") == 2


def test_a_picture_without_points() -> None:
    drawn = draw_accuracy("m", POINTS[-1:], measured(), "", 1)
    assert "<circle" not in drawn and "1 of 1 cannot be had" in drawn
    ElementTree.fromstring(drawn)


def test_change_is_drawn_as_it_is() -> None:
    exact = Accuracy(None, None, 0.0, 0)
    found = point(0.9, 3)
    changed = TunePoint(8.0, 64, found.cost, "", 0.1, 3, Accuracy(None, None, 0.02, 0))
    drawn = draw_accuracy("m", [changed], measured(exact=exact), "", 1)
    assert "change 0.02, depth 3, 1.00 s" in drawn and " %" not in drawn


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=6), st.sampled_from([0.0, 1.0]))
def test_axes_hold_all_values(values: list[float], least: float) -> None:
    axis = Axis.over(values, 0.0, 100.0, least)
    slack = 1e-6
    assert all(-slack <= axis.place(v) <= 100 + slack for v in values)
    assert 2 <= len(axis.ticks) <= 9
    assert axis.place(axis.ticks[0]) == 0.0 and axis.place(axis.ticks[-1]) == 100.0


@given(st.floats(1e-9, 1e9))
def test_steps_are_round(step: float) -> None:
    found = round_step(step)
    assert step * (1 - 1e-8) <= found < 2.5 * step * (1 + 1e-8)
    assert re.fullmatch(r"[125]\.0+e[+-]\d+", f"{found:.6e}")

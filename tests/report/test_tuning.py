"""Which points are on the Pareto front, and how the table says so."""

from __future__ import annotations

from fhecompile.report.tuning import TuneCost, TunePoint, describe_points, pareto_front, tune_rows


def point(
    error: float, seconds: float, peak: int = 1 << 30, keys: int = 9, reason: str = ""
) -> TunePoint:
    cost = TuneCost(error, 2.0, 3, 2, 1 << 14, keys, keys << 20, peak, seconds)
    return TunePoint(8.0, 64, cost, reason)


def test_front() -> None:
    points = [
        point(1e-3, 2.0),
        point(1e-4, 3.0),  # more precise, slower
        point(1e-3, 3.0),  # dominated by both
        point(1e-3, 3.0, keys=8),  # fewer keys
        point(1e-3, 2.0),  # as the first
        point(1e-3, 2.0, peak=2 << 30),  # more memory
        point(1e-9, 0.1, reason="takes more than --max-memory"),
        TunePoint(40.0, 64, None, "too deep"),
    ]
    assert pareto_front(points) == [True, True, False, True, False, False, False, False]


def test_empty() -> None:
    assert pareto_front([]) == [] and tune_rows([]) == []


def test_rows() -> None:
    points = [point(1e-3, 2.0), point(1e-3, 2.5), TunePoint(9.5, 3, None, "too deep")]
    assert tune_rows(points) == [
        *(
            ("8", "64", "1.0e-03", "3", "2", "2^14", "9", "9.0 MiB", "1.0 GiB", seconds, *note)
            for seconds, note in (("2.00", ("*", "")), ("2.50", ("", "dominated")))
        ),
        ("9.5", "3", "", "", "", "", "", "", "", "", "", "too deep"),
    ]


def test_description_is_plain() -> None:
    described = describe_points([point(1e-3, 2.0), TunePoint(9.5, 3, None, "too deep")])
    assert described[0]["cost"]["peak_bytes"] == 1 << 30 and described[0]["pareto"] is True
    assert described[1] == {
        "precision_bits": 9.5,
        "max_keys": 3,
        "cost": None,
        "reason": "too deep",
        "activation_error": None,
        "depth": None,
        "accuracy": None,
        "functions": (),
        "pareto": False,
    }

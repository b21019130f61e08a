"""The table of a tuning run that measured accuracy: what each activation error costs and keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Group

from fhecompile.ir.accuracy import MeasuredSamples
from fhecompile.report.tables import show_bytes, titled_table
from fhecompile.report.tuning import TunePoint, pareto_front

ASKED = ("activation error", "precision bits", "max keys")
KEPT = ("accuracy", "agreement", "change")
COSTS = ("depth", "primes", "ring", "keys", "peak", "seconds")


def accuracy_heads(points: Sequence[TunePoint]) -> tuple[str, ...]:
    """The columns: the activation error, what else points differ in, and what was measured."""
    return (*(ASKED[k] for k in _varied(points)), *(KEPT[k] for k in _measured(points)), *COSTS)


def accuracy_rows(points: Sequence[TunePoint]) -> list[tuple[str, ...]]:
    """The table's cells."""
    varied, measured, rows = _varied(points), _measured(points), []
    for p, best in zip(points, pareto_front(points), strict=True):
        asked, kept, c = _asked(p), _kept(p), p.cost
        costs = ("",) * (len(COSTS) - 1)
        if c is not None:
            costs = (
                str(c.levels),
                f"2^{c.ring_dimension.bit_length() - 1}",
                str(c.rotation_keys),
                show_bytes(c.peak_bytes),
                f"{c.seconds:.2f}",
            )
        depth = "" if p.depth is None else str(p.depth)
        notes = [p.reason or ("" if best else "dominated")]
        if p.accuracy and (count := p.accuracy.overflows):
            notes.append(f"overflows on {count} sample{'s' * (count != 1)}")
        rows.append(
            (
                *(asked[k] for k in varied),
                *(kept[k] for k in measured),
                *(depth, *costs, "*" if best else "", "; ".join(filter(None, notes))),
            )
        )
    return rows


def accuracy_table(
    model: str,
    points: Sequence[TunePoint],
    tested: MeasuredSamples,
    test: str,
    threads: int,
    measured: bool = False,
) -> Group:
    """One line per point.

    Args:
        model: its file.
        points: all with an accuracy, or the reason why there is none.
        tested: the samples it was measured on.
        test: the file of those samples; empty: they are the calibration samples.
        threads: threads that seconds are predicted for.
        measured: whether they are from costs of this machine.
    """
    costs = ", this machine's costs" if measured else ""
    title = (
        f"{model}, {threads} thread{'s' * (threads != 1)}{costs} (* Pareto front of "
        f"{measure_name(tested)} and depth)\n{describe_samples(tested, test)}"
    )
    return titled_table(title, (), accuracy_heads(points), ("", "note"), accuracy_rows(points))


def measure_name(tested: MeasuredSamples) -> str:
    """What stands for accuracy: the best there is without labels, or without classes."""
    if tested.is_labelled:
        return "accuracy"
    return "change" if tested.exact.agreement is None else "agreement"


def describe_samples(tested: MeasuredSamples, test: str) -> str:
    """On which samples accuracy was measured, and what the model itself reaches there."""
    count = f"{tested.count} sample{'s' * (tested.count != 1)}"
    if not test:
        text = f"{count} of the calibration data, which the polynomials are fitted for"
    elif tested.calibrated:
        text = f"{count} of {test}, {tested.calibrated} of them calibration samples too"
    else:
        text = f"{count} of {test}, none of them a calibration sample"
    own, error = show_share(tested.exact.accuracy), show_share(tested.standard_error)
    model = f"; the model: {own}, standard error {error}" if own else ""
    return f"{measure_name(tested)} on {text}{model}"


def describe_tested(tested: MeasuredSamples, test: str) -> dict[str, Any]:
    """The samples and the model's own accuracy as plain values for JSON."""
    return {
        "data": test or None,
        "samples": tested.count,
        "calibration_samples": tested.calibrated,
        "labels": tested.is_labelled,
        "model_accuracy": tested.exact.accuracy,
        "standard_error": tested.standard_error,
    }


def show_share(share: float | None) -> str:
    """`97.2 %`; empty for None."""
    return "" if share is None else f"{100 * share:.1f} %"


def _asked(point: TunePoint) -> tuple[str, str, str]:
    error = "-" if point.activation_error is None else f"{point.activation_error:g}"
    return error, f"{point.precision_bits:g}", str(point.max_keys)


def _kept(point: TunePoint) -> tuple[str, str, str]:
    if point.accuracy is None:
        return "", "", ""
    a = point.accuracy
    change = f"{a.change:.2g}" if math.isfinite(a.change) else "overflow"
    return show_share(a.accuracy), show_share(a.agreement), change


def _measured(points: Sequence[TunePoint]) -> list[int]:
    """Which of `KEPT` are columns: those that any point has."""
    columns = list(zip(*map(_kept, points), strict=True)) or [(), (), ()]
    return [k for k, column in enumerate(columns) if any(column)]


def _varied(points: Sequence[TunePoint]) -> list[int]:
    """Which of `ASKED` are columns."""
    columns = list(zip(*map(_asked, points), strict=True)) or [(), (), ()]
    return [k for k, column in enumerate(columns) if k == 0 or len(set(column)) > 1]

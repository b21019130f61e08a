"""How precise every layer of a plan is expected to be: its range, its noise, and fitted functions.

Errors are root mean squares in the layer's own unit, and bits are log2 of its largest magnitude
over both errors together (`fhecompile.plan.schema.LayerInfo`).
"""

from __future__ import annotations

from typing import Any

from rich.console import Group

from fhecompile.plan import Plan
from fhecompile.report.tables import titled_table

PRECISION_HEADS = ("layer", "ONNX source", "op", "range", "noise", "fitted", "bits")


def precision_rows(plan: Plan) -> list[tuple[str, ...]]:
    """The precision table's cells; no error of fitted functions inside of their polynomials."""
    rows: list[tuple[str, ...]] = []
    for layer in plan.program.layers:
        bits = layer.bits(layer.error)
        rows.append(
            (
                layer.name,
                layer.source,
                layer.op,
                f"{layer.low:.4g} to {layer.high:.4g}",
                f"{layer.noise:.1e}",
                f"{layer.fitted:.1e}" if layer.fitted else "",
                f"{bits:.1f}" if bits is not None else "",
            )
        )
    return rows


def precision_table(plan: Plan) -> Group:
    """One line per layer."""
    return titled_table(
        "precision, predicted (rms errors of noise and of fitted functions)",
        PRECISION_HEADS[:3],
        PRECISION_HEADS[3:],
        rows=precision_rows(plan),
    )


def describe_precision(plan: Plan) -> list[dict[str, Any]]:
    """The same as plain values for JSON."""
    return [
        {
            "layer": layer.name,
            "source": layer.source,
            "op": layer.op,
            "low": layer.low,
            "high": layer.high,
            "noise": layer.noise,
            "fitted": layer.fitted,
            "bits": layer.bits(layer.error),
        }
        for layer in plan.program.layers
    ]

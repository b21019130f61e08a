"""Tables for the terminal: a plan's cost, its layers, OpenFHE's parameters, budgets, passes.

Every table is built from plain rows, which are what the tests look at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import fields

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from fhecompile.ckks.parameters import AHEAD_BYTES, MAX_LOG_QP
from fhecompile.ir.fitted_functions import FittedFunction
from fhecompile.ir.program import PassRecord
from fhecompile.plan import Plan
from fhecompile.plan.schema import PredictionInfo
from fhecompile.plan.summary import LayerSummary, PlanSummary, openfhe_parameters
from fhecompile.report.budgets import BudgetLine, PathStep

LAYER_HEADS = (
    "layer",
    "ONNX source",
    "op",
    "level",
    "ciphertexts",
    "products",
    "floor",
    "utilisation",
    "rotations",
    "key switches",
    "seconds",
)


def show_bytes(count: float) -> str:
    """`38 KiB`, `20.9 MiB`, `2.7 GiB`."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit in ("B", "KiB") else f"{value:.1f} {unit}"


def show_seconds(seconds: float) -> str:
    """`0.35 s`, `45 s`, `3 min 20 s`."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def cost_rows(plan: Plan, summary: PlanSummary, threads: int) -> list[tuple[str, str]]:
    """What running the plan will cost, as (label, text)."""
    p, prediction = plan.parameters, plan.program.prediction
    return [
        ("ring dimension", f"{p.ring_dimension} ({p.slots} slots)"),
        ("security", _security(plan)),
        ("depth", f"{summary.multiplicative_depth}, {summary.bootstraps} bootstraps"),
        (
            "primes",
            f"{p.first_prime_bits} bits and {p.levels} of {p.prime_bits} bits to rescale by",
        ),
        ("digits", f"{p.digits}, {p.special_primes} special primes"),
        (
            "evaluation keys",
            f"{show_bytes(summary.key_bytes)}: {summary.rotation_keys} rotations"
            + (", conjugation" if plan.program.keys.conjugation else "")
            + (", relinearisation" if plan.program.keys.relinearisation else ""),
        ),
        (
            "peak memory",
            f"{show_bytes(prediction.peak_bytes)} predicted for one image, "
            f"up to {show_bytes(AHEAD_BYTES)} more where memory is free",
        ),
        (
            "plaintext products",
            f"{summary.plaintext_mults}, slot utilisation {100 * summary.slot_utilisation:.1f} %",
        ),
        ("key switches", f"{summary.key_switches}, {summary.rotations} of them rotations"),
        ("error", _errors(prediction)),
        (
            "evaluate",
            f"{show_seconds(summary.seconds)} on {threads} thread{'s' * (threads != 1)}"
            + (f" for {summary.batch} samples" if summary.batch > 1 else "")
            + ", predicted"
            + (" from this machine's costs" if summary.measured else ""),
        ),
        ("plan", show_bytes(summary.plan_bytes)),
    ]


def field_rows(plan: Plan, summary: PlanSummary, threads: int) -> list[tuple[str, str]]:
    """Every number of a plan under the name JSON gives it."""
    prediction = plan.program.prediction
    rows = []
    for field in fields(summary):
        value = getattr(summary, field.name)
        if field.name.endswith("_bytes"):
            rows.append((field.name, f"{value} ({show_bytes(value)})"))
        elif field.name == "slot_utilisation":
            rows.append((field.name, f"{value:.4f}"))
        elif field.name not in ("seconds", "measured", "layers"):
            rows.append((field.name, str(value)))
    return [
        *rows,
        ("predicted peak_bytes", f"{prediction.peak_bytes} ({show_bytes(prediction.peak_bytes)})"),
        ("predicted error", f"{prediction.error:.3g} rms, of noise"),
        ("promised largest_error", f"{prediction.allowed_error:.3g}"),
        ("fitted_functions largest_error", f"{prediction.fitted_error:.3g}"),
        ("noise largest_error", f"{prediction.noise_error:.3g}"),
        (
            "predicted evaluate_seconds",
            f"{summary.seconds:.3g} on {threads} threads"
            + (", from this machine's costs" if summary.measured else ""),
        ),
    ]


def cost_warnings(plan: Plan, max_memory: int | None = None) -> list[str]:
    """What a user must know before trusting the plan, and whether it takes more than allowed."""
    warnings = []
    peak = plan.program.prediction.peak_bytes
    if max_memory is not None and peak > max_memory:
        warnings.append(
            f"a run on one image is predicted to take {show_bytes(peak)}, more than the "
            f"{show_bytes(max_memory)} of --max-memory; fewer rotation keys do not save enough"
        )
    if plan.parameters.insecure:
        warnings.append("this plan is INSECURE: its ring is a toy, for tests only")
    if plan.program.calibration == "synthetic":
        warnings.append(
            "no calibration data was given: ranges and error are those of uniform noise in "
            "[-1, 1]; give data like the network's inputs with --calibrate data.npz"
        )
    return warnings


def layer_rows(layers: Iterable[LayerSummary]) -> list[tuple[str, ...]]:
    """The layer table's cells."""
    return [
        (
            layer.layer,
            layer.source,
            layer.op,
            str(layer.level),
            str(layer.ciphertexts),
            str(layer.products),
            f"{layer.floor:.1f}" if layer.floor else "",
            f"{100 * layer.utilisation:.1f} %" if layer.utilisation is not None else "",
            str(layer.rotations),
            str(layer.key_switches),
            f"{layer.seconds:.2f}",
        )
        for layer in layers
    ]


def layer_table(layers: Iterable[LayerSummary]) -> Group:
    """One line per layer."""
    return titled_table("layers", LAYER_HEADS[:3], LAYER_HEADS[3:], rows=layer_rows(layers))


def openfhe_rows(plan: Plan) -> list[tuple[str, str]]:
    """OpenFHE's setters and values."""
    return [(name, str(value)) for name, value in openfhe_parameters(plan.parameters).items()]


def openfhe_table(plan: Plan) -> Group:
    """OpenFHE's setters and values."""
    return titled_table("OpenFHE parameters", ("setter", "value"), rows=openfhe_rows(plan))


FUNCTION_HEADS = ("node", "function", "range", "degree", "depth", "error", "change of outputs")


def rows_table(title: str, rows: Iterable[tuple[str, str]]) -> Group:
    """Label and text, without a head."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return Group(Text(title, "bold"), table)


def pass_table(records: Iterable[PassRecord]) -> Group:
    """What every pass did, with its remarks."""
    rows = [
        (r.name, f"{r.seconds:.3f}", "yes" if r.modified else "", "\n".join(r.remarks))
        for r in records
    ]
    return titled_table("passes", ("pass",), ("seconds",), ("changed", "remarks"), rows)


def function_table(functions: Iterable[FittedFunction]) -> Group:
    """What stands for every function that is no polynomial."""
    rows = [
        (
            f.source or f.node,
            f.function,
            f"{f.low:.4g} to {f.high:.4g}",
            ", ".join(map(str, f.degrees)),
            str(f.depth),
            f"{f.error:.2g}",
            f"{f.change:.2g}",
        )
        for f in functions
    ]
    return titled_table("functions", FUNCTION_HEADS[:3], FUNCTION_HEADS[3:], rows=rows)


def budget_table(title: str, lines: Iterable[BudgetLine]) -> Group:
    """Value, budget and slack of every limit."""
    rows = [
        (x.name, f"{x.value:g}", f"{x.budget:g}", f"{x.slack:g}", "" if x.kept else "BROKEN")
        for x in lines
    ]
    return titled_table(title, ("limit",), ("value", "budget", "slack"), ("",), rows)


def path_table(title: str, path: Iterable[PathStep]) -> Group:
    """Layers that add depth, in order."""
    rows = [(str(step.depth), step.layer, step.op, step.source) for step in path]
    return titled_table(title, (), ("depth",), ("layer", "op", "ONNX source"), rows)


def pass_list_table(passes: Iterable[tuple[str, str, str]]) -> Group:
    """Names, options with defaults, and what the passes do."""
    return titled_table("passes", ("pass", "options", "what it does"), rows=passes)


def operator_table(operators: Iterable[tuple[str, int, str]]) -> Group:
    """Compiled operators, the first opset and what of them is compiled."""
    rows = [(name, str(opset), text) for name, opset, text in operators]
    return titled_table("compiled", ("operator",), ("from opset",), ("of it",), rows)


def refused_table(operators: Iterable[tuple[str, str]]) -> Group:
    """Refused operators and what to do instead."""
    return titled_table("refused", ("operator", "instead"), rows=operators)


def titled_table(
    title: str,
    left: Sequence[str],
    right: Sequence[str] = (),
    last: Sequence[str] = (),
    rows: Iterable[Sequence[str]] = (),
) -> Group:
    """A titled table; the columns of `right` hold numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in left:
        table.add_column(head, overflow="fold")
    for head in right:
        table.add_column(head, justify="right", no_wrap=True)
    for head in last:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return Group(Text(title, "bold"), table)


def _security(plan: Plan) -> str:
    p = plan.parameters
    if p.insecure:
        return f"NONE: log QP {p.log_qp} is too much for this ring; a toy for tests only"
    bound = MAX_LOG_QP[p.security_bits][p.ring_dimension]
    return f"{p.security_bits} bits (log QP {p.log_qp} of at most {bound})"


def _errors(prediction: PredictionInfo) -> str:
    """The largest error: what is expected, what it is of, and what is promised."""
    largest, outputs = prediction.largest_error, prediction.output_range
    parts = [f"{prediction.noise_error:.1e} of noise, predicted"]
    if prediction.fitted_error:
        parts.insert(0, f"{prediction.fitted_error:.1e} of fitted functions, measured")
    bits = f" ({math.log2(outputs / largest):.1f} bits)" if outputs and largest else ""
    return (
        f"{largest:.1e} at most on outputs up to {outputs:.3g}{bits}, "
        f"promised {prediction.allowed_error:.1e}: {', '.join(parts)}"
    )

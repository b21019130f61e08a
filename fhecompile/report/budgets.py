"""Budgets: the most a model's plan may cost, kept in a TOML file beside the models, for CI.

[digits_mlp]                          # the model file's stem
calibration = "digits_calibration.npz"    # relative to this file; file.npz:array for one array
precision_bits = 8
activation_error = 0.05               # of fitted functions, by default part of precision_bits
outputs = ["logits"]                  # what of the model is compiled, by default all its outputs
multiplicative_depth = 5              # this and the others: maxima, each optional
levels = 3
bootstraps = 0
rotations = 40
rotation_keys = 20
key_mib = 64
plan_mib = 1
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fhecompile.errors import FheCompileError
from fhecompile.ir.depth import measure_depth
from fhecompile.ir.tensor import TensorGraph
from fhecompile.options import CompileOptions
from fhecompile.plan.summary import PlanSummary
from fhecompile.toml_file import read_tables

CODE = "budget-file"
MIB = 1 << 20
KINDS = {"calibration": "a text", "outputs": "a list of texts"}  # of keys; others are numbers


@dataclass(frozen=True)
class Budget:
    """One entry of the file; None where it sets no limit."""

    multiplicative_depth: float | None = None
    levels: float | None = None
    bootstraps: float | None = None
    rotations: float | None = None
    rotation_keys: float | None = None
    key_mib: float | None = None
    plan_mib: float | None = None
    calibration: str | None = None
    precision_bits: float = 8.0
    activation_error: float | None = None
    outputs: tuple[str, ...] = ()

    def options(self) -> CompileOptions:
        """What the model is compiled with."""
        return CompileOptions(
            precision_bits=self.precision_bits,
            activation_error=self.activation_error,
            outputs=self.outputs,
        )


SETTINGS = ("calibration", "precision_bits", "activation_error", "outputs")
LIMITS = tuple(f.name for f in fields(Budget) if f.name not in SETTINGS)


@dataclass(frozen=True)
class BudgetLine:
    """One limit and what the plan needs of it."""

    name: str
    value: float
    budget: float

    @property
    def slack(self) -> float:
        """What is left; negative when the budget is broken."""
        return self.budget - self.value

    @property
    def kept(self) -> bool:
        """Whether the value is within the budget."""
        return self.value <= self.budget


@dataclass(frozen=True)
class PathStep:
    """A layer of the deepest path: the multiplicative depth after it, and where it comes from."""

    depth: int
    layer: str
    op: str
    source: str


def read_budgets(path: Path) -> dict[str, Budget]:
    """All entries of a budget file, by model stem; calibration paths made absolute."""
    tables = read_tables(path, sorted(f.name for f in fields(Budget)), CODE)
    return {name: _budget(path, name, table) for name, table in tables.items()}


def find_budget(budgets: Mapping[str, Budget], model: Path, path: Path) -> Budget:
    """The entry for a model file; an error when there is none."""
    if model.stem not in budgets:
        raise FheCompileError(
            "no-budget",
            f"there is no budget for {model.stem}",
            node=str(path),
            hint=f"add a table [{model.stem}]; there are: {', '.join(budgets) or 'none'}",
        )
    return budgets[model.stem]


def compare(budget: Budget, summary: PlanSummary) -> list[BudgetLine]:
    """Every limit of a budget beside the plan's value."""
    values: dict[str, float] = {
        "multiplicative_depth": summary.multiplicative_depth,
        "levels": summary.levels,
        "bootstraps": summary.bootstraps,
        "rotations": summary.rotations,
        "rotation_keys": summary.rotation_keys,
        "key_mib": round(summary.key_bytes / MIB, 2),
        "plan_mib": round(summary.plan_bytes / MIB, 2),
    }
    return [
        BudgetLine(name, values[name], limit)
        for name in LIMITS
        if (limit := getattr(budget, name)) is not None
    ]


def deepest_path(graph: TensorGraph) -> list[PathStep]:
    """The layers that add depth on a deepest path from input to output."""
    report = measure_depth(graph)
    return [
        PathStep(report.depth[name], name, graph[name].op, graph[name].source)
        for name in report.path
    ]


def _budget(path: Path, name: str, entry: dict[str, Any]) -> Budget:
    for key, value in entry.items():
        if not _fits(key, value):
            reason = f"[{name}] {key} is not {KINDS.get(key, 'a number')}"
            raise FheCompileError(CODE, reason, node=str(path))
    if "calibration" in entry:
        entry = {**entry, "calibration": str(path.absolute().parent / entry["calibration"])}
    return Budget(**{**entry, "outputs": tuple(entry.get("outputs", ()))})


def _fits(key: str, value: Any) -> bool:
    if key == "calibration":
        return isinstance(value, str)
    if key == "outputs":
        return isinstance(value, list) and all(isinstance(name, str) for name in value)
    return isinstance(value, int | float) and not isinstance(value, bool)

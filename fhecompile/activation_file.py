"""Options of single functions in a TOML file.

["/features/*/Relu"]        # the ONNX node, or a pattern; of several that match the last one counts
range = [-4.0, 4.0]         # where it is fitted, instead of the calibrated range and a margin
degree = 31                 # the highest
error = 0.01                # the largest of its own
gap = 0.05                  # of a sign: what its operand keeps away from zero
function = "minimax"        # or "weighted", "composite"
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from fhecompile.errors import FheCompileError
from fhecompile.functions.candidates import DEGREES
from fhecompile.options import CompileOptions, FunctionOptions, Kind
from fhecompile.toml_file import read_tables

CODE = "activation-file"
KINDS = tuple(filter(None, get_args(Kind)))
EXPECTED = {
    "range": "two numbers, the lower one first",
    "degree": f"a whole number from {DEGREES[0]} to {DEGREES[-1]}",
    "error": "a number above 0",
    "gap": "a number above 0",
    "function": f"one of {', '.join(KINDS)}",
}


def with_activations(options: CompileOptions) -> CompileOptions:
    """The options with what their file of activations says, if they name one."""
    if isinstance(options.activations, Mapping):
        return options
    return replace(options, activations=read_activations(Path(options.activations)))


def read_activations(path: Path) -> dict[str, FunctionOptions]:
    """The options by name or pattern.

    Raises:
        FheCompileError: `activation-file`, the file cannot be read or a key is wrong.
    """
    tables = read_tables(path, list(EXPECTED), CODE)
    return {name: _options(path, name, table) for name, table in tables.items()}


def _options(path: Path, name: str, entry: dict[str, Any]) -> FunctionOptions:
    for key, value in entry.items():
        if not _fits(key, value):
            reason = f"[{name}] {key} is not {EXPECTED[key]}"
            raise FheCompileError(CODE, reason, node=str(path))
    if "range" in entry:
        low, high = entry["range"]
        entry = {**entry, "range": (float(low), float(high))}
    return FunctionOptions(**entry)


def _fits(key: str, value: Any) -> bool:
    match key:
        case "range":
            two = isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))
            return two and value[0] < value[1]
        case "degree":
            return _is_number(value) and value in range(DEGREES[0], DEGREES[-1] + 1)
        case "function":
            return value in KINDS
    return _is_number(value) and value > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

"""The zoo's networks as their budgets compile them, and how far plans agree with ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhecompile.compile import compile
from fhecompile.frontend.reference import run_reference_samples
from fhecompile.plan import Plan
from fhecompile.report.budgets import read_budgets
from models.zoo.catalogue import CATALOGUE, FOLDER, SHIPPED, shipped_path
from models.zoo.samples import load_samples

BUDGETS = FOLDER.parent / "budgets.toml"
# Of a restored image, in shares of its range of 2.
RESTORED_ERROR = 0.02

Outputs = NDArray[np.float32]


def compiled_names() -> list[str]:
    """The shipped networks that have a budget."""
    budgets = read_budgets(BUDGETS)
    return [name for name in SHIPPED if name in budgets]


def compile_network(name: str, **options: Any) -> Plan:
    """Compiles a network with its budget's settings; `options` are fields of CompileOptions."""
    budget = read_budgets(BUDGETS)[name]
    return compile(
        shipped_path(name),
        calibration=budget.calibration,
        options=budget.options(),
        **options,
    )


def run_reference(name: str, samples: NDArray[np.float32]) -> Outputs:
    """What is compiled, on ONNX Runtime, of every sample; also if it is no output of the model."""
    entry = CATALOGUE[name]
    inputs = {entry.input: samples[:, None]}
    found = run_reference_samples(shipped_path(name), inputs, [entry.output])[entry.output]
    return np.concatenate(list(found))


def agreement(name: str, found: Outputs, expected: Outputs) -> float:
    """The share of samples with the same class; of the autoencoder, of those restored as well."""
    if CATALOGUE[name].classifies:
        return float((found.argmax(axis=1) == expected.argmax(axis=1)).mean())
    error = np.abs(found - expected).reshape(len(found), -1).max(axis=1)
    return float((error <= 2 * RESTORED_ERROR).mean())


def inputs_to_test(name: str) -> NDArray[np.float32]:
    """The inputs that a network is tested with."""
    return load_samples(CATALOGUE[name].samples).test

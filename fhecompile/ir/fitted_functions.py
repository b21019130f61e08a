"""What stands for the functions of a network, as a fact for reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FittedFunction:
    """One function and what stands for it.

    Args:
        node: its name in the tensor graph.
        source: the ONNX nodes it comes from.
        function: as in `fhecompile.functions.table`.
        low, high: where it is fitted.
        degrees: of the polynomials that are evaluated one after the other.
        depth: multiplicative depth.
        error: the largest on the interval, in the units of that table.
        change: the most that it changes an output by if all other functions are exact.
    """

    node: str
    source: str
    function: str
    low: float
    high: float
    degrees: tuple[int, ...]
    depth: int
    error: float
    change: float


@dataclass(frozen=True)
class FittedFunctions:
    """All functions of a network in order, and what a user must know of their ranges."""

    functions: tuple[FittedFunction, ...]
    warnings: tuple[str, ...] = ()

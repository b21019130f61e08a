"""Finds the layers whose values leave the range they had on the calibration data.

A value leaves its layer where an operation of another layer reads it. There its slots hold the
layer's tensor, zeros and copies, but not where partial sums without meaning are left in holes: the
layers after such a map are not looked at, up to the next map. Linear maps alone are looked at:
their results are what polynomials were fitted for, and powers leave their range sooner than what
they are of.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from fhecompile.plan import Plan
from runtime.inputs import RANGE_MARGIN

# What changes no value, but where it is or at which level.
MOVES = ("rotate", "rotate_hoisted", "hoist", "conjugate", "drop_level", "keep_even")


class RangeWatch:
    """Collects the largest magnitude that leaves each layer; may be used by several threads."""

    def __init__(self, plan: Plan) -> None:
        self._layers = plan.program.layers
        self._lock = threading.Lock()
        self._largest: dict[int, float] = {}
        operations = plan.program.operations
        filled = {m.layer: bool(plan.layouts[m.target].spill) for m in plan.program.maps}
        for info in operations:
            before = [filled[operations[i].layer] for i in info.inputs]
            filled.setdefault(info.layer, any(before))
        moved: set[int] = set()  # values of layers before, which layers may share
        for number, info in enumerate(operations):
            outside = all(operations[i].layer != info.layer or i in moved for i in info.inputs)
            if info.op in MOVES and outside:
                moved.add(number)
        self._leaving = {
            number: layer
            for info in operations
            for number in info.inputs
            for layer in [operations[number].layer]
            if layer != info.layer
            and number not in moved
            and self._layers[layer].op == "affine"
            and not filled[layer]
        }

    def clear(self) -> None:
        """Forgets what was seen."""
        with self._lock:
            self._largest.clear()

    def see(self, number: int, value: NDArray[np.complex128], error: float) -> None:
        """Looks at the value of an operation, whose noise is `error` or less."""
        layer = self._leaving.get(number)
        if layer is None:
            return
        info = self._layers[layer]
        largest = float(np.abs(value.real).max(initial=0.0))
        if largest > RANGE_MARGIN * max(-info.low, info.high) + error:
            with self._lock:
                self._largest[layer] = max(self._largest.get(layer, 0.0), largest)

    def first(self) -> str:
        """The first layer that values left the range of, e.g. `layer conv1`; empty: none."""
        with self._lock:
            if not self._largest:
                return ""
            info = self._layers[min(self._largest)]
            return f"layer {info.source or info.name}"

    def text(self) -> str:
        """What values reached in the first layer that they left the range of; empty: none."""
        with self._lock:
            if not self._largest:
                return ""
            first = min(self._largest)
            info = self._layers[first]
            others = len(self._largest) - 1
            behind = f", and so do {others} layers behind it" if others else ""
            return (
                f"layer {info.source or info.name} reaches a magnitude of "
                f"{self._largest[first]:.4g}, calibrated for {info.low:.4g} .. {info.high:.4g}"
                + behind
            )

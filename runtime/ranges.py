r"""Finds the layers whose values leave the range they had on the calibration data.

A layer's values are looked at where they are made, at the slots that hold its tensor. Linear maps
alone are looked at: their results are what polynomials were fitted for, and powers leave their
range sooner than what they are of.

What a refresh reads is m of `fhecompile.ckks.bootstrap`, all slots of it. Its series stands for the
function where |m| is at most the share it was fitted on; from |m| = 1, half a period, on m is
refreshed as m - 2 k, in an encrypted run as well: far from the function, without any sign of it.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from fhecompile.plan import Plan
from runtime.inputs import RANGE_MARGIN

FITTED_MARGIN = 1.01  # what noise and rounding may add to what a series was fitted on


def message(plan: Plan, scale: float, x: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """m for the operand of a refresh at scale 2^scale."""
    factor: float = 2.0 ** (scale - plan.parameters.prime_bits)
    return x * factor


class RangeWatch:
    """Collects the largest magnitude of each layer; may be used by several threads."""

    def __init__(self, plan: Plan) -> None:
        self._layers = plan.program.layers
        self._lock = threading.Lock()
        self._largest: dict[int, float] = {}
        self._messages: dict[int, float] = {}  # the largest m, in units of what was fitted
        operations = plan.program.operations
        self._places = {
            operation: (number, np.unique(slots[ciphertexts == part]))
            for number, layer in enumerate(self._layers)
            if layer.op == "affine"
            for ciphertexts, slots, _ in [plan.layouts[layer.layout].positions]
            for part, operation in enumerate(layer.values)
            if operations[operation].layer == number
        }
        self._shares = {
            number: (info.layer, plan.program.series[info.attributes["series"]].share)
            for number, info in enumerate(operations)
            if info.op == "refresh"
        }

    def clear(self) -> None:
        """Forgets what was seen."""
        with self._lock:
            self._largest.clear()
            self._messages.clear()

    def see(self, number: int, value: NDArray[np.complex128], error: float) -> None:
        """Looks at the value of an operation, whose noise is `error` or less."""
        if number not in self._places:
            return
        layer, slots = self._places[number]
        info = self._layers[layer]
        largest = float(np.abs(value.real[..., slots]).max(initial=0.0))
        if largest > RANGE_MARGIN * info.largest + error:
            with self._lock:
                self._largest[layer] = max(self._largest.get(layer, 0.0), largest)

    def see_message(self, number: int, m: NDArray[np.complex128]) -> None:
        """Looks at the m of a refresh."""
        layer, share = self._shares[number]
        reach = float(np.abs(m.real).max(initial=0.0)) / share
        if not reach <= FITTED_MARGIN:
            with self._lock:
                self._messages[layer] = max(self._messages.get(layer, 0.0), reach)

    def complaints(self) -> list[tuple[str, str]]:
        """What to say, by the layer that it is of: the first that left its range, all refreshes."""
        found = [(self.first(), text)] if (text := self.text()) else []
        shares = dict(self._shares.values())
        with self._lock:
            for layer, reach in sorted(self._messages.items()):
                name = self._name(layer)
                text = (
                    f"{name} refreshes values of up to {reach:.3g} times the range its series was "
                    "fitted on"
                )
                if reach * shares[layer] >= 1.0:
                    text += f", which wrap around from {1.0 / shares[layer]:.3g} times on"
                found.append((f"refresh of {name}", text))
        return found

    def first(self) -> str:
        """The first layer that values left the range of, e.g. `layer conv1`; empty: none."""
        with self._lock:
            return self._name(min(self._largest)) if self._largest else ""

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
                f"{self._name(first)} reaches a magnitude of "
                f"{self._largest[first]:.4g}, calibrated for {info.low:.4g} .. {info.high:.4g}"
                + behind
            )

    def _name(self, layer: int) -> str:
        info = self._layers[layer]
        return f"layer {info.source or info.name}"

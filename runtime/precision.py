r"""Measures how precise every layer is: its value in a run against the exact one.

The clear backend evaluates the same inputs first and keeps what the layers' last operations make.
In the run every such value is compared with it, at all slots that hold an element of the layer's
tensor, copies included:

    rms = sqrt(mean |v - v_clear|^2),   error = max |v - v_clear|

both in the layer's own unit, over all samples of a call. Fitted functions are in both values, so
that what is measured is noise, and it is compared with the noise that the plan predicts. In a
simulated run values are at hand; in an encrypted one they are decrypted as they are made, which
only the holder of the secret key can ask for, and which takes time.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhecompile.plan import Plan
from runtime.backends.base import OperationNode
from runtime.backends.clear import ClearBackend
from runtime.client import pack_input
from runtime.constants import ConstantStore
from runtime.executor import Executor
from runtime.ranges import RangeWatch, message

FloatArray = NDArray[np.float64]
SlotArray = NDArray[np.complex128]
Decrypt = Callable[[Any, float, str], SlotArray]  # (ciphertext, scale, what it is)
WORSE = 3.0  # times the prediction: more than estimates and rare numbers of a few samples explain
HEADS = ("layer", "op", "range", "predicted", "bits", "rms", "largest", "bits")


@dataclass(frozen=True)
class LayerPrecision:
    """The noise of one layer: `predicted` (rms), and measured `rms` and `error` (largest).

    `largest` is the magnitude it reaches on the calibration data, which bits are relative to.
    """

    layer: str
    source: str
    op: str
    largest: float
    predicted: float
    rms: float
    error: float

    @property
    def is_worse(self) -> bool:
        """Whether it is measured `WORSE` times worse than predicted, or more."""
        return self.rms > WORSE * self.predicted

    @property
    def predicted_bits(self) -> float | None:
        """log2(largest / predicted)."""
        return _bits(self.largest, self.predicted)

    @property
    def measured_bits(self) -> float | None:
        """log2(largest / rms)."""
        return _bits(self.largest, self.rms)

    def describe(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **asdict(self),
            "predicted_bits": self.predicted_bits,
            "measured_bits": self.measured_bits,
            "is_worse": self.is_worse,
        }


class PrecisionProbe:
    """Watches runs of one plan; `see` may be called from several threads.

    Args:
        plan: the plan.
        threads: that the clear backend evaluates on.
        decrypt: for ciphertexts; None: values are slot vectors of all samples.
    """

    def __init__(self, plan: Plan, threads: int, decrypt: Decrypt | None = None) -> None:
        self.plan, self.ranges = plan, RangeWatch(plan)
        self.first = 0  # the sample that is image 0 of a run
        self._threads, self._decrypt = threads, decrypt
        self._lock = threading.Lock()
        self._places: dict[int, _Place] = {}  # by operation
        self._refreshes: dict[int, list[int]] = {}  # by the operation that makes an operand
        seen: set[tuple[int, ...]] = set()
        for number, layer in enumerate(plan.program.layers):
            if layer.values and layer.values not in seen:  # others are the same value again
                seen.add(layer.values)
                for part, operation in enumerate(layer.values):
                    self._places[operation] = _Place.of(plan, number, part)
        for number, info in enumerate(plan.program.operations):
            if info.op == "refresh":
                self._refreshes.setdefault(info.inputs[0], []).append(number)
        self._expected: dict[int, FloatArray] = {}
        self._sums: dict[int, _Sum] = {}

    def expect(self, tensors: Sequence[FloatArray]) -> None:
        """Starts a measurement: evaluates inputs (batches, batch, *shape) on the clear backend."""
        slots: dict[tuple[int, int], SlotArray] = {}
        for number, value in enumerate(tensors):
            packed = pack_input(self.plan, number, value).astype(np.complex128)
            slots |= {(number, part): packed[..., part, :] for part in range(packed.shape[-2])}
        self._expected, self._sums, self.first = {}, {}, 0
        self.ranges.clear()
        constants = ConstantStore(self.plan)
        try:
            executor = Executor(
                self.plan, ClearBackend(self.plan, constants), self._threads, observe=self._keep
            )
            executor.run(slots)
        finally:
            constants.close()

    def see(self, node: OperationNode, image: int, value: Any) -> None:
        """Looks at what an operation made."""
        place, refreshes = self._places.get(node.number), self._refreshes.get(node.number, ())
        if place is None and not refreshes:
            return
        if self._decrypt is not None:
            layer = self.plan.program.layers[node.layer]
            with self._lock:
                value = self._decrypt(value, node.type.scale, layer.source or layer.name)
        self.ranges.see(node.number, value, 0.0)
        for number in refreshes:
            self.ranges.see_message(number, message(self.plan, node.type.scale, value))
        if place is not None:
            expected = self._expected[node.number]
            if self._decrypt is not None:
                expected = expected[self.first + image]
            errors = place.take(value) - expected[..., None, :]
            with self._lock:
                self._sums.setdefault(place.layer, _Sum()).add(errors)

    def layers(self) -> tuple[LayerPrecision, ...]:
        """What was measured, in the plan's order."""
        found = []
        for number, total in sorted(self._sums.items()):
            info = self.plan.program.layers[number]
            rms = math.sqrt(total.square / total.count)
            found.append(
                LayerPrecision(
                    info.name, info.source, info.op, info.largest, info.noise, rms, total.largest
                )
            )
        return tuple(found)

    def _keep(self, node: OperationNode, image: int, value: SlotArray) -> None:
        place = self._places.get(node.number)
        if place is not None:
            self._expected[node.number] = place.take(value)[..., 0, :]


@dataclass(frozen=True, eq=False)
class _Place:
    """Where one ciphertext of a layer's value holds elements of it."""

    layer: int
    period: int
    slots: NDArray[np.int32]
    imaginary: NDArray[np.bool_]

    @staticmethod
    def of(plan: Plan, layer: int, part: int) -> _Place:
        """Of ciphertext number `part` of the layer's value."""
        layout = plan.layouts[plan.program.layers[layer].layout]
        ciphertext, slot, complex_part = layout.positions
        own = ciphertext == part
        return _Place(layer, layout.period, slot[own], complex_part[own] == 1)

    def take(self, value: SlotArray) -> FloatArray:
        """The elements (..., copies, elements) of slot vectors (..., slots)."""
        chosen = value.reshape(*value.shape[:-1], -1, self.period)[..., self.slots]
        return np.where(self.imaginary, chosen.imag, chosen.real)


@dataclass
class _Sum:
    """Sum and number of squares of errors, and the largest one."""

    square: float = 0.0
    count: int = 0
    largest: float = 0.0

    def add(self, errors: FloatArray) -> None:
        self.square += float(np.sum(errors**2))
        self.count += errors.size
        self.largest = max(self.largest, float(np.abs(errors).max(initial=0.0)))


def precision_lines(layers: Sequence[LayerPrecision]) -> list[str]:
    """A table for people, and whether anything is worse than predicted."""
    rows = [
        (
            x.source or x.layer,
            x.op,
            f"{x.largest:.3g}",
            f"{x.predicted:.1e}",
            _shown(x.predicted_bits),
            f"{x.rms:.1e}",
            f"{x.error:.1e}",
            _shown(x.measured_bits),
        )
        for x in layers
    ]
    widths = [max(map(len, column)) for column in zip(HEADS, *rows, strict=True)]
    lines = []
    for row in (HEADS, *rows):
        cells = [
            text.ljust(width) if k < 2 else text.rjust(width)
            for k, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    worse = [x for x in layers if x.is_worse]
    for x, line in zip(layers, range(1, len(lines)), strict=True):
        lines[line] += "  WORSE than predicted" if x.is_worse else ""
    verdict = f"no layer's noise is {WORSE:g} times what was predicted"
    if worse:
        names = ", ".join(x.source or x.layer for x in worse)
        verdict = f"noise is more than {WORSE:g} times what was predicted: {names}"
    return ["noise by layer, predicted (rms) and measured:", *lines, verdict]


def _bits(largest: float, error: float) -> float | None:
    return math.log2(largest / error) if largest > 0 and error > 0 else None


def _shown(bits: float | None) -> str:
    return "" if bits is None else f"{bits:.1f}"

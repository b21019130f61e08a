"""The clear backend: slot vectors in numpy, exact up to float64.

A value is an array (samples, slots), complex; levels and scales have no effect. It runs the same
operations in the same layouts as an encrypted run, so it checks everything but noise. Layers that
leave their calibrated range are told of (`runtime.ranges`); what wraps around in a refresh does so
here as it does encrypted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.bootstrap import evaluate_series
from fhecompile.plan import Plan
from runtime.backends.base import Backend, OperationNode
from runtime.constants import ConstantStore
from runtime.ranges import RangeWatch, message

SlotArray = NDArray[np.complex128]
Operands = Sequence[SlotArray]


class ClearBackend(Backend):
    """See the module docstring."""

    name: ClassVar[str] = "clear"

    def __init__(self, plan: Plan, constants: ConstantStore) -> None:
        super().__init__(plan, constants)
        self.ranges = RangeWatch(plan)

    def begin(self, images: int, done: Mapping[int, int] | None = None) -> None:
        super().begin(images, done)
        self.ranges.clear()

    def execute(self, node: OperationNode, operands: Sequence[Any]) -> Any:
        value = super().execute(node, operands)
        self.ranges.see(node.number, value, self.noise_peak(node))
        return value

    def noise_peak(self, node: OperationNode) -> float:
        """What noise adds to the value of an operation is less."""
        return 0.0

    def rotate(self, node: OperationNode, operands: Operands) -> SlotArray:
        return np.roll(operands[0], -node.attributes["offset"], axis=-1)

    def conjugate(self, node: OperationNode, operands: Operands) -> SlotArray:
        return operands[0].conj()

    def hoist(self, node: OperationNode, operands: Operands) -> SlotArray:
        return operands[0]

    def rotate_hoisted(self, node: OperationNode, operands: Operands) -> SlotArray:
        return self.rotate(node, operands)

    def rotate_sum(self, node: OperationNode, operands: Operands) -> SlotArray:
        turned = [
            np.roll(x, -offset, axis=-1)
            for x, offset in zip(operands, node.attributes["offsets"], strict=True)
        ]
        total: SlotArray = np.sum(turned, axis=0)
        return total

    def rotate_extended(self, node: OperationNode, operands: Operands) -> SlotArray:
        return self.rotate(node, operands)

    def rotate_hoisted_extended(self, node: OperationNode, operands: Operands) -> SlotArray:
        return self.rotate_extended(node, operands)

    def add_extended(self, node: OperationNode, operands: Operands) -> SlotArray:
        return operands[0] + operands[1]

    def key_switch_down(self, node: OperationNode, operands: Operands) -> SlotArray:
        return operands[0]

    def dot_plain(self, node: OperationNode, operands: Operands) -> SlotArray:
        a = node.attributes
        total = np.zeros_like(operands[0])
        for x, number, diagonal, scale in zip(
            operands, a["maps"], a["diagonals"], a["scales"], strict=True
        ):
            vector = self.constants.diagonal(number, diagonal)
            total += x * self.encoded(np.roll(vector, a["rotation"]), scale)
        return total

    def mul_plain(self, node: OperationNode, operands: Operands) -> SlotArray:
        a = node.attributes
        return operands[0] * self.encoded(self.plan.vector(a["vector"], a["part"]), a["scale"])

    def add_plain(self, node: OperationNode, operands: Operands) -> SlotArray:
        a = node.attributes
        vector = self.plan.vector(a["vector"], a["part"])
        return operands[0] + self.encoded(vector, node.type.scale)

    def add(self, node: OperationNode, operands: Operands) -> SlotArray:
        return operands[0] + operands[1]

    def sub(self, node: OperationNode, operands: Operands) -> SlotArray:
        return operands[0] - operands[1]

    def negate(self, node: OperationNode, operands: Operands) -> SlotArray:
        return -operands[0]

    def mul(self, node: OperationNode, operands: Operands) -> SlotArray:
        return operands[0] * operands[1]

    def square(self, node: OperationNode, operands: Operands) -> SlotArray:
        return operands[0] * operands[0]

    def mul_i(self, node: OperationNode, operands: Operands) -> SlotArray:
        return operands[0] * 1j

    def keep_even(self, node: OperationNode, operands: Operands) -> SlotArray:
        kept = operands[0].copy()
        kept[..., 1::2] = 0.0
        return kept

    def rescale(self, node: OperationNode, operands: Operands) -> SlotArray:
        return operands[0]

    def drop_level(self, node: OperationNode, operands: Operands) -> SlotArray:
        return operands[0]

    def relabel(self, node: OperationNode, operands: Operands) -> SlotArray:
        return operands[0] * float(node.attributes["factor"])

    def scale_up(self, node: OperationNode, operands: Operands) -> SlotArray:
        return operands[0]

    def refresh(self, node: OperationNode, operands: Operands) -> SlotArray:
        return self.refreshed(node, self.message(node, operands[0]))

    def message(self, node: OperationNode, x: SlotArray) -> SlotArray:
        """m of `fhecompile.ckks.bootstrap` for the operand of a refresh."""
        m = message(self.plan, node.operand_types[0].scale, x)
        self.ranges.see_message(node.number, m)
        return m

    def refreshed(self, node: OperationNode, m: SlotArray) -> SlotArray:
        """The value of a refresh of m."""
        value = evaluate_series(self.plan.series(node.attributes["series"]), m.real)
        factor: float = 2.0 ** (self.plan.parameters.prime_bits - node.type.scale)
        return np.asarray(value * factor, np.complex128)

    def encoded(self, vector: SlotArray | NDArray[np.float64], scale: float) -> SlotArray:
        """What a plaintext of the vector at the given scale holds."""
        return np.asarray(vector, np.complex128)

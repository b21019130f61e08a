"""The simulating backend: the clear one plus CKKS noise, and a check of every modulus.

Noise is drawn with the standard deviations of `fhecompile.ckks.noise`, divided by the scale of the
value: encoding rounds each constant (drawn once per constant, as in a real run), rescaling and key
switching add theirs, refreshes before and after their function; a mask leaves its leak, and a
rescale divides by a prime that is near a power of two. Sums and products are exact modulo Q; a
value that does not fit its modulus where it is divided or decrypted, or wraps around where it is
refreshed, is an error, as its encrypted result would be random. One that leaves the calibrated
range of its layer, or what a refresh was fitted on (`runtime.ranges`), is told of.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks import noise
from fhecompile.ckks.slot_mask import mask_leak
from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan
from runtime.backends.base import OperationNode
from runtime.backends.clear import ClearBackend, SlotArray
from runtime.constants import ConstantStore

Operands = Sequence[SlotArray]
NOISE_PEAK = 64.0  # what noise adds to a value is less, in standard deviations of a key switch


class SimulateBackend(ClearBackend):
    """See the module docstring; `seed` makes a run repeatable on one thread."""

    name: ClassVar[str] = "simulate"

    def __init__(self, plan: Plan, constants: ConstantStore, seed: int = 0) -> None:
        super().__init__(plan, constants)
        n, digits = plan.parameters.ring_dimension, plan.parameters.digits
        self._encode = noise.encode_error(n)
        self._rescale = noise.rescale_error(n)
        self._key_switch = noise.key_switch_error(n, digits)
        self._encrypt = noise.encrypt_error(n)
        self._refresh = noise.refresh_error(n, plan.parameters.prime_bits)
        self._seed = seed
        self._local = threading.local()

    def noise_peak(self, node: OperationNode) -> float:
        peak: float = NOISE_PEAK * self._key_switch * 2.0**-node.type.scale
        return peak

    def encrypt(self, values: SlotArray, scale: float) -> SlotArray:
        """A fresh encryption of slot vectors."""
        return self._noisy(values, self._encrypt, scale)

    def rotate(self, node: OperationNode, operands: Operands) -> SlotArray:
        return self._switched(super().rotate(node, operands), node)

    def conjugate(self, node: OperationNode, operands: Operands) -> SlotArray:
        return self._switched(super().conjugate(node, operands), node)

    def rotate_extended(self, node: OperationNode, operands: Operands) -> SlotArray:
        return ClearBackend.rotate(self, node, operands)

    def key_switch_down(self, node: OperationNode, operands: Operands) -> SlotArray:
        return self._switched(operands[0], node)

    def mul(self, node: OperationNode, operands: Operands) -> SlotArray:
        return self._switched(super().mul(node, operands), node)

    def square(self, node: OperationNode, operands: Operands) -> SlotArray:
        return self._switched(super().square(node, operands), node)

    def keep_even(self, node: OperationNode, operands: Operands) -> SlotArray:
        kept = operands[0].copy()
        kept[..., 1::2] *= mask_leak(node.attributes["order"])
        return kept

    def rescale(self, node: OperationNode, operands: Operands) -> SlotArray:
        p = self.plan.parameters
        off = noise.prime_distance(p.ring_dimension, p.prime_bits, node.type.level)
        divided = (1.0 + off) * self._fits(operands[0], node)
        return self._noisy(divided, self._rescale, node.type.scale)

    def refresh(self, node: OperationNode, operands: Operands) -> SlotArray:
        m = self.message(node, operands[0])
        largest = float(np.abs(m.real).max(initial=0.0))
        if not largest < 1.0:
            raise self._overflow(node, largest, "wraps around in a refresh, where 1 is the end")
        drawn = self._refresh * self._random().standard_normal((2, *m.shape))
        factor: float = 2.0 ** (self.plan.parameters.prime_bits - node.type.scale)
        refreshed: SlotArray = self.refreshed(node, m + drawn[0]) + factor * drawn[1]
        return refreshed

    def output(self, node: OperationNode, value: SlotArray) -> SlotArray:
        return self._fits(value, node)

    def encoded(self, vector: SlotArray | NDArray[np.float64], scale: float) -> SlotArray:
        values = np.asarray(vector, np.complex128)
        return self._noisy(values, self._encode, scale) if np.any(values) else values

    def _switched(self, values: SlotArray, node: OperationNode) -> SlotArray:
        return self._noisy(values, self._key_switch, node.type.scale)

    def _noisy(self, values: SlotArray, spread: float, scale: float) -> SlotArray:
        drawn = self._random().standard_normal((*values.shape, 2), np.float32)
        error: SlotArray = (spread * 2.0**-scale) * drawn.view(np.complex64)[..., 0]
        return values + error

    def _random(self) -> np.random.Generator:
        generator: np.random.Generator | None = getattr(self._local, "generator", None)
        if generator is None:
            generator = self._local.generator = np.random.default_rng(self._seed)
        return generator

    def _fits(self, values: SlotArray, node: OperationNode) -> SlotArray:
        """The operand of `node`, which must be smaller than half its modulus."""
        p, kind = self.plan.parameters, node.operand_types[0]
        modulus = p.first_prime_bits + (p.levels - kind.level) * p.prime_bits
        largest = float(np.abs(values).max(initial=0.0))
        if not largest * 2.0 ** (kind.scale - modulus + 1) < 1.0:
            raise self._overflow(node, largest, "leaves its modulus")
        return values

    def _overflow(self, node: OperationNode, largest: float, what: str) -> FheCompileError:
        layer = self.plan.program.layers[node.layer]
        began = self.ranges.text()
        return FheCompileError(
            "value-overflow",
            f"a value of {largest:.3g} {what}; an encrypted run would be wrong",
            node=layer.source or layer.name,
            hint=(f"{began}: " if began else "")
            + "calibrate with data that covers this input and compile again",
        )

"""Encodes a plan's constants for OpenFHE.

A vector v at scale 2^e is encoded as v 2^(e - q) at the nominal scale 2^q; see
`runtime.library`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.parameters import Parameters
from fhecompile.plan import Plan
from runtime.backends.base import OperationNode
from runtime.constants import ConstantStore
from runtime.plaintexts import PlaintextInfo

Vector = NDArray[np.float64] | NDArray[np.complex128]


def encode_vector(
    context: Any, parameters: Parameters, vector: Vector, scale: float, level: int, turn: int = 0
) -> Any:
    """The OpenFHE plaintext of a slot vector turned to higher slots by `turn`.

    Turning and scaling is one pass over the vector, without Python's lock.
    """
    factor = 2.0 ** (scale - parameters.prime_bits)
    cut = -turn % len(vector)
    scaled = np.empty_like(vector, order="C")
    np.multiply(vector[cut:], factor, out=scaled[: len(vector) - cut])
    np.multiply(vector[:cut], factor, out=scaled[len(vector) - cut :])
    try:
        return context.MakeCKKSPackedPlaintext(scaled, 1, level)
    except RuntimeError as error:
        if "Scaling factor too small" not in str(error):
            raise
        # All coefficients round to zero, which OpenFHE refuses to do.
        return context.MakeCKKSPackedPlaintext(np.zeros_like(scaled), 1, level)


class ConstantEncoder:
    """The encoder of a plan's plaintexts (see `runtime.plaintexts.Encoder`)."""

    def __init__(
        self, plan: Plan, nodes: Sequence[OperationNode], constants: ConstantStore, context: Any
    ) -> None:
        self.plan, self.nodes, self.constants, self.context = plan, nodes, constants, context

    def begin(self, wanted: Sequence[PlaintextInfo]) -> None:
        uses = Counter(m for info in wanted if (m := self._map(info)) is not None)
        self.constants.begin(uses)

    def is_ready(self, info: PlaintextInfo) -> bool:
        number = self._map(info)
        return number is None or self.constants.is_expanded(number)

    def vector(self, info: PlaintextInfo) -> Vector:
        number, a = self._map(info), self.nodes[info.operation].attributes
        if number is None:
            return self.plan.vector(a["vector"], a["part"])
        return self.constants.diagonal(number, a["diagonals"][info.term])

    def encode(self, info: PlaintextInfo, vector: Vector) -> Any:
        node = self.nodes[info.operation]
        a, scale, turn = node.attributes, node.type.scale, 0
        if node.op == "dot_plain":
            scale, turn = a["scales"][info.term], a["rotation"]
        elif node.op == "mul_plain":
            scale = a["scale"]
        return encode_vector(
            self.context, self.plan.parameters, vector, scale, node.type.level, turn
        )

    def _map(self, info: PlaintextInfo) -> int | None:
        node = self.nodes[info.operation]
        return node.attributes["maps"][info.term] if node.op == "dot_plain" else None

"""The OpenFHE backend: executes a plan's operations on ciphertexts.

Scales are the plan's (`runtime.library`): after every operation the library's own book-keeping is
reset to "degree 1, nominal scale", so that it never adjusts anything.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from fhecompile.ckks.slot_mask import mask_vector
from fhecompile.plan import Plan
from runtime.backends.base import AheadTask, Backend, OperationNode, operation_nodes
from runtime.backends.encoder import ConstantEncoder, Vector, encode_vector
from runtime.backends.openmp import allow_inner_threads
from runtime.constants import ConstantStore
from runtime.key_maps import using_keys
from runtime.keys import Ciphertext, ServerContext
from runtime.library import wrapped
from runtime.plaintexts import PlaintextInfo, PlaintextStore, list_plaintexts
from runtime.trace import InnerTimes

Operands = Sequence[Ciphertext]


class OpenfheBackend(Backend):
    """See the module docstring."""

    name: ClassVar[str] = "openfhe"

    def __init__(
        self,
        plan: Plan,
        constants: ConstantStore,
        server: ServerContext,
        ahead_bytes: int = 0,
        cache_bytes: int = 0,
    ) -> None:
        super().__init__(plan, constants)
        self.server = server
        self.context = server.context
        self.parameters = plan.parameters
        self.nodes = operation_nodes(plan)
        self.plaintexts = PlaintextStore(
            list_plaintexts(plan),
            ConstantEncoder(plan, self.nodes, constants, self.context),
            ahead_bytes,
            cache_bytes,
        )
        self.nominal = 2.0**self.parameters.prime_bits
        self.cyclotomic = 2 * self.parameters.ring_dimension
        self._units: dict[tuple[Hashable, int], Any] = {}
        self._lock = threading.Lock()

    def begin(self, images: int, done: Mapping[int, int] | None = None) -> None:
        self.plaintexts.begin(images, done)  # and through it the constants, without those cached

    def end(self) -> InnerTimes:
        super().end()
        return self.plaintexts.end()

    def enter_stage(self, stage: int) -> None:
        self.server.enter_stage(stage)

    def spread(self, wide: bool) -> None:
        allow_inner_threads(wide)

    def claim_ahead(self) -> AheadTask | None:
        info = self.plaintexts.claim()
        if info is None:
            return None
        return AheadTask(self.nodes[info.operation], partial(self._encode_ahead, info))

    def execute(self, node: OperationNode, operands: Operands) -> Ciphertext:
        with wrapped(f"executing {node.op}", self._place(node)), using_keys():
            return super().execute(node, operands)

    def rotate(self, node: OperationNode, operands: Operands) -> Ciphertext:
        return self._labelled(self.context.EvalRotate(operands[0], node.attributes["offset"]))

    def conjugate(self, node: OperationNode, operands: Operands) -> Ciphertext:
        keys = self.context.GetEvalAutomorphismKeyMap(self.server.key_tag)
        return self._labelled(self.context.EvalAutomorphism(operands[0], self.cyclotomic - 1, keys))

    def hoist(self, node: OperationNode, operands: Operands) -> Any:
        return self.context.EvalFastRotationPrecompute(operands[0])

    def rotate_hoisted(self, node: OperationNode, operands: Operands) -> Ciphertext:
        x, digits = operands
        return self._labelled(self.context.EvalFastRotation(x, node.attributes["offset"], digits))

    def rotate_sum(self, node: OperationNode, operands: Operands) -> Ciphertext:
        total = None
        for x, offset in zip(operands, node.attributes["offsets"], strict=True):
            turned = self.context.EvalRotate(x, offset) if offset else x
            total = turned if total is None else self.context.EvalAdd(total, turned)
        return self._labelled(total)

    def rotate_extended(self, node: OperationNode, operands: Operands) -> Ciphertext:
        digits = self.context.EvalFastRotationPrecompute(operands[0])
        return self.rotate_hoisted_extended(node, (operands[0], digits))

    def rotate_hoisted_extended(self, node: OperationNode, operands: Operands) -> Ciphertext:
        x, digits = operands
        return self._labelled(
            self.context.EvalFastRotationExt(x, node.attributes["offset"], digits, True)
        )

    def add_extended(self, node: OperationNode, operands: Operands) -> Ciphertext:
        # The sum replaces its first operand, which nothing else reads (share_rotations).
        self.context.EvalAddInPlaceNoCheck(operands[0], operands[1])
        return operands[0]

    def key_switch_down(self, node: OperationNode, operands: Operands) -> Ciphertext:
        return self._labelled(self.context.KeySwitchDown(operands[0]))

    def dot_plain(self, node: OperationNode, operands: Operands) -> Ciphertext:
        total = None  # sums are exact, so the order of the terms does not matter
        for term, plaintext in self.plaintexts.use(node.number):
            product = self.context.EvalMult(operands[term], plaintext)
            if total is None:
                total = product
            else:
                self.context.EvalAddInPlace(total, product)
        return self._labelled(total)

    def mul_plain(self, node: OperationNode, operands: Operands) -> Ciphertext:
        ((_, plaintext),) = self.plaintexts.use(node.number)
        return self._labelled(self.context.EvalMult(operands[0], plaintext))

    def add_plain(self, node: OperationNode, operands: Operands) -> Ciphertext:
        ((_, plaintext),) = self.plaintexts.use(node.number)
        return self._labelled(self.context.EvalAdd(operands[0], plaintext))

    def add(self, node: OperationNode, operands: Operands) -> Ciphertext:
        return self._labelled(self.context.EvalAdd(operands[0], operands[1]))

    def sub(self, node: OperationNode, operands: Operands) -> Ciphertext:
        return self._labelled(self.context.EvalSub(operands[0], operands[1]))

    def negate(self, node: OperationNode, operands: Operands) -> Ciphertext:
        return self._labelled(self.context.EvalNegate(operands[0]))

    def mul(self, node: OperationNode, operands: Operands) -> Ciphertext:
        return self._labelled(self.context.EvalMult(operands[0], operands[1]))

    def square(self, node: OperationNode, operands: Operands) -> Ciphertext:
        return self._labelled(self.context.EvalSquare(operands[0]))

    def mul_i(self, node: OperationNode, operands: Operands) -> Ciphertext:
        # i is the monomial X^(N/2): at scale 1 the product is exact and costs no level.
        unit = self._unit(1j, np.full(self.parameters.slots, 1j), node.type.level)
        return self._labelled(self.context.EvalMult(operands[0], unit))

    def keep_even(self, node: OperationNode, operands: Operands) -> Ciphertext:
        order = node.attributes["order"]
        mask = mask_vector(order, self.parameters.slots)
        return self._labelled(
            self.context.EvalMult(operands[0], self._unit(("even", order), mask, node.type.level))
        )

    def rescale(self, node: OperationNode, operands: Operands) -> Ciphertext:
        return self._labelled(self.context.Rescale(operands[0]))

    def drop_level(self, node: OperationNode, operands: Operands) -> Ciphertext:
        return self._labelled(
            self.context.LevelReduce(operands[0], None, node.attributes["levels"])
        )

    def relabel(self, node: OperationNode, operands: Operands) -> Ciphertext:
        return operands[0]

    def scale_up(self, node: OperationNode, operands: Operands) -> Ciphertext:
        factor = 2.0 ** node.attributes["bits"]
        unit = self._unit(factor, np.full(self.parameters.slots, factor), node.type.level)
        return self._labelled(self.context.EvalMult(operands[0], unit))

    def refresh(self, node: OperationNode, operands: Operands) -> Ciphertext:
        a, x = node.attributes, operands[0].Clone()
        x.SetSlots(a["slots"])
        real, imaginary = self.plan.series(a["series"])
        refreshed = self.context.EvalFEFuncBootstrap(x, list(real + 1j * imaginary))
        refreshed.SetSlots(self.parameters.slots)
        above = node.type.level - refreshed.GetLevel()
        if above > 0:
            refreshed = self.context.LevelReduce(refreshed, None, above)
        return self._labelled(refreshed)

    def _encode_ahead(self, info: PlaintextInfo) -> None:
        with wrapped("encoding constants", self._place(self.nodes[info.operation])):
            self.plaintexts.make(info)

    def _place(self, node: OperationNode) -> str:
        layer = self.plan.program.layers[node.layer]
        return layer.source or layer.name

    def _unit(self, name: Hashable, vector: Vector, level: int) -> Any:
        """The plaintext of a vector that is an integer polynomial at scale 1; one per level."""
        with self._lock:
            if (name, level) not in self._units:
                plaintext = encode_vector(self.context, self.parameters, vector, 0.0, level)
                self._units[name, level] = plaintext
            return self._units[name, level]

    def _labelled(self, ciphertext: Ciphertext) -> Ciphertext:
        ciphertext.SetNoiseScaleDeg(1)
        ciphertext.SetScalingFactor(self.nominal)
        return ciphertext

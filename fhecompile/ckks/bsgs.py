r"""Baby-step giant-step splits of rotation offsets.

Every offset is y = giant + baby. The babies are rotations of the inputs, hoisted (one digit
decomposition serves them all); for each giant the products are summed first and rotated once:

    sum over y d_y rot_y(x) = sum over g rot_g( sum over b rot_{-g}(d_{g+b}) rot_b(x) ).

Splits tried: baby = ((y + shift) mod n) - shift for n a power of two, for every window that offsets
can be normalised to (`fhecompile.ckks.diagonals`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.cost import operation_seconds
from fhecompile.ckks.diagonals import DiagonalMap
from fhecompile.ckks.operations import ValueType
from fhecompile.ckks.parameters import Parameters
from fhecompile.errors import InternalError


@dataclass(frozen=True)
class RotationCosts:
    """Seconds of the steps; `key` is what one more rotation key is worth avoiding."""

    hoist: float
    baby: float
    giant: float
    key: float


KEY_WORTH = 0.2  # of a baby step: key generation and memory against evaluation time


def rotation_costs(parameters: Parameters, level: int) -> RotationCosts:
    """The predicted costs at a level (`fhecompile.ckks.cost`)."""
    x = ValueType("ciphertext", level, 0.0)
    extended = ValueType("extended", level, 0.0)
    baby = operation_seconds("rotate_hoisted", [x, x], {"offset": 1}, parameters)
    return RotationCosts(
        hoist=operation_seconds("hoist", [x], {}, parameters),
        baby=baby,
        giant=operation_seconds("rotate_extended", [x], {"offset": 1}, parameters)
        + operation_seconds("add_extended", [extended, extended], {}, parameters),
        key=KEY_WORTH * baby,
    )


@dataclass(frozen=True)
class Split:
    """baby = ((y + shift) mod modulus) - shift; `window` normalises y first."""

    modulus: int
    shift: int
    slots: int
    window: int

    def baby(self, offset: int) -> int:
        """The part of an offset that rotates the input."""
        return (offset + self.shift) % self.modulus - self.shift

    def giant(self, offset: int) -> int:
        """The part of an offset that rotates the sum, in [-slots/2, slots/2)."""
        return (offset - self.baby(offset) + self.slots // 2) % self.slots - self.slots // 2


def choose_split(
    maps: Sequence[DiagonalMap], costs: RotationCosts, taken: frozenset[int] = frozenset()
) -> Split:
    """The cheapest split for maps that share accumulators.

    Args:
        maps: every map summed into the same accumulators; all of one modulus K.
        costs: what rotations cost.
        taken: rotation offsets that other layers need keys for anyway.
    """
    slots, k = maps[0].source.slots, maps[0].modulus
    residues = np.concatenate([np.insert(m.residues, 0, i, axis=1) for i, m in enumerate(maps)])
    best: tuple[float, Split] | None = None
    windows = dict.fromkeys([0, k // 2, *(1 << j for j in range(k.bit_length() - 1))])
    for window in windows:
        offsets = ((residues[:, 3] + window) & (k - 1)) - window
        for bits in range(k.bit_length()):
            n = 1 << bits
            for shift in dict.fromkeys((0, n // 2)):
                split = Split(n, shift, slots, window)
                cost = _cost(split, residues, offsets, costs, taken)
                if best is None or cost < best[0]:
                    best = (cost, split)
    if best is None:
        raise InternalError("no baby-step split was tried")
    return best[1]


def _cost(
    split: Split,
    residues: NDArray[np.int64],
    offsets: NDArray[np.int64],
    costs: RotationCosts,
    taken: frozenset[int],
) -> float:
    slots = split.slots
    baby = (offsets + split.shift) % split.modulus - split.shift
    giant = (offsets - baby) % slots
    inputs = residues[:, 0] * (residues[:, 2].max(initial=0) + 1) + residues[:, 2]
    turned = baby != 0
    babies = np.unique(inputs[turned] * slots + baby[turned] % slots)
    moved = giant != 0
    giants = np.unique(residues[moved, 1] * slots + giant[moved])
    keys = {*(babies % slots).tolist(), *(giants % slots).tolist()} - taken
    return float(
        costs.hoist * np.unique(babies // slots).size
        + costs.baby * babies.size
        + costs.giant * giants.size
        + costs.key * len(keys)
    )

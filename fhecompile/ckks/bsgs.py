r"""Baby-step giant-step splits of rotation offsets.

Every offset is y = giant + baby. The babies are rotations of the inputs, hoisted (one digit
decomposition serves them all); for each giant the products are summed first and rotated once:

    sum over y d_y rot_y(x) = sum over g rot_g( sum over b rot_{-g}(d_{g+b}) rot_b(x) ).

Splits tried: baby = ((y + shift) mod n) - shift for n a power of two, for every window that offsets
can be normalised to (`fhecompile.ckks.diagonals`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.cost import operation_seconds
from fhecompile.ckks.diagonals import DiagonalMap
from fhecompile.ckks.operations import ValueType
from fhecompile.ckks.parameters import Parameters
from fhecompile.errors import InternalError


@dataclass(frozen=True)
class RotationCosts:
    """Seconds of the steps of a linear map.

    Args:
        hoist: the digit decomposition baby steps share.
        baby: a hoisted rotation.
        giant: a rotation into the extended basis, added there.
        key: what one more rotation key is worth avoiding.
        product: multiplying with an encoded diagonal and adding.
        encode: encoding a diagonal.
        down: the one division by P after the giant steps.
        rotate: a rotation on its own, or a conjugation.
        unit: a product with a plaintext that is kept.
    """

    hoist: float
    baby: float
    giant: float
    key: float
    product: float = 0.0
    encode: float = 0.0
    down: float = 0.0
    rotate: float = 0.0
    unit: float = 0.0


KEY_WORTH = 0.5  # of a baby step: key generation and memory against evaluation time


@lru_cache(maxsize=4096)
def rotation_costs(parameters: Parameters, level: int) -> RotationCosts:
    """The predicted costs at a level (`fhecompile.ckks.cost`)."""
    x = ValueType("ciphertext", level, 0.0)
    extended = ValueType("extended", level, 0.0)
    baby = operation_seconds("rotate_hoisted", [x, x], {"offset": 1}, parameters)
    product = operation_seconds("dot_plain", [x], {}, parameters, encoded=0)
    return RotationCosts(
        product=product,
        encode=operation_seconds("dot_plain", [x], {}, parameters) - product,
        hoist=operation_seconds("hoist", [x], {}, parameters),
        baby=baby,
        giant=operation_seconds("rotate_extended", [x], {"offset": 1}, parameters)
        + operation_seconds("add_extended", [extended, extended], {}, parameters),
        key=KEY_WORTH * baby,
        down=operation_seconds("key_switch_down", [extended], {}, parameters),
        rotate=operation_seconds("rotate", [x], {}, parameters),
        unit=operation_seconds("mul_i", [x], {}, parameters),
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
        return signed_offset(offset - self.baby(offset), self.slots)


def signed_offset(offset: int, slots: int) -> int:
    """The rotation offset in [-slots/2, slots/2)."""
    return (offset + slots // 2) % slots - slots // 2


def ideal_seconds(products: float, costs: RotationCosts, blocks: int = 1) -> float:
    """Seconds of the baby and giant steps of the best split imaginable.

    With b baby steps in each of n inputs and g giant steps in each of m accumulators,
    b g = P / (n m), the seconds n b B + m g G are least when both terms are equal: 2 sqrt(P B G).
    Blocks that have neither inputs nor accumulators in common need that each, of P / blocks.
    """
    return 2 * math.sqrt(products * blocks * costs.baby * costs.giant)


@dataclass(frozen=True, eq=False)
class SplitSize:
    """How many steps a split takes, whatever they cost.

    `hoists` counts the inputs that are rotated, `keys` are the rotations it needs, in [0, slots).
    """

    split: Split
    products: int
    hoists: int
    babies: int
    giants: int
    keys: NDArray[np.int32]

    def seconds(self, costs: RotationCosts) -> float:
        """Of all steps, without what keys are worth."""
        return (
            (costs.product + costs.encode) * self.products
            + costs.hoist * self.hoists
            + costs.baby * self.babies
            + costs.giant * self.giants
        )


def choose_split(
    maps: Sequence[DiagonalMap], costs: RotationCosts, taken: frozenset[int] = frozenset()
) -> Split:
    """The cheapest split for maps that share accumulators.

    Args:
        maps: every map summed into the same accumulators; all of one modulus K.
        costs: what rotations cost.
        taken: rotation offsets that other layers need keys for anyway.
    """
    return cheapest_split(measure_splits(maps), costs, taken)


def cheapest_split(
    sizes: Sequence[SplitSize], costs: RotationCosts, taken: frozenset[int]
) -> Split:
    """The cheapest of the splits that `measure_splits` has found."""
    if not sizes:
        raise InternalError("no baby-step split was tried")
    new: NDArray[np.bool_] = np.ones(sizes[0].split.slots, bool)
    new[list(taken)] = False
    best, least = sizes[0].split, math.inf
    for size in sizes:
        seconds = size.seconds(costs)
        if seconds < least:  # keys only add to it
            seconds += costs.key * int(np.count_nonzero(new[size.keys]))
            if seconds < least:
                best, least = size.split, seconds
    return best


def measure_splits(maps: Sequence[DiagonalMap]) -> list[SplitSize]:
    """Every split for maps that share accumulators, and what it takes."""
    slots, k, reach = maps[0].source.slots, maps[0].modulus, maps[0].reach
    sizes = []
    windows = dict.fromkeys([0, k // 2, *(1 << j for j in range(reach.bit_length() - 1))])
    for window in windows:
        rows = [np.insert(m.with_window(window).offsets, 0, i, axis=1) for i, m in enumerate(maps)]
        found = np.concatenate(rows)
        for bits in range(k.bit_length()):
            n = 1 << bits
            for shift in dict.fromkeys((0, n // 2)):
                sizes.append(_size(Split(n, shift, slots, window), found))
    return sizes


def _size(split: Split, rows: NDArray[np.int64]) -> SplitSize:
    """Of (map, accumulator, input ciphertext, offset) rows under one split."""
    slots, offsets = split.slots, rows[:, 3]
    baby = (offsets + split.shift) % split.modulus - split.shift
    giant = (offsets - baby) % slots
    inputs = rows[:, 0] * (rows[:, 2].max(initial=0) + 1) + rows[:, 2]
    turned = baby != 0
    babies = np.unique(inputs[turned] * slots + baby[turned] % slots)
    moved = giant != 0
    giants = np.unique(rows[moved, 1] * slots + giant[moved])
    return SplitSize(
        split,
        products=len(rows),
        hoists=np.unique(babies // slots).size,
        babies=babies.size,
        giants=giants.size,
        keys=np.unique(np.concatenate([babies % slots, giants % slots])).astype(np.int32),
    )

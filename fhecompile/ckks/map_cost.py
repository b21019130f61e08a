r"""What a linear map costs between two layouts, estimated quickly enough to compare thousands.

The number of plaintext products is exact but for zero weights (`fhecompile.ckks.offsets`); equal
constants are encoded once (`fhecompile.ckks.equal_diagonals`). The rotations are those of an ideal
baby-step giant-step split (`ideal_seconds`); `choose_split` finds the real one once the layouts are
settled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.bsgs import RotationCosts, ideal_seconds
from fhecompile.ckks.diagonals import DiagonalMap, Packing, normalised_rows
from fhecompile.ckks.equal_diagonals import first_equals, shared_digits
from fhecompile.ckks.layout import Layout
from fhecompile.ckks.linear_map import LinearMap
from fhecompile.ckks.offsets import IndexParts, index_structure, repeats_axis


@dataclass(frozen=True)
class MapSize:
    """What one map takes at any level, without undoing the packing.

    `products` come in `blocks` of equal constants; they need a `decomposition` of each ciphertext
    that is rotated and a `division` by P of each accumulator, both 0 where nothing is rotated.
    """

    products: int
    blocks: int
    decompositions: int
    divisions: int

    def seconds(self, costs: RotationCosts) -> float:
        """Predicted seconds at the level of the costs."""
        seconds = self.products * (costs.product + costs.encode / self.blocks)
        if self.decompositions:
            seconds += ideal_seconds(self.products, costs, self.blocks)
            seconds += self.decompositions * costs.hoist + self.divisions * costs.down
        return seconds


def measure_map(
    parts: IndexParts, source: Layout, target: Layout, packing: Packing, copies: int
) -> MapSize | None:
    """What one map takes; None where the packing or the copies do not apply."""
    nothing = LinearMap((), target.size, source.size)
    dm = DiagonalMap(nothing, source, target, packing, 0, copies)
    if packing == "fold" and dm.modulus < 2:
        return None
    if dm.reach <= max(target.spill, copies):
        return None
    raw = parts.offsets(source, target)
    if packing == "pair":
        raw[:, 0] >>= 1
    raw[:, 2] &= dm.modulus - 1
    shared = shared_digits(source, target, packing) if parts.repeats else []
    blocks = math.prod(after.radix for _, after in shared)
    # All samples' rows are those of the first one over again.
    distinct = _distinct(first_equals(raw, shared, packing))
    products = blocks * min(len(rows) for rows in _windowed(dm, distinct))
    if not np.any(raw[:, 2]):
        return MapSize(products, blocks, 0, 0)
    return MapSize(products, blocks, source.ciphertexts, dm.accumulators)


class MapSizes:
    """What the maps of a network take; those that differ in weights only are measured once."""

    def __init__(self) -> None:
        self._parts: dict[tuple[object, ...], IndexParts] = {}
        self._equal: dict[tuple[object, ...], IndexParts] = {}
        self._sizes: dict[tuple[object, ...], MapSize | None] = {}

    def parts(self, m: LinearMap, source: Layout, target: Layout) -> IndexParts:
        """The parts of a map between tensors of the layouts' shapes: one object for equal maps."""
        wanted = m, target.shape, source.shape
        if wanted not in self._parts:
            key = (index_structure(m), *wanted[1:], repeats_axis(*wanted))
            if key not in self._equal:
                self._equal[key] = IndexParts.of(*wanted)
            self._parts[wanted] = self._equal[key]
        return self._parts[wanted]

    def measure(
        self, m: LinearMap, source: Layout, target: Layout, packing: Packing, copies: int
    ) -> MapSize | None:
        """As `measure_map`."""
        parts = self.parts(m, source, target)
        key = (parts, source, target, packing, copies)
        if key not in self._sizes:
            self._sizes[key] = measure_map(parts, source, target, packing, copies)
        return self._sizes[key]


def _distinct(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The different rows, of numbers below 2^12, 2^12 and 2^28."""
    keys = np.unique((rows[:, 0] << 40) + (rows[:, 1] << 28) + rows[:, 2])
    return np.stack([keys >> 40, keys >> 28 & 0xFFF, keys & 0xFFFFFFF], axis=1)


def _windowed(dm: DiagonalMap, raw: NDArray[np.int64]) -> Sequence[NDArray[np.int64]]:
    if dm.reach == dm.modulus and not dm.copies:
        return [normalised_rows(raw, dm)]
    windows = dict.fromkeys([0, dm.modulus // 2, *(dm.reach >> k for k in range(1, 6))])
    found = []
    for window in windows:
        moved = DiagonalMap(dm.linear_map, dm.source, dm.target, dm.packing, window, dm.copies)
        found.append(normalised_rows(raw, moved))
    return found


def unpacking_seconds(
    source: Layout, target: Layout, packing: Packing, costs: RotationCosts
) -> float:
    """Seconds of what follows the sums of one group of maps: replicas, spill, packing."""
    accumulators = math.ceil(target.ciphertexts / 2) if packing == "pair" else target.ciphertexts
    rotations = max(0, (source.period // target.period).bit_length() - 1)
    rotations += bool(target.spill)
    units = 0
    if packing == "pair":
        rotations, units = rotations + 1, 1
    elif packing == "fold":
        rotations, units = rotations + 2, 1
    return accumulators * (rotations * costs.rotate + units * costs.unit)

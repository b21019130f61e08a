r"""Generalised diagonals of a linear map between two layouts.

For an element o of the output and i of the input with M[o, i] != 0 the product must move from the
input slot to the output slot: the rotation offset is y = slot(i) - slot(o) mod S. All pairs of one
offset share one plaintext d_y, and with (rot_y x)[s] = x[s + y]

    acc = sum over y of d_y * rot_y(x).

*Period.* Input and output repeat with T_in and T_out. If T_out <= T_in, the partial sums may be
left in any of the T_in / T_out replicas of o and are summed afterwards by rotations by T_out,
2 T_out, ... T_in / 2; if T_in <= T_out, the input is read from any of its replicas. Either way only
y mod K matters, K = min(T_in, T_out), and y is normalised to the window [-w, K - w).

*Packing* (where the partial sums of one accumulator go):

    real    the accumulator is the output ciphertext
    direct  complex accumulator, the output layout has imaginary digits (only a client reads it)
    pair    complex accumulator z, two output ciphertexts u = Re z, v = Im z; z + conj z = 2u and
            i (conj z - z) = 2v, the factor 1/2 is in the plaintexts
    fold    with d = K / 2: a product may be added to the real part at o or to the imaginary part at
            o + d, since Re(z - i rot_d z)[o] = Re z[o] + Im z[o + d]; y and y - d are then equally
            good, so that only y mod d matters: half as many diagonals

*Spill.* If the output layout has a slot bit of stride h that no digit uses, the positions with that
bit set can take partial sums too: with U the modulus left so far (K, or K / 2 with a fold) and
r = U / 2 + h, a product may be added at o or at o + r, and z + rot_r z has the sum at o. Offsets
are y or y - r, which halves the modulus once more: U / 2. The positions with the bit set are left
with sums of no meaning (`Layout.spill`).

*Copies.* If the input holds a copy of everything at slot + c, c a bit that no digit uses, offsets
are y or y + c: the one whose bit c is zero is taken. This is what an input that was spilled needs:
without it only every second slot of a product would be useful.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.layout import Layout
from fhecompile.ckks.linear_map import AnyScalar, LinearMap, LinearTerm

Packing = Literal["real", "direct", "pair", "fold"]
Int32Array = NDArray[np.int32]
AnyInteger = TypeVar("AnyInteger", np.int32, np.int64)


@dataclass(frozen=True, order=True)
class Diagonal:
    """Names one plaintext: which accumulator, which input ciphertext, which rotation offset."""

    accumulator: int
    ciphertext: int
    offset: int


@dataclass(frozen=True, eq=False)
class DiagonalMap:
    """A linear map, its two layouts and how its partial sums are packed."""

    linear_map: LinearMap
    source: Layout
    target: Layout
    packing: Packing
    window: int = 0
    copies: int = 0

    @property
    def modulus(self) -> int:
        """K: offsets that differ by a multiple of it are interchangeable."""
        return min(self.source.period, self.target.period)

    @property
    def fold_distance(self) -> int:
        """d of the final Re(z - i rot_d z); 0 when none is due."""
        return self.modulus // 2 if self.packing == "fold" else 0

    @property
    def reach(self) -> int:
        """Length of the interval that offsets are brought to (up to the spill and copy bits)."""
        reach = self.fold_distance or self.modulus
        return reach // 2 if self.target.spill else reach

    @property
    def spill_distance(self) -> int:
        """r of the sum z + rot_r z that comes before the packing is undone; 0 when none is due."""
        return self.reach + self.target.spill if self.target.spill else 0

    @property
    def accumulators(self) -> int:
        """Number of accumulator ciphertexts."""
        n = self.target.ciphertexts
        return (n + 1) // 2 if self.packing == "pair" else n

    @property
    def period(self) -> int:
        """The accumulators repeat with this period."""
        return max(self.source.period, self.target.period)

    def sum_rotations(self) -> list[int]:
        """Rotations that add up replicas and spilled positions, each applied to the running sum."""
        offsets, step = [], self.target.period
        while step < self.source.period:
            offsets.append(step)
            step *= 2
        return offsets + ([self.spill_distance] if self.spill_distance else [])

    @cached_property
    def raw_offsets(self) -> NDArray[np.int64]:
        """(accumulator, input ciphertext, y mod K) of all pairs, shape (n, 3), sorted."""
        k = self.modulus
        inputs = self.source.ciphertexts
        nothing = self.accumulators * inputs * k
        counts: NDArray[np.int64] = np.zeros(3 * nothing, np.int64)
        for term in self.linear_map.terms:
            for piece in term_pieces(term):
                base, out_slot, in_slot, _ = self._slots(piece, nothing, k)
                key = base + ((in_slot - out_slot) & np.int32(k - 1))
                if not np.all(piece.values):
                    shape = np.broadcast_shapes(key.shape, piece.values.shape)
                    key = np.broadcast_to(key, shape)[np.broadcast_to(piece.values != 0, shape)]
                counts += np.bincount(key.ravel(), minlength=counts.size)
        counts = counts[:nothing]
        rest, residue = np.divmod(np.flatnonzero(counts), k)
        acc, ct = np.divmod(rest, inputs)
        return np.stack([acc, ct, residue], axis=1)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """(accumulator, input ciphertext, normalised offset) of all diagonals, sorted."""
        return normalised_rows(self.raw_offsets, self)

    def with_window(self, window: int) -> DiagonalMap:
        """The same map with offsets brought to an interval that starts at -window."""
        moved = replace(self, window=window)
        moved.__dict__["raw_offsets"] = self.raw_offsets
        return moved

    @cached_property
    def diagonals(self) -> list[Diagonal]:
        """All diagonals that hold a non-zero, sorted."""
        return [Diagonal(*row) for row in self.offsets.tolist()]

    def normalised(self, raw: NDArray[AnyInteger]) -> Placing[AnyInteger]:
        """Which of the equally good offsets stands for each raw offset, and what that implies."""
        kind = raw.dtype.type
        k, w = kind(self.modulus), kind(self.window)
        offset = ((raw + w) & (k - kind(1))) - w
        nothing = np.zeros_like(offset)
        odd, upper, copy = nothing, nothing, nothing
        if self.fold_distance:
            d = kind(self.fold_distance)
            odd = (offset + w) // d & kind(1)
            offset = offset - odd * d
        if self.spill_distance:
            upper = (offset + w) // kind(self.reach) & kind(1)
            offset = offset - upper * kind(self.spill_distance)
        if self.copies:
            copy = offset // kind(self.copies) & kind(1)
            offset = offset + copy * kind(self.copies)
        return Placing(offset, odd, upper, copy)

    def expand(self, wanted: list[Diagonal]) -> NDArray[np.complex128]:
        """The plaintext vectors of the wanted diagonals, shape (len(wanted), slots).

        Before any rotation: entry s multiplies x[s + offset].
        """
        slots, period = self.source.slots, self.period
        nothing = self.accumulators * self.source.ciphertexts * slots
        number: NDArray[np.int64] = np.full(3 * nothing, len(wanted), np.int64)
        for k, d in enumerate(wanted):
            key = (d.accumulator * self.source.ciphertexts + d.ciphertext) * slots
            number[key + d.offset % slots] = k
        number *= period * 2
        flat: NDArray[np.float64] = np.zeros((len(wanted) + 1) * period * 2)
        for term in self.linear_map.terms:
            for piece in term_pieces(term):
                base, out_slot, in_slot, part = self._slots(piece, nothing, slots)
                placing = self.normalised(in_slot - out_slot)
                target = number[base + (placing.offset & np.int32(slots - 1))]
                target += self._position(placing, out_slot, in_slot) * np.int32(2)
                target += placing.odd if self.fold_distance else part
                target, weights = np.broadcast_arrays(target, piece.values)
                np.add.at(flat, target.ravel(), weights.ravel())
        flat = flat[: len(wanted) * period * 2]
        if self.packing in ("pair", "fold"):
            flat *= 0.5
        vectors = flat.view(np.complex128).reshape(len(wanted), period)
        return np.tile(vectors, slots // period)

    def _slots(self, piece: LinearTerm, nothing: int, stride: int) -> tuple[Int32Array, ...]:
        """(accumulator and input ciphertext as one number, output slot, input slot, output part).

        The number is `nothing` or more for padding. All are as compact as the piece's own arrays.
        """
        out, inn = piece.out_index, piece.in_index
        out_ct, out_slot, out_part = (p[out] for p in self.target.positions)
        in_ct, in_slot, _ = (p[inn] for p in self.source.positions)
        acc, part = (out_ct >> 1, out_ct & 1) if self.packing == "pair" else (out_ct, out_part)
        width = np.int32(self.source.ciphertexts * stride)
        out_base = np.where(out >= 0, acc * width, np.int32(nothing))
        in_base = np.where(inn >= 0, in_ct * np.int32(stride), np.int32(nothing))
        return out_base + in_base, out_slot, in_slot, part

    def _position(
        self, placing: Placing[np.int32], out_slot: Int32Array, in_slot: Int32Array
    ) -> Int32Array:
        """Slot in the accumulator, mod `period`, that a product is added to."""
        if self.source.period >= self.target.period:
            read = in_slot + placing.copy * np.int32(self.copies)
            return (read - placing.offset) & np.int32(self.source.period - 1)
        shift = placing.odd * np.int32(self.fold_distance)
        shift = shift + placing.upper * np.int32(self.spill_distance)
        return (out_slot + shift) & np.int32(self.target.period - 1)


@dataclass(frozen=True)
class Placing(Generic[AnyInteger]):
    """Per raw offset: the offset taken; whether the product goes to the imaginary part (`odd`), to
    the spilled position (`upper`), and whether it reads the copy of its input."""

    offset: NDArray[AnyInteger]
    odd: NDArray[AnyInteger]
    upper: NDArray[AnyInteger]
    copy: NDArray[AnyInteger]


def normalised_rows(raw: NDArray[np.int64], dm: DiagonalMap) -> NDArray[np.int64]:
    """Distinct rows (accumulator, input ciphertext, offset) of raw ones, sorted."""
    if not len(raw):
        return raw
    bias = 2 * dm.source.slots  # makes offsets positive, so that a row is one sortable number
    offset = dm.normalised(raw[:, 2]).offset
    keys = np.unique((raw[:, 0] << 40) + (raw[:, 1] << 28) + offset + bias)
    rest, low = np.divmod(keys, 1 << 28)
    return np.stack([rest >> 12, rest & 0xFFF, low - bias], axis=1)


def term_pieces(term: LinearTerm, limit: int = 1 << 19) -> Iterator[LinearTerm]:
    """The term cut along its leading axes into pieces of at most about `limit` points.

    Every piece has out_index, in_index and values broadcastable to its own shape; small enough for
    the working arrays to stay in cache.
    """
    shape = term.shape
    axis = next((k for k, n in enumerate(shape) if n > 1), None)
    if term.size <= limit or axis is None:
        yield term
        return
    rows = max(1, limit * shape[axis] // term.size)
    for start in range(0, shape[axis], rows):
        rows_wanted = np.arange(start, min(start + rows, shape[axis]))
        piece = LinearTerm(
            _taken(term.values, rows_wanted, axis),
            _taken(term.out_index, rows_wanted, axis),
            _taken(term.in_index, rows_wanted, axis),
        )
        yield from term_pieces(piece, limit)


def _taken(array: NDArray[AnyScalar], rows: NDArray[np.int64], axis: int) -> NDArray[AnyScalar]:
    return array.take(rows, axis) if array.shape[axis] > 1 else array

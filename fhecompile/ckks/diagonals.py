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
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.layout import Layout
from fhecompile.ckks.linear_map import AnyScalar, LinearMap, LinearTerm

Packing = Literal["real", "direct", "pair", "fold"]


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

    @property
    def modulus(self) -> int:
        """K: offsets that differ by a multiple of it are interchangeable."""
        modulus = min(self.source.period, self.target.period)
        return max(1, modulus // 2) if self.folds else modulus

    @property
    def folds(self) -> bool:
        """Whether a final Re(z - i rot_d z), d = `modulus`, is due."""
        return self.packing == "fold"

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
        """Rotations to add up the replicas of the partial sums, each applied to the running sum."""
        offsets, step = [], self.target.period
        while step < self.source.period:
            offsets.append(step)
            step *= 2
        return offsets

    @cached_property
    def residues(self) -> NDArray[np.int64]:
        """(accumulator, input ciphertext, offset mod K) of all diagonals, shape (n, 3), sorted."""
        k = self.modulus
        inputs = self.source.ciphertexts
        nothing = self.accumulators * inputs * k
        counts: NDArray[np.int64] = np.zeros(3 * nothing, np.int64)
        for term in self.linear_map.terms:
            for piece in _pieces(term):
                place = self._place(piece, nothing, k)
                key = place.base + (place.offset & np.int32(k - 1))
                if not np.all(piece.values):
                    shape = np.broadcast_shapes(key.shape, piece.values.shape)
                    key = np.broadcast_to(key, shape)[np.broadcast_to(piece.values != 0, shape)]
                counts += np.bincount(key.ravel(), minlength=counts.size)
        counts = counts[:nothing]
        rest, residue = np.divmod(np.flatnonzero(counts), k)
        acc, ct = np.divmod(rest, inputs)
        return np.stack([acc, ct, residue], axis=1)

    def with_window(self, window: int) -> DiagonalMap:
        """The same map with offsets normalised to [-window, K - window)."""
        moved = DiagonalMap(self.linear_map, self.source, self.target, self.packing, window)
        moved.__dict__["residues"] = self.residues
        return moved

    @cached_property
    def diagonals(self) -> list[Diagonal]:
        """All diagonals that hold a non-zero, sorted."""
        k, w = self.modulus, self.window
        offsets = ((self.residues[:, 2] + w) & (k - 1)) - w
        columns = (self.residues[:, 0], self.residues[:, 1], offsets)
        return sorted(Diagonal(*map(int, row)) for row in zip(*columns, strict=True))

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
            for piece in _pieces(term):
                place = self._place(piece, nothing, slots)
                target = number[place.base + (place.offset & np.int32(slots - 1))]
                target += place.at * np.int32(2) + place.part
                target, weights = np.broadcast_arrays(target, piece.values)
                np.add.at(flat, target.ravel(), weights.ravel())
        flat = flat[: len(wanted) * period * 2]
        if self.packing in ("pair", "fold"):
            flat *= 0.5
        vectors = flat.view(np.complex128).reshape(len(wanted), period)
        return np.tile(vectors, slots // period)

    def _place(self, piece: LinearTerm, nothing: int, stride: int) -> _Place:
        """Where the points of a piece go; computed on the compact arrays as far as possible."""
        out, inn = piece.out_index, piece.in_index
        out_ct, out_slot, out_part = (p[out] for p in self.target.positions)
        in_ct, in_slot, _ = (p[inn] for p in self.source.positions)
        acc, part = (out_ct >> 1, out_ct & 1) if self.packing == "pair" else (out_ct, out_part)
        width = np.int32(self.source.ciphertexts * stride)
        out_base = np.where(out >= 0, acc * width, np.int32(nothing))
        in_base = np.where(inn >= 0, in_ct * np.int32(stride), np.int32(nothing))
        k, w = np.int32(self.modulus), np.int32(self.window)
        raw = in_slot - out_slot
        offset = ((raw + w) & (k - np.int32(1))) - w
        odd = (raw - offset) // k & np.int32(1) if self.folds else None
        if self.source.period >= self.target.period:
            at = (in_slot - offset) & np.int32(self.source.period - 1)
        else:
            shifted = out_slot if odd is None else out_slot + odd * k
            at = np.broadcast_to(shifted & np.int32(self.target.period - 1), raw.shape)
        return _Place(out_base + in_base, offset, at, part if odd is None else odd)


@dataclass(frozen=True)
class _Place:
    """Per point of a piece: accumulator and input ciphertext as one number (`nothing` or more for
    padding), signed offset, slot in the accumulator mod `period`, real or imaginary part."""

    base: NDArray[np.int32]
    offset: NDArray[np.int32]
    at: NDArray[np.int32]
    part: NDArray[np.int32]


def _pieces(term: LinearTerm, limit: int = 1 << 19) -> Iterator[LinearTerm]:
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
        yield from _pieces(piece, limit)


def _taken(array: NDArray[AnyScalar], rows: NDArray[np.int64], axis: int) -> NDArray[AnyScalar]:
    return array.take(rows, axis) if array.shape[axis] > 1 else array

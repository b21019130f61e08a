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
from fhecompile.ckks.linear_map import LinearMap, LinearTerm

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
        counts = np.zeros(self.accumulators * inputs * k, np.int64)
        for term in self.linear_map.terms:
            for out, inn, val in _chunks(term):
                acc, y, _, _ = self._place(out, inn)
                key = (acc * inputs + self.source.positions[0][inn]).astype(np.int64) * k
                key += y & (k - 1)
                if not np.all(val):
                    key = key[val != 0]
                counts += np.bincount(key, minlength=counts.size)
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
        number = np.full(self.accumulators * self.source.ciphertexts * slots, -1, np.int32)
        for k, d in enumerate(wanted):
            key = (d.accumulator * self.source.ciphertexts + d.ciphertext) * slots
            number[key + d.offset % slots] = k
        flat = np.zeros(len(wanted) * period * 2)
        for term in self.linear_map.terms:
            for out, inn, val in _chunks(term):
                acc, y, at, part = self._place(out, inn)
                key = (acc * self.source.ciphertexts + self.source.positions[0][inn]) * slots
                k = number[key + y % slots]
                valid = k >= 0
                place = (k[valid].astype(np.int64) * period + at[valid]) * 2 + part[valid]
                flat += np.bincount(place, weights=val[valid], minlength=flat.size)
        if self.packing in ("pair", "fold"):
            flat *= 0.5
        vectors = flat.view(np.complex128).reshape(len(wanted), period)
        return np.tile(vectors, slots // period)

    def _place(
        self, out: NDArray[np.int32], inn: NDArray[np.int32]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """Per pair: accumulator, signed offset, accumulator slot mod `period`, part."""
        out_ct, out_slot, out_part = (p[out] for p in self.target.positions)
        in_slot = self.source.positions[1][inn]
        raw = in_slot - out_slot
        k = self.modulus
        y = ((raw + self.window) & (k - 1)) - self.window
        part = out_part
        acc = out_ct
        if self.packing == "pair":
            acc, part = out_ct >> 1, out_ct & 1
        odd = ((raw - y) // k) & 1 if self.folds else np.int32(0)
        if self.folds:
            part = odd
        if self.source.period >= self.target.period:
            at = (in_slot - y) & (self.source.period - 1)
        else:
            at = (out_slot + odd * k) & (self.target.period - 1)
        return acc, y, at, part


def _chunks(
    term: LinearTerm, limit: int = 1 << 22
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]]:
    """The term's coordinates in pieces of about `limit` points, cut along its first axis."""
    shape = term.shape
    if not shape:
        yield term.coordinates()
        return
    per_row = max(1, term.size // shape[0])
    rows = max(1, limit // per_row)
    for start in range(0, shape[0], rows):
        cut = [
            a[start : start + rows] if a.shape[0] > 1 else a
            for a in (term.values, term.out_index, term.in_index)
        ]
        if all(a.shape[0] == 1 for a in (term.values, term.out_index, term.in_index)):
            yield term.coordinates()
            return
        yield LinearTerm(*cut).coordinates()

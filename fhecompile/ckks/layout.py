r"""Layouts: where each element of a tensor lives in the slots of one or more ciphertexts.

Each tensor index is cut into digits, digit = (index // divisor) mod radix, and every digit is
placed in one of three spaces at a stride:

    slot        position inside the slot vector of S = N/2 slots
    ciphertext  which ciphertext
    complex     real (0) or imaginary (1) part of the slot

so that   slot(e) = sum over slot digits of digit(e) * stride   and likewise for the others.
Positions no digit reaches are *holes* and hold zero, but for those with the slot bit `spill` set
(a stride; 0 for none): they hold values of no meaning (`fhecompile.ckks.diagonals`). The slot
vector repeats with `period` (a power of two dividing S): element e is found at slot(e) + j * period
for every j, its *replicas*.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fhecompile.errors import InternalError

Place = Literal["slot", "ciphertext", "complex"]
IndexArray = NDArray[np.int32]


@dataclass(frozen=True)
class Digit:
    """One digit of one tensor index and where it is placed."""

    axis: int
    divisor: int
    radix: int
    place: Place
    stride: int

    def __str__(self) -> str:
        return f"{self.axis}/{self.divisor}%{self.radix}@{self.place}*{self.stride}"


@dataclass(frozen=True)
class Layout:
    """Placement of a tensor of `shape` in ciphertexts of `slots` slots (module docstring)."""

    shape: tuple[int, ...]
    slots: int
    period: int
    digits: tuple[Digit, ...]
    spill: int = 0

    @cached_property
    def positions(self) -> tuple[IndexArray, IndexArray, IndexArray]:
        """Per flat element (ciphertext, slot, part), each of shape (size,)."""
        found = {p: np.zeros(self.shape, np.int32) for p in ("ciphertext", "slot", "complex")}
        for digit in self.digits:
            index = np.arange(self.shape[digit.axis], dtype=np.int32)
            value = (index // digit.divisor) % digit.radix * digit.stride
            view = [1] * len(self.shape)
            view[digit.axis] = -1
            found[digit.place] += value.astype(np.int32).reshape(view)
        return found["ciphertext"].ravel(), found["slot"].ravel(), found["complex"].ravel()

    @cached_property
    def ciphertexts(self) -> int:
        """Number of ciphertexts."""
        return int(self.positions[0].max(initial=0)) + 1

    @property
    def is_complex(self) -> bool:
        """Whether imaginary parts are used."""
        return any(d.place == "complex" for d in self.digits)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def pack(self, values: NDArray[np.float64]) -> NDArray[Any]:
        """Slot vectors (..., ciphertexts, slots) of tensors (..., *shape)."""
        lead = values.shape[: values.ndim - len(self.shape)]
        flat = np.broadcast_to(values, (*lead, *self.shape)).reshape(*lead, -1)
        ct, slot, part = self.positions
        dtype = np.complex128 if self.is_complex else np.float64
        packed: NDArray[Any] = np.zeros((*lead, self.ciphertexts, self.slots), dtype)
        if self.is_complex:
            imaginary = part == 1
            packed[..., ct[~imaginary], slot[~imaginary]] = flat[..., ~imaginary]
            packed[..., ct[imaginary], slot[imaginary]] += 1j * flat[..., imaginary]
        else:
            packed[..., ct, slot] = flat
        if self.period < self.slots:
            window = packed[..., : self.period]
            packed = np.tile(window, self.slots // self.period)
        return packed

    def unpack(self, packed: NDArray[np.complex128]) -> NDArray[np.float64]:
        """Tensors (..., *shape) from slot vectors (..., ciphertexts, slots), first replica."""
        ct, slot, part = self.positions
        found = packed[..., ct, slot]
        flat = np.where(part == 1, found.imag, found.real)
        return np.asarray(flat.reshape(*packed.shape[:-2], *self.shape), np.float64)

    def verify(self) -> None:
        """Checks that no two elements share a position and that the period holds them all."""
        ct, slot, part = self.positions
        if slot.max(initial=0) >= self.period or self.slots % self.period:
            raise InternalError(f"layout {self} does not fit its period {self.period}")
        keys = (ct.astype(np.int64) * self.slots + slot) * 2 + part
        if np.unique(keys).size != self.size:
            raise InternalError(f"layout {self} puts two elements into one position")
        if self.spill and (self.spill & (self.spill - 1) or np.any(slot & self.spill)):
            raise InternalError(f"layout {self} has elements in the positions of its spill")

    def __str__(self) -> str:
        digits = " ".join(str(d) for d in self.digits)
        shape = "x".join(map(str, self.shape))
        spill = f" spill {self.spill}" if self.spill else ""
        return f"layout<{shape} in {self.slots} period {self.period}{spill}: {digits}>"


def next_power_of_two(n: int) -> int:
    """Smallest power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()


def vector_layout(shape: Sequence[int], slots: int, parts: int = 1) -> Layout:
    """Flat elements in consecutive slots, replicated with the smallest period that holds them.

    With `parts` 2 the second half of the last axis goes into the imaginary parts. Only the last
    axis may be longer than 1; more than `slots` elements continue in further ciphertexts.
    """
    shape = tuple(shape)
    axis, n = len(shape) - 1, shape[-1]
    if math.prod(shape) != n:
        raise InternalError(f"vector layout of the tensor shape {shape}")
    per_part = next_power_of_two(math.ceil(n / parts))
    radix = min(per_part, slots)
    digits = [Digit(axis, 1, radix, "slot", 1)]
    if per_part > slots:
        digits.append(Digit(axis, slots, per_part // slots, "ciphertext", 1))
    if parts == 2:
        digits.append(Digit(axis, per_part, 2, "complex", 1))
    return Layout(shape, slots, radix, tuple(digits))

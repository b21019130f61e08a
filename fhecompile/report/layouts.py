r"""Pictures of layouts: which bit of which tensor index is which bit of the slot number.

Where divisor, radix and stride of a digit are powers of two, 2^d, 2^r and 2^s, bit d + j of its
index is bit s + j of the position, j < r. A slot number is then a row of bits, from the highest
to bit 0:

    c1      bit 1 of the axis c
    =       above the period: both values hold the same (replicas)
    .       always 0 where there is an element (a hole)
    *       as `.`, but the other half holds values of no meaning (the spill bit)

    = = | c1 c0 | h1 h0 | w1 w0 | . | ciphertext: w2

Bits that always are 0, as the axis is short, are holes too. Digits that are not rows of bits are
written `c/1%3*5`: (index // 1) mod 3, times 5.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from fhecompile.ckks.layout import Digit, Layout, Place

AXIS_NAMES = {5: "pnchw", 4: "nchw", 3: "ncl", 2: "nf"}
AXIS_WORDS = {
    "p": "branch",
    "n": "batch",
    "c": "channel",
    "h": "row",
    "w": "column",
    "l": "position",
    "f": "feature",
}
MARKS = {"replica": "=", "hole": ".", "spill": "*"}
LEGEND = "= replica, . hole, * spill"
PLACES: tuple[tuple[Place, str], ...] = (("ciphertext", "ciphertext"), ("complex", "imaginary"))


@dataclass(frozen=True)
class Cell:
    """One bit of a position: what it is, and the bit of which axis."""

    kind: Literal["axis", "replica", "hole", "spill"]
    axis: str = ""
    bit: int = 0

    def __str__(self) -> str:
        if self.kind != "axis":
            return MARKS[self.kind]
        return f"{self.axis}{'.' * self.axis[-1].isdigit()}{self.bit}"


def axis_names(rank: int) -> tuple[str, ...]:
    """Names of a tensor's axes: p n c h w, n c h w, n c l, n f, or else a0 a1 ..."""
    return tuple(AXIS_NAMES.get(rank, ())) or tuple(f"a{k}" for k in range(rank))


def slot_cells(layout: Layout) -> tuple[Cell, ...] | None:
    """The bits of the slot number, from the highest; None where they are not bits of indices."""
    bits = _bits(layout, "slot")
    if bits is None or layout.slots & (layout.slots - 1):
        return None
    cells = []
    for position in reversed(range(layout.slots.bit_length() - 1)):
        if position in bits:
            cells.append(bits[position])
        elif 1 << position >= layout.period:
            cells.append(Cell("replica"))
        else:
            cells.append(Cell("spill" if 1 << position == layout.spill else "hole"))
    return tuple(cells)


def place_cells(layout: Layout, place: Place) -> tuple[Cell, ...] | None:
    """The bits of the ciphertext's number, or of real and imaginary, from the highest."""
    bits = _bits(layout, place)
    if bits is None:
        return None
    return tuple(bits.get(k, Cell("hole")) for k in reversed(range(max(bits, default=-1) + 1)))


def group_cells(cells: Iterable[Cell]) -> list[tuple[Cell, ...]]:
    """Neighbours of one kind and axis together."""
    return [tuple(group) for _, group in groupby(cells, lambda cell: (cell.kind, cell.axis))]


def digit_text(layout: Layout, place: Place) -> str:
    """The digits of one place as text: `c/1%3*5 w/1%4*1`."""
    names = axis_names(len(layout.shape))
    digits = [d for d in layout.digits if d.place == place]
    return " ".join(f"{names[d.axis]}/{d.divisor}%{d.radix}*{d.stride}" for d in digits)


def draw_layout(layout: Layout) -> str:
    """The layout in one line (module docstring)."""
    cells = slot_cells(layout)
    if cells is None:
        spill = f", spill *{layout.spill}" if layout.spill else ""
        parts = [f"{digit_text(layout, 'slot')}, period {layout.period}{spill}"]
    else:
        parts = [" ".join(map(str, group)) for group in group_cells(cells)]
    for place, title in PLACES:
        text = place_text(layout, place)
        parts += [f"{title}: {text}"] if text else []
    return " | ".join(parts)


def place_text(layout: Layout, place: Place) -> str:
    """The bits of the ciphertext's number or of the imaginary part; empty when there are none."""
    cells = place_cells(layout, place)
    return digit_text(layout, place) if cells is None else " ".join(map(str, cells))


def shape_text(layout: Layout) -> str:
    """`n=1 c=3 h=64 w=64`: the axes and their sizes."""
    names = axis_names(len(layout.shape))
    return " ".join(f"{name}={size}" for name, size in zip(names, layout.shape, strict=True))


def fill(layout: Layout) -> float:
    """Part of the positions that hold an element, replicas left out."""
    parts = 2 if layout.is_complex else 1
    return layout.size / (layout.period * layout.ciphertexts * parts)


def _bits(layout: Layout, place: Place) -> dict[int, Cell] | None:
    """Bit of the position -> bit of an axis; None where digits are no bits or share one."""
    names = axis_names(len(layout.shape))
    found: dict[int, Cell] = {}
    for digit in layout.digits:
        if digit.place != place:
            continue
        if not _is_binary(digit):
            return None
        first, start = digit.divisor.bit_length() - 1, digit.stride.bit_length() - 1
        used = min(digit.radix.bit_length() - 1, _index_bits(layout, digit) - first)
        for j in range(used):
            if start + j in found:
                return None
            found[start + j] = Cell("axis", names[digit.axis], first + j)
    return found


def _index_bits(layout: Layout, digit: Digit) -> int:
    """Bits that an index of the digit's axis has."""
    return (layout.shape[digit.axis] - 1).bit_length()


def _is_binary(digit: Digit) -> bool:
    return all(n > 0 and not n & (n - 1) for n in (digit.divisor, digit.radix, digit.stride))

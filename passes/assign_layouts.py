r"""Places every tensor in slots.

Values connected by elementwise operations share one layout; the linear maps that make them can
produce any layout. Going down the network, each layout follows from the one before:

- Axes that follow an axis of the operand (`fhecompile.ir.relations`) stay where that axis is: a
  strided convolution leaves gaps instead of moving rows, and branches stay apart.
- Other axes (channels, features) take free slot bits: those above everything else first, where
  rotations wrap around for free, then the gaps that strides have left; what does not fit goes to
  further ciphertexts.
- Positions above the last used bit hold replicas.
- The input is placed so that the axes the first map reads keep together: branch digits lowest,
  then columns, rows, channels on top.
- What only a client reads uses imaginary parts.

Packing of the partial sums (see `fhecompile.ckks.diagonals`): pairs of ciphertexts in real and
imaginary part, one ciphertext folded where that saves more plaintext products than its two key
switches cost. `complex=false` turns both off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.diagonals import Packing
from fhecompile.ckks.layout import Digit, Layout, Place, next_power_of_two
from fhecompile.ckks.parameters import Parameters
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.relations import Relation, relations
from fhecompile.ir.tensor import (
    Affine,
    Input,
    Node,
    Output,
    Shape,
    TensorGraph,
    is_product_free,
)


@dataclass(frozen=True, eq=False)
class Layouts:
    """Layout of every value, packing of every affine node."""

    layout: dict[str, Layout]
    packing: dict[str, Packing]


@dataclass(frozen=True)
class AssignLayouts(Pass):
    """See the module docstring; `fold_above` products per ciphertext a fold pays off."""

    complex: bool = True
    fold_above: float = 24.0

    needs: ClassVar[tuple[type, ...]] = (Parameters,)
    gives: ClassVar[tuple[type, ...]] = (Layouts,)

    def run(self, program: Program) -> PassResult:
        graph, slots = program.graph, program.facts[Parameters].slots
        classes = _layout_classes(graph)
        layout: dict[str, Layout] = {}
        for node in graph:
            if node.name in layout:
                continue
            chosen = self._layout(graph, node, layout, classes, slots)
            chosen.verify()
            for name in classes[node.name]:
                layout[name] = chosen
        packing = {
            node.name: self._packing(node, layout[node.name], slots)
            for node in graph
            if isinstance(node, Affine)
        }
        remarks = tuple(f"{name}: {packing[name]} {layout[name]}" for name in packing)
        return PassResult(program.having(Layouts(layout, packing)), True, remarks)

    def _layout(
        self,
        graph: TensorGraph,
        node: Node,
        layout: dict[str, Layout],
        classes: dict[str, tuple[str, ...]],
        slots: int,
    ) -> Layout:
        if isinstance(node, Input):
            return _input_layout(graph, node, slots)
        if isinstance(node, Affine):
            if is_product_free(node) and node.size > 1:
                return layout[node.inputs[0]]
            kept = _inherited(node, graph, layout)
            client_only = all(
                isinstance(u, Output) for name in classes[node.name] for u in graph.users()[name]
            )
            parts = 2 if self.complex and client_only and node.size > 1 and not kept else 1
            return _fill(node.shape, slots, kept, parts)
        return layout[node.inputs[0]]

    def _packing(self, node: Affine, layout: Layout, slots: int) -> Packing:
        if layout.is_complex:
            return "direct"
        if not self.complex or is_product_free(node):
            return "real"
        products = sum(m.multiply_accumulates() for m in node.maps) / slots / layout.ciphertexts
        if products < self.fold_above:
            return "real"
        if layout.ciphertexts == 1:
            return "fold"
        return "pair" if layout.ciphertexts % 2 == 0 else "real"


def _layout_classes(graph: TensorGraph) -> dict[str, tuple[str, ...]]:
    """Per value the values that must share its layout (all of one shape), in graph order."""
    leader = {node.name: node.name for node in graph}

    def find(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    for node in graph:
        if isinstance(node, Affine) and not (is_product_free(node) and node.size > 1):
            continue
        for operand in node.inputs:
            if graph[operand].size == node.size:
                leader[find(node.name)] = find(operand)
    members: dict[str, list[str]] = {}
    for node in graph:
        members.setdefault(find(node.name), []).append(node.name)
    return {node.name: tuple(members[find(node.name)]) for node in graph}


def _input_layout(graph: TensorGraph, node: Input, slots: int) -> Layout:
    """Branch digits lowest, then the fine digits of followed axes, the rest on top."""
    found: list[Relation] = []
    for user in graph.users()[node.name]:
        if isinstance(user, Affine):
            k = user.inputs.index(node.name)
            found = relations(user.maps[k], user.shape, node.shape)
            if found:
                break
    coarse: list[Digit] = []
    fine: list[Digit] = []
    followed: set[int] = set()
    for axis in reversed(range(len(node.shape))):
        steps = sorted({r.step for r in found if r.in_axis == axis})
        if not steps:
            continue
        followed.add(axis)
        bounds = [1]
        for step in steps[1:]:
            if step % bounds[-1] == 0 and step < node.shape[axis]:
                bounds.append(step)
        for low, high in pairwise([*bounds, node.shape[axis]]):
            digit = Digit(axis, low, math.ceil(high / low), "slot", 0)
            (fine if low == 1 else coarse).append(digit)
    stride, ciphertext_stride, placed = 1, 1, []
    for digit in coarse + fine:
        fits = min(next_power_of_two(digit.radix), slots // stride)
        if fits > 1:
            radix = min(digit.radix, fits)
            placed.append(Digit(digit.axis, digit.divisor, radix, "slot", stride))
        stride *= fits
        rest = math.ceil(digit.radix / fits)
        if rest > 1:  # the slots are full: the upper part goes to further ciphertexts
            divisor = digit.divisor * fits
            placed.append(Digit(digit.axis, divisor, rest, "ciphertext", ciphertext_stride))
            ciphertext_stride *= next_power_of_two(rest)
    return _fill(node.shape, slots, placed, 1)


def _inherited(node: Affine, graph: TensorGraph, layout: dict[str, Layout]) -> list[Digit]:
    """Digits of the output whose axes follow an axis of the first operand."""
    source = layout[node.inputs[0]]
    kept: list[Digit] = []
    for r in relations(node.maps[0], node.shape, source.shape):
        count = min(r.count, math.ceil(node.shape[r.out_axis] / r.divisor))
        digits = _follow(r, count, source)
        if math.prod(d.radix for d in digits) < count:
            return []
        slots = _slot_positions(kept + digits)
        if np.unique(slots).size < slots.size or _gaps(node.shape, kept + digits) is None:
            continue  # two relations claim one place, or leave digits that are no bits
        kept += digits
    return kept


def _slot_positions(digits: list[Digit]) -> NDArray[np.int64]:
    """The slot of every value the slot digits can take."""
    found: NDArray[np.int64] = np.zeros(1, np.int64)
    for d in digits:
        if d.place == "slot":
            found = (found[:, None] + np.arange(d.radix) * d.stride).ravel()
    return found


def _gaps(shape: Shape, digits: list[Digit]) -> list[tuple[int, int, int]] | None:
    """(axis, divisor, radix) of what the digits leave out, last axis first.

    None if digits of one axis overlap, or leave out a number that is not a power of two below them.
    """
    gaps = []
    for axis in reversed(range(len(shape))):
        divisor = 1
        for d in sorted((d for d in digits if d.axis == axis), key=lambda d: d.divisor):
            radix, rest = divmod(d.divisor, divisor)
            if rest or radix != next_power_of_two(radix):
                return None
            if radix > 1:
                gaps.append((axis, divisor, radix))
            divisor = d.divisor * d.radix
        if divisor < shape[axis]:
            gaps.append((axis, divisor, math.ceil(shape[axis] / divisor)))
    return gaps


def _follow(r: Relation, count: int, source: Layout) -> list[Digit]:
    """The output digits of one relation: the input axis's digits from its step upwards."""
    kept, divisor, left = [], r.divisor, count
    digits = sorted((d for d in source.digits if d.axis == r.in_axis), key=lambda d: d.divisor)
    for d in digits:
        if left <= 1 or d.divisor * d.radix <= r.step:
            continue
        start = max(r.step, d.divisor)
        if start % d.divisor:
            return []
        radix = min(left, math.ceil(d.divisor * d.radix / start))
        kept.append(Digit(r.out_axis, divisor, radix, d.place, start // d.divisor * d.stride))
        divisor *= radix
        left = math.ceil(left / radix)
    return kept


def _fill(shape: Shape, slots: int, kept: list[Digit], parts: int) -> Layout:
    """Completes a layout: what `kept` does not place takes free bits, as the docstring says."""
    used = int(np.bitwise_or.reduce(_slot_positions(kept)))
    top = used.bit_length()
    ciphertext_stride = 1
    digits: list[Digit] = []
    for d in kept:
        if d.place == "ciphertext":  # numbered anew, so that none stays empty
            d = replace(d, stride=ciphertext_stride)
            ciphertext_stride *= d.radix
        digits.append(d)
    free = [b for b in range(slots.bit_length() - 1) if not used >> b & 1]
    above = [b for b in free if b >= top]
    gaps = [b for b in free if b < top][::-1]
    missing = [(axis, low, (n - 1).bit_length()) for axis, low, n in _gaps(shape, kept) or []]
    bits_needed = sum(bits for _, _, bits in missing) - (parts - 1)
    chosen = above[:bits_needed]
    chosen += gaps[: bits_needed - len(chosen)]
    # Least significant digits go to the gaps, most significant ones to the highest positions.
    order = sorted(chosen, key=lambda b: (b >= top, b))
    positions: list[tuple[Place, int]] = [("slot", 1 << b) for b in order]
    for _ in range(bits_needed - len(order)):
        positions.append(("ciphertext", ciphertext_stride))
        ciphertext_stride *= 2
    if parts == 2:
        positions.append(("complex", 1))
    for axis, divisor, bits in missing:
        for _ in range(bits):
            place, stride = positions.pop(0)
            last = digits[-1] if digits else None
            joins = (
                last is not None
                and last.axis == axis
                and last.place == place
                and last.divisor * last.radix == divisor
                and last.stride * last.radix == stride
            )
            if joins and last is not None:
                digits[-1] = Digit(axis, last.divisor, last.radix * 2, place, last.stride)
            else:
                digits.append(Digit(axis, divisor, 2, place, stride))
            divisor *= 2
    reach = sum(d.stride * (d.radix - 1) for d in digits if d.place == "slot")
    return Layout(shape, slots, next_power_of_two(reach + 1), tuple(digits))

r"""Which layouts a value may take, given those of the values it is computed from.

- Axes that follow an axis of the operand (`fhecompile.ir.relations`) stay where that axis is: a
  strided convolution leaves gaps instead of moving rows, and branches stay apart.
- Other axes (channels, features) take free slot bits: those above everything else, where rotations
  wrap around for free, and the gaps that strides have left; what does not fit goes to further
  ciphertexts. Where there are more free bits than needed, which of them stay free is a choice, and
  so is whether a free bit takes partial sums (`Layout.spill`).
- Digits that number ciphertexts may come back into slots that have become free: branches that were
  cut apart merge again, in the lowest free bits.
- The input is placed by the client, so that the axes the first map reads keep together. Choices:
  the order of rows, columns and branches; a finest row or column bit in the ciphertext number
  (*polyphase*: a later stride of 2 then picks ciphertexts instead of leaving a gap); branches in
  the ciphertext number.

Positions above the last used bit hold replicas. Values that are connected by elementwise operations
are a class, and share one layout.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import combinations, islice, pairwise

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.layout import Digit, Layout, Place, next_power_of_two
from fhecompile.ir.relations import Relation, keeps_apart, relations
from fhecompile.ir.tensor import Affine, Input, Shape, TensorGraph, is_product_free

MAX_CHOICES = 12  # of free bits for one value


# ---------------------------------------------------------------------------- inputs


def input_layouts(graph: TensorGraph, node: Input, slots: int) -> list[Layout]:
    """The layouts a client may encrypt an input in, the plainest first."""
    coarse, fine = _input_digits(graph, node)
    largest = max(n.size for n in graph)
    spread = max(0, (math.ceil(largest / slots) - 1).bit_length())
    orders = [coarse + fine]
    if coarse and fine:
        orders += [fine + coarse, fine[:1] + coarse + fine[1:]]
    if len(coarse) > 1 and coarse[-1].axis == 0:  # samples before branches
        orders.append(coarse[-1:] + coarse[:-1] + fine)
    found: dict[str, Layout] = {}
    for apart in range(spread + 1 if coarse else 1):
        for phase in [None, *(d.axis for d in fine)]:
            for order in orders:
                layout = _placed_input(node.shape, slots, order, coarse, phase, apart)
                if layout is not None:
                    found.setdefault(str(layout), layout)
    return list(found.values())


def _input_digits(graph: TensorGraph, node: Input) -> tuple[list[Digit], list[Digit]]:
    """Digits of the axes the first map follows: (those of branches, those inside a branch)."""
    found: list[Relation] = []
    apart: set[int] = set()
    for user in graph.users()[node.name]:
        if isinstance(user, Affine):
            m = user.maps[user.inputs.index(node.name)]
            found = relations(m, user.shape, node.shape)
            apart = {r.in_axis for r in found if keeps_apart(m, r, user.shape, node.shape)}
            if found:
                break
    coarse: list[Digit] = []
    fine: list[Digit] = []
    for axis in reversed(range(len(node.shape))):
        steps = sorted({r.step for r in found if r.in_axis == axis})
        if not steps:
            continue
        bounds = [1]
        for step in steps[1:]:
            if step % bounds[-1] == 0 and step < node.shape[axis]:
                bounds.append(step)
        for low, high in pairwise([*bounds, node.shape[axis]]):
            digit = Digit(axis, low, math.ceil(high / low), "slot", 0)
            (coarse if low > 1 or axis in apart else fine).append(digit)
    return coarse, fine


def _placed_input(
    shape: Shape, slots: int, order: list[Digit], coarse: list[Digit], phase: int | None, apart: int
) -> Layout | None:
    """The digits in order from the lowest slot bit up; None if a choice does not apply.

    `phase` names the axis whose finest bit numbers ciphertexts, `apart` how many branch bits do.
    """
    stride, ciphertexts, placed = 1, 1, []
    left = apart
    for digit in order:
        divisor, radix = digit.divisor, digit.radix
        if phase == digit.axis and digit.divisor == 1:
            if radix < 4 or radix % 2:
                return None
            placed.append(Digit(digit.axis, 1, 2, "ciphertext", ciphertexts))
            ciphertexts *= 2
            divisor, radix = 2, radix // 2
        fits = min(next_power_of_two(radix), slots // stride)
        if left and digit in coarse:
            bits = min(left, (radix - 1).bit_length())
            left -= bits
            fits = min(fits, next_power_of_two(radix) >> bits)
        if fits > 1:
            placed.append(Digit(digit.axis, divisor, min(radix, fits), "slot", stride))
        stride *= fits
        rest = math.ceil(radix / fits)
        if rest > 1:  # the slots are full, or the digit is to stay apart
            placed.append(Digit(digit.axis, divisor * fits, rest, "ciphertext", ciphertexts))
            ciphertexts *= next_power_of_two(rest)
    return None if left else _fill(shape, slots, placed, 1, None)


# ---------------------------------------------------------------------------- results of maps


def result_layouts(
    node: Affine, followed: Sequence[Relation], source: Layout, parts: int
) -> list[Layout]:
    """The layouts an affine node may give its result, the plainest first.

    Args:
        node: the affine node.
        followed: how its axes follow those of its first operand (`relations` of its first map).
        source: layout of the first operand.
        parts: 2 puts the upper half of the last axis into imaginary parts if no axis is followed.
    """
    slots = source.slots
    kept = _inherited(node, followed, source)
    merged = [d for d in kept if d.place != "ciphertext"]
    found: dict[str, Layout] = {}
    for digits in (kept, merged):
        if _gaps(node.shape, digits) is None:
            continue
        for chosen in _bit_choices(node.shape, slots, digits):
            moved = {d.axis for d in kept} - {d.axis for d in digits}
            made = _fill(node.shape, slots, digits, 1 if kept else parts, chosen, moved)
            found.setdefault(str(made), made)
    fewest = min(made.ciphertexts for made in found.values())
    return [made for made in found.values() if made.ciphertexts < 2 * fewest]


def free_bits(layout: Layout) -> list[int]:
    """Strides of the slot bits below the period that no element's slot has, lowest first."""
    used = int(np.bitwise_or.reduce(layout.positions[1]))
    return [1 << k for k in range(layout.period.bit_length() - 1) if not used >> k & 1]


def _inherited(node: Affine, followed: Sequence[Relation], source: Layout) -> list[Digit]:
    """Digits of the output whose axes follow an axis of the first operand."""
    kept: list[Digit] = []
    for r in followed:
        count = min(r.count, math.ceil(node.shape[r.out_axis] / r.divisor))
        digits = _follow(r, count, source)
        if math.prod(d.radix for d in digits) < count:
            return []
        if _collide(kept + digits) or _gaps(node.shape, kept + digits) is None:
            continue  # two relations claim one place, or leave digits that are no bits
        kept += digits
    return kept


def _collide(digits: list[Digit]) -> bool:
    """Whether two values of the digits share a position."""
    places: list[NDArray[np.int64]] = []
    for place in ("slot", "ciphertext"):
        own: NDArray[np.int64] = np.zeros(1, np.int64)
        for d in digits:
            steps = np.arange(d.radix) if d.place == place else np.zeros(d.radix, np.int64)
            own = (own[:, None] + steps * d.stride).ravel()
        places.append(own)
    slot, ciphertext = places
    return bool(np.unique(ciphertext * (slot.max() + 1) + slot).size < slot.size)


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


def _free(slots: int, kept: list[Digit]) -> tuple[list[int], list[int]]:
    """Slot bits the digits do not use: (above all of theirs, in gaps from the top down)."""
    used = int(np.bitwise_or.reduce(_slot_positions(kept)))
    top = used.bit_length()
    free = [b for b in range(slots.bit_length() - 1) if not used >> b & 1]
    return [b for b in free if b >= top], [b for b in free if b < top][::-1]


def _needed(shape: Shape, kept: list[Digit]) -> int:
    return sum((n - 1).bit_length() for _, _, n in _gaps(shape, kept) or [])


def _bit_choices(shape: Shape, slots: int, kept: list[Digit]) -> Iterator[list[int] | None]:
    """Sets of slot bits for the missing digits; None is the plain choice of `_fill`."""
    yield None
    above, gaps = _free(slots, kept)
    needed = _needed(shape, kept)
    for left in range(min(len(above), len(above) + len(gaps) - needed) + 1):
        taken = above[: len(above) - left]  # what is left at the top becomes replicas
        rest = needed - len(taken)
        if 0 < rest <= len(gaps):
            for some in islice(combinations(gaps, rest), MAX_CHOICES):
                yield taken + list(some)


def _fill(
    shape: Shape,
    slots: int,
    kept: list[Digit],
    parts: int,
    chosen: list[int] | None,
    first: Collection[int] = (),
) -> Layout:
    """Completes a layout: what `kept` does not place takes the chosen bits, then ciphertexts.

    The axes in `first` take the lowest of them.
    """
    above, gaps = _free(slots, kept)
    top = int(np.bitwise_or.reduce(_slot_positions(kept))).bit_length()
    missing = [(axis, low, (n - 1).bit_length()) for axis, low, n in _gaps(shape, kept) or []]
    missing.sort(key=lambda entry: entry[0] not in first)
    needed = sum(bits for _, _, bits in missing) - (parts - 1)
    if chosen is None:
        chosen = (above + gaps)[:needed]
    ciphertext_stride = 1
    digits: list[Digit] = []
    for d in kept:
        if d.place == "ciphertext":  # numbered anew, so that none stays empty
            d = replace(d, stride=ciphertext_stride)
            ciphertext_stride *= d.radix
        digits.append(d)
    # Least significant digits go to the gaps, most significant ones to the highest positions.
    order = sorted(chosen, key=lambda b: (b >= top, b))
    positions: list[tuple[Place, int]] = [("slot", 1 << b) for b in order]
    for _ in range(needed - len(order)):
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


def layout_classes(graph: TensorGraph) -> dict[str, tuple[str, ...]]:
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

r"""Lowers the tensor graph to ciphertext operations.

    affine   operands that are read from copies cleared in their odd slots and copied; babies, one
             `dot_plain` per (accumulator, giant), `rotate_sum` over the giants, sums over replicas
             and over spilled positions, then the packing undone:
             pair  u = z + conj z, v = i (conj z - z);  fold  w = z - i rot_d z, y = w + conj w;
             and the bias last, after the rescales, so that every key switch happens at the larger
             scale
    poly     square, plus the linear term at the square's scale, plus the constant
    refresh  the operand at its scale and on its level, every ciphertext refreshed; with
             f - f(0) where there are holes, so that they stay zero, and f(0) added
    sums     w * (sum of all elements): rotations by 1, 2, 4, ... and a relabelled scale

Operands at different levels meet at the deeper one. Holes stay zero throughout, but for spilled
ones: constants are packed with zeros in them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks import linear_map
from fhecompile.ckks.bsgs import signed_offset
from fhecompile.ckks.diagonals import DiagonalMap
from fhecompile.ckks.equal_diagonals import group_accumulators
from fhecompile.ckks.gallery import template_scale
from fhecompile.ckks.layout import Layout
from fhecompile.ckks.parameters import Parameters
from fhecompile.ckks.slot_mask import mask_factor
from fhecompile.errors import InternalError
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.refresh_slots import choose_slots
from fhecompile.ir.scales import ScalePlan, match_scales
from fhecompile.ir.slots import MapConstant, SeriesConstant, SlotGraph, VectorConstant
from fhecompile.ir.tensor import (
    Add,
    Affine,
    Input,
    Mul,
    Node,
    Output,
    Poly,
    Refresh,
    Shape,
    uniform_identity_weight,
    uniform_sum_weight,
)
from passes.assign_layouts import Layouts
from passes.assign_levels import Levels
from passes.lower_affine import LoweredMaps, MapGroup


@dataclass(frozen=True)
class BuildSlots(Pass):
    """See the module docstring."""

    needs: ClassVar[tuple[type, ...]] = (Layouts, LoweredMaps, ScalePlan, Levels, Parameters)

    def run(self, program: Program) -> PassResult:
        builder = _Builder(program)
        for node in program.graph:
            builder.lower(node)
        slots = builder.slots
        remark = f"{len(slots.nodes)} ciphertext operations"
        return PassResult(replace(program, slots=slots), True, (remark,))


class _Builder:
    """Lowers node by node; `values` holds the ciphertext ids of every tensor value."""

    def __init__(self, program: Program) -> None:
        self.graph = program.graph
        self.layouts = program.facts[Layouts].layout
        self.mask_order = program.facts[Layouts].mask_order
        self.groups = program.facts[LoweredMaps].groups
        self.scales = program.facts[ScalePlan]
        self.parameters = program.facts[Parameters]
        self.is_template = program.options.match == "gallery"
        self.slots = SlotGraph(self.scales.policy.prime_bits)
        self.values = self.slots.results
        self.copied: dict[tuple[int, int], int] = {}
        refreshed = [self.layouts[n.name] for n in self.graph if isinstance(n, Refresh)]
        self.refreshed_slots = choose_slots(refreshed, self.parameters)
        self.inputs = {name: k for k, name in enumerate(self.graph.given())}
        self.input_parts = [0] * len(self.inputs)
        self.outputs = {n.name: k for k, n in enumerate(self.graph.outputs())}

    def lower(self, node: Node) -> None:
        """Emits the operations of one tensor node."""
        self.layer = node.name
        match node:
            case Input():
                self.values[node.name] = self._input(node)
            case Output():
                for part, value in enumerate(self.values[node.inputs[0]]):
                    value = self._as_template(value) if self.is_template else value
                    self.emit("output", value, tensor=self.outputs[node.name], part=part)
                self.values[node.name] = self.values[node.inputs[0]]
            case Affine():
                self.values[node.name] = self._affine(node)
            case Poly():
                self.values[node.name] = self._poly(node)
            case Mul() | Add():
                self.values[node.name] = self._binary(node)
            case Refresh():
                self.values[node.name] = self._refresh(node)
            case _:
                raise InternalError(f"no lowering for {node.op}")

    def _as_template(self, value: int) -> int:
        """The value at the level and scale that `fhecompile.ckks.gallery` asks for."""
        level, scale = template_scale(self.parameters)
        q = self.parameters.prime_bits
        missing = math.floor(scale - self.scale(value) + 1e-9)
        rescales = math.ceil(-missing / q) if missing < 0 else 0
        value = self.at_level(value, level - rescales)
        if bits := missing + rescales * q:
            value = self.emit("scale_up", value, bits=bits)
        for _ in range(rescales):
            value = self.emit("rescale", value)
        return value

    def _input(self, node: Input) -> list[int]:
        tensor = self.inputs[node.given or node.name]
        level = self.scales.level[node.name]
        first = self.input_parts[tensor]
        self.input_parts[tensor] += self.layouts[node.name].ciphertexts
        scale = float(self.scales.scale[node.name])
        return [
            self.emit("input", tensor=tensor, part=part, level=level, scale=scale)
            for part in range(first, self.input_parts[tensor])
        ]

    # ------------------------------------------------------------------ helpers

    def emit(self, op: str, *operands: int, **attributes: object) -> int:
        return self.slots.emit(op, operands, self.layer, **attributes)

    def level(self, value: int) -> int:
        return self.slots[value].type.level

    def scale(self, value: int) -> float:
        return self.slots[value].type.scale

    def at_level(self, value: int, level: int) -> int:
        missing = level - self.level(value)
        return self.emit("drop_level", value, levels=missing) if missing else value

    def rescaled(self, value: int) -> int:
        for _ in range(self.scales.rescales[self.layer]):
            value = self.emit("rescale", value)
        return value

    def vector(self, values: NDArray[np.float64], shape: Shape, layout: Layout) -> int:
        """An elementwise constant that broadcasts to `shape`; the layout may be of a reshaping."""
        if shape != layout.shape:
            values = linear_map.collapse(np.broadcast_to(values, shape).reshape(layout.shape))
        self.slots.vectors.append(VectorConstant(values, layout))
        return len(self.slots.vectors) - 1

    def plus_vector(
        self, values: list[int], constant: NDArray[np.float64], node: Node
    ) -> list[int]:
        if not np.any(constant):
            return values
        vector = self.vector(constant, node.shape, self.layouts[node.name])
        return [
            self.emit("add_plain", value, vector=vector, part=part)
            for part, value in enumerate(values)
        ]

    # ------------------------------------------------------------------ linear maps

    def _affine(self, node: Affine) -> list[int]:
        weight = uniform_identity_weight(node)
        if weight is not None:
            values = [self._weighted(v, weight) for v in self.values[node.inputs[0]]]
        elif (weight := uniform_sum_weight(node)) is not None:
            values = [self._weighted(self._sum_of_all(node.inputs[0]), weight)]
        else:
            values = self._products(node)
        return self.plus_vector(values, np.asarray(node.bias), node)

    def _weighted(self, value: int, weight: float) -> int:
        if weight < 0:
            value = self.emit("negate", value)
        if abs(weight) != 1.0:
            value = self.emit("relabel", value, factor=abs(weight))
        return value

    def _sum_of_all(self, name: str) -> int:
        values = list(self.values[name])
        total = values[0]
        for value in values[1:]:
            total = self.emit("add", total, value)
        step = self.layouts[name].period // 2
        while step:
            total = self.emit("add", total, self.emit("rotate", total, offset=step))
            step //= 2
        return total

    def _products(self, node: Affine) -> list[int]:
        level = max(self.level(v) for name in node.inputs for v in self.values[name])
        total: list[int] | None = None
        for group in self.groups[node.name]:
            values = self._unpacked(group.maps[0], self._accumulators(node, group, level))
            if total is None:
                total = values
            else:
                total = [self.emit("add", a, b) for a, b in zip(total, values, strict=True)]
        if total is None:
            raise InternalError(f"{node.name} has no maps")
        return [self.rescaled(value) for value in total]

    def _accumulators(self, node: Affine, group: MapGroup, level: int) -> list[int]:
        """The complex sums before they are unpacked, one per accumulator."""
        split, slots = group.split, group.split.slots
        babies: dict[tuple[int, int, int], int] = {}
        terms: dict[tuple[int, int], list[tuple[int, int, int, float]]] = {}
        for k, dm in zip(group.operands, group.maps, strict=True):
            map_id = len(self.slots.maps)
            self.slots.maps.append(MapConstant(self.layer, dm, dm.diagonals))
            scale = self.scales.constants[node.name][k]
            sources = [self._copied(v, dm, level) for v in self.values[node.inputs[k]]]
            if dm.copies and dm.source.spill:
                scale -= math.log2(mask_factor(self.mask_order))
            for number, d in enumerate(dm.diagonals):
                baby, giant = split.baby(d.offset), split.giant(d.offset)
                key = (k, d.ciphertext, baby)
                if key not in babies:
                    source = sources[d.ciphertext]
                    babies[key] = (
                        self.emit("rotate", source, offset=signed_offset(baby, slots))
                        if baby
                        else source
                    )
                terms.setdefault((d.accumulator, giant), []).append(
                    (babies[key], map_id, number, scale)
                )
        dots: dict[int, dict[int, int]] = {}  # per accumulator and giant
        for alike in group_accumulators(group.maps[0]):
            # Products with equal constants follow each other: those do not wait in memory.
            for accumulator, giant in sorted(
                (key for key in terms if key[0] in alike), key=lambda key: (key[1], key[0])
            ):
                operands, maps, numbers, scales = zip(*terms[accumulator, giant], strict=True)
                dots.setdefault(accumulator, {})[giant] = self.emit(
                    "dot_plain",
                    *operands,
                    maps=list(maps),
                    diagonals=list(numbers),
                    scales=list(scales),
                    rotation=signed_offset(giant, slots),
                )
        totals = []
        for accumulator in range(group.maps[0].accumulators):
            found = dots.get(accumulator)
            if found is None:
                totals.append(self._nothing(node, group, level))
            elif list(found) == [0]:
                totals.append(found[0])
            else:
                offsets = [signed_offset(giant, slots) for giant in found]
                totals.append(self.emit("rotate_sum", *found.values(), offsets=offsets))
        for offset in group.maps[0].sum_rotations():  # over replicas and spilled positions
            totals = [
                self.emit("add", t, self.emit("rotate", t, offset=signed_offset(offset, slots)))
                for t in totals
            ]
        return totals

    def _copied(self, value: int, dm: DiagonalMap, level: int) -> int:
        """The operand at a level, with the copies that the map reads."""
        if not dm.copies:
            return self.at_level(value, level)
        key = (value, dm.copies)
        if key not in self.copied:
            kept = value
            if dm.source.spill:
                kept = self.emit("keep_even", value, order=self.mask_order)
            self.copied[key] = self.emit("add", kept, self.emit("rotate", kept, offset=-dm.copies))
        return self.at_level(self.copied[key], level)

    def _nothing(self, node: Affine, group: MapGroup, level: int) -> int:
        """Zero, for an accumulator whose rows of the map are zero: x times a vector of zeros."""
        k = group.operands[0]
        source = self.at_level(self.values[node.inputs[k]][0], level)
        zeros = self.vector(np.zeros(()), (1,), self._everywhere())
        scale = self.scales.constants[node.name][k]
        return self.emit("mul_plain", source, vector=zeros, part=0, scale=float(scale))

    def _unpacked(self, dm: DiagonalMap, accumulators: list[int]) -> list[int]:
        if dm.packing == "pair":
            values = []
            for z in accumulators:
                conjugate = self.emit("conjugate", z)
                values.append(self.emit("add", z, conjugate))
                values.append(self.emit("mul_i", self.emit("sub", conjugate, z)))
            return values[: dm.target.ciphertexts]
        if dm.packing == "fold":
            folded = []
            for z in accumulators:
                turned = self.emit(
                    "rotate", z, offset=signed_offset(dm.fold_distance, dm.source.slots)
                )
                w = self.emit("sub", z, self.emit("mul_i", turned))
                folded.append(self.emit("add", w, self.emit("conjugate", w)))
            return folded
        return accumulators

    # ------------------------------------------------------------------ elementwise

    def _poly(self, node: Poly) -> list[int]:
        leading = float(node.coefficients[-1].flat[0])
        values = []
        linear = node.coefficients[1]
        operands = self.values[node.inputs[0]]
        vector = None
        if node.degree == 2 and np.any(linear):
            vector = self.vector(linear, node.shape, self.layouts[node.name])
        for part, x in enumerate(operands):
            if node.degree == 1:
                values.append(self._weighted(x, leading))
                continue
            y = self._weighted(self.emit("square", x), leading)
            if vector is not None:
                bits = float(self.scale(y) - self.scale(x))
                line = self.emit("mul_plain", x, vector=vector, part=part, scale=bits)
                y = self.emit("add", y, line)
            values.append(y)
        values = self.plus_vector(values, np.asarray(node.coefficients[0]), node)
        return [self.rescaled(value) for value in values]

    def _refresh(self, node: Refresh) -> list[int]:
        layout, bootstrap = self.layouts[node.name], self.parameters.bootstrap
        if bootstrap is None:
            raise InternalError(f"{node.name} is a refresh, the parameters have none")
        has_holes = layout.size < layout.period * layout.ciphertexts
        coefficients, at_zero = node.stored_series(has_holes)
        share = node.unit * max(abs(node.low), abs(node.high))
        self.slots.series.append(SeriesConstant(coefficients, share))
        lift, values = self.scales.lifts[node.name], []
        attributes = {
            "series": len(self.slots.series) - 1,
            "slots": self.refreshed_slots[self.layouts[node.name].period],
            "level": bootstrap.output_level,
            "scale": float(self.scales.scale[node.name]),
        }
        for value in self.values[node.inputs[0]]:
            value = self._lifted(value, lift.bits, lift.rescales)
            value = self.at_level(value, self.parameters.deepest_operand)
            values.append(self.emit("refresh", value, **attributes))
        if at_zero:
            values = self.plus_vector(values, np.array(at_zero), node)
        return values

    def _binary(self, node: Node) -> list[int]:
        left, right = (self.values[name] for name in node.inputs)
        parts = max(len(left), len(right))
        left, right = left * (parts // len(left)), right * (parts // len(right))
        results = []
        for a, b in zip(left, right, strict=True):
            if isinstance(node, Add):
                results.append(self.emit("add", *self._matched(a, b)))
                continue
            level = max(self.level(a), self.level(b))
            a, b = self.at_level(a, level), self.at_level(b, level)
            results.append(self.emit("square", a) if a == b else self.emit("mul", a, b))
        return [self.rescaled(value) for value in results]

    def _matched(self, a: int, b: int) -> list[int]:
        """Both summands at one level and one scale."""
        places = [(float(self.scale(value)), self.level(value)) for value in (a, b)]
        found = match_scales(places[0], places[1], self.parameters.prime_bits)
        level = max(self.level(a), self.level(b))
        summands = []
        for value, bits, rescales in zip((a, b), found.bits, found.rescales, strict=True):
            summands.append(self._lifted(self.at_level(value, level - rescales), bits, rescales))
        return summands

    def _lifted(self, value: int, bits: float, rescales: int) -> int:
        """The value at a scale that is `bits` higher, then `rescales` primes lower."""
        if bits == round(bits):
            value = self.emit("scale_up", value, bits=round(bits)) if bits else value
        else:
            ones = self.vector(np.ones(()), (1,), self._everywhere())
            value = self.emit("mul_plain", value, vector=ones, part=0, scale=bits)
        for _ in range(rescales):
            value = self.emit("rescale", value)
        return value

    def _everywhere(self) -> Layout:
        slots = next(iter(self.layouts.values())).slots
        return Layout((1,), slots, 1, ())

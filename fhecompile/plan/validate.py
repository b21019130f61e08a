"""Validation of an untrusted plan: everything it refers to exists and every operation type-checks.

Runs before anything else looks at a plan. Sizes are bounded before arrays are made from them, so
that a small file cannot ask for much memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Sized

import numpy as np

from fhecompile.ckks.diagonals import DiagonalMap
from fhecompile.ckks.layout import Digit, Layout
from fhecompile.ckks.linear_map import LinearMap
from fhecompile.ckks.operations import OperationError, ValueType, automorphisms, result_type
from fhecompile.ckks.parameters import Parameters
from fhecompile.errors import InternalError
from fhecompile.plan.container import Arrays
from fhecompile.plan.parameter_rules import (
    check_layer,
    check_parameters,
    check_series,
    named_array,
)
from fhecompile.plan.schema import (
    FORMAT_VERSION,
    InputInfo,
    LayoutInfo,
    MapInfo,
    OperationInfo,
    OutputInfo,
    Program,
    VectorInfo,
)

MAX_RANK = 16
MAX_ELEMENTS = 1 << 24  # of one tensor
MAX_ALL_ELEMENTS = 1 << 26  # of all layouts together
MAX_CIPHERTEXTS = 1024  # of one tensor
MAX_DIGITS = 64  # of one layout
MAX_POINTS = 1 << 32  # of one term of a linear map
MAX_EXPANDED_BYTES = 1 << 34  # of one linear map's diagonals
MAX_SCALE_BITS = 400  # 2^scale is a float64


def check_program(program: Program, arrays: Arrays) -> tuple[list[Layout], list[ValueType]]:
    """(all layouts, the type of every operation's value).

    Raises:
        ValueError: the first problem found, in words.
    """
    if program.format_version != FORMAT_VERSION:
        raise ValueError(f"it says it is of format version {program.format_version}")
    parameters = check_parameters(program.parameters)
    slots = parameters.slots
    for number, info in enumerate(program.layouts):
        _check_layout(f"layout {number}", info, slots)
    if sum(math.prod(info.shape) for info in program.layouts) > MAX_ALL_ELEMENTS:
        raise ValueError("its layouts have too many elements")
    layouts = make_layouts(program)
    for number, layout in enumerate(layouts):
        _check_positions(f"layout {number}", layout)
    if program.batch < 1:
        raise ValueError(f"its batch is of {program.batch} samples")
    _check_tensors("input", program.inputs)
    _check_tensors("output", program.outputs)
    _check_ends(program, layouts, arrays)
    for number, vector in enumerate(program.vectors):
        _check_vector(f"vector {number}", vector, layouts, arrays)
    for number, linear_map in enumerate(program.maps):
        _check_map(f"map {number}", linear_map, program, layouts, arrays)
    for number, series in enumerate(program.series):
        check_series(f"series {number}", series, parameters, arrays)
    for count in program.keys.refreshes:
        if count < 1 or count & (count - 1) or count > slots:
            raise ValueError(f"it lists keys for refreshes of {count} slots")
    for offset in program.keys.rotations:
        if not 0 < offset < slots:
            raise ValueError(f"it lists a key for the rotation {offset}")
    prediction = program.prediction
    errors = prediction.error, prediction.fitted_error, prediction.allowed_error
    if min(*errors, prediction.output_range, prediction.peak_bytes) < 0:
        raise ValueError("its predictions are negative")
    types = _Operations(program, layouts, arrays, parameters).check()
    for layer in program.layers:
        check_layer(f"layer {layer.name}", layer, layouts, types)
    return layouts, types


def make_layouts(program: Program) -> list[Layout]:
    """The layouts of a program, by number."""
    slots = program.parameters.ring_dimension // 2
    return [
        Layout(
            info.shape,
            slots,
            info.period,
            tuple(Digit(d.axis, d.divisor, d.radix, d.place, d.stride) for d in info.digits),
            info.spill,
        )
        for info in program.layouts
    ]


def _check_shape(name: str, shape: Sequence[int]) -> None:
    fits = len(shape) <= MAX_RANK and all(1 <= n <= MAX_ELEMENTS for n in shape)
    if not fits or math.prod(shape) > MAX_ELEMENTS:
        text = "x".join(str(n) if abs(n) <= MAX_ELEMENTS else "..." for n in shape[:MAX_RANK])
        raise ValueError(f"{name} has the shape {text}")


def _check_layout(name: str, info: LayoutInfo, slots: int) -> None:
    _check_shape(name, info.shape)
    if info.period < 1 or info.period & (info.period - 1) or info.period > slots:
        raise ValueError(f"{name} has the period {info.period}")
    if not 0 <= info.spill < info.period or info.spill & (info.spill - 1):
        raise ValueError(f"{name} has the spill {info.spill}")
    if len(info.digits) > MAX_DIGITS:
        raise ValueError(f"{name} has {len(info.digits)} digits")
    limits = {"slot": slots, "ciphertext": MAX_CIPHERTEXTS, "complex": 2}
    for digit in info.digits:
        if not 0 <= digit.axis < len(info.shape):
            raise ValueError(f"{name} has a digit of axis {digit.axis}")
        if not all(1 <= n <= MAX_ELEMENTS for n in (digit.divisor, digit.radix, digit.stride)):
            raise ValueError(f"{name} has a digit with a number out of range")
        reach = min(digit.radix - 1, (info.shape[digit.axis] - 1) // digit.divisor)
        if reach * digit.stride >= limits[digit.place]:
            raise ValueError(f"{name} has a digit that reaches past its place")


def _check_positions(name: str, layout: Layout) -> None:
    try:
        layout.verify()
    except InternalError as error:
        raise ValueError(str(error)) from None
    if layout.ciphertexts > MAX_CIPHERTEXTS or layout.positions[2].max() > 1:
        raise ValueError(f"{name} has digits that together reach past their place")


def _check_tensors(kind: str, tensors: Sequence[InputInfo] | Sequence[OutputInfo]) -> None:
    names = [tensor.name for tensor in tensors]
    for tensor in tensors:
        name = f"{kind} {tensor.name}"
        if names.count(tensor.name) > 1:
            raise ValueError(f"there are two {kind}s {tensor.name}")
        _check_shape(name, tensor.shape)
        if not tensor.low <= tensor.high:
            raise ValueError(f"{name} has the range {tensor.low:g} to {tensor.high:g}")


def _check_ends(program: Program, layouts: Sequence[Layout], arrays: Arrays) -> None:
    """Layouts of outputs, layouts and elements of inputs."""
    for tensor in program.outputs:
        name = f"output {tensor.name}"
        _index(tensor.layout, layouts, f"layout of {name}")
        if program.batch * math.prod(tensor.shape) != layouts[tensor.layout].size:
            raise ValueError(f"{name} does not have the shape of its layout")
    for given in program.inputs:
        name, size = f"input {given.name}", program.batch * math.prod(given.shape)
        for view in given.views:
            _index(view.layout, layouts, f"layout of {name}")
            count = size
            if view.elements:
                elements = named_array(arrays, view.elements, np.int32)
                count = elements.size
                if elements.ndim != 1 or np.any((elements < 0) | (elements >= size)):
                    raise ValueError(f"{name} has a view of elements it does not have")
            if count != layouts[view.layout].size:
                raise ValueError(f"{name} does not have the shape of its layout")


def _check_vector(name: str, info: VectorInfo, layouts: Sequence[Layout], arrays: Arrays) -> None:
    _index(info.layout, layouts, f"layout of {name}")
    values = named_array(arrays, info.values, np.floating)
    shape = layouts[info.layout].shape
    try:
        fits = np.broadcast_shapes(values.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"{name} does not fit its layout")
    if not np.all(np.isfinite(values)):
        raise ValueError(f"{name} has values that are not finite")


def _check_map(
    name: str, info: MapInfo, program: Program, layouts: Sequence[Layout], arrays: Arrays
) -> None:
    for number in (info.source, info.target):
        _index(number, layouts, f"layout of {name}")
    _index(info.layer, program.layers, f"layer of {name}")
    source, target = layouts[info.source], layouts[info.target]
    for term in info.terms:
        values = named_array(arrays, term.values, np.floating)
        out = named_array(arrays, term.out_index, np.int32)
        inn = named_array(arrays, term.in_index, np.int32)
        if not values.ndim == out.ndim == inn.ndim:
            raise ValueError(f"{name} has a term whose arrays differ in rank")
        try:
            shape = np.broadcast_shapes(values.shape, out.shape, inn.shape)
        except ValueError:
            raise ValueError(f"{name} has a term whose arrays do not broadcast") from None
        if not 0 < math.prod(shape) <= MAX_POINTS:
            raise ValueError(f"{name} has a term of {math.prod(shape)} points")
        for index, size in ((out, target.size), (inn, source.size)):
            if int(index.min()) < -1 or int(index.max()) >= size:
                raise ValueError(f"{name} has an index outside its tensor")
        if not np.all(np.isfinite(values)):
            raise ValueError(f"{name} has weights that are not finite")
    if source.is_complex:
        raise ValueError(f"{name} reads imaginary parts")
    if (info.packing == "direct") != target.is_complex:
        raise ValueError(f"{name} has the packing {info.packing}, which its target does not suit")
    if info.packing == "fold" and min(source.period, target.period) < 2:
        raise ValueError(f"{name} folds a single slot")
    if not 0 <= info.copies < source.period or info.copies & (info.copies - 1):
        raise ValueError(f"{name} reads copies at the distance {info.copies}")
    if np.any(source.positions[1] & info.copies):
        raise ValueError(f"{name} reads copies where its input has elements")
    empty = LinearMap((), target.size, source.size)
    dm = DiagonalMap(empty, source, target, info.packing, 0, info.copies)
    if dm.reach <= max(target.spill, info.copies):
        raise ValueError(f"{name} has no room for its spill")
    _check_diagonals(name, info, dm, arrays)


def _check_diagonals(name: str, info: MapInfo, dm: DiagonalMap, arrays: Arrays) -> None:
    if not 0 <= info.window < dm.modulus:
        raise ValueError(f"{name} has the window {info.window} of {dm.modulus}")
    rows = named_array(arrays, info.diagonals, np.int32)
    if rows.ndim != 2 or rows.shape[1] != 3:
        raise ValueError(f"{name} has a malformed list of diagonals")
    low = np.array([0, 0, -info.window - dm.target.spill])
    high = np.array([dm.accumulators, dm.source.ciphertexts, dm.reach - info.window])
    high[2] += info.copies
    if np.any(rows < low) or np.any(rows >= high):
        raise ValueError(f"{name} has a diagonal out of range")
    if np.unique(rows, axis=0).shape != rows.shape:
        raise ValueError(f"{name} has one diagonal twice")
    if len(rows) * dm.period * 16 > MAX_EXPANDED_BYTES:
        raise ValueError(f"{name} has too many diagonals")


class _Operations:
    """Checks the operations in order and collects their types."""

    def __init__(
        self, program: Program, layouts: Sequence[Layout], arrays: Arrays, parameters: Parameters
    ) -> None:
        self.program, self.layouts, self.arrays = program, layouts, arrays
        self.parameters, self.slots = parameters, parameters.slots
        self.rotations = set(program.keys.rotations)
        self.types: list[ValueType] = []
        self.extended_uses: set[int] = set()
        self.parts: dict[str, set[tuple[int, int]]] = {"input": set(), "output": set()}

    def check(self) -> list[ValueType]:
        for number, info in enumerate(self.program.operations):
            self._check_operation(f"operation {number} ({info.op})", number, info)
        self._check_parts("input", self.program.inputs)
        self._check_parts("output", self.program.outputs)
        return self.types

    def _check_parts(self, kind: str, tensors: Sequence[InputInfo | OutputInfo]) -> None:
        for number, tensor in enumerate(tensors):
            for part in range(self._parts(tensor)):
                if (number, part) not in self.parts[kind]:
                    raise ValueError(f"no operation is part {part} of {kind} {tensor.name}")

    def _parts(self, tensor: InputInfo | OutputInfo) -> int:
        if isinstance(tensor, InputInfo):
            return sum(self.layouts[view.layout].ciphertexts for view in tensor.views)
        return self.layouts[tensor.layout].ciphertexts

    def _check_operation(self, place: str, number: int, info: OperationInfo) -> None:
        program = self.program
        _index(info.layer, program.layers, f"layer of {place}")
        if any(not 0 <= i < number for i in info.inputs):
            raise ValueError(f"{place} uses a value that is not made yet")
        operands = [self.types[i] for i in info.inputs]
        try:
            found = result_type(info.op, operands, info.attributes, program.parameters.prime_bits)
        except OperationError as error:
            raise ValueError(f"{place} {error}") from None
        levels = program.parameters.levels
        if not 0 <= found.level <= levels:
            raise ValueError(f"{place} is at level {found.level} of {levels}")
        if not abs(found.scale) <= MAX_SCALE_BITS:
            raise ValueError(f"{place} is at scale 2^{found.scale:g}")
        for operand, kind in zip(info.inputs, operands, strict=True):
            if kind.kind == "extended":  # backends add in place
                if operand in self.extended_uses:
                    raise ValueError(f"{place} uses an extended value a second time")
                self.extended_uses.add(operand)
        self._check_rotations(place, info)
        if info.op == "dot_plain":
            self._check_products(place, info)
        elif info.op in ("mul_plain", "add_plain"):
            vector = info.attributes["vector"]
            _index(vector, program.vectors, f"vector of {place}")
            self._check_part(place, info, self.layouts[program.vectors[vector].layout].ciphertexts)
        elif info.op in ("input", "output"):
            self._check_end(place, info)
        elif info.op == "refresh":
            self._check_refresh(place, info, operands[0])
        self.types.append(found)

    def _check_rotations(self, place: str, info: OperationInfo) -> None:
        keys, slots = self.program.keys, self.slots
        for offset in automorphisms(info.op, info.attributes):
            if abs(offset) >= slots or (offset and offset % slots not in self.rotations):
                raise ValueError(f"{place} rotates by {offset}, for which no key is listed")
        if info.op == "conjugate" and not keys.conjugation:
            raise ValueError(f"{place} needs a conjugation key, which is not listed")
        if info.op in ("mul", "square") and not keys.relinearisation:
            raise ValueError(f"{place} needs a relinearisation key, which is not listed")
        if info.op == "rotate_hoisted":
            value, digits = info.inputs
            made = self.program.operations[digits]
            if made.op != "hoist" or made.inputs != (value,):
                raise ValueError(f"{place} has the digits of another value")

    def _check_refresh(self, place: str, info: OperationInfo, operand: ValueType) -> None:
        a, parameters = info.attributes, self.parameters
        _index(a["series"], self.program.series, f"series of {place}")
        if a["slots"] not in self.program.keys.refreshes or not self.program.keys.relinearisation:
            raise ValueError(f"{place} needs keys of refreshes, which are not listed")
        assert parameters.bootstrap is not None  # or there were no series
        if operand.level > parameters.deepest_operand:
            raise ValueError(f"{place} has an operand at level {operand.level}")
        if a["level"] < parameters.bootstrap.output_level:
            raise ValueError(f"{place} declares the level {a['level']}")

    def _check_products(self, place: str, info: OperationInfo) -> None:
        a = info.attributes
        for m, diagonal in zip(a["maps"], a["diagonals"], strict=True):
            _index(m, self.program.maps, f"map of {place}")
            listed = self.arrays[self.program.maps[m].diagonals]
            _index(diagonal, listed, f"diagonal of {place}")
        if abs(a["rotation"]) >= self.slots:
            raise ValueError(f"{place} turns its constants by {a['rotation']}")

    def _check_end(self, place: str, info: OperationInfo) -> None:
        """An input or output: one operation per ciphertext of its tensor."""
        a = info.attributes
        tensors = self.program.inputs if info.op == "input" else self.program.outputs
        _index(a["tensor"], tensors, f"tensor of {place}")
        self._check_part(place, info, self._parts(tensors[a["tensor"]]))
        key = (a["tensor"], a["part"])
        if key in self.parts[info.op]:
            raise ValueError(f"{place} is part {key[1]} of tensor {key[0]} a second time")
        self.parts[info.op].add(key)

    def _check_part(self, place: str, info: OperationInfo, count: int) -> None:
        part = info.attributes["part"]
        if not 0 <= part < count:
            raise ValueError(f"{place} names part {part} of {count}")


def _index(number: int, items: Sized, what: str) -> None:
    if not 0 <= number < len(items):
        raise ValueError(f"the {what} is number {number} of {len(items)}")

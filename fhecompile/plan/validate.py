"""Validation of an untrusted plan: everything it refers to exists and every operation type-checks.

Runs before anything else looks at a plan. Sizes are bounded before arrays are made from them, so
that a plan cannot ask for unbounded memory.
"""

from __future__ import annotations

import math

import numpy as np

from fhecompile.ckks.operations import OperationError, ValueType, automorphisms, result_type
from fhecompile.ckks.parameters import MAX_LOG_QP, MAX_PRIME_BITS, Parameters
from fhecompile.plan.container import Arrays
from fhecompile.plan.schema import LayoutInfo, MapInfo, Program

MAX_ELEMENTS = 1 << 28


def check_program(program: Program, arrays: Arrays) -> list[ValueType]:
    """The type of every operation's value; ValueError with the first problem found."""
    slots = _check_parameters(program)
    for number, layout in enumerate(program.layouts):
        _check_layout(f"layout {number}", layout, slots)
    for kind, tensors in (("input", program.inputs), ("output", program.outputs)):
        for tensor in tensors:
            _index(tensor.layout, program.layouts, f"layout of {kind} {tensor.name}")
            if math.prod(tensor.shape) != math.prod(program.layouts[tensor.layout].shape):
                raise ValueError(f"{kind} {tensor.name} does not have the shape of its layout")
    for number, vector in enumerate(program.vectors):
        _index(vector.layout, program.layouts, f"layout of vector {number}")
        values = _array(arrays, vector.values, np.floating)
        try:
            fits = np.broadcast_shapes(values.shape, program.layouts[vector.layout].shape)
        except ValueError:
            fits = ()
        if fits != program.layouts[vector.layout].shape:
            raise ValueError(f"vector {number} does not fit its layout")
    for number, info in enumerate(program.maps):
        _check_map(f"map {number}", info, program, arrays)
    return _check_operations(program, arrays, slots)


def _check_parameters(program: Program) -> int:
    p = program.parameters
    if p.ring_dimension not in {1 << k for k in range(4, 18)}:
        raise ValueError(f"ring dimension {p.ring_dimension}")
    if not (1 <= p.levels <= 200 and 1 <= p.digits <= p.levels + 1):
        raise ValueError(f"{p.levels} levels and {p.digits} digits")
    if not (15 <= p.prime_bits <= MAX_PRIME_BITS and 15 <= p.first_prime_bits <= MAX_PRIME_BITS):
        raise ValueError(f"primes of {p.prime_bits} and {p.first_prime_bits} bits")
    if p.security_bits not in MAX_LOG_QP:
        raise ValueError(f"security of {p.security_bits} bits")
    parameters = Parameters(
        p.ring_dimension,
        p.levels,
        p.prime_bits,
        p.first_prime_bits,
        p.digits,
        p.security_bits,
        p.insecure,
    )
    if not p.insecure and not parameters.is_secure():
        raise ValueError("its parameters are not secure but are declared to be")
    return parameters.slots


def _check_layout(name: str, info: LayoutInfo, slots: int) -> None:
    if not info.shape or min(info.shape) < 1 or math.prod(info.shape) > MAX_ELEMENTS:
        raise ValueError(f"{name} has the shape {info.shape}")
    if info.period < 1 or info.period & (info.period - 1) or info.period > slots:
        raise ValueError(f"{name} has the period {info.period}")
    for digit in info.digits:
        if not 0 <= digit.axis < len(info.shape):
            raise ValueError(f"{name} has a digit of axis {digit.axis}")
        if min(digit.divisor, digit.radix, digit.stride) < 1:
            raise ValueError(f"{name} has the digit {digit}")
        limit = {"slot": slots, "ciphertext": 4096, "complex": 2}[digit.place]
        reach = min(digit.radix - 1, (info.shape[digit.axis] - 1) // digit.divisor)
        if reach * digit.stride >= limit:
            raise ValueError(f"{name} has a digit that reaches past its place")


def _check_map(name: str, info: MapInfo, program: Program, arrays: Arrays) -> None:
    for number in (info.source, info.target):
        _index(number, program.layouts, f"layout of {name}")
    _index(info.layer, program.layers, f"layer of {name}")
    in_size = math.prod(program.layouts[info.source].shape)
    out_size = math.prod(program.layouts[info.target].shape)
    for term in info.terms:
        values = _array(arrays, term.values, np.floating)
        out = _array(arrays, term.out_index, np.int32)
        inn = _array(arrays, term.in_index, np.int32)
        if not values.ndim == out.ndim == inn.ndim:
            raise ValueError(f"{name} has a term whose arrays differ in rank")
        try:
            shape = np.broadcast_shapes(values.shape, out.shape, inn.shape)
        except ValueError:
            raise ValueError(f"{name} has a term whose arrays do not broadcast") from None
        if math.prod(shape) > MAX_ELEMENTS:
            raise ValueError(f"{name} has a term of {math.prod(shape)} points")
        for index, size in ((out, out_size), (inn, in_size)):
            if index.size and (int(index.min()) < -1 or int(index.max()) >= size):
                raise ValueError(f"{name} has an index outside its tensor")
        if not np.all(np.isfinite(values)):
            raise ValueError(f"{name} has weights that are not finite")
    diagonals = _array(arrays, info.diagonals, np.int32)
    if diagonals.ndim != 2 or diagonals.shape[1] != 3:
        raise ValueError(f"{name} has a malformed list of diagonals")


def _check_operations(program: Program, arrays: Arrays, slots: int) -> list[ValueType]:
    types: list[ValueType] = []
    levels = program.parameters.levels
    keys = set(program.keys.rotations)
    for number, info in enumerate(program.operations):
        place = f"operation {number} ({info.op})"
        _index(info.layer, program.layers, f"layer of {place}")
        if any(not 0 <= i < number for i in info.inputs):
            raise ValueError(f"{place} uses a value that is not made yet")
        try:
            found = result_type(
                info.op,
                [types[i] for i in info.inputs],
                info.attributes,
                program.parameters.prime_bits,
            )
        except OperationError as error:
            raise ValueError(f"{place} {error}") from None
        if not 0 <= found.level <= levels or not math.isfinite(found.scale):
            raise ValueError(f"{place} is at level {found.level} of {levels}")
        for offset in automorphisms(info.op, info.attributes):
            if offset % slots and offset % slots not in keys:
                raise ValueError(f"{place} rotates by {offset}, for which no key is listed")
        if info.op == "conjugate" and not program.keys.conjugation:
            raise ValueError(f"{place} needs a conjugation key, which is not listed")
        if info.op in ("mul", "square") and not program.keys.relinearisation:
            raise ValueError(f"{place} needs a relinearisation key, which is not listed")
        _check_references(place, info.op, info.attributes, program, arrays)
        types.append(found)
    return types


def _check_references(
    place: str, op: str, attributes: dict[str, object], program: Program, arrays: Arrays
) -> None:
    if op in ("mul_plain", "add_plain"):
        _index(attributes["vector"], program.vectors, f"vector of {place}")
        part = attributes["part"]
        if not isinstance(part, int) or not 0 <= part < 4096:
            raise ValueError(f"{place} names part {part}")
    elif op in ("input", "output"):
        tensors = program.inputs if op == "input" else program.outputs
        _index(attributes["tensor"], tensors, f"tensor of {place}")
    elif op == "dot_plain":
        maps, numbers = attributes["maps"], attributes["diagonals"]
        assert isinstance(maps, list) and isinstance(numbers, list)
        for m, number in zip(maps, numbers, strict=True):
            _index(m, program.maps, f"map of {place}")
            _index(number, arrays[program.maps[m].diagonals], f"diagonal of {place}")


def _index(number: object, items: object, what: str) -> None:
    length = len(items)  # type: ignore[arg-type]
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < length:
        raise ValueError(f"the {what} is number {number} of {length}")


def _array(arrays: Arrays, name: str, kind: type) -> np.ndarray[tuple[int, ...], np.dtype]:  # type: ignore[type-arg]
    array = arrays.get(name)
    if array is None:
        raise ValueError(f"the array {name} is missing")
    if not np.issubdtype(array.dtype, kind):
        raise ValueError(f"the array {name} has the type {array.dtype}")
    return array

"""Reads the text form of both graphs (`fhecompile.ir.text`).

`tensor_rules.verify` and `slots.verify` say whether a graph that was read is right.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any, TypeVar

from fhecompile.ckks.diagonals import Diagonal, DiagonalMap
from fhecompile.ckks.layout import Digit, Layout
from fhecompile.ckks.linear_map import LinearMap
from fhecompile.ckks.operations import ValueType
from fhecompile.ir.slots import MapConstant, SlotGraph, SlotNode, VectorConstant
from fhecompile.ir.tensor import Node, TensorGraph
from fhecompile.ir.text import KINDS, NODES
from fhecompile.ir.text_line import Constants, Line, read_head, read_lines

T = TypeVar("T")


def parse_tensor_graph(text: str, constants: Constants) -> TensorGraph:
    """The tensor graph of a text; `constants` holds its arrays by hash.

    Raises:
        FheCompileError: `ir-syntax`, with the number of the line that cannot be read.
    """
    lines = read_lines(text, constants)
    head = read_head(lines, "tensor_graph")
    graph = TensorGraph(head.string())
    head.end()
    for line in lines:
        graph.add(_tensor_node(line, graph))
        line.end()
    return graph


def parse_slot_graph(text: str, constants: Constants) -> SlotGraph:
    """The slot graph of a text; `constants` holds its arrays by hash.

    Raises:
        FheCompileError: `ir-syntax`, with the number of the line that cannot be read.
    """
    lines = read_lines(text, constants)
    head = read_head(lines, "slot_graph")
    head.expect("{", "prime_bits", "=")
    graph = SlotGraph(head.integer())
    head.expect("}")
    head.end()
    layouts: list[Layout] = []
    for line in lines:
        if line.accept("%"):
            node = _slot_node(line, graph)
            graph.nodes[node.id] = node
            graph.next_id = max(graph.next_id, node.id + 1)
        elif line.accept("layout"):
            _numbered(line, len(layouts))
            layouts.append(_layout(line))
        elif line.accept("map"):
            _numbered(line, len(graph.maps))
            graph.maps.append(_map_constant(line, layouts))
        elif line.accept("vector"):
            _numbered(line, len(graph.vectors))
            graph.vectors.append(_vector_constant(line, layouts))
        else:
            line.fail("a layout, a map, a vector or a node")
        line.end()
    return graph


def _operands(line: Line, read: Callable[[], T], made: Container[T]) -> tuple[T, ...]:
    """The operands in parentheses, which must be made already; `read` reads one name."""
    names = []
    for _ in line.items("(", ")"):
        line.expect("%")
        names.append(read())
        if names[-1] not in made:
            line.refuse(f"%{names[-1]} is used before it is made")
    return tuple(names)


def _tensor_node(line: Line, graph: TensorGraph) -> Node:
    line.expect("%")
    name = line.name()
    if name in graph.nodes:
        line.refuse(f"%{name} is made twice")
    line.expect("=")
    op = line.name("an operation")
    inputs = _operands(line, line.name, graph.nodes)
    kind, attributes = _tensor_attributes(line, op)
    line.expect(":")
    shape = line.shape()
    source = line.string() if line.accept("//") else ""
    return kind(name=name, inputs=inputs, shape=shape, source=source, **attributes)


def _tensor_attributes(line: Line, op: str) -> tuple[type[Node], dict[str, Any]]:
    """The class of a node and what its braces hold."""
    attributes: dict[str, Any] = {}
    match op:
        case "affine":
            maps: list[LinearMap] = []
            line.expect("{")
            while line.accept(f"map{len(maps)}="):
                maps.append(line.linear_map())
                line.expect(",")
            line.expect("bias", "=")
            attributes = {"maps": tuple(maps), "bias": line.array()}
            if line.accept(","):
                line.expect("relayout")
                attributes["relayout"] = True
        case "poly" | "chebyshev":
            line.expect("{", "coefficients", "=")
            attributes = {"coefficients": line.array()}
        case "function":
            line.expect("{", "function", "=")
            attributes = {"function": line.string()}
            if line.accept(","):
                line.expect("share", "=")
                attributes["share"] = line.array()
        case "refresh":
            line.expect("{")
            for key in ("unit", "gain", "low", "high"):
                line.expect(key, "=")
                attributes[key] = line.decimal("a number")
                line.expect(",")
            line.expect("coefficients", "=")
            attributes["coefficients"] = line.array()
        case "output":
            line.expect("{", "label", "=")
            attributes = {"label": line.string()}
        case "input" if line.accept("{"):
            line.expect("given", "=")
            attributes = {"given": line.string()}
            line.expect(",", "shape", "=")
            attributes["given_shape"] = line.shape()
            line.expect(",", "elements", "=")
            attributes["elements"] = line.array()
        case "input" | "mul" | "add":
            pass
        case _:
            line.refuse(f"there is no operation {op} in a tensor graph")
    if attributes:
        line.expect("}")
    return NODES[op], attributes


def _numbered(line: Line, wanted: int) -> None:
    """The number of a table's next entry, and the equals sign."""
    number = line.integer()
    if number != wanted:
        line.refuse(f"expected number {wanted} of its table instead of {number}")
    line.expect("=")


def _layout(line: Line) -> Layout:
    line.expect("layout<")
    shape = line.shape()
    line.expect("in")
    slots = line.integer()
    line.expect("period")
    period = line.integer()
    spill = line.integer() if line.accept("spill") else 0
    line.expect(":")
    digits = []
    while not line.accept(">"):
        axis = line.integer()
        line.expect("/")
        divisor = line.integer()
        line.expect("%")
        radix = line.integer()
        line.expect("@")
        place: Any = line.match("(slot|ciphertext|complex)", "slot, ciphertext or complex")[1]
        line.expect("*")
        digits.append(Digit(axis, divisor, radix, place, line.integer()))
    return Layout(shape, slots, period, tuple(digits), spill)


def _layout_reference(line: Line, layouts: Sequence[Layout]) -> Layout:
    line.expect("layout")
    number = line.integer()
    if not 0 <= number < len(layouts):
        line.refuse(f"layout{number} is used before it is made")
    return layouts[number]


def _map_constant(line: Line, layouts: Sequence[Layout]) -> MapConstant:
    line.expect("map", "(")
    source = _layout_reference(line, layouts)
    line.expect(",")
    target = _layout_reference(line, layouts)
    line.expect(")", "{", "packing", "=")
    packing: Any = line.match('"(real|direct|pair|fold)"', "a packing")[1]
    line.expect(",", "window", "=")
    window = line.integer()
    line.expect(",", "copies", "=")
    copies = line.integer()
    line.expect(",", "map", "=")
    linear_map = line.linear_map()
    line.expect(",", "diagonals", "=")
    rows = line.array()
    line.expect("}")
    if rows.ndim != 2 or rows.shape[1] != 3:
        line.refuse(f"the list of diagonals has the shape {rows.shape}")
    diagonals = [Diagonal(*map(int, row)) for row in rows]
    dm = DiagonalMap(linear_map, source, target, packing, window, copies)
    return MapConstant(_layer(line), dm, diagonals)


def _vector_constant(line: Line, layouts: Sequence[Layout]) -> VectorConstant:
    line.expect("vector", "(")
    layout = _layout_reference(line, layouts)
    line.expect(")", "{", "values", "=")
    values = line.array()
    line.expect("}")
    return VectorConstant(values, layout)


def _slot_node(line: Line, graph: SlotGraph) -> SlotNode:
    number = line.integer()
    if number in graph.nodes:
        line.refuse(f"%{number} is made twice")
    line.expect("=")
    op = line.name("an operation")
    inputs = _operands(line, line.integer, graph.nodes)
    attributes: dict[str, Any] = {}
    if line.accept("{"):
        while not attributes or not line.accept("}"):
            if attributes:
                line.expect(",")
            key = line.name("an attribute")
            line.expect("=")
            attributes[key] = line.value()
    line.expect(":")
    kind = KINDS[line.match(f"({'|'.join(KINDS)})", "ct, digits or ext")[1]]
    line.expect("L")
    level = line.integer()
    line.expect("s")
    value_type = ValueType(kind, level, line.decimal("a scale such as 62"))
    return SlotNode(number, op, inputs, attributes, value_type, _layer(line))


def _layer(line: Line) -> str:
    line.expect("//")
    return line.name("a layer")

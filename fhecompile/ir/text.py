r"""The text form of both graphs: what is printed is what is parsed.

One node per line, with stable names; constants are shown as dtype[shape]#hash, the hash being the
first digits of the SHA-256 of the array's bytes. A tensor graph:

    tensor_graph "tiny"
    %image = input() : 1x1x8x8
    %conv = affine(%image) {map0=[(f64[2,3,3,1,1]#0bd4e9a1, i32[...]#..., i32[...]#...)] :
            64 -> 72, bias=f64[1,2,1,1]#906cb204} : 1x2x6x6  // "nets.0.conv"
    %square = poly(%conv) {coefficients=f64[3]#4a0cf93b} : 1x2x6x6
    %gate = function(%conv) {function="sigmoid"} : 1x2x6x6

(without the line break). A slot graph lists its tables first; a ciphertext operation's type is kind
(ct, digits, ext), level and scale:

    slot_graph {prime_bits=59}
    layout0 = layout<1x1x8x8 in 512 period 64: 3/1%8@slot*1 2/1%8@slot*8>
    map0 = map(layout0, layout1) {packing="real", window=0, copies=0, map=[...] : 64 -> 72,
           diagonals=i32[9,3]#35a6b7c8}  // conv
    vector0 = vector(layout1) {values=f64[1,2,1,1]#906cb204}
    %0 = input() {level=0, part=0, scale=61.0, tensor=0} : ct L0 s61  // image
    %1 = rotate(%0) {offset=8} : ct L0 s61  // conv

Attributes are JSON values in alphabetical order. Empty lines and lines that start with // are
skipped. The parsers read the form; `tensor.verify` and `slots.verify` say whether a graph is right.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Container, Sequence
from typing import Any, TypeVar

import numpy as np

from fhecompile.ckks.diagonals import Diagonal, DiagonalMap
from fhecompile.ckks.layout import Digit, Layout
from fhecompile.ckks.linear_map import LinearMap
from fhecompile.ckks.operations import Kind, ValueType
from fhecompile.errors import InternalError
from fhecompile.ir.slots import MapConstant, SlotGraph, SlotNode, VectorConstant
from fhecompile.ir.tensor import (
    Add,
    Affine,
    Chebyshev,
    Function,
    Input,
    Mul,
    Node,
    Output,
    Poly,
    TensorGraph,
)
from fhecompile.ir.text_line import DTYPES, Array, Constants, Line, read_head, read_lines

T = TypeVar("T")

HASH_DIGITS = 8
_KINDS: dict[str, Kind] = {"ct": "ciphertext", "digits": "digits", "ext": "extended"}
_NODES: dict[str, type[Node]] = {
    kind.__name__.lower(): kind
    for kind in (Input, Affine, Poly, Chebyshev, Mul, Add, Function, Output)
}


def print_tensor_graph(graph: TensorGraph) -> str:
    """The text form of a tensor graph."""
    return _Printer().tensor_graph(graph)


def print_slot_graph(graph: SlotGraph) -> str:
    """The text form of a slot graph."""
    return _Printer().slot_graph(graph)


def collect_constants(graph: TensorGraph | SlotGraph) -> dict[str, Array]:
    """The arrays a graph's text refers to, by hash."""
    printer = _Printer()
    if isinstance(graph, TensorGraph):
        printer.tensor_graph(graph)
    else:
        printer.slot_graph(graph)
    return printer.constants


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


# ---------------------------------------------------------------------------- printing


class _Printer:
    """Prints graphs and keeps the constants it has named."""

    def __init__(self) -> None:
        self.constants: dict[str, Array] = {}

    def tensor_graph(self, graph: TensorGraph) -> str:
        lines = [f"tensor_graph {json.dumps(graph.name)}"]
        for node in graph:
            operands = ", ".join(f"%{name}" for name in node.inputs)
            attributes = self.tensor_attributes(node)
            braces = f" {{{', '.join(attributes)}}}" if attributes else ""
            source = f"  // {json.dumps(node.source)}" if node.source else ""
            shape = _shape_text(node.shape)
            lines.append(f"%{node.name} = {node.op}({operands}){braces} : {shape}{source}")
        return "\n".join(lines) + "\n"

    def tensor_attributes(self, node: Node) -> list[str]:
        match node:
            case Affine():
                maps = [f"map{k}={self.linear_map(m)}" for k, m in enumerate(node.maps)]
                return [*maps, f"bias={self.array(node.bias)}", *(["relayout"] * node.relayout)]
            case Input() if node.elements is not None:
                of = [f"given={json.dumps(node.given)}", f"shape={_shape_text(node.given_shape)}"]
                return [*of, f"elements={self.array(node.elements)}"]
            case Poly() | Chebyshev():
                return [f"coefficients={self.array(node.coefficients)}"]
            case Function():
                share = [] if node.is_whole() else [f"share={self.array(node.share)}"]
                return [f"function={json.dumps(node.function)}", *share]
            case Output():
                return [f"label={json.dumps(node.label)}"]
        return []

    def slot_graph(self, graph: SlotGraph) -> str:
        layouts: dict[str, int] = {}

        def number(layout: Layout) -> str:
            return f"layout{layouts.setdefault(str(layout), len(layouts))}"

        constants = []
        for k, m in enumerate(graph.maps):
            dm = m.diagonal_map
            rows = [(d.accumulator, d.ciphertext, d.offset) for d in m.diagonals]
            diagonals = np.array(rows, np.int32).reshape(-1, 3)
            constants.append(
                f"map{k} = map({number(dm.source)}, {number(dm.target)}) "
                f'{{packing="{dm.packing}", window={dm.window}, copies={dm.copies}, '
                f"map={self.linear_map(dm.linear_map)}, "
                f"diagonals={self.array(diagonals)}}}  // {m.layer}"
            )
        for k, v in enumerate(graph.vectors):
            values = self.array(np.asarray(v.values))
            constants.append(f"vector{k} = vector({number(v.layout)}) {{values={values}}}")
        tables = [f"layout{k} = {text}" for text, k in layouts.items()]
        nodes = [_slot_line(node) for node in graph]
        head = f"slot_graph {{prime_bits={graph.prime_bits}}}"
        return "\n".join([head, *tables, *constants, *nodes]) + "\n"

    def linear_map(self, m: LinearMap) -> str:
        terms = [
            f"({', '.join(self.array(a) for a in (t.values, t.out_index, t.in_index))})"
            for t in m.terms
        ]
        return f"[{', '.join(terms)}] : {m.in_size} -> {m.out_size}"

    def array(self, array: Array) -> str:
        """dtype[shape]#hash."""
        short = next((name for name, dtype in DTYPES.items() if array.dtype == dtype), None)
        if short is None:
            raise InternalError(f"constants of type {array.dtype} have no text form")
        content = array.tobytes()
        name = hashlib.sha256(content).hexdigest()[:HASH_DIGITS]
        if self.constants.setdefault(name, array).tobytes() != content:
            raise InternalError(f"two constants have the hash {name}")
        return f"{short}[{','.join(map(str, array.shape))}]#{name}"


def _slot_line(node: SlotNode) -> str:
    operands = ", ".join(f"%{i}" for i in node.inputs)
    attributes = ", ".join(f"{k}={json.dumps(v)}" for k, v in sorted(node.attributes.items()))
    braces = f" {{{attributes}}}" if attributes else ""
    kind = next(short for short, kind in _KINDS.items() if kind == node.type.kind)
    scale = repr(float(node.type.scale)).removesuffix(".0")
    value_type = f"{kind} L{node.type.level} s{scale}"
    return f"%{node.id} = {node.op}({operands}){braces} : {value_type}  // {node.layer}"


def _shape_text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


# ---------------------------------------------------------------------------- reading


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
    return _NODES[op], attributes


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
    kind = _KINDS[line.match(f"({'|'.join(_KINDS)})", "ct, digits or ext")[1]]
    line.expect("L")
    level = line.integer()
    line.expect("s")
    value_type = ValueType(kind, level, line.decimal("a scale such as 62"))
    return SlotNode(number, op, inputs, attributes, value_type, _layer(line))


def _layer(line: Line) -> str:
    line.expect("//")
    return line.name("a layer")

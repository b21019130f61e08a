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
skipped. `fhecompile.ir.text_reader` reads the form.
"""

from __future__ import annotations

import hashlib
import json
from typing import TypeVar

import numpy as np

from fhecompile.ckks.layout import Layout
from fhecompile.ckks.linear_map import LinearMap
from fhecompile.ckks.operations import Kind
from fhecompile.errors import InternalError
from fhecompile.ir.slots import SlotGraph, SlotNode
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
    Refresh,
    TensorGraph,
)
from fhecompile.ir.text_line import DTYPES, Array

T = TypeVar("T")

HASH_DIGITS = 8
KINDS: dict[str, Kind] = {"ct": "ciphertext", "digits": "digits", "ext": "extended"}
NODES: dict[str, type[Node]] = {
    kind.__name__.lower(): kind
    for kind in (Input, Affine, Poly, Chebyshev, Mul, Add, Function, Refresh, Output)
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
            case Refresh():
                numbers = [f"{k}={getattr(node, k)!r}" for k in ("unit", "gain", "low", "high")]
                return [*numbers, f"coefficients={self.array(node.coefficients)}"]
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
    kind = next(short for short, kind in KINDS.items() if kind == node.type.kind)
    scale = repr(float(node.type.scale)).removesuffix(".0")
    value_type = f"{kind} L{node.type.level} s{scale}"
    return f"%{node.id} = {node.op}({operands}){braces} : {value_type}  // {node.layer}"


def _shape_text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"

"""The text form: what is printed is what is parsed; what cannot be read is named by its line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhecompile.ckks.diagonals import DiagonalMap
from fhecompile.ckks.layout import Digit, Layout, vector_layout
from fhecompile.ckks.linear_map import dense, diagonal, selection
from fhecompile.errors import FheCompileError, InternalError
from fhecompile.ir import slots, tensor_rules
from fhecompile.ir.evaluate import evaluate
from fhecompile.ir.slots import MapConstant, SlotGraph, VectorConstant
from fhecompile.ir.tensor import Add, Affine, Function, Input, Mul, Output, Poly, TensorGraph
from fhecompile.ir.text import collect_constants, print_slot_graph, print_tensor_graph
from fhecompile.ir.text_reader import parse_slot_graph, parse_tensor_graph

Golden = Callable[[str, str], None]
Graphs = Callable[..., st.SearchStrategy[Any]]


@pytest.fixture
def tensor_graph() -> TensorGraph:
    """Every kind of node; the weights are sixteenths, the same bytes on every machine."""
    graph = TensorGraph("small")
    graph.add(Input(name="image", shape=(1, 2, 4)))
    weights = (np.arange(24.0).reshape(3, 8) - 12) / 16
    graph.add(
        Affine(
            name="dense",
            inputs=("image",),
            shape=(1, 3),
            maps=(dense(weights),),
            bias=np.array([[0.5, 0.0, -0.5]]),
            source="nets.0.dense",
        )
    )
    scale = diagonal(np.array([1.0, 2.0, 4.0]), (1, 3))
    graph.add(
        Affine(
            name="mixed.1",
            inputs=("dense", "image"),
            shape=(1, 3),
            maps=(scale, selection(np.array([7, -1, 0]), 8)),
            bias=np.zeros((1, 1)),
            source='a "quoted"\tname',
        )
    )
    coefficients = np.array([0.25, 0.0, 1.0])[:, None, None]
    graph.add(Poly(name="square", inputs=("mixed.1",), shape=(1, 3), coefficients=coefficients))
    graph.add(Mul(name="gate", inputs=("square", "dense"), shape=(1, 3)))
    graph.add(Add(name="sum", inputs=("gate", "gate"), shape=(1, 3)))
    graph.add(Function(name="soft", inputs=("sum",), shape=(1, 3), function="sigmoid"))
    share = np.array([[0.75, 0.5, 1.0]])
    graph.add(Function(name="sloped", inputs=("soft",), shape=(1, 3), function="relu", share=share))
    graph.add(Output(name="sum.output", inputs=("sloped",), shape=(3,), label="scores"))
    chosen = np.array([[5, 0, 6]], np.int32)
    graph.add(
        Input(name="image.5", shape=(1, 3), given="wide", given_shape=(1, 9), elements=chosen)
    )
    graph.add(Output(name="five", inputs=("image.5",), shape=(1, 3), label="five"))
    tensor_rules.verify(graph)
    return graph


@pytest.fixture
def slot_graph() -> SlotGraph:
    """Tables, attributes of every type and values of every kind; one map reads a spilled input."""
    source, target = (
        vector_layout((1, 4), 16),
        Layout((1, 4), 16, 8, (Digit(1, 1, 2, "slot", 4), Digit(1, 2, 2, "ciphertext", 1))),
    )
    graph = SlotGraph(59)
    matrix = (np.arange(16.0).reshape(4, 4) - 8) / 16
    dm = DiagonalMap(dense(matrix), source, target, "pair", 1)
    graph.maps.append(MapConstant("dense", dm, dm.diagonals))
    graph.vectors.append(VectorConstant(np.array([[0.5]]), target))
    x = graph.emit("input", (), "image", tensor=0, part=0, level=0, scale=61.5)
    digits = graph.emit("hoist", (x,), "dense")
    turned = graph.emit("rotate_hoisted", (x, digits), "dense", offset=-1)
    products = [
        graph.emit(
            "dot_plain",
            (x, turned),
            "dense",
            maps=[0, 0],
            diagonals=[k, k + 1],
            scales=[18, 18.0],
            rotation=k,
        )
        for k in (0, 2)
    ]
    extended = graph.emit("rotate_extended", (products[1],), "dense", offset=2)
    switched = graph.emit("key_switch_down", (extended,), "dense")
    total = graph.emit("add", (products[0], switched), "dense")
    lower = graph.emit("rescale", (total,), "dense")
    half = graph.emit("relabel", (lower,), "half.1", factor=0.25)
    biased = graph.emit("add_plain", (half,), "half.1", vector=0, part=1)
    graph.emit("output", (biased,), "scores", tensor=0, part=0)
    spilled = DiagonalMap(dense(matrix), replace(target, spill=1), source, "real", copies=1)
    graph.maps.append(MapConstant("last", spilled, spilled.diagonals))
    even = graph.emit("keep_even", (lower,), "last", order=2)
    copied = graph.emit("add", (even, graph.emit("rotate", (even,), "last", offset=-1)), "last")
    attributes = {"maps": [1], "diagonals": [0], "scales": [18.0], "rotation": 0}
    last = graph.emit("dot_plain", (copied,), "last", **attributes)
    graph.emit("output", (last,), "more", tensor=1, part=0)
    slots.verify(graph)
    return graph


# ---------------------------------------------------------------------------- print and parse


def test_golden_tensor_graph(tensor_graph: TensorGraph, golden: Golden) -> None:
    golden("small_tensor_graph.txt", print_tensor_graph(tensor_graph))


def test_golden_slot_graph(slot_graph: SlotGraph, golden: Golden) -> None:
    golden("small_slot_graph.txt", print_slot_graph(slot_graph))


def test_golden_texts_parse(
    request: pytest.FixtureRequest, tensor_graph: TensorGraph, slot_graph: SlotGraph
) -> None:
    text = (request.path.parent / "small_tensor_graph.txt").read_text()
    parsed = parse_tensor_graph(text, collect_constants(tensor_graph))
    tensor_rules.verify(parsed)
    assert print_tensor_graph(parsed) == text
    text = (request.path.parent / "small_slot_graph.txt").read_text()
    parsed_slots = parse_slot_graph(text, collect_constants(slot_graph))
    slots.verify(parsed_slots)
    assert print_slot_graph(parsed_slots) == text


@given(data=st.data())
def test_tensor_graph_round_trip(tensor_graphs: Graphs, data: st.DataObject) -> None:
    graph = data.draw(tensor_graphs(functions=True))
    text = print_tensor_graph(graph)
    parsed = parse_tensor_graph(text, collect_constants(graph))
    tensor_rules.verify(parsed)
    assert print_tensor_graph(parsed) == text
    assert len(text.splitlines()) == 1 + len(graph.nodes)
    x = {n.name: np.linspace(-1, 1, n.size).reshape(1, *n.shape) for n in graph.inputs()}
    expected, found = evaluate(graph, x), evaluate(parsed, x)
    assert list(found) == list(expected)
    assert all(np.array_equal(found[label], y) for label, y in expected.items())


@given(data=st.data())
def test_slot_graph_round_trip(slot_graphs: Graphs, data: st.DataObject) -> None:
    graph = data.draw(slot_graphs())
    text = print_slot_graph(graph)
    parsed = parse_slot_graph(text, collect_constants(graph))
    slots.verify(parsed)
    assert print_slot_graph(parsed) == text
    assert [n.type for n in parsed] == [n.type for n in graph]
    assert [n.attributes for n in parsed] == [n.attributes for n in graph]
    for made, again in zip(graph.maps, parsed.maps, strict=True):
        assert again.diagonals == made.diagonals == again.diagonal_map.diagonals


def test_parsed_graphs_can_grow(slot_graph: SlotGraph) -> None:
    parsed = parse_slot_graph(print_slot_graph(slot_graph), collect_constants(slot_graph))
    last = max(parsed.nodes)
    assert parsed.emit("negate", (0,), "more") == last + 1


def test_blank_lines_and_comments(tensor_graph: TensorGraph) -> None:
    text = print_tensor_graph(tensor_graph)
    spread = "// a comment\n\n" + text.replace("\n", "\n\n  // another\n  ")
    parsed = parse_tensor_graph(spread, collect_constants(tensor_graph))
    assert print_tensor_graph(parsed) == text


# ---------------------------------------------------------------------------- constants


def test_equal_bytes_share_a_constant() -> None:
    """The hash is of the bytes; type and shape are in the text."""
    graph = TensorGraph("g")
    graph.add(Input(name="x", shape=(2,)))
    coefficients = np.zeros((2, 1))
    bias = np.zeros((2,))
    graph.add(Affine(name="a", inputs=("x",), shape=(2,), maps=(dense(np.eye(2)),), bias=bias))
    graph.add(Poly(name="p", inputs=("a",), shape=(2,), coefficients=coefficients))
    text, constants = print_tensor_graph(graph), collect_constants(graph)
    parsed = parse_tensor_graph(text, constants)
    affine, poly = parsed["a"], parsed["p"]
    assert isinstance(affine, Affine) and isinstance(poly, Poly)
    assert affine.bias.shape == (2,) and poly.coefficients.shape == (2, 1)
    assert text.count("#374708ff") == 2


def test_constants_of_other_types_have_no_text() -> None:
    graph = TensorGraph("g")
    graph.add(Input(name="x", shape=(2,)))
    graph.add(Poly(name="p", inputs=("x",), shape=(2,), coefficients=np.ones(2, np.float16)))
    with pytest.raises(InternalError, match="constants of type float16 have no text form"):
        print_tensor_graph(graph)


# ---------------------------------------------------------------------------- syntax errors

HEAD = 'tensor_graph "g"\n%x = input() : 2x3\n'
SLOTS = "slot_graph {prime_bits=59}\nlayout0 = layout<1x4 in 16 period 4: 1/1%4@slot*1>\n"
KNOWN = {"11111111": np.zeros(2), "22222222": np.zeros((1, 3), np.int32)}

TENSOR_ERRORS = [
    ("", 1, "expected 'tensor_graph' instead of the end"),
    ("slot_graph", 1, "expected 'tensor_graph' instead of 'slot_graph'"),
    ("tensor_graph g", 1, "expected a JSON value instead of 'g'"),
    ("tensor_graph 3", 1, "expected a string instead of '3'"),
    ('tensor_graph "g" more', 1, "expected the end of the line instead of 'more'"),
    (HEAD + "x = input() : 2", 3, "expected '%' instead of 'x = input() : 2'"),
    (HEAD + "%x = input() : 2", 3, "%x is made twice"),
    (HEAD + "\n%y = mul(%x, %z) : 2x3", 4, "%z is used before it is made"),
    (HEAD + "%y = mul(%x %x) : 2x3", 3, "expected ',' instead of '%x) : 2x3'"),
    (HEAD + "%y = mul(%x, %x : 2x3", 3, "expected ',' instead of ': 2x3'"),
    (HEAD + "%y = sin(%x) : 2x3", 3, "there is no operation sin in a tensor graph"),
    (HEAD + "%y = mul(%x, %x)", 3, "expected ':' instead of the end"),
    (HEAD + "%y = mul(%x, %x) : big", 3, "expected a shape such as 1x3x32x32 instead of 'big'"),
    (HEAD + "%y = mul(%x, %x) : 2x", 3, "expected the end of the line instead of 'x'"),
    (HEAD + "%y = mul(%x, %x) : 2 // name", 3, "expected a JSON value instead of 'name'"),
    (HEAD + "%y = poly(%x) : 2x3", 3, "expected '{' instead of ': 2x3'"),
    (HEAD + "%y = function(%x) : 2x3", 3, "expected '{' instead of ': 2x3'"),
    (HEAD + "%y = function(%x) {function=3} : 2x3", 3, "expected a string instead of '3} : 2x3'"),
    (
        HEAD + '%y = function(%x) {function="relu", by} : 2x3',
        3,
        "expected 'share' instead of 'by} : 2x3'",
    ),
    (HEAD + "%y = output(%x) {label=3} : 2x3", 3, "expected a string instead of '3} : 2x3'"),
    (
        HEAD + "%y = poly(%x) {coefficients=f16[2]#11111111} : 2x3",
        3,
        "expected a constant such as f64[16,1]#ab12cd34 instead of 'f16[2]#11111111} : 2x3'",
    ),
    (
        HEAD + "%y = poly(%x) {coefficients=f64[2]#deadbeef} : 2x3",
        3,
        "the constant f64[2]#deadbeef is not given",
    ),
    (
        HEAD + "%y = poly(%x) {coefficients=f64[3]#11111111} : 2x3",
        3,
        "the constant f64[3]#11111111 has 16 bytes",
    ),
    (
        HEAD + "%y = poly(%x) {coefficients=f64[2]#11111111 : 2x3",
        3,
        "expected '}' instead of ': 2x3'",
    ),
    (
        HEAD + "%y = affine(%x) {map0=[(f64[2]#11111111)] : 6 -> 6} : 2x3",
        3,
        "a term has 1 arrays instead of 3",
    ),
    (
        HEAD + "%y = affine(%x) {map0=[] : 6 -> 6} : 2x3",
        3,
        "expected ',' instead of '} : 2x3'",
    ),
    (
        HEAD + "%y = affine(%x) {map1=[] : 6 -> 6, bias=f64[2]#11111111} : 2x3",
        3,
        "expected 'bias' instead of 'map1=[] : 6 -> 6, bias=f...'",
    ),
]

SLOT_ERRORS = [
    ("slot_graph", 1, "expected '{' instead of the end"),
    ("slot_graph {prime_bits=x}", 1, "expected a whole number instead of 'x}'"),
    (SLOTS + "hello", 3, "expected a layout, a map, a vector or a node instead of 'hello'"),
    (SLOTS + "layout2 = ", 3, "expected number 1 of its table instead of 2"),
    (SLOTS + "layout1 = layout<4 in 16 period 4: x>", 3, "expected a whole number instead of 'x>'"),
    (
        SLOTS + "layout1 = layout<4 in 16 period 4: 0/1%4@sky*1>",
        3,
        "expected slot, ciphertext or complex instead of 'sky*1>'",
    ),
    (
        SLOTS + "layout1 = layout<4 in 16 period 4 spill: 0/1%2@slot*1>",
        3,
        "expected a whole number instead of ': 0/1%2@slot*1>'",
    ),
    (SLOTS + "vector0 = vector(layout1) {", 3, "layout1 is used before it is made"),
    (
        SLOTS + 'map0 = map(layout0, layout0) {packing="loose"',
        3,
        "expected a packing instead of '\"loose\"'",
    ),
    (
        SLOTS
        + 'map0 = map(layout0, layout0) {packing="real", window=0, copies=0, map=[] : 4 -> 4, '
        "diagonals=f64[2]#11111111}  // a",
        3,
        "the list of diagonals has the shape (2,)",
    ),
    (
        SLOTS
        + 'map0 = map(layout0, layout0) {packing="real", window=0, copies=0, map=[] : 4 -> 4, '
        "diagonals=i32[1,3]#22222222}",
        3,
        "expected '//' instead of the end",
    ),
    (
        SLOTS + 'map0 = map(layout0, layout0) {packing="real", window=0, map=[] : 4 -> 4}',
        3,
        "expected 'copies' instead of 'map=[] : 4 -> 4}'",
    ),
    (SLOTS + "%0 = add(%1, %1) : ct L0 s61  // a", 3, "%1 is used before it is made"),
    (
        SLOTS + "%0 = input() {a} : ct L0 s61  // a",
        3,
        "expected '=' instead of '} : ct L0 s61  // a'",
    ),
    (SLOTS + "%0 = input() {a=} : ct L0", 3, "expected a JSON value instead of '} : ct L0'"),
    (SLOTS + "%0 = input() {a=1 b=2}", 3, "expected ',' instead of 'b=2}'"),
    (SLOTS + "%0 = input() : pt L0 s1", 3, "expected ct, digits or ext instead of 'pt L0 s1'"),
    (SLOTS + "%0 = input() : ct s1", 3, "expected 'L' instead of 's1'"),
    (SLOTS + "%0 = input() : ct L0 sx", 3, "expected a scale such as 62 instead of 'x'"),
    (SLOTS + "%0 = input() : ct L0 s1 // a b", 3, "expected the end of the line instead of 'b'"),
    (
        SLOTS + "%0 = input() : ct L0 s1  // a\n%0 = input() : ct L0 s1  // a",
        4,
        "%0 is made twice",
    ),
    (
        SLOTS + "%0 = input() {a=" + "[" * 100_000,
        3,
        f"expected a JSON value instead of '{'[' * 24}...'",
    ),
    (SLOTS + f"%{'9' * 5000} = input()", 3, f"expected '=' instead of '{'9' * 24}...'"),
]


@pytest.mark.parametrize(("text", "line", "reason"), TENSOR_ERRORS)
def test_tensor_syntax_error(text: str, line: int, reason: str) -> None:
    with pytest.raises(FheCompileError) as raised:
        parse_tensor_graph(text, KNOWN)
    assert str(raised.value) == (
        f"line {line}: {reason} [ir-syntax]\n"
        "  hint: the form is: %name = op(%operand, ...) {attribute=value, ...} : type  // layer"
    )


@pytest.mark.parametrize(("text", "line", "reason"), SLOT_ERRORS)
def test_slot_syntax_error(text: str, line: int, reason: str) -> None:
    with pytest.raises(FheCompileError) as raised:
        parse_slot_graph(text, KNOWN)
    error = raised.value
    assert (error.code, error.node, error.reason) == ("ir-syntax", f"line {line}", reason)


@given(data=st.data())
def test_damaged_text_is_a_syntax_error_or_another_graph(
    slot_graphs: Graphs, tensor_graphs: Graphs, data: st.DataObject
) -> None:
    """A character taken out or put in never ends in another kind of error."""
    is_slots = data.draw(st.booleans())
    graph = data.draw((slot_graphs if is_slots else tensor_graphs)())
    text = (print_slot_graph if is_slots else print_tensor_graph)(graph)
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.text(max_size=1)) + text[at + 1 :]
    try:
        (parse_slot_graph if is_slots else parse_tensor_graph)(changed, collect_constants(graph))
    except FheCompileError as error:
        assert error.code == "ir-syntax"

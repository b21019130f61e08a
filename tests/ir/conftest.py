"""Random small graphs, as strategies to draw from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fhecompile.ckks.diagonals import DiagonalMap
from fhecompile.ckks.layout import Digit, Layout, vector_layout
from fhecompile.ckks.linear_map import LinearMap, LinearTerm, dense
from fhecompile.ir.slots import MapConstant, SlotGraph, VectorConstant
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

Graphs = Callable[..., st.SearchStrategy[Any]]

WEIGHTS = st.integers(-4, 4).map(lambda n: n / 2)
names = st.text("abcXYZ019_.", min_size=1, max_size=6)


@st.composite
def draw_map(draw: st.DrawFn, out_size: int, in_size: int) -> LinearMap:
    """A scale of all elements where that is possible, a dense matrix or a few scattered terms."""
    kind = draw(st.sampled_from(["dense", "scattered", "scale"]))
    if kind == "dense":
        return dense(draw(arrays(np.float64, (out_size, in_size), elements=WEIGHTS)))
    if kind == "scale" and out_size == in_size:
        index = np.arange(out_size, dtype=np.int32)
        weight = draw(WEIGHTS.filter(bool))
        return LinearMap((LinearTerm(np.full((1,), weight), index, index),), out_size, in_size)
    terms = []
    for _ in range(draw(st.integers(0, 2))):
        shape = draw(array_shapes(max_dims=3, max_side=3))
        terms.append(
            LinearTerm(
                draw(arrays(np.float64, (1,) * len(shape), elements=WEIGHTS)),
                draw(arrays(np.int32, shape, elements=st.integers(-1, out_size - 1))),
                draw(arrays(np.int32, shape, elements=st.integers(-1, in_size - 1))),
            )
        )
    return LinearMap(tuple(terms), out_size, in_size)


@st.composite
def draw_tensor_graph(draw: st.DrawFn, largest: int = 8, functions: bool = False) -> TensorGraph:
    """Up to `largest` nodes between an input and the outputs, of any kind; every node verifies."""
    graph = TensorGraph(draw(st.text(max_size=5)))

    def add(kind: type[Node], inputs: tuple[str, ...], shape: tuple[int, ...], **more: Any) -> str:
        name = f"{draw(names)}.{len(graph.nodes)}"
        source = draw(st.text(max_size=5))
        return graph.add(kind(name=name, inputs=inputs, shape=shape, source=source, **more)).name

    values = [add(Input, (), draw(array_shapes(max_dims=3, max_side=3)))]
    for _ in range(draw(st.integers(0, largest))):
        x = draw(st.sampled_from(values))
        shape = graph[x].shape
        alike = [v for v in values if graph[v].shape == shape]
        kinds = ["affine", "poly", "mul", "add"] + ["function", "chebyshev"] * functions
        match draw(st.sampled_from(kinds)):
            case "affine":
                shape = draw(st.just(shape) | array_shapes(max_dims=2, max_side=3))
                inputs = (x, *draw(st.lists(st.sampled_from(values), max_size=1)))
                maps = tuple(draw(draw_map(math.prod(shape), graph[i].size)) for i in inputs)
                bias = draw(arrays(np.float64, (1,) * len(shape), elements=WEIGHTS))
                values.append(add(Affine, inputs, shape, maps=maps, bias=bias))
            case "poly":
                coefficients = draw(arrays(np.float64, draw(st.integers(2, 3)), elements=WEIGHTS))
                coefficients[-1] = draw(WEIGHTS.filter(bool))
                values.append(
                    add(Poly, (x,), shape, coefficients=coefficients.reshape(-1, *[1] * len(shape)))
                )
            case "chebyshev":
                coefficients = draw(arrays(np.float64, draw(st.integers(1, 9)), elements=WEIGHTS))
                column = coefficients.reshape(-1, *[1] * len(shape))
                values.append(add(Chebyshev, (x,), shape, coefficients=column))
            case "function":  # of any argument
                name = draw(st.sampled_from(["relu", "sigmoid", "tanh"]))
                share = draw(arrays(np.float64, (1,) * len(shape), elements=WEIGHTS) | st.none())
                more = {} if share is None else {"share": share}
                values.append(add(Function, (x,), shape, function=name, **more))
            case "mul":
                values.append(add(Mul, (x, draw(st.sampled_from(alike))), shape))
            case "add":
                values.append(add(Add, (x, draw(st.sampled_from(alike))), shape))
    for value in draw(st.lists(st.sampled_from(values), min_size=1, max_size=2)):
        add(Output, (value,), graph[value].shape, label=draw(st.text(max_size=5)))
    return graph


LAYOUTS = [
    vector_layout((1, 4), 16),
    Layout((2, 3), 16, 8, (Digit(0, 1, 2, "slot", 4), Digit(1, 1, 3, "slot", 1))),
    Layout((3,), 16, 16, (Digit(0, 1, 2, "slot", 1), Digit(0, 2, 2, "ciphertext", 1))),
    Layout((3,), 16, 16, (Digit(0, 1, 4, "slot", 2),), 1),
]


@st.composite
def draw_slot_graph(draw: st.DrawFn) -> SlotGraph:
    """A few operations of every arity, with maps and vectors; every node verifies."""
    graph = SlotGraph(59)
    for _ in range(draw(st.integers(0, 2))):
        source, target = draw(st.sampled_from(LAYOUTS)), draw(st.sampled_from(LAYOUTS))
        packing: Any = draw(st.sampled_from(["real", "pair", "fold"]))
        linear = draw(draw_map(target.size, source.size))
        dm = DiagonalMap(linear, source, target, packing, 1, source.spill)
        if dm.reach <= max(target.spill, dm.copies):  # no room for spilled or copied positions
            dm = DiagonalMap(linear, replace(source, spill=0), replace(target, spill=0), packing)
        graph.maps.append(MapConstant(draw(names), dm, dm.diagonals))
    for _ in range(draw(st.integers(0, 2))):
        layout = draw(st.sampled_from(LAYOUTS))
        shape = (1,) * draw(st.integers(0, len(layout.shape)))
        constant = draw(arrays(np.float64, shape, elements=WEIGHTS))
        graph.vectors.append(VectorConstant(constant, layout))
    scale = draw(st.floats(20, 60))
    layer = draw(names)
    values = [graph.emit("input", (), layer, tensor=0, part=0, level=0, scale=scale)]
    plain: dict[str, dict[str, Any]] = {
        "conjugate": {},
        "negate": {},
        "square": {},
        "rescale": {},
        "rotate": {"offset": draw(st.integers(-8, 7))},
        "relabel": {"factor": draw(st.floats(1e-3, 1e3))},
        "scale_up": {"bits": draw(st.integers(1, 60))},
        "mul_plain": {"vector": 0, "part": 0, "scale": draw(st.floats(10, 40))},
    }
    for _ in range(draw(st.integers(0, 8))):
        x, layer = draw(st.sampled_from(values)), draw(names)
        op = draw(st.sampled_from([*plain, "hoisted", "extended", "dot_plain"]))
        if op == "hoisted":
            digits = graph.emit("hoist", (x,), layer)
            values.append(graph.emit("rotate_hoisted", (x, digits), layer, offset=3))
        elif op == "extended":
            extended = graph.emit("rotate_extended", (x,), layer, offset=-1)
            values.append(graph.emit("key_switch_down", (extended,), layer))
        elif op == "dot_plain":
            attributes = {"maps": [0, 0], "diagonals": [1, 2], "scales": [20.5, 20.5]}
            values.append(graph.emit(op, (x, x), layer, rotation=2, **attributes))
        else:
            values.append(graph.emit(op, (x,), layer, **plain[op]))
    graph.emit("output", (values[-1],), layer, tensor=0, part=0)
    return graph


@pytest.fixture(scope="session")
def tensor_graphs() -> Graphs:
    """tensor_graphs(largest=..., functions=...): small valid tensor graphs."""
    return draw_tensor_graph


@pytest.fixture(scope="session")
def slot_graphs() -> Graphs:
    """slot_graphs(): small valid slot graphs with their constants."""
    return draw_slot_graph

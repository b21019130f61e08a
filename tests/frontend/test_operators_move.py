"""Operators that move elements, and reductions, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from fhecompile.frontend import import_model


def ints(*values):
    return np.array(values, np.int64)


VIEWS = [
    ("Reshape", {"s": ints(4, 6)}, {}),
    ("Reshape", {"s": ints(0, -1)}, {}),
    ("Reshape", {"s": ints(-1)}, {}),
    ("Reshape", {"s": ints(2, 3, 4)}, {"allowzero": 1}),
    ("Flatten", {}, {}),
    ("Flatten", {}, {"axis": 0}),
    ("Flatten", {}, {"axis": -1}),
    ("Unsqueeze", {"s": ints(0, -1)}, {}),
    ("Identity", {}, {}),
    ("Dropout", {}, {}),
    ("Cast", {}, {"to": TensorProto.FLOAT}),
    ("Transpose", {}, {"perm": [0, 1, 2]}),
    ("Expand", {"s": ints(1)}, {}),
    ("Tile", {"s": ints(1, 1, 1)}, {}),
]


@pytest.mark.parametrize(("op", "constants", "attributes"), VIEWS)
def test_a_view_makes_no_node(agrees, op, constants, attributes):
    node = helper.make_node(op, ["x", *constants], ["y"], **attributes)
    graph = agrees(node, {"x": (2, 3, 4)}, constants)
    assert [n.op for n in graph] == ["input", "output"]


def test_squeeze_makes_no_node(agrees):
    graph = agrees(helper.make_node("Squeeze", ["x"], ["y"]), {"x": (1, 3, 1)})
    assert [n.op for n in graph] == ["input", "output"]
    agrees(helper.make_node("Squeeze", ["x", "a"], ["y"]), {"x": (1, 3, 1)}, {"a": ints(-1)})


@pytest.mark.parametrize(("target", "back"), [("FLOAT16", "FLOAT"), ("DOUBLE", "FLOAT")])
def test_casts_between_float_types_make_no_node(agrees, target, back):
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=getattr(TensorProto, target)),
        helper.make_node("Cast", ["h"], ["y"], to=getattr(TensorProto, back)),
    ]
    graph = agrees(nodes, {"x": (1, 3)}, tolerance=1e-3)
    assert [n.op for n in graph] == ["input", "output"]


def test_a_view_gets_a_node_once_where_shapes_must_be_equal(agrees):
    nodes = [
        helper.make_node("Reshape", ["x", "s"], ["r"]),
        helper.make_node("Mul", ["r", "r"], ["q"]),
        helper.make_node("Add", ["q", "r"], ["y"]),
    ]
    graph = agrees(nodes, {"x": (2, 3)}, {"s": ints(6)})
    assert [n.name for n in graph] == ["x", "x.reshape", "q", "y", "y.output"]


@pytest.mark.parametrize("perm", [[2, 0, 1], [1, 0, 2], None])
def test_transpose(agrees, perm):
    attributes = {"perm": perm} if perm else {}
    agrees(helper.make_node("Transpose", ["x"], ["y"], **attributes), {"x": (2, 3, 4)})


@pytest.mark.parametrize(
    ("indices", "axis"), [(2, 1), ([0, -1], 1), ([[0, 1], [1, 0]], 0), ([3], -1)]
)
def test_gather(agrees, indices, axis):
    node = helper.make_node("Gather", ["x", "i"], ["y"], axis=axis)
    agrees(node, {"x": (2, 3, 4)}, {"i": np.array(indices, np.int64)})


@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 1), (1, 2, 1, 1)])
def test_expand(agrees, shape):
    node = helper.make_node("Expand", ["x", "s"], ["y"])
    agrees(node, {"x": (2, 3, 1)}, {"s": ints(*shape)})


def test_tile_and_depth_space(agrees):
    agrees(helper.make_node("Tile", ["x", "r"], ["y"]), {"x": (2, 3)}, {"r": ints(2, 2)})
    x = {"x": (1, 8, 2, 2)}
    for mode in ("DCR", "CRD"):
        agrees(helper.make_node("DepthToSpace", ["x"], ["y"], blocksize=2, mode=mode), x)
    agrees(helper.make_node("SpaceToDepth", ["x"], ["y"], blocksize=2), x)


@pytest.mark.parametrize(
    ("opset", "constants", "attributes", "parts"),
    [
        (13, {"s": ints(1, 3, 2)}, {"axis": 1}, 3),
        (13, {}, {"axis": -2}, 2),
        (18, {}, {"axis": 1, "num_outputs": 3}, 3),
        (18, {"s": ints(6, 0)}, {"axis": 1}, 2),
        (18, {"s": ints(5, 1)}, {"axis": 1}, 2),
    ],
)
def test_split(agrees, opset, constants, attributes, parts):
    outputs = [f"y{i}" for i in range(parts)]
    node = helper.make_node("Split", ["x", *constants], outputs, **attributes)
    # The constants keep an empty part from being an output that is not encrypted.
    ends = [helper.make_node("Concat", [o, "k"], [f"{o}_end"], axis=1) for o in outputs]
    nodes = [node, *ends, helper.make_node("Concat", [f"{o}_end" for o in outputs], ["y"], axis=1)]
    agrees(nodes, {"x": (2, 6, 3)}, {**constants, "k": np.ones((2, 1, 3))}, opset=opset)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), shape=st.lists(st.integers(1, 6), min_size=1, max_size=3))
def test_slice(agrees, data, shape):
    axes = data.draw(st.permutations(range(len(shape))))[: data.draw(st.integers(1, len(shape)))]
    starts, ends, steps = [], [], []
    for axis in axes:
        n = shape[axis]
        picked = sorted({data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))})
        low, high = picked[0], picked[-1]
        step = data.draw(st.integers(1, 3))
        if data.draw(st.booleans()):
            starts.append(low - n if data.draw(st.booleans()) else low)
            ends.append(high + 1 if high + 1 < n else data.draw(st.sampled_from([n, 2**62])))
            steps.append(step)
        else:
            starts.append(data.draw(st.sampled_from([high, high - n])))
            ends.append(low - 1 if low else -(2**62))
            steps.append(-step)
    axes = [a - len(shape) if data.draw(st.booleans()) else a for a in axes]
    constants = {"b": ints(*starts), "e": ints(*ends), "a": ints(*axes), "s": ints(*steps)}
    agrees(helper.make_node("Slice", ["x", *constants], ["y"]), {"x": shape}, constants)


def test_slice_without_axes_or_steps(agrees):
    constants = {"b": ints(0, 1), "e": ints(1, 3)}
    agrees(helper.make_node("Slice", ["x", *constants], ["y"]), {"x": (2, 4, 2)}, constants)
    constants["s"] = ints(1, 2)
    node = helper.make_node("Slice", ["x", "b", "e", "", "s"], ["y"])
    agrees(node, {"x": (2, 4, 2)}, constants)


@pytest.mark.parametrize("axis", [1, -1])
def test_concat(agrees, axis):
    shapes = {"a": (1, 2, 3), "b": (1, 2, 3)}
    graph = agrees(helper.make_node("Concat", ["a", "b"], ["y"], axis=axis), shapes)
    assert graph["y"].inputs == ("a", "b")
    assert all(m.terms[0].size == 6 for m in graph["y"].maps)


def test_concat_with_constants_and_repeats(agrees):
    node = helper.make_node("Concat", ["a", "c", "a"], ["y"], axis=0)
    agrees(node, {"a": (2, 3)}, {"c": np.arange(3.0)[None]})


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    shape=st.lists(st.integers(2, 5), min_size=1, max_size=3),
    value=st.sampled_from([None, 0.0, 1.5]),
)
def test_pad(agrees, data, shape, value):
    pads = [data.draw(st.integers(0, 2)) for _ in range(2 * len(shape))]
    # Cutting leaves at least one element: each axis loses one at most.
    for axis in range(len(shape)):
        if data.draw(st.booleans()):
            side = data.draw(st.sampled_from([axis, axis + len(shape)]))
            pads[side] = -1
    constants = {"p": ints(*pads)}
    if value is not None:
        constants["v"] = np.float32(value)
    agrees(helper.make_node("Pad", ["x", *constants], ["y"]), {"x": shape}, constants)


def test_pad_with_axes(agrees):
    constants = {"p": ints(1, 0, 2, -1), "v": np.float32(2.0), "a": ints(-1, 0)}
    node = helper.make_node("Pad", ["x", *constants], ["y"])
    agrees(node, {"x": (3, 2, 4)}, constants, opset=18)
    node = helper.make_node("Pad", ["x", "p", "", "a"], ["y"])
    agrees(node, {"x": (3, 2, 4)}, {"p": ints(1, 2), "a": ints(1)}, opset=18)


def test_pad_of_nothing_makes_no_node(agrees):
    graph = agrees(helper.make_node("Pad", ["x", "p"], ["y"]), {"x": (2, 3)}, {"p": ints(*[0] * 4)})
    assert [n.op for n in graph] == ["input", "output"]


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    op=st.sampled_from(["ReduceSum", "ReduceMean"]),
    keepdims=st.sampled_from([0, 1, None]),
    noop=st.sampled_from([0, 1, None]),
    opset=st.sampled_from([13, 18]),
)
def test_reduce(agrees, data, shape, op, keepdims, noop, opset):
    rank = len(shape)
    axes = data.draw(st.none() | st.lists(st.integers(0, rank - 1), unique=True, max_size=rank))
    attributes = {} if keepdims is None else {"keepdims": keepdims}
    constants = {}
    if axes:
        axes = [a - rank if data.draw(st.booleans()) else a for a in axes]
    if op == "ReduceSum" or opset >= 18:
        if noop is not None and (axes or not noop):  # ONNX Runtime fails on the no-op
            attributes["noop_with_empty_axes"] = noop
        if axes is not None:
            constants["a"] = ints(*axes)
    elif axes:
        attributes["axes"] = axes
    node = helper.make_node(op, ["x", *constants], ["y"], **attributes)
    agrees(node, {"x": shape}, constants, opset=opset)


@pytest.mark.parametrize("axes", [{}, {"a": ints()}])
def test_reduction_over_no_axes_makes_no_node(build, axes):
    node = helper.make_node("ReduceSum", ["x", *axes], ["y"], noop_with_empty_axes=1)
    graph = import_model(build(node, {"x": (2, 3)}, axes)).graph
    assert [n.op for n in graph] == ["input", "output"]


def test_reduction_stores_one_number(agrees):
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3])
    (term,) = agrees(node, {"x": (1, 4, 8, 8)})["y"].maps[0].terms
    assert term.values.size == 1
    assert term.out_index.size == 4

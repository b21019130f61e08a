"""Operators that move elements, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper


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
    shape=st.lists(st.integers(2, 5), min_size=1, max_size=3),
    mode=st.sampled_from(["reflect", "edge", "wrap"]),
)
def test_pad_by_elements(agrees, data, shape, mode):
    # ONNX Runtime and ONNX's evaluator read beyond the operand where reflections are longer.
    pads = [data.draw(st.integers(0, n - 1)) for n in (*shape, *shape)]
    node = helper.make_node("Pad", ["x", "p"], ["y"], mode=mode)
    agrees(node, {"x": shape}, {"p": ints(*pads)}, opset=19)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_pad_by_attribute(agrees, mode):
    node = helper.make_node("Pad", ["x"], ["y"], pads=[1, 0, 0, 2], mode=mode, value=1.5)
    agrees(node, {"x": (2, 3)}, opset=10)


def test_pad_with_an_encrypted_value(agrees):
    constants = {"p": ints(1, 0, 0, 2)}
    graph = agrees(
        helper.make_node("Pad", ["x", "p", "v"], ["y"]), {"x": (2, 3), "v": ()}, constants
    )
    assert graph["y"].inputs == ("x", "v")


@settings(max_examples=60, deadline=None)
@given(data=st.data(), shape=st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_gather_elements_and_scatter_elements(agrees, data, shape):
    axis = data.draw(st.integers(0, len(shape) - 1))
    part = [data.draw(st.integers(1, n)) for n in shape]
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    n = shape[axis]
    indices = np.argsort(random.random(part), axis=axis)  # no element is written twice
    indices = np.where(random.random(part) < 0.5, indices, indices - n).astype(np.int64)
    node = helper.make_node("GatherElements", ["x", "i"], ["y"], axis=axis)
    agrees(node, {"x": shape}, {"i": indices})
    node = helper.make_node("ScatterElements", ["x", "i", "u"], ["y"], axis=axis)
    agrees(node, {"x": shape, "u": part}, {"i": indices})
    if part != shape:  # else nothing of x is left
        agrees(node, {"x": shape}, {"i": indices, "u": random.normal(size=part)})
    agrees(node, {"u": part}, {"i": indices, "x": random.normal(size=shape)})


@pytest.mark.parametrize(
    ("indices", "batch"), [([[0, 1], [1, -1]], 0), ([[1], [0]], 0), ([[1], [2]], 1)]
)
def test_gather_nd(agrees, indices, batch):
    node = helper.make_node("GatherND", ["x", "i"], ["y"], batch_dims=batch)
    agrees(node, {"x": (2, 3, 2)}, {"i": np.array(indices)})


@pytest.mark.parametrize(("indices", "updates"), [([[0, 2], [1, -3]], (2, 2)), ([[1]], (1, 3, 2))])
def test_scatter_nd(agrees, indices, updates):
    node = helper.make_node("ScatterND", ["x", "i", "u"], ["y"])
    agrees(node, {"x": (2, 3, 2), "u": updates}, {"i": np.array(indices)})
    agrees(node, {"x": (2, 3, 2)}, {"i": np.array(indices), "u": np.ones(updates)})


@pytest.mark.parametrize(
    ("op", "indices", "updates", "attributes"),
    [
        ("ScatterElements", [[0, 2, 0, 0]], (1, 4), {}),
        ("ScatterElements", [[0, -1], [1, 1]], (2, 2), {"axis": 1}),
        ("ScatterND", [[0, 2], [1, -3], [0, 2]], (3,), {}),
        ("ScatterND", [[[1]], [[1]]], (2, 1, 4), {}),
    ],
)
def test_scatter_by_adding(agrees, op, indices, updates, attributes):
    node = helper.make_node(op, ["x", "i", "u"], ["y"], reduction="add", **attributes)
    constants = {"i": np.array(indices)}
    agrees(node, {"x": (3, 4), "u": updates}, constants, opset=18)
    agrees(node, {"x": (3, 4)}, {**constants, "u": np.full(updates, 1.5)}, opset=18)
    agrees(node, {"u": updates}, {**constants, "x": np.full((3, 4), 1.5)}, opset=18)


def test_cast_like(agrees):
    node = helper.make_node("CastLike", ["a", "b"], ["c"])
    end = helper.make_node("Mul", ["c", "x"], ["y"])
    agrees([node, end], {"x": (3,)}, {"a": ints(1, 2, 3), "b": np.float32(1.0)})
    node = helper.make_node("CastLike", ["a", "x"], ["c"])
    agrees([node, end], {"x": (3,)}, {"a": ints(1, 2, 3)})
    agrees(helper.make_node("CastLike", ["x", "b"], ["y"]), {"x": (3,)}, {"b": np.float32(1.0)})


@pytest.mark.parametrize("shapes", [((2, 3), (2, 3)), ((2, 3), (1,)), ((), (3,)), ((3,), (2, 1))])
def test_where(agrees, shapes):
    condition = np.array([[True, False, True], [False, True, True]])
    node = helper.make_node("Where", ["c", "a", "b"], ["y"])
    values = dict(zip("ab", shapes, strict=True))
    agrees(node, values, {"c": condition})
    for constant, encrypted in ("ab", "ba"):
        constants = {"c": condition, constant: np.full(values[constant], 1.5)}
        agrees(node, {encrypted: values[encrypted]}, constants)


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [None, -1, 0, 2])
def test_trilu(agrees, upper, k):
    constants = {} if k is None else {"k": np.array(k)}
    node = helper.make_node("Trilu", ["x", *constants], ["y"], upper=upper)
    agrees(node, {"x": (2, 3, 4)}, constants)


def test_what_keeps_nothing_is_a_constant(agrees):
    nodes = [
        helper.make_node("Trilu", ["x", "k"], ["z"]),
        helper.make_node("Add", ["x", "z"], ["y"]),
    ]
    agrees(nodes, {"x": (2, 3)}, {"k": np.array(7)})


def test_reverse_sequence(agrees):
    node = helper.make_node("ReverseSequence", ["x", "n"], ["y"], time_axis=1, batch_axis=0)
    agrees(node, {"x": (3, 4, 2)}, {"n": ints(1, 3, 4)})


def test_compress(agrees):
    keep = np.array([True, False, True])
    agrees(helper.make_node("Compress", ["x", "c"], ["y"], axis=1), {"x": (2, 3)}, {"c": keep})
    agrees(helper.make_node("Compress", ["x", "c"], ["y"]), {"x": (2, 3)}, {"c": keep})


def test_center_crop_pad(agrees):
    node = helper.make_node("CenterCropPad", ["x", "s"], ["y"])
    agrees(node, {"x": (3, 6)}, {"s": ints(5, 3)}, opset=18)


OLD = [
    ("Slice", {}, {"starts": [1, 0], "ends": [2, -1], "axes": [1, 2]}, 9),
    ("Squeeze", {}, {"axes": [0]}, 12),
    ("Unsqueeze", {}, {"axes": [0, 3]}, 11),
    ("Split", {}, {"split": [1, 2], "axis": 1}, 12),
    ("Split", {}, {"axis": 1}, 7),
    ("Tile", {"n": ints(1, 2, 1)}, {}, 7),
    ("DepthToSpace", {}, {"blocksize": 1}, 7),
    ("Reshape", {"s": ints(3, 4)}, {}, 7),
    ("Flatten", {}, {}, 7),
    ("Gather", {"i": ints(2, 0)}, {"axis": 1}, 7),
    ("Transpose", {}, {}, 7),
    ("Dropout", {}, {"ratio": 0.5}, 7),
    ("Cast", {}, {"to": TensorProto.FLOAT}, 7),
]


@pytest.mark.parametrize(("op", "constants", "attributes", "opset"), OLD)
def test_old_opsets(agrees, op, constants, attributes, opset):
    shape = (1, 1, 3, 4) if op == "DepthToSpace" else (1, 3, 4)
    parts = 2 if "split" in attributes else 3 if op == "Split" else 1
    outputs = ["y", "z", "w"][:parts]
    node = helper.make_node(op, ["x", *constants], outputs, **attributes)
    agrees(node, {"x": shape}, constants, outputs, opset=opset)


def test_shapes_are_known(agrees):
    """What exporters write for x.reshape(x.shape[0], -1, 2) and for a mask of x's shape."""
    one = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n", "axis"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("Shape", ["r"], ["rs"]),
        helper.make_node("ConstantOfShape", ["rs"], ["ones"], value=one),
        helper.make_node("Size", ["x"], ["count"]),
        helper.make_node("Cast", ["count"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["ones", "real"], ["mask"]),
        helper.make_node("Range", ["zero", "two", "one"], ["range"]),
        helper.make_node("Gather", ["mask", "range"], ["last"], axis=2),
        helper.make_node("Equal", ["range", "zero"], ["first"]),
        helper.make_node("Where", ["first", "r", "last"], ["y"]),
    ]  # fmt: skip
    constants = {
        "zero": np.array(0), "one": np.array(1), "two": np.array(2), "axis": ints(0),
        "rest": ints(-1, 2),
    }  # fmt: skip
    graph = agrees(nodes, {"x": (2, 3, 4)}, constants)
    assert [n.op for n in graph] == ["input", "affine", "output"]

"""Sums and means over axes, and running sums, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from fhecompile.frontend import import_model


def ints(*values):
    return np.array(values, np.int64)


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


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    exclusive=st.booleans(),
    reverse=st.booleans(),
)
def test_cumulative_sum(agrees, data, shape, exclusive, reverse):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    node = helper.make_node("CumSum", ["x", "a"], ["y"], exclusive=exclusive, reverse=reverse)
    agrees(node, {"x": shape}, {"a": np.array(axis)})


def test_cumulative_sum_stores_one_number(agrees):
    (term,) = (
        agrees(helper.make_node("CumSum", ["x", "a"], ["y"]), {"x": (2, 5)}, {"a": np.array(1)})[
            "y"
        ]
        .maps[0]
        .terms
    )
    assert term.values.size == 1

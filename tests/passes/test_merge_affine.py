"""Chains and sums of linear maps become one map where that saves a level and costs little."""

from __future__ import annotations

import numpy as np
import pytest

from fhecompile.ckks.linear_map import selection
from fhecompile.ir.depth import measure_depth
from fhecompile.ir.tensor import Add, Affine, TensorGraph
from passes.merge_affine import MergeAffine
from tests.graphs import Builder, matrix, of_kind
from tests.support import Network, assert_same_function, outline, random_inputs, run_pass


def merge(before: TensorGraph, **options: int) -> TensorGraph:
    """The merged graph, which computes the same in at most the same depth."""
    after = run_pass(MergeAffine(**options), before).program.graph
    assert_same_function(before, after, random_inputs(before), bits=40)
    assert measure_depth(after).total <= measure_depth(before).total
    return after


def test_pool_flatten_norm_gemm_become_one_map() -> None:
    net = Network(x=(1, 2, 4, 4))
    pool = net.op("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 2])
    norm = net.batch_norm(net.op("Flatten", pool), np.arange(1.0, 9.0), np.ones(8))
    gemm = net.op("Gemm", norm, matrix(8, 5), np.ones(5), name="gemm")
    after = merge(net.graph(gemm))
    (node,) = of_kind(after, Affine)
    assert node.inputs == ("x",)
    assert node.name == "gemm"


def test_residual_of_one_tensor_becomes_one_map() -> None:
    b = Builder()
    b.input("x", 1, 4)
    b.poly("square", "x", 0.0, 0.0, 1.0)
    b.affine("dense", {"square": matrix(4, 4)}, bias=1.0)
    b.sum("total", "dense", "square")
    after = merge(b.output("total"))
    assert after["total"].inputs == ("square",)
    assert not of_kind(after, Add)


def test_residual_of_two_tensors_becomes_a_map_of_two_operands() -> None:
    b = Builder()
    b.input("x", 1, 4)
    b.input("y", 1, 3)
    b.affine("left", {"y": matrix(4, 3)}, bias=1.0)
    b.sum("total", "x", "left")
    after = merge(b.output("total"))
    (node,) = of_kind(after, Affine, Add)
    assert isinstance(node, Affine)
    assert set(node.inputs) == {"x", "y"}


def test_a_bottleneck_stays_apart() -> None:
    b = Builder()
    b.input("x", 1, 64)
    b.affine("narrow", {"x": matrix(2, 64)})
    b.affine("wide", {"narrow": matrix(64, 2)})
    before = b.output("wide")
    result = run_pass(MergeAffine(allowance=1000), before)
    assert not result.modified
    assert result.remarks == (
        "wide kept apart from narrow: their product has 16.0 times the multiplications",
    )
    for p in (MergeAffine(), MergeAffine(allowance=1000, growth=16.0)):
        merged = run_pass(p, before)
        assert merged.remarks == ("1 maps merged",)
        assert_same_function(before, merged.program.graph, random_inputs(before), bits=40)


def test_a_remark_is_made_once_over_all_sweeps() -> None:
    b = Builder()
    b.input("x", 1, 64)
    b.affine("narrow", {"x": matrix(2, 64)})
    b.affine("wide", {"narrow": matrix(64, 2)})
    b.scaled("first", "x", np.arange(1.0, 65.0))
    b.affine("second", {"first": matrix(2, 64)})
    result = run_pass(MergeAffine(allowance=1000), b.output("wide", "second"))
    assert result.remarks == (
        "1 maps merged",
        "wide kept apart from narrow: their product has 16.0 times the multiplications",
    )


def test_a_sum_with_a_deeper_operand_is_not_opened() -> None:
    b = Builder()
    b.input("x", 1, 4)
    b.affine("shallow", {"x": matrix(4, 4)})
    b.affine("dense", {"x": matrix(4, 4, seed=1)})
    b.poly("deep", "dense", 0.0, 0.0, 1.0)
    b.sum("total", "shallow", "deep")
    before = b.output("total")
    assert not run_pass(MergeAffine(), before).modified


def test_a_sum_with_a_relabelled_deeper_operand_gains_no_depth() -> None:
    b = Builder()
    b.input("x", 1, 4)
    b.affine("shallow", {"x": matrix(4, 4)})
    b.affine("dense", {"x": matrix(4, 4, seed=1)})
    b.poly("deep", "dense", 0.0, 0.0, 1.0)
    b.scaled("doubled", "deep", 2.0)
    b.sum("total", "shallow", "doubled")
    merge(b.output("total"))


def test_a_sum_of_two_maps_at_different_depths_is_opened() -> None:
    b = Builder()
    b.input("x", 1, 4)
    b.affine("shallow", {"x": matrix(4, 4)})
    b.poly("square", "x", 0.0, 0.0, 1.0)
    b.affine("deep", {"square": matrix(4, 4, seed=1)})
    b.sum("total", "shallow", "deep")
    after = merge(b.output("total"))
    assert set(after["total"].inputs) == {"x", "square"}
    assert not of_kind(after, Add)


def two_readers() -> TensorGraph:
    b = Builder()
    b.input("x", 1, 4)
    b.affine("slice", {"x": selection(np.array([3, 1]), 4)})
    b.affine("dense", {"x": matrix(2, 4)})
    for name in ("slice", "dense"):
        b.affine(f"{name}.left", {name: matrix(3, 2)})
        b.affine(f"{name}.right", {name: matrix(3, 2, seed=1)})
    return b.output("slice.left", "slice.right", "dense.left", "dense.right")


@pytest.mark.parametrize("repeat", [11, 12])
def test_a_map_with_two_readers_is_repeated_when_it_picks_or_is_small(repeat: int) -> None:
    """The product of 3 x 2 and 2 x 4 takes 12, that of what it is made of 14."""
    after = merge(two_readers(), repeat=repeat + 2)
    assert after["slice.left"].inputs == after["slice.right"].inputs == ("x",)
    source = "dense" if repeat == 11 else "x"
    assert after["dense.left"].inputs == after["dense.right"].inputs == (source,)
    assert ("dense" in after.nodes) == (repeat == 11)
    assert "slice" not in after.nodes


@pytest.mark.parametrize("longer", ["poly", "function"])
def test_what_is_not_on_a_deepest_path_is_not_repeated(longer: str) -> None:
    """A function counts as three levels."""
    b = Builder()
    b.input("x", 1, 4)
    b.affine("dense", {"x": matrix(4, 4)})
    for name in ("left", "right"):
        b.affine(name, {"dense": matrix(4, 4)})
    before = b.output("left", "right")
    assert merge(before)["left"].inputs == ("x",)
    b = Builder()
    b.graph = before
    if longer == "poly":
        b.poly("deep", "x", *[1.0] * 8)
    else:
        b.function("deep", "x", "exp")
    assert not run_pass(MergeAffine(), b.output("deep")).modified


def test_copies_for_a_product_become_part_of_the_projections() -> None:
    """q k^T of two projections has their depth and 1, and its sum is part of what follows."""
    net = Network(x=(4, 8))
    q = net.op("MatMul", "x", matrix(8, 6), name="q")
    k = net.op("MatMul", "x", matrix(8, 6, seed=1), name="k")
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[1, 0]), name="scores")
    y = net.op("MatMul", net.op("Div", scores, 2.0), matrix(4, 3, seed=2), name="y")
    after = merge(net.graph(y))
    assert outline(after) == [
        "scores.copies = affine(x)",
        "scores.copies_2 = affine(x)",
        "scores.products = mul(scores.copies, scores.copies_2)",
        "y = affine(scores.products)",
    ]
    assert measure_depth(after).total == 3

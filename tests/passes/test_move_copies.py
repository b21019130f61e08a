"""Copies are made before functions and products, where they are part of a map."""

from __future__ import annotations

import numpy as np
import pytest

from fhecompile.ckks.linear_map import selection
from fhecompile.ir.depth import measure_depth
from fhecompile.ir.tensor import Function, TensorGraph
from passes.clean_graph import CleanGraph
from passes.merge_affine import MergeAffine
from passes.move_copies import MoveCopies
from tests.graphs import Builder, matrix
from tests.support import Network, assert_same_function, outline, random_inputs, run_pass

THRICE = np.repeat(np.arange(4), 3)


def moved(before: TensorGraph, less: int = 1, **options: int) -> TensorGraph:
    """The graph after the pass, which computes the same in `less` depth."""
    after = run_pass(MoveCopies(**options), before).program.graph
    assert_same_function(before, after, random_inputs(before), bits=40)
    assert measure_depth(after).total == measure_depth(before).total - less
    return after


def unchanged(before: TensorGraph, **options: int) -> None:
    assert not run_pass(MoveCopies(**options), before).modified


def copied_square(b: Builder) -> None:
    """x (4) -> dense -> square -> copies (12), multiplied with `wide` (12)."""
    b.input("x", 1, 4)
    b.affine("dense", {"x": matrix(4, 4)}, bias=0.5)
    b.poly("square", "dense", 1.0, -2.0, 3.0)
    b.affine("copies", {"square": selection(THRICE, 4)})
    b.affine("wide", {"x": matrix(12, 4, seed=1)})
    b.mul("product", "copies", "wide")


def test_copies_of_a_polynomial() -> None:
    b = Builder()
    copied_square(b)
    after = moved(b.output("product"))
    assert outline(after) == [
        "dense = affine(x)",
        "square = poly(dense)",
        "wide = affine(x)",
        "product = mul(square, wide)",
    ]
    assert after["dense"].size == after["square"].size == 12


def test_another_map_reads_one_of_the_copies() -> None:
    b = Builder()
    copied_square(b)
    b.affine("beside", {"square": matrix(2, 4, seed=2)}, bias=1.0)
    after = moved(b.output("product", "beside"), less=1)
    assert after["beside"].inputs == ("square",)


@pytest.mark.parametrize("reader", ["poly", "output"])
def test_other_readers_keep_the_copies_where_they_are(reader: str) -> None:
    b = Builder()
    copied_square(b)
    if reader == "poly":
        b.poly("beside", "square", 0.0, 0.0, 1.0)
    unchanged(b.output("product", "beside" if reader == "poly" else "square"))


def test_coefficients_per_element_are_copied() -> None:
    b = Builder()
    b.input("x", 1, 4)
    b.affine("dense", {"x": matrix(4, 4)})
    b.poly("cubic", "dense", np.arange(4.0), 1.0, np.ones(4), np.arange(1.0, 5.0))
    b.scaled("half", "cubic", 0.5)
    b.affine("copies", {"half": selection(THRICE, 4)})
    after = moved(b.output("copies"))
    assert outline(after) == [
        "dense = affine(x)",
        "cubic = poly(dense)",
        "half = affine(cubic)",
    ]


def test_a_share_per_element_is_copied() -> None:
    net = Network(x=(1, 4))
    dense = net.op("MatMul", "x", matrix(4, 4))
    leaky = net.op("PRelu", dense, np.array([0.1, 0.2, 0.3, 0.4]), name="leaky")
    tall = net.op("Unsqueeze", leaky, np.array([2]))
    after = moved(net.graph(net.op("Expand", tall, np.array([1, 4, 3]), name="copies")))
    assert isinstance(after["leaky"], Function)
    assert after["leaky"].share.ravel().tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6])


def test_a_factor_of_one_element_stays_one() -> None:
    b = Builder()
    b.input("x", 1, 4)
    b.affine("dense", {"x": matrix(4, 4)})
    b.affine("one", {"x": matrix(1, 4, seed=1)})
    b.mul("product", "dense", "one")
    b.affine("copies", {"product": selection(THRICE, 4)})
    after = moved(b.output("copies"))
    assert after["one"].size == 1


def test_inputs_are_not_copied() -> None:
    b = Builder()
    b.input("x", 1, 4)
    b.poly("square", "x", 0.0, 0.0, 1.0)
    b.affine("copies", {"square": selection(THRICE, 4)})
    unchanged(b.output("copies"))


def test_scaled_copies_are_none() -> None:
    b = Builder()
    b.input("x", 1, 4)
    b.affine("dense", {"x": matrix(4, 4)})
    b.poly("square", "dense", 0.0, 0.0, 1.0)
    b.affine("copies", {"square": selection(THRICE, 4, 2.0)})
    unchanged(b.output("copies"))


def test_limits() -> None:
    b = Builder()
    copied_square(b)
    before = b.output("product")
    unchanged(before, size=11)
    moved(before, size=12)
    unchanged(before, allowance=47)
    moved(before, allowance=48)


def test_elements_in_another_order_are_moved_whatever_their_number() -> None:
    b = Builder()
    b.input("x", 1, 4)
    b.affine("dense", {"x": matrix(4, 4)})
    b.poly("square", "dense", 0.0, 0.0, 1.0)
    b.affine("turned", {"square": selection(np.array([3, 1, 0, 2]), 4)})
    b.mul("product", "turned", "turned")
    moved(b.output("product"), size=1)


def test_attention_has_no_maps_of_copies() -> None:
    net = Network(x=(4, 6))
    norm = net.op("LayerNormalization", "x", np.ones(6), name="norm")
    q, k, v = (net.op("MatMul", norm, matrix(6, 5, seed=s)) for s in range(3))
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[1, 0]), name="scores")
    weights = net.op("Softmax", scores, axis=-1, name="weights")
    net.op("MatMul", weights, v, name="y")
    before = run_pass(MergeAffine(), run_pass(CleanGraph(), net.graph("y")).program.graph)
    # Of the inverse root, the reciprocal and the weights.
    after = moved(before.program.graph, less=3)
    assert outline(after) == [
        "norm.centred = affine(x)",
        "norm.square = mul(norm.centred, norm.centred)",
        "norm.variance = affine(norm.square)",
        "norm.inverse = function(norm.variance)",
        "norm.normalised = mul(norm.centred, norm.inverse)",
        "scores.copies = affine(norm.normalised)",
        "scores.copies_2 = affine(norm.normalised)",
        "scores.products = mul(scores.copies, scores.copies_2)",
        "weights.centred = affine(scores.products)",
        "weights.exp = function(weights.centred)",
        "weights.sum = affine(weights.exp)",
        "weights.inverse = function(weights.sum)",
        "weights = mul(weights.exp, weights.inverse)",
        "y.copies_2 = affine(norm.normalised)",
        "y.products = mul(weights, y.copies_2)",
        "y = affine(y.products)",
    ]

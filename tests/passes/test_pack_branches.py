"""Isomorphic branches become one with a leading axis, in one order throughout."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fhecompile.ir.tensor import Affine, Function, Poly, TensorGraph
from passes.pack_branches import PackBranches
from tests.graphs import Builder, matrix, of_kind, run_passes
from tests.support import Network, assert_same_function, random_inputs, run_pass


def pack(before: TensorGraph) -> TensorGraph:
    after = run_pass(PackBranches(), before).program.graph
    assert_same_function(before, after, random_inputs(before), bits=40)
    return after


def branches(order: tuple[int, ...], shared: bool = True) -> Builder:
    """Four times x -> map -> quadratic -> map, the quadratics written in the given order."""
    b = Builder()
    b.input("x", 1, 4)
    for k in range(4):
        b.affine(f"first{k}", {"x": matrix(3, 4, k)})
    for k in order:
        b.poly(f"square{k}", f"first{k}", float(k), 1.0, 2.0)
    for k in range(4):
        b.affine(f"second{k}", {f"square{k}": matrix(2, 3, k)})
    return b


def test_patches_cut_by_slices() -> None:
    random = np.random.default_rng(0)
    net = Network(x=(1, 1, 8, 8))
    total = ""
    for row, column in itertools.product((0, 4), repeat=2):
        ends = np.array([row + 4, column + 4])
        patch = net.op("Slice", "x", np.array([row, column]), ends, np.array([2, 3]))
        conv = net.op("Conv", patch, random.normal(size=(2, 1, 3, 3)), random.normal(size=2))
        square = net.op("Mul", conv, conv)
        gemm = net.op("Gemm", net.op("Flatten", square), random.normal(size=(8, 3)))
        total = net.op("Add", total, gemm) if total else gemm
    imported = net.graph(total)
    before = run_passes(imported, "merge_affine").graph
    result = run_pass(PackBranches(), before)
    after = result.program.graph
    assert result.remarks == ("2 groups of up to 4 isomorphic nodes packed",)
    (poly,) = of_kind(after, Poly)
    assert poly.shape == (4, 1, 2, 2, 2)
    assert [node.shape for node in of_kind(after, Affine)] == [(4, 1, 2, 2, 2), (1, 3)]
    assert_same_function(imported, after, random_inputs(imported), bits=40)


def patches(count: int, size: int, overlap: int = 0) -> TensorGraph:
    """Branches that read size x size patches of an image side by side."""
    random = np.random.default_rng(0)
    net = Network(x=(1, 1, size, count * (size - overlap) + overlap))
    total = ""
    for k in range(count):
        ends = np.array([k * (size - overlap) + size])
        patch = net.op("Slice", "x", np.array([k * (size - overlap)]), ends, np.array([3]))
        conv = net.op("Conv", patch, random.normal(size=(4, 1, 3, 3)), pads=[1] * 4)
        mean = net.op("GlobalAveragePool", net.op("Mul", conv, conv))
        total = net.op("Add", total, mean) if total else mean
    return run_passes(net.graph(total), "merge_affine").graph


def test_many_large_branches_are_cut_into_powers_of_two() -> None:
    after = pack(patches(7, 40))  # 7 * 4 * 40 * 40 elements: more than one ciphertext
    assert [(n.name, n.shape) for n in after.inputs()] == [
        ("x.conv1", (4, 1, 1, 40, 40)),
        ("x.conv20", (2, 1, 1, 40, 40)),
        ("x.conv30", (1, 1, 40, 40)),
    ]
    assert list(after.given()) == ["x"]
    shapes = [node.shape for node in of_kind(after, Poly)]
    assert shapes == [(4, 1, 4, 40, 40), (2, 1, 4, 40, 40), (1, 4, 40, 40)]


@pytest.mark.parametrize(("count", "size"), [(7, 30), (4, 60)])
def test_branches_that_fit_or_are_a_power_of_two_are_not_cut(count: int, size: int) -> None:
    after = pack(patches(count, size))
    assert [n.name for n in after.inputs()] == ["x"]
    assert [node.shape[0] for node in of_kind(after, Poly)] == [count]


def test_patches_that_overlap_much_stay_one_input() -> None:
    after = pack(patches(7, 40, overlap=30))
    assert [n.name for n in after.inputs()] == ["x"]
    assert [node.shape[0] for node in of_kind(after, Poly)] == [4, 2, 1]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2), (1, 3, 2, 0)])
def test_order_of_branches_is_one_throughout(order: tuple[int, ...]) -> None:
    b = branches(order)
    b.affine("total", {f"second{k}": matrix(2, 2, 10 + k) for k in range(4)})
    after = pack(b.output("total"))
    assert [node.shape for node in after] == [
        (1, 4),
        (4, 1, 3),
        (4, 1, 3),
        (4, 1, 2),
        (1, 2),
        (1, 2),
    ]


def test_branches_of_different_shapes_are_not_packed() -> None:
    b = Builder()
    b.input("x", 1, 4)
    for k, width in enumerate((3, 5)):
        b.affine(f"first{k}", {"x": matrix(width, 4)})
        b.poly(f"square{k}", f"first{k}", 0.0, 0.0, 1.0)
        b.affine(f"second{k}", {f"square{k}": matrix(2, width)})
    b.affine("total", {f"second{k}": matrix(2, 2, k) for k in range(2)})
    before = b.output("total")
    assert not run_pass(PackBranches(), before).modified


def test_a_branch_read_by_something_else_is_not_packed() -> None:
    b = branches((0, 1, 2, 3))
    b.affine("total", {f"second{k}": matrix(2, 2, k) for k in range(4)})
    before = b.output("total", "square2")
    assert not run_pass(PackBranches(), before).modified


def test_a_branch_also_read_by_another_map_is_packed() -> None:
    b = branches((0, 1, 2, 3))
    b.affine("total", {f"second{k}": matrix(2, 2, k) for k in range(4)})
    b.affine("aside", {"square2": matrix(5, 3)})
    after = pack(b.output("total", "aside"))
    (poly,) = of_kind(after, Poly)
    assert poly.shape == (4, 1, 3)
    assert after["aside"].inputs == (poly.name,)


def test_linear_branches_stay() -> None:
    b = Builder()
    b.input("x", 1, 4)
    for k in range(2):
        b.affine(f"first{k}", {"x": matrix(3, 4, k)})
    b.affine("total", {f"first{k}": matrix(2, 3, k) for k in range(2)})
    before = b.output("total")
    result = run_pass(PackBranches(), before)
    assert not result.modified
    assert result.program.graph is before


def test_polynomials_of_one_tensor_stay() -> None:
    b = Builder()
    b.input("x", 1, 4)
    b.poly("p", "x", 0.0, 1.0, 1.0)
    b.poly("q", "x", 0.0, 2.0, 1.0)
    b.affine("total", {"p": matrix(2, 4), "q": matrix(2, 4, seed=1)})
    pack(b.output("total"))


def test_branches_scaled_by_a_number_of_their_own() -> None:
    b = Builder()
    b.input("x", 1, 4)
    for k in range(2):
        b.affine(f"map{k}", {"x": matrix(3, 4, k)})
        b.affine(f"gate{k}", {"x": matrix(1, 4, k)})
        b.mul(f"gated{k}", f"map{k}", f"gate{k}")
    b.affine("total", {f"gated{k}": matrix(2, 3, k) for k in range(2)})
    pack(b.output("total"))


@pytest.mark.parametrize("last", ["tanh", "relu"])
def test_functions_of_one_name_are_packed(last: str) -> None:
    b = Builder()
    b.input("x", 1, 4)
    for k, function in enumerate(["tanh", "tanh", last]):
        b.affine(f"first{k}", {"x": matrix(3, 4, k)})
        b.function(f"f{k}", f"first{k}", function)
    for k in range(3):
        b.affine(f"second{k}", {f"f{k}": matrix(2, 3, k)})
    after = pack(b.output(*(f"second{k}" for k in range(3))))
    shapes = [(node.function, node.shape) for node in of_kind(after, Function)]
    apart = [("tanh", (1, 3)), ("tanh", (1, 3)), ("relu", (1, 3))]
    assert shapes == ([("tanh", (3, 1, 3))] if last == "tanh" else apart)


def test_shares_are_those_of_each_branch() -> None:
    b = Builder()
    b.input("x", 1, 4)
    for k in range(3):
        b.affine(f"first{k}", {"x": matrix(3, 4, k)})
        share = np.array([[0.5, 0.25, 1.0]]) / (k + 1)
        b.graph.add(
            Function(
                name=f"f{k}", inputs=(f"first{k}",), shape=(1, 3), function="relu", share=share
            )
        )
        b.affine(f"second{k}", {f"f{k}": matrix(2, 3, k)})
    (packed,) = of_kind(pack(b.output(*(f"second{k}" for k in range(3)))), Function)
    assert packed.shape == (3, 1, 3)
    assert np.array_equal(packed.share[1:, 0], [[0.25, 0.125, 0.5], np.array([0.5, 0.25, 1]) / 3])

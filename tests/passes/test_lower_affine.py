"""Maps become groups of diagonals with a split; free maps have none."""

from __future__ import annotations

import numpy as np
import pytest

from fhecompile.ir.program import Program
from fhecompile.ir.tensor import TensorGraph
from passes.assign_layouts import Layouts
from passes.lower_affine import LowerAffine, LoweredMaps, MapGroup
from tests.graphs import FIXED_SCALES, Builder, matrix, run_passes

SLOTS = 64


def lower(graph: TensorGraph) -> Program:
    options = {"assign_layouts": "complex=false", "select_parameters": FIXED_SCALES}
    return run_passes(graph, "lower_affine", options, ring_dimension=2 * SLOTS, insecure_toy=True)


def test_free_maps_have_no_diagonals() -> None:
    b = Builder()
    b.input("x", 1, 8)
    b.affine("map", {"x": matrix(8, 8)})
    b.poly("square", "map", 0.0, 0.0, 1.0)
    b.poly("fourth", "square", 0.0, 0.0, 1.0)
    b.scaled("scaled", "square", -3.0)
    b.affine("mean", {"fourth": np.full((1, 8), 0.125)})
    groups = lower(b.output("scaled", "mean")).facts[LoweredMaps].groups
    assert set(groups) == {"map"}


def operands(x: int, y: int) -> TensorGraph:
    b = Builder()
    b.input("x", 1, x)
    b.input("y", 1, y)
    b.affine("both", {"x": matrix(8, x), "y": matrix(8, y)})
    b.poly("square", "both", 0.0, 0.0, 1.0)
    return b.output("square")


def test_operands_of_one_period_share_accumulators() -> None:
    program = lower(operands(8, 7))
    (group,) = program.facts[LoweredMaps].groups["both"]
    assert group.operands == (0, 1)
    assert len(group.maps) == 2


def test_operands_of_different_periods_form_groups() -> None:
    program = lower(operands(8, 32))
    groups = program.facts[LoweredMaps].groups["both"]
    assert [g.operands for g in groups] == [(0,), (1,)]
    layout = program.facts[Layouts].layout
    assert [g.maps[0].source for g in groups] == [layout["x"], layout["y"]]


def test_every_diagonal_is_a_baby_and_a_giant_step() -> None:
    for group in lower(operands(16, 16)).facts[LoweredMaps].groups["both"]:
        for m in group.maps:
            assert m.window == group.split.window
            for d in m.diagonals:
                y = d.offset
                assert (group.split.baby(y) + group.split.giant(y) - y) % SLOTS == 0


@pytest.mark.parametrize("offset", [0, 3])
def test_a_permutation_needs_one_product_per_diagonal(offset: int) -> None:
    b = Builder()
    b.input("x", 1, SLOTS)
    cyclic = np.roll(np.diag(np.arange(1.0, SLOTS + 1)), offset, axis=1)
    b.affine("map", {"x": cyclic})
    b.poly("square", "map", 0.0, 0.0, 1.0)
    program = lower(b.output("square"))
    (group,) = program.facts[LoweredMaps].groups["map"]
    assert isinstance(group, MapGroup)
    assert group.products == 1


def test_remarks_count_plaintext_products() -> None:
    program = lower(operands(8, 32))
    groups = program.facts[LoweredMaps].groups["both"]
    result = LowerAffine().run(program)
    products = sum(group.products for group in groups)
    assert result.remarks == (f"both: {products} plaintext products",)

"""The numbers of linear maps, against the diagonals and the operations they stand for."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import msgspec
import numpy as np
import pytest

import models
from fhecompile import compile
from fhecompile.plan import Plan
from fhecompile.plan.map_summary import layout_users, summarise_maps
from fhecompile.plan.schema import Program
from fhecompile.plan.summary import summarise
from tests.plan.conftest import Arrays, Fields
from tests.small import compile_small


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return compile_small(tmp_path_factory.mktemp("maps"))


@pytest.fixture
def by_hand(written: tuple[Fields, Arrays]) -> Plan:
    fields, arrays = written
    plan = Plan(msgspec.convert(fields, Program), arrays)
    plan.validate()
    return plan


def test_counted_by_hand(by_hand: Plan) -> None:
    # Diagonals 0 1 2 3 of one 4 x 4 map, in sums rotated by 0 (0, 1) and 2 (2, 3).
    (found,) = summarise_maps(by_hand)
    assert (found.layer, found.source, found.packing, found.copies) == ("x", "x", "real", 0)
    assert (found.source_layout, found.target_layout) == (0, 0)
    assert (found.inputs, found.outputs, found.offsets, found.products) == (1, 1, 4, 4)
    assert (found.baby_steps, found.giant_steps) == (1, 1)
    assert found.floor == 15 / (2 * 32)  # one of the 16 weights is zero
    assert found.utilisation == found.floor / 4


def test_a_map_nothing_reads(written: tuple[Fields, Arrays]) -> None:
    fields, arrays = written
    fields["maps"].append(fields["maps"][0])
    plan = Plan(msgspec.convert(fields, Program), arrays)
    plan.validate()
    found = summarise_maps(plan)[1]
    assert (found.source, found.products, found.baby_steps, found.utilisation) == ("", 0, 0, None)


@pytest.mark.parametrize("name", ["small", "tiny"])
def test_maps_add_up_to_the_layers(name: str, request: pytest.FixtureRequest) -> None:
    plan: Plan = request.getfixturevalue(name)
    maps = summarise_maps(plan)
    layers = {layer.layer: layer for layer in summarise(plan).layers}
    for layer in layers.values():
        own = [m for m in maps if m.layer == layer.layer]
        if own:
            assert sum(m.products for m in own) == layer.products
            assert sum(m.floor for m in own) == pytest.approx(layer.floor)
    for m, (_, diagonals) in zip(maps, plan.maps, strict=True):
        assert m.products == len(diagonals) and m.offsets <= m.products


def test_operands_are_named_by_the_layer_that_made_them(small: Plan) -> None:
    assert [(m.layer, m.source) for m in summarise_maps(small)] == [
        ("hidden", "x"),
        ("y", "active"),
    ]


def test_spilled_and_copied_operands(tmp_path: Path) -> None:
    model = Path(models.__file__).parent / "digits_cnn.onnx"
    options = "+select_parameters{prime_bits=59}"  # with more slots there is room to spill
    plan = compile(model, calibration=model.with_name("digits_calibration.npz"), passes=options)
    maps, users = summarise_maps(plan), layout_users(plan)
    assert any(m.copies for m in maps) and any(layout.spill for layout in plan.layouts)
    assert sorted(name for names in users for name in names) == sorted(
        layer.name for layer in plan.program.layers
    )
    for m in maps:
        assert m.source in users[m.source_layout] and m.layer in users[m.target_layout]
        assert m.source != m.layer


def test_a_huge_map_is_counted_piece_by_piece(written: tuple[Fields, Arrays]) -> None:
    fields, arrays = written
    fields["maps"][0]["terms"] = [["weights", "rows", "columns"], ["many", "rows3", "columns3"]]
    arrays["many"] = np.ones((1 << 18, 1, 1))
    arrays |= {"rows3": arrays["rows"][None], "columns3": arrays["columns"][None]}
    plan = Plan(msgspec.convert(fields, Program), arrays)
    plan.validate()
    tracemalloc.start()
    (found,) = summarise_maps(plan)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.floor == (15 + 16 * (1 << 18)) / (2 * 32)
    assert peak < 3 << 20


def test_layouts_know_their_layers(small: Plan) -> None:
    assert layout_users(small) == [["x"], ["hidden", "active"], ["y", "y.output"]]


def test_the_same_after_a_round_trip(small: Plan, tmp_path: Path) -> None:
    small.save(tmp_path / "a.fheplan")
    loaded = Plan.load(tmp_path / "a.fheplan")
    assert summarise_maps(loaded) == summarise_maps(small)
    assert layout_users(loaded) == layout_users(small)

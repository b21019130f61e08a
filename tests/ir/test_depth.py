"""Products on paths inside of what shares a layout."""

from __future__ import annotations

from fhecompile.ir.depth import measure_powers
from fhecompile.ir.placement import layout_classes
from tests.graphs import Builder, matrix


def test_powers_are_counted_between_maps() -> None:
    b = Builder()
    b.input("x", 1, 4)
    b.affine("map", {"x": matrix(4, 4)})
    b.poly("square", "map", 0.0, 0.0, 1.0)
    b.poly("fourth", "square", -1.0, 0.0, 2.0)
    b.affine("other", {"fourth": matrix(4, 4, 1)})
    graph = b.output(b.poly("last", "other", 0.0, 0.0, 1.0))
    found = measure_powers(graph, layout_classes(graph))
    assert found["x"] == 0
    assert found["map"] == found["square"] == found["fourth"] == 2
    assert found["other"] == found["last"] == 1

"""The nodes of an approximation have its values."""

from __future__ import annotations

import numpy as np
import pytest

from fhecompile.functions.approximation import Approximation
from fhecompile.functions.composite import fit_composite
from fhecompile.functions.minimax import fit_minimax
from fhecompile.functions.table import FUNCTIONS
from fhecompile.ir.approximations import approximation_nodes
from fhecompile.ir.depth import measure_depth
from fhecompile.ir.evaluate import evaluate
from fhecompile.ir.tensor import Add, Function, Input, Mul, Output, Poly, TensorGraph
from fhecompile.ir.tensor_rules import verify
from passes.lower_polynomials import lowered

SHARES = [np.ones(()), np.array(0.75), np.linspace(0.5, 1.5, 3).reshape(3, 1)]


def written(fitted: Approximation, share: np.ndarray) -> TensorGraph:
    """u -> the nodes, written out."""
    node = Function(name="f", inputs=("u",), shape=(3, 40), function="relu", share=share)
    graph = TensorGraph("g", {"u": Input(name="u", shape=(3, 40))})
    for new in lowered(approximation_nodes(node, "u", fitted)):
        graph.add(new)
    graph.add(Output(name="out", inputs=("f",), shape=(3, 40), label="f"))
    verify(graph)
    return graph


@pytest.mark.parametrize("share", SHARES, ids=["whole", "share", "shares"])
@pytest.mark.parametrize("name", ["relu", "clip", "tanh", "abs"])
@pytest.mark.parametrize("degrees", [(7,), (31,), (127,), (7, 7, 15)])
def test_nodes(name: str, degrees: tuple[int, ...], share: np.ndarray) -> None:
    f = FUNCTIONS[name]
    if name == "tanh" and len(degrees) > 1:
        return
    low, high = -2.0, 3.5
    fitted: Approximation = (
        fit_minimax(f, low, high, degrees[0], 1.0)
        if len(degrees) == 1
        else fit_composite(f, low, high, degrees, 1.0)
    )
    x = np.linspace(low, high, 120).reshape(1, 3, 40)
    graph = written(fitted, share)
    found = evaluate(graph, {"u": (x - fitted.centre) / fitted.radius})["f"]
    expected = x + share * (fitted(x) - x)
    assert np.abs(found - expected).max() <= 1e-11
    assert np.abs(expected - x - share * (f(x) - x)).max() <= 1.5 * fitted.error * (1 + 1e-9)
    depth = sum((d + 1).bit_length() - 1 for d in degrees) + (len(degrees) > 1)
    assert measure_depth(graph).total <= depth


def test_products() -> None:
    """Of a relu at 9 bits: few, as polynomials are odd and constants add nothing."""
    fitted = fit_composite(FUNCTIONS["relu"], -1.0, 1.0, (7, 7, 15), 1.0)
    nodes = list(written(fitted, np.ones(())))
    products = [n for n in nodes if isinstance(n, Mul) or (isinstance(n, Poly) and n.degree > 1)]
    assert len(products) == 5 + 5 + 8 + 1
    assert isinstance(nodes[-2], Mul)  # nothing is added in the end


def test_two_kinks_have_one_scale() -> None:
    """Both products are of one form, so that their sum needs no factor."""
    fitted = fit_composite(FUNCTIONS["clip"], -3.0, 3.5, (7, 7, 15), 1.0)
    graph = written(fitted, np.ones(()))
    (last,) = [n for n in graph if isinstance(n, Add) and n.name.startswith("f.sum")]
    assert [graph[name].op for name in last.inputs] == ["mul", "mul"]

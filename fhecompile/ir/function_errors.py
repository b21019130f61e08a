r"""What polynomials in the place of functions change about a network's outputs, by measuring it.

With y the outputs on the calibration samples, and y' those with other functions in the place of
some, an error is  max |y' - y|  over all samples, outputs and elements: largest and in the outputs'
own unit, as the promise of a precision is.

Of a polynomial that stands alone, all other functions exact, the error is found on some samples.
These need not come to where the polynomial p is worst, so that this is what counts for it,

    e_p = max |y' - y| * (largest error of p on its interval) / (largest error of p on the samples)

which takes what follows for linear.

What a choice changes about every value, as a share of the range of that value, is for reports
(`fhecompile.ir.fitted_errors`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fhecompile.functions.approximation import Approximation
from fhecompile.ir.evaluate import Substitutes, walk, walk_variants
from fhecompile.ir.histogram import Histogram
from fhecompile.ir.tensor import Function, Input, Node, Output, Refresh, TensorGraph

FloatArray = NDArray[np.float64]
BATCH = 16


class FunctionErrors:
    """Measures the errors of polynomials that stand for functions of one graph.

    Args:
        graph: the graph with its functions.
        inputs: the calibration samples by input name, (samples, *shape) each.
    """

    def __init__(self, graph: TensorGraph, inputs: Mapping[str, FloatArray]) -> None:
        self.names = list(graph.nodes)
        self.graph, self.inputs = _behind_functions(graph, inputs)
        self.samples = len(next(iter(inputs.values()), ()))

    def alone(
        self, name: str, candidates: Sequence[Approximation], chosen: NDArray[np.intp]
    ) -> list[float]:
        """e_p of each of the candidates for one function, on the chosen samples."""
        variants: list[Substitutes] = [{}, *({name: p} for p in candidates)]
        outputs, own = np.zeros(len(candidates)), np.zeros(len(candidates))
        for node, (exact, *found) in self._walk(variants, chosen):
            for k, (p, value) in enumerate(zip(candidates, found, strict=True)):
                if isinstance(node, Function) and node.name == name:
                    share = float(np.abs(node.share).max()) or 1.0
                    own[k] = max(own[k], p.largest_error(value, exact) / share)
                elif isinstance(node, Output):
                    outputs[k] = max(outputs[k], _largest_change(value, exact))
        return [
            float(output * (p.error / seen if 0.0 < seen < p.error else 1.0))
            for p, output, seen in zip(candidates, outputs, own, strict=True)
        ]

    def histograms(self, empty: Mapping[str, Histogram]) -> dict[str, Histogram]:
        """Of the named values of the graph, over all samples."""
        found = dict(empty)
        for node, (value,) in self._walk([{}], np.arange(self.samples)):
            if node.name in found:
                found[node.name] = found[node.name].having(value)
        return found

    def together(self, choice: Substitutes, enough: float = math.inf) -> float:
        """The error on all samples; one of more than `enough` is not always the largest."""
        largest = 0.0
        for node, (exact, found) in self._walk([{}, choice], np.arange(self.samples)):
            if isinstance(node, Output):
                largest = max(largest, _largest_change(found, exact))
                if largest > enough:
                    break
        return largest

    def by_layer(
        self, choice: Substitutes, chosen: NDArray[np.intp] | None = None
    ) -> tuple[float, dict[str, float]]:
        """The error on the chosen samples (default: all), and the share of every value's range."""
        chosen = np.arange(self.samples) if chosen is None else chosen
        largest, squares, counts = 0.0, dict.fromkeys(self.names, 0.0), dict.fromkeys(self.names, 0)
        low: dict[str, float] = {}
        high: dict[str, float] = {}
        for node, (exact, found) in self._walk([{}, choice], chosen):
            name = node.name
            if isinstance(node, Output):
                largest = max(largest, _largest_change(found, exact))
            if found is not exact and name in squares:
                squares[name] += float(np.sum((found - exact) ** 2))
                counts[name] += found.size
                low[name] = min(low.get(name, math.inf), float(exact.min()))
                high[name] = max(high.get(name, -math.inf), float(exact.max()))
        shares = {
            name: math.sqrt(squares[name] / counts[name]) / (high[name] - low[name])
            if name in low and high[name] > low[name]
            else 0.0
            for name in self.names
        }
        return largest, shares

    def _walk(
        self, variants: Sequence[Substitutes], chosen: NDArray[np.intp]
    ) -> Iterator[tuple[Node, list[FloatArray]]]:
        for start in range(0, len(chosen), BATCH):
            inputs = {name: x[chosen[start : start + BATCH]] for name, x in self.inputs.items()}
            with np.errstate(all="ignore"):
                yield from walk_variants(self.graph, inputs, variants)


def _largest_change(found: FloatArray, exact: FloatArray) -> float:
    """max |found - exact|, infinite where values overflow."""
    if found is exact:
        return 0.0
    largest = float(np.abs(found - exact).max(initial=0.0))
    return math.inf if math.isnan(largest) else largest


def _behind_functions(
    graph: TensorGraph, inputs: Mapping[str, FloatArray]
) -> tuple[TensorGraph, Mapping[str, FloatArray]]:
    """The part of the graph that functions change, and its inputs on the same samples.

    The whole graph, where the values at the border would take more memory than the samples.
    """
    changed: set[str] = set()
    border: dict[str, Node] = {}
    for node in graph:
        if isinstance(node, Function | Refresh) or changed.intersection(node.inputs):
            changed.add(node.name)
            border |= {name: graph[name] for name in node.inputs if name not in changed}
    taken = sum(np.prod(x.shape[1:]) for x in inputs.values())
    if sum(node.size for node in border.values()) > taken:
        return graph, inputs
    values: dict[str, list[FloatArray]] = {name: [] for name in border}
    samples = len(next(iter(inputs.values()), ()))
    for start in range(0, samples, BATCH):
        part = {name: x[start : start + BATCH] for name, x in inputs.items()}
        for node, value in walk(graph, part):
            if node.name in border:
                values[node.name].append(value)
    given = [Input(name=name, shape=node.shape) for name, node in border.items()]
    kept = [node for node in graph if node.name in changed]
    behind = TensorGraph(graph.name, {node.name: node for node in [*given, *kept]})
    return behind, {name: np.concatenate(parts) for name, parts in values.items()}

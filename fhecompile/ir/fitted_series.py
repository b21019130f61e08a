r"""The Fourier series of a network's functions, and the graph with them or with polynomials.

The operand x of a function f is refreshed as m = unit x, and the refresh computes a series of m:

    u = (x - c) / r,   m = share u,   y = 2 Re sum_j c_j exp(i pi j m)

c goes into the bias of the linear map that makes x where nothing else reads it.

With shares that differ by channel, of which a refresh cannot know, it computes f itself, and a
linear map of two values the node's: diag(1 - s) x + diag(s) f(x). A polynomial has its coefficients
per channel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.linear_map import diagonal
from fhecompile.functions.approximation import Approximation
from fhecompile.functions.fourier import FourierSeries
from fhecompile.ir.approximations import approximation_nodes, write_approximation
from fhecompile.ir.evaluate import Substitutes
from fhecompile.ir.function_errors import FunctionErrors
from fhecompile.ir.histogram import Histogram
from fhecompile.ir.tensor import Affine, Function, Node, Poly, Refresh, TensorGraph

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FittedSeries:
    """What stands for every function of a graph, by the functions' names.

    Args:
        graph: with its functions.
        functions: all of them, in order.
        series: of those that refreshes compute, by the functions' names, of `in_refresh`.
        pieces: polynomials in x that functions are on all of their operands' values.
        measured: what approximations change about the outputs.
        histograms: of the functions' operands.
        allowed: the most that outputs may change by.
        margin: of the ranges that series are fitted on, see `passes.fit_refreshes`.
    """

    graph: TensorGraph
    functions: Sequence[Function]
    series: Mapping[str, FourierSeries]
    pieces: Mapping[str, Approximation]
    measured: FunctionErrors
    histograms: Mapping[str, Histogram]
    allowed: float
    margin: float

    def changed(
        self, polynomials: Mapping[str, Approximation] | None = None, enough: float = math.inf
    ) -> float:
        """What all of them change about the outputs; one of more than `enough` may be larger.

        Args:
            polynomials: instead of series.
        """
        return self.measured.together(self.stand_ins(polynomials), enough)

    def shares(
        self, chosen: NDArray[np.intp], polynomials: Mapping[str, Approximation] | None = None
    ) -> Mapping[str, float | None]:
        """What they change about every value on the chosen samples (`ir.fitted_errors`)."""
        inside = [in_refresh(n).name for n in self.functions if in_refresh(n) is not n]
        shares = self.measured.by_layer(self.stand_ins(polynomials), chosen)[1]
        return {**dict.fromkeys(inside), **shares}

    def stand_ins(self, polynomials: Mapping[str, Approximation] | None = None) -> Substitutes:
        """What functions are computed as: series, or polynomials that are given instead."""
        nodes = {node.name: node for node in self.functions}
        series = {
            name: _without_share(in_refresh(nodes[name]), fitted)
            for name, fitted in self.series.items()
        }
        return {**series, **(polynomials or {})}

    def written(self, polynomials: Mapping[str, Approximation] | None = None) -> TensorGraph:
        """The graph without functions."""
        users = self.graph.users()
        nodes: dict[str, Node] = dict(self.graph.nodes)
        chosen = polynomials or {}
        for node in self.functions:
            if node.name in self.pieces:
                made = approximation_nodes(node, node.inputs[0], self.pieces[node.name])
                nodes |= {new.name: new for new in made}
            elif node.name in chosen:
                write_approximation(nodes, users, node, chosen[node.name])
            else:
                _write_refresh(nodes, users, node, self.series[node.name])
        return self.graph.rebuilt(nodes.values())


def in_refresh(node: Function) -> Function:
    """What a refresh computes of a function: the whole one where shares differ."""
    if np.ptp(node.share) == 0:
        return node
    return replace(node, name=f"{node.name}.whole", share=np.ones(()))


def _write_refresh(
    nodes: dict[str, Node],
    users: Mapping[str, Sequence[Node]],
    node: Function,
    fitted: FourierSeries,
) -> None:
    """Puts a refresh in the place of a function; see `write_approximation`."""
    operand, whole = node.inputs[0], in_refresh(node)
    is_alone = users[operand] == [node] and whole is node
    if whole is not node:
        maps = (diagonal(1.0 - node.share, node.shape), diagonal(node.share, node.shape))
        nodes[node.name] = Affine(
            name=node.name,
            inputs=(operand, whole.name),
            shape=node.shape,
            source=node.source,
            maps=maps,
            bias=np.zeros(()),
        )
    producer = nodes[operand]
    if isinstance(producer, Affine) and is_alone:
        nodes[operand] = replace(producer, bias=producer.bias - fitted.centre)
    elif fitted.centre:
        shift = np.array([-fitted.centre, 1.0]).reshape(-1, *(1,) * len(node.shape))
        operand = f"{node.name}.centred"
        nodes[operand] = Poly(
            name=operand,
            inputs=node.inputs,
            shape=node.shape,
            source=node.source,
            coefficients=shift,
        )
    u = np.asarray(np.linspace(-1.0, 1.0, 257), np.float64)
    largest = float(np.abs(fitted.on_unit(u)).max()) or 1.0
    nodes[whole.name] = Refresh(
        name=whole.name,
        inputs=(operand,),
        shape=node.shape,
        source=node.source,
        unit=fitted.share / fitted.radius,
        gain=fitted.share / largest,
        low=-fitted.radius,
        high=fitted.radius,
        coefficients=np.stack([fitted.coefficients.real, fitted.coefficients.imag]),
    )


def _without_share(node: Function, series: FourierSeries) -> Callable[[FloatArray], FloatArray]:
    """What the node makes the series of, which computes its share as well."""
    share = float(node.share.flat[0])
    return lambda x: x + (series(x) - x) / share if share else series(x)

r"""Lets functions of several values share one refresh, where that is cheaper.

A refresh takes as long for a few elements as for all that a ciphertext holds. Values x_1, ..., x_n
that one function is taken of, none of which depends on another, are therefore put side by side:

    y_k = f(x_k)     becomes     z = sum_k E_k x_k,   w = f(z),   y_k = E_k^T w

E_k puts x_k at its place on the one axis on which the shapes differ. Where a linear map makes x_k
and linear maps read y_k, E_k becomes a part of them (`passes.merge_affine`), and costs nothing.
With f(s x) = s f(x) for all s > 0, as relu has, E_k also brings x_k to the size of the largest.

    together   what fills fewer ciphertexts than apart, on a range that is no more than `widening`
               times that of any of them; values of nearly the same depth first
    taken      all of these groups or those that cost no map, whichever has the least predicted
               seconds sqrt(bytes of a key) (`fhecompile.ir.refresh_places`), if that is less than
               before, and if series of as many terms still keep their promise
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from fhecompile.ckks import linear_map
from fhecompile.ckks.layout import next_power_of_two
from fhecompile.errors import FheCompileError
from fhecompile.functions.table import function_named
from fhecompile.ir.fitted_functions import FittedFunctions
from fhecompile.ir.fitted_series import FittedSeries
from fhecompile.ir.function_options import options_by_function
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.refresh_places import COST_RING
from fhecompile.ir.tensor import Affine, Function, Node, Shape, TensorGraph
from passes.fit_refreshes import FitRefreshes
from passes.infer_ranges import Calibration, InferRanges, Ranges
from passes.lower_polynomials import LowerPolynomials
from passes.merge_affine import MergeAffine
from passes.place_refreshes import find_places


@dataclass(frozen=True)
class MergeRefreshes(Pass):
    """See the module docstring. A `widening` of 0 merges nothing."""

    widening: float = 2.0

    needs: ClassVar[tuple[type, ...]] = (Ranges, Calibration, FittedFunctions)
    gives: ClassVar[tuple[type, ...]] = (Ranges, FittedFunctions)

    def requires(self, program: Program) -> None:
        if not (self.widening == 0 or 1 <= self.widening < math.inf):
            raise FheCompileError(
                "option-value",
                f"widening is {self.widening:g}, allowed are 1 and more, and 0 to merge nothing",
                node=self.name,
            )

    def run(self, program: Program) -> PassResult:
        if FittedSeries not in program.facts or not self.widening:
            return PassResult(program, False)
        fitted = program.facts[FittedSeries]
        groups = _Grouping(self, program, fitted).found()
        if not groups:
            return PassResult(program, False)
        free = [group for group in groups if _costs_no_map(fitted.graph, group)]
        best, cost, taken = program, _cost(program), list[_Group]()
        for chosen in [groups, free] if free and len(free) < len(groups) else [groups]:
            merged = _merged(program, fitted, chosen)
            if merged is not None and (found := _cost(merged)) < cost:
                best, cost, taken = merged, found, chosen
        remarks = tuple(
            f"{', '.join(node.name for node in group.members)} share a refresh of "
            f"{' x '.join(map(str, group.shape))}"
            for group in taken
        )
        return PassResult(best, bool(taken), remarks)


@dataclass(frozen=True)
class _Group:
    """Functions that share a refresh.

    Args:
        members: them.
        axis: the one they are concatenated on; None: all shapes are equal so far.
        low, high: of their operands, each times its scale.
        depth: of the first, in functions.
    """

    members: tuple[Function, ...]
    axis: int | None
    low: float
    high: float
    depth: int

    @property
    def concatenated(self) -> int:
        """The axis the members are put side by side on."""
        if self.axis is not None:
            return self.axis
        shape = self.members[0].shape
        return next((axis for axis, n in enumerate(shape) if n > 1), len(shape) - 1)

    @property
    def shape(self) -> Shape:
        """Of all of them side by side."""
        shape = list(self.members[0].shape)
        shape[self.concatenated] = sum(node.shape[self.concatenated] for node in self.members)
        return tuple(shape)


class _Grouping:
    """Finds what may share a refresh."""

    def __init__(self, options: MergeRefreshes, program: Program, fitted: FittedSeries) -> None:
        self.options, self.graph, self.fitted = options, fitted.graph, fitted
        self.slots = (program.options.ring_dimension or COST_RING) // 2
        asked = options_by_function(program.options.activations, fitted.functions)
        self.functions = [
            node
            for node in fitted.functions
            if node.name in fitted.series and node.shape and node.name not in asked
        ]
        self.nearest, self.all_before, self.depth = self._dependences()

    def found(self) -> list[_Group]:
        """The groups of more than one function, in the order of their first members."""
        groups: list[_Group] = []
        for node in self.functions:
            own, before = self._alone(node), self.all_before[node.name]
            near = [k for k, g in enumerate(groups) if not any(m.name in before for m in g.members)]
            near.sort(key=lambda k: abs(groups[k].depth - own.depth))
            for k in near:
                joined = self._joined(groups[k], own)
                if joined is not None and self._is_acyclic([*groups[:k], joined, *groups[k + 1 :]]):
                    groups[k] = joined
                    break
            else:
                groups.append(own)
        return [group for group in groups if len(group.members) > 1]

    def _alone(self, node: Function) -> _Group:
        histogram = self.fitted.histograms[node.inputs[0]]
        low, high = histogram.low, histogram.high
        if function_named(node.function).homogeneous:
            size = max(abs(low), abs(high)) or 1.0
            low, high = low / size, high / size
        return _Group((node,), None, low, high, self.depth[node.name])

    def _joined(self, group: _Group, own: _Group) -> _Group | None:
        """The group with one more function, None where they cannot share a refresh."""
        first, (node,) = group.members[0], own.members
        if first.function != node.function or len(first.shape) != len(node.shape):
            return None
        if np.ptp(np.append(first.share.ravel(), node.share.ravel())) > 0:
            return None
        sides = zip(first.shape, node.shape, strict=True)
        axes = {axis for axis, (n, m) in enumerate(sides) if n != m}
        axes |= set() if group.axis is None else {group.axis}
        if len(axes) > 1:
            return None
        low, high = min(group.low, own.low), max(group.high, own.high)
        least = min(group.high - group.low, own.high - own.low)
        if high - low > self.options.widening * least:
            return None
        joined = _Group((*group.members, node), min(axes, default=None), low, high, group.depth)
        apart = self._ciphertexts(group.shape) + self._ciphertexts(node.shape)
        return joined if self._ciphertexts(joined.shape) < apart else None

    def _ciphertexts(self, shape: Shape) -> int:
        """Layouts give every axis a power of two of places."""
        return math.ceil(math.prod(map(next_power_of_two, shape)) / self.slots)

    def _dependences(self) -> tuple[dict[str, set[str]], dict[str, set[str]], dict[str, int]]:
        """Per function those next before it, all before it, and its depth in functions."""
        names = {node.name for node in self.functions}
        seen: dict[str, set[str]] = {}  # by value, the next functions from there up
        nearest: dict[str, set[str]] = {}
        all_before: dict[str, set[str]] = {}
        depth: dict[str, int] = {}
        for node in self.graph:
            before = set[str]().union(*(seen[name] for name in node.inputs))
            seen[node.name] = before
            if node.name in names:
                nearest[node.name], seen[node.name] = before, {node.name}
                all_before[node.name] = before.union(*(all_before[name] for name in before))
                depth[node.name] = 1 + max((depth[name] for name in before), default=0)
        return nearest, all_before, depth

    def _is_acyclic(self, groups: Sequence[_Group]) -> bool:
        """Whether no group needs a value that is only there behind it."""
        place = {node.name: k for k, group in enumerate(groups) for node in group.members}
        later = [node for node in self.functions if node.name not in place]
        place |= {node.name: len(groups) + k for k, node in enumerate(later)}
        before: dict[int, set[int]] = {k: set() for k in place.values()}
        for name, needed in self.nearest.items():
            before[place[name]] |= {place[other] for other in needed}
        done: set[int] = set()
        while ready := [k for k, needed in before.items() if k not in done and needed <= done]:
            done.update(ready)
        return len(done) == len(before)


def _costs_no_map(graph: TensorGraph, group: _Group) -> bool:
    """Whether linear maps make all operands, for them alone, and linear maps read the values."""
    users = graph.users()
    return all(
        isinstance(graph[node.inputs[0]], Affine)
        and users[node.inputs[0]] == [node]
        and all(isinstance(user, Affine) for user in users[node.name])
        for node in group.members
    )


def _merged(program: Program, fitted: FittedSeries, groups: Sequence[_Group]) -> Program | None:
    """The program with these groups merged, None if as many terms are then too few."""
    nodes: dict[str, Node] = dict(fitted.graph.nodes)
    for group in groups:
        _write_group(nodes, group, fitted)
    graph = fitted.graph.rebuilt(nodes.values())
    given = MergeAffine().run(replace(program, graph=graph)).program
    given = InferRanges().run(given).program
    series = next(iter(fitted.series.values()))  # all are alike in this
    try:
        return FitRefreshes(fitted.margin, series.share, series.terms).run(given).program
    except FheCompileError as error:
        if error.code != "precision-not-reachable":
            raise
        return None


def _write_group(nodes: dict[str, Node], group: _Group, fitted: FittedSeries) -> None:
    first = group.members[0]
    axis, shape = group.concatenated, group.shape
    source = " ".join(dict.fromkeys(" ".join(n.source for n in group.members).split()))
    places = np.arange(math.prod(shape)).reshape(shape)
    parts = np.split(places, np.cumsum([n.shape[axis] for n in group.members])[:-1], axis)
    sizes = _sizes(group, fitted)
    joined, whole = f"{first.name}.operands", f"{first.name}.joint"
    maps, operands = [], []
    for node, part, size in zip(group.members, parts, sizes, strict=True):
        own, table = np.ones(()), part.ravel()
        embed = linear_map.diagonal(own / size, node.shape)
        maps.append(linear_map.relabel_outputs(embed, table, places.size))
        operands.append(node.inputs[0])
        select = linear_map.diagonal(own * size, node.shape)
        nodes[node.name] = Affine(
            name=node.name,
            inputs=(whole,),
            shape=node.shape,
            source=node.source,
            maps=(linear_map.relabel_inputs(select, table, places.size),),
            bias=np.zeros((1,) * len(node.shape)),
        )
    nodes[joined] = _joined_operands(joined, operands, maps, shape, source)
    nodes[whole] = replace(first, name=whole, inputs=(joined,), shape=shape, source=source)


def _joined_operands(
    name: str,
    operands: Sequence[str],
    maps: Sequence[linear_map.LinearMap],
    shape: Shape,
    source: str,
) -> Affine:
    """sum_k maps_k operands_k, where one operand may be there several times."""
    found: dict[str, list[linear_map.LinearMap]] = {}
    for operand, m in zip(operands, maps, strict=True):
        found.setdefault(operand, []).append(m)
    return Affine(
        name=name,
        inputs=tuple(found),
        shape=shape,
        source=source,
        maps=tuple(linear_map.add(several) for several in found.values()),
        bias=np.zeros((1,) * len(shape)),
    )


def _sizes(group: _Group, fitted: FittedSeries) -> list[float]:
    """What operands are divided by, and values multiplied with; 1 for the largest operand."""
    if not function_named(group.members[0].function).homogeneous:
        return [1.0] * len(group.members)
    found = [fitted.histograms[node.inputs[0]] for node in group.members]
    sizes = [max(abs(h.low), abs(h.high)) or 1.0 for h in found]
    return [size / max(sizes) for size in sizes]


def _cost(program: Program) -> float:
    """Predicted seconds sqrt(bytes of a key) where every function is a refresh."""
    return find_places(LowerPolynomials().run(program).program).estimate()[0]

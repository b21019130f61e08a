r"""Packs isomorphic branches into one, with the branch as a new leading axis.

The patch networks of a face recogniser are the same graph with other weights. Side by side they
become one graph whose tensors have shape (branches, *shape): every later pass then sees one chain,
and one ciphertext operation serves all branches.

Nodes are coloured by (kind, shape, shapes of their constants or function's name, colours of their
operands); equal colours are candidates. A group of equally coloured nodes is packed when

- at each operand position its members read either one shared value (affine nodes only) or the
  members, in the same order, of another packed group, and
- everything that reads a member is in a packed group too, or is affine (an affine node can pick
  from a packed value inside its map).

Groups that break a rule are dropped until none does; groups without any non-linearity behind them
stay as they are, as there is nothing to gain.

Layouts give an axis a power of two of places. Where the branches do not fit one ciphertext, their
number is therefore cut into powers of two, 9 = 8 + 1, each packed by itself: a single branch leaves
slots for copies, which save products, where nine in sixteen places would leave seven empty. What
the client encrypts is then cut as well: each part reads the crops of its own branches, side by
side (`Input.elements`), where these do not overlap much.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks import linear_map
from fhecompile.ckks.linear_map import LinearMap, collapse
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.tensor import (
    Add,
    Affine,
    Function,
    Input,
    Mul,
    Node,
    Output,
    Poly,
    Shape,
    TensorGraph,
)

Group = tuple[str, ...]

MOST_SLOTS = 1 << 15  # of one ciphertext, in the largest ring
MOST_OVERLAP = 1.5  # elements that crops read, each counted, to those that are different


@dataclass(frozen=True)
class PackBranches(Pass):
    """See the module docstring."""

    def run(self, program: Program) -> PassResult:
        graph = program.graph
        groups = _packable_groups(graph)
        if not groups:
            return PassResult(program, False)
        branches = max(len(g) for g in groups)
        parts = _cut(graph, groups)
        if parts != groups:
            graph = _crop_inputs(graph, parts)
        packed = _rewrite(graph, [part for part in parts if len(part) > 1])
        remark = f"{len(groups)} groups of up to {branches} isomorphic nodes packed"
        return PassResult(replace(program, graph=packed), True, (remark,))


def _colour(node: Node, colours: dict[str, Hashable]) -> Hashable:
    operands = tuple(colours[name] for name in node.inputs)
    match node:
        case Affine():
            shapes = tuple(
                tuple((t.values.shape, t.out_index.shape, t.in_index.shape) for t in m.terms)
                for m in node.maps
            )
            return hash(("affine", node.shape, shapes, node.bias.shape, operands))
        case Poly():
            return hash(("poly", node.shape, node.coefficients.shape, operands))
        case Function():
            return hash(("function", node.shape, node.function, node.share.shape, operands))
        case Mul() | Add():
            return hash((node.op, node.shape, operands))
    return node.name


def _packable_groups(graph: TensorGraph) -> list[Group]:
    colours: dict[str, Hashable] = {}
    classes: dict[Hashable, list[str]] = {}
    for node in graph:
        colours[node.name] = _colour(node, colours)
        if not isinstance(node, Input | Output):
            classes.setdefault(colours[node.name], []).append(node.name)
    member: dict[str, tuple[Group, int]] = {}
    for names in classes.values():
        if len(names) < 2:
            continue
        group = tuple(sorted(names, key=lambda n: _operand_order(graph[n], member)))
        member.update({name: (group, b) for b, name in enumerate(group)})

    users = graph.users()
    while True:
        broken = [
            group
            for group in dict.fromkeys(group for group, _ in member.values())
            if not (_operands_agree(graph, group, member) and _readers_agree(users, group, member))
        ]
        if not broken:
            break
        for group in broken:
            for name in group:
                del member[name]
    groups = list(dict.fromkeys(group for group, _ in member.values()))
    if not any(isinstance(graph[group[0]], Poly | Mul | Function) for group in groups):
        return []
    return groups


def _cut(graph: TensorGraph, groups: list[Group]) -> list[Group]:
    """The groups cut into powers of two where a number of branches is none and they are large.

    All groups of that number are cut alike, whatever their size, as they read each other.
    """
    large = {len(g) for g in groups if len(g) * graph[g[0]].size > MOST_SLOTS}
    parts: list[Group] = []
    for group in groups:
        start = 0
        for bit in reversed(range(len(group).bit_length())) if len(group) in large else ():
            if len(group) >> bit & 1:
                parts.append(group[start : start + (1 << bit)])
                start += 1 << bit
        if start == 0:
            parts.append(group)
    return parts


def _operand_order(node: Node, member: dict[str, tuple[Group, int]]) -> tuple[int, ...]:
    """Sort key that puts the readers of branch b at position b."""
    return tuple(member[name][1] if name in member else 0 for name in node.inputs)


def _operands_agree(graph: TensorGraph, group: Group, member: dict[str, tuple[Group, int]]) -> bool:
    first = graph[group[0]]
    for operands in zip(*(graph[name].inputs for name in group), strict=True):
        if all(o == operands[0] for o in operands) and operands[0] not in member:
            if not isinstance(first, Affine):
                return False  # elementwise, it would need a copy per branch
            continue
        if any(o not in member for o in operands) or operands != member[operands[0]][0]:
            return False
        if not isinstance(first, Affine) and graph[operands[0]].shape != first.shape:
            return False  # a single element per branch does not broadcast over the branches
    # A group that reads nothing packed and nothing shared cannot exist: inputs are shared.
    return True


def _readers_agree(
    users: dict[str, list[Node]], group: Group, member: dict[str, tuple[Group, int]]
) -> bool:
    return all(
        user.name in member or isinstance(user, Affine) for name in group for user in users[name]
    )


def _rewrite(graph: TensorGraph, groups: list[Group]) -> TensorGraph:
    where = {name: (group, b) for group in groups for b, name in enumerate(group)}
    nodes: list[Node] = []
    for node in graph:
        if node.name in where:
            group, b = where[node.name]
            if b == len(group) - 1:
                nodes.append(_packed(graph, group, where))
        elif isinstance(node, Affine) and any(name in where for name in node.inputs):
            nodes.append(_reading_packed(graph, node, where))
        else:
            nodes.append(node)
    return TensorGraph(graph.name, {}).rebuilt(nodes)


def _crop_inputs(graph: TensorGraph, parts: list[Group]) -> TensorGraph:
    """The graph with an input of its own for every part that reads crops of a given tensor."""
    crops: dict[str, dict[Group, list[NDArray[np.int32]]]] = {}
    for part in parts:
        source = {name for member in part for name in graph[member].inputs}
        if len(source) != 1 or not isinstance(given := graph[source.pop()], Input):
            continue
        members = [node for node in map(graph.__getitem__, part) if isinstance(node, Affine)]
        found = [_crop(node.maps[0], given.shape) for node in members]
        boxes = [crop for crop in found if crop is not None]
        if len(boxes) == len(part) and len({crop.shape for crop in boxes}) == 1:
            crops.setdefault(given.name, {})[part] = boxes
    nodes = dict(graph.nodes)
    for name, of_part in crops.items():
        read = np.concatenate([crop.ravel() for boxes in of_part.values() for crop in boxes])
        if read.size > MOST_OVERLAP * np.unique(read).size:
            continue
        for part, boxes in of_part.items():
            elements = np.stack(boxes) if len(part) > 1 else boxes[0]
            made = _input_of(graph[name], f"{name}.{part[0]}", elements)
            nodes[made.name] = made
            for b, (member, crop) in enumerate(zip(part, boxes, strict=True)):
                table = np.full(graph[name].size, -1)
                table[crop.ravel()] = np.arange(crop.size) + b * crop.size
                node = graph[member]
                assert isinstance(node, Affine)
                own = linear_map.relabel_inputs(node.maps[0], table, elements.size)
                nodes[member] = replace(node, inputs=(made.name,), maps=(own,))
    read_names = {name for node in nodes.values() for name in node.inputs}
    return graph.rebuilt(n for n in nodes.values() if n.name not in crops or n.name in read_names)


def _input_of(given: Node, name: str, elements: NDArray[np.int32]) -> Input:
    return Input(
        name=name,
        shape=elements.shape,
        source=given.source,
        given=given.name,
        given_shape=given.shape,
        elements=elements,
    )


def _crop(m: LinearMap, shape: Shape) -> NDArray[np.int32] | None:
    """The box of elements a map reads, None if what it reads is no box."""
    read = np.unique(m.coordinates()[1])
    axes = [np.unique(axis) for axis in np.unravel_index(read, shape)]
    if math.prod(map(len, axes)) != read.size:
        return None
    return read.reshape([len(axis) for axis in axes]).astype(np.int32)


def _packed_name(group: Group) -> str:
    return group[0]


def _packed(graph: TensorGraph, group: Group, where: dict[str, tuple[Group, int]]) -> Node:
    first = graph[group[0]]
    members = [graph[name] for name in group]
    inputs = tuple(_packed_name(where[name][0]) if name in where else name for name in first.inputs)
    shape = (len(group), *first.shape)
    source = f"{first.source} (and {len(group) - 1} like it)"
    match first:
        case Affine():
            affines = [m for m in members if isinstance(m, Affine)]
            maps = tuple(
                linear_map.stack([m.maps[k] for m in affines], name not in where)
                for k, name in enumerate(first.inputs)
            )
            bias = np.stack([_with_rank(m.bias, len(first.shape)) for m in affines])
            return replace(first, inputs=inputs, shape=shape, source=source, maps=maps, bias=bias)
        case Poly():
            stacked = np.stack(
                [
                    np.stack([_with_rank(c, len(first.shape)) for c in m.coefficients])
                    for m in members
                    if isinstance(m, Poly)
                ],
                axis=1,
            )
            return replace(first, inputs=inputs, shape=shape, source=source, coefficients=stacked)
        case Function():
            rank = len(first.shape)
            shares = [_with_rank(m.share, rank) for m in members if isinstance(m, Function)]
            share = collapse(np.stack(shares))
            return replace(first, inputs=inputs, shape=shape, source=source, share=share)
    return replace(first, inputs=inputs, shape=shape, source=source)


def _with_rank(array: NDArray[np.float64], rank: int) -> NDArray[np.float64]:
    return array.reshape((1,) * (rank - array.ndim) + array.shape)


def _reading_packed(
    graph: TensorGraph, node: Affine, where: dict[str, tuple[Group, int]]
) -> Affine:
    inputs: dict[str, list[LinearMap]] = {}
    for name, m in zip(node.inputs, node.maps, strict=True):
        if name not in where:
            inputs.setdefault(name, []).append(m)
            continue
        group, b = where[name]
        size = graph[name].size
        moved = linear_map.relabel_inputs(m, np.arange(size) + b * size, size * len(group))
        inputs.setdefault(_packed_name(group), []).append(moved)
    return replace(
        node,
        inputs=tuple(inputs),
        maps=tuple(linear_map.add(maps) for maps in inputs.values()),
    )

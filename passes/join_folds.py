r"""Joins two steps of a sum over rotations into one, where there are rotation keys left for it.

A sum over replicas, or over all slots, is made of steps x <- x + rot_a x. Two of them are

    (x + rot_a x) + rot_b (x + rot_a x) = x + rot_a x + rot_b x + rot_(a + b) x:

three rotations of one value instead of two, one after the other. They share one decomposition and
one division by P (`passes.share_rotations`), so that it takes

    raise + 3 key + lower    instead of    2 (raise + key + lower),

a third less, in half as many steps that wait for each other. It takes a key more. Joining three
would take four more, and seven products with keys, for hardly less time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from fhecompile.ckks.bsgs import signed_offset
from fhecompile.ckks.operations import automorphisms
from fhecompile.ckks.parameters import Parameters
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.slots import SlotGraph, SlotNode
from passes.limit_keys import key_budget
from passes.share_rotations import kept_rotations


@dataclass(frozen=True)
class JoinFolds(Pass):
    """See the module docstring."""

    needs: ClassVar[tuple[type, ...]] = (Parameters,)

    def run(self, program: Program) -> PassResult:
        graph, slots = program.slot_graph(), program.facts[Parameters].slots
        steps = _steps(graph)
        keys = {o % slots for node in graph for o in automorphisms(node.op, node.attributes)}
        keys |= kept_rotations(program)
        budget = key_budget(program)
        joined: dict[int, _Step] = {}  # by the node of the second step: the first one
        for node_id, second in steps.items():
            first = steps.get(second.value)
            if first is None or second.value in joined:
                continue
            offsets = {o % slots for o in (first.offset, second.offset)}
            offset = (first.offset + second.offset) % slots
            fits = offset in keys or len(keys) < budget
            if fits and second.alone and len(offsets | {offset, 0}) == 4:
                keys.add(offset)
                joined[node_id] = first
        remark = f"{len(joined)} of {len(steps)} steps joined with the one before"
        if not joined:
            return PassResult(program, False, (remark,))
        after = _joined(graph, steps, joined, slots)
        return PassResult(replace(program, slots=after), True, (remark,))


@dataclass(frozen=True)
class _Step:
    """value + rot_offset value; `alone` when nothing else reads the value or its rotation."""

    value: int
    offset: int
    alone: bool


def _steps(graph: SlotGraph) -> dict[int, _Step]:
    """All steps, by the id of their sum, in order."""
    users: dict[int, list[SlotNode]] = {node.id: [] for node in graph}
    for node in graph:
        for operand in set(node.inputs):
            users[operand].append(node)
    found = {}
    for node in graph:
        if node.op != "add" or len(node.inputs) != 2:
            continue
        for value, other in (node.inputs, node.inputs[::-1]):
            turned = graph[other]
            if turned.op == "rotate" and turned.inputs == (value,) and users[other] == [node]:
                alone = len(users[value]) == 2
                found[node.id] = _Step(value, turned.attributes["offset"], alone)
                break
    return found


def _joined(
    graph: SlotGraph, steps: dict[int, _Step], joined: dict[int, _Step], slots: int
) -> SlotGraph:
    """The graph with every joined pair of steps as one `rotate_sum`; what they made is dropped."""
    dropped = set()
    for node_id in joined:
        between = steps[node_id].value
        dropped |= {between, *graph[between].inputs, *graph[node_id].inputs}
        dropped.discard(steps[between].value)
    after = graph.emptied()
    renamed: dict[int, int] = {}
    for node in graph:
        if node.id in joined:
            first = joined[node.id]
            a, b = first.offset, steps[node.id].offset
            offsets = [0, *(signed_offset(o % slots, slots) for o in (a, b, a + b))]
            value = renamed[first.value]
            renamed[node.id] = after.emit(
                "rotate_sum", (value,) * len(offsets), node.layer, offsets=offsets
            )
        elif node.id not in dropped:
            inputs = tuple(renamed[i] for i in node.inputs)
            renamed[node.id] = after.emit(node.op, inputs, node.layer, **node.attributes)
    after.results = graph.renamed_results(renamed)
    return after

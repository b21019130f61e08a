r"""Keeps the number of rotation keys within a budget: rare rotations are composed of others.

A key is worth what its rotations would cost without it. With r = s + t, both s and t kept,

    rotate      rot_r x = rot_t (rot_s x): if rot_s x is needed anyway, one key switch more than
                nothing and, where several rotations of x are hoisted, one decomposition more
    rotate_sum  a giant step rot_r v becomes rot_s (v_s + rot_t v), v_s the term of giant step s:
                one division by P more; a term of its own if there is no giant step s

Keys go one at a time, the cheapest first, until there are at most `max_keys` and all keys fit half
of `max_memory`; the other half is for ciphertexts and constants, whose memory is known only later.
A gallery (`--match gallery`) has rotations of its own, whose keys stay and may be composed of;
refreshes have dozens, which `max_keys` does not count, but `max_memory` does.
Keys that compositions need stay until all others are gone; then one of them may be composed in
turn, and what is composed of it takes one key switch more.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import ClassVar

from fhecompile.ckks.bsgs import RotationCosts, rotation_costs, signed_offset
from fhecompile.ckks.parameters import Parameters
from fhecompile.errors import FheCompileError
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.slots import SlotGraph, SlotNode
from passes.share_rotations import kept_rotations

OTHER_KEYS = 2  # conjugation and relinearisation


def key_budget(program: Program) -> int:
    """Rotation keys there may be, those of refreshes included, see the module docstring."""
    options, parameters = program.options, program.facts[Parameters]
    most = options.max_keys
    if parameters.bootstrap is not None:
        most += len(kept_rotations(program))
    if options.max_memory is None:
        return most
    keys = (options.max_memory // 2) // parameters.key_bytes - OTHER_KEYS
    return max(0, min(most, keys))


@dataclass(frozen=True)
class LimitKeys(Pass):
    """See the module docstring."""

    needs: ClassVar[tuple[type, ...]] = (Parameters,)

    def run(self, program: Program) -> PassResult:
        parameters = program.facts[Parameters]
        graph = program.slot_graph()
        uses = _uses(graph, parameters)
        given = kept_rotations(program)
        composed = _compose(uses, parameters.slots, key_budget(program), given)
        remark = f"{len(uses)} rotations, {len(composed)} composed of others"
        if not composed:
            return PassResult(program, False, (remark,))
        after = _Rewriter(graph, composed, parameters.slots).run()
        return PassResult(replace(program, slots=after), True, (remark,))


@dataclass(frozen=True)
class _Use:
    """One rotation: offsets of which its value is rotated anyway, and what it costs more to
    compose it of one of them (`near`) or of others (`far`)."""

    beside: frozenset[int]
    near: float
    far: float


def _uses(graph: SlotGraph, parameters: Parameters) -> dict[int, list[_Use]]:
    """All uses of every rotation offset (in [1, slots))."""
    slots = parameters.slots
    rotated: dict[int, set[int]] = defaultdict(set)
    for node in graph:
        if node.op == "rotate":
            rotated[node.inputs[0]].add(node.attributes["offset"] % slots)
    uses: dict[int, list[_Use]] = defaultdict(list)
    levels: dict[int, RotationCosts] = {}
    for value, offsets in rotated.items():
        c = _costs(levels, graph[value], parameters)
        hoisted = c.baby if len(offsets) > 1 else c.rotate
        for offset in offsets:
            use = _Use(frozenset(offsets - {offset}), c.rotate - hoisted, 2 * c.rotate - hoisted)
            uses[offset].append(use)
    for node in graph:
        if node.op == "rotate_sum":
            c = _costs(levels, node, parameters)
            offsets = {offset % slots for offset in node.attributes["offsets"]} - {0}
            for offset in offsets:
                near = c.rotate - c.giant
                uses[offset].append(_Use(frozenset(offsets - {offset}), near, c.rotate))
    uses.pop(0, None)
    return dict(uses)


def _costs(
    levels: dict[int, RotationCosts], node: SlotNode, parameters: Parameters
) -> RotationCosts:
    level = node.type.level
    if level not in levels:
        levels[level] = rotation_costs(parameters, level)
    return levels[level]


def _compose(
    uses: dict[int, list[_Use]], slots: int, budget: int, given: set[int]
) -> dict[int, tuple[int, int]]:
    """Offset -> the two kept offsets it is composed of, until at most `budget` are kept.

    Those `given` have a key anyway.
    """
    kept = set(uses) | given
    dearer = dict.fromkeys(kept, 0.0)  # what composing a key costs those composed of it
    composed: dict[int, tuple[int, int]] = {}
    options = {r: _options(r, uses[r], kept, slots) for r in uses if r not in given}
    while len(kept) > budget:
        best: tuple[tuple[bool, float], int, tuple[int, int]] | None = None
        for r in sorted(kept):
            for cost, pair in options.get(r, ()):
                rank = (dearer[r] > 0, cost + dearer[r])
                if best is not None and rank >= best[0]:
                    break
                if pair[0] in kept and pair[1] in kept:
                    best = (rank, r, pair)
                    break
        if best is None:
            raise FheCompileError(
                "key-budget",
                f"{budget} rotation keys are too few, this network needs {len(kept)}",
                hint=f"allow {len(kept)} with --max-keys, or more memory with --max-memory",
            )
        _, r, pair = best
        kept.discard(r)
        composed[r] = pair
        for part in pair:
            dearer[part] += dearer[r] + sum(use.far for use in uses[r])
    return composed


def _options(
    r: int, uses: list[_Use], kept: set[int], slots: int
) -> list[tuple[float, tuple[int, int]]]:
    """What composing r of each pair (s, t) of other offsets costs, the cheapest first."""
    found = []
    for s in kept - {r}:
        t = (r - s) % slots
        if t in kept and t != r:
            cost = sum(use.near if s in use.beside else use.far for use in uses)
            found.append((cost, (s, t)))
    return sorted(found)


@dataclass
class _Rewriter:
    before: SlotGraph
    composed: dict[int, tuple[int, int]]
    slots: int
    renamed: dict[int, int] = field(default_factory=dict)
    rotated: dict[tuple[int, int], int] = field(default_factory=dict)

    def run(self) -> SlotGraph:
        self.after = self.before.emptied()
        for node in self.before:
            inputs = tuple(self.renamed[i] for i in node.inputs)
            if node.op == "rotate":
                made = self._rotate(node, inputs[0], node.attributes["offset"])
            elif node.op == "rotate_sum":
                made = self._rotate_sum(node, inputs)
            else:
                made = self.after.emit(node.op, inputs, node.layer, **node.attributes)
            self.renamed[node.id] = made
        self.after.results = self.before.renamed_results(self.renamed)
        return self.after

    def _rotate(self, node: SlotNode, value: int, offset: int) -> int:
        key = (value, offset % self.slots)
        if key not in self.rotated:
            made = value
            for part in self.composed.get(offset % self.slots, ()):
                made = self._rotate(node, made, signed_offset(part, self.slots))
            if made == value:
                made = self.after.emit("rotate", (value,), node.layer, offset=offset)
            self.rotated[key] = made
        return self.rotated[key]

    def _rotate_sum(self, node: SlotNode, values: tuple[int, ...]) -> int:
        terms: dict[int, int] = {}
        pending = []
        for value, offset in zip(values, node.attributes["offsets"], strict=True):
            if offset % self.slots in self.composed:
                pending.append((value, offset % self.slots))
            else:
                terms[offset] = value
        for value, offset in pending:
            s, t = self.composed[offset]
            if s in self.composed:
                s, t = 0, offset
            outer = signed_offset(s, self.slots)
            inner = self._rotate(node, value, signed_offset(t, self.slots))
            if outer in terms:
                inner = self.after.emit("add", (terms[outer], inner), node.layer)
            terms[outer] = inner
        offsets = sorted(terms)
        return self.after.emit(
            "rotate_sum", tuple(terms[o] for o in offsets), node.layer, offsets=offsets
        )

r"""Rotates cheaply: equal rotations once, several of one value hoisted, giant steps summed in QP.

- Two rotations of one value by one offset are the same value; so is, but for its level, one of the
  value at a deeper level (a convolution and the shortcut beside its second one).
- Two or more rotations of one value share its digit decomposition (`hoist`); each then costs the
  inner product with its key and one division by P.
- A `rotate_sum` keeps every rotated term in the extended basis QP and divides by P once at the end;
  terms that are one value share its digit decomposition, too
  (Bossuat, Mouchet, Troncoso-Pastoriza, Hubaux 2021, "double hoisting").
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import ClassVar

from fhecompile.ckks.bootstrap import refresh_rotations
from fhecompile.ckks.gallery import gallery_rotations
from fhecompile.ckks.parameters import Parameters
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.slots import SlotGraph, SlotNode


@dataclass(frozen=True)
class RotationKeys:
    """Rotation offsets that need a key, in [1, slots), whether conjugation does, and refreshes."""

    offsets: tuple[int, ...]
    conjugation: bool
    refreshes: tuple[int, ...] = ()


def kept_rotations(program: Program) -> set[int]:
    """Offsets in [1, slots) that need a key whatever the network rotates by.

    They are those of a gallery and of refreshes.
    """
    parameters = program.facts[Parameters]
    kept = set()
    if program.options.match == "gallery":
        (output,) = program.graph.outputs()
        kept |= gallery_rotations(output.size, parameters.slots)
    if parameters.bootstrap is not None:
        for slots in refreshed_slots(program.slot_graph()):
            kept |= refresh_rotations(parameters.bootstrap, slots, parameters.slots)
    return kept


def refreshed_slots(graph: SlotGraph) -> tuple[int, ...]:
    """Numbers of slots that values are refreshed in."""
    return tuple(sorted({node.attributes["slots"] for node in graph if node.op == "refresh"}))


@dataclass(frozen=True)
class ShareRotations(Pass):
    """See the module docstring."""

    needs: ClassVar[tuple[type, ...]] = (Parameters,)
    gives: ClassVar[tuple[type, ...]] = (RotationKeys,)

    def run(self, program: Program) -> PassResult:
        rewriter = _Rewriter(program.slot_graph())
        graph = rewriter.run()
        slots = program.facts[Parameters].slots
        offsets = {
            node.attributes["offset"] % slots for node in graph if "offset" in node.attributes
        }
        offsets |= kept_rotations(program)
        keys = RotationKeys(
            tuple(sorted(offsets - {0})),
            any(node.op == "conjugate" for node in graph),
            refreshed_slots(graph),
        )
        remark = f"{len(keys.offsets)} rotation keys, {rewriter.hoisted} hoisted groups"
        return PassResult(replace(program.having(keys), slots=graph), True, (remark,))


@dataclass
class _Rewriter:
    before: SlotGraph
    hoisted: int = 0
    renamed: dict[int, int] = field(default_factory=dict)

    def run(self) -> SlotGraph:
        self.after = self.before.emptied()
        self.rotated: dict[tuple[int, int], int] = {}
        self.digits: dict[int, int] = {}
        distinct = {
            (node.inputs[0], node.attributes["offset"])
            for node in self.before
            if node.op == "rotate"
        }
        self.rotations = Counter(value for value, _ in distinct)
        for node in self.before:
            inputs = tuple(self.renamed[i] for i in node.inputs)
            if node.op == "rotate":
                made = self._rotate(node, inputs[0])
            elif node.op == "rotate_sum":
                made = self._rotate_sum(node, inputs)
            else:
                made = self.after.emit(node.op, inputs, node.layer, **node.attributes)
            self.renamed[node.id] = made
        self.after.results = self.before.renamed_results(self.renamed)
        return self.after

    def _rotate(self, node: SlotNode, value: int) -> int:
        offset = node.attributes["offset"]
        if (value, offset) in self.rotated:
            return self.rotated[value, offset]
        source = self.after[value]
        above = self.rotated.get((source.inputs[0], offset)) if source.op == "drop_level" else None
        if above is not None:
            levels = source.attributes["levels"]
            made = self.after.emit("drop_level", (above,), node.layer, levels=levels)
        elif self.rotations[node.inputs[0]] < 2:
            made = self.after.emit("rotate", (value,), node.layer, offset=offset)
        else:
            digits = self._decomposed(node, value)
            made = self._emit(node, "rotate_hoisted", value, digits, offset=offset)
        self.rotated[value, offset] = made
        return made

    def _decomposed(self, node: SlotNode, value: int) -> int:
        if value not in self.digits:
            self.digits[value] = self._emit(node, "hoist", value)
            self.hoisted += 1
        return self.digits[value]

    def _rotate_sum(self, node: SlotNode, values: tuple[int, ...]) -> int:
        still: int | None = None
        extended: int | None = None
        terms = list(zip(values, node.attributes["offsets"], strict=True))
        rotations = Counter(value for value, offset in terms if offset)
        for value, offset in terms:
            if offset == 0:
                still = value if still is None else self._emit(node, "add", still, value)
                continue
            if rotations[value] < 2:
                turned = self._emit(node, "rotate_extended", value, offset=offset)
            else:
                digits = self._decomposed(node, value)
                turned = self._emit(node, "rotate_hoisted_extended", value, digits, offset=offset)
            extended = (
                turned if extended is None else self._emit(node, "add_extended", extended, turned)
            )
        if extended is None:
            assert still is not None
            return still
        total = self._emit(node, "key_switch_down", extended)
        return total if still is None else self._emit(node, "add", still, total)

    def _emit(self, node: SlotNode, op: str, *inputs: int, **attributes: int) -> int:
        return self.after.emit(op, inputs, node.layer, **attributes)

"""Rotations are made once, hoisted in groups, and giant steps summed before P is divided out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from fhecompile.ckks.parameters import Parameters
from fhecompile.ir import slots
from fhecompile.ir.program import Facts, Program
from fhecompile.ir.slots import SlotGraph
from fhecompile.ir.tensor import TensorGraph
from fhecompile.options import CompileOptions
from passes.share_rotations import RotationKeys, ShareRotations

PARAMETERS = Parameters(32, 2, 59, 60, 1, 128, insecure=True)


class Slots:
    """A slot graph with one input, and what the pass makes of it."""

    def __init__(self) -> None:
        self.graph = SlotGraph(59)
        self.x = self.emit("input", tensor=0, part=0, level=0, scale=40.0)

    def emit(self, op: str, *inputs: int, **attributes: object) -> int:
        return self.graph.emit(op, inputs, "layer", **attributes)

    def rotated(self, offset: int) -> int:
        return self.emit("rotate", self.x, offset=offset)

    def shared(self) -> tuple[SlotGraph, RotationKeys, str]:
        program = Program(TensorGraph("g"), CompileOptions(), Facts([PARAMETERS]))
        result = ShareRotations().run(replace(program, slots=self.graph))
        after = result.program.slot_graph()
        slots.verify(after)
        return after, result.program.facts[RotationKeys], result.remarks[0]


def operations(graph: SlotGraph) -> list[str]:
    return [node.op for node in graph]


def test_equal_rotations_are_one() -> None:
    s = Slots()
    s.emit("output", s.emit("add", s.rotated(3), s.rotated(3)), tensor=0, part=0)
    after, keys, remark = s.shared()
    assert operations(after) == ["input", "rotate", "add", "output"]
    assert keys == RotationKeys((3,), False)
    assert remark == "1 rotation keys, 0 hoisted groups"


def test_rotations_of_one_value_are_hoisted() -> None:
    s = Slots()
    total = s.emit("add", s.emit("add", s.rotated(1), s.rotated(-2)), s.rotated(1))
    s.emit("output", s.emit("rotate", total, offset=4), tensor=0, part=0)
    after, keys, remark = s.shared()
    assert operations(after) == [
        "input",
        "hoist",
        "rotate_hoisted",
        "rotate_hoisted",
        "add",
        "add",
        "rotate",
        "output",
    ]
    assert keys == RotationKeys((1, 4, 14), False)
    assert remark == "3 rotation keys, 1 hoisted groups"


@pytest.mark.parametrize("zeros", [0, 1, 2])
def test_a_rotated_sum_divides_once(zeros: int) -> None:
    s = Slots()
    offsets = [0] * zeros + [3, -5, 7]
    values = [s.emit("scale_up", s.x, bits=4) for _ in offsets]
    s.emit("output", s.emit("rotate_sum", *values, offsets=offsets), tensor=0, part=0)
    after, keys, _ = s.shared()
    count = Counter(operations(after))
    assert "rotate_sum" not in count
    assert count["rotate_extended"] == 3
    assert count["add_extended"] == 2
    assert count["key_switch_down"] == 1
    assert count["add"] == zeros
    assert keys.offsets == (3, 7, 11)


def test_terms_of_a_sum_that_are_one_value_share_its_digits() -> None:
    s = Slots()
    other = s.emit("scale_up", s.x, bits=4)
    values = [other, other, s.emit("scale_up", s.x, bits=4), other]
    s.emit("output", s.emit("rotate_sum", *values, offsets=[0, 1, 2, 3]), tensor=0, part=0)
    after, keys, remark = s.shared()
    count = Counter(operations(after))
    assert count["hoist"] == count["rotate_extended"] == 1
    assert count["rotate_hoisted_extended"] == 2
    assert count["key_switch_down"] == 1
    assert keys.offsets == (1, 2, 3)
    assert remark == "3 rotation keys, 1 hoisted groups"


def test_a_sum_that_does_not_rotate_needs_no_key() -> None:
    s = Slots()
    s.emit("output", s.emit("rotate_sum", s.x, s.x, offsets=[0, 0]), tensor=0, part=0)
    after, keys, _ = s.shared()
    assert operations(after) == ["input", "add", "output"]
    assert keys == RotationKeys((), False)


def test_conjugation_needs_a_key() -> None:
    s = Slots()
    s.emit("output", s.emit("conjugate", s.x), tensor=0, part=0)
    assert s.shared()[1] == RotationKeys((), True)

"""Steps of sums over rotations are joined in pairs: same values, fewer steps, within the keys."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhecompile.ckks.operations import automorphisms
from fhecompile.ckks.parameters import Parameters
from fhecompile.ir import slots
from fhecompile.ir.program import Facts, PassResult, Program
from fhecompile.ir.slots import SlotGraph
from fhecompile.ir.tensor import TensorGraph
from fhecompile.options import CompileOptions
from passes.join_folds import JoinFolds

SLOTS = 16
PARAMETERS = Parameters(2 * SLOTS, 2, 59, 60, 1, 128, insecure=True)


class Fold:
    """A sum over rotations of one input, step by step."""

    def __init__(self, *offsets: int) -> None:
        self.graph = SlotGraph(59)
        self.sums = [self.emit("input", tensor=0, part=0, level=0, scale=40.0)]
        for offset in offsets:
            last = self.sums[-1]
            self.sums.append(self.emit("add", last, self.emit("rotate", last, offset=offset)))

    def emit(self, op: str, *inputs: int, **attributes: object) -> int:
        return self.graph.emit(op, inputs, "layer", **attributes)

    def joined(self, **options: object) -> PassResult:
        self.emit("output", self.sums[-1], tensor=0, part=0)
        given = Program(TensorGraph("g"), CompileOptions(**options), Facts([PARAMETERS]))  # type: ignore[arg-type]
        result = JoinFolds().run(replace(given, slots=self.graph))
        slots.verify(result.program.slot_graph())
        return result


def evaluated(graph: SlotGraph) -> list[np.ndarray]:
    """The outputs of rotations and sums, of an input without symmetries."""
    values: dict[int, np.ndarray] = {}
    for node in graph:
        operands = [values[i] for i in node.inputs]
        match node.op:
            case "input":
                value = np.arange(SLOTS) ** 2
            case "rotate":
                value = np.roll(operands[0], -node.attributes["offset"])
            case "rotate_sum":
                offsets = node.attributes["offsets"]
                turned = [np.roll(x, -o) for x, o in zip(operands, offsets, strict=True)]
                value = np.sum(turned, axis=0)
            case "add":
                value = operands[0] + operands[1]
            case _:
                value = operands[0]
        values[node.id] = value
    return [values[node.id] for node in graph if node.op == "output"]


def offsets_of(graph: SlotGraph) -> list[list[int]]:
    return [node.attributes["offsets"] for node in graph if node.op == "rotate_sum"]


def keys_of(graph: SlotGraph) -> set[int]:
    return {o % SLOTS for node in graph for o in automorphisms(node.op, node.attributes)} - {0}


def test_two_steps_are_one_sum() -> None:
    fold = Fold(4, 2)
    result = fold.joined()
    after = result.program.slot_graph()
    assert result.modified
    assert [node.op for node in after] == ["input", "rotate_sum", "output"]
    assert offsets_of(after) == [[0, 4, 2, 6]]
    assert result.remarks == ("1 of 2 steps joined with the one before",)


@pytest.mark.parametrize(("steps", "pairs"), [(1, 0), (2, 1), (3, 1), (4, 2)])
def test_steps_are_joined_in_pairs(steps: int, pairs: int) -> None:
    after = Fold(*(1 << k for k in range(steps))).joined().program.slot_graph()
    assert len(offsets_of(after)) == pairs
    assert sum(node.op == "rotate" for node in after) == steps - 2 * pairs


@given(st.lists(st.integers(-SLOTS, SLOTS).filter(lambda o: o % SLOTS), max_size=5))
def test_values_stay(offsets: list[int]) -> None:
    before = Fold(*offsets)
    result = before.joined()
    (expected,), (found,) = evaluated(before.graph), evaluated(result.program.slot_graph())
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("keys", "pairs"), [(0, 0), (4, 0), (5, 1), (6, 2), (64, 2)])
def test_no_more_keys_than_allowed(keys: int, pairs: int) -> None:
    """Four steps need four keys, and one more for each pair."""
    after = Fold(8, 4, 2, 1).joined(max_keys=keys).program.slot_graph()
    assert len(offsets_of(after)) == pairs
    assert len(keys_of(after)) == 4 + pairs


def test_a_key_that_is_there_anyway_is_taken() -> None:
    fold = Fold(2, 1)
    other = fold.emit("rotate", fold.sums[0], offset=3)
    fold.emit("output", other, tensor=1, part=0)
    assert len(offsets_of(fold.joined(max_keys=3).program.slot_graph())) == 1


def test_a_sum_that_others_read_stays() -> None:
    fold = Fold(2, 1)
    fold.emit("output", fold.sums[1], tensor=1, part=0)
    result = fold.joined()
    assert not result.modified
    assert result.program.slot_graph() is fold.graph


def test_a_rotation_that_others_read_is_no_step() -> None:
    fold = Fold(2)
    turned = fold.graph[fold.sums[1]].inputs[1]
    fold.emit("output", turned, tensor=1, part=0)
    fold.sums.append(fold.emit("add", fold.sums[1], fold.emit("rotate", fold.sums[1], offset=1)))
    assert not fold.joined().modified


@pytest.mark.parametrize("offsets", [(8, 8), (2, 2), (5, -5)])
def test_rotations_that_meet_are_not_joined(offsets: tuple[int, int]) -> None:
    """A term twice, or one that goes all the way round, would need a sum with multiplicities."""
    assert not Fold(*offsets).joined().modified


def test_a_quarter_of_the_time_is_saved() -> None:
    from fhecompile.ckks.cost import operation_seconds
    from fhecompile.ckks.operations import ValueType

    p = Parameters(1 << 14, 3, 57, 60, 2, 128)
    x, digits, extended = (
        ValueType(kind, 1, 50.0) for kind in ("ciphertext", "digits", "extended")
    )
    step = operation_seconds("rotate", [x], {"offset": 1}, p)
    joined = (
        operation_seconds("hoist", [x], {}, p)
        + 3 * operation_seconds("rotate_hoisted_extended", [x, digits], {"offset": 1}, p)
        + 2 * operation_seconds("add_extended", [extended, extended], {}, p)
        + operation_seconds("key_switch_down", [extended], {}, p)
    )
    assert joined < 0.75 * 2 * step

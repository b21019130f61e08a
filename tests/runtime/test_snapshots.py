"""Snapshots of a run: what is left out, when they are taken, and that a run goes on from any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhecompile.ckks.operations import ValueType
from runtime.backends.base import OperationNode, operation_nodes
from runtime.backends.clear import ClearBackend
from runtime.constants import ConstantStore
from runtime.executor import Executor
from runtime.snapshots import CHECKPOINT_SECONDS, Recorder, Snapshot, is_whole, to_do_again
from runtime.trace import Execution
from tests.support import convolution_plan

PLAN = convolution_plan()
NODES = operation_nodes(PLAN)
RANDOM = np.random.default_rng(3)
PARTS = [(n.attributes["tensor"], n.attributes["part"]) for n in NODES if n.op == "input"]
IMAGES = [
    {part: RANDOM.normal(size=(1, PLAN.parameters.slots)) + 0j for part in PARTS} for _ in range(2)
]


class Memory:
    """Keeps the newest snapshot of each image."""

    def __init__(self) -> None:
        self.kept: dict[int, Snapshot] = {}
        self.saved: list[int] = []

    def load(self, image: int) -> Snapshot | None:
        return self.kept.get(image)

    def save(self, image: int, snapshot: Snapshot) -> None:
        self.kept[image] = snapshot
        self.saved.append(image)


class Stopping(ClearBackend):
    """Executes so many operations, and is then killed."""

    def __init__(self, count: int) -> None:
        super().__init__(PLAN, ConstantStore(PLAN))
        self.count = count
        self.executed: Counter[int] = Counter()

    def execute(self, node: OperationNode, operands: Sequence[Any]) -> Any:
        if self.count == 0:
            raise KeyboardInterrupt
        self.count -= 1
        self.executed[node.number] += 1
        return super().execute(node, operands)


class Always(Recorder):
    """Takes a snapshot after every operation that one can be taken after."""

    def take(self, node: OperationNode, image: int, *rest: Any) -> Snapshot | None:
        self._images[image].due = True
        self._images[image].gained = 1e9  # whatever has to be done again
        return super().take(node, image, *rest)


def evaluate(
    count: int, memory: Memory, images: int = 1, threads: int = 1
) -> tuple[list[dict[tuple[int, int], Any]], Stopping, list[Execution]]:
    backend, executions = Stopping(count), []
    executor = Executor(PLAN, backend, threads)
    recorder = Always(executor.nodes, executor.weights, memory)
    try:
        found, _ = executor.run_images(IMAGES[:images], None, recorder, executions)
    except KeyboardInterrupt:
        found = []
    finally:
        backend.constants.close()
    return found, backend, executions


EXPECTED = evaluate(-1, Memory(), 2)[0]
EXECUTED = {n.number for n in NODES if n.op not in ("input", "output")}
OPERATIONS = len(EXECUTED)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 2 * OPERATIONS), max_size=4), st.sampled_from([1, 3]))
def test_a_run_that_is_killed_anywhere_gives_the_same_bits(kills: list[int], threads: int) -> None:
    memory = Memory()
    for count in kills:
        evaluate(count, memory, 2, threads)
    found, backend, _ = evaluate(-1, memory, 2, threads)
    for one, other in zip(found, EXPECTED, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[key], other[key]) for key in one)
    assert max(backend.executed.values(), default=0) <= 2


@pytest.mark.parametrize("count", range(1, OPERATIONS, 7))
def test_what_is_done_is_not_done_again(count: int) -> None:
    memory = Memory()
    _, first, _ = evaluate(count, memory)
    snapshot = memory.kept[0]
    assert is_whole(NODES, snapshot)
    assert all(NODES[n].type.kind == "ciphertext" for n in snapshot.values)
    _, second, (execution,) = evaluate(-1, memory)
    left = [n.number for n in NODES if n.number not in snapshot.done]
    assert sum(entry.op != "checkpoint" for entry in execution.trace) == len(left)
    assert second.executed == Counter(n for n in left if n in EXECUTED)
    lost = sum((first.executed & second.executed).values())
    assert lost == count - len(snapshot.done & EXECUTED)


def test_a_run_that_is_done_needs_nothing() -> None:
    memory, shares = Memory(), []
    evaluate(-1, memory)
    backend = Stopping(0)
    executor = Executor(PLAN, backend, 1)
    recorder = Recorder(executor.nodes, executor.weights, memory)
    (found,), execution = executor.run_images(IMAGES[:1], shares.append, recorder)
    backend.constants.close()
    assert np.array_equal(found[0, 0], EXPECTED[0][0, 0])
    assert execution.trace == [] and shares == [1.0]


# ---------------------------------------------------------------------------- the rule by hand


def operations(*rows: tuple[str, str, tuple[int, ...]]) -> list[OperationNode]:
    types = [ValueType(kind, 0, 0.0) for _, kind, _ in rows]  # type: ignore[arg-type]
    return [
        OperationNode(k, op, inputs, {"tensor": 0, "part": 0}, 0, types[k], ())
        for k, (op, _, inputs) in enumerate(rows)
    ]


CHAIN = operations(
    ("input", "ciphertext", ()),
    ("refresh", "ciphertext", (0,)),
    ("hoist", "digits", (1,)),
    ("rotate_hoisted_extended", "extended", (1, 2)),
    ("key_switch_down", "ciphertext", (3,)),
    ("output", "ciphertext", (4,)),
)
WEIGHTS = [0.0, 10.0, 1.0, 2.0, 1.0, 0.0]


def test_hoisted_digits_are_made_again_from_their_ciphertext() -> None:
    assert to_do_again(CHAIN, WEIGHTS, {1: "x", 2: "digits"}, 1.0) == {2}
    assert to_do_again(CHAIN, WEIGHTS, {1: "x", 2: "digits"}, 0.9) is None


def test_what_cannot_be_written_leads_back_to_what_can() -> None:
    # The refreshed ciphertext is gone with its last use, so the refresh would be done again.
    assert to_do_again(CHAIN, WEIGHTS, {3: "extended"}, 12.9) is None
    assert to_do_again(CHAIN, WEIGHTS, {3: "extended"}, 13.0) == {0, 1, 2, 3}


def test_when_snapshots_are_taken() -> None:
    now, memory = [0.0], Memory()
    recorder = Recorder(CHAIN, WEIGHTS, memory, first=5, clock=lambda: now[0])
    assert recorder.restore(0) is None
    assert recorder.take(CHAIN[0], 0, {0: "x"}, {}) is None  # not due
    taken = recorder.take(CHAIN[1], 0, {1: "y"}, {})  # a refresh
    assert taken is not None and (taken.done, taken.values) == ({0, 1}, {1: "y"})
    now[0] = CHECKPOINT_SECONDS
    assert recorder.take(CHAIN[2], 0, {1: "y", 2: "digits"}, {}) is None  # one is being saved
    recorder.save(0, taken)
    assert memory.saved == [5]
    # Due, but all of the work since the last one would be lost.
    assert recorder.take(CHAIN[3], 0, {3: "extended"}, {}) is None
    late = recorder.take(CHAIN[4], 0, {4: "z"}, {})
    assert late is not None and late.done == {0, 1, 2, 3, 4}
    recorder.save(0, late)
    last = recorder.take(CHAIN[5], 0, {}, {(0, 0): "z"})
    assert last is not None and (last.values, last.outputs) == ({}, {(0, 0): "z"})


def test_a_snapshot_that_misses_something_is_told() -> None:
    assert is_whole(CHAIN, Snapshot(frozenset({0, 1}), {1: "y"}, {}))
    assert is_whole(CHAIN, Snapshot(frozenset({4}), {4: "z"}, {}))
    assert not is_whole(CHAIN, Snapshot(frozenset({0, 1}), {0: "x"}, {}))
    assert not is_whole(CHAIN, Snapshot(frozenset(range(6)), {}, {}))

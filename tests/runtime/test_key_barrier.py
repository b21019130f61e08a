"""Stages of keys: a barrier that all threads and images of a run keep."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from runtime.backends.base import OperationNode
from runtime.backends.clear import ClearBackend
from runtime.constants import ConstantStore
from runtime.executor import Executor
from tests.support import convolution_plan

PLAN = convolution_plan()
OPERATIONS = [k for k, o in enumerate(PLAN.program.operations) if o.op not in ("input", "output")]
INPUTS = {
    (o.attributes["tensor"], o.attributes["part"]): object()
    for o in PLAN.program.operations
    if o.op == "input"
}


class Staged(ClearBackend):
    """Computes nothing; notes when stages are entered, and what runs meanwhile."""

    def __init__(self, stages: Sequence[int], fails_at: int = -1) -> None:
        super().__init__(PLAN, ConstantStore(PLAN))
        self.stages, self.fails_at = stages, fails_at
        self.entered: list[int] = []
        self.made: list[int] = []
        self.running: set[int] = set()

    def execute(self, node: OperationNode, operands: Sequence[Any]) -> object:
        token = id(operands)
        self.running.add(token)
        assert self.stages[node.number] == self.entered[-1]
        time.sleep(2e-4 * (node.number % 3))
        self.made.append(node.number)
        self.running.discard(token)
        return object()

    def enter_stage(self, stage: int) -> None:
        assert not self.running
        if stage == self.fails_at:
            raise ArithmeticError("no keys")
        time.sleep(1e-3)
        assert not self.running
        self.entered.append(stage)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("length", [1, 7, 1000])
def test_no_operation_of_a_stage_runs_before_it_is_entered(threads: int, length: int) -> None:
    """Nor after the next one is; also with other stages, of constants, that end elsewhere."""
    stages = [k // length for k in range(len(PLAN.program.operations))]
    constants = [k // 5 for k in range(len(stages))]
    backend = Staged(stages)
    executor = Executor(PLAN, backend, threads, stages=constants, key_stages=stages)
    for _ in range(2):
        backend.entered.clear()
        _, execution = executor.run_images([INPUTS] * 2)
        assert backend.entered == sorted(set(stages))
    assert [e.image for e in execution.trace if e.op == "keys"] == [None] * len(backend.entered)
    assert len(backend.made) == 4 * len(OPERATIONS)


@pytest.mark.parametrize("threads", [1, 4])
def test_a_stage_that_cannot_be_entered_stops_the_run(threads: int) -> None:
    stages = [k // 7 for k in range(len(PLAN.program.operations))]
    backend = Staged(stages, fails_at=2)
    before = threading.active_count()
    with pytest.raises(ArithmeticError, match=r"^no keys$"):
        Executor(PLAN, backend, threads, key_stages=stages).run(INPUTS)
    assert backend.entered == [0, 1]
    assert {stages[number] for number in backend.made} <= {0, 1}
    assert threading.active_count() <= before

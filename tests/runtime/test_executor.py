"""The thread pool that runs a plan: order, freeing, errors, progress."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from fhecompile.plan import Plan
from runtime.backends.base import OperationNode
from runtime.backends.clear import ClearBackend
from runtime.constants import ConstantStore
from runtime.executor import Executor
from tests.support import convolution_plan, run_slots

PLAN = convolution_plan()
INPUTS = {
    (o.attributes["tensor"], o.attributes["part"]): object()
    for o in PLAN.program.operations
    if o.op == "input"
}


class Value:
    """Stands for a ciphertext."""

    def __init__(self, number: int) -> None:
        self.number = number


class Recorder(ClearBackend):
    """Makes a `Value` per operation and calls `before` with the operation."""

    def __init__(self, plan: Plan, before: Callable[[OperationNode], None]) -> None:
        super().__init__(plan, ConstantStore(plan))
        self.before = before
        self.made: list[tuple[int, weakref.ref[Value]]] = []

    def execute(self, node: OperationNode, operands: Sequence[Any]) -> Value:
        self.before(node)
        for number, operand in zip(node.inputs, operands, strict=True):
            if isinstance(operand, Value):  # not what an input operation passes on
                assert operand.number == number
        value = Value(node.number)
        self.made.append((node.number, weakref.ref(value)))
        return value


def record(threads: int, before: Callable[[OperationNode], None] = lambda _: None) -> Recorder:
    backend = Recorder(PLAN, before)
    Executor(PLAN, backend, threads).run(INPUTS)
    return backend


@pytest.mark.parametrize("threads", [1, 4])
def test_operands_are_made_first(threads: int) -> None:
    backend = record(threads, lambda node: time.sleep(1e-4 * (node.number % 3)))
    order = [number for number, _ in backend.made]
    operations = enumerate(PLAN.program.operations)
    executed = [k for k, o in operations if o.op not in ("input", "output")]
    assert sorted(order) == executed
    # `Recorder` has checked that every operation got the operands it names.
    if threads == 1:
        assert order == executed


def test_values_are_freed_after_their_last_use() -> None:
    last_use = {i: k for k, o in enumerate(PLAN.program.operations) for i in o.inputs}
    backend: Recorder

    def check(node: OperationNode) -> None:
        alive = {number for number, value in backend.made if value() is not None}
        previous = backend.made[-1][0] if backend.made else -1
        needed = {number for number, _ in backend.made if last_use.get(number, -1) >= node.number}
        assert needed <= alive <= needed | {previous}

    backend = Recorder(PLAN, check)
    Executor(PLAN, backend, 1).run(INPUTS)
    assert len(backend.made) > 20


@pytest.mark.parametrize("threads", [1, 4])
def test_first_error_stops_the_run(threads: int) -> None:
    started: list[int] = []
    wrong = next(k for k, o in enumerate(PLAN.program.operations) if o.op == "dot_plain")

    def fail(node: OperationNode) -> None:
        started.append(node.number)
        if node.number == wrong:
            raise ArithmeticError("no")

    before = threading.active_count()
    with pytest.raises(ArithmeticError, match=r"^no$"):
        record(threads, fail)
    # Nothing that needs the value ran, and no thread is left over.
    needs = {wrong}
    for k, o in enumerate(PLAN.program.operations):
        if needs & set(o.inputs):
            needs.add(k)
    assert needs & set(started) == {wrong}
    assert threading.active_count() <= before


def test_missing_input_is_an_error() -> None:
    backend = Recorder(PLAN, lambda _: None)
    with pytest.raises(KeyError):
        Executor(PLAN, backend, 2).run({})


@pytest.mark.parametrize("threads", [1, 4])
def test_progress(threads: int) -> None:
    shares: list[float] = []
    Executor(PLAN, Recorder(PLAN, lambda _: None), threads).run(INPUTS, shares.append)
    assert len(shares) == len(PLAN.program.operations)
    assert shares == sorted(shares)
    assert shares[0] >= 0.0
    assert shares[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("threads", [1, 4])
def test_error_in_the_progress_callback(threads: int) -> None:
    def interrupt(share: float) -> None:
        if share > 0.3:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match=r"^stop$"):
        Executor(PLAN, Recorder(PLAN, lambda _: None), threads).run(INPUTS, interrupt)


def test_trace() -> None:
    backend = Recorder(PLAN, lambda _: None)
    _, execution = Executor(PLAN, backend, 2).run(INPUTS)
    assert sorted(e.op for e in execution.trace) == sorted(o.op for o in PLAN.program.operations)
    assert all(0 <= e.start <= e.end <= execution.seconds for e in execution.trace)
    assert {e.thread for e in execution.trace} <= {0, 1}
    by_operation = execution.seconds_by_operation()
    assert by_operation.keys() == {o.op for o in PLAN.program.operations}


def test_threads_do_not_change_the_result() -> None:
    """Sums are taken in the plan's order whichever thread makes them."""
    x = np.random.default_rng(5).uniform(-1, 1, (3, 1, 2, 8, 8))
    one, four = (run_slots(PLAN, {"x": x}, threads=n)["y"] for n in (1, 4))
    assert np.array_equal(one, four)


def test_an_executor_runs_many_inputs() -> None:
    backend = Recorder(PLAN, lambda _: None)
    executor = Executor(PLAN, backend, 2)
    first, second = (executor.run(INPUTS)[0] for _ in range(2))
    assert first.keys() == second.keys() == {(0, 0)}

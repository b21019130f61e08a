"""The thread pool that runs a plan: order, freeing, errors, progress."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from fhecompile.plan import Plan
from runtime.backends.base import AheadTask, OperationNode, operation_nodes
from runtime.backends.clear import ClearBackend
from runtime.constants import ConstantStore
from runtime.executor import Executor
from runtime.trace import Execution, InnerTimes, TraceEntry
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
        self.ahead: list[AheadTask] = []
        self.runs: list[int | str] = []

    def begin(self, images: int, done: Mapping[int, int] | None = None) -> None:
        super().begin(images, done)
        self.runs.append(images)

    def end(self) -> InnerTimes:
        self.runs.append("end")
        return super().end()

    def claim_ahead(self) -> AheadTask | None:
        return self.ahead.pop() if self.ahead else None

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


def test_values_are_freed_before_the_thread_does_anything_else() -> None:
    last_use = {i: k for k, o in enumerate(PLAN.program.operations) for i in o.inputs}
    backend = Recorder(PLAN, lambda _: None)

    def check(_: float) -> None:
        made = [number for number, _ in backend.made]
        alive = {number for number, value in backend.made if value() is not None}
        assert alive <= {k for k in made if last_use.get(k, -1) > made[-1]} | set(made[-1:])

    Executor(PLAN, backend, 1).run(INPUTS, check)
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


# ---------------------------------------------------------------------------- several images

OPERATIONS = [k for k, o in enumerate(PLAN.program.operations) if o.op not in ("input", "output")]


def test_images_go_through_the_operations_together() -> None:
    backend = Recorder(PLAN, lambda _: None)
    outputs, execution = Executor(PLAN, backend, 1).run_images([INPUTS] * 3)
    assert [number for number, _ in backend.made] == [k for k in OPERATIONS for _ in range(3)]
    assert [len(image) for image in outputs] == [1, 1, 1]
    assert backend.runs == [3, "end"]
    assert execution.images == 3
    assert [e.image for e in execution.trace] == [0, 1, 2] * len(PLAN.program.operations)


@pytest.mark.parametrize("threads", [1, 4])
def test_each_image_has_its_own_values(threads: int) -> None:
    """The clear backend on three images at once, and on each alone."""
    random = np.random.default_rng(7)
    images = [
        {key: random.normal(size=(1, PLAN.parameters.slots)) + 0j for key in INPUTS}
        for _ in range(3)
    ]
    constants = ConstantStore(PLAN)
    executor = Executor(PLAN, ClearBackend(PLAN, constants), threads)
    alone = [executor.run(image)[0] for image in images]
    together, _ = executor.run_images(images)
    constants.close()
    for one, other in zip(alone, together, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[key], other[key]) for key in one)
    assert not np.array_equal(alone[0][0, 0], alone[1][0, 0])


@pytest.mark.parametrize("threads", [1, 4])
def test_images_go_stage_by_stage(threads: int) -> None:
    """No image is in a stage that another one has not come to yet; alone, one after the other."""
    backend = Recorder(PLAN, lambda _: None)
    stages = [k // 9 for k in range(len(PLAN.program.operations))]
    executor = Executor(PLAN, backend, threads, stages=stages)
    executor.run_images([INPUTS] * 3)
    made = [number for number, _ in backend.made]
    if threads == 1:
        once = sorted(set(made))
        parts = [[k for k in once if stages[k] == s] for s in sorted(set(stages))]
        assert made == [k for part in parts for k in part * 3]
    assert sorted(made) == sorted(3 * list(set(made)))


def test_values_of_every_image_are_freed_after_their_last_use() -> None:
    last_use = {i: k for k, o in enumerate(PLAN.program.operations) for i in o.inputs}
    backend: Recorder

    def check(node: OperationNode) -> None:
        made = [number for number, _ in backend.made]
        done = made.count(node.number)  # images that have passed this operation
        alive = [number for number, value in backend.made if value() is not None]
        for number in set(made):
            last = last_use.get(number, -1)
            needed = 3 if last > node.number else 3 - done if last == node.number else 0
            kept = made[-1:].count(number)  # the value made last may not be dropped yet
            assert alive.count(number) - kept <= min(needed, made.count(number))

    backend = Recorder(PLAN, check)
    Executor(PLAN, backend, 1).run_images([INPUTS] * 3)
    assert len(backend.made) == 3 * len(OPERATIONS)


def test_progress_of_several_images() -> None:
    shares: list[float] = []
    Executor(PLAN, Recorder(PLAN, lambda _: None), 2).run_images([INPUTS] * 2, shares.append)
    assert len(shares) == 2 * len(PLAN.program.operations)
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1.0)


def test_an_error_of_one_image_stops_all() -> None:
    backend: Recorder

    def fail(node: OperationNode) -> None:
        if [number for number, _ in backend.made].count(node.number) == 2:
            raise ArithmeticError("no")

    backend = Recorder(PLAN, fail)
    with pytest.raises(ArithmeticError, match=r"^no$"):
        Executor(PLAN, backend, 1).run_images([INPUTS] * 3)
    assert len(backend.made) == 2
    assert backend.runs == [3, "end"]


# ---------------------------------------------------------------------------- ahead

DOT = next(n for n in operation_nodes(PLAN) if n.op == "dot_plain")


def test_an_idle_thread_works_ahead() -> None:
    """Nothing else can run while the first operation waits for the work ahead."""
    worked = threading.Event()

    def before(node: OperationNode) -> None:
        assert node.number != OPERATIONS[0] or worked.wait(10)

    backend = Recorder(PLAN, before)
    backend.ahead = [AheadTask(DOT, worked.set)]
    _, execution = Executor(PLAN, backend, 2).run(INPUTS)
    (entry,) = [e for e in execution.trace if e.op == "encode"]
    assert (entry.layer, entry.level, entry.image) == (DOT.layer, DOT.type.level, None)
    assert len(execution.trace) == len(PLAN.program.operations) + 1


def test_ready_operations_come_first() -> None:
    """On one thread some operation is always ready."""
    backend = Recorder(PLAN, lambda _: None)
    backend.ahead = [AheadTask(DOT, lambda: pytest.fail("worked ahead"))]
    Executor(PLAN, backend, 1).run_images([INPUTS] * 2)
    assert len(backend.ahead) == 1


def test_an_error_ahead_stops_the_run() -> None:
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        raise ArithmeticError("ahead")

    def before(node: OperationNode) -> None:
        assert failed.wait(10)
        time.sleep(0.05)

    backend = Recorder(PLAN, before)
    backend.ahead = [AheadTask(DOT, fail)]
    with pytest.raises(ArithmeticError, match=r"^ahead$"):
        Executor(PLAN, backend, 2).run(INPUTS)
    assert len(backend.made) <= 1
    assert backend.runs == [1, "end"]


# ---------------------------------------------------------------------------- accounts


def test_shares_of_the_time() -> None:
    ops = {"dot_plain": 6.0, "encode": 1.0, "hoist": 1.0, "conjugate": 1.5, "square": 2.0}
    trace = [TraceEntry(op, 0, 0, 1.0, 1.0 + seconds, 0) for op, seconds in ops.items()]
    trace += [TraceEntry("rescale", 0, 0, 2.0, 3.0, 1, image) for image in (0, 1)]
    execution = Execution(2, 2, trace, 10.0, InnerTimes(encode=4.0, wait=0.5))
    assert execution.shares() == pytest.approx(
        {
            "encode": 0.25,  # 1 s ahead and 4 s inside the products
            "multiply": 0.075,
            "rotate": 0.125,
            "square": 0.1,
            "other": 0.1,
            "idle": 0.35,
        }
    )


class SpreadRecorder(Recorder):
    """Records for every operation whether it may use other cores."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, lambda _: None)
        self.allowed = threading.local()
        self.wide: list[bool] = []

    def spread(self, wide: bool) -> None:
        self.allowed.wide = wide

    def execute(self, node: OperationNode, operands: Sequence[Any]) -> Value:
        time.sleep(1e-3)  # long enough for the other threads to find nothing
        self.wide.append(self.allowed.wide)
        return super().execute(node, operands)


@pytest.mark.parametrize(
    ("threads", "wide", "expected"),
    [(1, False, {False}), (1, True, {True}), (2, True, {True})],
)
def test_operations_spread_always_or_never(threads: int, wide: bool, expected: set[bool]) -> None:
    backend = SpreadRecorder(PLAN)
    Executor(PLAN, backend, threads, wide=wide).run(INPUTS)
    assert set(backend.wide) == expected


def test_an_operation_spreads_while_other_threads_wait() -> None:
    backend = SpreadRecorder(PLAN)
    Executor(PLAN, backend, 8).run(INPUTS)
    assert backend.wide[-1]  # a chain ends the plan

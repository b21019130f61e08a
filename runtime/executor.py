"""Runs a plan's operations on a thread pool, in dependency order.

An operation is ready when its operands are made; of the ready ones the first in the plan's order
runs first, which keeps the live set as small as the schedule intended. A value is freed after its
last use. The first error stops the run.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fhecompile.ckks.cost import operation_seconds
from fhecompile.plan import Plan
from runtime.backends.base import Backend, OperationNode, operation_nodes


@dataclass(frozen=True)
class TraceEntry:
    """When and where one operation ran (seconds since the start of the run)."""

    op: str
    layer: int
    level: int
    start: float
    end: float
    thread: int


@dataclass
class Execution:
    """What a run leaves behind besides its outputs."""

    trace: list[TraceEntry] = field(default_factory=list)
    seconds: float = 0.0

    def seconds_by_operation(self) -> dict[str, float]:
        """Thread-seconds spent in each kind of operation."""
        total: dict[str, float] = {}
        for entry in self.trace:
            total[entry.op] = total.get(entry.op, 0.0) + entry.end - entry.start
        return total


Progress = Callable[[float], None]


class Executor:
    """Executes one plan on one backend; may be used for many inputs, one after another."""

    def __init__(self, plan: Plan, backend: Backend, threads: int) -> None:
        self.backend = backend
        self.threads = max(1, threads)
        self.nodes = operation_nodes(plan)
        self.users: list[list[int]] = [[] for _ in self.nodes]
        for node in self.nodes:
            for operand in dict.fromkeys(node.inputs):
                self.users[operand].append(node.number)
        self.weights = [
            operation_seconds(node.op, node.operand_types, node.attributes, plan.parameters)
            for node in self.nodes
        ]

    def run(
        self, inputs: Mapping[tuple[int, int], Any], progress: Progress | None = None
    ) -> tuple[dict[tuple[int, int], Any], Execution]:
        """Outputs by (tensor, part) for inputs by (tensor, part).

        `progress` is called with the share of the predicted work that is done.
        """
        state = _State(self, inputs, progress)
        workers = [
            threading.Thread(target=state.work, args=(k,), name=f"evaluate-{k}", daemon=True)
            for k in range(self.threads)
        ]
        for worker in workers:
            worker.start()
        try:
            for worker in workers:
                while worker.is_alive():
                    worker.join(0.2)  # short waits let Ctrl-C through
        except BaseException as error:
            # No operation may still run when the caller frees keys and constants.
            state.stop(error)
            for worker in workers:
                worker.join()
            raise
        if state.error is not None:
            raise state.error
        state.execution.seconds = time.perf_counter() - state.started
        return state.outputs, state.execution


class _State:
    """One run: what is ready, what is alive, what went wrong. Guarded by one condition."""

    def __init__(
        self,
        executor: Executor,
        inputs: Mapping[tuple[int, int], Any],
        progress: Progress | None,
    ) -> None:
        self.executor, self.inputs, self.progress = executor, inputs, progress
        nodes = executor.nodes
        self.missing = [len(dict.fromkeys(node.inputs)) for node in nodes]
        self.uses = [len(users) for users in executor.users]
        self.ready = [node.number for node in nodes if not node.inputs]
        heapq.heapify(self.ready)
        self.values: dict[int, Any] = {}
        self.outputs: dict[tuple[int, int], Any] = {}
        self.left = len(nodes)
        self.done_weight, self.total_weight = 0.0, sum(executor.weights) or 1.0
        self.error: BaseException | None = None
        self.condition = threading.Condition()
        self.execution = Execution()
        self.started = time.perf_counter()

    def work(self, thread: int) -> None:
        while True:
            with self.condition:
                while not self.ready and self.left and self.error is None:
                    self.condition.wait()
                if not self.left or self.error is not None:
                    return
                node = self.executor.nodes[heapq.heappop(self.ready)]
                operands = [self.values[i] for i in node.inputs]
            start = time.perf_counter() - self.started
            try:
                value = self._value(node, operands)
            except BaseException as error:
                self.stop(error)
                return
            del operands
            end = time.perf_counter() - self.started
            with self.condition:
                self._finish(node, value)
                self.execution.trace.append(
                    TraceEntry(node.op, node.layer, node.type.level, start, end, thread)
                )
                if self.progress is None:
                    continue
                try:  # under the lock, so that shares arrive in order
                    self.progress(self.done_weight / self.total_weight)
                except BaseException as error:
                    self.stop(error)
                    return

    def stop(self, error: BaseException) -> None:
        """Lets every worker end after the operation it is at."""
        with self.condition:  # a thread that holds it already may enter again
            if self.error is None:
                self.error = error
            self.condition.notify_all()

    def _value(self, node: OperationNode, operands: list[Any]) -> Any:
        if node.op == "input":
            return self.inputs[node.attributes["tensor"], node.attributes["part"]]
        if node.op == "output":
            return self.executor.backend.output(node, operands[0])
        return self.executor.backend.execute(node, operands)

    def _finish(self, node: OperationNode, value: Any) -> None:
        if node.op == "output":
            self.outputs[node.attributes["tensor"], node.attributes["part"]] = value
        elif self.uses[node.number]:
            self.values[node.number] = value
        for operand in dict.fromkeys(node.inputs):
            self.uses[operand] -= 1
            if not self.uses[operand]:
                del self.values[operand]
        if node.op == "dot_plain":
            self.executor.backend.constants.done(node.attributes["maps"])
        for user in self.executor.users[node.number]:
            self.missing[user] -= 1
            if not self.missing[user]:
                heapq.heappush(self.ready, user)
        self.left -= 1
        self.done_weight += self.executor.weights[node.number]
        self.condition.notify_all()

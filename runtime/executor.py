"""Runs a plan's operations on a thread pool, in dependency order, for one or several images.

An operation of an image is ready when its operands are made; of the ready ones the first in the
plan's order runs first. This keeps the live set as small as the schedule intended. Images go stage
by stage, a stage being a run of operations: all of it is done for one image after the other before
the next stage begins, so that images share constants that are dropped soon, and values are used
while they are in the processor's cache. A value is freed after its
last use. A thread that finds nothing ready does what the backend has to do ahead, one task at a
time; when there is nothing either, the operations of the others may use its core. The first error
stops the run.

Stages of keys are stricter: none of the next one runs before the last of the present one has ended,
for all images, and the backend has said that it is ready (`runtime.key_stages`).
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fhecompile.ckks.cost import operation_seconds
from fhecompile.ckks.cost_table import BUILT_IN, CostTable
from fhecompile.plan import Plan
from runtime.backends.base import AheadTask, Backend, OperationNode, operation_nodes
from runtime.trace import ENCODE, KEYS, Execution, TraceEntry

# How long an idle thread waits before it asks for work ahead again: a backend does not say when it
# has some, e.g. because a map has been expanded.
IDLE_SECONDS = 0.02

Part = tuple[int, int]  # (tensor, part)
Progress = Callable[[float], None]


class Executor:
    """Executes one plan on one backend; may be used for many inputs, one after another.

    Args:
        plan: the plan.
        backend: what executes its operations.
        threads: operations executed at the same time.
        table: costs that progress is judged by.
        wide: every operation may use several cores, whatever the other threads do.
        stages: the stage of every operation, in ascending order; default: each its own.
        key_stages: the stage of keys of every operation, from 0 up; default: there are none.
    """

    def __init__(
        self,
        plan: Plan,
        backend: Backend,
        threads: int,
        table: CostTable = BUILT_IN,
        wide: bool = False,
        stages: Sequence[int] | None = None,
        key_stages: Sequence[int] | None = None,
    ) -> None:
        self.backend = backend
        self.wide = wide
        self.threads = max(1, threads)
        self.nodes = operation_nodes(plan)
        own = range(len(self.nodes)) if stages is None else stages
        self.key_stages = [0] * len(own) if key_stages is None else key_stages
        self.has_key_stages = key_stages is not None
        self.stages = list(zip(self.key_stages, own, strict=True))
        self._one_run = threading.Lock()  # a backend is in one run at a time
        self.users: list[list[int]] = [[] for _ in self.nodes]
        for node in self.nodes:
            for operand in dict.fromkeys(node.inputs):
                self.users[operand].append(node.number)
        self.weights = [
            operation_seconds(node.op, node.operand_types, node.attributes, plan.parameters, table)
            for node in self.nodes
        ]

    def run(
        self, inputs: Mapping[Part, Any], progress: Progress | None = None
    ) -> tuple[dict[Part, Any], Execution]:
        """Outputs by (tensor, part) for inputs by (tensor, part); see `run_images`."""
        (outputs,), execution = self.run_images([inputs], progress)
        return outputs, execution

    def run_images(
        self, images: Sequence[Mapping[Part, Any]], progress: Progress | None = None
    ) -> tuple[list[dict[Part, Any]], Execution]:
        """The outputs of each image, all evaluated at the same time.

        `progress` is called with the share of the predicted work that is done.
        """
        with self._one_run:
            state = _State(self, images, progress)
            self.backend.begin(len(images))
            try:
                self._supervise(state)
                state.execution.seconds = time.perf_counter() - state.started
            finally:
                state.execution.inner = self.backend.end()
        return state.outputs, state.execution

    def _supervise(self, state: _State) -> None:
        """Has the run done on threads; on return, or when it raises, none of them runs any more."""
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


@dataclass(frozen=True, eq=False)
class _Step:
    """One operation of one image with its operands; `wide` if cores are free for it."""

    node: OperationNode
    image: int
    operands: list[Any]
    wide: bool


class _State:
    """One run: what is ready, what is alive, what went wrong. Guarded by one condition."""

    def __init__(
        self,
        executor: Executor,
        images: Sequence[Mapping[Part, Any]],
        progress: Progress | None,
    ) -> None:
        self.executor, self.images, self.progress = executor, images, progress
        nodes, count = executor.nodes, len(images)
        self.missing = [[len(dict.fromkeys(node.inputs)) for node in nodes] for _ in images]
        self.uses = [[len(users) for users in executor.users] for _ in images]
        self.ready = [
            (executor.stages[n.number], image, n.number)
            for n in nodes
            if not n.inputs
            for image in range(count)
        ]
        heapq.heapify(self.ready)
        self.values: list[dict[int, Any]] = [{} for _ in images]
        self.outputs: list[dict[Part, Any]] = [{} for _ in images]
        self.left = len(nodes) * count
        self.stage_left = Counter(executor.key_stages)  # operations of each stage of keys
        for stage in self.stage_left:
            self.stage_left[stage] *= count
        self.stage = -1 if executor.has_key_stages else 0  # that of the keys at hand
        self.entering = False  # a thread sees to the next one
        self.done_weight, self.total_weight = 0.0, count * sum(executor.weights) or 1.0
        self.idle = 0  # threads that wait for something to do
        self.spread = 0  # refreshes under way that use several cores
        self.error: BaseException | None = None
        self.condition = threading.Condition()
        self.execution = Execution(executor.threads, count)
        self.started = time.perf_counter()

    def work(self, thread: int) -> None:
        """What each thread does until the run is over or stopped."""
        try:
            while (task := self._next_task()) is not None:
                if isinstance(task, AheadTask):
                    self._run_ahead(task, thread)
                elif isinstance(task, OperationNode):
                    self._enter_stage(task, thread)
                else:
                    self._run_step(task, thread)
        except BaseException as error:
            self.stop(error)

    def stop(self, error: BaseException) -> None:
        """Lets every worker end after the task it is at."""
        with self.condition:  # a thread that holds it already may enter again
            if self.error is None:
                self.error = error
            self.condition.notify_all()

    def _next_task(self) -> _Step | AheadTask | OperationNode | None:
        """Waits for something to do; None when the run is over.

        An operation by itself is the first of a stage of keys, which is to be entered.
        """
        with self.condition:
            while self.left and self.error is None:
                if self._is_next_stage():
                    self.entering = True
                    return self.executor.nodes[self.ready[0][-1]]
                if self._is_ready():
                    _, image, number = heapq.heappop(self.ready)
                    node = self.executor.nodes[number]
                    # A refresh is so long that others will wait for it before it ends.
                    alone = self.idle > 0 or node.op == "refresh"
                    wide = self.executor.wide or (alone and not self._is_ready())
                    self.spread += wide and node.op == "refresh"
                    operands = [self.values[image][i] for i in node.inputs]
                    return _Step(node, image, operands, wide)
                # Encoding would take the cores that a refresh counts on, and it waits for each.
                ahead = None if self.spread else self.executor.backend.claim_ahead()
                if ahead is not None:
                    return ahead
                self.idle += 1
                self.condition.wait(IDLE_SECONDS)
                self.idle -= 1
            return None

    def _is_ready(self) -> bool:
        return bool(self.ready) and self.executor.key_stages[self.ready[0][-1]] <= self.stage

    def _is_next_stage(self) -> bool:
        """Whether the present stage of keys is done, and nobody enters the next one."""
        return (
            not self.entering
            and bool(self.ready)
            and not self._is_ready()
            and not self.stage_left[self.stage]
        )

    def _enter_stage(self, first: OperationNode, thread: int) -> None:
        start = self._now()
        stage = self.executor.key_stages[first.number]
        self.executor.backend.enter_stage(stage)
        end = self._now()
        with self.condition:
            self.stage, self.entering = stage, False
            self.execution.trace.append(
                TraceEntry(KEYS, first.layer, first.type.level, start, end, thread, None)
            )
            self.condition.notify_all()

    def _run_ahead(self, task: AheadTask, thread: int) -> None:
        start = self._now()
        self.executor.backend.spread(self.executor.wide)
        task.run()
        end = self._now()
        node = task.node
        with self.condition:
            self.execution.trace.append(
                TraceEntry(ENCODE, node.layer, node.type.level, start, end, thread, None)
            )

    def _run_step(self, step: _Step, thread: int) -> None:
        node = step.node
        start = self._now()
        self.executor.backend.spread(step.wide)
        value = self._value(step)
        end = self._now()
        step.operands.clear()  # or they would live on while this thread waits for its next task
        with self.condition:
            self.spread -= step.wide and node.op == "refresh"
            self._finish(node, step.image, value)
            self.execution.trace.append(
                TraceEntry(node.op, node.layer, node.type.level, start, end, thread, step.image)
            )
            if self.progress is not None:  # under the lock, so that shares arrive in order
                # Sums round, but the last share is 1.
                share = self.done_weight / self.total_weight
                self.progress(min(1.0, share) if self.left else 1.0)

    def _now(self) -> float:
        return time.perf_counter() - self.started

    def _value(self, step: _Step) -> Any:
        node, backend = step.node, self.executor.backend
        if node.op == "input":
            return self.images[step.image][node.attributes["tensor"], node.attributes["part"]]
        if node.op == "output":
            return backend.output(node, step.operands[0])
        return backend.execute(node, step.operands)

    def _finish(self, node: OperationNode, image: int, value: Any) -> None:
        values, uses, missing = self.values[image], self.uses[image], self.missing[image]
        if node.op == "output":
            self.outputs[image][node.attributes["tensor"], node.attributes["part"]] = value
        elif uses[node.number]:
            values[node.number] = value
        for operand in dict.fromkeys(node.inputs):
            uses[operand] -= 1
            if not uses[operand]:
                del values[operand]
        for user in self.executor.users[node.number]:
            missing[user] -= 1
            if not missing[user]:
                heapq.heappush(self.ready, (self.executor.stages[user], image, user))
        self.left -= 1
        self.stage_left[self.executor.key_stages[node.number]] -= 1
        self.done_weight += self.executor.weights[node.number]
        self.condition.notify_all()

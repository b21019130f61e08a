"""Runs a plan's operations on a thread pool, in dependency order, for one or several images.

An operation of an image is ready when its operands are made; of the ready ones the first in the
plan's order runs first. This keeps the live set as small as the schedule intended. Images go stage
by stage, a stage being a run of operations: all of it is done for one image after the other before
the next stage begins, so that images share constants that are dropped soon, and values are used
while they are in the processor's cache. A value is freed after its
last use. A thread that finds nothing ready does what the backend has to do ahead, one task at a
time; when there is nothing either, the operations of the others may use its core. The first error
stops the run. A run may go on from snapshots, and take some (`runtime.snapshots`).

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
from runtime.processor import usable_cores
from runtime.snapshots import Recorder, Snapshot
from runtime.trace import CHECKPOINT, ENCODE, KEYS, Execution, TraceEntry

# How long an idle thread waits before it asks for work ahead again: a backend does not say when it
# has some, e.g. because a map has been expanded.
IDLE_SECONDS = 0.02

Part = tuple[int, int]  # (tensor, part)
Progress = Callable[[float], None]
Observe = Callable[[OperationNode, int, Any], None]  # (operation, image, its value)


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
        observe: sees every value as it is made, on several threads.
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
        observe: Observe | None = None,
    ) -> None:
        self.backend, self.observe = backend, observe
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
        self.weights = [  # seconds, predicted
            operation_seconds(node.op, node.operand_types, node.attributes, plan.parameters, table)
            for node in self.nodes
        ]

    @property
    def predicted_seconds(self) -> float:
        """Of one image, all threads at work."""
        return sum(self.weights) / (usable_cores() if self.wide else self.threads)

    def run(
        self, inputs: Mapping[Part, Any], progress: Progress | None = None
    ) -> tuple[dict[Part, Any], Execution]:
        """Outputs by (tensor, part) for inputs by (tensor, part); see `run_images`."""
        (outputs,), execution = self.run_images([inputs], progress)
        return outputs, execution

    def run_images(
        self,
        images: Sequence[Mapping[Part, Any]],
        progress: Progress | None = None,
        recorder: Recorder | None = None,
        executions: list[Execution] | None = None,
    ) -> tuple[list[dict[Part, Any]], Execution]:
        """The outputs of each image, all evaluated at the same time.

        Args:
            images: inputs of each by (tensor, part).
            progress: called with the share of the predicted work that is done.
            recorder: what images go on from, and where their snapshots go.
            executions: takes how the run went from its start on, whether or not it ends well.
        """
        with self._one_run:
            state = _State(self, images, progress, recorder)
            if executions is not None:
                executions.append(state.execution)
            self.backend.begin(len(images), state.restored)
            try:
                if state.restored:
                    state.report()
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
        recorder: Recorder | None = None,
    ) -> None:
        self.executor, self.images, self.progress = executor, images, progress
        self.recorder = recorder
        nodes, count = executor.nodes, len(images)
        self.missing = [[len(dict.fromkeys(node.inputs)) for node in nodes] for _ in images]
        self.uses = [[len(users) for users in executor.users] for _ in images]
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
        self.started = time.perf_counter()
        self.execution = Execution(executor.threads, count, started=self.started)
        self.restored: Counter[int] = Counter()  # operations that some images need not do
        for image in range(count):
            if recorder is not None and (snapshot := recorder.restore(image)) is not None:
                self._restore(image, snapshot)
        self.ready = [
            (executor.stages[n.number], image, n.number)
            for n in nodes
            for image in range(count)
            if not self.missing[image][n.number]
        ]
        heapq.heapify(self.ready)

    def _restore(self, image: int, snapshot: Snapshot) -> None:
        """As if an image's operations had been executed here."""
        for number in snapshot.done:
            self._count(number)
            for operand in dict.fromkeys(self.executor.nodes[number].inputs):
                self.uses[image][operand] -= 1
            for user in self.executor.users[number]:
                self.missing[image][user] -= 1
        for number in snapshot.done:
            self.missing[image][number] = -1  # never ready, whatever is done again for others
        self.values[image].update(snapshot.values)
        self.outputs[image].update(snapshot.outputs)
        self.restored.update(snapshot.done)

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
        if self.executor.observe is not None and node.op != "output":
            self.executor.observe(node, step.image, value)
        step.operands.clear()  # or they would live on while this thread waits for its next task
        with self.condition:
            self.spread -= step.wide and node.op == "refresh"
            self._finish(node, step.image, value)
            snapshot = self._snapshot(node, step.image)
            self.execution.trace.append(
                TraceEntry(node.op, node.layer, node.type.level, start, end, thread, step.image)
            )
            self.report()  # under the lock, so that shares arrive in order
        if snapshot is not None:
            self._save(snapshot, node, step.image, thread)

    def _snapshot(self, node: OperationNode, image: int) -> Snapshot | None:
        if self.recorder is None:
            return None
        return self.recorder.take(node, image, self.values[image], self.outputs[image])

    def _save(self, snapshot: Snapshot, node: OperationNode, image: int, thread: int) -> None:
        assert self.recorder is not None
        start = self._now()
        self.recorder.save(image, snapshot)
        end = self._now()
        with self.condition:
            self.execution.trace.append(
                TraceEntry(CHECKPOINT, node.layer, node.type.level, start, end, thread, image)
            )

    def report(self) -> None:
        """Says what share is done."""
        if self.progress is not None:  # sums round, but the last share is 1
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
        self._count(node.number)
        self.condition.notify_all()

    def _count(self, number: int) -> None:
        """One operation of an image is done."""
        self.left -= 1
        self.stage_left[self.executor.key_stages[number]] -= 1
        self.done_weight += self.executor.weights[number]

"""The server: evaluates a plan on ciphertexts with evaluation keys. It cannot hold a secret key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fhecompile.ckks.cost_table import BUILT_IN, CostTable
from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan
from runtime.backends.openfhe import OpenfheBackend
from runtime.client import PartKey
from runtime.constants import ConstantStore
from runtime.executor import Executor, Progress
from runtime.keys import ServerContext
from runtime.library import free_refreshes, prepare_refreshes
from runtime.machine import MemoryShares, share_memory
from runtime.plaintexts import divide_stages
from runtime.snapshots import Recorder
from runtime.trace import Execution


def check_keys(plan: Plan, context: ServerContext) -> None:
    """Raises when the evaluation keys are not those the plan lists."""
    if context.parameters != plan.parameters:
        raise FheCompileError(
            "wrong-key-set",
            "the evaluation keys were made for other parameters than the plan's",
            hint="generate the keys for this very plan",
        )
    missing = context.missing_keys(plan.program.keys)
    if missing:
        raise FheCompileError(
            "evaluation-key-missing",
            f"{len(missing)} evaluation keys are missing: {', '.join(missing[:5])}"
            + (", ..." if len(missing) > 5 else ""),
            hint="generate the keys for this very plan",
        )


class Server:
    """Evaluates one plan for one client's evaluation keys.

    Args:
        plan: the plan.
        context: what the client handed over.
        threads: threads to evaluate on.
        memory: what `runtime.machine.share_memory` gave for this plan, where it also says how many
            constants to keep for later images; default: none, and what is free now.
        table: costs that progress is judged by.
        wide: every operation may use several cores (`runtime.executor`).
    """

    def __init__(
        self,
        plan: Plan,
        context: ServerContext,
        threads: int,
        memory: MemoryShares | None = None,
        table: CostTable = BUILT_IN,
        wide: bool = False,
    ) -> None:
        check_keys(plan, context)
        self.memory = memory or share_memory(plan, keys_made=True)
        self._prepared: list[int] = []
        for slots in plan.program.keys.refreshes:
            prepare_refreshes(context.context, plan.parameters, slots)
            self._prepared.append(slots)
        self.constants = ConstantStore(plan)
        self.plan, self.context = plan, context
        self.backend = OpenfheBackend(
            plan, self.constants, context, self.memory.ahead, self.memory.cache
        )
        stages = divide_stages(plan, self.memory.ahead)
        self.executor = Executor(
            plan, self.backend, threads, table, wide, stages, context.key_stages
        )

    def evaluate(
        self, inputs: Mapping[PartKey, Any], progress: Progress | None = None
    ) -> tuple[dict[PartKey, Any], Execution]:
        """Output ciphertexts by (tensor, part), and how the run went."""
        (outputs,), execution = self.evaluate_images([inputs], progress)
        return outputs, execution

    def evaluate_images(
        self,
        images: Sequence[Mapping[PartKey, Any]],
        progress: Progress | None = None,
        recorder: Recorder | None = None,
        executions: list[Execution] | None = None,
    ) -> tuple[list[dict[PartKey, Any]], Execution]:
        """The same for several images at once, which share the encoded constants.

        All their ciphertexts are in memory together: see `memory.in_flight`. The arguments are
        those of `Executor.run_images`.
        """
        for ciphertext in (c for inputs in images for c in inputs.values()):
            if ciphertext.GetKeyTag() != self.context.key_tag:
                raise FheCompileError(
                    "wrong-key-set",
                    "a ciphertext was encrypted under another key than the evaluation keys",
                    hint="encrypt with the client these evaluation keys came from",
                )
        return self.executor.run_images(images, progress, recorder, executions)

    def free_constants(self) -> None:
        """Releases all constants; the evaluation keys stay for other plans."""
        self.constants.close()
        self.backend.plaintexts.close()

    def close(self) -> None:
        """Releases the evaluation keys and all constants."""
        self.free_constants()
        self.context.release()
        while self._prepared:
            free_refreshes(self.context.context, self.plan.parameters, self._prepared.pop())

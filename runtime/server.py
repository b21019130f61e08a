"""The server: evaluates a plan on ciphertexts with evaluation keys. It cannot hold a secret key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhecompile.plan import Plan
from runtime.backends.openfhe import OpenfheBackend, ServerContext
from runtime.client import PartKey
from runtime.constants import ConstantStore
from runtime.executor import Execution, Executor, Progress


class Server:
    """Evaluates one plan for one client's evaluation keys."""

    def __init__(self, plan: Plan, context: ServerContext, threads: int) -> None:
        self.constants = ConstantStore(plan)
        self.context = context
        self.executor = Executor(plan, OpenfheBackend(plan, self.constants, context), threads)

    def evaluate(
        self, inputs: Mapping[PartKey, Any], progress: Progress | None = None
    ) -> tuple[dict[PartKey, Any], Execution]:
        """Output ciphertexts by (tensor, part), and how the run went."""
        return self.executor.run(inputs, progress)

    def close(self) -> None:
        """Releases the evaluation keys and expanded constants."""
        self.constants.close()
        self.context.release()

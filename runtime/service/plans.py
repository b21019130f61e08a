"""The plans a server offers, and how large what belongs to them may be.

evaluation keys   1.1 * (keys any plan of these parameters lists) * key bytes + 64 MiB
inputs            1.1 * ciphertexts of a batch * 64 batches * ciphertext bytes + 1 MiB

A file has a few kilobytes of names and checksums more than its polynomials.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from fhecompile.plan import Plan
from fhecompile.plan.files import write_atomically
from fhecompile.plan.schema import ParametersInfo
from fhecompile.plan.summary import summarise
from runtime.ciphertext_files import part_levels
from runtime.costs import evaluation_threads, find_costs, machine_table
from runtime.key_files import RELINEARISATION
from runtime.keys import automorphism_indices
from runtime.service.folder import ServiceFolder

MOST_BATCHES = 64
OVERHEAD = 1.1
KEYS_MARGIN, INPUTS_MARGIN = 64 << 20, 1 << 20


@dataclass(frozen=True, eq=False)
class OfferedPlan:
    """A plan on offer.

    Args:
        plan: the plan.
        path: the server's own copy of its file.
        seconds: predicted for a batch.
        keys: names of the evaluation keys it needs.
        keys_limit: bytes of a file of evaluation keys at most.
        inputs_limit: bytes of a file of encrypted inputs at most.
    """

    plan: Plan
    path: Path
    seconds: float
    keys: frozenset[str]
    keys_limit: int
    inputs_limit: int

    @property
    def parameters(self) -> str:
        """SHA-256 of the parameters, which keys are made for."""
        return digest_parameters(self.plan.program.parameters)

    def describe(self) -> dict[str, Any]:
        """What a client may want to know before it makes keys."""
        program, parameters = self.plan.program, self.plan.parameters
        keys = program.keys
        return {
            "plan": self.plan.digest,
            "model": program.model_name,
            "batch": program.batch,
            "inputs": [{"name": t.name, "shape": t.shape} for t in program.inputs],
            "outputs": [{"name": t.name, "shape": t.shape} for t in program.outputs],
            "parameters": msgspec.structs.asdict(program.parameters),
            "keys": {
                "rotations": len(keys.rotations),
                "conjugation": keys.conjugation,
                "relinearisation": keys.relinearisation,
                "bytes": len(self.keys) * parameters.key_bytes,
            },
            "input_bytes": input_bytes(self.plan),
            "predicted_seconds": self.seconds,
        }


def offer_plans(folder: ServiceFolder, plans: Iterable[Plan]) -> dict[str, OfferedPlan]:
    """The plans by digest, each copied to the folder."""
    costs, _ = find_costs()
    threads, table = evaluation_threads(costs), machine_table(lambda _: None)
    plans = list(plans)
    offered = {}
    for plan in plans:
        path = folder.path / "plans" / plan.digest
        if not path.exists():
            write_atomically(path, plan.encode(), "--folder")
        alike = [p for p in plans if p.program.parameters == plan.program.parameters]
        count = len(frozenset().union(*map(key_names, alike)))
        offered[plan.digest] = OfferedPlan(
            plan,
            path,
            summarise(plan, 0, threads, table).seconds,
            key_names(plan),
            round(OVERHEAD * count * plan.parameters.key_bytes) + KEYS_MARGIN,
            round(OVERHEAD * MOST_BATCHES * input_bytes(plan)) + INPUTS_MARGIN,
        )
    return offered


def key_names(plan: Plan) -> frozenset[str]:
    """Names of the evaluation keys a plan needs, as their file calls them."""
    names = [*automorphism_indices(plan.parameters, plan.program.keys)]
    return frozenset(names + [RELINEARISATION] * plan.program.keys.relinearisation)


def input_bytes(plan: Plan) -> int:
    """Bytes of a batch of encrypted inputs, of polynomials alone."""
    levels = part_levels(plan, "inputs").values()
    return sum(plan.parameters.ciphertext_bytes(level) for level in levels)


def digest_parameters(parameters: ParametersInfo) -> str:
    """SHA-256 that tells these parameters from others."""
    return sha256(msgspec.json.encode(parameters)).hexdigest()

"""The client: makes keys, encrypts inputs, decrypts outputs. The only holder of the secret key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan
from runtime.key_files import generate_staged_keys
from runtime.keys import PublicContext, SecretContext, ServerContext, generate_keys

FloatArray = NDArray[np.float64]
PartKey = tuple[int, int]  # (tensor number, ciphertext number)


@dataclass(frozen=True, eq=False)
class Client:
    """Keys of one client for one plan; see `Client.create`."""

    plan: Plan
    secret: SecretContext

    @staticmethod
    def create(
        plan: Plan, threads: int = 1, key_bytes: int | None = None
    ) -> tuple[Client, ServerContext]:
        """A client with fresh keys, and what it hands to the server: evaluation keys only.

        With `key_bytes` they are on disk, and at most so many bytes of them in memory.
        """
        server: ServerContext
        if key_bytes is None:
            secret, server = generate_keys(plan.parameters, plan.program.keys, threads)
        else:
            secret, server = generate_staged_keys(plan, key_bytes)
        return Client(plan, secret), server

    def encrypt(self, inputs: Mapping[int, FloatArray]) -> dict[PartKey, Any]:
        """Ciphertexts by (tensor, part) of a batch.

        Inputs by tensor number, (batch, *shape); one sample may leave a batch of 1 out.
        """
        return encrypt_inputs(self.plan, self.secret, inputs)

    def decrypt(self, outputs: Mapping[PartKey, Any]) -> list[FloatArray]:
        """Outputs (batch, *shape), in the plan's order, from ciphertexts by (tensor, part)."""
        return decrypt_outputs(self.plan, self.secret, outputs)


def encrypt_inputs(
    plan: Plan, public: PublicContext, inputs: Mapping[int, FloatArray]
) -> dict[PartKey, Any]:
    """See `Client.encrypt`; the public key suffices."""
    types = {
        (info.attributes["tensor"], info.attributes["part"]): plan.types[number]
        for number, info in enumerate(plan.program.operations)
        if info.op == "input"
    }
    encrypted = {}
    for number, value in inputs.items():
        shape = (plan.program.batch, *plan.program.inputs[number].shape)
        for part, vector in enumerate(pack_input(plan, number, value.reshape(shape))):
            kind = types[number, part]
            encrypted[number, part] = public.encrypt(vector, kind.scale, kind.level)
    return encrypted


def decrypt_outputs(
    plan: Plan, secret: SecretContext, outputs: Mapping[PartKey, Any]
) -> list[FloatArray]:
    """See `Client.decrypt`."""
    scales = output_scales(plan)
    names = [f"output {info.name}" for info in plan.program.outputs]
    slots = {
        (number, part): secret.decrypt(ciphertext, scales[number, part], names[number])
        for (number, part), ciphertext in outputs.items()
    }
    return assemble_outputs(plan, slots)


def pack_input(plan: Plan, number: int, value: FloatArray) -> NDArray[Any]:
    """Slot vectors (..., ciphertexts, slots) of batches (..., batch, *shape) of an input."""
    info = plan.program.inputs[number]
    lead = value.shape[: value.ndim - len(info.shape) - 1]
    flat = value.reshape(*lead, -1)
    parts = []
    for view in info.views:
        layout = plan.layouts[view.layout]  # of the view's elements, maybe in another shape
        chosen = flat[..., plan.arrays[view.elements]] if view.elements else flat
        parts.append(layout.pack(chosen.reshape(*lead, *layout.shape)))
    return np.concatenate(parts, axis=-2)


def input_scales(plan: Plan) -> dict[PartKey, float]:
    """Scale (log2) every input ciphertext is to be encrypted at, by (tensor, part)."""
    return {
        (info.attributes["tensor"], info.attributes["part"]): info.attributes["scale"]
        for info in plan.program.operations
        if info.op == "input"
    }


def output_scales(plan: Plan) -> dict[PartKey, float]:
    """Scale (log2) of every output ciphertext, by (tensor, part)."""
    return {
        (info.attributes["tensor"], info.attributes["part"]): plan.types[number].scale
        for number, info in enumerate(plan.program.operations)
        if info.op == "output"
    }


def assemble_outputs(
    plan: Plan, slots: Mapping[PartKey, NDArray[np.complex128]]
) -> list[FloatArray]:
    """Outputs (..., batch, *shape) from slot vectors (..., slots) by (tensor, part)."""
    tensors = []
    for number, info in enumerate(plan.program.outputs):
        layout = plan.layouts[info.layout]
        parts = [slots[number, part] for part in range(layout.ciphertexts)]
        values = layout.unpack(np.stack(parts, axis=-2))
        lead = values.shape[: values.ndim - len(layout.shape)]
        tensors.append(values.reshape(*lead, plan.program.batch, *info.shape))
    return tensors


def check_secure(plan: Plan, insecure_toy: bool) -> None:
    """Raises when a plan is not secure and the user has not accepted that."""
    if plan.parameters.insecure and not insecure_toy:
        raise FheCompileError(
            "insecure-plan",
            "the plan's parameters are not secure: it was compiled with --insecure-toy",
            hint="compile without --insecure-toy, or accept it with --insecure-toy here too",
        )

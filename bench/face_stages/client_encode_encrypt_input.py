"""Client: encrypts the prepared pairs with its public key."""

from __future__ import annotations

from stages import Stage, made_by, run_stage, writable

from runtime.inputs import read_inputs
from runtime.roles import encrypt_file


def encrypt_input(stage: Stage) -> None:
    """Writes encrypted inputs."""
    plan = stage.load_plan()
    key = made_by(stage.public_key, "public key", "client_key_generation")
    prepared = made_by(stage.prepared, "prepared input", "client_preprocess_input")
    encrypt_file(plan, key, read_inputs(prepared, plan), writable(stage.inputs))


if __name__ == "__main__":
    run_stage(encrypt_input, __doc__)

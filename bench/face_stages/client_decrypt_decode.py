"""Client: decrypts the scores with its secret key."""

from __future__ import annotations

from stages import Stage, made_by, run_stage

from runtime.roles import decrypt_file
from runtime.samples import write_outputs


def decrypt_scores(stage: Stage) -> None:
    """Writes scores, one per pair."""
    plan = stage.load_plan()
    key = made_by(stage.secret_key, "secret key", "client_key_generation")
    outputs = made_by(stage.outputs, "encrypted output", "server_encrypted_compute")
    write_outputs(stage.scores, decrypt_file(plan, key, outputs))


if __name__ == "__main__":
    run_stage(decrypt_scores, __doc__)

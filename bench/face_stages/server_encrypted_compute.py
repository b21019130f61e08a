"""Server: computes encrypted scores of encrypted pairs, with evaluation keys alone."""

from __future__ import annotations

import json

from stages import Stage, made_by, run_stage, writable

from fhecompile.plan.files import write_atomically
from runtime.roles import evaluate_file


def compute_scores(stage: Stage) -> None:
    """Writes encrypted outputs and how many seconds they took."""
    plan = stage.load_plan()
    keys = made_by(stage.evaluation_keys, "evaluation key", "client_key_generation")
    inputs = made_by(stage.inputs, "encrypted input", "client_encode_encrypt_input")
    seconds = evaluate_file(
        plan, keys, inputs, writable(stage.outputs), threads=stage.options.threads
    )
    report = json.dumps({"Encrypted computation": round(seconds, 4)})
    write_atomically(stage.report, report.encode(), "--io")


if __name__ == "__main__":
    run_stage(compute_scores, __doc__, long=True)

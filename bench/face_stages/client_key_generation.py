"""Client: makes its keys, and the plan they are for if the server has not prepared it yet.

The suite asks for keys before the server prepares the model, but which rotations need a key is
known once it is compiled. The model is public, so the client may compile it too.
"""

from __future__ import annotations

import os

from stages import Stage, make_private, run_stage, writable

from fhecompile.errors import FheCompileError
from runtime.key_files import make_keys


def generate_keys(stage: Stage) -> None:
    """Keeps the secret key and gives away the others."""
    if stage.keys.exists():
        raise FheCompileError(
            "keys-exist",
            "there are keys already, and they are not overwritten",
            node=str(stage.keys),
            hint="remove the folder if they are no longer needed, or choose another with --io",
        )
    plan = stage.load_plan() if stage.plan_file.is_file() else stage.compile_plan()
    make_private(stage.keys.parent)
    make_keys([plan], stage.keys)
    for public in (stage.public_key, stage.evaluation_keys):
        os.replace(stage.keys / public.name, writable(public))


if __name__ == "__main__":
    run_stage(generate_keys, __doc__, compiles=True, long=True)

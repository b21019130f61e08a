"""Client: writes one score per line, higher for the same person, in the order of the pairs."""

from __future__ import annotations

import zipfile

import numpy as np
from stages import Stage, made_by, run_stage, writable

from fhecompile.errors import FheCompileError
from fhecompile.plan.files import write_atomically


def write_scores(stage: Stage) -> None:
    """Writes the scores as text; refuses any that is no number."""
    path = made_by(stage.scores, "score", "client_decrypt_decode")
    try:
        with np.load(path) as arrays:
            scores = np.asarray(arrays["score"], dtype=np.float32)
    except (KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise FheCompileError("scores-file", "this is no file of scores", node=str(path)) from error
    if not np.isfinite(scores).all():
        raise FheCompileError("scores-file", "there are scores that are no numbers", node=str(path))
    text = "".join(f"{score}\n" for score in scores.ravel().tolist())
    write_atomically(writable(stage.predictions), text.encode(), "--io")


if __name__ == "__main__":
    run_stage(write_scores, __doc__)

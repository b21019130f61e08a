"""Samples and batches: how the arrays of a user become the batches of a plan, and back.

Ciphertexts hold `batch` samples; a call has any number, and the last batch is filled with its last
sample. One sample may come without an axis of samples, and its outputs then have none either.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhecompile.plan import Plan
from fhecompile.plan.files import write_atomically
from runtime.inputs import is_unbatched

FloatArray = NDArray[np.float64]


def make_batches(samples: FloatArray, count: int) -> FloatArray:
    """Samples (n, *shape) as (ceil(n / count), count, *shape), the last one as often as needed."""
    missing = -len(samples) % count
    filled = np.concatenate([samples, np.repeat(samples[-1:], missing, axis=0)])
    return filled.reshape(-1, count, *samples.shape[1:])


def is_single(plan: Plan, feeds: Mapping[str, Any]) -> bool:
    """Whether these inputs are one sample without an axis of samples."""
    return all(
        np.shape(feeds[t.name]) == t.shape or is_unbatched(np.shape(feeds[t.name]), t.shape)
        for t in plan.program.inputs
    )


def take_samples(outputs: Sequence[FloatArray], count: int) -> list[FloatArray]:
    """The first `count` samples (count, *shape) of batches (batches, batch, *shape)."""
    return [y.reshape(-1, *y.shape[2:])[:count] for y in outputs]


def shape_outputs(
    plan: Plan, outputs: Sequence[FloatArray], single: bool
) -> dict[str, NDArray[np.float32]]:
    """Outputs (samples, *shape) by name in the shape that the inputs ask for."""
    shaped = {}
    for info, value in zip(plan.program.outputs, outputs, strict=True):
        if single:
            value = value[0]
        elif info.shape[:1] == (1,):
            value = value[:, 0]
        shaped[info.name] = value.astype(np.float32)
    return shaped


def write_outputs(path: Path, outputs: Mapping[str, NDArray[Any]]) -> None:
    """Writes outputs by name as an .npz file, or the first of them as an .npy file."""
    buffer = io.BytesIO()
    if path.suffix == ".npy":
        np.save(buffer, next(iter(outputs.values())))
    else:
        np.savez(buffer, allow_pickle=False, **outputs)
    write_atomically(path, buffer.getvalue(), "--output")

"""Checks what a user feeds to a plan before anything expensive starts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan

RANGE_MARGIN = 1.5


class CalibrationWarning(UserWarning):
    """An input leaves the range the plan was calibrated for."""


def check_inputs(
    plan: Plan, feeds: Mapping[str, Any], strict_range: bool = False
) -> list[NDArray[np.float64]]:
    """The inputs in the plan's order, each of shape (samples, *shape).

    Args:
        plan: the plan.
        feeds: by input name; the shape must be the input's, or have one more leading axis of
            samples, or replace a leading 1 of the input's shape by a number of samples.
        strict_range: values far outside the calibrated range are an error, not a warning.
    """
    names = [info.name for info in plan.program.inputs]
    unknown = [name for name in feeds if name not in names]
    missing = [name for name in names if name not in feeds]
    if unknown or missing:
        wrong = f"there is no input {unknown[0]}" if unknown else f"input {missing[0]} is missing"
        raise FheCompileError("input-name", wrong, hint=f"the inputs are: {', '.join(names)}")
    tensors = []
    for info in plan.program.inputs:
        value = np.asarray(feeds[info.name])
        if value.dtype.kind not in "fiub":
            raise FheCompileError(
                "input-dtype",
                f"input {info.name} has type {value.dtype}, expected numbers",
                hint="convert it to float32",
            )
        value = value.astype(np.float64)
        expected = " x ".join(map(str, info.shape))
        if value.shape == info.shape:
            value = value[None]
        elif info.shape[:1] == (1,) and value.shape[1:] == info.shape[1:]:
            value = value[:, None]
        elif value.shape[1:] != info.shape:
            raise FheCompileError(
                "input-shape",
                f"input {info.name} has shape {' x '.join(map(str, value.shape)) or 'scalar'}, "
                f"expected {expected}",
                hint="several samples go along one more leading axis",
            )
        if not np.all(np.isfinite(value)):
            raise FheCompileError(
                "input-not-finite", f"input {info.name} has NaN or infinite values"
            )
        _check_range(info.name, value, info.low, info.high, strict_range)
        tensors.append(value)
    if len({len(t) for t in tensors}) > 1:
        raise FheCompileError("input-shape", "the inputs have different numbers of samples")
    return tensors


def _check_range(
    name: str, value: NDArray[np.float64], low: float, high: float, strict: bool
) -> None:
    middle, half = (low + high) / 2, (high - low) / 2
    reach = float(np.abs(value - middle).max(initial=0.0))
    if reach <= RANGE_MARGIN * max(half, 1e-12):
        return
    text = (
        f"input {name} reaches {value.min():.4g} .. {value.max():.4g}, "
        f"calibrated for {low:.4g} .. {high:.4g}"
    )
    if strict:
        raise FheCompileError(
            "input-range",
            text,
            hint="preprocess it like the calibration data, or calibrate with data that covers it",
        )
    warnings.warn(f"{text}; results may be wrong", CalibrationWarning, stacklevel=4)

"""Reads and checks what a user feeds to a plan before anything expensive starts."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan
from fhecompile.plan.files import split_array_name
from fhecompile.plan.schema import InputInfo, OutputInfo

RANGE_MARGIN = 1.5


NOT_TRUSTED = "the values left the range this plan was made for: do not trust the result"
WHERE_TO_LOOK = "the same input with --mode simulate shows the layer"


class CalibrationWarning(UserWarning):
    """A value leaves the range the plan was calibrated for."""


class RangeReport:
    """Warns of what leaves its calibrated range: of each tensor once, in a session of many calls.

    `texts` are all warnings by what they are of: `input x`, `layer conv1`, `output y`.
    """

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def warn(self, place: str, text: str) -> None:
        """Warns with this text, unless there was a warning of that place."""
        if place not in self.texts:
            self.texts[place] = text
            warnings.warn(text, CalibrationWarning, stacklevel=4)


def check_inputs(
    plan: Plan,
    feeds: Mapping[str, Any],
    ignore_range: bool = False,
    report: RangeReport | None = None,
) -> list[NDArray[np.float64]]:
    """The inputs in the plan's order, each of shape (samples, *shape).

    Args:
        plan: the plan.
        feeds: by input name; the shape must be the input's, or have one more leading axis of
            samples, or replace a leading 1 of the input's shape by a number of samples, or leave
            that 1 out.
        ignore_range: values far outside the calibrated range are a warning, not an error: an
            encrypted result may then be wrong without any sign of it.
        report: of the session; warnings it has given are not repeated.
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
        if value.shape == info.shape or is_unbatched(value.shape, info.shape):
            value = value.reshape(1, *info.shape)
        elif info.shape[:1] == (1,) and value.ndim and value.shape[1:] == info.shape[1:]:
            value = value[:, None]
        elif not value.ndim or value.shape[1:] != info.shape:
            raise FheCompileError(
                "input-shape",
                f"input {info.name} has shape {' x '.join(map(str, value.shape)) or 'scalar'}, "
                f"expected {expected}",
                hint="several samples go along one more leading axis",
            )
        if not len(value):
            raise FheCompileError("input-shape", f"input {info.name} has no samples")
        if not np.all(np.isfinite(value)):
            raise FheCompileError(
                "input-not-finite", f"input {info.name} has NaN or infinite values"
            )
        text = _leaves_range("input", info, value)
        if text and not ignore_range:
            raise FheCompileError(
                "input-range",
                text,
                hint="preprocess it like the calibration data, calibrate with data that covers it, "
                "or run with --ignore-range",
            )
        if text:
            report = report or RangeReport()
            report.warn(f"input {info.name}", f"{text}; results may be wrong")
        tensors.append(value)
    if len({len(t) for t in tensors}) > 1:
        raise FheCompileError("input-shape", "the inputs have different numbers of samples")
    return tensors


def is_unbatched(given: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a shape is that of one sample without the leading batch axis of length 1."""
    return len(shape) > 1 and shape[0] == 1 and given == shape[1:]


def read_inputs(source: str | Path, plan: Plan) -> dict[str, NDArray[Any]]:
    """Arrays by input name from an .npz file (other arrays in it are ignored) or an .npy file.

    `x.npz:faces` takes the array `faces` of the file for a plan with one input.
    """
    path, array = split_array_name(source)
    names = [info.name for info in plan.program.inputs]
    try:
        # numpy leaves a file it cannot read open, so it is opened here.
        with path.open("rb") as stream:
            return _named(np.load(stream, allow_pickle=False), path, array, names)
    except OSError as error:
        raise FheCompileError(
            "no-such-file", f"cannot read the inputs ({error.strerror or error})", node=str(path)
        ) from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FheCompileError(
            "input-file",
            "this is not a numeric .npz or .npy file",
            node=str(path),
            hint="save the inputs with numpy.savez or numpy.save",
        ) from error


def _named(loaded: Any, path: Path, array: str | None, names: list[str]) -> dict[str, NDArray[Any]]:
    if isinstance(loaded, np.ndarray):
        if len(names) == 1:
            return {names[0]: loaded}
        raise _unfit(path, f"one array is given for the inputs {', '.join(names)}", names)
    wanted = dict.fromkeys(names, array) if array else {name: name for name in names}
    missing = [key for key in wanted.values() if key not in loaded.files]
    if missing or (array and len(names) > 1):
        found = ", ".join(loaded.files) or "none"
        what = f"no array {array}" if array else f"no array for input {missing[0]}"
        raise _unfit(path, f"there is {what}; the arrays are: {found}", names)
    return {name: loaded[key] for name, key in wanted.items()}


def _unfit(path: Path, reason: str, names: list[str]) -> FheCompileError:
    arguments = ", ".join(f"{name}=..." for name in names)
    return FheCompileError(
        "input-name", reason, node=str(path), hint=f"save it with numpy.savez(path, {arguments})"
    )


def check_outputs(
    plan: Plan,
    outputs: Sequence[NDArray[Any]],
    report: RangeReport | None = None,
    simulated: bool = False,
) -> None:
    """Warns when a decrypted value is far outside the calibrated range.

    A value that outgrows its modulus comes back wrong but not small, and a polynomial leaves the
    range it was fitted on like its highest power: this is how both show.

    Args:
        plan: the plan.
        outputs: in the plan's order, (samples, *shape) each.
        report: of the session; warnings it has given are not repeated.
        simulated: whether the simulator has looked at the layers already.
    """
    report = report or RangeReport()
    for info, value in zip(plan.program.outputs, outputs, strict=True):
        text = _leaves_range("output", info, value)
        if text:
            advice = "" if simulated else f"; {WHERE_TO_LOOK}"
            report.warn(f"output {info.name}", f"{text}; {NOT_TRUSTED}{advice}")


def _leaves_range(kind: str, info: InputInfo | OutputInfo, value: NDArray[Any]) -> str:
    """What to say of values far outside the calibrated range; empty when they are not."""
    middle, half = (info.low + info.high) / 2, (info.high - info.low) / 2
    reach = float(np.abs(value - middle).max(initial=0.0))
    # A value that hardly varies on the calibration data may be off by a percent of its size.
    if reach <= RANGE_MARGIN * max(half, abs(middle) / 100, 1e-12):
        return ""
    return (
        f"{kind} {info.name} reaches {value.min():.4g} .. {value.max():.4g}, "
        f"calibrated for {info.low:.4g} .. {info.high:.4g}"
    )

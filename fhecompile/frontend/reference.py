"""The float reference: the ONNX model on ONNX Runtime, in single precision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fhecompile.errors import FheCompileError

if TYPE_CHECKING:
    import onnxruntime

THREADS = 2
ERRORS_ONLY = 3
ELEMENT_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
}


def run_reference(
    source: str | Path | bytes, inputs: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """The model's outputs by ONNX name.

    Args:
        source: path of the ONNX file, or its bytes.
        inputs: by ONNX name, each in the shape the model declares.
    """
    return _run(_session(source), inputs)


def run_reference_samples(
    source: str | Path | bytes, samples: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """The outputs of one run per sample; all arrays have a leading sample axis."""
    session = _session(source)
    count = len(next(iter(samples.values())))
    runs = [_run(session, {name: x[i] for name, x in samples.items()}) for i in range(count)]
    return {name: np.stack([run[name] for run in runs]) for name in runs[0]}


def _session(source: str | Path | bytes) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    model = source if isinstance(source, bytes) else str(source)
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no public base class
        raise _failed(error) from error


def _run(
    session: onnxruntime.InferenceSession, inputs: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    feeds = {}
    for declared in session.get_inputs():
        if declared.name not in inputs:
            raise FheCompileError(
                "reference-failed",
                f"no value is given for input {declared.name}",
                hint=f"the values given are: {', '.join(inputs) or 'none'}",
            )
        dtype = ELEMENT_TYPES.get(declared.type, np.float32)
        feeds[declared.name] = np.asarray(inputs[declared.name], dtype)
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, feeds), strict=True))
    except Exception as error:  # as above
        raise _failed(error) from error


def _failed(error: Exception) -> FheCompileError:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return FheCompileError(
        "reference-failed",
        f"ONNX Runtime cannot run the model: {text}",
        hint="check the file with onnx.checker.check_model, and the shapes of the inputs",
    )

"""The float reference: the ONNX model on ONNX Runtime, in single precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fhecompile.errors import FheCompileError
from fhecompile.frontend.lowering import sanitise

if TYPE_CHECKING:
    import onnxruntime

THREADS = 2
ERRORS_ONLY = 3
EXTERNAL_DATA = "session.model_external_initializers_file_folder_path"
ELEMENT_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
}


def run_reference(
    source: str | Path | bytes, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str] = ()
) -> dict[str, NDArray[Any]]:
    """The model's outputs by ONNX name.

    Args:
        source: path of the ONNX file, or its bytes.
        inputs: by ONNX name or by that of the imported input, each in the shape the model declares.
        outputs: names of the values to give, of any that a node makes; empty: the model's outputs.

    Raises:
        FheCompileError: `reference-failed`, there is no such value, or ONNX Runtime cannot run it.
    """
    return _run(_session(source, outputs), inputs, outputs)


def run_reference_samples(
    source: str | Path | bytes, samples: Mapping[str, NDArray[Any]], outputs: Sequence[str] = ()
) -> dict[str, NDArray[Any]]:
    """The outputs of one run per sample; all arrays have a leading sample axis."""
    session = _session(source, outputs)
    count = len(next(iter(samples.values())))
    runs = [
        _run(session, {name: x[i] for name, x in samples.items()}, outputs) for i in range(count)
    ]
    return {name: np.stack([run[name] for run in runs]) for name in runs[0]}


def _session(source: str | Path | bytes, outputs: Sequence[str]) -> onnxruntime.InferenceSession:
    session = _open(source)
    declared = {output.name for output in session.get_outputs()}
    if undeclared := [name for name in outputs if name not in declared]:
        folder = "" if isinstance(source, bytes) else str(Path(source).absolute().parent)
        session = _open(_expose(source, undeclared), folder)
    return session


def _expose(source: str | Path | bytes, names: Sequence[str]) -> bytes:
    """The model with these values as further outputs; weights in other files stay there."""
    blob = source if isinstance(source, bytes) else Path(source).read_bytes()
    model = onnx.load_model_from_string(blob)
    made = {name for node in model.graph.node for name in node.output}
    for name in names:
        if name not in made:
            declared = ", ".join(output.name for output in model.graph.output)
            raise FheCompileError(
                "reference-failed",
                f"no node of the model makes {name}",
                hint=f"the outputs are: {declared}",
            )
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    return bytes(model.SerializeToString())


def _open(source: str | Path | bytes, folder: str = "") -> onnxruntime.InferenceSession:
    """A session of a model; of bytes with weights in other files, those in the folder."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    if folder:
        options.add_session_config_entry(EXTERNAL_DATA, folder)
    model = source if isinstance(source, bytes) else str(source)
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no public base class
        raise _failed(error) from error


def _run(
    session: onnxruntime.InferenceSession,
    inputs: Mapping[str, NDArray[Any]],
    outputs: Sequence[str],
) -> dict[str, NDArray[Any]]:
    given = {sanitise(name): x for name, x in inputs.items()}
    feeds = {}
    for declared in session.get_inputs():
        name = sanitise(declared.name)
        if name not in given:
            raise FheCompileError(
                "reference-failed",
                f"no value is given for input {declared.name}",
                hint=f"the values given are: {', '.join(inputs) or 'none'}",
            )
        dtype = ELEMENT_TYPES.get(declared.type, np.float32)
        feeds[declared.name] = np.asarray(given[name], dtype)
    names = list(outputs) or [output.name for output in session.get_outputs()]
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

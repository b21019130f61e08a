"""Reads an ONNX file and checks everything that does not depend on a single operator.

The bytes are parsed once; weights in files beside the model are memory-mapped by onnx-ir, which
refuses locations outside the model's folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import InlinePass

from fhecompile.errors import FheCompileError

# Those whose definitions were compared; an older onnx does not know the last of them.
OPSETS = range(7, min(28, onnx.defs.onnx_opset_version()) + 1)
STANDARD_DOMAINS = ("", "ai.onnx")
FLOATS = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.DOUBLE: "float64",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.BFLOAT16: "bfloat16",
}


@dataclass(frozen=True)
class LoadedModel:
    """A parsed model whose file-level checks passed.

    Args:
        graph: onnx-ir's main graph, model-local functions inlined.
        name: the file's stem, or the graph's name.
        place: what error messages call the model: its path, or "model" for bytes.
        sha256: of the file's bytes.
        opset: version of the standard operator set.
        shapes: static shape of every input, by ONNX name.
        dtypes: numpy name of every input's element type, by ONNX name.
    """

    graph: ir.Graph
    name: str
    place: str
    sha256: str
    opset: int
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]


def load_model(
    source: str | Path | bytes | ir.Model, input_shapes: Mapping[str, Sequence[int]] | None = None
) -> LoadedModel:
    """Reads and checks a model; raises FheCompileError with the file as its place."""
    model, name, digest, place = _read(source)
    versions = model.graph.opset_imports
    opset = next((versions[d] for d in STANDARD_DOMAINS if d in versions), 0)
    if opset not in OPSETS:
        version = f"opset {opset}" if opset else "no standard operator set"
        raise FheCompileError(
            "opset-unsupported",
            f"the model uses {version}, supported are {OPSETS[0]} to {OPSETS[-1]}",
            node=place,
            hint="export it again with opset_version=17",
        )
    if model.functions:
        model = InlinePass()(model).model
    if not isinstance(source, ir.Model):
        folder = None if isinstance(source, bytes) else Path(source).absolute().parent
        _find_external_data(model.graph, folder)
    shapes, dtypes = _check_inputs(model.graph, input_shapes or {}, place)
    return LoadedModel(model.graph, name, place, digest, opset, shapes, dtypes)


def _find_external_data(graph: ir.Graph, folder: Path | None) -> None:
    """Says where weights in other files are; functions must be inlined already.

    An absolute folder turns on onnx-ir's check that a weight's file lies inside it.
    """
    if folder is not None:
        ir.external_data.set_base_dir(graph, folder)
        return
    tensors = [(name, value.const_value) for name, value in graph.initializers.items()]
    for node in graph.all_nodes():
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.TENSOR:
                tensors.append((node.name or node.op_type, attribute.value))
    for name, tensor in tensors:
        if isinstance(tensor, ir.ExternalTensor):
            raise FheCompileError(
                "external-data",
                "its values are in another file, but the model was given as bytes",
                node=str(name),
                hint="give the path of the ONNX file, with its data file beside it",
            )


def _read(source: str | Path | bytes | ir.Model) -> tuple[ir.Model, str, str, str]:
    """(model, name, sha256, place for messages)."""
    if isinstance(source, ir.Model):
        blob = ir.to_proto(source).SerializeToString(deterministic=True)
        name = source.graph.name or "model"
        # Inlining changes the model in place; the caller's stays as it is.
        model = source.clone() if source.functions else source
        return model, name, hashlib.sha256(blob).hexdigest(), name
    if isinstance(source, bytes):
        place, blob = "model", source
    else:
        place = str(source)
        try:
            blob = Path(source).read_bytes()
        except FileNotFoundError:
            raise FheCompileError(
                "no-such-file",
                "there is no such file",
                node=place,
                hint="give the path of an ONNX model",
            ) from None
        except OSError as error:
            raise FheCompileError(
                "no-such-file",
                f"cannot be read: {error.strerror}",
                node=place,
                hint="give the path of an ONNX model",
            ) from error
    model = _parse(blob, place)
    name = model.graph.name or "model" if isinstance(source, bytes) else Path(source).stem
    return model, name, hashlib.sha256(blob).hexdigest(), place


def _parse(blob: bytes, place: str) -> ir.Model:
    try:
        proto = onnx.ModelProto.FromString(blob)
    except Exception:  # protobuf's DecodeError, which onnx does not export
        proto = onnx.ModelProto()
    if not proto.HasField("graph") or not proto.graph.output:
        raise FheCompileError(
            "not-onnx",
            "this is not an ONNX model: no graph with outputs can be read from it",
            node=place,
            hint="give a file written by torch.onnx.export, onnx.save or a similar exporter",
        )
    _forget_maps(proto.graph)
    try:
        return ir.serde.deserialize_model(proto)
    except Exception as error:  # onnx-ir raises many kinds on malformed graphs
        raise FheCompileError(
            "not-onnx",
            f"this is not a well-formed ONNX model: {_first_line(error)}",
            node=place,
            hint="check the file with onnx.checker.check_model and export it again",
        ) from error


def _forget_maps(graph: onnx.GraphProto) -> None:
    """Takes off types that onnx-ir does not read; outputs of scikit-learn's models are maps."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type
        while kind.WhichOneof("value") in ("sequence_type", "optional_type"):
            kind = getattr(kind, kind.WhichOneof("value")).elem_type
        if kind.HasField("map_type"):
            value.ClearField("type")


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


# ---------------------------------------------------------------------------- inputs


def _check_inputs(
    graph: ir.Graph, bound: Mapping[str, Sequence[int]], place: str
) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    inputs = {str(v.name): v for v in graph.inputs if v.name not in graph.initializers}
    if not inputs:
        raise FheCompileError(
            "no-input",
            "the model has no input to encrypt",
            node=place,
            hint="export the network with its input as a graph input, not as a constant",
        )
    for name in bound:
        if name not in inputs:
            raise FheCompileError(
                "dynamic-shape",
                f"a shape is given for {name}, but the inputs are {', '.join(inputs)}",
                node=place,
                hint="give --input-shape with the name of an input",
            )
    dtypes = {}
    for name, value in inputs.items():
        tensor = value.type is None or isinstance(value.type, ir.TensorType)
        if not tensor or value.dtype not in FLOATS:
            kind = value.dtype.name.lower() if value.dtype is not None else "unknown"
            what = f"has element type {kind}" if tensor else "is a sequence, optional or sparse"
            raise FheCompileError(
                "input-not-float",
                f"input {name} {what}; only tensors of real numbers can be encrypted",
                node=place,
                hint="export the network with a float32 input",
            )
        dtypes[name] = FLOATS[value.dtype]
    return {n: _static_shape(n, v, bound.get(n), place) for n, v in inputs.items()}, dtypes


def _static_shape(
    name: str, value: ir.Value, bound: Sequence[int] | None, place: str
) -> tuple[int, ...]:
    declared: list[int | None] | None = None
    if value.shape is not None:
        declared = [d if isinstance(d, int) else None for d in value.shape]
    shape = declared if bound is None else [int(n) for n in bound]
    if bound is not None and declared is not None:
        fits = len(declared) == len(bound) and all(
            d in (None, n) for d, n in zip(declared, bound, strict=True)
        )
        if not fits:
            raise FheCompileError(
                "dynamic-shape",
                f"input {name} is declared as {_show(value)}, which {_times(bound)} does not fit",
                node=place,
                hint=f"give --input-shape {name}={_example(declared)}",
            )
    if shape is None or any(n is None or n < 1 for n in shape):
        raise FheCompileError(
            "dynamic-shape",
            f"input {name} has shape {_show(value)}, but every dimension must be a known number",
            node=place,
            hint=f"give --input-shape {name}={_example(declared)}",
        )
    return tuple(n for n in shape if n is not None)


def _show(value: ir.Value) -> str:
    if value.shape is None:
        return "(unknown)"
    dims = [str(d) if isinstance(d, int) else str(d.value or "?") for d in value.shape]
    return f"({', '.join(dims)})"


def _times(shape: Sequence[int]) -> str:
    return "x".join(str(n) for n in shape)


def _example(declared: Sequence[int | None] | None) -> str:
    """A shape to show: unknown dimensions as 1, or as 32 for the last two of an image."""
    if declared is None:
        return "1x3x32x32"
    image = len(declared) == 4
    return _times([n if n else (32 if image and a >= 2 else 1) for a, n in enumerate(declared)])


# ---------------------------------------------------------------------------- weights


def initializers(graph: ir.Graph) -> Iterator[tuple[str, NDArray[Any]]]:
    """Name and values of every initialiser that a node or an output uses; values are checked."""
    outputs = {v.name for v in graph.outputs}
    for name, value in graph.initializers.items():
        if value.uses() or name in outputs:
            yield name, read_tensor(value.const_value, name)


def read_tensor(tensor: ir.TensorProtocol | None, name: str) -> NDArray[Any]:
    """The tensor's values; raises when they cannot be read or are not finite."""
    if tensor is None:
        raise FheCompileError(
            "invalid-model",
            "the initialiser has no values",
            node=name,
            hint="check the file with onnx.checker.check_model and export it again",
        )
    try:
        array = tensor.numpy()
    except Exception as error:  # onnx-ir raises many kinds, AssertionError among them
        external = isinstance(tensor, ir.ExternalTensor)
        raise FheCompileError(
            "external-data" if external else "invalid-model",
            f"its values cannot be read: {_first_line(error)}",
            node=name,
            hint="keep the data file beside the ONNX file, as it was exported"
            if external
            else "check the file with onnx.checker.check_model and export it again",
        ) from error
    check_finite(array, name)
    return array


def check_finite(array: NDArray[Any], name: str) -> None:
    """Raises `weights-not-finite` when a float array holds NaN or infinity."""
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        return
    bad = int(np.count_nonzero(~np.isfinite(array.astype(np.float64))))
    if bad:
        raise FheCompileError(
            "weights-not-finite",
            f"{bad} of {array.size} weights are NaN or infinite",
            node=name,
            hint="train the network again; a diverged training leaves such weights",
        )

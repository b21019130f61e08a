"""Calibration samples: what the network will see, to find the range of every value."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhecompile.errors import FheCompileError
from fhecompile.frontend.arrays import open_arrays
from fhecompile.frontend.lowering import sanitise
from fhecompile.ir.tensor import Input, TensorGraph
from fhecompile.plan.files import split_array_name

FloatArray = NDArray[np.float64]
CODE = "calibration-mismatch"
CalibrationSource = str | Path | NDArray[Any] | Mapping[str, NDArray[Any]]


def load_calibration(source: CalibrationSource, graph: TensorGraph) -> dict[str, FloatArray]:
    """Samples by input name, each of shape (samples, *input shape).

    Args:
        source: one array per input by the input's name (other arrays are ignored), or a single
            array for a graph with one input; in memory, or as the path of an .npz or .npy file.
            `data.npz:faces` takes the array `faces` of the file for a graph with one input.
            The arrays have a leading sample axis: (n, *input shape), or (n, *input shape[1:])
            where the input has a batch of 1.
        graph: the graph whose inputs they are for.
    """
    place = str(source) if isinstance(source, str | Path) else "calibration"
    arrays: Mapping[str, NDArray[Any]]
    if isinstance(source, str | Path):
        with open_arrays(source, "calibration samples", CODE) as loaded:
            arrays = _arrays(loaded, source, graph)
    elif isinstance(source, np.ndarray):
        arrays = _single(place, source, graph)
    else:
        arrays = {sanitise(name): np.asarray(array) for name, array in source.items()}
    samples = {}
    for node in graph.inputs():
        if node.name not in arrays:
            found = ", ".join(arrays) or "none"
            raise _mismatch(
                place,
                f"there is no array for input {node.name}; the arrays are: {found}",
                f"save it with numpy.savez(path, {node.name}=samples)",
            )
        samples[node.name] = _samples(place, node, arrays[node.name])
    counts = {name: len(x) for name, x in samples.items()}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{name} has {n}" for name, n in counts.items())
        raise _mismatch(
            place,
            f"the inputs have different numbers of samples: {shown}",
            "give one value of every input per sample",
        )
    return samples


def synthetic_calibration(
    graph: TensorGraph, samples: int = 8, seed: int = 0
) -> dict[str, FloatArray]:
    """Samples uniform in [-1, 1], for when the user gives none."""
    random = np.random.default_rng(seed)
    return {n.name: random.uniform(-1.0, 1.0, (samples, *n.shape)) for n in graph.inputs()}


def _arrays(loaded: Any, source: str | Path, graph: TensorGraph) -> Mapping[str, NDArray[Any]]:
    if isinstance(loaded, np.ndarray):
        return _single(str(source), loaded, graph)
    path, name = split_array_name(source)
    if name:
        if name not in loaded.files:
            raise _mismatch(
                str(path),
                f"there is no array {name}",
                f"the arrays are: {', '.join(loaded.files)}",
            )
        return _single(str(source), loaded[name], graph)
    wanted = {n.name for n in graph.inputs()}
    # An array that is not for an input is not read: it may be large, or not numeric.
    return {
        sanitise(key): loaded[key] if sanitise(key) in wanted else np.zeros(0)
        for key in loaded.files
    }


def _single(place: str, array: NDArray[Any], graph: TensorGraph) -> dict[str, NDArray[Any]]:
    inputs = graph.inputs()
    if len(inputs) != 1:
        names = ", ".join(n.name for n in inputs)
        raise _mismatch(
            place,
            f"one array is given, but the inputs are {names}",
            "give one array per input, under the input's name",
        )
    return {inputs[0].name: array}


def _samples(place: str, node: Input, array: NDArray[Any]) -> FloatArray:
    shapes = [node.shape]
    if node.shape[:1] == (1,):
        shapes.append(node.shape[1:])
    if array.dtype.kind not in "fiub":
        raise _mismatch(
            place,
            f"the samples of {node.name} have type {array.dtype}, not numbers",
            "save them as float32",
        )
    if array.shape[1:] not in shapes or array.ndim == 0 or not len(array):
        wanted = " or ".join(str(("n", *s)).replace("'", "").replace(",)", ")") for s in shapes)
        raise _mismatch(
            place,
            f"the samples of {node.name} have shape {array.shape}, expected {wanted}",
            "the first axis counts the samples, n is at least 1",
        )
    values = np.asarray(array, np.float64).reshape(len(array), *node.shape)
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise _mismatch(
            place,
            f"the samples of {node.name} hold {bad} NaN or infinite values of {values.size}",
            "take the samples that hold them out",
        )
    return values


def _mismatch(place: str, reason: str, hint: str) -> FheCompileError:
    return FheCompileError(CODE, reason, node=place, hint=hint)

"""Normalisation by mean and variance against ONNX Runtime and ONNX's evaluator."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from fhecompile.ir.tensor import Function

RANDOM = np.random.default_rng(5)
TOLERANCE = 1e-5


def evaluator(blob, samples):
    session = ReferenceEvaluator(onnx.load_model_from_string(blob))
    runs = [session.run(None, {"x": x}) for x in samples["x"]]
    return {"y": np.stack([run[0] for run in runs])}


def functions(graph):
    return [n.function for n in graph if isinstance(n, Function)]


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, None])
@pytest.mark.parametrize("shifted", [True, False])
def test_layer_normalization(agrees, axis, shifted):
    shape = (2, 3, 4)
    attributes = {"epsilon": 0.01} if axis is None else {"axis": axis}
    size = shape[-1 if axis is None else axis :]
    constants = {"s": RANDOM.normal(size=size)} | (
        {"b": RANDOM.normal(size=size)} if shifted else {}
    )
    node = helper.make_node("LayerNormalization", ["x", *constants], ["y"], **attributes)
    graph = agrees(node, {"x": shape}, constants, tolerance=TOLERANCE)
    assert functions(graph) == ["inverse_sqrt"]


def test_layer_normalization_gives_mean_and_inverse_deviation(agrees):
    node = helper.make_node("LayerNormalization", ["x", "s"], ["y", "m", "d"], axis=1)
    agrees(node, {"x": (2, 3, 4)}, {"s": np.ones((3, 4))}, ["y", "m", "d"], tolerance=TOLERANCE)


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 2, 3, 4)])
def test_instance_normalization(agrees, shape):
    constants = {"s": RANDOM.normal(size=shape[1]), "b": RANDOM.normal(size=shape[1])}
    node = helper.make_node("InstanceNormalization", ["x", "s", "b"], ["y"], epsilon=1e-3)
    agrees(node, {"x": shape}, constants, tolerance=TOLERANCE)


@pytest.mark.parametrize(("opset", "parameters"), [(18, 2), (21, 6)])
@pytest.mark.parametrize("spatial", [(), (3,), (2, 3)])
def test_group_normalization(agrees, opset, parameters, spatial):
    constants = {"s": RANDOM.normal(size=parameters), "b": RANDOM.normal(size=parameters)}
    node = helper.make_node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)
    # ONNX Runtime has no kernel for the old definition.
    reference = {} if opset == 21 else {"reference": evaluator}
    shape = {"x": (2, 6, *spatial)}
    agrees(node, shape, constants, opset=opset, tolerance=TOLERANCE, **reference)


@pytest.mark.parametrize("axes", [[0, 2, 3], [1], [-1, 0], None])
def test_mean_variance_normalization(agrees, axes):
    attributes = {} if axes is None else {"axes": axes}
    node = helper.make_node("MeanVarianceNormalization", ["x"], ["y"], **attributes)
    agrees(node, {"x": (3, 3, 2, 2)}, tolerance=TOLERANCE)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_rms_normalization(agrees, axis):
    shape = (2, 3, 4)
    node = helper.make_node("RMSNormalization", ["x", "s"], ["y"], axis=axis)
    constants = {"s": RANDOM.normal(size=shape[axis:])}
    agrees(node, {"x": shape}, constants, opset=23, tolerance=TOLERANCE, reference=evaluator)


@pytest.mark.parametrize("encrypted", ["s", "b", "sb"])
@pytest.mark.parametrize(
    ("kind", "size", "attributes"),
    [
        ("LayerNormalization", (4,), {}),
        ("InstanceNormalization", (3,), {}),
        ("GroupNormalization", (3,), {"num_groups": 3}),
    ],
)
def test_encrypted_scale_and_shift(agrees, kind, size, attributes, encrypted):
    constants = {n: RANDOM.normal(size=size) for n in "sb" if n not in encrypted}
    node = helper.make_node(kind, ["x", "s", "b"], ["y"], **attributes)
    inputs = {"x": (2, 3, 4), **dict.fromkeys(encrypted, size)}
    agrees(node, inputs, constants, opset=21, tolerance=TOLERANCE)


def test_encrypted_scale_without_a_shift(agrees):
    node = helper.make_node("LayerNormalization", ["x", "s"], ["y"])
    agrees(node, {"x": (2, 3, 4), "s": (4,)}, tolerance=TOLERANCE)

"""A network small enough to compile in a tenth of a second, as a file and as a plan."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from fhecompile.compile import compile_model
from fhecompile.options import CompileOptions
from fhecompile.plan import Plan

SHAPE = (1, 4)


def write_model(path: Path, shape: tuple[int | str, ...] = SHAPE, activation: str = "Mul") -> Path:
    """y = (x A)^2 B with x of 1 x 4 and y of 1 x 2; another `activation` takes one operand."""
    random = np.random.default_rng(0)
    weights = {"A": random.normal(size=(4, 3)), "B": random.normal(size=(3, 2))}
    operands = ["hidden", "hidden"] if activation == "Mul" else ["hidden"]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "A"], ["hidden"], name="first"),
            helper.make_node(activation, operands, ["active"], name="activation"),
            helper.make_node("MatMul", ["active", "B"], ["y"], name="last"),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def compile_small(folder: Path) -> Plan:
    """The plan of the small network on a toy ring of 256, calibrated on [-1, 1]."""
    samples = np.array(list(itertools.product([-1.0, 1.0], repeat=4))).reshape(16, *SHAPE)
    options = CompileOptions(ring_dimension=256, insecure_toy=True)
    return compile_model(write_model(folder / "small.onnx"), {"x": samples}, options).plan

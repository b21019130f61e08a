"""Builds small ONNX networks, and runs and compares what is made of them."""

from __future__ import annotations

import functools
import signal
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fhecompile.compile import compile_model
from fhecompile.frontend import import_model
from fhecompile.ir.evaluate import evaluate
from fhecompile.ir.program import Facts, Pass, PassResult, Program
from fhecompile.ir.tensor import Input, Output, TensorGraph
from fhecompile.ir.tensor_rules import verify
from fhecompile.options import CompileOptions
from fhecompile.plan import Plan
from passes import REFRESHED_PIPELINE
from runtime.backends.clear import ClearBackend
from runtime.backends.simulate import SimulateBackend
from runtime.client import assemble_outputs, input_scales, pack_input
from runtime.constants import ConstantStore
from runtime.executor import Executor

FloatArray = NDArray[np.float64]

# A refresh for every function, also where polynomials would be cheaper.
REFRESHING = REFRESHED_PIPELINE.replace("choose_polynomials", "choose_polynomials{degree=0}")


class Network:
    """An ONNX model under construction; `op` returns the name of the new value.

    An operand is the name of a value, or an array, which becomes a constant.
    """

    def __init__(self, **inputs: Sequence[int]) -> None:
        self.inputs = {name: tuple(shape) for name, shape in inputs.items()}
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def op(
        self,
        kind: str,
        *operands: str | NDArray[Any] | float,
        name: str = "",
        outputs: int = 1,
        **attributes: Any,
    ) -> Any:
        """Adds a node called `name`; several outputs are returned as a list."""
        names = [x if isinstance(x, str) else self._constant(x) for x in operands]
        name = name or f"{kind.lower()}{len(self.nodes)}"
        made = [name] if outputs == 1 else [f"{name}.{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(kind, names, made, name=name, **attributes))
        return made[0] if outputs == 1 else made

    def batch_norm(
        self,
        x: str,
        scale: NDArray[Any],
        shift: NDArray[Any],
        mean: NDArray[Any] | None = None,
        variance: NDArray[Any] | None = None,
        name: str = "",
    ) -> Any:
        """scale * (x - mean) / sqrt(variance) + shift per channel."""
        scale = np.asarray(scale)
        mean = np.zeros(scale.shape) if mean is None else mean
        variance = np.ones(scale.shape) if variance is None else variance
        return self.op(
            "BatchNormalization", x, scale, shift, mean, variance, name=name, epsilon=0.0
        )

    def model(self, *outputs: str, labels: Sequence[str] = ()) -> bytes:
        """The bytes of the model with these outputs."""
        nodes = list(self.nodes)
        for value, label in zip(outputs, labels, strict=False):
            nodes.append(helper.make_node("Identity", [value], [label]))
        names = [*labels, *outputs[len(labels) :]]
        real = TensorProto.FLOAT
        graph = helper.make_graph(
            nodes,
            "small",
            [helper.make_tensor_value_info(n, real, s) for n, s in self.inputs.items()],
            [helper.make_tensor_value_info(n, real, None) for n in names],
            self.constants,
        )
        opset = [helper.make_opsetid("", 17)]
        return bytes(
            helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
        )

    def graph(self, *outputs: str) -> TensorGraph:
        """The tensor graph of the model with these outputs."""
        return import_model(self.model(*outputs)).graph

    def _constant(self, value: NDArray[Any] | float) -> str:
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name


def random_inputs(graph: TensorGraph, samples: int = 3, seed: int = 0) -> dict[str, FloatArray]:
    """Uniform in [-1, 1], of shape (samples, *shape) by input name."""
    random = np.random.default_rng(seed)
    shapes = {name: nodes[0].given_shape or nodes[0].shape for name, nodes in graph.given().items()}
    return {name: random.uniform(-1.0, 1.0, (samples, *s)) for name, s in shapes.items()}


def relative_error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest difference over the largest expected magnitude."""
    assert found.shape == expected.shape
    largest = float(np.abs(expected).max(initial=0.0))
    return float(np.abs(found - expected).max(initial=0.0)) / (largest or 1.0)


def assert_same_function(
    before: TensorGraph, after: TensorGraph, inputs: Mapping[str, FloatArray], *, bits: float
) -> None:
    """Both graphs agree on the inputs to 2^-bits of the largest output."""
    verify(before)
    verify(after)
    expected, found = evaluate(before, inputs), evaluate(after, inputs)
    assert list(found) == list(expected)
    for label, value in expected.items():
        error = relative_error(found[label], value)
        assert error <= 2.0**-bits, f"{label} differs by 2^{np.log2(error):.1f}"


def outline(graph: TensorGraph) -> list[str]:
    """The structure of a graph: one `name = op(operands)` per node, inputs and outputs left out."""
    return [
        f"{node.name} = {node.op}({', '.join(node.inputs)})"
        for node in graph
        if not isinstance(node, Input | Output)
    ]


def run_pass(p: Pass, graph: TensorGraph, *facts: Any, **options: Any) -> PassResult:
    """What a pass makes of a graph; the program handed in must not change."""
    program = Program(graph, CompileOptions(**options), Facts(facts))
    nodes = dict(graph.nodes)
    p.requires(program)
    result = p.run(program)
    p.ensures(program, result.program)
    assert program.graph is graph and graph.nodes == nodes
    verify(result.program.graph)
    return result


def run_slots(
    plan: Plan, inputs: Mapping[str, FloatArray], *, noise: bool = False, threads: int = 1
) -> dict[str, FloatArray]:
    """Outputs in double precision of a plan run on slot vectors; inputs (samples, *shape)."""
    constants = ConstantStore(plan)
    try:
        backend = (SimulateBackend if noise else ClearBackend)(plan, constants)
        scales = input_scales(plan)
        slots = {}
        for number, info in enumerate(plan.program.inputs):
            samples = inputs[info.name].reshape(-1, plan.program.batch, *info.shape)
            packed = pack_input(plan, number, samples).astype(np.complex128)
            for part in range(packed.shape[-2]):
                vector = packed[..., part, :]
                if isinstance(backend, SimulateBackend):
                    vector = backend.encrypt(vector, scales[number, part])
                slots[number, part] = vector
        outputs, _ = Executor(plan, backend, threads).run(slots)
    finally:
        constants.close()
    if not noise:
        check_output_slots(plan, outputs)
    tensors = assemble_outputs(plan, outputs)
    return {
        t.name: x.reshape(-1, *t.shape) for t, x in zip(plan.program.outputs, tensors, strict=True)
    }


def check_output_slots(plan: Plan, outputs: Mapping[tuple[int, int], NDArray[Any]]) -> None:
    """What a client decrypts holds the outputs and nothing else: zero, or the same value again."""
    for number, info in enumerate(plan.program.outputs):
        layout = plan.layouts[info.layout]
        parts = [outputs[number, part] for part in range(layout.ciphertexts)]
        found = np.stack(parts, axis=-2)
        expected = layout.pack(layout.unpack(found))
        assert np.abs(found - expected).max() <= 1e-9 * max(1.0, np.abs(expected).max())


def heed_interrupts() -> None:
    """A shell starts what runs in its background with interrupts ignored, and so are the tests'."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def convolutions() -> Network:
    """Two convolutions with a quadratic between them, then a fully connected layer: 2 x 8 x 8 to 5.

    The value `y` is its output.
    """
    random = np.random.default_rng(3)
    net = Network(x=(1, 2, 8, 8))
    x = net.op("Conv", "x", random.normal(size=(4, 2, 3, 3)) / 4, pads=[1] * 4, name="conv1")
    x = net.batch_norm(x, random.uniform(0.5, 1.0, 4), random.normal(size=4) / 4, name="norm")
    x = net.op("Mul", x, x, name="square")
    x = net.op("Conv", x, random.normal(size=(4, 4, 3, 3)) / 6, strides=[2, 2], name="conv2")
    x = net.op("Flatten", x, name="flat")
    net.op("Gemm", x, random.normal(size=(36, 5)) / 6, random.normal(size=5), name="y")
    return net


@functools.cache
def convolution_plan(ring_dimension: int = 256, batch: int = 1) -> Plan:
    """The plan of `convolutions` on a toy ring, calibrated on uniform noise in [-1, 1]."""
    model = convolutions().model("y")
    options = CompileOptions(ring_dimension=ring_dimension, insecure_toy=True, batch=batch)
    return compile_model(model, random_inputs(import_model(model).graph, 8), options).plan

"""Several samples in one set of ciphertexts."""

from __future__ import annotations

import numpy as np
import pytest

import runtime
from fhecompile.compile import compile
from fhecompile.errors import FheCompileError
from fhecompile.ir.evaluate import evaluate
from fhecompile.ir.tensor import Affine, Input, Poly, TensorGraph
from fhecompile.ir.tensor_rules import verify
from passes.batch_samples import BatchSamples
from passes.infer_ranges import Calibration
from tests.graphs import Builder, matrix
from tests.support import Network, random_inputs, relative_error, run_pass

TOY = {"ring_dimension": 256, "insecure_toy": True}


def batched(before: TensorGraph, count: int) -> TensorGraph:
    """The batched graph, which computes for every sample what the graph did."""
    inputs = random_inputs(before, samples=2 * count)
    result = run_pass(BatchSamples(), before, Calibration(inputs), batch=count)
    after = result.program.graph
    verify(after)
    calibration = result.program.facts[Calibration].inputs
    expected = evaluate(before, inputs)
    for label, found in evaluate(after, calibration).items():
        assert found.shape[:2] == (2, count)
        same = found.reshape(expected[label].shape)
        assert relative_error(same, expected[label]) < 1e-12
    return after


def convolutions() -> Network:
    random = np.random.default_rng(0)
    net = Network(x=(1, 2, 6, 6))
    x = net.op("Conv", "x", random.normal(size=(3, 2, 3, 3)), random.normal(size=3), pads=[1] * 4)
    x = net.op("Mul", x, x)
    x = net.batch_norm(x, random.normal(size=3), random.normal(size=3))
    x = net.op("Mul", x, x)
    net.op("Gemm", net.op("Flatten", x), matrix(108, 4), name="y")
    return net


def test_one_sample_is_left_alone() -> None:
    before = convolutions().graph("y")
    result = run_pass(BatchSamples(), before, Calibration(random_inputs(before)))
    assert not result.modified and result.program.graph is before


@pytest.mark.parametrize("count", [2, 3, 8])
def test_every_tensor_has_a_leading_axis(count: int) -> None:
    before = convolutions().graph("y")
    after = batched(before, count)
    assert {n.name: n.shape for n in after} == {n.name: (count, *n.shape) for n in before}


def test_weights_are_stored_once() -> None:
    before = convolutions().graph("y")
    for one, many in zip(before, batched(before, 16), strict=True):
        if isinstance(one, Affine) and isinstance(many, Affine):
            sizes = [[t.values.size for t in m.terms] for m in one.maps]
            assert [[t.values.size for t in m.terms] for m in many.maps] == sizes
        if isinstance(one, Poly) and isinstance(many, Poly):
            assert many.coefficients.size == one.coefficients.size


def test_a_norm_is_one_number_per_sample() -> None:
    b = Builder()
    b.input("x", 1, 4)
    b.input("scale", 1)
    b.affine("sum", {"x": np.ones((1, 4))})
    b.poly("inverse", "sum", 1.0, -0.5, 0.25)
    b.mul("scaled", "x", "inverse")
    b.mul("again", "scaled", "scale")
    b.affine("inner", {"inverse": matrix(3, 1)})
    b.output("inner")
    after = batched(b.output("again"), 3)
    assert after["inverse.each4"].shape == (3, 1, 4)
    assert after["inverse"].shape == (3, 1, 1)  # what reads the number itself still does


def test_a_function_of_the_norm() -> None:
    b = Builder()
    b.input("x", 1, 4)
    b.mul("square", "x", "x")
    b.affine("sum", {"square": np.ones((1, 4))}, bias=0.5)
    b.function("inverse", "sum", "inverse_sqrt")
    after = batched(b.output(b.mul("y", "x", "inverse")), 3)
    assert after["inverse.each4"].op == "function"
    assert after["inverse.each4"].shape == (3, 1, 4)
    assert "inverse" not in after.nodes


def test_elements_of_an_input_are_those_of_each_sample() -> None:
    b = Builder()
    before = b.graph
    before.add(
        Input(
            name="x.part",
            shape=(2, 2),
            given="x",
            given_shape=(1, 6),
            elements=np.array([[5, 0], [1, 1]], np.int32),
        )
    )
    b.affine("y", {"x.part": matrix(3, 4)})
    graph = b.output("y")
    after = batched(graph, 3)
    part = after["x.part"]
    assert isinstance(part, Input) and part.given_shape == (3, 1, 6)


@pytest.mark.parametrize("mode", ["clear", "encrypt"])
@pytest.mark.parametrize("samples", [1, 3, 5])
def test_a_plan_of_batches_takes_any_number_of_samples(mode: runtime.Mode, samples: int) -> None:
    net = convolutions()
    calibration = random_inputs(net.graph("y"), samples=8)["x"]
    model = net.model("y")
    path_free = compile(model, calibration=calibration, batch=3, **TOY)  # type: ignore[arg-type]
    assert path_free.program.batch == 3
    assert path_free.program.inputs[0].shape == (1, 2, 6, 6)
    x = calibration[:samples]
    found = runtime.run(path_free, x, mode, insecure_toy=True)["y"]
    expected = evaluate(net.graph("y"), {"x": x})["y"]
    assert relative_error(found.reshape(expected.shape), expected) < 2.0**-8


@pytest.mark.parametrize("count", [0, 5000])
def test_no_such_batch(count: int) -> None:
    with pytest.raises(FheCompileError) as caught:
        compile(convolutions().model("y"), batch=count)  # type: ignore[arg-type]
    assert str(caught.value) == f"batch is {count}, allowed are 1 to 4096 [option-value]"

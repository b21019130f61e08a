"""Every network of the zoo, simulated over all its test samples, agrees with ONNX Runtime."""

from __future__ import annotations

import pytest

import runtime
from fhecompile.compile import compile
from models.zoo import compare
from models.zoo.catalogue import CATALOGUE, FOLDER

# The noise of a smaller ring is as large but for a factor of some units, and it is much faster.
TOY = {"ring_dimension": 2048, "insecure_toy": True}


@pytest.mark.parametrize("name", compare.compiled_names())
def test_agreement(name: str) -> None:
    x = compare.inputs_to_test(name)
    expected = compare.run_reference(name, x)
    plan = compare.compile_network(name, **TOY)
    feeds = {CATALOGUE[name].input: x}
    (found,) = runtime.run(plan, feeds, "simulate", insecure_toy=True).values()
    assert compare.agreement(name, found.reshape(expected.shape), expected) >= 0.99


def test_what_goes_into_a_polynomial_of_high_degree_is_not_spilled() -> None:
    """Partial sums in holes are in no range; their powers were 1e20, and drowned the outputs."""
    plan = compare.compile_network("silu_cnn", passes="+select_parameters{prime_bits=59}")
    assert not any(layout.spill for layout in plan.layouts)
    square = compile(
        FOLDER.parent / "digits_cnn.onnx",
        calibration=FOLDER.parent / "digits_calibration.npz",
        passes="+select_parameters{prime_bits=59}",
    )
    assert any(layout.spill for layout in square.layouts)  # one square may be


def test_full_size_is_simulated_like_a_small_ring() -> None:
    """LeNet's polynomials at N = 2^16, where there is room to spill."""
    x = compare.inputs_to_test("lenet5_relu")[:4]
    expected = compare.run_reference("lenet5_relu", x)
    plan = compare.compile_network("lenet5_relu")
    (found,) = runtime.run(plan, {CATALOGUE["lenet5_relu"].input: x}, "simulate").values()
    assert abs(found.reshape(expected.shape) - expected).max() <= 0.1 * abs(expected).max()

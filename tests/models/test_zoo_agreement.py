"""Every network of the zoo, simulated over all its test samples, agrees with ONNX Runtime."""

from __future__ import annotations

import pytest

import runtime
from models.zoo import compare
from models.zoo.catalogue import CATALOGUE

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

"""The shipped digit classifiers, encrypted at 128 bits: ONNX Runtime's class on every image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from fhecompile.compile import compile_model
from fhecompile.errors import FheCompileError
from fhecompile.options import CompileOptions
from runtime import InferenceSession
from runtime.library import load_openfhe

MODELS = Path(__file__).resolve().parents[2] / "models"
IMAGES = 20

pytestmark = [pytest.mark.full_size, pytest.mark.timeout(600)]


@pytest.mark.parametrize("network", ["digits_mlp", "digits_cnn"])
def test_same_class_as_onnx_runtime(network: str) -> None:
    try:
        load_openfhe()
    except FheCompileError as error:
        pytest.skip(error.reason)
    with np.load(MODELS / "digits_test.npz") as data:
        images = data["image"][:IMAGES]
    model = MODELS / f"{network}.onnx"
    plan = compile_model(model, MODELS / "digits_calibration.npz", CompileOptions()).plan
    assert not plan.parameters.insecure and plan.parameters.is_secure()
    with InferenceSession(plan, "encrypt") as session:
        (found,) = session.run(None, {"image": images})
    reference = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    expected = np.concatenate([reference.run(None, {"image": x[None]})[0] for x in images])
    assert found.shape == expected.shape == (IMAGES, 10)
    assert np.abs(found - expected).max() < 2.0**-8 * np.abs(expected).max()
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()

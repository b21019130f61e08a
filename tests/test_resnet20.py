"""The shipped ResNet-20 has one refresh per ReLU, and its plan says what ONNX Runtime does.

Simulated at full size and 128 bits; `bench/resnet.py` runs it encrypted.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import models.images
import runtime
from fhecompile.compile import compile_model
from fhecompile.frontend.reference import run_reference
from fhecompile.options import CompileOptions
from fhecompile.plan import Plan
from fhecompile.plan.summary import summarise
from models.images import synthetic
from models.images.dataset import prepare

MODEL = Path(models.images.__file__).parent / "resnet20_synthetic.onnx"
IMAGES = prepare(synthetic.draw_images(7, 18).images)


@pytest.fixture(scope="module")
def plan() -> Plan:
    options = CompileOptions(max_keys=16)
    return compile_model(MODEL, IMAGES[:16], options).plan


def test_one_refresh_per_relu_within_what_is_promised(plan: Plan) -> None:
    summary = summarise(plan, threads=2)
    assert summary.bootstraps == 19
    assert summary.security_bits == 128 and summary.log_qp < 1747
    assert summary.ring_dimension == 1 << 16
    assert summary.seconds < 350
    assert plan.program.prediction.peak_bytes < 14e9
    assert plan.program.keys.refreshes == (1 << 14,)


def test_logits_are_those_of_onnxruntime(plan: Plan) -> None:
    tested = IMAGES[16:]
    exact = np.concatenate([run_reference(MODEL, {"image": x[None]})["logits"] for x in tested])
    with runtime.InferenceSession(plan, "simulate", ignore_range=True) as session:
        (found,) = session.run(None, {"image": tested})
    found = found.reshape(exact.shape)
    assert np.abs(found - exact).max() < 0.02 * np.ptp(exact)
    assert np.array_equal(found.argmax(axis=1), exact.argmax(axis=1))

"""The reference run on ONNX Runtime: of outputs, and of values that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from fhecompile.errors import FheCompileError
from fhecompile.frontend.reference import run_reference, run_reference_samples
from tests.frontend.conftest import build_bytes, node

RANDOM = np.random.default_rng(6)
NEG = build_bytes(node("Neg", "x", "y"), {"x": (1, 3)})
SUM = build_bytes(
    [node("Add", "x b", "a/sum"), node("Mul", "a/sum a/sum", "square"), node("Neg", "square", "y")],
    {"x": (1, 3)},
    {"b": np.array([1.0, 2.0, 3.0])},
)
X = np.array([[1.0, 2.0, 3.0]])


def test_bytes_and_path(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(NEG)
    for source in (NEG, path, str(path)):
        y = run_reference(source, {"x": X})
        assert y["y"].dtype == np.float32
        np.testing.assert_array_equal(y["y"], -X)


def test_samples() -> None:
    x = RANDOM.normal(size=(4, 1, 3)).astype(np.float32)
    np.testing.assert_array_equal(run_reference_samples(NEG, {"x": x})["y"], -x)
    found = run_reference_samples(SUM, {"x": x}, ["square"])
    assert list(found) == ["square"]
    np.testing.assert_array_equal(found["square"], np.square(x + np.float32([1, 2, 3])))


def test_values_that_are_no_outputs(tmp_path: Path) -> None:
    """In the order asked for, also where the weights are in a file beside the model."""
    path = tmp_path / "model.onnx"
    onnx.save(
        onnx.load_model_from_string(SUM),
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    assert (tmp_path / "weights.bin").stat().st_size == 12
    for source in (SUM, path):
        found = run_reference(source, {"x": X}, ["y", "a/sum"])
        assert list(found) == ["y", "a/sum"]
        np.testing.assert_array_equal(found["a/sum"], [[2.0, 4.0, 6.0]])
        np.testing.assert_array_equal(found["y"], [[-4.0, -16.0, -36.0]])


@pytest.mark.parametrize("name", ["sum", "x", "b"])
def test_values_that_no_node_makes(name: str) -> None:
    with pytest.raises(FheCompileError) as caught:
        run_reference(SUM, {"x": X}, ["y", name])
    assert str(caught.value) == (
        f"no node of the model makes {name} [reference-failed]\n  hint: the outputs are: y"
    )


def test_inputs_by_the_names_they_are_imported_with() -> None:
    blob = build_bytes(node("Neg", "in/x:0", "y"), {"in/x:0": (1, 3)})
    for name in ("in/x:0", "in.x_0"):
        np.testing.assert_array_equal(run_reference(blob, {name: X})["y"], -X)


def test_an_input_is_missing() -> None:
    with pytest.raises(FheCompileError) as caught:
        run_reference(NEG, {"image": np.zeros(3)})
    assert str(caught.value) == (
        "no value is given for input x [reference-failed]\n  hint: the values given are: image"
    )


@pytest.mark.parametrize(("source", "x"), [(b"nonsense", 1), (NEG, np.zeros((2, 2)))])
def test_what_onnx_runtime_refuses(source: bytes, x: np.ndarray) -> None:
    hint = "hint: check the file with onnx.checker.check_model, and the shapes of the inputs"
    with pytest.raises(FheCompileError) as caught:
        run_reference(source, {"x": x})
    assert str(caught.value).startswith("ONNX Runtime cannot run the model: ")
    assert str(caught.value).endswith(f" [reference-failed]\n  {hint}")

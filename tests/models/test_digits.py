"""The shipped digit classifiers: they load, classify well, and keep what `models` promises."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from models import digits

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "models"
NAMES = ["digits_mlp", "digits_cnn"]
OPERATIONS = {
    "digits_mlp": {"Flatten": 1, "Gemm": 3, "BatchNormalization": 2, "Mul": 6, "Add": 4},
    "digits_cnn": {
        "Conv": 2,
        "BatchNormalization": 2,
        "Mul": 6,
        "Add": 4,
        "AveragePool": 1,
        "Flatten": 1,
        "Gemm": 1,
    },
}


@pytest.fixture(scope="module")
def split() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    with np.load(FOLDER / "digits_test.npz") as data:
        return data["image"], data["label"]


@pytest.mark.parametrize("name", NAMES)
def test_signature(name: str) -> None:
    session = onnxruntime.InferenceSession(str(FOLDER / f"{name}.onnx"))
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.shape, image.type) == ("image", [1, 1, 8, 8], "tensor(float)")
    assert (logits.name, logits.shape, logits.type) == ("logits", [1, 10], "tensor(float)")


@pytest.mark.parametrize("name", NAMES)
def test_operations(name: str) -> None:
    model = onnx.load(FOLDER / f"{name}.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert Counter(node.op_type for node in model.graph.node) == OPERATIONS[name]


@pytest.mark.parametrize("name", NAMES)
def test_accuracy(name: str, split: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    assert digits.measure_accuracy(FOLDER / f"{name}.onnx", *split) >= digits.MINIMUM_ACCURACY


@pytest.mark.parametrize("name", NAMES)
def test_every_value_stays_below_30(
    name: str, split: tuple[NDArray[np.float32], NDArray[np.int64]]
) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load(FOLDER / f"{name}.onnx"))
    model.graph.output.extend(model.graph.value_info)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    assert len(session.get_outputs()) == len(model.graph.node)
    peak = max(
        float(np.abs(value).max())
        for image in split[0]
        for value in session.run(None, {"image": image[None]})
    )
    assert peak < 30


@pytest.mark.parametrize("name", NAMES)
def test_quadratics_are_well_conditioned(name: str) -> None:
    model = onnx.load(FOLDER / f"{name}.onnx")
    constants = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    leading = [value for key, value in constants.items() if key.endswith(".a")]
    assert len(leading) == 2
    assert min(float(np.abs(value).min()) for value in leading) > 0.1
    assert max(float(np.abs(value).max()) for value in constants.values()) < 30


def test_data_files(split: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    images, labels = split
    assert (images.dtype.name, images.shape) == ("float32", (360, 1, 8, 8))
    assert (labels.dtype.name, labels.shape) == ("int64", (360,))
    with np.load(FOLDER / "digits_calibration.npz") as data:
        assert data.files == ["image"]
        calibration = data["image"]
    assert (calibration.dtype.name, calibration.shape) == ("float32", (100, 1, 8, 8))
    for array in (images, calibration):
        assert (array.min(), array.max()) == (-1, 1)
    seen = {image.tobytes() for image in calibration}
    assert not any(image.tobytes() in seen for image in images)


def test_data_files_are_the_documented_split(
    split: tuple[NDArray[np.float32], NDArray[np.int64]],
) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn holds the original images")
    data = digits.load_data()
    np.testing.assert_array_equal(data.test_image, split[0])
    np.testing.assert_array_equal(data.test_label, split[1])
    with np.load(FOLDER / "digits_calibration.npz") as stored:
        np.testing.assert_array_equal(data.calibration_image, stored["image"])
    assert len(data.train_image) + len(data.test_image) == 1797
    assert np.bincount(data.test_label).min() >= 34


def test_shipped_files_are_small() -> None:
    for path in FOLDER.glob("digits*.*"):
        assert path.stat().st_size < 100_000, path.name


def test_import_needs_no_heavy_package() -> None:
    code = (
        "import sys, models.digits\n"
        "print({'torch', 'onnx', 'onnxruntime', 'sklearn'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_unknown_attribute() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'DigitsRNN'"):
        _ = digits.DigitsRNN


def test_evaluate_command(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(FOLDER / "digits_cnn.onnx")
    assert digits.main(["evaluate", path]) == 0
    assert capsys.readouterr().out.startswith("digits_cnn.onnx: accuracy 0.9")
    assert digits.main(["evaluate", path, "--minimum", "1.01"]) == 1


def test_evaluate_names_the_missing_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        digits.main(["evaluate", str(tmp_path / "absent.onnx")])
    assert stop.value.code == 2
    assert "no such file" in capsys.readouterr().err

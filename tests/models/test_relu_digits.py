"""The ReLU network of scikit-learn: its file computes what scikit-learn does, and tune takes it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from fhecompile.cli import main as compile_main
from models import relu_digits

pytest.importorskip("sklearn", reason="scikit-learn holds the images and fits the network")

TEST = Path(__file__).resolve().parents[2] / "models" / "digits_test.npz"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("relu")
    assert relu_digits.main(["--out", str(path)]) == 0
    return path


def test_the_file_is_the_network(folder: Path, tmp_path: Path) -> None:
    accuracy = relu_digits.write_network(tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / relu_digits.MODEL)
    data = np.load(TEST)
    logits = [session.run(None, {"image": x[None]})[0] for x in data["image"]]
    assert np.mean(np.concatenate(logits).argmax(axis=1) == data["label"]) == accuracy > 0.96
    assert [i.shape for i in session.get_inputs()] == [[1, 1, 8, 8]]
    # The same seed gives the same files.
    for name in (relu_digits.MODEL, relu_digits.CALIBRATION):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_accuracy_over_activation_errors(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [folder / relu_digits.MODEL, "--calibrate", folder / relu_digits.CALIBRATION]
    tested = ["--test", TEST, "--labels", f"{TEST}:label", "--activation-error", "0.4,0.1"]
    toy = ["--ring-dimension", "1024", "--insecure-toy", "--json", "-q"]
    capsys.readouterr()
    assert compile_main(["tune", *map(str, [*arguments, *tested, *toy])]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tested"]["samples"] == 360 and found["tested"]["calibration_samples"] == 0
    coarse, fine = found["points"]
    assert coarse["depth"] < fine["depth"]
    assert 0.9 < coarse["accuracy"]["agreement"] <= fine["accuracy"]["agreement"]
    assert fine["accuracy"]["accuracy"] > found["tested"]["model_accuracy"] - 0.02

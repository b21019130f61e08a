"""The zoo: what is shipped loads and classifies well, and the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from models.zoo.__main__ import main
from models.zoo.catalogue import CATALOGUE, FOLDER, SHIPPED, shipped_path
from models.zoo.samples import CALIBRATION, FILES, KINDS, load_samples

ROOT = Path(__file__).resolve().parents[2]
SHAPES = {
    "digits": (1, 8, 8),
    "large_digits": (1, 28, 28),
    "signals": (1, 64),
    "features": (64,),
}
ACCURACY = 0.95
RESTORED = 0.04  # mean |error| of an autoencoder on [-1, 1]


def run(name: str) -> NDArray[np.float32]:
    """What is compiled, over the test samples; if it is no output of the model, cut out of it."""
    entry, model = CATALOGUE[name], onnx.load(shipped_path(name))
    if entry.output not in [output.name for output in model.graph.output]:
        model.graph.output.append(onnx.ValueInfoProto(name=entry.output))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    test = load_samples(CATALOGUE[name].samples).test
    found = [session.run([entry.output], {entry.input: x[None]})[0] for x in test]
    return np.concatenate(found)


@pytest.mark.parametrize("name", SHIPPED)
def test_signature(name: str) -> None:
    entry, model = CATALOGUE[name], onnx.load(shipped_path(name))
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(shipped_path(name))
    (given,) = session.get_inputs()
    assert (given.name, given.shape) == (entry.input, [1, *SHAPES[entry.samples]])
    assert given.type == "tensor(float)"
    names = [output.name for output in session.get_outputs()]
    if entry.made_by == "sklearn":
        assert names == ["label", "probabilities"]
    else:
        assert names == [entry.output]


@pytest.mark.parametrize("name", SHIPPED)
def test_accuracy(name: str) -> None:
    samples, output = load_samples(CATALOGUE[name].samples), run(name)
    if CATALOGUE[name].classifies:
        assert (output.argmax(axis=1) == samples.label).mean() >= ACCURACY
    else:
        assert np.abs(output - samples.test).mean() <= RESTORED


@pytest.mark.parametrize("kind", KINDS)
def test_samples(kind: str) -> None:
    samples = load_samples(kind)
    for array in (samples.calibration, samples.test):
        assert (array.dtype.name, array.shape[1:]) == ("float32", SHAPES[kind])
        assert array.min() >= -1
        assert array.max() <= 1
        assert np.array_equal(array, np.rint(64 * array) / 64)
    assert samples.label.shape == (len(samples.test),)
    seen = {sample.tobytes() for sample in samples.calibration}
    assert len(seen) == len(samples.calibration) >= 200
    assert not any(sample.tobytes() in seen for sample in samples.test)
    counts = np.bincount(samples.label)
    assert counts.min() >= 34
    assert len(counts) == (4 if kind == "signals" else 10)


def test_calibration_files_are_what_the_code_makes(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn holds the original images")
    from models import digits
    from models.zoo.samples import write_calibration

    write_calibration(digits.load_data().train_image, tmp_path)
    for kind in FILES:
        with (
            np.load(CALIBRATION[kind]) as stored,
            np.load(tmp_path / CALIBRATION[kind].name) as new,
        ):
            assert stored.files == new.files
            for name in stored.files:
                np.testing.assert_array_equal(stored[name], new[name])


def test_what_is_shipped_is_small() -> None:
    sizes = [path.stat().st_size for path in FOLDER.iterdir() if path.is_file()]
    assert max(sizes) < 300_000
    assert sum(sizes) < 3_000_000
    onnx_files = {path.stem for path in FOLDER.glob("*.onnx")}
    assert onnx_files == set(SHIPPED)


def test_list_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [[n, e.samples] for n, e in CATALOGUE.items()]


def test_export_of_a_shipped_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "network.onnx"
    assert main(["export", "cnn_1d", "--out", str(path)]) == 0
    blob = shipped_path("cnn_1d").read_bytes()
    assert path.read_bytes() == blob
    assert capsys.readouterr().out == f"network.onnx: {len(blob)} bytes\n"


def test_data_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.npz"
    assert main(["data", "silu_cnn", "--out", str(path)]) == 0
    assert capsys.readouterr().out == "data.npz: 479 samples to calibrate, 360 to test\n"
    samples = load_samples("digits")
    with np.load(path) as data:
        np.testing.assert_array_equal(data["image"], samples.calibration)
        np.testing.assert_array_equal(data["test"], samples.test)
        np.testing.assert_array_equal(data["label"], samples.label)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["export", "lenet", "--out", "x.onnx"], "invalid choice: 'lenet'"),
        (["train", "lola"], "not trained here: lola"),
    ],
)
def test_unknown_networks(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert text in capsys.readouterr().err


def test_data_needs_no_heavy_package() -> None:
    code = (
        "import sys, models.zoo.__main__\n"
        "print({'torch', 'onnx', 'onnxruntime', 'sklearn'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"

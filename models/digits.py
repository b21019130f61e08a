"""Handwritten digits: data, command line and accuracy of the two shipped classifiers.

    python -m models.digits train --out models
    python -m models.digits evaluate models/digits_cnn.onnx

The data are the 1797 images of 8 x 8 pixels that scikit-learn bundles (Alpaydin and Kaynak,
"Optical Recognition of Handwritten Digits", UCI). A pixel p in 0..16 becomes p / 8 - 1, so that
inputs fill [-1, 1]. The split is stratified with seed 0: 1437 images to train, 360 to test; the
calibration set is the first ten training images of each class.

`train` writes four files: `digits_mlp.onnx` and `digits_cnn.onnx` (input `image`, 1 x 1 x 8 x 8;
output `logits`, 1 x 10), `digits_test.npz` (`image`, `label`) and `digits_calibration.npz`
(`image`). It needs torch and scikit-learn; `evaluate` needs only onnxruntime.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from models.digits_networks import DigitsCNN, DigitsMLP

__all__ = ["DigitsCNN", "DigitsData", "DigitsMLP", "load_data", "measure_accuracy", "train"]

MINIMUM_ACCURACY = 0.96
TEST_IMAGES = 360
CALIBRATION_PER_CLASS = 10
EPOCHS = {"mlp": 80, "cnn": 60}


class DigitsData(NamedTuple):
    """The fixed split; images are float32, n x 1 x 8 x 8, labels int64, n."""

    train_image: NDArray[np.float32]
    train_label: NDArray[np.int64]
    test_image: NDArray[np.float32]
    test_label: NDArray[np.int64]
    calibration_image: NDArray[np.float32]


def __getattr__(name: str) -> Any:
    # The definitions need torch at import time, reading accuracies does not: import on first use.
    if name in ("DigitsMLP", "DigitsCNN"):
        from models import digits_networks

        return getattr(digits_networks, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_data() -> DigitsData:
    """Load scikit-learn's digits and split them."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 8.0 - 1.0).astype(np.float32).reshape(-1, 1, 8, 8)
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels.astype(np.int64), test_size=TEST_IMAGES, stratify=labels, random_state=0
    )
    first = [np.flatnonzero(train_y == digit)[:CALIBRATION_PER_CLASS] for digit in range(10)]
    return DigitsData(train_x, train_y, test_x, test_y, train_x[np.sort(np.concatenate(first))])


def train(out: Path, seed: int = 0) -> dict[str, float]:
    """Train both networks, write the four files to `out`, return test accuracy by network name.

    The network written is the last epoch's: the test split chooses nothing.
    """
    import torch

    from models import digits_networks, torch_export

    torch.set_num_threads(1)
    data = load_data()
    out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out / "digits_test.npz", image=data.test_image, label=data.test_label)
    np.savez_compressed(out / "digits_calibration.npz", image=data.calibration_image)
    accuracies: dict[str, float] = {}
    for name, network_class in digits_networks.NETWORKS.items():
        network = digits_networks.train_network(
            network_class, data.train_image, data.train_label, seed=seed, epochs=EPOCHS[name]
        )
        path = out / f"digits_{name}.onnx"
        torch_export.export_onnx(network, torch.zeros(1, 1, 8, 8), path, "logits")
        accuracies[name] = digits_networks.measure_accuracy(
            network, data.test_image, data.test_label
        )
        peak = torch_export.find_peak_value(network, torch.from_numpy(data.test_image))
        leading = digits_networks.smallest_leading_coefficient(network)
        print(
            f"{path.name}: accuracy {accuracies[name]:.4f}, largest |value| {peak:.1f}, "
            f"smallest |a| {leading:.3f}, {path.stat().st_size} bytes"
        )
    return accuracies


def measure_accuracy(model: Path, images: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the fraction of `images` (n x 1 x 8 x 8) that the ONNX file classifies as `labels`."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    # The files have batch size 1, as a ciphertext holds one image.
    logits = [session.run(["logits"], {"image": image[None]})[0][0] for image in images]
    return float((np.argmax(logits, axis=1) == labels).mean())


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns 0, or 1 when an accuracy is below the minimum."""
    parser = argparse.ArgumentParser(prog="python -m models.digits")
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train both networks and write the files")
    training.add_argument("--out", type=Path, default=Path("models"), help="folder to write to")
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("-q", "--quiet", action="store_true", help="no line per epoch")
    evaluation = commands.add_parser("evaluate", help="accuracy of an ONNX file on the test split")
    evaluation.add_argument("model", type=Path)
    evaluation.add_argument(
        "--data", type=Path, help="npz with image and label (default: digits_test.npz beside model)"
    )
    for command in (training, evaluation):
        command.add_argument("--minimum", type=float, default=MINIMUM_ACCURACY)
    options = parser.parse_args(arguments)

    if options.command == "train":
        level = logging.WARNING if options.quiet else logging.INFO
        logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
        return 0 if min(train(options.out, options.seed).values()) >= options.minimum else 1
    data_path: Path = options.data or options.model.with_name("digits_test.npz")
    for path in (options.model, data_path):
        if not path.is_file():
            parser.error(f"no such file: {path}")
    with np.load(data_path) as data:
        images, labels = data["image"], data["label"]
    accuracy = measure_accuracy(options.model, images, labels)
    print(f"{options.model.name}: accuracy {accuracy:.4f} on {len(labels)} images")
    return 0 if accuracy >= options.minimum else 1


if __name__ == "__main__":
    sys.exit(main())

"""What adaptation does to two digits networks: accuracy and depth before and after.

    python -m models.adapt_digits --out FOLDER

Trains `relu_cnn` (two convolutions with ReLU and max pools; what a tutorial ends with) and takes
`silu_cnn` of the zoo's definitions, adapts both with each replacement, and writes the ONNX files
`NAME.onnx`, `NAME_polynomial.onnx` and `NAME_herpn.onnx`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import nn

from models import adapt, digits, torch_export
from models.digits_networks import measure_accuracy
from models.zoo.networks import convolve, silu_cnn
from models.zoo.train import training_data
from models.zoo.training import train_network

EPOCHS, TUNING_EPOCHS = 15, 10


def relu_cnn() -> nn.Module:
    """1 -> 8 at 8 x 8, 16 at 4 x 4, each with a ReLU and a max pool."""
    return nn.Sequential(
        convolve(1, 8),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        convolve(8, 16),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {"relu_cnn": relu_cnn, "silu_cnn": silu_cnn}


def adapt_digits(
    name: str, folder: Path, epochs: int = EPOCHS, tuning_epochs: int = TUNING_EPOCHS
) -> dict[str, float]:
    """Train a network, adapt it in every way and write all of them; accuracies by file stem."""
    torch.manual_seed(0)
    images, labels = training_data("digits")
    network = train_network(NETWORKS[name](), images, labels, seed=0, epochs=epochs)
    variants = {name: network}
    for replacement in get_args(adapt.Replacement):
        variants[f"{name}_{replacement}"] = adapt.adapt(
            network, images, labels, replacement=replacement, epochs=tuning_epochs
        )
    data, found = digits.load_data(), {}
    for stem, variant in variants.items():
        path = folder / f"{stem}.onnx"
        torch_export.export_onnx(variant, torch.from_numpy(images[:1]), path, "logits")
        found[stem] = measure_accuracy(variant, data.test_image, data.test_label)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m models.adapt_digits")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in NETWORKS:
        for stem, accuracy in adapt_digits(name, options.out).items():
            print(f"{stem + '.onnx':26} accuracy {np.round(100 * accuracy, 2):.2f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())

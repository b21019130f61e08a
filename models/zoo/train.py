"""Trains the zoo's torch networks and writes their ONNX files.

Digits are seen as they are and with three random shifts, enlarged ones with four places and noises;
the last epoch's weights are taken, the test samples choose nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models import digits, torch_export
from models.digits_networks import shift_randomly
from models.zoo import networks, training
from models.zoo.catalogue import CATALOGUE
from models.zoo.large_digits import enlarge_digits
from models.zoo.samples import TRAINING_SEED, load_samples
from models.zoo.signals import draw_signals

VARIANTS = 4
TRAINING_SIGNALS = 3000
EPOCHS = {"digits_relu_mlp": 40, "transformer": 40}
OTHER_EPOCHS = 15


def training_data(kind: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return inputs of this kind to train with, and their classes."""
    if kind == "signals":
        return draw_signals(TRAINING_SIGNALS, TRAINING_SEED)
    data = digits.load_data()
    if kind == "large_digits":
        seeds = range(TRAINING_SEED, TRAINING_SEED + VARIANTS)
        variants = [enlarge_digits(data.train_image, seed) for seed in seeds]
    else:
        image = torch.from_numpy(data.train_image)
        shifted = [shift_randomly(image).numpy() for _ in range(VARIANTS - 1)]
        variants = [data.train_image, *shifted]
    return np.concatenate(variants), np.tile(data.train_label, VARIANTS)


def train(name: str, folder: Path, seed: int = 0, epochs: int | None = None) -> float:
    """Train a network and write `name`.onnx.

    Args:
        name: one of `models.zoo.networks.NETWORKS`.
        folder: to write to.
        seed: the same gives the same network.
        epochs: passes over the data, by default what the shipped networks had.

    Returns:
        The accuracy on the test samples; of the autoencoder the mean |error|.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    entry = CATALOGUE[name]
    network = networks.NETWORKS[name]()
    inputs, labels = training_data(entry.samples)
    training.train_network(
        network,
        inputs,
        labels if entry.classifies else None,
        seed=seed,
        epochs=epochs or EPOCHS.get(name, OTHER_EPOCHS),
    )
    example = torch.from_numpy(inputs[:1])
    torch_export.export_onnx(network, example, folder / f"{name}.onnx", entry.output)
    return measure(network, name)


def measure(network: nn.Module, name: str) -> float:
    """Return the accuracy on the test samples; of the autoencoder the mean |error|."""
    samples = load_samples(CATALOGUE[name].samples)
    with torch.no_grad():
        output = network(torch.from_numpy(samples.test)).numpy()
    if not CATALOGUE[name].classifies:
        return float(np.abs(output - samples.test).mean())
    return float((output.argmax(axis=1) == samples.label).mean())

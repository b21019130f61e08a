"""The two digit classifiers in torch, and their training.

Every activation is a trainable quadratic per channel,

    q(x) = a x^2 + b x + c,

behind a batch norm. Under encryption that is one multiplication deep, where a ReLU has to be
approximated. The batch norm is what makes it trainable: it keeps x near unit variance, so that
x^2 neither explodes nor vanishes from layer to layer.

Two terms of the loss care for the encrypted evaluation, next to cross-entropy:

    RANGE_PENALTY  * sum over batch norm outputs of mean( max(|x| - RANGE_LIMIT, 0)^2 )
    SHAPE_PENALTY  * sum over quadratics of mean( (a - a0)^2 + (b - b0)^2 + (c - c0)^2 )

The first bounds what must fit between the CKKS scale and the modulus. The second keeps a away
from zero, where the division by a (or sqrt|a|) of later rewrites would be ill conditioned;
(a0, b0, c0) = (1/4, 1/2, 1/10) is close to the best quadratic for ReLU on [-2, 2].
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.range_penalty import RangePenalty

INITIAL_QUADRATIC = (0.25, 0.5, 0.1)
RANGE_LIMIT = 2.5
RANGE_PENALTY = 1.0
SHAPE_PENALTY = 0.03

_log = logging.getLogger(__name__)


class Quadratic(nn.Module):
    """a x^2 + b x + c with one (a, b, c) per channel, the channel being axis 1 of the input.

    `spatial_axes` is the number of axes after the channel: 0 after a linear layer, 2 after a
    convolution.
    """

    def __init__(self, channels: int, spatial_axes: int) -> None:
        super().__init__()
        shape = (channels, *(1 for _ in range(spatial_axes)))
        a, b, c = INITIAL_QUADRATIC
        self.a = nn.Parameter(torch.full(shape, a))
        self.b = nn.Parameter(torch.full(shape, b))
        self.c = nn.Parameter(torch.full(shape, c))

    def forward(self, x: Tensor) -> Tensor:
        return self.a * (x * x) + self.b * x + self.c

    def shape_penalty(self) -> Tensor:
        """Mean squared distance of the coefficients from `INITIAL_QUADRATIC`."""
        pairs = zip((self.a, self.b, self.c), INITIAL_QUADRATIC, strict=True)
        return torch.stack([(p - start).square().mean() for p, start in pairs]).sum()


class DigitsMLP(nn.Module):
    """64 - 64 - 32 - 10, with a batch norm and a quadratic after each hidden layer.

    Input 1 x 1 x 8 x 8, output 1 x 10 logits. Multiplicative depth 5 once each batch norm is
    folded into its linear layer: three linear maps and two quadratics.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 64),
            nn.BatchNorm1d(64),
            Quadratic(64, spatial_axes=0),
            nn.Linear(64, 32),
            nn.BatchNorm1d(32),
            Quadratic(32, spatial_axes=0),
            nn.Linear(32, 10),
        )

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.layers(image)
        return logits


class DigitsCNN(nn.Module):
    """Two convolutions (1 -> 8, then 8 -> 16 with stride 2), average pool 2 x 2, linear layer.

    Input 1 x 1 x 8 x 8, output 1 x 10 logits. Multiplicative depth 5 once batch norms are folded
    and pool, flatten and the linear layer are one linear map.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            Quadratic(8, spatial_axes=2),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            Quadratic(16, spatial_axes=2),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(64, 10),
        )

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.layers(image)
        return logits


NETWORKS: dict[str, type[nn.Module]] = {"mlp": DigitsMLP, "cnn": DigitsCNN}


def train_network(
    network_class: type[nn.Module],
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    seed: int,
    epochs: int,
    batch_size: int = 64,
) -> nn.Module:
    """Return a trained network in eval mode; the same seed gives the same network.

    `images` is n x 1 x 8 x 8, `labels` n class numbers.
    """
    torch.manual_seed(seed)
    network = network_class()
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    matrices = [m.weight for m in network.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    decayed = {id(p) for p in matrices}
    others = [p for p in network.parameters() if id(p) not in decayed]
    # Weight decay is for matrices and kernels; on the quadratics it would pull a towards zero.
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    )
    steps = -(-len(x) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=1e-2, epochs=epochs, steps_per_epoch=steps
    )
    quadratics = [m for m in network.modules() if isinstance(m, Quadratic)]
    excess = RangePenalty()
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            excess.watch_output(module, RANGE_LIMIT)
    network.train()
    for epoch in range(epochs):
        loss_sum = 0.0
        for index in torch.randperm(len(x)).split(batch_size):
            logits = network(shift_randomly(x[index]))
            loss = functional.cross_entropy(logits, y[index], label_smoothing=0.05)
            shape = torch.stack([q.shape_penalty() for q in quadratics]).sum()
            total = loss + RANGE_PENALTY * excess.take() + SHAPE_PENALTY * shape
            optimiser.zero_grad()
            total.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            loss_sum += float(loss.detach()) * len(index)
        _log.info("epoch %d of %d: loss %.4f", epoch + 1, epochs, loss_sum / len(x))
    excess.remove()
    return network.eval()


def measure_accuracy(
    network: nn.Module, images: NDArray[np.float32], labels: NDArray[np.int64]
) -> float:
    """Return the fraction of `images` (n x 1 x 8 x 8) that `network` classifies as `labels`."""
    network.eval()
    with torch.no_grad():
        predicted = network(torch.from_numpy(images)).argmax(dim=1).numpy()
    return float((predicted == labels).mean())


def smallest_leading_coefficient(network: nn.Module) -> float:
    """Return min |a| over all channels of all quadratics of `network`."""
    quadratics = [m for m in network.modules() if isinstance(m, Quadratic)]
    return min(float(q.a.detach().abs().min()) for q in quadratics)


def shift_randomly(images: Tensor) -> Tensor:
    """Move each image by -1, 0 or 1 pixel in each direction; half of the images stay."""
    padded = functional.pad(images, (1, 1, 1, 1), value=-1.0)
    rows, columns = torch.randint(0, 3, (2, len(images)))
    stay = torch.rand(len(images)) < 0.5
    rows[stay], columns[stay] = 1, 1
    shifted = [
        image[:, r : r + 8, c : c + 8]
        for image, r, c in zip(padded, rows.tolist(), columns.tolist(), strict=True)
    ]
    return torch.stack(shifted)

"""Training of the zoo's networks, so that their activations stay in a narrow range.

The loss is cross-entropy with smoothed labels (of the autoencoder the mean squared error) plus

    RANGE_PENALTY * sum over activations of mean( max(|x| - RANGE_LIMIT, 0)^2 )

with x what goes into the ReLU, SiLU, GELU or softmax, and, where there are layer norms, the same of
the logarithm of the variance of what they divide by its root. Both are what a polynomial has to be
precise on.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.range_penalty import RangePenalty

RANGE_LIMIT = 1.5
VARIANCE_LIMIT = 0.7
RANGE_PENALTY = 100.0
LABEL_SMOOTHING = 0.1
ACTIVATIONS = (nn.ReLU, nn.SiLU, nn.GELU, nn.Softmax)

_log = logging.getLogger(__name__)


def penalise_ranges(network: nn.Module, limit: float = RANGE_LIMIT) -> RangePenalty:
    """Watches what goes into activations, and the variances that layer norms divide by."""
    penalty = RangePenalty()
    for module in network.modules():
        if isinstance(module, ACTIVATIONS):
            penalty.watch_input(module, limit)
        elif isinstance(module, nn.LayerNorm):
            penalty.watch_input(module, VARIANCE_LIMIT, _logarithm_of_variance)
    return penalty


def _logarithm_of_variance(x: Tensor) -> Tensor:
    return x.var(dim=-1, unbiased=False).log()


def train_network(
    network: nn.Module,
    samples: NDArray[np.float32],
    labels: NDArray[np.int64] | None,
    *,
    seed: int,
    epochs: int,
    rate: float = 1e-2,
    range_limit: float = RANGE_LIMIT,
    batch_size: int = 64,
) -> nn.Module:
    """Trains in place and returns the network in eval mode; the same seed gives the same weights.

    Args:
        network: its weights are where training starts.
        samples: n x the shape of an input.
        labels: n class numbers; None: the network is to give its input back.
        seed: of the order of samples.
        epochs: passes over all samples.
        rate: the largest learning rate.
        range_limit: of the inputs of activations.
        batch_size: of a step.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.from_numpy(samples)
    y = None if labels is None else torch.from_numpy(labels)
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    )
    steps = -(-len(x) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=rate, epochs=epochs, steps_per_epoch=steps
    )
    penalty = penalise_ranges(network, range_limit)
    network.train()
    for epoch in range(epochs):
        total = 0.0
        for index in torch.randperm(len(x), generator=generator).split(batch_size):
            output = network(x[index])
            if y is None:
                loss = functional.mse_loss(output, x[index])
            else:
                loss = functional.cross_entropy(output, y[index], label_smoothing=LABEL_SMOOTHING)
            optimiser.zero_grad()
            (loss + RANGE_PENALTY * penalty.take()).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(index)
        _log.info("epoch %d of %d: loss %.4f", epoch + 1, epochs, total / len(x))
    penalty.remove()
    return network.eval()
